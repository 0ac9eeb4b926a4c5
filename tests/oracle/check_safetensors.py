#!/usr/bin/env python3
"""Compares flrq's safetensors reader and writer with the reference implementation (Python packages safetensors, numpy).

    check_safetensors.py SHARDS_PROGRAM      (tests/oracle/shards.c, built by the tests)

1. Shards written by flrq, read by the reference: names, dtypes, shapes, data, metadata, index.
2. Files written by the reference, read by flrq: the same again in the other direction.
3. Those files written anew by flrq: equal byte for byte when there is one dtype of each size (the reference has a rule
   of its own for the order of dtypes of one size).
4. Damaged files: both must refuse.
Exits 77 (skipped) when the packages are not installed.
"""
import json
import os
import random
import struct
import subprocess
import sys
import tempfile

try:
    import numpy as np
    import safetensors
    import safetensors.numpy
except ImportError as missing:
    print(f"skipped: {missing}; install the Python packages safetensors and numpy to run this check")
    sys.exit(77)

# The formula of shards.c: name, dtype, shape, shard, in its order.
CONTENT = [
    ("model.embed_tokens.weight", "BF16", [17, 8], 0),
    ("model.layers.0.mlp.down_proj.weight_packed", "I32", [5, 3], 0),
    ("model.layers.0.mlp.down_proj.weight_scale", "F16", [5, 1], 0),
    ("model.layers.0.mlp.down_proj.weight_shape", "I64", [2], 0),
    ("model.layers.0.mask", "U8", [7], 0),
    ("model.norm.weight", "F32", [3], 1),
    ("lm_head.weight", "F8_E4M3", [3, 5], 1),
    ("scalar", "F64", [], 1),
    ("empty", "U16", [2, 0, 3], 1),
    ('t\u00e9nseur "quoted" \\', "I16", [1, 2, 1, 2], 1),
]
BYTES = {"BOOL": 1, "U8": 1, "I8": 1, "F8_E4M3": 1, "F16": 2, "BF16": 2, "I16": 2, "U16": 2, "I32": 4, "U32": 4,
         "F32": 4, "I64": 8, "U64": 8, "F64": 8}
FILES = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


def data_of(t):
    name, dtype, shape, _ = CONTENT[t]
    return bytes((13 * t + 7 * i) % 256 for i in range(BYTES[dtype] * int(np.prod(shape, dtype=np.int64))))


def check(condition, text):
    if not condition:
        sys.exit(f"check_safetensors: {text}")


def listed(program, path):
    """What flrq reads: {name: (dtype, shape, data)}."""
    out = subprocess.run([program, "list", path], check=True, capture_output=True).stdout.decode()
    tensors = {}
    for line in out.splitlines():
        name, dtype, shape, data = line.split("\t")
        tensors[name] = (dtype, [int(d) for d in shape.split(",") if d], bytes.fromhex(data))
    return tensors


def main(program):
    with tempfile.TemporaryDirectory() as folder:
        # 1. Ours, read by the reference.
        subprocess.run([program, "write", folder], check=True)
        for shard, file in enumerate(FILES):
            raw = open(os.path.join(folder, file), "rb").read()
            got = dict(safetensors.deserialize(raw))
            want = {CONTENT[t][0]: t for t in range(len(CONTENT)) if CONTENT[t][3] == shard}
            check(set(got) == set(want), f"{file}: tensors {sorted(got)}")
            for name, t in want.items():
                check(got[name]["dtype"] == CONTENT[t][1], f"{name}: dtype {got[name]['dtype']}")
                check(list(got[name]["shape"]) == CONTENT[t][2], f"{name}: shape {got[name]['shape']}")
                check(bytes(got[name]["data"]) == data_of(t), f"{name}: data differ")
            with safetensors.safe_open(os.path.join(folder, file), framework="numpy") as handle:
                metadata = handle.metadata()
                check(metadata == {"format": "pt", "made_by": "shards.c"}, f"{file}: metadata {metadata}")
                if shard == 0:
                    scale = handle.get_tensor("model.layers.0.mlp.down_proj.weight_scale")
                    check(scale.tobytes() == data_of(2) and scale.dtype == np.float16, "weight_scale differs in numpy")
        index = json.load(open(os.path.join(folder, "model.safetensors.index.json")))
        check(index["weight_map"] == {c[0]: FILES[c[3]] for c in CONTENT}, "index: weight_map differs")
        total = sum(len(data_of(t)) for t in range(len(CONTENT)))
        check(index["metadata"]["total_size"] == total, "index: total_size differs")

        # 2. and 3. The reference's, read and written anew by flrq; random shapes and the dtypes of numpy.
        generator = random.Random(1)
        dtypes = {"BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "U16": np.uint16, "I16": np.int16,
                  "F16": np.float16, "U32": np.uint32, "I32": np.int32, "F32": np.float32, "U64": np.uint64,
                  "I64": np.int64, "F64": np.float64}
        path, copy = os.path.join(folder, "reference.safetensors"), os.path.join(folder, "copy.safetensors")
        for round_number in range(20):
            names = sorted(dtypes) if round_number < 10 else ["U8", "F16", "I32", "F64"]
            tensors, want = {}, {}
            for t in range(generator.randrange(12)):
                dtype = generator.choice(names)
                shape = [generator.choice([0, 1, 2, 3, 7]) for _ in range(generator.randrange(5))]
                count = int(np.prod(shape, dtype=np.int64))
                raw = generator.randbytes(count * BYTES[dtype])
                raw = bytes(b & 1 for b in raw) if dtype == "BOOL" else raw
                array = np.frombuffer(raw, dtypes[dtype]).reshape(shape)
                tensors[f"round{round_number}.t{t}"] = array
                want[f"round{round_number}.t{t}"] = (dtype, shape, array.tobytes())
            safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})
            check(listed(program, path) == want, f"round {round_number}: flrq reads something else")
            subprocess.run([program, "copy", path, copy], check=True)
            check(listed(program, copy) == want, f"round {round_number}: the copy differs")
            if round_number >= 10:
                same = open(copy, "rb").read() == open(path, "rb").read()
                check(same, f"round {round_number}: the copy is laid out differently")

        # 4. Damage: cuts, additions, changed lengths and digits. The reference is the judge.
        good = open(os.path.join(folder, FILES[1]), "rb").read()
        header_end = 8 + struct.unpack("<Q", good[:8])[0]
        refused = accepted = 0
        for trial in range(400):
            bad = bytearray(good)
            kind = trial % 4
            if kind == 0:
                bad = bad[:generator.randrange(len(bad))]
            elif kind == 1:
                bad += bytes(generator.randrange(1, 9))
            elif kind == 2:
                bad[generator.randrange(8)] ^= 1 << generator.randrange(8)
            else:
                digits = [i for i in range(8, header_end) if chr(bad[i]).isdigit()]
                bad[generator.choice(digits)] = ord(generator.choice("0123456789"))
            open(path, "wb").write(bad)
            try:
                reference = dict(safetensors.deserialize(bytes(bad)))
            except safetensors.SafetensorError:
                reference = None
            run = subprocess.run([program, "list", path], capture_output=True)
            verdict = "refuses" if reference is None else "accepts"
            check((run.returncode == 0) == (reference is not None),
                  f"trial {trial}: the reference {verdict} the file, flrq says {run.stderr.decode()}")
            refused, accepted = refused + (reference is None), accepted + (reference is not None)
        check(refused > 200 and accepted > 0, f"{refused} refused, {accepted} accepted: not the damage it should be")
        print(f"check_safetensors: safetensors {safetensors.__version__} agrees ({refused} damaged files refused by "
              f"both, {accepted} harmless changes accepted by both)")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
