"""Reads and writes the files of a quantized folder with numpy alone.

Shared by the oracles of this folder. Written from the description of the formats (safetensors, compressed-tensors pack-quantized, PEFT's
adapter), not from flrq's sources and without compressed-tensors, so that it is a reader of its own.
"""
import json
import math
import os
import re

import numpy as np

# bfloat16 has no numpy type: such tensors are read as float32 and written from float32.
DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}


def itemsize(dtype):
    return np.dtype(DTYPES[dtype]).itemsize


class FormatError(Exception):
    pass


def bf16_to_f32(raw):
    return (raw.astype(np.uint32) << 16).view(np.float32)


def f32_to_bf16(x):
    """Round to nearest, ties to even; finite input."""
    u = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def read_safetensors(path):
    """{name: (dtype string, array)}; checks that the tensors tile the file."""
    with open(path, "rb") as f:
        blob = f.read()
    n = int.from_bytes(blob[:8], "little")
    if n > len(blob) - 8 or blob[8:9] != b"{":
        raise FormatError(f"{path}: no safetensors header")
    seen = []

    def once(pairs):
        keys = [k for k, _ in pairs]
        if len(set(keys)) != len(keys):
            raise FormatError(f"{path}: a name occurs twice in the header")
        return dict(pairs)

    header = json.loads(blob[8:8 + n], object_pairs_hook=once)
    out = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        kind = np.dtype(DTYPES[info["dtype"]])
        if end - begin != kind.itemsize * math.prod(info["shape"]):
            raise FormatError(f"{path}: {name}: {end - begin} bytes for shape {info['shape']} of {info['dtype']}")
        a = np.frombuffer(blob, kind, math.prod(info["shape"]), 8 + n + begin).reshape(info["shape"])
        out[name] = (info["dtype"], bf16_to_f32(a) if info["dtype"] == "BF16" else a)
        seen.append((begin, end, name))
    at = 0
    for begin, end, name in sorted(seen):
        if begin != at:
            raise FormatError(f"{path}: {name} begins at {begin}, the tensor before it ends at {at}")
        at = end
    if 8 + n + at != len(blob):
        raise FormatError(f"{path}: {len(blob)} bytes, the header speaks of {8 + n + at}")
    if header.get("__metadata__", {}).get("format") != "pt":
        raise FormatError(f"{path}: __metadata__ lacks format pt")
    return out


def write_safetensors(path, tensors):
    """tensors: {name: (dtype string, array)}"""
    order = sorted(tensors, key=lambda k: (-itemsize(tensors[k][0]), k))
    header, parts, at = {"__metadata__": {"format": "pt"}}, [], 0
    for name in order:
        dtype, a = tensors[name]
        shape = list(np.shape(a))
        raw = np.ascontiguousarray(f32_to_bf16(a) if dtype == "BF16" else np.asarray(a).astype(DTYPES[dtype])).tobytes()
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(raw)]}
        parts.append(raw)
        at += len(raw)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text + b"".join(parts))


def read_json(path):
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def read_checkpoint(folder):
    """{name: (dtype, array)} of a folder, single or sharded."""
    single = os.path.join(folder, "model.safetensors")
    index = single + ".index.json"
    if os.path.exists(single):
        if os.path.exists(index):
            raise FormatError(f"{folder}: model.safetensors and an index: loaders differ in which they take")
        return read_safetensors(single)
    listing = read_json(index)
    if "metadata" not in listing:
        raise FormatError(f"{index}: no metadata (transformers needs the key)")
    out, total = {}, 0
    for shard in sorted(set(listing["weight_map"].values())):
        for name, t in read_safetensors(os.path.join(folder, shard)).items():
            if listing["weight_map"].get(name) != shard:
                raise FormatError(f"{shard} holds {name}, the index says {listing['weight_map'].get(name)}")
            out[name] = t
    gone = set(listing["weight_map"]) - set(out)
    if gone:
        raise FormatError(f"{index} names tensors that no shard holds: {sorted(gone)[:3]}")
    return out


# ---- packed integers -------------------------------------------------------------------------------------------------

def pack_rows(codes, bits):
    """Unsigned codes [rows, n] -> int32 words [rows, ceil(n*bits/32)]: each row is one little-endian bit stream."""
    rows, n = codes.shape
    words = -(-n * bits // 32)
    stream = np.zeros((rows, words * 32), dtype=np.uint8)
    for k in range(bits):
        stream[:, k:n * bits:bits] = (codes >> k) & 1
    return np.packbits(stream, axis=1, bitorder="little").view("<u4").astype("<u4").view("<i4")


def unpack_rows(words, bits, n):
    """The reverse: int32 words -> codes 0..2^bits-1 [rows, n]."""
    want = -(-n * bits // 32)
    if words.shape[1] != want:
        raise FormatError(f"{words.shape[1]} words for {n} codes of {bits} bits, expected {want} (a dense stream)")
    stream = np.unpackbits(np.ascontiguousarray(words, dtype="<i4").view(np.uint8), axis=1, bitorder="little")
    out = np.zeros((words.shape[0], n), dtype=np.int64)
    for k in range(bits):
        out |= stream[:, k:n * bits:bits].astype(np.int64) << k
    return out


def scheme_of(qconfig, module):
    """The weights entry of the config group that covers a module, or None where it is ignored or not matched."""
    def hit(target):
        if target.startswith("re:"):
            return re.match(target[3:], module) is not None
        return target == module or target == "Linear"
    if any(hit(t) for t in qconfig.get("ignore") or []):
        return None
    groups = list(qconfig["config_groups"].values())
    for exact in (True, False):                              # names before the class name
        for g in groups:
            if any(hit(t) and (t != "Linear") == exact for t in g["targets"]):
                return g["weights"]
    return None


def unpack_module(tensors, module, weights):
    """Dense fp64 matrix of one quantized module, from codes, scales and zero points."""
    def need(name, dtypes):
        t = tensors.get(f"{module}.{name}")
        if t is None:
            raise FormatError(f"{module}.{name} is missing")
        if t[0] not in dtypes:
            raise FormatError(f"{module}.{name} is {t[0]}, expected one of {dtypes}")
        return t[1]

    bits, sym = weights["num_bits"], weights["symmetric"]
    out, n = (int(v) for v in need("weight_shape", ("I64",)))
    packed, scale = need("weight_packed", ("I32",)), need("weight_scale", ("F16", "BF16", "F32")).astype(np.float64)
    if weights["strategy"] == "channel":
        group = n
    elif weights["strategy"] == "group":
        group = weights["group_size"]
    else:
        raise FormatError(f"{module}: strategy {weights['strategy']}")
    if n % group:
        raise FormatError(f"{module}: {n} columns in groups of {group}: the format cannot hold a tail group")
    if scale.shape != (out, n // group):
        raise FormatError(f"{module}.weight_scale has shape {scale.shape}, expected {(out, n // group)}")
    if not np.isfinite(scale).all():
        raise FormatError(f"{module}.weight_scale is not finite")
    if packed.shape[0] != out:
        raise FormatError(f"{module}.weight_packed has {packed.shape[0]} rows, expected {out}")
    codes = unpack_rows(packed, bits, n)
    if sym:
        if f"{module}.weight_zero_point" in tensors:
            raise FormatError(f"{module}.weight_zero_point in a symmetric scheme")
        zero = np.full(scale.shape, 1 << (bits - 1), dtype=np.int64)
    else:
        z = need("weight_zero_point", ("I32",))
        if z.shape[1] != n // group:
            raise FormatError(f"{module}.weight_zero_point has {z.shape[1]} columns, expected {n // group}")
        zero = unpack_rows(np.ascontiguousarray(z.T), bits, out).T
    return (codes - np.repeat(zero, group, axis=1)) * np.repeat(scale, group, axis=1)


# ---- the adapter -----------------------------------------------------------------------------------------------------

def read_adapter(folder):
    """{module: (L [out, r], R [r, in], scaling)} and the configuration of a PEFT LoRA folder, fp64."""
    config = read_json(os.path.join(folder, "adapter_config.json"))
    tensors = read_safetensors(os.path.join(folder, "adapter_model.safetensors"))
    prefix = "base_model.model."
    pairs = {}
    for name, (_, a) in tensors.items():
        m = re.fullmatch(re.escape(prefix) + r"(.+)\.lora_([AB])\.weight", name)
        if not m:
            raise FormatError(f"adapter tensor {name} has a name that PEFT does not know")
        pairs.setdefault(m[1], {})[m[2]] = a.astype(np.float64)

    def look_up(pattern, module, default):
        for key, value in (pattern or {}).items():
            if re.match(rf"(.*\.)?({key})$", module):
                return value
        return default

    out = {}
    for module, ab in pairs.items():
        if set(ab) != {"A", "B"}:
            raise FormatError(f"adapter: {module} has lora_{'/'.join(ab)} only")
        rank = look_up(config.get("rank_pattern"), module, config["r"])
        alpha = look_up(config.get("alpha_pattern"), module, config["lora_alpha"])
        if ab["A"].shape[0] != rank or ab["B"].shape[1] != rank:
            raise FormatError(f"adapter: {module} has A {ab['A'].shape}, B {ab['B'].shape}; adapter_config.json says rank {rank}")
        out[module] = (ab["B"], ab["A"], alpha / rank)
    return out, config
