"""Phases of packages that come with a `configure` script or a makefile."""

from mmojo_forge.recipe import quote
from recipes.lib.zig import system_row

# The times of files stay, all the same: otherwise make would run autoconf again, which is not there.
COPY = """
cp -a /forge/source /build/b
chmod -R u+w /build/b
cd /build/b
"""
# For packages that are not made by autoconf; the files are as old as the build.
NEW_COPY = """
cp -r /forge/source /build/b
chmod -R u+w /build/b
cd /build/b
"""


def configure(*options, system="linux-x86_64", copy=COPY):
    """The phase that configures a copy of /forge/source, and leaves the shell there: /build/b.

    The package will believe that it lies at /. For another system than the machine's own, the script is told its name.
    """
    words = [*host_options(system), "--prefix=/", *options]
    return f"{copy}./configure {' '.join(quote(word) for word in words)}"


def host_options(system):
    """How a configure script is told the system; nothing for the machine's own."""
    return () if system.startswith("linux-x86_64") else ("--build=x86_64-linux-gnu", f"--host={system_row(system).host}")


def make(*words):
    """The phase that runs make on all cores the build has; `words` are targets and `NAME=value`."""
    return " ".join(('make -j"$FORGE_JOBS"', *(quote(word) for word in words)))


def make_install(*words):
    """The phase that runs `make install` (or the targets named) into /forge/out/out: bin, lib, include."""
    return " ".join(("make DESTDIR=/forge/out/out", *(quote(word) for word in words or ("install",))))
