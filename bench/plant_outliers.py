#!/usr/bin/env python3
"""plant_outliers.py - copies a small Llama folder and plants outlier channels in it, without changing what it computes.

    plant_outliers.py MODEL OUT [--every 32] [--factor 16]

Trained models of billions of parameters have input channels whose activations or weights are many times larger than the
others; models of a few million have not. Here every --every-th channel of each linear input gets weights --factor times
larger (a power of two) and activations as many times smaller: the channel of the norm before it, or the row of the
projection before it, is divided. Exponents change, mantissas do not, so in exact arithmetic the logits are the same, and
in fp32 nearly. bf16 and fp32 tensors, one safetensors file or several.
"""
import argparse
import glob
import json
import os
import shutil
import struct
import sys

WIDTHS = {"BF16": (2, 7, 0xFF), "F32": (4, 23, 0xFF)}  # bytes, mantissa bits, largest exponent


class Tensor:
    """A tensor of a file that is open for changes."""

    def __init__(self, file, entry, base):
        if entry["dtype"] not in WIDTHS:
            sys.exit(f"plant_outliers.py: {entry['dtype']} tensors are not handled, only BF16 and F32")
        self.file, self.shape, self.offset = file, entry["shape"], base + entry["data_offsets"][0]
        self.bytes, self.mantissa, self.largest = WIDTHS[entry["dtype"]]
        self.kind = "<H" if self.bytes == 2 else "<I"

    def scale(self, indices, power):
        """Multiplies elements by 2^power."""
        for i in indices:
            self.file.seek(self.offset + i * self.bytes)
            value, = struct.unpack(self.kind, self.file.read(self.bytes))
            exponent = value >> self.mantissa & 0xFF
            if exponent == 0:  # zero, or so small that it is left alone
                continue
            if not 0 < exponent + power < self.largest:
                sys.exit("plant_outliers.py: a weight leaves the range of its type; use a smaller --factor")
            self.file.seek(self.offset + i * self.bytes)
            self.file.write(struct.pack(self.kind, value + (power << self.mantissa)))

    def scale_columns(self, columns, power):
        rows, cols = self.shape
        for j in columns:
            self.scale(range(j, rows * cols, cols), power)

    def scale_rows(self, rows, power):
        cols = self.shape[1] if len(self.shape) > 1 else 1
        for i in rows:
            self.scale(range(i * cols, (i + 1) * cols), power)


def open_tensors(folder):
    tensors, files = {}, []
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        file = open(path, "r+b")
        files.append(file)
        length, = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        for name, entry in header.items():
            if name != "__metadata__":
                tensors[name] = Tensor(file, entry, 8 + length)
    return tensors, files


def plant(tensors, config, every, power):
    heads, kv_heads = config["num_attention_heads"], config.get("num_key_value_heads", config["num_attention_heads"])
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    for layer in range(config["num_hidden_layers"]):
        def weight(name):
            return tensors[f"model.layers.{layer}.{name}.weight"]
        hidden = range(every // 2 + layer % (every // 2), config["hidden_size"], every)
        for norm, readers in (("input_layernorm", ("q_proj", "k_proj", "v_proj")),
                              ("post_attention_layernorm", ("gate_proj", "up_proj"))):
            weight(norm).scale_rows(hidden, -power)
            for reader in readers:
                weight(("self_attn." if norm[0] == "i" else "mlp.") + reader).scale_columns(hidden, power)
        values = range(every // 2, kv_heads * head_dim, every)
        weight("self_attn.v_proj").scale_rows(values, -power)
        weight("self_attn.o_proj").scale_columns(
            [(v // head_dim * (heads // kv_heads) + copy) * head_dim + v % head_dim
             for v in values for copy in range(heads // kv_heads)], power)
        inner = range(every // 2, config["intermediate_size"], every)
        weight("mlp.up_proj").scale_rows(inner, -power)
        weight("mlp.down_proj").scale_columns(inner, power)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--every", type=int, default=32)
    parser.add_argument("--factor", type=int, default=16)
    options = parser.parse_args()
    if options.every < 2 or options.factor < 2 or options.factor & options.factor - 1:
        parser.error("--every is at least 2, --factor a power of two")
    with open(os.path.join(options.model, "config.json")) as f:
        config = json.load(f)
    if config.get("model_type") != "llama":
        sys.exit(f"plant_outliers.py: {options.model} is no Llama")
    if os.path.exists(options.out):
        sys.exit(f"plant_outliers.py: {options.out} exists")
    shutil.copytree(options.model, options.out)
    tensors, files = open_tensors(options.out)
    plant(tensors, config, options.every, options.factor.bit_length() - 1)
    for file in files:
        file.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
