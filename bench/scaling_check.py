#!/usr/bin/env python3
"""scaling_check.py BUILD PROFILE [SCRATCH [TEXT]] - predicted against measured times of real runs, 1 and 2 workers.

PROFILE is one of this machine with one thread: flrq bench ops --device cpu --threads 1 --profile FILE --scratch DIR.
Prints two tables in Markdown: seconds by phase, and processor seconds of a worker, which other work on the machine
changes little; these are held against the prediction without waiting for files. The mean rank and the rounds are those
of the run, since no prediction can know them; everything else is as `flrq plan` says it. Only runs whose name contains
TEXT. Standard library only.
"""
import json
import os
import resource
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
TINYLM = os.path.join(HERE, "..", "tests", "data", "tinylm")
PHASES = ["open", "calibrate", "quantize", "write", "forward", "verify"]
# Phases of a prediction that a run reports within another.
WITHIN = {"read": "open", "exchange": "quantize", "gather": "quantize"}


def run(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr.strip()}")
    return json.loads(done.stdout)


def generated(flrq, folder, shape, blocks, samples, length):
    """A generated checkpoint and its tokens, kept by the quickest of benches."""
    under = os.path.join(folder, shape)
    os.mkdir(under)
    run(flrq, "bench", "quantize", "--json", "--device", "cpu", "--shape", shape, "--blocks", str(blocks), "--keep",
        "--scratch", under, "--calib-samples", str(samples), "--calib-len", str(length), "--method", "rtn")
    place = os.path.join(under, os.listdir(under)[0])
    return [os.path.join(place, "model"), "--calib-tokens", os.path.join(place, "tokens.npy")]


def processor_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(flrq, profile, folder, name, words, workers):
    out = os.path.join(folder, f"out-{len(os.listdir(folder))}")
    common = words + ["--json", "--device", "cpu", "--threads", "1", "--workers", str(workers)]
    before = processor_seconds()
    result = run(flrq, "quantize", *common, "-o", out)
    used = (processor_seconds() - before) / workers
    with open(os.path.join(out, "report.json")) as file:
        matrices = json.load(file)["matrices"]
    bounds = {t["name"]: t["rank_cap"] for t in run(flrq, "plan", *common)["tensors"]}
    rank = sum(m["rank"] for m in matrices) / max(1, sum(bounds[m["name"]] for m in matrices))
    rounds = sum(m["epochs"] for m in matrices) / len(matrices)
    plan = common + ["--profile", profile, "--expected-rank", f"{rank:.4f}", "--epochs", str(max(1, round(rounds)))]
    time = run(flrq, "plan", *plan)["time"]
    if "missing" in time:
        sys.exit(time["missing"])
    busy = run(flrq, "plan", *plan, "--read", "1e6", "--write", "1e6")["time"]["seconds_total"]
    predicted = dict.fromkeys(PHASES, 0)
    for phase, seconds in time["phases"].items():
        predicted[WITHIN.get(phase, phase)] += seconds
    return {"name": name, "workers": workers, "rank": rank, "rounds": rounds, "predicted": predicted, "used": used,
            "measured": result["phases"], "busy": busy, "wall": result["seconds"], "total": time["seconds_total"]}


def show(rows):
    print("| run | workers | " + " | ".join(PHASES) + " | whole |")
    print("|---|---|" + "---|" * (len(PHASES) + 1))
    for r in rows:
        for what, phases, total in (("predicted", r["predicted"], r["total"]), ("measured", r["measured"], r["wall"])):
            cells = " | ".join(f"{phases.get(p, 0):.2f}" for p in PHASES)
            print(f"| {r['name']}, {what} | {r['workers']} | {cells} | {total:.2f} |")
    print()
    print("| run | workers | mean rank of its bound | rounds | predicted | processor seconds of a worker | error |")
    print("|---|---|---|---|---|---|---|")
    for r in rows:
        print(f"| {r['name']} | {r['workers']} | {r['rank']:.2f} | {r['rounds']:.1f} | {r['busy']:.2f} | "
              f"{r['used']:.2f} | {100 * (r['busy'] / r['used'] - 1):+.0f} % |")


def main():
    if not 3 <= len(sys.argv) <= 5:
        sys.exit(__doc__.split("\n")[0])
    flrq, profile = os.path.join(sys.argv[1], "flrq"), sys.argv[2]
    rows = []
    with tempfile.TemporaryDirectory(dir=sys.argv[3] if len(sys.argv) > 3 else None) as folder:
        fixed = ["--rank-policy", "fixed", "--rank", "8"]
        text = ["--calib", os.path.join(TINYLM, "calib.txt"), "--calib-samples", "64", "--calib-len", "512"]
        cases = [
            ("tinylm, 4 bits", lambda: [TINYLM, *text]),
            ("tinylm, 2 bits", lambda: [TINYLM, *text, "--bits", "2"]),
            ("tiny, rank 8", lambda: [*generated(flrq, folder, "tiny", 4, 32, 512), *fixed]),
            ("a block of 7B", lambda: generated(flrq, folder, "llama2-7b", 1, 4, 512)),
        ]
        for name, make in cases:
            if len(sys.argv) == 5 and sys.argv[4] not in name:
                continue
            words = make()
            for workers in (1, 2):
                rows.append(check(flrq, profile, folder, name, words, workers))
                print(f"{name}, {workers}: load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    show(rows)


main()
