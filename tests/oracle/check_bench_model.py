#!/usr/bin/env python3
"""Loads checkpoints that `flrq bench quantize --keep` generated with transformers and holds their logits against flrq's.

    python tests/oracle/check_bench_model.py DIR...

Each DIR holds model/, tokens.npy, and logits.npy of `flrq eval DIR/model --tokens ... --dump-logits ...`.

Every tensor must have its place in the model and the model none that the checkpoint lacks. Both programs compute in
fp32 from the same bf16 weights and agree to 6e-7 of the largest logit; a bias or a table of positions that one of them
ignores changes 4e-4 of it and more (but for OPT's key bias, which the softmax cancels). The bound is 2e-5. Exit code 77:
the packages are missing.
"""
import sys

try:
    import numpy as np
    import torch
    import transformers
except ImportError as e:
    print(f"skipped: this needs numpy, torch and transformers ({e})")
    sys.exit(77)


def check(folder):
    tokens, wanted = np.load(folder + "/tokens.npy"), np.load(folder + "/logits.npy")
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder + "/model", dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    bad = {k: v for k, v in info.items() if v}
    if bad:
        sys.exit(f"{folder}: transformers reports {bad}")
    with torch.no_grad():
        got = model(torch.from_numpy(tokens).long(), use_cache=False).logits.numpy()
    if got.shape != wanted.shape or not np.isfinite(got).all():
        sys.exit(f"{folder}: logits {got.shape}, flrq has {wanted.shape}, or not finite")
    error = float(np.abs(got - wanted).max() / np.abs(got).max())
    print(f"{folder}: largest difference of logits {error:.1e} of the largest logit")
    if not error <= 2e-5:
        sys.exit(f"{folder}: logits differ")


def main():
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for folder in sys.argv[1:]:
        check(folder)


if __name__ == "__main__":
    main()
