"""What gcc 12 is told of a CPU, and what of OpenBLAS is for it."""

# What it links into programs that are linked statically, for `.containing(gcc=…)`.
LINKED_BY_GCC = ("libc6-dev", "libgcc-12-dev", "libstdc++-12-dev")

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


def options_for(features, microarchitecture):
    """The options for a CPU with these features: every instruction that it has, tuned for what it is."""
    options = [option for feature, option in GCC_OPTIONS.items() if feature in features]
    return " ".join(("-march=x86-64", *options, f"-mtune={GCC_TUNES.get(microarchitecture, 'generic')}"))


def openblas_core(features):
    """The core that OpenBLAS is compiled for, for a CPU with these features; `dynamic` for an old one."""
    if "avx512_bf16" in features:
        return "COOPERLAKE"
    if "avx512f" in features and "avx512vl" in features:
        return "SKYLAKEX"
    return "HASWELL" if "avx2" in features and "fma" in features else "dynamic"
