"""The llama.cpp that everything here is built from: its versions, and how CMake is told to build it."""

# The Python package that has the sources, and what they say of themselves; git's metadata is left out on purpose.
PYPI_VERSION = "0.3.36"
SDIST = f"llama_cpp_python-{PYPI_VERSION}"
SOURCES = f"{SDIST}/vendor/llama.cpp"
VERSION = "0.5.0-dev"
BUILD_NUMBER = "0"
BUILD_COMMIT = "0c1e57098"
GGML_VERSION = "0.25.3"
PURL = f"pkg:github/ggml-org/llama.cpp@{BUILD_COMMIT}"

# What is built: the server and what is as fast as its CPU level for each level, the other tools once per system.
PROGRAMS = {"mmojo-server": "llama-server", "llama-bench": "llama-bench", "llama-cli": "llama-cli"}
TOOLS = {"llama-quantize": "llama-quantize", "llama-gguf-split": "llama-gguf-split"}


def off(*features):
    """These features of ggml turned off: `off("AVX2")`."""
    return tuple(f"-DGGML_{feature}=OFF" for feature in features)


# What the compiler's options decide, or the CPU levels, is none of ggml's business.
NO_CPU_FEATURES = off("SSE42", "AVX", "AVX2", "BMI2", "FMA", "F16C")

# A server with TLS, and nothing that is not asked for.
SERVER = (
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
)


def described():
    """What build-info.json says of it."""
    return {"version": VERSION, "build": int(BUILD_NUMBER), "commit": BUILD_COMMIT}


def ggml_described():
    """What module.json says of ggml."""
    return {"version": GGML_VERSION, "commit": BUILD_COMMIT}
