from mmojo_forge.recipe import Pypi, Spec, recipe, unpack

VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{VERSION}"


@recipe("llama-cpp")
def llama_cpp() -> Spec:
    """The source of llama.cpp 0.5.0-dev: server, tools, ggml, web UI sources; no git metadata."""
    return unpack(
        "llama-cpp-source",
        Pypi("llama_cpp_python", VERSION, f"{SDIST}.tar.gz"),
        subpath=f"{SDIST}/vendor/llama.cpp",
        exclude=(".git", "models/*.gguf*"),
    )


@recipe("llama-cpp.gguf")
def gguf() -> Spec:
    """gguf-py and the vocabulary of Llama's tokenizer: with them tests and benchmarks make models of random weights."""
    return unpack(
        "llama-cpp-gguf",
        Pypi("llama_cpp_python", VERSION, f"{SDIST}.tar.gz"),
        subpath=f"{SDIST}/vendor/llama.cpp",
        include=("gguf-py/gguf", "models/ggml-vocab-llama-spm.gguf"),
    )
