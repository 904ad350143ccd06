"""What the builds of OpenSSL have in common, whatever compiles it."""

from mmojo_forge.recipe import quote
from recipes.lib.autotools import NEW_COPY
from recipes.lib.install import no_sandbox_paths


def compiled(options, variables=""):
    """The phase that configures for $NAME and compiles the two libraries; `variables` are words for the last make."""
    return f"""
set -- {" ".join(quote(option) for option in options)}
{NEW_COPY}perl Configure "$NAME" "$@"
make -j"$FORGE_JOBS" build_generated
make -j"$FORGE_JOBS"{variables} libcrypto.a libssl.a
"""


INSTALL = f"""
mkdir -p /forge/out/out/include/openssl /forge/out/out/lib
cp include/openssl/*.h /forge/out/out/include/openssl
cp libcrypto.a libssl.a /forge/out/out/lib
cp LICENSE.txt /forge/out/out{no_sandbox_paths("/forge/out/out/lib/*", "libraries")}"""
