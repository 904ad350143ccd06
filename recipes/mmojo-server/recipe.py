from json import dumps
from typing import Literal

from mmojo_forge.recipe import Files, Package, Spec, build, forge_files, recipe

# What the vendored tree says of itself (its own git metadata is left out of the source tree on purpose).
BUILD_NUMBER = "0"
BUILD_COMMIT = "0c1e57098"

# For each system: zig's target, CMake's two names, the CPU everything but ggml's CPU backend is compiled for (the
# first level), and the CPU of each further level. Names of CPUs are zig's.
SYSTEMS = {
    "linux-x86_64": {
        "target": "x86_64-linux-musl",
        "cmake": ("Linux", "x86_64"),
        "levels": {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"},
    },
    "linux-aarch64": {
        "target": "aarch64-linux-musl",
        "cmake": ("Linux", "aarch64"),
        "levels": {
            "v80": "generic",
            "v82": "generic+v8_2a+dotprod+fullfp16",
            "v86": "generic+v8_2a+dotprod+fullfp16+i8mm",
        },
    },
    "windows-x86_64": {
        "target": "x86_64-windows-gnu",
        "cmake": ("Windows", "x86_64"),
        "levels": {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"},
    },
    "macos-aarch64": {
        "target": "aarch64-macos.13.0",
        "cmake": ("Darwin", "arm64"),
        "levels": {"m1": "apple_m1"},
        "flags": (
            "-DGGML_METAL=OFF -DGGML_ACCELERATE=OFF -DGGML_BLAS=OFF -DCMAKE_OSX_SYSROOT= "
            "-DCMAKE_INSTALL_NAME_TOOL=/bin/true"
        ),
    },
}
SLICES = {
    f"{system}-{level}": {"system": system, "level": level} for system, row in SYSTEMS.items() for level in row["levels"]
}

TOOLS = r"""
mkdir -p /build/home /build/bin
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
"""

CONFIGURE = r"""
flags="-Werror=date-time -ffile-prefix-map=/build/b=. -ffile-prefix-map=/forge/source=llama.cpp -ffile-prefix-map=/forge/zig=zig"
/forge/cmake/bin/cmake -S /forge/source -B /build/b -G Ninja -DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_SYSTEM_NAME="$CMAKE_NAME" -DCMAKE_SYSTEM_PROCESSOR="$CMAKE_PROCESSOR" \
    -DCMAKE_C_COMPILER=/build/bin/cc -DCMAKE_CXX_COMPILER=/build/bin/c++ -DCMAKE_ASM_COMPILER=/build/bin/cc \
    -DCMAKE_AR=/build/bin/ar -DCMAKE_RANLIB=/build/bin/ranlib -DCMAKE_RC_COMPILER=/build/bin/rc \
    -DCMAKE_C_FLAGS="$flags" -DCMAKE_CXX_FLAGS="$flags" \
    -DCMAKE_PROJECT_llama.cpp_INCLUDE=/forge/levels/levels.cmake -DFORGE_LEVELS="$FURTHER_LEVELS" \
    -DCMAKE_DISABLE_FIND_PACKAGE_Git=ON -DGIT_EXECUTABLE= -DGIT_EXE=GIT_EXE-NOTFOUND \
    -DBUILD_SHARED_LIBS=OFF -DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DGGML_CCACHE=OFF \
    -DGGML_SSE42=OFF -DGGML_AVX=OFF -DGGML_AVX2=OFF -DGGML_BMI2=OFF -DGGML_FMA=OFF -DGGML_F16C=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DLLAMA_BUILD_NUMBER="$BUILD_NUMBER" -DLLAMA_BUILD_COMMIT="$BUILD_COMMIT" $SYSTEM_FLAGS
"""

INSTALL = r"""
for level in $LEVELS; do
    suffix=-$level
    if [ "$level" = "$FIRST_LEVEL" ]; then suffix=''; fi
    mkdir -p /forge/out/$level/bin
    cp "/build/b/bin/llama-server$suffix$EXE" "/forge/out/$level/bin/mmojo-server$EXE"
done
"""


@recipe("mmojo-server.linux-x86_64", variants={name: {"system": name} for name in SYSTEMS if name != "linux-x86_64"})
def system(
    zig: Package,
    cmake: Package,
    ninja: Package,
    userland: Package,
    llama_cpp: Package,
    *,
    system: Literal["linux-x86_64", "linux-aarch64", "windows-x86_64", "macos-aarch64"] = "linux-x86_64",
) -> Spec:
    """llama-server for one system, one output per CPU level; only ggml's CPU backend is compiled for each."""
    row = SYSTEMS[system]
    levels = row["levels"]
    first = next(iter(levels))
    further = ";".join(f"{level}={cpu}" for level, cpu in levels.items() if level != first)
    return build(
        f"mmojo-server-{system}",
        userland=userland,
        inputs={"zig": zig, "cmake": cmake, "ninja": ninja, "source": llama_cpp, "levels": Files("cmake")},
        env={
            "ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
            "ZIG_TARGET": row["target"],
            "BASELINE": levels[first],
            "FIRST_LEVEL": first,
            "LEVELS": " ".join(levels),
            "FURTHER_LEVELS": further,
            "CMAKE_NAME": row["cmake"][0],
            "CMAKE_PROCESSOR": row["cmake"][1],
            "SYSTEM_FLAGS": row.get("flags", ""),
            "BUILD_NUMBER": BUILD_NUMBER,
            "BUILD_COMMIT": BUILD_COMMIT,
            "EXE": ".exe" if system.startswith("windows") else "",
        },
        outputs=tuple(levels),
        parallel=True,
        phases={
            "tools": TOOLS,
            "configure": CONFIGURE,
            "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" forge-all',
            "install": INSTALL,
        },
    )


@recipe("mmojo-server.linux-x86_64-v2", variants={name: row for name, row in SLICES.items() if name != "linux-x86_64-v2"})
def slice_of(*, system: str = "linux-x86_64", level: str = "v2") -> Package:
    """llama-server for one system and CPU level: a single executable, the one to deploy to servers."""
    return Package("mmojo-server.linux-x86_64").with_options(system=system).output(level)


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


@recipe("mmojo-server.ape")
def ape(ape: Package, userland: Package) -> Spec:
    """The server for all systems and CPU levels in one file that runs everywhere."""
    server = Package("mmojo-server.linux-x86_64")
    slices = {
        f"{system}-{level}": {
            "system": system,
            "level": level,
            "features": list(features),
            "path": f"/forge/{system}-{level}/bin/mmojo-server{'.exe' if system.startswith('windows') else ''}",
        }
        for system, levels in FEATURES.items()
        for level, features in levels.items()
    }
    order = {
        "program": "mmojo-server",
        "slices": list(slices.values()),
        "launchers": {
            "linux-x86_64": "/forge/launchers/linux-x86_64.elf",
            "linux-aarch64": "/forge/launchers/linux-aarch64.elf",
            "windows-x86_64": "/forge/launchers/windows-x86_64.exe",
        },
    }
    return build(
        "mmojo-server.ape",
        userland=userland,
        inputs={
            "launchers": ape,
            "linker": forge_files("ape"),
            "errors": forge_files("errors.py"),
            **{name: server.with_options(system=row["system"]).output(row["level"]) for name, row in slices.items()},
        },
        at={"linker": "/forge/python/mmojo_forge/ape", "errors": "/forge/python/mmojo_forge/errors.py"},
        phases={
            "link": f"""
cat > order.json <<'END'
{dumps(order, indent=1, sort_keys=True)}
END
PYTHONPATH=/forge/python python3 -B -m mmojo_forge.ape link order.json /forge/out/out
""",
        },
    )
