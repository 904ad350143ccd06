from json import dumps, loads
from typing import Literal

from mmojo_forge.recipe import Files, Host, Package, Slice, Spec, build, link_ape, recipe, with_files
from recipes.lib.build_info import INFO, build_infos, join_infos
from recipes.lib.cmake import (
    NINJA,
    NO_GIT,
    built_tools,
    command,
    compile_flags,
    ninja_build,
    no_paths,
    system_flags,
    tool_flags,
)
from recipes.lib.cpu_levels import FEATURES, LEVELS
from recipes.lib.gcc import LINKED_BY_GCC, openblas_core, options_for
from recipes.lib.guard import GUARD, GUARD_FILES, GUARDED_BY_GCC, GUARDED_BY_ZIG
from recipes.lib.llama_cpp import NO_CPU_FEATURES, PROGRAMS, SERVER, TOOLS, off
from recipes.lib.ran import DEBIAN, NEVER_ON_MACOS, QEMU, WINE
from recipes.lib.zig import CACHE, SYSTEMS, WARM_UP, base_of, linked, script_text, suffix_of

# What a system needs of CMake and the compiler beyond its name.
OWN_FLAGS = {
    # The one that loads GPU backends at run time; the static programs start it where there are any.
    "linux-x86_64-gnu": (
        "-DFORGE_LOADS_MODULES=ON",
        "-DCMAKE_C_VISIBILITY_PRESET=hidden",
        "-DCMAKE_CXX_VISIBILITY_PRESET=hidden",
        "-DCMAKE_VISIBILITY_INLINES_HIDDEN=ON",
    ),
    "macos-aarch64": (
        "-DGGML_METAL=OFF",
        "-DGGML_ACCELERATE=OFF",
        "-DCMAKE_OSX_SYSROOT=",
        "-DCMAKE_INSTALL_NAME_TOOL=/bin/true",
        # The keychain is reached by frameworks that zig does not have; /etc/ssl/cert.pem has the system's roots.
        "-DCORE_FOUNDATION_FRAMEWORK=",
        "-DSECURITY_FRAMEWORK=",
    ),
}
DEFINES = {
    "linux-x86_64-gnu": " -DGGML_SHARED",
    "macos-aarch64": " -DCPPHTTPLIB_DISABLE_MACOSX_AUTOMATIC_ROOT_CERTIFICATES",
}
SLICES = {
    f"{system}-{level}": {"system": system, "level": level} for system, levels in LEVELS.items() for level in levels
}

# Not in mmojo-server.ape by themselves: `forge package --module` brings the programs that load modules.
LOADS_MODULES = "linux-x86_64-gnu"

# The web pages of the server, by their name in its file.
PAGES = {"ui/chat": Package("llama-ui"), "ui/complete": Package("ui-complete")}

# What every build of llama.cpp here is configured with, whatever the compiler.
FLAGS = (
    NINJA,
    *NO_GIT,
    "-DBUILD_SHARED_LIBS=OFF",
    *off("NATIVE", "CCACHE"),
    *NO_CPU_FEATURES,
    *SERVER,
    f"-DFORGE_PROGRAMS={';'.join(PROGRAMS.values())}",
    f"-DFORGE_TOOLS={';'.join(TOOLS.values())}",
    "-DFORGE_GUARDS=/build/guards",
    "-DCMAKE_PROJECT_llama.cpp_INCLUDE=/forge/levels/levels.cmake",
)
COMPILE = "-Werror=date-time"

COMPILERS = script_text("-target %s -mcpu=%s -g0 -s", ("ZIG_TARGET", "BASELINE"), ("ar", "ranlib", "rc"))
ZIG_TOOLS = f"""
mkdir -p /build/home /build/bin /build/guards{COMPILERS}
# zig makes libc and libc++ for a target when it first links; at once and on all cores, not in the middle of CMake's probes.{WARM_UP}{GUARDED_BY_ZIG}"""

ZIG_INSTALL = r"""
install_program() { # output, program, what llama.cpp calls it
    mkdir -p "/forge/out/$1/bin"
    cp "/build/b/bin/$3$EXE" "/forge/out/$1/bin/$2$EXE"
}
for level in $LEVELS; do
    suffix=-$level
    if [ "$level" = "$FIRST_LEVEL" ]; then suffix=''; fi
    install_program "$level" mmojo-server "llama-server$suffix"
    for program in llama-bench llama-cli; do install_program "$level-$program" "$program" "$program$suffix"; done
done
for program in llama-quantize llama-gguf-split; do install_program "$program" "$program" "$program"; done
"""


def server_output(level, program):
    return level if program == "mmojo-server" else program if program in TOOLS else f"{level}-{program}"


@recipe(
    "mmojo-server.linux-x86_64",
    variants={name: {"system": name} for name in SYSTEMS if name != "linux-x86_64"},
    group="server",
    ran={
        "mmojo-server.linux-x86_64": f"{DEBIAN}, every level: completions",
        "mmojo-server.linux-x86_64-gnu": f"{DEBIAN}, v3: completions; with a module too, on lavapipe",
        "mmojo-server.linux-aarch64": f"{QEMU}, every level: completions",
        "mmojo-server.windows-x86_64": f"{WINE}, every level: completions",
        "mmojo-server.macos-aarch64": NEVER_ON_MACOS,
    },
)
def system(
    zig: Package,
    cmake: Package,
    ninja: Package,
    userland: Package,
    llama_cpp: Package,
    openssl: Package,
    *,
    system: Literal[
        "linux-x86_64", "linux-x86_64-gnu", "linux-aarch64", "windows-x86_64", "macos-aarch64"
    ] = "linux-x86_64",
) -> Spec:
    """llama-server and its kit for one system, by CPU level; only ggml's CPU backend is compiled for each."""
    levels = LEVELS[system]
    first = next(iter(levels))
    further = ";".join(f"{level}={cpu}" for level, cpu in levels.items() if level != first)
    flags = (
        "-DCMAKE_BUILD_TYPE=Release",
        *system_flags(system),
        *tool_flags(*built_tools(), asm=True),
        "-DCMAKE_RC_COMPILER=/build/bin/rc",
        *compile_flags(f"{COMPILE} {no_paths(source='llama.cpp', zig='zig')}{DEFINES.get(system, '')}"),
        *off("OPENMP", "BLAS"),
        f"-DFORGE_FIRST_LEVEL={first}",
        f"-DFORGE_LEVELS={further}",
        *OWN_FLAGS.get(system, ()),
    )
    outputs = {server_output(level, program): (program, level) for level in levels for program in PROGRAMS}
    outputs = {**outputs, **{program: (program, first) for program in TOOLS}}
    infos = {
        output: {
            "program": program,
            "system": system,
            "compiler": {"name": "zig", "target": SYSTEMS[system].target, "cpu": levels[level]},
            "cmake_flags": [*FLAGS, *flags],
            "cpu": {"level": level, "requires": list(FEATURES[base_of(system)][level])},
            "blas": None,
            "openmp": False,
            "threads": "one per physical core",
            "reproducible": True,
            "reasons": [],
        }
        for output, (program, level) in outputs.items()
    }
    return build(
        f"mmojo-server-{system}",
        userland=userland,
        inputs={
            "zig": zig,
            "cmake": cmake,
            "ninja": ninja,
            "source": llama_cpp,
            "openssl": openssl.with_options(system=system),
            "levels": Files("cmake"),
            **GUARD_FILES,
            **INFO,
        },
        env={
            **CACHE,
            "ZIG_TARGET": SYSTEMS[system].target,
            "BASELINE": levels[first],
            "PLAINEST": SYSTEMS[system].cpu,
            "FIRST_LEVEL": first,
            "LEVELS": " ".join(levels),
            "GUARDED": " ".join(f"{level}={cpu}" for level, cpu in levels.items()),
            "EXE": suffix_of(system),
        },
        outputs=tuple(outputs),
        parallel=True,
        phases={
            "tools": ZIG_TOOLS,
            "configure": command("/forge/source", (*FLAGS, *flags)),
            "compile": ninja_build("forge-all"),
            "install": ZIG_INSTALL,
            "info": build_infos(infos, "/forge/zig/zig cc"),
        },
    ).made_of(GUARD).containing("source", "openssl", "guard", zig=linked(system)).for_systems(base_of(system))


@recipe(
    "mmojo-server.linux-x86_64-v2",
    variants={name: row for name, row in SLICES.items() if name != "linux-x86_64-v2"},
    group="server",
    ran={
        "mmojo-server.linux-x86_64-v2": f"{DEBIAN}: completions",
        "mmojo-server.linux-x86_64-v3": f"{DEBIAN}: completions, pages, https",
        "mmojo-server.linux-x86_64-v4x": f"{DEBIAN}: completions",
        "mmojo-server.linux-aarch64-v80": f"{QEMU}: completions",
        "mmojo-server.linux-aarch64-v82": f"{QEMU}: completions",
        "mmojo-server.linux-aarch64-v86": f"{QEMU}: completions",
        "mmojo-server.windows-x86_64-v2": f"{WINE}: completions",
        "mmojo-server.windows-x86_64-v3": f"{WINE}: completions",
        "mmojo-server.windows-x86_64-v4x": f"{WINE}: completions",
        "mmojo-server.macos-aarch64-m1": NEVER_ON_MACOS,
    },
)
def slice_of(
    userland: Package, *, system: str = "linux-x86_64", level: str = "v2", program: str = "mmojo-server"
) -> Spec | Package:
    """llama-server for one system and CPU level: a single executable, the one to deploy to servers."""
    package = Package("mmojo-server.linux-x86_64").with_options(system=system).output(server_output(level, program))
    # What is written behind a program for macOS voids the signature that it needs.
    if system.startswith("macos"):
        return package
    return with_pages(f"{system}-{level}", package, userland, program, suffix_of(system))


def with_pages(variant, package, userland, program, ending=""):
    """The server of a build with its web pages; other programs as they are."""
    if program != "mmojo-server":
        return package
    path = f"bin/mmojo-server{ending}"
    return with_files(f"mmojo-server-{variant}-paged", userland=userland, program=package, path=path, files=PAGES)


@recipe("mmojo-server.hosts", group="server", ran={"mmojo-server.hosts": f"{DEBIAN}, v3: completions"})
def hosts(userland: Package, *, program: str = "mmojo-server") -> Spec:
    """The programs that a static one starts in its place where there are GPU modules: it cannot load them itself."""
    levels = LEVELS[LOADS_MODULES]
    copies = "".join(f"cp /forge/{level}/bin/{program} /forge/out/out/{program}-{level}\n" for level in levels)
    return build(
        f"{program}-hosts",
        userland=userland,
        inputs={level: loads_modules(level, program) for level in levels},
        phases={"install": f"mkdir /forge/out/out\n{copies}"},
    ).containing(*levels)


def loads_modules(level, program):
    server = Package("mmojo-server.linux-x86_64").with_options(system=LOADS_MODULES)
    return server.output(server_output(level, program))


# As it lies beside its program: docs/modules.md.
GPU_INSTALL = r"""
modules=/forge/out/out/bin/mmojo-server-support/modules/linux-x86_64
mkdir -p "$modules"
cp /forge/program/bin/$PROGRAM /forge/out/out/bin
if [ -f /forge/program/build-info.json ]; then cp /forge/program/build-info.json /forge/out/out; fi
cp -R /forge/module "$modules/$MODULE"
"""


def with_gpu(module, package, userland, level, program):
    """A program for glibc with one GPU backend in the folder beside it."""
    paged = Package("mmojo-server.linux-x86_64-v2").with_options(system=LOADS_MODULES, level=level, program=program)
    return build(
        f"{program}-{module.removeprefix('ggml-')}",
        userland=userland,
        inputs={"program": paged, "module": package},
        env={"PROGRAM": program, "MODULE": module},
        phases={"install": GPU_INSTALL},
    ).containing("program", "module")


@recipe(
    "mmojo-server.cuda",
    variants={"cuda-quick": {"quick": True}},
    group="server",
    ran=dict.fromkeys(
        ("mmojo-server.cuda", "mmojo-server.cuda-quick"),
        f"{DEBIAN}, without a card: completions by the CPU; never on a GPU",
    ),
)
def cuda(
    userland: Package,
    *,
    archs: str = "",
    fa: bool = True,
    quick: bool = False,
    level: Literal["v2", "v3", "v4x"] = "v3",
    program: str = "mmojo-server",
) -> Spec:
    """llama-server for Linux that computes on NVIDIA's GPUs, and on the CPU where there is none; with cuBLAS.

    `archs` are the architectures that there is code for, else the list of ggml-cuda; of `quick`, code that the driver
    compiles at first use. `fa` is flash attention.
    """
    module = Package("ggml-cuda.quick" if quick else "ggml-cuda")
    options = {**({"archs": archs} if archs else {}), "fa": fa}
    return with_gpu("ggml-cuda", module.with_options(**options), userland, level, program)


@recipe(
    "mmojo-server.vulkan",
    group="server",
    ran={"mmojo-server.vulkan": f"{DEBIAN}, on lavapipe, a device made of the CPU: completions; never on a GPU"},
)
def vulkan(
    userland: Package, ggml_vulkan: Package, *, level: Literal["v2", "v3", "v4x"] = "v3", program: str = "mmojo-server"
) -> Spec:
    """llama-server for Linux that computes on any GPU with a Vulkan driver, and on the CPU where there is none."""
    return with_gpu("ggml-vulkan", ggml_vulkan, userland, level, program)


@recipe(
    "mmojo-server.ape",
    group="server",
    ran={
        "mmojo-server.ape": f"{DEBIAN}: completions, pages, https; {WINE}, {QEMU} for arm64: completions; "
        "never on Windows or macOS"
    },
)
def ape(ape: Package, userland: Package, *, program: str = "mmojo-server") -> Spec:
    """The server for all systems and CPU levels in one file that runs everywhere."""
    server = Package("mmojo-server.linux-x86_64")
    slices = {
        f"{system}-{level}": Slice(
            system=system,
            level=level,
            features=features,
            package=server.with_options(system=system).output(server_output(level, program)),
            path=f"bin/{program}{suffix_of(system)}",
        )
        for system, levels in FEATURES.items()
        for level, features in levels.items()
        # Tools are compiled for the plainest level of their system only.
        if program not in TOOLS or level == next(iter(LEVELS[system]))
    }
    return link_ape(
        f"{program}.ape",
        userland=userland,
        launchers=ape,
        program=program,
        slices=slices,
        assets={"build-info.json": "build-info.json", **(PAGES if program == "mmojo-server" else {})},
        inputs=INFO,
        prepare=join_infos(slices),
    ).containing(info=())


GCC_INSTALL = r"""
install_program() { # program, what llama.cpp calls it
    mkdir -p "/forge/out/$1/bin"
    cp "/build/b/bin/$2" "/forge/out/$1/bin/$1"
    if [ "$DEBUG" = no ]; then /forge/gcc/bin/strip "/forge/out/$1/bin/$1"; fi
}
install_program mmojo-server llama-server
for program in llama-bench llama-cli llama-quantize llama-gguf-split; do install_program "$program" "$program"; done
"""


@recipe("mmojo-server.gcc", group="server")
def with_gcc(
    gcc: Package,
    cmake: Package,
    ninja: Package,
    userland: Package,
    llama_cpp: Package,
    openblas: Package,
    *,
    cpu: str = "-march=x86-64-v2",
    blas: str = "",
    lto: bool = False,
    debug: bool = False,
    facts: str = "{}",
) -> Spec:
    """The kit for x86-64 Linux by gcc and OpenMP, for the CPU that the option `cpu` spells out."""
    flags = (
        f"-DCMAKE_BUILD_TYPE={'Debug' if debug else 'Release'}",
        *tool_flags(*(f"/forge/gcc/bin/{tool}" for tool in ("gcc", "g++", "gcc-ar", "gcc-ranlib")), asm=True),
        *compile_flags(f"{COMPILE} {no_paths(source='llama.cpp', gcc='gcc')} {cpu}"),
        "-DCMAKE_EXE_LINKER_FLAGS=-static",
        "-DGGML_OPENMP=ON",
        f"-DGGML_LTO={'ON' if lto else 'OFF'}",
        f"-DGGML_BLAS={'ON' if blas else 'OFF'}",
        *(("-DGGML_BLAS_VENDOR=OpenBLAS", "-DCMAKE_MODULE_PATH=/forge/blas") if blas else ()),
        "-DFORGE_FIRST_LEVEL=cpu",
    )
    outputs = (*PROGRAMS, *TOOLS)
    infos = {
        program: {
            "program": program,
            "system": "linux-x86_64",
            "compiler": {"name": "gcc", "target": "x86_64-linux-gnu", "cpu": cpu},
            "cmake_flags": [*FLAGS, *flags],
            "cpu": {"flags": cpu.split(), **({"facts": loads(facts)} if facts != "{}" else {})},
            "blas": f"OpenBLAS 0.3.21 ({blas})" if blas else None,
            "openmp": True,
            "threads": loads(facts).get("cpu.cores", "one per physical core"),
            "reproducible": facts == "{}",
            "reasons": [f"compiled for this machine's {name}" for name in loads(facts)],
        }
        for program in outputs
    }
    spec = build(
        "mmojo-server-gcc",
        userland=userland,
        inputs={
            "gcc": gcc,
            "cmake": cmake,
            "ninja": ninja,
            "source": llama_cpp,
            "openssl": Package("openssl.gcc"),
            "levels": Files("cmake"),
            **GUARD_FILES,
            **INFO,
            **({"openblas": openblas.with_options(core=blas), "blas": Files("blas")} if blas else {}),
        },
        env={"CPU_FLAGS": cpu, "DEBUG": "yes" if debug else "no"},
        outputs=outputs,
        parallel=True,
        phases={
            "tools": GUARDED_BY_GCC,
            "configure": command("/forge/source", (*FLAGS, *flags)),
            "compile": ninja_build("forge-all"),
            "install": GCC_INSTALL,
            "info": build_infos(infos, "/forge/gcc/bin/gcc"),
        },
    ).made_of(GUARD).for_systems("linux-x86_64")
    return spec.containing("source", "openssl", "guard", *(["openblas"] if blas else ()), gcc=LINKED_BY_GCC)


@recipe(
    "mmojo-server.debug",
    variants={"plain": {"cpu": "-march=x86-64", "debug": False}},
    group="server",
    ran={"mmojo-server.debug": f"{DEBIAN}: completions", "mmojo-server.plain": "not run; llama-bench.plain is"},
)
def portable_with_gcc(
    userland: Package, *, cpu: str = "-march=x86-64-v2", debug: bool = True, program: str = "mmojo-server"
) -> Spec | Package:
    """llama-server unoptimised and with symbols (`debug`), or for any x86-64 as generic packages are (`plain`)."""
    package = Package("mmojo-server.gcc").with_options(cpu=cpu, debug=debug).output(program)
    return with_pages("debug" if debug else "plain", package, userland, program)


FACTS = ("cpu.microarchitecture", "cpu.features", "cpu.cores")


@recipe(
    "mmojo-server.native",
    variants={"native-openblas": {"blas": True}},
    group="server",
    ran={
        "mmojo-server.native": f"{DEBIAN}: completions",
        "mmojo-server.native-openblas": "not run; llama-bench.native-openblas is",
    },
)
def native(
    host: Host, userland: Package, *, blas: bool = False, lto: bool = False, program: str = "mmojo-server"
) -> Spec | Package:
    """llama-server for this machine's CPU, by gcc with every instruction that it has; runs where it was built."""
    facts = {name: host.fact(name) for name in FACTS}
    features = facts["cpu.features"].split()
    package = (
        Package("mmojo-server.gcc")
        .with_options(
            cpu=options_for(features, facts["cpu.microarchitecture"]),
            blas=openblas_core(features) if blas else "",
            lto=lto,
            facts=dumps(facts, sort_keys=True),
        )
        .output(program)
    )
    return with_pages("native", package, userland, program)
