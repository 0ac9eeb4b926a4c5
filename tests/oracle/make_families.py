#!/usr/bin/env python3
"""Makes tests/data/families: one tiny random model per architecture, with the logits that transformers gives for it.

Each folder holds config.json (in the spelling that published checkpoints of that family use), the weights as
safetensors, tokens.npy (int32 [2,40]) and logits.npy (fp32 [2,40,V], fp32 arithmetic, eager attention). The model is
built from keyword arguments, and the folder is read back through its hand-spelled config.json: the logits must be equal
bit for bit, so a key that transformers would ignore or read differently cannot slip in.

Weights come from numpy's Philox generator keyed by the folder's and the tensor's name, so the files do not depend on
transformers' own initialisation. Norm weights and biases are random too; queries and keys are scaled up so that
attention is far from uniform. Two models have a large rms_norm_eps, so that a reader who ignores the key fails.

    python tests/oracle/make_families.py [--only NAME ...] [--out DIR]
"""
import argparse
import hashlib
import json
import os
import sys

try:
    import numpy as np
    import torch
    import transformers
    from safetensors.torch import load_file
except ImportError as e:
    print(f"skipped: this needs numpy, torch, safetensors and transformers ({e})")
    sys.exit(77)

T, BATCH = 40, 2

# Real checkpoints carry these keys; none changes the arithmetic.
LLAMA_REST = dict(attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02,
                  pretraining_tp=1, use_cache=True)
MISTRAL_REST = dict(attention_dropout=0.0, bos_token_id=1, eos_token_id=2, hidden_act="silu", initializer_range=0.02,
                    use_cache=True)
QWEN_REST = dict(attention_dropout=0.0, bos_token_id=90, eos_token_id=91, hidden_act="silu", initializer_range=0.02,
                 use_cache=True)
OPT_REST = dict(attention_dropout=0.0, bos_token_id=2, dropout=0.1, eos_token_id=2, init_std=0.02, layerdrop=0.0,
                pad_token_id=1, use_cache=True)


def decoder(hidden, ffn, layers, heads, kv, **more):
    return dict(hidden_size=hidden, intermediate_size=ffn, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv, vocab_size=96, **more)


def rope(theta, kind="default", **more):
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta, **more))


# name -> class prefix, stored dtype, keywords for the config class, what config.json says instead of some of those
# keywords ("spell"), keys left out of config.json ("omit"), shard size.
FAMILIES = {
    "llama": dict(
        cls="Llama", config=decoder(32, 64, 2, 4, 2, max_position_embeddings=64, rms_norm_eps=1e-5,
                                    tie_word_embeddings=False, **rope(10000.0)),
        spell=dict(rope_theta=10000.0, rope_scaling=None)),
    "llama_bias": dict(
        cls="Llama", config=decoder(36, 60, 2, 6, 3, max_position_embeddings=64, rms_norm_eps=1e-5, attention_bias=True,
                                    mlp_bias=True, tie_word_embeddings=True, **rope(10000.0)),
        spell=dict(rope_scaling=None)),                      # no rope_theta at all: the default, as in the first Llama
    "llama_rope3": dict(
        cls="Llama", config=decoder(32, 64, 2, 2, 1, head_dim=16, max_position_embeddings=256, rms_norm_eps=1e-5,
                                    tie_word_embeddings=False,
                                    **rope(8000.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                           original_max_position_embeddings=32)),
        spell=dict(rope_theta=8000.0, attention_bias=False, mlp_bias=False, eos_token_id=[2, 3, 4],
                   rope_scaling=dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                     original_max_position_embeddings=32, rope_type="llama3"))),
    "llama_linear": dict(
        cls="Llama", config=decoder(32, 64, 2, 4, 4, max_position_embeddings=256, rms_norm_eps=1e-3,
                                    tie_word_embeddings=False, **rope(50000.0, "linear", factor=4.0)),
        spell=dict(rope_parameters=dict(factor=4.0, rope_theta=50000.0, rope_type="linear"), head_dim=8,
                   attention_bias=False, mlp_bias=False), dtype_key="dtype"),
    "llama_bf16": dict(
        cls="Llama", dtype="bfloat16", config=decoder(48, 80, 2, 4, 2, max_position_embeddings=64, rms_norm_eps=1e-5,
                                                      tie_word_embeddings=False, **rope(10000.0)),
        spell=dict(rope_theta=10000.0, rope_scaling=None), omit=["attention_dropout"]),
    "llama_f16_sharded": dict(
        cls="Llama", dtype="float16", shard=30000,
        config=decoder(48, 80, 2, 4, 2, max_position_embeddings=64, rms_norm_eps=1e-5, tie_word_embeddings=False,
                       **rope(10000.0)),
        spell=dict(rope_scaling=dict(factor=2.0, type="linear"), rope_theta=10000.0),     # the oldest spelling: "type"
        config_more=rope(10000.0, "linear", factor=2.0)),
    "mistral": dict(
        cls="Mistral", config=decoder(32, 64, 2, 4, 2, head_dim=12, max_position_embeddings=128, rms_norm_eps=1e-5,
                                      sliding_window=None, tie_word_embeddings=False, **rope(1000000.0)),
        spell=dict(rope_theta=1000000.0)),
    "mistral_window": dict(
        cls="Mistral", config=decoder(32, 64, 2, 4, 2, max_position_embeddings=128, rms_norm_eps=1e-5,
                                      sliding_window=8, tie_word_embeddings=False, **rope(10000.0)),
        spell=dict(rope_theta=10000.0), omit=["attention_dropout"]),
    "qwen2": dict(
        cls="Qwen2", config=decoder(40, 56, 2, 5, 1, max_position_embeddings=128, rms_norm_eps=1e-6,
                                    tie_word_embeddings=True, use_sliding_window=False, sliding_window=8,
                                    max_window_layers=1, **rope(1000000.0)),
        spell=dict(rope_theta=1000000.0)),                   # sliding_window is set but switched off, as published
    "qwen2_window": dict(
        cls="Qwen2", config=decoder(32, 40, 3, 4, 2, max_position_embeddings=128, rms_norm_eps=1e-6,
                                    tie_word_embeddings=True, use_sliding_window=True, sliding_window=8,
                                    max_window_layers=1, **rope(10000.0)),
        spell=dict(rope_theta=10000.0)),
    "qwen3": dict(
        cls="Qwen3", config=decoder(32, 48, 2, 4, 2, head_dim=16, max_position_embeddings=128, rms_norm_eps=2e-3,
                                    tie_word_embeddings=False, attention_bias=False, use_sliding_window=False,
                                    sliding_window=None, max_window_layers=2, **rope(1000000.0)),
        spell=dict(rope_theta=1000000.0, rope_scaling=None)),
    "opt": dict(
        cls="OPT", config=dict(hidden_size=32, ffn_dim=80, num_hidden_layers=2, num_attention_heads=4, vocab_size=96,
                               max_position_embeddings=48, word_embed_proj_dim=32, do_layer_norm_before=True,
                               activation_function="relu"),
        spell=dict(activation_dropout=0.0, prefix="</s>")),
    "opt_350m": dict(
        cls="OPT", config=dict(hidden_size=40, ffn_dim=52, num_hidden_layers=2, num_attention_heads=5, vocab_size=96,
                               max_position_embeddings=48, word_embed_proj_dim=24, do_layer_norm_before=False,
                               activation_function="relu"),
        spell=dict(activation_dropout=0.0, prefix="</s>")),
}
REST = {"Llama": LLAMA_REST, "Mistral": MISTRAL_REST, "Qwen2": QWEN_REST, "Qwen3": QWEN_REST, "OPT": OPT_REST}


def normal(key, shape):
    """Standard normal numbers that depend on the key alone."""
    h = hashlib.sha256(key.encode()).digest()
    g = np.random.Generator(np.random.Philox(key=int.from_bytes(h[:16], "little")))
    return torch.from_numpy(g.standard_normal(tuple(shape)).astype(np.float32))


def fill(model, folder, stored):
    """Random values that dtype `stored` can hold, of a size that keeps all of the arithmetic visible in the logits."""
    tied = model.config.tie_word_embeddings
    with torch.no_grad():
        for name, p in model.named_parameters():            # a tied head appears once, as the embedding
            z = normal(f"{folder}/{name}", p.shape)
            last = name.split(".")[-2]
            if name.endswith(".bias"):
                z *= 0.3
            elif p.dim() == 1:                               # a norm's weight
                z = 1.0 + 0.3 * z
                if last in ("q_norm", "k_norm"):
                    z *= 1.5
            elif last == "embed_tokens":
                z *= 0.35 if tied else 1.0
            elif last == "embed_positions":
                z *= 0.35
            elif last in ("q_proj", "k_proj"):
                z *= 1.6 / p.shape[1] ** 0.5
            elif last == "lm_head":
                z *= 1.5 / p.shape[1] ** 0.5
            else:
                z *= 1.0 / p.shape[1] ** 0.5
            p.copy_(z.to(stored))


def logits_of(model, tokens):
    model.eval()
    with torch.no_grad():
        out = model(torch.from_numpy(tokens).long(), output_attentions=True, use_cache=False)
    return out.logits.float().numpy(), [a.float() for a in out.attentions]


def loads_cleanly(folder, torch_dtype):
    model, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch_dtype, attn_implementation="eager", output_loading_info=True)
    bad = {k: v for k, v in info.items() if v}
    if bad:
        raise SystemExit(f"{folder}: transformers reports {bad}")
    return model


def make(name, spec, out):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    for f in os.listdir(folder):
        os.remove(os.path.join(folder, f))
    cls, dtype = spec["cls"], spec.get("dtype", "float32")
    kw = {**REST[cls], **spec["config"], **spec.get("config_more", {})}
    config = getattr(transformers, cls + "Config")(**kw)
    config._attn_implementation = "eager"
    model = getattr(transformers, cls + "ForCausalLM")(config).to(torch.float32)
    stored = getattr(torch, dtype)
    fill(model, name, stored)

    g = np.random.Generator(np.random.Philox(key=7))
    tokens = g.integers(0, config.vocab_size, (BATCH, T)).astype(np.int32)
    tokens[0, 20:24] = tokens[0, 3]                          # a repeated token, and the specials, inside a row
    tokens[1, 0], tokens[1, 13], tokens[1, 39] = 1, 2, 0
    want, att = logits_of(model, tokens)

    model.to(stored)                                         # after the forward: this rounds RoPE's table as well
    model.save_pretrained(folder, **({"max_shard_size": spec["shard"]} if "shard" in spec else {}))
    for f in os.listdir(folder):
        os.chmod(os.path.join(folder, f), 0o644)
        if f == "generation_config.json":
            os.remove(os.path.join(folder, f))

    text = {**REST[cls], **spec["config"], **spec["spell"]}
    if "rope_parameters" not in spec["spell"]:
        text.pop("rope_parameters", None)
    if cls in ("Llama", "Mistral") and spec["config"].get("head_dim") is None:
        text.pop("head_dim", None) if "head_dim" not in spec["spell"] else None
    for k in spec.get("omit", []):
        text.pop(k)
    text["architectures"] = [cls + "ForCausalLM"]
    text["model_type"] = cls.lower()
    text[spec.get("dtype_key", "torch_dtype")] = dtype
    text["transformers_version"] = transformers.__version__ if "dtype_key" in spec else "4.40.1"
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(dict(sorted(text.items())), f, indent=2)
        f.write("\n")

    back = loads_cleanly(folder, torch.float32)
    got, _ = logits_of(back, tokens)
    if not np.array_equal(want, got):
        raise SystemExit(f"{name}: the folder read back gives other logits, max difference {np.abs(want - got).max():g}")
    np.save(os.path.join(folder, "tokens.npy"), tokens)
    np.save(os.path.join(folder, "logits.npy"), want)

    names = sorted(k for f in os.listdir(folder) if f.endswith(".safetensors") for k in load_file(os.path.join(folder, f)))
    size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
    peak = float(torch.stack([a[..., T // 2:, :].amax(-1).mean() for a in att]).mean())
    head = "tied, no lm_head tensor" if "lm_head.weight" not in names else "lm_head stored"
    print(f"{name:18s} {size / 1000:6.1f} kB  {len(names):3d} tensors ({head})  logits std {want.std():.2f} max {np.abs(want).max():.1f}"
          f"  mean peak of attention {peak:.2f} (uniform {1 / (0.75 * T):.3f})")


def main():
    ap = argparse.ArgumentParser(description="make the tiny models of tests/data/families")
    ap.add_argument("--only", nargs="*", default=sorted(FAMILIES))
    ap.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "families"))
    a = ap.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_warning()
    transformers.utils.logging.disable_progress_bar()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, numpy {np.__version__}")
    for name in a.only:
        make(name, FAMILIES[name], a.out)


if __name__ == "__main__":
    main()
