from typing import Literal

from mmojo_forge.recipe import Component, Files, Package, Spec, build, recipe

# What random_model.py is asked for. `1b-q8_0` has the layers of Llama 3.2 1B, but the vocabulary of Llama 2 (32,000
# tokens instead of 128,256) and output weights of its own: 1.1 billion weights all the same.
SHAPES = {
    "tiny": "--layers 2 --width 256 --heads 4 --type Q8_0",
    "1b-q8_0": "--layers 16 --width 2048 --feed-forward 8192 --heads 32 --kv-heads 8 --context 8192 --type Q8_0",
}


@recipe(
    "bench-model.tiny",
    variants={shape: {"shape": shape} for shape in SHAPES if shape != "tiny"},
    group="example",
    ran={
        "bench-model.tiny": "read by the servers and the kit, wherever they ran",
        "bench-model.1b-q8_0": "read by the benchmarks of docs/bench.md",
    },
)
def bench_model(numpy: Package, userland: Package, *, shape: Literal["tiny", "1b-q8_0"] = "tiny", seed: int = 1) -> Spec:
    """A GGUF model of random weights: it costs what a real one of its shape costs, and is the same everywhere."""
    return build(
        f"bench-model-{shape}.gguf",
        userland=userland,
        inputs={
            "numpy": numpy,
            "llama-cpp": Package("llama-cpp.gguf"),
            "generator": Files("random_model.py"),
        },
        # numpy's linear algebra is not used; without this it starts a thread for each core when it is imported.
        env={"PYTHONPATH": "/forge/numpy", "OPENBLAS_NUM_THREADS": "1"},
        phases={
            "generate": f"python3 -B /forge/generator /forge/llama-cpp /forge/out/out {SHAPES[shape]} --seed {seed}",
        },
        # Weights are random numbers; the vocabulary is that of a real tokenizer.
    ).made_of(Component("random-model", licence="Apache-2.0")).containing(**{"llama-cpp": ("llama-tokenizer",)})
