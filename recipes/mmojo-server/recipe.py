from json import dumps, loads
from typing import Literal

from mmojo_forge.recipe import Component, Files, Host, Package, Slice, Spec, build, link_ape, quote, recipe, with_files

# What the vendored tree says of itself (its own git metadata is left out of the source tree on purpose).
VERSION = "0.5.0-dev"
BUILD_NUMBER = "0"
BUILD_COMMIT = "0c1e57098"

# What is built: the server and what is as fast as its CPU level for each level, the other tools once per system.
PROGRAMS = {"mmojo-server": "llama-server", "llama-bench": "llama-bench", "llama-cli": "llama-cli"}
TOOLS = {"llama-quantize": "llama-quantize", "llama-gguf-split": "llama-gguf-split"}

# For each system: zig's target, CMake's two names, the CPU everything but ggml's CPU backend is compiled for (the
# first level), and the CPU of each further level. Names of CPUs are zig's.
SYSTEMS = {
    "linux-x86_64": {
        "target": "x86_64-linux-musl",
        "plainest": "x86_64",
        "cmake": ("Linux", "x86_64"),
        "levels": {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"},
    },
    # The one that loads GPU backends at run time; the static programs start it where there are any.
    "linux-x86_64-gnu": {
        "target": "x86_64-linux-gnu.2.28",
        "plainest": "x86_64",
        "cmake": ("Linux", "x86_64"),
        "levels": {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"},
        "flags": (
            "-DFORGE_LOADS_MODULES=ON",
            "-DCMAKE_C_VISIBILITY_PRESET=hidden",
            "-DCMAKE_CXX_VISIBILITY_PRESET=hidden",
            "-DCMAKE_VISIBILITY_INLINES_HIDDEN=ON",
        ),
        "defines": " -DGGML_SHARED",
    },
    "linux-aarch64": {
        "target": "aarch64-linux-musl",
        "plainest": "generic",
        "cmake": ("Linux", "aarch64"),
        "levels": {
            "v80": "generic",
            "v82": "generic+v8_2a+dotprod+fullfp16",
            "v86": "generic+v8_2a+dotprod+fullfp16+i8mm",
        },
    },
    "windows-x86_64": {
        "target": "x86_64-windows-gnu",
        "plainest": "x86_64",
        "cmake": ("Windows", "x86_64"),
        "levels": {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"},
    },
    "macos-aarch64": {
        "target": "aarch64-macos.13.0",
        "plainest": "apple_m1",
        "cmake": ("Darwin", "arm64"),
        "levels": {"m1": "apple_m1"},
        "flags": (
            "-DGGML_METAL=OFF",
            "-DGGML_ACCELERATE=OFF",
            "-DCMAKE_OSX_SYSROOT=",
            "-DCMAKE_INSTALL_NAME_TOOL=/bin/true",
            # The keychain is reached by frameworks that zig does not have; /etc/ssl/cert.pem has the system's roots.
            "-DCORE_FOUNDATION_FRAMEWORK=",
            "-DSECURITY_FRAMEWORK=",
        ),
        "defines": " -DCPPHTTPLIB_DISABLE_MACOSX_AUTOMATIC_ROOT_CERTIFICATES",
    },
}
SLICES = {
    f"{system}-{level}": {"system": system, "level": level} for system, row in SYSTEMS.items() for level in row["levels"]
}

# What the run-time must find before it starts a slice, in the words of /proc/cpuinfo; best level first.
X86_V2 = ("cx16", "lahf_lm", "popcnt", "pni", "sse4_1", "sse4_2", "ssse3")
X86_V3 = (*X86_V2, "abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")
# No BF16, which Ice Lake lacks: it gains nothing for quantised models, and 1.5 × on prompts of BF16 models only.
X86_V4X = (*X86_V3, "avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl", "avx512_vnni", "avx512vbmi")
ARM_V82 = ("asimddp", "asimdhp", "asimdrdm", "atomics", "crc32", "fphp")
FEATURES = {
    "linux-x86_64": {"v4x": X86_V4X, "v3": X86_V3, "v2": X86_V2},
    "linux-aarch64": {"v86": (*ARM_V82, "i8mm"), "v82": ARM_V82, "v80": ()},
    "windows-x86_64": {"v4x": X86_V4X, "v3": X86_V3, "v2": X86_V2},
    "macos-aarch64": {"m1": ()},
}

# Not in mmojo-server.ape by themselves: `forge package --module` brings the programs that load modules.
LOADS_MODULES = "linux-x86_64-gnu"

# The web pages of the server, by their name in its file.
PAGES = {"ui/chat": Package("llama-ui"), "ui/complete": Package("ui-complete")}

# What zig and gcc link into every program, by operating system.
LINKED = {
    LOADS_MODULES: ("compiler-rt", "glibc", "libc++", "libc++abi", "libunwind"),
    "linux": ("compiler-rt", "musl", "libc++", "libc++abi", "libunwind"),
    "windows": ("compiler-rt", "mingw-w64", "winpthreads", "gdtoa", "libc++", "libc++abi", "libunwind"),
    "macos": ("compiler-rt", "libc++", "libc++abi"),
}
LINKED_BY_GCC = ("libc6-dev", "libgcc-12-dev", "libstdc++-12-dev")
GUARD = Component("cpu-guard", licence="Apache-2.0", of="guard")

# What every build of llama.cpp here is configured with, whatever the compiler.
FLAGS = (
    "-DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja",
    "-DCMAKE_DISABLE_FIND_PACKAGE_Git=ON",
    "-DGIT_EXECUTABLE=",
    "-DGIT_EXE=GIT_EXE-NOTFOUND",
    "-DBUILD_SHARED_LIBS=OFF",
    "-DGGML_NATIVE=OFF",
    "-DGGML_CCACHE=OFF",
    "-DGGML_SSE42=OFF",
    "-DGGML_AVX=OFF",
    "-DGGML_AVX2=OFF",
    "-DGGML_BMI2=OFF",
    "-DGGML_FMA=OFF",
    "-DGGML_F16C=OFF",
    "-DLLAMA_OPENSSL=ON",
    "-DOPENSSL_ROOT_DIR=/forge/openssl",
    "-DOPENSSL_USE_STATIC_LIBS=ON",
    "-DLLAMA_BUILD_TESTS=OFF",
    "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
    "-DLLAMA_BUILD_UI=OFF",
    "-DLLAMA_USE_PREBUILT_UI=OFF",
    f"-DLLAMA_BUILD_NUMBER={BUILD_NUMBER}",
    f"-DLLAMA_BUILD_COMMIT={BUILD_COMMIT}",
    f"-DFORGE_PROGRAMS={';'.join(PROGRAMS.values())}",
    f"-DFORGE_TOOLS={';'.join(TOOLS.values())}",
    "-DFORGE_GUARDS=/build/guards",
    "-DCMAKE_PROJECT_llama.cpp_INCLUDE=/forge/levels/levels.cmake",
)
COMPILE = "-Werror=date-time -ffile-prefix-map=/build/b=. -ffile-prefix-map=/forge/source=llama.cpp"

ZIG_TOOLS = r"""
mkdir -p /build/home /build/bin /build/guards
for tool in cc c++; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s -target %s -mcpu=%s -g0 -s "$@"\n' $tool "$ZIG_TARGET" "$BASELINE" > /build/bin/$tool
done
for tool in ar ranlib rc; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s "$@"\n' $tool > /build/bin/$tool
done
chmod 755 /build/bin/*

# zig makes libc and libc++ for a target when it first links; at once and on all cores, not in the middle of CMake's probes.
printf '#include <iostream>\nint main() { std::cout << 1; }\n' > /build/runtime.cpp
/build/bin/c++ -O3 /build/runtime.cpp -o /build/runtime

for level in $GUARDED; do
    name=${level%%=*}
    sh /forge/guard/macros.sh /build/bin/cc -mcpu="${level#*=}" > /build/guards/$name.h
    /build/bin/cc -mcpu="$PLAINEST" -O1 -ffile-prefix-map=/forge/guard=guard -DFORGE_MACROS="\"/build/guards/$name.h\"" \
        -c /forge/guard/guard.c -o /build/guards/$name.o
done
"""

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


def configure(flags):
    words = ("-S /forge/source -B /build/b -G Ninja", *(quote(flag) for flag in (*FLAGS, *flags)))
    return "/forge/cmake/bin/cmake " + " \\\n    ".join(words)


def build_infos(infos, compiler):
    facts = {output: {"schema": 1, "llama.cpp": llama(), **info} for output, info in infos.items()}
    return f"""
cat > /build/facts.json <<'END'
{dumps(facts, indent=1, sort_keys=True)}
END
abi=$(sh /forge/source/ggml/mmojo-abi.sh /forge/source/ggml | cut -d '"' -f 2)
python3 -B /forge/info/build_info.py /build/facts.json "$abi" -- {compiler}
"""


def llama():
    return {"version": VERSION, "build": int(BUILD_NUMBER), "commit": BUILD_COMMIT}


def base_of(system):
    """The system that the programs run on, whatever C library they use."""
    return system.removesuffix("-gnu")


def linked(system):
    return LINKED.get(system, LINKED[system.partition("-")[0]])


def server_output(level, program):
    return level if program == "mmojo-server" else program if program in TOOLS else f"{level}-{program}"


# Where the programs have been run, told for `forge list` by who ran them: completions asked of the servers with the
# generated model bench-model.tiny; under qemu-user by a CPU that has everything.
DEBIAN = "Debian 12 on x86-64 (Zen 5)"
WINE = "Wine 8"
QEMU = "qemu-user 7.2"
NEVER_ON_MACOS = "never; a signed Mach-O, as far as its structure tells"


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
    row = SYSTEMS[system]
    levels = row["levels"]
    first = next(iter(levels))
    further = ";".join(f"{level}={cpu}" for level, cpu in levels.items() if level != first)
    compile_flags = f"{COMPILE} -ffile-prefix-map=/forge/zig=zig{row.get('defines', '')}"
    flags = (
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_SYSTEM_NAME={row['cmake'][0]}",
        f"-DCMAKE_SYSTEM_PROCESSOR={row['cmake'][1]}",
        *(f"-DCMAKE_{kind}_COMPILER=/build/bin/{tool}" for kind, tool in (("C", "cc"), ("CXX", "c++"), ("ASM", "cc"))),
        *(f"-DCMAKE_{tool.upper()}=/build/bin/{tool}" for tool in ("ar", "ranlib")),
        "-DCMAKE_RC_COMPILER=/build/bin/rc",
        f"-DCMAKE_C_FLAGS={compile_flags}",
        f"-DCMAKE_CXX_FLAGS={compile_flags}",
        "-DGGML_OPENMP=OFF",
        "-DGGML_BLAS=OFF",
        f"-DFORGE_FIRST_LEVEL={first}",
        f"-DFORGE_LEVELS={further}",
        *row.get("flags", ()),
    )
    outputs = {server_output(level, program): (program, level) for level in levels for program in PROGRAMS}
    outputs = {**outputs, **{program: (program, first) for program in TOOLS}}
    infos = {
        output: {
            "program": program,
            "system": system,
            "compiler": {"name": "zig", "target": row["target"], "cpu": levels[level]},
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
            "guard": Files("guard"),
            "info": Files("info"),
        },
        env={
            "ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_TARGET": row["target"],
            "BASELINE": levels[first],
            "PLAINEST": row["plainest"],
            "FIRST_LEVEL": first,
            "LEVELS": " ".join(levels),
            "GUARDED": " ".join(f"{level}={cpu}" for level, cpu in levels.items()),
            "EXE": ".exe" if system.startswith("windows") else "",
        },
        outputs=tuple(outputs),
        parallel=True,
        phases={
            "tools": ZIG_TOOLS,
            "configure": configure(flags),
            "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" forge-all',
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
    return with_pages(f"{system}-{level}", package, userland, program, ".exe" if system.startswith("windows") else "")


def with_pages(variant, package, userland, program, ending=""):
    """The server of a build with its web pages; other programs as they are."""
    if program != "mmojo-server":
        return package
    path = f"bin/mmojo-server{ending}"
    return with_files(f"mmojo-server-{variant}-paged", userland=userland, program=package, path=path, files=PAGES)


@recipe("mmojo-server.hosts", group="server", ran={"mmojo-server.hosts": f"{DEBIAN}, v3: completions"})
def hosts(userland: Package, *, program: str = "mmojo-server") -> Spec:
    """The programs that a static one starts in its place where there are GPU modules: it cannot load them itself."""
    levels = SYSTEMS[LOADS_MODULES]["levels"]
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
            path=f"bin/{program}{'.exe' if system.startswith('windows') else ''}",
        )
        for system, levels in FEATURES.items()
        for level, features in levels.items()
        # Tools are compiled for the plainest level of their system only.
        if program not in TOOLS or level == next(iter(SYSTEMS[system]["levels"]))
    }
    return link_ape(
        f"{program}.ape",
        userland=userland,
        launchers=ape,
        program=program,
        slices=slices,
        assets={"build-info.json": "build-info.json", **(PAGES if program == "mmojo-server" else {})},
        inputs={"info": Files("info")},
        prepare=f"python3 -B /forge/info/join_infos.py build-info.json {' '.join(slices)}",
    ).containing(info=())


GCC_TOOLS = r"""
mkdir -p /build/home /build/bin /build/guards
sh /forge/guard/macros.sh /forge/gcc/bin/gcc $CPU_FLAGS > /build/guards/cpu.h
/forge/gcc/bin/gcc -O1 -ffile-prefix-map=/forge/guard=guard -DFORGE_MACROS='"/build/guards/cpu.h"' \
    -c /forge/guard/guard.c -o /build/guards/cpu.o
"""

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
        *(f"-DCMAKE_{kind}_COMPILER=/forge/gcc/bin/{tool}" for kind, tool in (("C", "gcc"), ("CXX", "g++"), ("ASM", "gcc"))),
        *(f"-DCMAKE_{tool.upper()}=/forge/gcc/bin/gcc-{tool}" for tool in ("ar", "ranlib")),
        *(f"-DCMAKE_{kind}_FLAGS={COMPILE} -ffile-prefix-map=/forge/gcc=gcc {cpu}" for kind in ("C", "CXX")),
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
            "guard": Files("guard"),
            "info": Files("info"),
            **({"openblas": openblas.with_options(core=blas), "blas": Files("blas")} if blas else {}),
        },
        env={"CPU_FLAGS": cpu, "DEBUG": "yes" if debug else "no"},
        outputs=outputs,
        parallel=True,
        phases={
            "tools": GCC_TOOLS,
            "configure": configure(flags),
            "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" forge-all',
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


# What gcc 12 calls the features of a CPU, named as archspec and /proc/cpuinfo do.
GCC_OPTIONS = {
    "sse3": "-msse3",
    "pni": "-msse3",
    "ssse3": "-mssse3",
    "sse4_1": "-msse4.1",
    "sse4_2": "-msse4.2",
    "sse4a": "-msse4a",
    "popcnt": "-mpopcnt",
    "cx16": "-mcx16",
    "lahf_lm": "-msahf",
    "movbe": "-mmovbe",
    "abm": "-mabm",
    "aes": "-maes",
    "pclmulqdq": "-mpclmul",
    "avx": "-mavx",
    "f16c": "-mf16c",
    "fma": "-mfma",
    "avx2": "-mavx2",
    "bmi1": "-mbmi",
    "bmi2": "-mbmi2",
    "adx": "-madx",
    "sha_ni": "-msha",
    "gfni": "-mgfni",
    "vaes": "-mvaes",
    "vpclmulqdq": "-mvpclmulqdq",
    "avx_vnni": "-mavxvnni",
    "avx512f": "-mavx512f",
    "avx512bw": "-mavx512bw",
    "avx512cd": "-mavx512cd",
    "avx512dq": "-mavx512dq",
    "avx512vl": "-mavx512vl",
    "avx512ifma": "-mavx512ifma",
    "avx512vbmi": "-mavx512vbmi",
    "avx512_vbmi2": "-mavx512vbmi2",
    "avx512_vnni": "-mavx512vnni",
    "avx512_bitalg": "-mavx512bitalg",
    "avx512_vpopcntdq": "-mavx512vpopcntdq",
    "avx512_bf16": "-mavx512bf16",
    "avx512_fp16": "-mavx512fp16",
    "amx_tile": "-mamx-tile",
    "amx_int8": "-mamx-int8",
    "amx_bf16": "-mamx-bf16",
}
# What gcc 12 can tune for, by archspec's name of a microarchitecture or the nearest older one.
GCC_TUNES = {
    "haswell": "haswell",
    "broadwell": "broadwell",
    "skylake": "skylake",
    "skylake_avx512": "skylake-avx512",
    "cascadelake": "cascadelake",
    "cannonlake": "cannonlake",
    "icelake": "icelake-server",
    "sapphirerapids": "sapphirerapids",
    "zen": "znver1",
    "zen2": "znver2",
    "zen3": "znver3",
    "zen4": "znver3",
    "zen5": "znver3",
}
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
    options = [option for feature, option in GCC_OPTIONS.items() if feature in features]
    tune = GCC_TUNES.get(facts["cpu.microarchitecture"], "generic")
    package = (
        Package("mmojo-server.gcc")
        .with_options(
            cpu=" ".join(("-march=x86-64", *options, f"-mtune={tune}")),
            blas=openblas_core(features) if blas else "",
            lto=lto,
            facts=dumps(facts, sort_keys=True),
        )
        .output(program)
    )
    return with_pages("native", package, userland, program)


def openblas_core(features):
    if "avx512_bf16" in features:
        return "COOPERLAKE"
    if "avx512f" in features and "avx512vl" in features:
        return "SKYLAKEX"
    return "HASWELL" if "avx2" in features and "fma" in features else "dynamic"
