#!/usr/bin/env python3
"""Compares `flrq tokenize` with the package `tokenizers` and with sentencepiece on whole text files.

    python tests/oracle/check_text.py BIN MODEL_DIR TEXTFILE...

For every file, with special tokens and with --no-special, the ids of `BIN tokenize MODEL_DIR --text FILE -o ids.npy` must equal
those of each reference that MODEL_DIR has a file for: tokenizer.json (tokenizers), tokenizer.model (sentencepiece, bos in front unless
tokenizer_config.json says add_bos_token false), vocab.json + merges.txt without those (transformers' GPT2Tokenizer).
sentencepiece does not know special tokens inside a text: a file that holds one is not compared with it, and this is said.

Exit code: 0 equal, 1 different, 77 when a package is missing or there is nothing to compare with.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError as e:
    print(f"skipped: this needs numpy ({e})")
    sys.exit(77)


def load_json(path):
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as f:
        return json.load(f)


def references(folder, missing):
    """[(name, encode(text, special) -> ids or None)]"""
    out = []
    path = os.path.join(folder, "tokenizer.json")
    if os.path.exists(path):
        try:
            from tokenizers import Tokenizer, __version__
            tok = Tokenizer.from_file(path)
            tok.no_truncation()
            tok.no_padding()
            out.append((f"tokenizers {__version__}", lambda t, s: tok.encode(t, add_special_tokens=s).ids))
        except ImportError as e:
            missing.append(str(e))
    path = os.path.join(folder, "tokenizer.model")
    if os.path.exists(path):
        try:
            import sentencepiece as spm
            sp = spm.SentencePieceProcessor(model_file=path)
            config = load_json(os.path.join(folder, "tokenizer_config.json"))
            front = [sp.bos_id()] if config.get("add_bos_token", True) and sp.bos_id() >= 0 else []
            back = [sp.eos_id()] if config.get("add_eos_token", False) and sp.eos_id() >= 0 else []
            control = [sp.id_to_piece(i) for i in range(sp.get_piece_size()) if sp.is_control(i) or sp.is_unknown(i)]

            def encode(t, s):
                if any(c in t for c in control) and os.path.exists(os.path.join(folder, "tokenizer.json")):
                    return None
                return front + sp.encode(t) + back if s else sp.encode(t)
            out.append((f"sentencepiece {spm.__version__}", encode))
        except ImportError as e:
            missing.append(str(e))
    if not out and not missing and os.path.exists(os.path.join(folder, "merges.txt")):
        try:
            import transformers
            transformers.logging.set_verbosity_error()
            tok2 = transformers.AutoTokenizer.from_pretrained(folder)
            out.append((f"transformers {transformers.__version__}", lambda t, s: tok2(t, add_special_tokens=s)["input_ids"]))
        except ImportError as e:
            missing.append(str(e))
    return out


def compare(want, got, text, name):
    """Says where two lists of ids part; True when they are equal."""
    want, got = np.asarray(want, dtype=np.int64), np.asarray(got, dtype=np.int64)
    if want.shape == got.shape and (want == got).all():
        return True
    n = min(len(want), len(got))
    diff = np.nonzero(want[:n] != got[:n])[0]
    k = int(diff[0]) if len(diff) else n
    print(f"  DIFFERENT from {name}: {len(got)} ids, expected {len(want)}; first difference at id {k}")
    print(f"    got      {got[max(0, k - 3):k + 8].tolist()}")
    print(f"    expected {want[max(0, k - 3):k + 8].tolist()}")
    part = text[max(0, int(len(text) * k / max(1, len(want))) - 60):][:120]
    print(f"    text near there (by proportion): {ascii(part)}")
    return False


def main():
    ap = argparse.ArgumentParser(description="compare flrq tokenize with tokenizers and sentencepiece")
    ap.add_argument("bin")
    ap.add_argument("model")
    ap.add_argument("text", nargs="+")
    a = ap.parse_args()
    missing = []
    refs = references(a.model, missing)
    if missing or not refs:
        print("skipped: " + ("; ".join(missing) or f"{a.model} has no tokenizer that a package here can read"))
        return 77
    bad = 0
    for path in a.text:
        with open(path, encoding="utf-8", newline="") as f:
            text = f.read()
        for special in (True, False):
            with tempfile.TemporaryDirectory() as t:
                ids = os.path.join(t, "ids.npy")
                cmd = [a.bin, "tokenize", a.model, "--text", path, "-o", ids] + ([] if special else ["--no-special"])
                run = subprocess.run(cmd, capture_output=True, text=True)
                if run.returncode:
                    print(f"{' '.join(cmd)}\n  exit code {run.returncode}: {run.stderr.strip()}")
                    bad += 1
                    continue
                got = np.load(ids)
            if got.dtype != np.int32 or got.ndim != 1:
                print(f"  {ids}: dtype {got.dtype}, shape {got.shape}; expected int32 and one axis")
                bad += 1
                continue
            for name, encode in refs:
                want = encode(text, special)
                what = f"{os.path.basename(path)}, {'with' if special else 'without'} special tokens, against {name}"
                if want is None:
                    print(f"not compared: {what}: the text holds a control token's name")
                elif compare(want, got, text, name):
                    print(f"equal: {what}: {len(want)} ids for {len(text)} characters")
                else:
                    print(f"different: {what}")
                    bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
