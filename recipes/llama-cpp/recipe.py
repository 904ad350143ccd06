from mmojo_forge.recipe import Component, Notice, Package, Pypi, Spec, apply_patches, build, recipe, unpack
from recipes.lib.llama_cpp import PURL, PYPI_VERSION, SDIST, SOURCES, VERSION

ARCHIVE = Pypi("llama_cpp_python", PYPI_VERSION, f"{SDIST}.tar.gz")
PUBLIC_DOMAIN = "LicenseRef-Public-Domain"


def unlicensed(path):
    return Notice(path, "This is free and unencumbered software", "unlicense.org")


# What the server and its kit are made of; none of llama.cpp's third-party code comes from elsewhere.
PARTS = (
    Component(
        "llama.cpp",
        VERSION,
        "MIT",
        purl=PURL,
        cpe="ggml:llama.cpp",
        notices=("LICENSE",),
    ),
    Component(
        "cpp-httplib",
        "0.58.0",
        "MIT",
        purl="pkg:github/yhirose/cpp-httplib@v0.58.0",
        cpe="yhirose:cpp-httplib",
        notices=("vendor/cpp-httplib/LICENSE",),
    ),
    Component(
        "nlohmann-json",
        "3.12.0",
        "MIT",
        purl="pkg:github/nlohmann/json@v3.12.0",
        notices=("licenses/LICENSE-jsonhpp",),
    ),
    Component(
        "stb_image",
        "2.30",
        "MIT OR Unlicense",
        purl="pkg:github/nothings/stb",
        cpe="nothings:stb_image.h",
        notices=(Notice("vendor/stb/stb_image.h", "ALTERNATIVE A - MIT License", "SOFTWARE."),),
    ),
    Component(
        "miniaudio",
        "0.11.25",
        "Unlicense OR MIT-0",
        purl="pkg:github/mackron/miniaudio@0.11.25",
        cpe="mackron:miniaudio",
        notices=(Notice("vendor/miniaudio/miniaudio.h", "ALTERNATIVE 2 - MIT No Attribution", "SOFTWARE."),),
    ),
    Component(
        "subprocess.h",
        "",
        "Unlicense",
        purl="pkg:github/sheredom/subprocess.h",
        notices=(unlicensed("vendor/sheredom/subprocess.h"),),
    ),
    Component(
        "xxHash",
        "0.8.3",
        "BSD-2-Clause",
        purl="pkg:github/Cyan4973/xxHash@v0.8.3",
        notices=("vendor/hash/xxhash/LICENSE",),
    ),
    Component(
        "sha1",
        "",
        PUBLIC_DOMAIN,
        notices=(Notice("vendor/hash/sha1/sha1.c", "SHA-1 in C", "100% Public Domain"),),
    ),
    Component("sha256", "", PUBLIC_DOMAIN, notices=("vendor/hash/sha256/LICENSE",)),
    Component("rotate-bits", "", "MIT", notices=("vendor/hash/rotate-bits/LICENSE.md",)),
    Component("base64.hpp", "", "Unlicense", notices=(unlicensed("common/base64.hpp"),)),
    Component(
        "tinyBLAS",
        "",
        "MIT",
        notices=(Notice("ggml/src/ggml-cpu/llamafile/sgemm.cpp", "Copyright 2024 Mozilla", "SOFTWARE."),),
    ),
    Component(
        "YaRN",
        "",
        "MIT",
        notices=(Notice("ggml/src/ggml-cpu/ops.cpp", "YaRN algorithm based on", "MIT licensed."),),
    ),
)


@recipe("llama-cpp")
def llama_cpp(userland: Package) -> Spec:
    """The source of llama.cpp with our patches: arguments, models, pages and certificates inside the program's file."""
    patched = apply_patches("llama-cpp-patched", Package("llama-cpp.upstream"), userland=userland)
    return patched.made_of(Component("mmojo-server", licence="Apache-2.0", of="patches"))


# Each output holds one backend and the headers that all share: what changes elsewhere compiles no GPU code again.
GGML_PARTS = r"""
for backend in cuda vulkan; do
    out=/forge/out/$backend
    mkdir -p "$out/src"
    cp -R /forge/source/ggml/include "$out/include"
    cp /forge/source/ggml/src/*.h /forge/source/ggml/src/mmojo-module.c "$out/src"
    cp -R "/forge/source/ggml/src/ggml-$backend" "$out/src/ggml-$backend"
    chmod -R u+w "$out"
    rm -f "$out"/include/mmojo-* "$out"/src/ggml-cuda/CMakeLists.txt
    sh /forge/source/ggml/mmojo-abi.sh /forge/source/ggml > "$out/src/mmojo-abi.h"
done
"""


@recipe("llama-cpp.ggml")
def ggml(userland: Package, llama_cpp: Package) -> Spec:
    """The source of ggml's GPU backends, an output for each, as modules are built from it."""
    return build(
        "llama-cpp-ggml",
        userland=userland,
        inputs={"source": llama_cpp},
        outputs=("cuda", "vulkan"),
        phases={"install": GGML_PARTS},
    ).containing("source")


@recipe("llama-cpp.upstream")
def upstream() -> Spec:
    """The source of llama.cpp 0.5.0-dev as it is released: server, tools, ggml, web UI sources; no git metadata."""
    return unpack(
        "llama-cpp-source",
        ARCHIVE,
        subpath=SOURCES,
        exclude=(".git", "models/*.gguf*"),
    ).made_of(*PARTS)


@recipe("llama-cpp.gguf")
def gguf() -> Spec:
    """gguf-py and the vocabulary of Llama's tokenizer: with them tests and benchmarks make models of random weights."""
    return unpack(
        "llama-cpp-gguf",
        ARCHIVE,
        subpath=SOURCES,
        include=("gguf-py/gguf", "models/ggml-vocab-llama-spm.gguf"),
    ).made_of(
        Component("gguf-py", "", "MIT"),
        Component("llama-tokenizer", "", "LicenseRef-Llama-2-Community-License"),
    )
