#!/usr/bin/env python3
"""Writes a quantized folder as flrq would, with numpy: round to nearest, the low-rank part by SVD of what is left.

It exists to find out what the readers (transformers, compressed-tensors, peft) accept, and to show that check_output.py can fail. It is no
model of flrq's quality.

    python tests/oracle/fake_output.py SOURCE OUT --bits 2|3|4|8 [--asym] [--group N|channel] [--ranks 3,0,1,2] [--dtype F16|BF16|F32]
                                       [--mixed] [--sharded] [--break code|scale|zero|shape|rank_pattern|alpha|lora|copy]

--ranks is cycled over the modules; 0 leaves a module out of the adapter, "none" writes no adapter. --mixed uses 8 bits for the down
projections (fc2 of OPT) of the first block. --sharded writes one shard for each block and one for the rest. --break writes one deliberate mistake.
"""
import argparse
import json
import os
import re
import shutil
import sys

try:
    import numpy as np
except ImportError as e:
    print(f"skipped: this needs numpy ({e})")
    sys.exit(77)

from flrq_formats import itemsize, pack_rows, read_checkpoint, read_json, write_safetensors

COPIED = ("generation_config.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")


def short_scale(s):
    """Nearest value with 8 significant bits: exact in fp16 and bf16 alike (sizes here are far from fp16's limits)."""
    m, e = np.frexp(s)
    return np.ldexp(np.round(m * 256) / 256, e)


def quantize(w, bits, sym, group):
    """codes [out, n], scale [out, G], zero [out, G] by round to nearest."""
    out, n = w.shape
    g = w.reshape(out, n // group, group)
    top = (1 << bits) - 1
    if sym:
        mid = 1 << (bits - 1)
        scale = np.abs(g).max(2) / (mid - 0.5 if bits > 2 else 1.5)
        scale = short_scale(np.where(scale > 0, scale, 1.0))
        zero = np.full(scale.shape, mid)
    else:
        lo, hi = np.minimum(g.min(2), 0), np.maximum(g.max(2), 0)
        scale = (hi - lo) / top
        scale = short_scale(np.where(scale > 0, scale, 1.0))
        zero = np.clip(np.round(-lo / scale), 0, top).astype(int)
    codes = np.clip(np.round(g / scale[:, :, None]) + zero[:, :, None], 0, top).astype(np.int64)
    return codes.reshape(out, n), scale, zero


def dequantize(codes, scale, zero, group):
    return (codes - np.repeat(zero, group, 1)) * np.repeat(scale, group, 1)


def main(argv=None):
    ap = argparse.ArgumentParser(description="write a quantized folder with numpy")
    ap.add_argument("source")
    ap.add_argument("out")
    ap.add_argument("--bits", type=int, default=4, choices=(2, 3, 4, 8))
    ap.add_argument("--asym", action="store_true")
    ap.add_argument("--group", default="8")
    ap.add_argument("--ranks", default="3,0,1,2,5")
    ap.add_argument("--dtype", default="F16", choices=("F16", "BF16", "F32"))
    ap.add_argument("--mixed", action="store_true")
    ap.add_argument("--sharded", action="store_true")
    ap.add_argument("--break", dest="fault", default="", choices=("", "code", "scale", "zero", "shape", "rank_pattern", "alpha", "lora", "copy"))
    a = ap.parse_args(argv)

    source = read_checkpoint(a.source)
    config = read_json(os.path.join(a.source, "config.json"))
    modules = sorted(k[:-7] for k, (_, v) in source.items()
                     if k.endswith(".weight") and v.ndim == 2 and re.search(r"\.layers\.\d+\.", k))
    os.makedirs(a.out)
    tensors = {}
    for name, (dtype, v) in source.items():                  # what is not quantized is copied as it is
        if name[:-7] not in modules or not name.endswith(".weight"):
            tensors[name] = (dtype, v)

    wide = [m for m in modules if a.mixed and re.search(r"layers\.0\..*(down_proj|fc2)$", m)]
    ranks = [] if a.ranks == "none" else [int(r) for r in a.ranks.split(",")]
    adapter, of = {}, {}
    for k, m in enumerate(modules):
        w = source[m + ".weight"][1].astype(np.float64)
        bits = 8 if m in wide else a.bits
        group = w.shape[1] if a.group == "channel" else int(a.group)
        if w.shape[1] % group:
            raise SystemExit(f"{m}: {w.shape[1]} columns cannot be cut in groups of {group}")
        codes, scale, zero = quantize(w, bits, not a.asym, group)
        r = ranks[k % len(ranks)] if ranks else 0
        if r:
            u, s, vt = np.linalg.svd(w - dequantize(codes, scale, zero, group))
            adapter[m] = (u[:, :r] * np.sqrt(s[:r]), np.sqrt(s[:r])[:, None] * vt[:r])
            of[m] = r
        if k == 2:
            if a.fault == "code":
                codes[1, 3] ^= 1
            if a.fault == "scale":
                scale[0, 0] *= 1.25
            if a.fault == "zero":
                zero[1, 0] ^= 1
        tensors[m + ".weight_packed"] = ("I32", pack_rows(codes, bits))
        tensors[m + ".weight_scale"] = (a.dtype, scale)
        shape = list(w.shape)
        if a.fault == "shape" and k == 2:
            shape[1] -= 1
        tensors[m + ".weight_shape"] = ("I64", np.array(shape))
        if a.asym:
            tensors[m + ".weight_zero_point"] = ("I32", np.ascontiguousarray(pack_rows(np.ascontiguousarray(zero.T), bits).T))
    if a.fault == "copy":
        name = sorted(k for k in tensors if "norm" in k and k.endswith(".weight"))[0]
        v = tensors[name][1].copy()
        v[0] += 0.25
        tensors[name] = (tensors[name][0], v)
    if a.sharded:
        block = {k: int(m[1]) + 1 if (m := re.search(r"\.layers\.(\d+)\.", k)) else 0 for k in tensors}
        count = max(block.values()) + 1
        name_of = {k: f"model-{b + 1:05d}-of-{count:05d}.safetensors" for k, b in block.items()}
        for shard in sorted(set(name_of.values())):
            write_safetensors(os.path.join(a.out, shard), {k: v for k, v in tensors.items() if name_of[k] == shard})
        with open(os.path.join(a.out, "model.safetensors.index.json"), "w") as f:
            json.dump({"metadata": {"total_size": sum(np.asarray(v).size * itemsize(d) for d, v in tensors.values())}, "weight_map": name_of}, f, indent=2)
    else:
        write_safetensors(os.path.join(a.out, "model.safetensors"), tensors)

    def group_entry(targets, bits):
        return {"targets": targets,
                "weights": {"num_bits": bits, "type": "int", "symmetric": not a.asym,
                            "strategy": "channel" if a.group == "channel" else "group", "group_size": None if a.group == "channel" else int(a.group),
                            "dynamic": False, "actorder": None, "block_structure": None, "observer": "minmax", "observer_kwargs": {}},
                "input_activations": None, "output_activations": None}

    # every Linear outside the blocks: the head, and the projections of OPT 350M
    ignore = ["lm_head"] + sorted(k[:-7] for k, (_, v) in source.items() if k.endswith(".weight") and ".project_" in k)
    groups = {"group_0": group_entry(["Linear"], a.bits)}
    if wide:
        groups = {"group_0": group_entry([m for m in modules if m not in wide], a.bits), "group_1": group_entry(wide, 8)}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors", "version": "0.18.0", "format": "pack-quantized", "quantization_status": "compressed",
        "global_compression_ratio": None, "kv_cache_scheme": None, "ignore": ignore, "config_groups": groups}
    with open(os.path.join(a.out, "config.json"), "w") as f:
        json.dump(config, f, indent=2)
    for f in COPIED:
        if os.path.exists(os.path.join(a.source, f)):
            shutil.copy(os.path.join(a.source, f), a.out)

    if adapter:
        top = max(of.values())
        pattern = {m: r for m, r in of.items() if r != top}
        lora = {}
        for m, (left, right) in adapter.items():
            lora[f"base_model.model.{m}.lora_A.weight"] = (a.dtype, right)
            lora[f"base_model.model.{m}.lora_B.weight"] = (a.dtype, left)
        if a.fault == "lora":
            name = sorted(lora)[0]
            lora[name] = (a.dtype, lora[name][1] * 1.01)
        ac = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "..", "inference_mode": True, "r": top, "lora_alpha": top,
              "lora_dropout": 0.0, "bias": "none", "fan_in_fan_out": False, "use_rslora": False, "use_dora": False, "init_lora_weights": True,
              "modules_to_save": None, "layers_to_transform": None, "layers_pattern": None, "target_modules": sorted(adapter),
              "rank_pattern": dict(pattern), "alpha_pattern": dict(pattern)}
        if a.fault == "rank_pattern":
            ac["rank_pattern"].pop(sorted(pattern)[0])
        if a.fault == "alpha":
            ac["alpha_pattern"].pop(sorted(pattern)[0])
        os.makedirs(os.path.join(a.out, "lowrank"))
        write_safetensors(os.path.join(a.out, "lowrank", "adapter_model.safetensors"), lora)
        with open(os.path.join(a.out, "lowrank", "adapter_config.json"), "w") as f:
            json.dump(ac, f, indent=2)
    print(f"{a.out}: {len(modules)} matrices, {a.bits} bits{' (mixed)' if wide else ''}, {'asym' if a.asym else 'sym'}, group {a.group}, ranks of {len(of)} modules{', broken: ' + a.fault if a.fault else ''}")


if __name__ == "__main__":
    main()
