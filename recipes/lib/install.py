"""Phases at the end of a build: what is installed, without what nobody needs, and checks of it."""

from mmojo_forge.recipe import quote


def install(programs=(), libraries=(), headers=(), files=()):
    """The phase that copies what was built, by paths from where the shell is, for packages that cannot install."""
    kinds = {"bin": programs, "lib": libraries, "include": headers, ".": files}
    return "\n".join(
        f"mkdir -p /forge/out/out/{folder}\ncp -R {' '.join(quote(path) for path in paths)} /forge/out/out/{folder}"
        for folder, paths in kinds.items()
        if paths
    )


# libtool's .la files and what pkg-config reads have paths in them: the former go, the latter become relative.
TIDY = r"""
cd /forge/out/out
rm -rf share/doc share/info share/man share/locale
find . -name '*.la' -delete
find . -name '*.pc' -exec sed -i \
    's|^prefix=.*|prefix=${pcfiledir}/../..|; s|^exec_prefix=.*|exec_prefix=${prefix}|; s|dir=//*|dir=${prefix}/|' {} +
find . -depth -type d -empty -delete
"""


def no_sandbox_paths(pattern, what):
    """Shell text that fails the build if a file of the shell pattern has a path of the sandbox in it."""
    return f"""
if grep -a -l -e /build/ -e /forge/ {pattern}; then
    echo 'paths of the sandbox got into the {what} above' >&2
    exit 1
fi
"""


def tidy():
    """The phase that removes manuals, translations and libtool's files from /forge/out/out, makes pkg-config's files
    relative to where they lie, and fails if a path of the sandbox got into any file."""
    return f"{TIDY}{no_sandbox_paths('-r .', 'files')}"
