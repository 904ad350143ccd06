from json import dumps
from typing import Literal

from mmojo_forge.recipe import BadOption, Component, Files, Package, Spec, build, quote, recipe
from recipes.lib.llama_cpp import ggml_described
from recipes.lib.zig import CACHE, linked

# What nvcc 13.0 compiles for, in its own words. A plain number runs on devices of that compute capability and of later
# ones of the same major version, `a` on that one alone, `f` on its family.
PLAIN = ("75", "80", "86", "87", "88", "89", "90", "100", "103", "110", "120", "121")
# From 12.0 on ggml has kernels of FP4, for which nvcc wants the `a` or the `f`.
KNOWN = (*PLAIN[:10], "90a", *(f"{number}{letter}" for number in PLAIN[7:] for letter in "af"))
# As CMake says it: not compiled to the end, which the driver then does at the first start, for later devices as well.
VIRTUAL = "-virtual"
DEFAULT = "75 80 86 89 90 120a 90-virtual"

# All pairs of types of K and V that there are kernels of flash attention for, and those that are compiled.
FA_TYPES = ("q4_0", "q4_1", "q5_0", "q5_1", "q8_0", "bf16", "f16")
FA_PAIRS = ("q4_0-q4_0", "q8_0-q8_0", "f16-f16", "bf16-bf16")

# What is read before the first line of every file. nvcc says in a macro for which architectures it compiles; CUB puts
# them into the names of its kernels, and looks up in them what the device's code was tuned for. As each architecture
# is compiled apart, it sees all that there are, always.
CONFIG = (
    "undef __CUDA_ARCH_LIST__",
    f"define __CUDA_ARCH_LIST__ {','.join(f'{number}0' for number in PLAIN)}",
    "define GGML_CUDA_ARCHS_LINKED",
    "define GGML_BACKEND_DL",
    "define GGML_BACKEND_BUILD",
    "define GGML_BACKEND_SHARED",
    "define GGML_SHARED",
    "define GGML_SCHED_MAX_COPIES 4",
    "define GGML_CUDA_USE_GRAPHS",
    f'define GGML_CUDA_FA_QUANTS "{",".join(FA_PAIRS)}"',
    *(f"define GGML_CUDA_FA_{k.upper()}_{v.upper()} {int(f'{k}-{v}' in FA_PAIRS)}" for v in FA_TYPES for k in FA_TYPES),
)

# What takes longest first, so that no core waits for it at the end. cicc sorts by where things lie in memory: the
# sandbox has it the same each time, where the kernel allows that.
COMPILE = r"""
if [ "$(cat /proc/self/personality)" != 00040000 ]; then
    echo "This machine does not allow a build to have a fixed memory layout, without which NVIDIA's compiler makes" >&2
    echo 'other code each time. It is probably in a container whose filter forbids it: see forge doctor.' >&2
    exit 1
fi
mkdir -p /build/home
cd /forge/source/src/ggml-cuda
for name in 'fattn-mma*' 'mmq*' 'fattn-tile*' 'mmf*' $FATTN_VEC; do
    ls template-instances/$name.cu
done > /build/sources
ls -S ./*.cu >> /build/sources
compile='sh /forge/compile/compile.sh "$WHAT" "$ARCHITECTURE" "/forge/source/src/ggml-cuda/$1" || exit 255'
xargs -a /build/sources -P "$FORGE_JOBS" -n 1 sh -c "$compile" compile
"""

# Host code for one architecture is host code for all. What the device compiler makes on the way is quickest for the
# first, and is an architecture of its own that costs nothing: PTX that runs on every device of those that are known.
HOST_ARCHITECTURE = PLAIN[0]
FREE = f"{HOST_ARCHITECTURE}{VIRTUAL}"

INPUTS = {
    "nvcc": Package("nvcc"),
    "blas": Package("nvcc.cublas"),
    "gcc": Package("gcc"),
    "source": Package("llama-cpp.ggml").output("cuda"),
}
# What of llama.cpp's sources is in a backend, and of the toolkit's headers: inline functions, CUB's kernels.
GGML = ("llama.cpp", "mmojo-server", "YaRN")
HEADERS = ("cuda-fp16", "libdevice", "cub", "libcudacxx")


def architectures(archs):
    """Those of the list in ascending order, each once; raises BadOption if nvcc does not know one of them."""
    wanted = archs.split()
    if not wanted:
        raise BadOption("archs", archs, "the module would have code for no device", hint=f"The default is {DEFAULT}.")
    unknown = ", ".join(one for one in wanted if one not in ARCHITECTURES)
    if unknown:
        known = " ".join(one for one in ARCHITECTURES if not one.endswith(VIRTUAL))
        raise BadOption(
            "archs",
            archs,
            f"nvcc 13.0 makes no code of ggml for {unknown}",
            hint=f"It does for {known}, each also with {VIRTUAL}.",
        )
    return tuple(one for one in ARCHITECTURES if one in wanted)


def rank(architecture):
    return number_of(architecture), architecture.endswith(VIRTUAL), architecture


def number_of(architecture):
    return int(architecture.removesuffix(VIRTUAL).rstrip("af"))


# Its allocator (jemalloc) and libfaketime wait for each other before its first line runs.
CLOCK = "nvcc's cicc never starts under libfaketime"
LAYOUT = "nvcc's cicc sorts by address; the sandbox fixes them, and this build fails where it cannot"
# Nor may the allocator choose addresses by what time it is and how many CPUs there are: it gives nothing back.
ALLOCATOR = "dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1"


def compiled(name, fa, userland, what, architecture, outputs):
    config = (*CONFIG, *(() if fa else ("define GGML_CUDA_NO_FA",)))
    lines = "\n".join(f"#{line}" for line in config)
    spec = build(
        name,
        userland=userland,
        inputs={**INPUTS, "compile": Files("compile")},
        env={
            "PATH": "/forge/gcc/bin:/usr/bin",
            "WHAT": what,
            "ARCHITECTURE": architecture,
            "MALLOC_CONF": ALLOCATOR,
            "FATTN_VEC": " ".join(f"fattn-vec-instance-{pair}" for pair in FA_PAIRS),
        },
        outputs=outputs,
        parallel=True,
        phases={"config": f"cat > /build/config.h <<'END'\n{lines}\nEND", "compile": COMPILE},
    )
    spec = spec.containing(source=GGML, nvcc=HEADERS)
    return spec.checked_without(shifted_clock=CLOCK, aslr=LAYOUT, kernel_personality=LAYOUT)


ARCHITECTURES = tuple(sorted((*KNOWN, *(f"{one}{VIRTUAL}" for one in KNOWN)), key=rank))


@recipe("ggml-cuda.arch")
def arch(userland: Package, *, arch: Literal[ARCHITECTURES] = "90", fa: bool = True) -> Spec | Package:
    """The device code of ggml's CUDA backend for one architecture: a cubin, or PTX, for each source file."""
    if arch == FREE:
        return Package("ggml-cuda.host").with_options(fa=fa).output("ptx")
    what = "ptx" if arch.endswith(VIRTUAL) else "cubin"
    return compiled(f"ggml-cuda-{arch}", fa, userland, what, arch.removesuffix(VIRTUAL), ("out",))


@recipe("ggml-cuda.host")
def host(userland: Package, *, fa: bool = True) -> Spec:
    """The host's code of ggml's CUDA backend, whatever the architectures: objects to put device code into."""
    return compiled("ggml-cuda-host", fa, userland, "host", HOST_ARCHITECTURE, ("out", "ptx"))


# The module is linked by zig, against glibc 2.28 as it has it; of the C++ runtime gcc's is used, which the objects were
# compiled for. Of the driver there is no library here: what the module calls is all that a stand-in has to have.
# Once loaded it stays: what zig links runs its destructors at the program's exit, not when a library is unloaded.
LINK = r"""
mkdir -p /build/home /build/o /forge/out/out
python3 -B /forge/link/kernels.py /forge/host $(printf '/forge/arch-%s ' $ARCHS)
for object in /forge/host/*.o; do basename "$object" .o; done > /build/names
xargs -a /build/names -P "$FORGE_JOBS" -I NAME sh -c 'sh /forge/link/merge.sh "$@" || exit 255' merge NAME $ARCHS

gcc=/forge/gcc/bin/gcc
$gcc -O2 -fPIC -c /build/archs.c -o /build/archs.o
$gcc -O2 -fPIC -c /forge/link/floor.c -o /build/floor.o
$gcc -O2 -fPIC -I/forge/source/src -DMMOJO_MODULE_NEEDS='"libcuda.so.1"' \
    -DMMOJO_MODULE_DRIVER="\"driver=$DRIVER\\n\"" -c /forge/source/src/mmojo-module.c -o /build/module.o

zig() { /forge/zig/zig cc -target x86_64-linux-gnu.2.28 -mcpu=x86_64 -g0 -s -shared "$@"; }
/forge/gcc/bin/x86_64-linux-gnu-nm -u /build/o/*.o |
    awk '$2 ~ /^cu[A-Z]/ { print "void " $2 "(void) {}" }' | LC_ALL=C sort -u > /build/driver.c
zig -Wl,-soname,libcuda.so.1 /build/driver.c -o /build/libcuda.so
cuda=/forge/nvcc/nvidia/cu13
zig -o /forge/out/out/libggml-cuda.so -Wl,-soname,libggml-cuda.so -Wl,-rpath,'$ORIGIN' \
    -Wl,--version-script,/forge/link/exports.map -Wl,-z,now -Wl,-z,nodelete -Wl,--gc-sections -Wl,-u,__cxa_pure_virtual \
    /build/o/*.o /build/archs.o /build/floor.o /build/module.o \
    /forge/gcc/lib/gcc/x86_64-linux-gnu/12/libstdc++.a "$cuda/lib/libcudart_static.a" \
    /build/libcuda.so /forge/blas/nvidia/cu13/lib/libcublas.so.13 -lunwind -lpthread -ldl -lrt -lm
sh /forge/check/check-module.sh /forge/out/out/libggml-cuda.so /forge/gcc/bin/x86_64-linux-gnu-readelf /build \
    'libcuda.so.1 libcublas.so.13' 'cublas.*|cu[A-Z].*' 'RUNPATH $ORIGIN'
"""

# What ggml's headers hash to is known in the sandbox only.
DESCRIBE = r"""
abi=$(sed -n 's/.*MMOJO_GGML_ABI "\(.*\)"/\1/p' /forge/source/src/mmojo-abi.h)
printf '%s\n' FACTS | sed "s/@ABI@/$abi/" > /forge/out/out/module.json
"""

# Where they have been run, as who ran them says.
LOADED = "built; loaded by the server, with a stand-in for the driver that has no device; never on a GPU"

# What NVIDIA's driver has to know at least, as cuDriverGetVersion counts: 13.0.
DRIVER = 13000
# Its C++ runtime is gcc's.
LINKED_BY_ZIG = (*linked("linux-x86_64-gnu", cxx=False), "libunwind")


def reach(architecture):
    """The first and the last compute capability, 750 for 7.5, that the code for an architecture is for."""
    first = number_of(architecture) * 10
    name = architecture.removesuffix(VIRTUAL)
    if name.endswith("a"):
        return first, first
    if name.endswith("f") or name == architecture:
        return first, first // 100 * 100 + 90
    return first, 9990


def table(chosen):
    """The C source of what ggml has to know of the architectures that there is code for."""
    rows = ", ".join(f"{{{first}, {last}}}" for first, last in map(reach, chosen))
    return f"""
struct arch {{ int first, last; }};
__attribute__((visibility("hidden"))) const struct arch ggml_cuda_linked_archs[] = {{ {rows}, {{0, 0}} }};
__attribute__((visibility("hidden"))) const char ggml_cuda_linked_archs_text[] = "{",".join(chosen)}";
"""


def described(chosen, fa):
    """What module.json says."""
    return {
        "schema": 1,
        "backend": "cuda",
        "system": "linux-x86_64",
        "needs": "libcuda.so.1",
        "driver": DRIVER,
        "ggml": {**ggml_described(), "abi": "@ABI@"},
        "compiler": {"name": "nvcc", "version": "13.0.88", "host": "gcc 12.2"},
        "architectures": list(chosen),
        "flash_attention": fa,
        "libraries": ["libcublas.so.13", "libcublasLt.so.13"],
    }


@recipe(
    "ggml-cuda.lean",
    variants={"lean-quick": {"archs": FREE}},
    group="module",
    ran=dict.fromkeys(("ggml-cuda.lean", "ggml-cuda.lean-quick"), LOADED),
)
def module(gcc: Package, zig: Package, userland: Package, *, archs: str = DEFAULT, fa: bool = True) -> Spec:
    """ggml's CUDA backend as a module without cuBLAS: for machines that have NVIDIA's toolkit, or cuBLAS 13 from it.

    `archs` are the architectures, as nvcc calls them, `-virtual` for PTX; `fa` is flash attention.
    """
    chosen = architectures(archs)
    facts = dumps(described(chosen, fa), indent=1, sort_keys=True)
    code = {f"arch-{one}": Package("ggml-cuda.arch").with_options(arch=one, fa=fa) for one in chosen}
    inputs = {
        **INPUTS,
        "zig": zig,
        "host": Package("ggml-cuda.host").with_options(fa=fa),
        "link": Files("link"),
        "check": Package("ggml-module.check"),
        **code,
    }
    return (
        build(
            "ggml-cuda-lean",
            userland=userland,
            inputs=inputs,
            env={
                "ARCHS": " ".join(chosen),
                "DRIVER": str(DRIVER),
                **CACHE,
            },
            parallel=True,
            phases={
                "archs": f"cat > /build/archs.c <<'END'{table(chosen)}END",
                "link": LINK,
                "describe": DESCRIBE.replace("FACTS", quote(facts)),
            },
        )
        .containing("host", *code, "link", source=GGML, nvcc=("cudart",), zig=LINKED_BY_ZIG, gcc=("libstdc++-12-dev",))
        .made_of(Component("mmojo-server", licence="Apache-2.0", of="link"))
        .for_systems("linux-x86_64")
    )


@recipe("ggml-cuda.blas", group="module", ran={"ggml-cuda.blas": LOADED})
def blas(userland: Package) -> Spec:
    """cuBLAS 13.1 to lie beside the CUDA module, for machines without NVIDIA's toolkit: 595 MB."""
    install = r"""
mkdir -p /forge/out/out
cp /forge/blas/nvidia/cu13/lib/libcublas.so.13 /forge/blas/nvidia/cu13/lib/libcublasLt.so.13 /forge/out/out
"""
    return (
        build("ggml-cuda-blas", userland=userland, inputs={"blas": Package("nvcc.cublas")}, phases={"install": install})
        .containing("blas")
        .for_systems("linux-x86_64")
    )


@recipe(
    "ggml-cuda",
    variants={"quick": {"archs": FREE}},
    group="module",
    ran=dict.fromkeys(("ggml-cuda", "ggml-cuda.quick"), LOADED),
)
def full(userland: Package, *, archs: str = DEFAULT, fa: bool = True) -> Spec:
    """ggml's CUDA backend as a module, with cuBLAS beside it: for machines that have NVIDIA's driver, and no more.

    `archs` are the architectures, as nvcc calls them, `-virtual` for PTX; `fa` is flash attention.
    """
    install = r"""
mkdir -p /forge/out/out
cp /forge/module/* /forge/blas/* /forge/out/out
"""
    inputs = {
        "module": Package("ggml-cuda.lean").with_options(archs=" ".join(architectures(archs)), fa=fa),
        "blas": Package("ggml-cuda.blas"),
    }
    return (
        build("ggml-cuda", userland=userland, inputs=inputs, phases={"install": install})
        .containing("module", "blas")
        .for_systems("linux-x86_64")
    )
