"""Stand-ins for what is built with cosmocc, and for what else that takes: recipes in a workspace of a test's own."""

from __future__ import annotations

from pathlib import Path

_HEAD = """
from mmojo_forge.recipe import Package, Spec, build, recipe
"""

_OPENSSL = r'''
# What OpenSSL's Configure does as far as recipes/openssl-cosmo relies on it: it takes names and options, and leaves a
# Makefile that calls $(CC), $(AR) and $(RANLIB) without a shell between.
CONFIGURE = r"""
mkdir -p /forge/out/out/include/openssl
cd /forge/out/out
echo 'the licence of a stand-in' > LICENSE.txt
echo > include/openssl/ssl.h
cat > Configure <<'END'
open my $makefile, '>', 'Makefile' or die;
print $makefile "build_generated:\n";
foreach my $library ('libcrypto', 'libssl') {
    open my $source, '>', "$library.c" or die;
    print $source "puts(\"$library: @ARGV\");\n";
    print $makefile "$library.a: $library.o\n\t\$(AR) rcs \$@ $library.o\n\t\$(RANLIB) \$@\n";
    print $makefile "$library.o:\n\t\$(CC) -c $library.c -o \$@\n";
}
END
"""


@recipe("openssl.source")
def source(userland: Package) -> Spec:
    """A stand-in for the source of OpenSSL."""
    return build("openssl-source", userland=userland, phases={"write": CONFIGURE})
'''

_LLAMA = r'''
WRITE = r"""
mkdir -p /forge/out/out
echo 'puts("the stand-in of a server");' > /forge/out/out/main.cpp
"""


@recipe("llama-cpp-cosmo")
def llama_cpp_cosmo(userland: Package) -> Spec:
    """A stand-in for the source of llama.cpp."""
    return build("llama-cpp-cosmo", userland=userland, phases={"write": WRITE})
'''

_CMAKE = r'''
# A "configure" that compiles main.cpp at once, by the compilers it is told of, and puts its own arguments after it.
CMAKE = r"""
mkdir -p /forge/out/out/bin
cat > /forge/out/out/bin/cmake <<'END'
#!/bin/sh -eu
mkdir -p /build/b
for argument; do
    echo "# cmake $argument" >> /build/b/arguments
    case $argument in
        -DCMAKE_CXX_COMPILER=*) compiler=${argument#*=} ;;
        -DCMAKE_AR=* | -DCMAKE_RANLIB=* | -DCMAKE_C_COMPILER=*) test -x "${argument#*=}" ;;
    esac
done
cat /forge/openssl/lib/libssl.a /forge/openssl/lib/libcrypto.a > /build/b/libraries
"$compiler" -c /forge/source/main.cpp -o /build/b/main.o
echo "$compiler" > /build/b/compiler
END
chmod 755 /forge/out/out/bin/cmake
"""


@recipe("cmake")
def cmake(userland: Package) -> Spec:
    """A stand-in for CMake."""
    return build("cmake", userland=userland, phases={"write": CMAKE})
'''

_NINJA = r'''
NINJA = r"""
mkdir -p /forge/out/out
cat > /forge/out/out/ninja <<'END'
#!/bin/sh -eu
cd "$2"
mkdir bin
"$(cat compiler)" main.o -o bin/llama-server
cat libraries arguments >> bin/llama-server
echo "# ninja $5" >> bin/llama-server
cat >> bin/llama-server <<'SERVER'
case " $* " in *' --model '*) ;; *) exit ;; esac
python3 -B - "$@" <<'PYTHON'
import http.server, sys

class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"tokens": [], "content": "", "choices": []}')

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
PYTHON
SERVER
END
chmod 755 /forge/out/out/ninja
"""


@recipe("ninja")
def ninja(userland: Package) -> Spec:
    """A stand-in for ninja."""
    return build("ninja", userland=userland, phases={"write": NINJA})
'''

_MODEL = r'''
@recipe("bench-model.tiny")
def model(userland: Package) -> Spec:
    """A stand-in for a model."""
    return build("bench-model", userland=userland, phases={"write": "echo GGUF > /forge/out/out"})
'''

_PAGE = r'''
WRITE = "mkdir -p /forge/out/out\necho '<p>SAYS</p>' > /forge/out/out/index.html"


@recipe("NAME")
def page(userland: Package) -> Spec:
    """A stand-in for a page."""
    return build("NAME", userland=userland, phases={"write": WRITE})
'''

RECIPES = {
    "recipes/openssl": _OPENSSL,
    "recipes/llama-cpp-cosmo": _LLAMA,
    "recipes/llama-ui": _PAGE.replace("NAME", "llama-ui").replace("SAYS", "chat"),
    "recipes/ui-complete": _PAGE.replace("NAME", "ui-complete").replace("SAYS", "complete"),
    "recipes/bench-model": _MODEL,
    "toolchains/cmake": _CMAKE,
    "toolchains/ninja": _NINJA,
}


def write_recipes(root: Path) -> None:
    """Write the stand-ins into the workspace at `root`."""
    for folder, text in RECIPES.items():
        (root / folder).mkdir(parents=True)
        (root / folder / "recipe.py").write_text(_HEAD + text)
