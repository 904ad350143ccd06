"""Write a llama model with random weights: it loads, generates and costs what a real one of its shape costs.

The vocabulary is llama.cpp's own (models/ggml-vocab-llama-spm.gguf), the writer is llama.cpp's gguf-py; both lie in
the tree given as first argument. The same arguments give the same bytes on every machine: weights are made by integer
arithmetic only, for numpy computes floating-point numbers by whatever vector instructions a CPU has, and those differ
in the last bit. A weight is an integer from -127 to 127 by a power of two that depends on the width of its matrix
(-8 to 7 for Q4_0). Q8_0 blocks, F16, BF16 and F32 all hold such numbers exactly: those four types are the same model.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOKENIZER_STRINGS = ("tokenizer.ggml.model",)
TOKENIZER_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
TOKENIZER_IDS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id")
TYPES = ("Q8_0", "Q4_0", "F16", "BF16", "F32")
BLOCK = 32
WORD = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Tensor:
    """A matrix of random weights, or (with `rows` 0) a vector of ones."""

    name: str
    rows: int
    columns: int


def parse_arguments() -> argparse.Namespace:
    """The command line, with its defaults filled in."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path, help="llama.cpp's source tree, or what llama-cpp.gguf keeps of it")
    parser.add_argument("output", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=0, help="default: four times the width")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=0, help="default: as many as heads")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--type", default="Q8_0", choices=TYPES)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.feed_forward = args.feed_forward or 4 * args.width
    args.kv_heads = args.kv_heads or args.heads
    return args


def load_gguf(llama_cpp: Path) -> Any:
    """gguf-py of the source tree; leaves nothing behind there."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(llama_cpp / "gguf-py"))
    sys.modules.setdefault("yaml", ModuleType("yaml"))  # imported for model cards, of which there are none here
    return importlib.import_module("gguf")


def random_bytes(count: int, stream: int) -> NDArray[np.uint8]:
    """`count` bytes of SplitMix64 that starts at the state `stream`; `count` is a multiple of 8."""
    words = np.arange(1, count // 8 + 1, dtype="<u8")
    words *= np.uint64(0x9E3779B97F4A7C15)
    words += np.uint64(stream)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        words ^= words >> np.uint64(shift)
        words *= np.uint64(factor)
    words ^= words >> np.uint64(31)
    return words.view(np.uint8)


def stream_of(seed: int, index: int) -> int:
    """The state at which the weights of a model's tensor number `index` start."""
    # Two rounds of a mixer, so that neighbours start far apart on the one cycle of 2**64 states.
    state = (seed << 32) + index + 1
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        state = (state ^ (state >> 31)) * factor & WORD
    return state ^ (state >> 29)


def exponent_of(columns: int) -> int:
    """`e` for weights `-127 … 127 by 2**-e`: a row's product with a vector is then about as large as the vector."""
    return 7 + (columns.bit_length() - 1) // 2


def half(exponent: int) -> NDArray[np.uint8]:
    """The two bytes of 2**-exponent as F16; `exponent` is at most 14."""
    return np.array([(15 - exponent) << 10], dtype="<u2").view(np.uint8)


def q4_0(rows: int, columns: int, stream: int) -> NDArray[np.uint8]:
    """Blocks of one scale and 32 weights of four bits."""
    quants = random_bytes(rows * columns // 2, stream).reshape(-1, BLOCK // 2)
    blocks = np.empty((len(quants), 2 + BLOCK // 2), dtype=np.uint8)
    blocks[:, :2] = half(exponent_of(columns) - 4)
    blocks[:, 2:] = quants
    return blocks.reshape(rows, -1)


def weights(kind: str, rows: int, columns: int, stream: int) -> NDArray[Any]:
    """A matrix as it lies in the file: bytes for the types that numpy has no numbers for."""
    if kind == "Q4_0":
        return q4_0(rows, columns, stream)
    quants = random_bytes(rows * columns, stream).view(np.int8)
    np.maximum(quants, -127, out=quants)  # llama.cpp never makes -128, and some of its kernels rely on that
    if kind == "Q8_0":
        blocks = np.empty((rows * columns // BLOCK, 2 + BLOCK), dtype=np.uint8)
        blocks[:, :2] = half(exponent_of(columns))
        blocks[:, 2:] = quants.view(np.uint8).reshape(-1, BLOCK)
        return blocks.reshape(rows, -1)
    # Exact: seven bits by a power of two, in types of at least eight bits of precision and enough range.
    numbers = quants.reshape(rows, columns).astype("<f4")
    numbers *= np.float32(2.0 ** -exponent_of(columns))
    if kind == "BF16":
        return (numbers.view("<u4") >> np.uint32(16)).astype("<u2").view(np.uint8)
    return numbers.astype("<f2") if kind == "F16" else numbers


def tensors(args: argparse.Namespace, tokens: int) -> Iterator[Tensor]:
    """All tensors of a llama model, in the order of the file."""
    kv_width = args.width // args.heads * args.kv_heads
    yield Tensor("token_embd.weight", tokens, args.width)
    yield Tensor("output_norm.weight", 0, args.width)
    yield Tensor("output.weight", tokens, args.width)
    for layer in range(args.layers):
        block = f"blk.{layer}"
        yield Tensor(f"{block}.attn_norm.weight", 0, args.width)
        yield Tensor(f"{block}.attn_q.weight", args.width, args.width)
        yield Tensor(f"{block}.attn_k.weight", kv_width, args.width)
        yield Tensor(f"{block}.attn_v.weight", kv_width, args.width)
        yield Tensor(f"{block}.attn_output.weight", args.width, args.width)
        yield Tensor(f"{block}.ffn_norm.weight", 0, args.width)
        yield Tensor(f"{block}.ffn_gate.weight", args.feed_forward, args.width)
        yield Tensor(f"{block}.ffn_up.weight", args.feed_forward, args.width)
        yield Tensor(f"{block}.ffn_down.weight", args.width, args.feed_forward)


def add_facts(writer: Any, gguf: Any, args: argparse.Namespace) -> None:
    """What llama.cpp must know of the architecture."""
    writer.add_block_count(args.layers)
    writer.add_context_length(args.context)
    writer.add_embedding_length(args.width)
    writer.add_feed_forward_length(args.feed_forward)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(args.kv_heads)
    writer.add_rope_dimension_count(args.width // args.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{args.type}" if args.type != "F32" else "ALL_F32"])


def add_vocabulary(writer: Any, gguf: Any, path: Path) -> int:
    """Copy the vocabulary; the number of its tokens."""
    vocabulary = gguf.GGUFReader(path)
    fields = {name: vocabulary.fields[name].contents() for name in TOKENIZER_STRINGS + TOKENIZER_LISTS}
    for name in TOKENIZER_STRINGS:
        writer.add_string(name, fields[name])
    for name in TOKENIZER_LISTS:
        writer.add_array(name, fields[name])
    for name in TOKENIZER_IDS:
        if name in vocabulary.fields:
            writer.add_uint32(name, vocabulary.fields[name].contents())
    tokens = len(fields["tokenizer.ggml.tokens"])
    writer.add_vocab_size(tokens)
    return tokens


def main() -> None:
    """Write the file, one tensor in memory at a time."""
    args = parse_arguments()
    gguf = load_gguf(args.llama_cpp)
    writer = gguf.GGUFWriter(args.output, "llama")
    add_facts(writer, gguf, args)
    tokens = add_vocabulary(writer, gguf, args.llama_cpp / "models" / "ggml-vocab-llama-spm.gguf")

    everything = list(tensors(args, tokens))
    for tensor in everything:
        kind = gguf.GGMLQuantizationType[args.type if tensor.rows else "F32"]
        shape = (tensor.rows, tensor.columns) if tensor.rows else (tensor.columns,)
        block, size = gguf.GGML_QUANT_SIZES[kind]
        count = max(tensor.rows, 1) * tensor.columns
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.float32), count // block * size, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for index, tensor in enumerate(everything):
        if tensor.rows:
            data = weights(args.type, tensor.rows, tensor.columns, stream_of(args.seed, index))
        else:
            data = np.ones(tensor.columns, dtype="<f4")
        writer.write_tensor_data(data)
    writer.close()


if __name__ == "__main__":
    main()
