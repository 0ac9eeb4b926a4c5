#!/usr/bin/env python3
"""scaling.py BUILD - writes scaling.csv and scaling.svg: what `flrq plan` predicts for 70B models on 1 to 64 GPUs.

Nothing is quantized and no GPU is needed: the models are checkpoints of holes (`flrq bench quantize --plan-only`), the
times follow from scaling-h100-sxm.json, which is from data sheets, until a measured profile takes its place. The text
that explains them is scaling.md. Standard library only.
"""
import csv
import json
import math
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
PROFILE = os.path.join(HERE, "scaling-h100-sxm.json")
PER_NODE = 8
SIZES = [1, 2, 4, 8, 16, 32, 64]
PHASES = ["open", "read", "calibrate", "quantize", "exchange", "gather", "write", "forward", "verify"]
# Name, model, options of plan beside those of every run.
EVERY = {"--link": "450", "--network": "25", "--read": "20", "--write": "10", "--device-memory": "80"}
VARIANTS = [
    ("as stated", "llama2-70b", {}),
    ("as stated", "llama3-70b", {}),
    ("rank 0 everywhere", "llama2-70b", {"--expected-rank": "0"}),
    ("ranks at their bound", "llama2-70b", {"--expected-rank": "1"}),
    ("PCIe in place of NVLink", "llama2-70b", {"--link": "25"}),
    ("400 Gb/s between nodes", "llama2-70b", {"--network": "50"}),
    ("files at 2 GB/s", "llama2-70b", {"--read": "2", "--write": "1"}),
]


def run(flrq, *words):
    done = subprocess.run([flrq, *words], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def make_model(flrq, folder, shape):
    """A checkpoint of holes; its folder, under one that is removed at the end."""
    under = os.path.join(folder, shape)
    os.mkdir(under)
    run(flrq, "bench", "quantize", "--device", "cpu", "--shape", shape, "--plan-only", "--keep", "--scratch", under)
    return os.path.join(under, os.listdir(under)[0])


def predict(flrq, model, workers, options):
    words = ["plan", os.path.join(model, "model"), "--calib-tokens", os.path.join(model, "tokens.npy"), "--json"]
    words += ["--device", "cuda", "--profile", PROFILE, "--workers", str(workers)]
    words += ["--nodes", str(max(1, workers // PER_NODE))]
    for pair in {**EVERY, **options}.items():
        words += pair
    time = json.loads(run(flrq, *words))["time"]
    if "missing" in time:
        sys.exit(time["missing"])
    return time


def row_of(variant, shape, workers, time, alone):
    seconds = time["seconds_total"]
    row = {"model": shape, "variant": variant, "gpus": workers, "nodes": time["nodes"], "seconds": round(seconds, 2)}
    row["speedup"] = round(alone / seconds, 2)
    row["efficiency"] = round(alone / seconds / workers, 3)
    for phase in PHASES:
        row[phase] = round(time["phases"][phase], 2)
    for phase in ["read", "gather", "write"]:
        row[phase + "_hidden"] = round(time["hidden"][phase], 2)
    row["link_gb_each"] = round(time["bytes"]["link"] / 1e9, 1)
    row["network_gb_node"] = round(time["bytes"]["network"] / 1e9, 1)
    row["read_gb"] = round(time["bytes"]["read"] / 1e9, 1)
    row["written_gb"] = round(time["bytes"]["written"] / 1e9, 1)
    return row


def draw(rows, path):
    """Seconds over GPUs, both logarithmic: the whole and its parts, and what halving would give."""
    rows = [r for r in rows if r["model"] == "llama2-70b" and r["variant"] == "as stated"]
    width, height, left, top, right, bottom = 640, 400, 60, 20, 130, 45
    lowest, highest = 1, 400

    def x(gpus):
        return left + (width - left - right) * math.log2(gpus) / math.log2(SIZES[-1])

    def y(seconds):
        share = math.log(max(seconds, lowest) / lowest) / math.log(highest / lowest)
        return top + (height - top - bottom) * (1 - share)

    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
        f'font-size="12"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    for gpus in SIZES:
        out.append(f'<line x1="{x(gpus):.1f}" y1="{top}" x2="{x(gpus):.1f}" y2="{height - bottom}" stroke="#ddd"/>')
        out.append(f'<text x="{x(gpus):.1f}" y="{height - bottom + 16}" text-anchor="middle">{gpus}</text>')
    for seconds in [1, 2, 5, 10, 20, 50, 100, 200, 400]:
        level = y(seconds)
        out.append(f'<line x1="{left}" y1="{level:.1f}" x2="{width - right}" y2="{level:.1f}" stroke="#ddd"/>')
        out.append(f'<text x="{left - 6}" y="{level + 4:.1f}" text-anchor="end">{seconds}</text>')
    out.append(f'<text x="{(left + width - right) / 2}" y="{height - 8}" text-anchor="middle">GPUs, 8 in a node</text>')
    middle = height / 2
    out.append(f'<text x="14" y="{middle}" transform="rotate(-90 14 {middle})" text-anchor="middle">seconds</text>')
    lines = [
        ("whole", "#000", [r["seconds"] for r in rows]),
        ("whole, if halved", "#999", [rows[0]["seconds"] / r["gpus"] for r in rows]),
        ("forwards", "#0072b2", [r["calibrate"] + r["forward"] for r in rows]),
        ("fits", "#d55e00", [r["quantize"] for r in rows]),
        ("exchange, gather", "#009e73", [r["exchange"] + r["gather"] for r in rows]),
        ("load-back check", "#cc79a7", [r["verify"] for r in rows]),
    ]
    for number, (name, colour, values) in enumerate(lines):
        points = " ".join(f"{x(r['gpus']):.1f},{y(v):.1f}" for r, v in zip(rows, values) if v >= lowest)
        dash = ' stroke-dasharray="4 3"' if "halved" in name else ""
        out.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"{dash}/>')
        level = top + 14 + 18 * number
        out.append(f'<line x1="{width - right + 10}" y1="{level - 4}" x2="{width - right + 26}" y2="{level - 4}" '
                   f'stroke="{colour}" stroke-width="2"{dash}/>')
        out.append(f'<text x="{width - right + 30}" y="{level}">{name}</text>')
    out.append("</svg>")
    with open(path, "w") as file:
        file.write("\n".join(out) + "\n")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n")[0])
    flrq = os.path.join(sys.argv[1], "flrq")
    rows, models = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for variant, shape, options in VARIANTS:
            if shape not in models:
                models[shape] = make_model(flrq, folder, shape)
            alone = None
            for workers in SIZES:
                time = predict(flrq, models[shape], workers, options)
                alone = alone or time["seconds_total"]
                rows.append(row_of(variant, shape, workers, time, alone))
    with open(os.path.join(HERE, "scaling.csv"), "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(rows, os.path.join(HERE, "scaling.svg"))


main()
