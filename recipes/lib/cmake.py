"""Phases of packages that are built with CMake and ninja, which come as inputs `cmake` and `ninja`."""

from mmojo_forge.recipe import quote
from recipes.lib.zig import system_row

NINJA = "-DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja"

# Sources here have no git metadata, and no version is to be made of what CMake finds instead.
NO_GIT = ("-DCMAKE_DISABLE_FIND_PACKAGE_Git=ON", "-DGIT_EXECUTABLE=", "-DGIT_EXE=GIT_EXE-NOTFOUND")


def command(source, flags):
    """The command that configures the source at a path for ninja, at /build/b; a flag a line."""
    words = (f"/forge/cmake/bin/cmake -S {source} -B /build/b -G Ninja", *(quote(flag) for flag in flags))
    return " \\\n    ".join(words)


def configure(*options, system="linux-x86_64", source="/forge/source"):
    """The phase that configures a package for a system with the compilers of `zig_build`, to be installed at /."""
    flags = (
        NINJA,
        "-DCMAKE_BUILD_TYPE=Release",
        *system_flags(system),
        *tool_flags("/forge/shims/cc", "/forge/shims/c++", "/forge/shims/ar", "/forge/shims/ranlib", asm=True),
        "-DCMAKE_RC_COMPILER=/forge/shims/rc",
        "-DCMAKE_INSTALL_PREFIX=/",
        "-DCMAKE_INSTALL_LIBDIR=lib",
        # Programs come from where the build runs; libraries and headers only from where `options` say.
        "-DCMAKE_FIND_ROOT_PATH_MODE_PROGRAM=NEVER",
        "-DCMAKE_SKIP_RPATH=ON",
        *NO_GIT,
        *options,
    )
    return command(source, flags)


def ninja_build(*targets):
    """The phase that builds targets, all if none is named, on all cores the build has."""
    return " ".join(('/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS"', *targets))


def ninja_install():
    """The phase that installs what was built into /forge/out/out."""
    return "DESTDIR=/forge/out/out /forge/ninja/ninja -C /build/b install"


def system_flags(system):
    """What CMake calls the system that is compiled for: with its name set, CMake runs nothing that it compiled."""
    name, processor = system_row(system).cmake
    return f"-DCMAKE_SYSTEM_NAME={name}", f"-DCMAKE_SYSTEM_PROCESSOR={processor}"


def tool_flags(cc, cxx, ar, ranlib, asm=False):
    """Which compilers CMake takes, and which tools for archives."""
    assembler = (f"-DCMAKE_ASM_COMPILER={cc}",) if asm else ()
    compilers = (f"-DCMAKE_C_COMPILER={cc}", f"-DCMAKE_CXX_COMPILER={cxx}", *assembler)
    return (*compilers, f"-DCMAKE_AR={ar}", f"-DCMAKE_RANLIB={ranlib}")


def built_tools():
    """The compilers and tools that `script_text` of zig.py makes, for CMake."""
    return "/build/bin/cc", "/build/bin/c++", "/build/bin/ar", "/build/bin/ranlib"


def compile_flags(text):
    """What every C and C++ file is compiled with, beside what the package says."""
    return f"-DCMAKE_C_FLAGS={text}", f"-DCMAKE_CXX_FLAGS={text}"


def no_paths(**names):
    """Compiler options that put a name in the place of each input's path: `no_paths(source="llama.cpp")`. The folder
    that is built in becomes a dot."""
    given = {"/build/b": ".", **{f"/forge/{name}": word for name, word in names.items()}}
    return " ".join(f"-ffile-prefix-map={path}={word}" for path, word in given.items())
