#!/usr/bin/env python3
"""headline.py - the tables at the head of README.md, made from files under bench/results.

    headline.py            writes them between the two marks in README.md
    headline.py --check    says whether they are what the files give; exit code 1 when not

Every folder of bench/results is one device. Tables are made of methods, peers-quantize, peers-sketch (sketch where there
is none), sketch-large and quantize* (.csv and .json), as far as the folder has them. Nothing is computed here but ratios of
numbers that stand in one file, hence in one run. The standard library is all it needs.
"""
import csv
import json
import os
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BEGIN, END = "<!-- made by bench/headline.py -->", "<!-- end of what bench/headline.py made -->"
SKETCH_RANK = 32


def rows_of(folder, name):
    """Rows of a CSV file as dictionaries, and what its JSON file says about the run; empty when there is none."""
    path = os.path.join(folder, name)
    if not os.path.exists(path + ".csv") or not os.path.exists(path + ".json"):
        return [], {}
    with open(path + ".csv", newline="") as f:
        rows = list(csv.DictReader(f))
    with open(path + ".json") as f:
        return rows, json.load(f)


def number(row, key):
    return float(row[key]) if row.get(key) not in (None, "") else None


def digits(value, count=3):
    """Significant digits without an exponent."""
    text = f"{value:.{count}g}"
    return f"{float(text):.10f}".rstrip("0").rstrip(".") if "e" in text else text


def seconds(row):
    """Median, and the spread where there were several runs."""
    median = number(row, "seconds")
    if median is None:
        return ""
    spread = ""
    if (number(row, "runs") or 1) > 1:
        spread = f" ({digits(number(row, 'seconds_p10'), 2)}–{digits(number(row, 'seconds_p90'), 2)})"
    return digits(median) + spread


def table(head, body):
    lines = [[c.replace("|", "/") for c in r] for r in [head] + body]
    lines.insert(1, ["---"] * len(head))
    return ["| " + " | ".join(r) + " |" for r in lines] + [""]


def source(folder, names, run):
    files = ", ".join(f"[{n}.csv](bench/results/{os.path.basename(folder)}/{n}.csv)" for n in names)
    machine = run.get("machine", "")
    if isinstance(machine, dict):
        machine = machine.get("cpu", "")
    return [f"{machine}, {run.get('date', '')}: {files}; the command stands in the .json beside it.", ""]


def strong(cells, is_ours):
    return [f"**{c}**" if is_ours and c else c for c in cells]


def cells(row):
    """Size and quality of one run: three cells, empty without one."""
    if row is None or row["status"] != "ok":
        return ["", "", ""]
    divergence = number(row, "kl_mean")
    return [f"{number(row, 'bits_per_weight'):.3f}", f"{number(row, 'perplexity'):.3f}",
            "" if divergence is None else f"{divergence:#.3g}" if divergence else "0"]


def by_bits(corner, rows, label, is_ours, first):
    """One line a method, three columns for each number of bits, and the seconds at the most bits."""
    widths = sorted({int(r["bits"]) for r in rows}, reverse=True)
    head = [corner] + [c for b in widths for c in (f"{b} bits: bits/weight", "perplexity", "KL")]
    body = [first + [""] * (len(head) + 1 - len(first))]
    for name in dict.fromkeys(label(r) for r in rows):
        same = {int(r["bits"]): r for r in rows if label(r) == name}
        failed = next((r["status"] for r in same.values() if r["status"] != "ok"), "")
        line = [name] + [c for b in widths for c in cells(same.get(b))]
        line.append(seconds(same[widths[0]]) if widths[0] in same and not failed else failed)
        body.append(strong(line, is_ours(next(iter(same.values())))))
    return table(head + [f"seconds, {widths[0]} bits"], body)


def methods_table(folder):
    """flrq, clip only in whole and in half groups, and the baselines."""
    rows, run = rows_of(folder, "methods")
    names = {"flrq": "flrq", "clip": "clip only, no low rank", "rtn": "round to nearest",
             "lqer": "lqer, flrq's ranks", "svd": "SVD then nearest, flrq's ranks", "paper": "flrq, preset paper"}
    if not rows:
        return []

    def halves(row):
        return int(run["group"] / number(row, "group"))

    def label(row):
        return names[row["kind"]] + ("" if halves(row) == 1 else f", groups of {row['group']}")
    rows = [r for r in rows if r["kind"] in names and (halves(r) == 1 or (r["kind"] == "clip" and halves(r) == 2))]
    source_row = ["source, bf16", "16", f"{run['source_perplexity']:.3f}", "0"]
    return by_bits(f"`{os.path.basename(run['model'])}`, groups of {run['group']}", rows, label,
                   lambda r: r["kind"] == "flrq", source_row) + source(folder, ["methods"], run)


def peers_table(folder):
    """The run with the peers, which has flrq in it too; what could not run is told with its reason."""
    rows, run = rows_of(folder, "peers-quantize")
    if not rows:
        return []
    judged = next((r for r in rows if r["peer"] == "control"), None)
    rows = [r for r in rows if r["peer"] not in ("source", "control")]

    def label(row):
        if row["peer"] == "flrq":
            return "flrq" if row["method"] == "flrq" else f"flrq {row['method']}"
        return f"{row['peer']} {row['version']}, {row['method']}"
    first = ["source, judged as the peers are", "16"] + cells(judged)[1:] if judged else [""]
    return by_bits("the same layers and tokens", rows, label, lambda r: label(r) == "flrq", first) + source(
        folder, ["peers-quantize"], run)


def routine(row):
    """flrq and the libraries by what ran; of PyTorch the function and what is behind it."""
    if row.get("peer", "flrq") == "flrq":
        return row.get("routine") or row["method"]
    return f"{row['method']} {row['version']} ({row['routine']})"


def sketch_table(folder):
    """One row a method on every matrix of the run with the peers, and of the run with large matrices."""
    body, files, used = [], [], {}
    for name in ("peers-sketch", "sketch", "sketch-large"):
        rows, run = rows_of(folder, name)
        if name == "sketch" and files:
            continue
        rows = [r for r in rows if number(r, "rank") == SKETCH_RANK and r["status"] == "ok"]
        if not rows:
            continue
        files.append(name)
        used = used or run
        for matrix in dict.fromkeys(r["matrix"] for r in rows):
            same = [r for r in rows if r["matrix"] == matrix]
            ours = next((r for r in same if r["method"] == "block"), None)
            for row in same:
                excess = number(row, "excess")
                ratio = number(row, "seconds") / number(ours, "seconds") if ours else None
                body.append(strong([matrix, routine(row), seconds(row),
                                    "" if ratio is None else f"{digits(ratio)}×",
                                    "" if excess is None else f"{100 * max(excess, 0):.2f} %"], row is ours))
    if not body:
        return []
    return table([f"rank {SKETCH_RANK} of", "", "seconds (p10–p90)", "of flrq's", "‖A−LR‖ above the optimum"],
                 body) + source(folder, files, used)


def quantize_table(folder):
    body, files, used = [], [], {}
    for name in sorted(f[:-4] for f in os.listdir(folder) if f.startswith("quantize") and f.endswith(".csv")):
        rows, run = rows_of(folder, name)
        rows = [r for r in rows if r["phase"] == "total" and number(r, "floor") is not None]
        files += [name] if rows else []
        used = used or run
        for row in rows:
            whole = number(row, "seconds_model")
            body.append([row["shape"], digits(number(row, "seconds")), digits(number(row, "floor")),
                         f"{number(row, 'seconds') / number(row, 'floor'):.2f}", digits(whole) if whole else ""])
    if not body:
        return []
    head = ["whole job", "seconds of what was run", "floor: forwards and weights", "over the floor",
            "whole model, extrapolated, s"]
    return table(head, body) + source(folder, files, used)


def headline():
    lines = []
    results = os.path.join(ROOT, "bench", "results")
    for name in sorted(os.listdir(results)):
        folder = os.path.join(results, name)
        if os.path.isdir(folder):
            lines += methods_table(folder) + peers_table(folder) + sketch_table(folder) + quantize_table(folder)
    return "\n".join([BEGIN, ""] + lines + [END])


def main():
    if sys.argv[1:] not in ([], ["--check"]):
        sys.exit("usage: headline.py [--check]")
    path = os.path.join(ROOT, "README.md")
    with open(path, encoding="utf-8") as f:
        text = f.read()
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        sys.exit(f"headline.py: {path} must have one \"{BEGIN}\" and one \"{END}\"")
    before, rest = text.split(BEGIN)
    made = before + headline() + rest.split(END)[1]
    if made == text:
        return 0
    if sys.argv[1:]:
        sys.exit("headline.py: README.md does not say what bench/results says; run bench/headline.py")
    with open(path, "w", encoding="utf-8") as f:
        f.write(made)
    return 0


if __name__ == "__main__":
    sys.exit(main())
