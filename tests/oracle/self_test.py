#!/usr/bin/env python3
"""Shows that check_output.py passes what is right and fails what is wrong, on folders made by fake_output.py.

    python tests/oracle/self_test.py [--quick] [--keep DIR]

Right: every model of tests/data/families at several bit widths, which transformers, compressed-tensors and peft must load without a missing or
unexpected key. Wrong: one deliberate mistake each (fake_output.py --break), and a program that reads a code, a scale or a zero point
wrongly: this file stands in for the program (eval with --dump-logits) and reads the folder without the mistake.

Exit code: 0 as expected, 1 not, 77 when a package is missing. Widths that the installed compressed-tensors cannot read are listed as skipped.
"""
import argparse
import contextlib
import io
import os
import stat
import sys
import tempfile

try:
    import numpy as np
    import torch
    import transformers
    import compressed_tensors
    import peft
except ImportError as e:
    print(f"skipped: this needs numpy, torch, transformers, compressed-tensors and peft ({e})")
    sys.exit(77)

import check_output
import fake_output
from flrq_formats import read_adapter, read_checkpoint, read_json, scheme_of, unpack_module

HERE = os.path.dirname(os.path.abspath(__file__))
FAMILIES = os.path.join(HERE, "..", "data", "families")
GROUPS = {"llama_bias": 12, "llama_bf16": 16, "llama_f16_sharded": 16, "mistral": 16, "opt": 16, "opt_350m": 4, "qwen2": 8, "qwen2_window": 8, "qwen3": 16}


def stand_in(argv):
    """eval OUT --tokens T --ctx N --dump-logits L [--no-lowrank], with OUT replaced by the folder in argv[0]."""
    good, source, rest = argv[0], argv[1], argv[2:]
    ap = argparse.ArgumentParser()
    ap.add_argument("command")
    ap.add_argument("out")
    ap.add_argument("--tokens")
    ap.add_argument("--ctx", type=int)
    ap.add_argument("--dump-logits")
    ap.add_argument("--no-lowrank", action="store_true")
    a = ap.parse_args(rest)
    torch.set_num_threads(1)
    tensors, qconfig = read_checkpoint(good), read_json(os.path.join(good, "config.json"))["quantization_config"]
    adapter = read_adapter(os.path.join(good, "lowrank"))[0] if not a.no_lowrank else {}
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    own = dict(model.named_parameters())
    for k in tensors:
        if k.endswith(".weight_packed"):
            m = k[:-len(".weight_packed")]
            w = unpack_module(tensors, m, scheme_of(qconfig, m))
            own[m + ".weight"].data.copy_(torch.from_numpy(w + adapter[m][0] @ adapter[m][1] if m in adapter else w))
    np.save(a.dump_logits, check_output.logits_of(model, np.load(a.tokens).reshape(-1, a.ctx)))
    return 0


def program(folder, good, source):
    path = os.path.join(folder, "program")
    with open(path, "w") as f:
        f.write(f"#!/bin/sh\nexec '{sys.executable}' '{os.path.abspath(__file__)}' --stand-in '{good}' '{source}' \"$@\"\n")
    os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)
    return path


def quiet(f, *a):
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(io.StringIO()):
        rc = f(*a)
    return rc, text.getvalue()


def main():
    if sys.argv[1:2] == ["--stand-in"]:
        return stand_in(sys.argv[2:])
    ap = argparse.ArgumentParser(description="test of check_output.py")
    ap.add_argument("--quick", action="store_true", help="one family, one width")
    ap.add_argument("--keep", help="folder for the outputs, kept")
    a = ap.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__}, peft {peft.__version__}")
    bad = 0
    with tempfile.TemporaryDirectory() as t:
        root = a.keep or t

        def one(name, source, options, expect, bin=None):
            nonlocal bad
            out = os.path.join(root, name)
            quiet(fake_output.main, [source, out] + options)
            rc, text = quiet(check_output.main, ["--source", source, "--out", out] + (["--bin", bin] if bin else []))
            good = rc in expect
            bad += not good
            why = [line.strip() for line in text.splitlines() if "FAIL" in line or line.startswith("skipped")]
            print(f"{'ok ' if good else 'BAD'} {name:34s} exit {rc:2d}  {why[0][:150] if rc and why else ''}")
            if not good:
                print(text)

        print("-- right ones")
        for family in ["llama"] if a.quick else sorted(os.listdir(FAMILIES)):
            source, g = os.path.join(FAMILIES, family), str(GROUPS.get(family, 32))
            for label, options in (("sym4", ["--bits", "4"]),) if a.quick else (
                    ("sym2", ["--bits", "2"]), ("sym3", ["--bits", "3"]), ("sym4", ["--bits", "4"]), ("asym4", ["--bits", "4", "--asym"]),
                    ("asym8", ["--bits", "8", "--asym"]), ("mixed", ["--bits", "4", "--mixed"])):
                one(f"{family}-{label}", source, options + ["--group", g], (0, 77))
            if not a.quick:
                one(f"{family}-channel", source, ["--bits", "4", "--group", "channel", "--ranks", "none"], (0,))
                one(f"{family}-bf16", source, ["--bits", "8", "--group", g, "--dtype", "BF16"], (0,))
        one("llama-sharded", os.path.join(FAMILIES, "llama"), ["--bits", "4", "--sharded"], (0,))
        print("-- wrong ones")
        source = os.path.join(FAMILIES, "llama")
        width = ["--bits", "4", "--asym"] if compressed_tensors.__version__ < "0.18" else ["--bits", "4"]
        one("good", source, width, (0,))
        bin = program(root, os.path.join(root, "good"), source)
        one("good-with-program", source, width, (0,), bin)
        for fault in ("code", "scale", "zero") if "--asym" in width else ("code", "scale"):
            one(f"program-misreads-{fault}", source, width + ["--break", fault], (1,), bin)
        for fault in ("shape", "rank_pattern", "alpha", "copy"):
            one(f"broken-{fault}", source, width + ["--break", fault], (1,))
        one("program-misreads-lora", source, width + ["--break", "lora"], (1,), bin)
    print("as expected" if not bad else f"{bad} not as expected")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
