from json import dumps
from typing import Literal

from mmojo_forge.recipe import Files, Package, Spec, build, quote, recipe

GGML_VERSION = "0.25.3"
GGML_COMMIT = "0c1e57098"
NEEDS = "libvulkan.so.1"

SYSTEM = "linux-x86_64"
ZIG_TARGET = "x86_64-linux-gnu.2.28"
CPU = "x86_64"

# What zig links into the module; of glibc it is the start files.
LINKED = ("compiler-rt", "glibc", "libc++", "libc++abi", "libunwind")

TOOLS = r"""
mkdir -p /build/home /build/bin
for tool in cc c++; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s -target %s -mcpu=%s -g0 -s "$@"\n' $tool "$ZIG_TARGET" "$CPU" > /build/bin/$tool
done
for tool in ar ranlib; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s "$@"\n' $tool > /build/bin/$tool
done
chmod 755 /build/bin/*

# zig makes libc and libc++ for a target when it first links: at once, not in the middle of CMake's probes.
printf '#include <iostream>\nint main() { std::cout << 1; }\n' > /build/runtime.cpp
/build/bin/c++ -O3 /build/runtime.cpp -o /build/runtime
/build/bin/cc -shared -Wl,-soname,libvulkan.so.1 /forge/module/loader.c -o /build/libvulkan.so
"""

FLAGS = (
    "-DCMAKE_MAKE_PROGRAM=/forge/ninja/ninja",
    "-DCMAKE_BUILD_TYPE=Release",
    "-DCMAKE_SYSTEM_NAME=Linux",
    *(f"-DCMAKE_{kind}_COMPILER=/build/bin/{tool}" for kind, tool in (("C", "cc"), ("CXX", "c++"))),
    *(f"-DCMAKE_{tool.upper()}=/build/bin/{tool}" for tool in ("ar", "ranlib")),
)
MODULE_FLAGS = (*FLAGS, "-DGGML_VULKAN_SHADERS_GEN_TOOLCHAIN=/forge/module/sandbox.cmake")
COMPILE = (
    "-Werror=date-time -ffunction-sections -fdata-sections -ffile-prefix-map=/build/b=. "
    "-ffile-prefix-map=/forge/source=ggml -ffile-prefix-map=/forge/vulkan=vulkan -ffile-prefix-map=/forge/zig=zig"
)

# Of the loader it may take what stands in loader.c.
INSTALL = r"""
loader=$(sed -n 's/^void \(vk[A-Za-z0-9]*\)(void).*/\1/p' /forge/module/loader.c | paste -s -d '|')
sh /forge/check/check-module.sh /build/b/ggml-vulkan/libggml-vulkan.so /forge/gcc/bin/x86_64-linux-gnu-readelf /build \
    libvulkan.so.1 "$loader" ''
mkdir -p /forge/out/out
cp /build/b/ggml-vulkan/libggml-vulkan.so /forge/out/out
"""


# Where it has been run: completions, and products of matrices compared with the CPU's.
LAVAPIPE = "Debian 12 on x86-64 (Zen 5) on Mesa's lavapipe, a device made of the CPU; never on a GPU"


def cmake_command(source, flags):
    words = (f"/forge/cmake/bin/cmake -S {source} -B /build/b -G Ninja", *(quote(flag) for flag in flags))
    return " \\\n    ".join(words)


def phases(flags, facts):
    describe = f"python3 -B /forge/module/describe.py {quote(dumps(facts))} /build/b/glslc-support"
    return {
        "tools": TOOLS,
        "configure": cmake_command("/forge/module", (*MODULE_FLAGS, *flags)),
        "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" ggml-vulkan',
        "install": INSTALL,
        "describe": f"{describe} > /forge/out/out/module.json",
    }


@recipe(
    "ggml-vulkan",
    variants={"plain": {"headers": "1.3.239"}},
    group="module",
    ran=dict.fromkeys(("ggml-vulkan", "ggml-vulkan.plain"), LAVAPIPE),
)
def module(
    zig: Package,
    gcc: Package,
    cmake: Package,
    ninja: Package,
    userland: Package,
    vulkan: Package,
    *,
    headers: Literal["1.3.239", "1.4.309"] = "1.4.309",
) -> Spec:
    """ggml's Vulkan backend as a module, for Linux slices to load where there is a GPU and glibc 2.28 or newer.

    The option `headers` chooses the toolchain: 1.3.239 is without shaders for matrix cores and dot products of integers.
    """
    facts = {
        "schema": 1,
        "backend": "vulkan",
        "system": SYSTEM,
        "needs": NEEDS,
        "ggml": {"version": GGML_VERSION, "commit": GGML_COMMIT},
        "compiler": {"name": "zig", "target": ZIG_TARGET, "cpu": CPU},
        "vulkan_headers": headers,
    }
    flags = (
        "-DCMAKE_SYSTEM_PROCESSOR=x86_64",
        *(f"-DCMAKE_{kind}_FLAGS={COMPILE}" for kind in ("C", "CXX")),
    )
    return (
        build(
            f"ggml-vulkan-{SYSTEM}",
            userland=userland,
            inputs={
                "zig": zig,
                "gcc": gcc,
                "cmake": cmake,
                "ninja": ninja,
                "vulkan": vulkan.with_options(version=headers),
                "source": Package("llama-cpp.ggml").output("vulkan"),
                "module": Files("module"),
                "check": Package("ggml-module.check"),
            },
            env={
                "ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache",
                "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache",
                "ZIG_TARGET": ZIG_TARGET,
                "CPU": CPU,
            },
            parallel=True,
            phases=phases(flags, facts),
        )
        .containing("source", vulkan=("libvulkan-dev", "spirv-headers"), zig=LINKED)
        .for_systems(SYSTEM)
    )


TRIAL_TOOLS = r"""
mkdir -p /build/home /build/bin
for tool in cc c++; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s -target x86_64-linux-gnu.2.28 -mcpu=x86_64_v2 -g0 -s "$@"\n' $tool > /build/bin/$tool
done
for tool in ar ranlib; do
    printf '#!/bin/sh\nexec /forge/zig/zig %s "$@"\n' $tool > /build/bin/$tool
done
chmod 755 /build/bin/*
"""

# Nothing but what computes: a reference, not a fast one.
TRIAL_FLAGS = (
    *FLAGS,
    "-DCMAKE_SYSTEM_PROCESSOR=x86_64",
    "-DBUILD_SHARED_LIBS=OFF",
    *(f"-DGGML_{feature}=OFF" for feature in ("NATIVE", "CCACHE", "OPENMP", "LLAMAFILE", "CPU_REPACK")),
    *(f"-DGGML_{feature}=OFF" for feature in ("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")),
)
TRIAL_COMPILE = (
    "-Werror=date-time -ffile-prefix-map=/build/b=. "
    "-ffile-prefix-map=/forge/source=llama.cpp -ffile-prefix-map=/forge/zig=zig"
)


@recipe("ggml-vulkan.trial", group="part")
def trial(zig: Package, cmake: Package, ninja: Package, userland: Package) -> Spec:
    """A program for tests that loads a module as a server does, and compares what it computes with the CPU."""
    flags = (*TRIAL_FLAGS, *(f"-DCMAKE_{kind}_FLAGS={TRIAL_COMPILE}" for kind in ("C", "CXX")))
    return build(
        "module-trial",
        userland=userland,
        inputs={
            "zig": zig,
            "cmake": cmake,
            "ninja": ninja,
            # The loader of others than us, which our patches need not change: not built again for each of them.
            "source": Package("llama-cpp.upstream"),
            "trial": Files("trial"),
        },
        env={"ZIG_GLOBAL_CACHE_DIR": "/build/zig-cache", "ZIG_LOCAL_CACHE_DIR": "/build/zig-cache"},
        parallel=True,
        phases={
            "tools": TRIAL_TOOLS,
            "configure": cmake_command("/forge/trial", flags),
            "compile": '/forge/ninja/ninja -C /build/b -j "$FORGE_JOBS" module-trial',
            "install": "mkdir -p /forge/out/out/bin && cp /build/b/module-trial /forge/out/out/bin",
        },
    ).containing("source", zig=LINKED)
