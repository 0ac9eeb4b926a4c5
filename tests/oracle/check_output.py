#!/usr/bin/env python3
"""Checks a quantized folder with independent readers: numpy, transformers + compressed-tensors, peft.

    python tests/oracle/check_output.py --source DIR --out OUT [--bin BIN] [--tokens T.npy] [--ctx N]

Steps, each printed with its error and its tolerance:
  files    numpy alone reads OUT (flrq_formats.py): every packed matrix unpacks, has the source's shape and is close to the source; every other
           source tensor is there with the same bytes, or tied, and nothing else is; config.json is the source's plus quantization_config;
           the adapter's tensors have the ranks that adapter_config.json states
  weights  what transformers + compressed-tensors load equals what numpy unpacked, with no missing, unexpected or mismatched key
  adapter  what peft loads from OUT/lowrank equals L, R of the files, with scaling 1
  logits   transformers + peft give the logits of the source model with W replaced by numpy's Wq + L R; likewise without the adapter
  program  BIN eval OUT gives the same logits, with the adapter and with --no-lowrank

Versions matter (seen with transformers 5.23): compressed-tensors <= 0.17 cannot read dense 3-bit files, >= 0.18 cannot load asymmetric ones except
with dequantize=True, and dequantize=True applies the first config group to every layer, which is wrong where bits are mixed. So: asymmetric
4 and 8 bits need compressed-tensors 0.17.1 for an exact check, 3 bits need >= 0.18.

Exit code: 0 all equal within tolerance, 1 a mismatch or unreadable file, 77 a package is missing or too old/new for this folder (said which; the
steps that need no package have run and passed).
"""
import argparse
import importlib.metadata
import logging
import os
import subprocess
import sys
import tempfile
import warnings

try:
    import numpy as np
except ImportError as e:
    print(f"skipped: this needs numpy ({e})")
    sys.exit(77)

from flrq_formats import FormatError, read_adapter, read_checkpoint, read_json, scheme_of, unpack_module

os.environ.setdefault("TQDM_DISABLE", "1")
TIED_DEFAULT = {"opt": True, "gemma": True, "gemma2": True, "gemma3_text": True}
FAILED = []


class Skip(Exception):
    pass


def check(what, value, tol):
    good = bool(value <= tol)                                # NaN is not good
    print(f"  {'ok  ' if good else 'FAIL'} {what}: {value:.3g} (tolerance {tol:g})")
    if not good:
        FAILED.append(what)
    return good


def fail(what):
    print(f"  FAIL {what}")
    FAILED.append(what)


def relative(a, b):
    """‖a - b‖ / ‖b‖, infinite where a shape differs or a value is not finite."""
    if a.shape != b.shape or not np.isfinite(a).all() or not np.isfinite(b).all():
        return float("inf")
    n = np.linalg.norm(b.astype(np.float64))
    return float(np.linalg.norm(a.astype(np.float64) - b) / n) if n else float(np.abs(a).max(initial=0))


def compare_logits(what, got, want, tol):
    check(f"{what}: relative L2", relative(got, want), tol)
    if got.shape == want.shape:
        check(f"{what}: largest difference over largest logit", float(np.abs(got - want).max() / np.abs(want).max()), 4 * tol)


# ---- the files, with numpy -------------------------------------------------------------------------------------------

def check_files(a):
    """Wq {module: fp64}, adapter {module: (L, R, scaling)}, the weights entry of each module."""
    print("files (numpy)")
    source, out = read_checkpoint(a.source), read_checkpoint(a.out)
    config, config_out = read_json(os.path.join(a.source, "config.json")), read_json(os.path.join(a.out, "config.json"))
    qconfig = config_out.pop("quantization_config", None)
    if not qconfig:
        raise FormatError("config.json of OUT has no quantization_config")
    if config_out != config:
        fail(f"config.json differs from the source's in {sorted(k for k in {**config, **config_out} if config.get(k, '-') != config_out.get(k, '-'))}")
    for key, want in (("quant_method", "compressed-tensors"), ("format", "pack-quantized"), ("quantization_status", "compressed")):
        if qconfig.get(key) != want:
            fail(f"quantization_config.{key} is {qconfig.get(key)!r}, expected {want!r}")

    modules = sorted(k[:-len(".weight_packed")] for k in out if k.endswith(".weight_packed"))
    wq, schemes, bits = {}, {}, 0
    for m in modules:
        w = scheme_of(qconfig, m)
        if w is None:
            raise FormatError(f"{m} is packed, but no config group covers it")
        if m + ".weight" not in source:
            raise FormatError(f"{m} is packed, but the source has no {m}.weight")
        wq[m], schemes[m] = unpack_module(out, m, w), w
        if wq[m].shape != source[m + ".weight"][1].shape:
            raise FormatError(f"{m}: shape {wq[m].shape}, source {source[m + '.weight'][1].shape}")
        bits += sum(8 * out[k][1].nbytes // (2 if out[k][0] == "BF16" else 1) for k in out
                    if k.startswith(m + ".weight_") and not k.endswith("_shape"))
    if not modules:
        raise FormatError("no packed matrix in OUT")

    adapter = {}
    if os.path.isdir(os.path.join(a.out, "lowrank")):
        adapter, ac = read_adapter(os.path.join(a.out, "lowrank"))
        for m, (left, right, scaling) in adapter.items():
            if m not in wq:
                fail(f"the adapter has {m}, which is not quantized")
            elif (left.shape[0], right.shape[1]) != wq[m].shape:
                fail(f"the adapter of {m} is {left.shape} x {right.shape}, the matrix {wq[m].shape}")
        check("adapter scaling, largest distance from 1", max(abs(s - 1) for *_, s in adapter.values()), 0)
        targets = ac["target_modules"]                       # full names or last components
        named = {m for m in wq if any(m == t or m.endswith("." + t) for t in targets)} if isinstance(targets, list) else set()
        if named != set(adapter):
            fail(f"target_modules covers other modules than those with tensors: {sorted(named ^ set(adapter))[:3]}")
        if ac["r"] != ac["lora_alpha"]:
            fail(f"r {ac['r']} and lora_alpha {ac['lora_alpha']} differ: engines that ignore the patterns would scale by the quotient")
        bits += 16 * sum(left.size + right.size for left, right, _ in adapter.values())

    worst = max(((relative(wq[m] + (adapter[m][0] @ adapter[m][1] if m in adapter else 0), source[m + ".weight"][1]), m) for m in modules))
    check(f"worst relative error against the source ({worst[1]})", worst[0], a.max_error)
    copied = 0
    for name, (dtype, v) in source.items():
        if name.endswith(".weight") and name[:-7] in wq:
            if name in out:
                fail(f"{name} is stored packed and dense")
            continue
        tied = config.get("tie_word_embeddings", TIED_DEFAULT.get(config.get("model_type"), False))
        if name not in out:
            if not (tied and name == "lm_head.weight"):
                fail(f"{name} of the source is missing")
        elif out[name][0] != dtype or out[name][1].tobytes() != v.tobytes():
            fail(f"{name} is not the source's")
        else:
            copied += 1
    parts = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point")
    extra = [k for k in out if k not in source and not any(k == f"{m}.{p}" for m in (k.rsplit(".", 1)[0],) if m in wq for p in parts)]
    if extra:
        fail(f"tensors that the source does not have: {extra[:4]}")
    n = sum(v.size for v in wq.values())
    ranks = sorted({left.shape[1] for left, *_ in adapter.values()})
    print(f"       {len(modules)} matrices, {n} weights, {bits / n:.3f} bits per weight with scales and adapter; {copied} tensors copied; "
          f"adapter: {len(adapter)} modules, ranks {ranks}")
    return source, wq, adapter, schemes


# ---- the packages ----------------------------------------------------------------------------------------------------

def version_of(package):
    try:
        return tuple(int(x) for x in importlib.metadata.version(package).split(".")[:2])
    except importlib.metadata.PackageNotFoundError:
        raise Skip(f"{package} is not installed")


class Listener(logging.Handler):
    """Collects what the packages log."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def listen(self):
        self.lines.clear()
        for name in ("transformers", "peft", "accelerate", "compressed_tensors"):
            logger = logging.getLogger(name)
            logger.addHandler(self)                          # a second time has no effect
            logger.propagate = False

    def emit(self, record):
        self.lines.append(f"{record.name}: {record.getMessage()}")


LISTENER = Listener()


def load_base(a, wq, schemes):
    import torch
    import transformers
    ct = version_of("compressed-tensors")
    three = any(w["num_bits"] in (3, 5, 6, 7) for w in schemes.values())
    asym = any(not w["symmetric"] for w in schemes.values())
    mixed = len({(w["num_bits"], w["symmetric"], w["group_size"]) for w in schemes.values()}) > 1
    if three and ct < (0, 18):
        raise Skip("compressed-tensors before 0.18 reads 3-bit codes as 10 per word, this folder holds a dense stream: run in an environment with >= 0.18")
    extra, tol = {}, 1e-6
    if asym and ct >= (0, 18):
        if mixed:
            raise Skip("asymmetric and mixed bits: needs compressed-tensors 0.17 (newer ones load asymmetric files only with dequantize=True, which ignores all groups but the first)")
        if any(schemes[m]["num_bits"] == 4 and w.shape[0] <= 8 for m, w in wq.items()):
            raise Skip("compressed-tensors >= 0.18 fails on asymmetric 4-bit matrices of 8 rows or fewer: needs 0.17")
        extra["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
        tol = 4e-3                                            # the product code * scale is rounded to the scale's type
        print("  note: dequantize=True (asymmetric with this compressed-tensors): compared to rounding of fp16/bf16 products only")
    try:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(a.out, dtype=torch.float32, attn_implementation="eager",
                                                                        output_loading_info=True, **extra)
        bad = {k: sorted(map(str, v)) for k, v in info.items() if v}
        if bad:
            fail(f"transformers reports {bad}")
        if not extra:
            model.hf_quantizer.compressor.decompress_model(model)
    except Exception as e:                                   # whatever they raise, OUT did not load
        for line in LISTENER.lines:
            print("  " + "\n  ".join(x[:160].rstrip() for x in line.split("\n") if x.strip()))
        raise FormatError(f"transformers and compressed-tensors do not load OUT: {type(e).__name__}: {e}")
    return model.eval(), tol


def logits_of(model, tokens):
    import torch
    with torch.no_grad():
        return np.concatenate([model(torch.from_numpy(t[None].astype(np.int64)), use_cache=False).logits.float().numpy() for t in tokens])


def check_packages(a, source, wq, adapter, schemes, tokens):
    """Logits {True: with the adapter, False: without} as transformers and peft give them."""
    try:
        import peft
        import torch
        import transformers
        import compressed_tensors
    except ImportError as e:
        raise Skip(f"this needs torch, transformers, compressed-tensors and peft ({e})")
    torch.set_num_threads(1)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_default_handler()
    LISTENER.listen()
    print(f"weights (torch {torch.__version__}, transformers {transformers.__version__}, compressed-tensors {compressed_tensors.__version__})")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        model, tol = load_base(a, wq, schemes)
        linears = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        worst = max((relative(linears[m].weight.detach().double().numpy(), wq[m]) if m in linears else float("inf"), m) for m in wq)
        check(f"worst difference of a loaded matrix from numpy's ({worst[1]})", worst[0], tol)

        def dense(with_adapter):
            plain = transformers.AutoModelForCausalLM.from_pretrained(a.source, dtype=torch.float32, attn_implementation="eager").eval()
            own = dict(plain.named_parameters())
            for m, w in wq.items():
                w = w + adapter[m][0] @ adapter[m][1] * adapter[m][2] if with_adapter and m in adapter else w
                own[m + ".weight"].data.copy_(torch.from_numpy(w))
            return logits_of(plain, tokens)

        out = {False: logits_of(model, tokens)}
        want = {False: dense(False)}
        if adapter:
            print(f"adapter (peft {peft.__version__})")
            lowrank = os.path.join(a.out, "lowrank")
            try:
                model = peft.PeftModel.from_pretrained(model, lowrank).eval()
            except Exception as e:
                raise FormatError(f"peft does not load the adapter: {type(e).__name__}: {e}")
            found = {n[len("base_model.model."):]: m for n, m in model.named_modules() if hasattr(m, "lora_A") and len(m.lora_A)}
            if set(found) != set(adapter):
                fail(f"peft's modules differ from the adapter's: {sorted(set(found) ^ set(adapter))[:4]}")
            for m in sorted(set(found) & set(adapter)):
                left, right, _ = adapter[m]
                e = max(relative(found[m].lora_A["default"].weight.detach().double().numpy(), right),
                        relative(found[m].lora_B["default"].weight.detach().double().numpy(), left), abs(found[m].scaling["default"] - 1))
                if not e <= 1e-6:
                    fail(f"peft's {m} differs from the file's tensors or has scaling {found[m].scaling['default']}")
            out[True] = logits_of(model, tokens)
            want[True] = dense(True)
        print("logits (transformers" + (" + peft" if adapter else "") + f", {tokens.shape[0]} windows of {tokens.shape[1]})")
        for k in out:
            compare_logits("with the adapter" if k else "base alone", out[k], want[k], max(a.tolerance / 10, tol))
        if adapter:
            print(f"       the adapter changes the logits by {relative(want[False], want[True]):.3g}")
        harmless = ("You passed `quantization_config`",)
        for line in LISTENER.lines + [str(w.message) for w in caught]:
            print("  said by the packages: " + line.split("\n")[0][:300])
            if "config" in line and not any(h in line for h in harmless) or "missing" in line.lower() or "unexpected" in line.lower():
                fail("the packages complain about the folder")
    return want


def check_program(a, want, tokens):
    print("program")
    with tempfile.TemporaryDirectory() as t:
        ids = os.path.join(t, "tokens.npy")
        np.save(ids, tokens.astype(np.int32))
        for with_adapter, logits in sorted(want.items(), reverse=True):
            dump = os.path.join(t, "logits.npy")
            cmd = [a.bin, "eval", a.out, "--tokens", ids, "--ctx", str(tokens.shape[1]), "--dump-logits", dump] + ([] if with_adapter else ["--no-lowrank"])
            run = subprocess.run(cmd, capture_output=True, text=True)
            if run.returncode:
                fail(f"{' '.join(cmd)}: exit code {run.returncode}: {run.stderr.strip()}")
                continue
            got = np.load(dump)
            os.remove(dump)
            if got.dtype != np.float32:
                fail(f"dumped logits are {got.dtype}")
            compare_logits(f"flrq eval{'' if with_adapter else ' --no-lowrank'}", got, logits, a.tolerance)


def main(argv=None):
    FAILED.clear()
    ap = argparse.ArgumentParser(description="check a quantized folder with independent readers")
    ap.add_argument("--bin", help="the program; without it its logits are not compared")
    ap.add_argument("--source", required=True)
    ap.add_argument("--out", required=True)
    ap.add_argument("--tokens", help=".npy of token ids; default: tokens.npy of the source, else random ids")
    ap.add_argument("--ctx", type=int, help="window; default: the row length of the tokens, at most 256")
    ap.add_argument("--windows", type=int, default=8, help="at most this many windows")
    ap.add_argument("--tolerance", type=float, default=1e-4, help="relative L2 of the program's logits (default 1e-4)")
    ap.add_argument("--max-error", type=float, default=0.8, help="largest relative error of a matrix against the source (default 0.8)")
    a = ap.parse_args(argv)
    try:
        source, wq, adapter, schemes = check_files(a)
    except (FormatError, OSError, KeyError, ValueError) as e:
        print(f"  FAIL {type(e).__name__}: {e}")
        return 1
    path = a.tokens or os.path.join(a.source, "tokens.npy")
    if os.path.exists(path):
        tokens = np.load(path)
    else:
        vocab = read_json(os.path.join(a.source, "config.json"))["vocab_size"]
        tokens = np.random.Generator(np.random.Philox(key=7)).integers(0, vocab, (2, 128))
    ctx = a.ctx or min(256, tokens.shape[-1])
    flat = tokens.reshape(-1)
    tokens = flat[:min(a.windows, flat.size // ctx) * ctx].reshape(-1, ctx)
    skipped = None
    try:
        want = check_packages(a, source, wq, adapter, schemes, tokens)
        if a.bin:
            check_program(a, want, tokens)
        else:
            print("program: no --bin given, not compared")
    except FormatError as e:
        fail(str(e))
    except Skip as e:
        skipped = str(e)
    if FAILED:
        print(f"{a.out}: {len(FAILED)} check(s) failed: {'; '.join(FAILED[:4])}")
        return 1
    if skipped:
        print(f"skipped: {skipped}")
        return 77
    print(f"{a.out}: all checks passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
