from json import dumps
from typing import Literal

from mmojo_forge.recipe import Files, Package, Spec, build, quote, recipe
from recipes.lib.cmake import (
    NINJA,
    built_tools,
    command,
    compile_flags,
    ninja_build,
    no_paths,
    system_flags,
    tool_flags,
)
from recipes.lib.llama_cpp import NO_CPU_FEATURES, ggml_described, off
from recipes.lib.ran import DEBIAN
from recipes.lib.zig import CACHE, SYSTEMS, WARM_UP, linked, script_text

NEEDS = "libvulkan.so.1"

SYSTEM = "linux-x86_64"
# What is loaded by programs for glibc is itself for glibc.
GLIBC = SYSTEMS[f"{SYSTEM}-gnu"]
LINKED = linked(f"{SYSTEM}-gnu")

TOOLS = f"""
mkdir -p /build/home /build/bin{script_text("-target %s -mcpu=%s -g0 -s", ("ZIG_TARGET", "CPU"))}
# zig makes libc and libc++ for a target when it first links: at once, not in the middle of CMake's probes.{WARM_UP}\
/build/bin/cc -shared -Wl,-soname,libvulkan.so.1 /forge/module/loader.c -o /build/libvulkan.so
"""

SYSTEM_NAME, PROCESSOR = system_flags(SYSTEM)
FLAGS = (NINJA, "-DCMAKE_BUILD_TYPE=Release", SYSTEM_NAME, *tool_flags(*built_tools()))
MODULE_FLAGS = (*FLAGS, "-DGGML_VULKAN_SHADERS_GEN_TOOLCHAIN=/forge/module/sandbox.cmake", PROCESSOR)
COMPILE = (
    f"-Werror=date-time -ffunction-sections -fdata-sections {no_paths(source='ggml', vulkan='vulkan', zig='zig')}"
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
LAVAPIPE = f"{DEBIAN} on Mesa's lavapipe, a device made of the CPU; never on a GPU"


def phases(facts):
    describe = f"python3 -B /forge/module/describe.py {quote(dumps(facts))} /build/b/glslc-support"
    return {
        "tools": TOOLS,
        "configure": command("/forge/module", (*MODULE_FLAGS, *compile_flags(COMPILE))),
        "compile": ninja_build("ggml-vulkan"),
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
        "ggml": ggml_described(),
        "compiler": {"name": "zig", "target": GLIBC.target, "cpu": GLIBC.cpu},
        "vulkan_headers": headers,
    }
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
                **CACHE,
                "ZIG_TARGET": GLIBC.target,
                "CPU": GLIBC.cpu,
            },
            parallel=True,
            phases=phases(facts),
        )
        .containing("source", vulkan=("libvulkan-dev", "spirv-headers"), zig=LINKED)
        .for_systems(SYSTEM)
    )


TRIAL_TOOLS = f"""
mkdir -p /build/home /build/bin{script_text(f"-target {GLIBC.target} -mcpu=x86_64_v2 -g0 -s")}"""

# Nothing but what computes: a reference, not a fast one.
TRIAL_FLAGS = (
    *FLAGS,
    PROCESSOR,
    "-DBUILD_SHARED_LIBS=OFF",
    *off("NATIVE", "CCACHE", "OPENMP", "LLAMAFILE", "CPU_REPACK"),
    *NO_CPU_FEATURES,
    *compile_flags(f"-Werror=date-time {no_paths(source='llama.cpp', zig='zig')}"),
)


@recipe("ggml-vulkan.trial", group="part")
def trial(zig: Package, cmake: Package, ninja: Package, userland: Package) -> Spec:
    """A program for tests that loads a module as a server does, and compares what it computes with the CPU."""
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
        env=CACHE,
        parallel=True,
        phases={
            "tools": TRIAL_TOOLS,
            "configure": command("/forge/trial", TRIAL_FLAGS),
            "compile": ninja_build("module-trial"),
            "install": "mkdir -p /forge/out/out/bin && cp /build/b/module-trial /forge/out/out/bin",
        },
    ).containing("source", zig=LINKED)
