from mmojo_forge.recipe import Debian, Spec, recipe, unpack

# What build scripts may take for granted: a POSIX shell and its tools, make, patch, and the two languages that
# build systems are written in. No compiler: those are toolchains of their own.
PACKAGES = (
    "bash",
    "coreutils",
    "dash",
    "diffutils",
    "file",
    "findutils",
    "gawk",
    "grep",
    "gzip",
    "libc-bin",
    "libstdc++6",  # the CMake of the Python package index is linked to it
    "make",
    "patch",
    "perl",
    "python3-minimal",
    "python3",
    "sed",
    "tar",
    "xz-utils",
)


@recipe("userland")
def userland() -> Spec:
    """Debian 12's shell, coreutils, make, patch, perl and python, as one tree that sandboxes show at /usr."""
    return unpack(
        "userland",
        Debian("base", "bookworm", PACKAGES),
        debian_usr=True,
        exclude=(
            "usr/share/doc",
            "usr/share/info",
            "usr/share/lintian",
            "usr/share/locale",
            "usr/share/man",
            "usr/lib/python3*/sitecustomize.py",  # a link to /etc, which sandboxes do not have
        ),
        symlinks={"bin/awk": "gawk"},
    )
