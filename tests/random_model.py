"""Write a llama model with random weights: it loads, generates and costs what a real one of its shape costs.

The vocabulary is llama.cpp's own (models/ggml-vocab-llama-spm.gguf), the writer is llama.cpp's gguf-py; both lie in
the source tree given as first argument. The same arguments give the same bytes.
"""

import argparse
import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np

TOKENIZER_STRINGS = ("tokenizer.ggml.model",)
TOKENIZER_LISTS = ("tokenizer.ggml.tokens", "tokenizer.ggml.scores", "tokenizer.ggml.token_type")
TOKENIZER_IDS = ("tokenizer.ggml.bos_token_id", "tokenizer.ggml.eos_token_id", "tokenizer.ggml.unknown_token_id")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("llama_cpp", type=Path, help="llama.cpp's source tree")
    parser.add_argument("output", type=Path)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--feed-forward", type=int, default=0, help="default: four times the width")
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--kv-heads", type=int, default=0, help="default: as many as heads")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--type", default="Q8_0", help="Q8_0, F16, BF16, F32, Q4_0, ...: what gguf-py can quantise to")
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_args()


def load_gguf(llama_cpp: Path) -> ModuleType:
    """Import gguf-py from the source tree, leaving nothing behind there."""
    sys.dont_write_bytecode = True
    sys.path.insert(0, str(llama_cpp / "gguf-py"))
    sys.modules.setdefault("yaml", ModuleType("yaml"))  # imported for model cards, of which there are none here
    return importlib.import_module("gguf")


def main() -> None:
    args = parse_arguments()
    gguf = load_gguf(args.llama_cpp)

    kind = gguf.GGMLQuantizationType[args.type]
    kv_heads = args.kv_heads or args.heads
    feed_forward = args.feed_forward or 4 * args.width
    kv_width = args.width // args.heads * kv_heads

    writer = gguf.GGUFWriter(args.output, "llama")
    writer.add_block_count(args.layers)
    writer.add_context_length(args.context)
    writer.add_embedding_length(args.width)
    writer.add_feed_forward_length(feed_forward)
    writer.add_head_count(args.heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_rope_dimension_count(args.width // args.heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{args.type}" if args.type != "F32" else "ALL_F32"])

    vocabulary = gguf.GGUFReader(args.llama_cpp / "models" / "ggml-vocab-llama-spm.gguf")
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

    random = np.random.default_rng(args.seed)

    def matrix(name: str, rows: int, columns: int) -> None:
        # One Gaussian block, repeated: drawing billions of numbers would take longer than anything else.
        block = random.standard_normal(min(rows * columns, 1 << 20), dtype=np.float32) / np.float32(columns**0.5)
        values = np.resize(block, (rows, columns))
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)

    def ones(name: str) -> None:
        writer.add_tensor(name, np.ones(args.width, dtype=np.float32))

    matrix("token_embd.weight", tokens, args.width)
    ones("output_norm.weight")
    matrix("output.weight", tokens, args.width)
    for layer in range(args.layers):
        block = f"blk.{layer}"
        ones(f"{block}.attn_norm.weight")
        matrix(f"{block}.attn_q.weight", args.width, args.width)
        matrix(f"{block}.attn_k.weight", kv_width, args.width)
        matrix(f"{block}.attn_v.weight", kv_width, args.width)
        matrix(f"{block}.attn_output.weight", args.width, args.width)
        ones(f"{block}.ffn_norm.weight")
        matrix(f"{block}.ffn_gate.weight", feed_forward, args.width)
        matrix(f"{block}.ffn_up.weight", feed_forward, args.width)
        matrix(f"{block}.ffn_down.weight", args.width, feed_forward)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
