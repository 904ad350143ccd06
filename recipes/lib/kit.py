"""llama.cpp's other programs, which are parts of the builds of mmojo-server and come out of them."""

from mmojo_forge.recipe import Package
from recipes.lib.cpu_levels import LEVELS
from recipes.lib.ran import DEBIAN, QEMU, WINE

SLICES = tuple(f"{system}-{level}" for system, levels in LEVELS.items() for level in levels)

# The builds of mmojo-server that have a program of which the speed depends on the CPU.
ALL = (*SLICES, "native", "native-openblas", "debug", "plain", "hosts", "vulkan", "cuda", "cuda-quick")
# Of the others there is one for each system: the one for its first level.
ONE_PER_SYSTEM = ("linux-x86_64-v2", "linux-aarch64-v80", "windows-x86_64-v2", "macos-aarch64-m1", "native", "debug")

# Where all of them have been run; those for Linux with glibc nobody has.
RAN_ON = {"linux-x86_64": DEBIAN, "linux-aarch64": QEMU, "windows-x86_64": WINE, "macos-aarch64": "built, never run"}


def variants_of(names):
    """The variants of a program: for each build, the option `of` with its name."""
    return {name: {"of": name} for name in names}


def program_of(build, program):
    """The program, as it is built with mmojo-server."""
    return Package(f"mmojo-server.{build}").with_options(program=program)


def ran(program, names, more=None):
    """Where the program's targets have been run: those of the builds `names`, and what else is known."""
    known = {name: place for name in names for system, place in RAN_ON.items() if is_for(name, system)}
    known = {"ape": DEBIAN, **known, "native": DEBIAN, "debug": DEBIAN, **(more or {})}
    return {f"{program}.{name}": place for name, place in known.items()}


def is_for(build, system):
    """Whether a build is one for a CPU level of the system."""
    return build.rpartition("-")[0] == system
