"""The CPU levels that programs are compiled for: in zig's words, and in those of /proc/cpuinfo."""

X86_LEVELS = {"v2": "x86_64_v2", "v3": "x86_64_v3", "v4x": "x86_64_v4+avx512vbmi+avx512vnni-prefer_256_bit"}
ARM_LEVELS = {
    "v80": "generic",
    "v82": "generic+v8_2a+dotprod+fullfp16",
    "v86": "generic+v8_2a+dotprod+fullfp16+i8mm",
}

# For each system the CPU, as zig calls it, of each level, the first level first.
LEVELS = {
    "linux-x86_64": X86_LEVELS,
    "linux-x86_64-gnu": X86_LEVELS,
    "linux-aarch64": ARM_LEVELS,
    "windows-x86_64": X86_LEVELS,
    "macos-aarch64": {"m1": "apple_m1"},
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
