#!/usr/bin/env python3
"""torch_sketch.py - PyTorch's SVDs on the matrices of `flrq bench sketch --dump DIR`, in the columns of its CSV.

    torch_sketch.py DIR [--ranks 32,64,128] [--repeats 5] [--csv FILE] [--exact-limit FLOPS]

torch.svd_lowrank gets the same oversampling and power iterations as flrq's default (8 and 2); torch.linalg.svd is exact
and knows the optimum. Times are medians after a warm-up, with the device synchronised; residuals are |A - U S V^T|_F in
fp32 without TF32. An exact SVD of more than the limit of operations (14 m n min(m, n)) is left out, as flrq does.
"""
import argparse
import csv
import glob
import os
import re
import statistics
import sys
import time

OVERSAMPLE, ITERATIONS, TIME_PER_CASE = 8, 2, 20.0
COLUMNS = ["rows", "cols", "spectrum", "rank", "method", "status", "seconds", "seconds_p10", "seconds_p90", "runs",
           "residual", "optimum", "excess"]


def timed(torch, work, repeats):
    """Sorted seconds of `work` and its last result."""
    seconds, total = [], 0.0
    for run in range(repeats + 1):
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        begin = time.monotonic()
        result = work()
        torch.cuda.synchronize() if torch.cuda.is_available() else None
        total += time.monotonic() - begin
        if run > 0 or total > 5:
            seconds.append(time.monotonic() - begin)
        if seconds and total > TIME_PER_CASE:
            break
    return sorted(seconds), result


def row(shape, rank, method, seconds, residual, optimum):
    n = len(seconds)
    return {"rows": shape[0], "cols": shape[1], "spectrum": "llm", "rank": rank, "method": method, "status": "ok",
            "seconds": statistics.median(seconds), "seconds_p10": seconds[n // 10],
            "seconds_p90": seconds[n - 1 - n // 10], "runs": n, "residual": residual,
            "optimum": optimum if optimum else "", "excess": residual / optimum - 1 if optimum else ""}


def measure(torch, path, ranks, repeats, limit):
    import numpy
    a = torch.from_numpy(numpy.load(path))
    if torch.cuda.is_available():
        a = a.cuda()
    m, n = a.shape
    rows, exact = [], None
    if 14.0 * m * n * min(m, n) <= limit:
        exact_seconds, exact = timed(torch, lambda: torch.linalg.svd(a, full_matrices=False), repeats)
    for rank in ranks:
        optimum = exact[1][rank:].double().square().sum().sqrt().item() if exact else None
        if exact:
            u, s, vt = exact
            residual = (a - (u[:, :rank] * s[:rank]) @ vt[:rank]).double().norm().item()
            rows.append(row(a.shape, rank, "torch_svd", exact_seconds, residual, optimum))
        seconds, (u, s, v) = timed(torch, lambda: torch.svd_lowrank(a, q=rank + OVERSAMPLE, niter=ITERATIONS), repeats)
        residual = (a - (u[:, :rank] * s[:rank]) @ v[:, :rank].T).double().norm().item()
        rows.append(row(a.shape, rank, "torch_svd_lowrank", seconds, residual, optimum))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dir")
    parser.add_argument("--ranks", default="32,64,128")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--csv")
    parser.add_argument("--exact-limit", type=float, default=5e12)
    options = parser.parse_args()
    try:
        import torch
    except ImportError:
        print("torch_sketch.py: PyTorch is not installed; nothing measured")
        return 77
    torch.backends.cuda.matmul.allow_tf32 = False
    paths = sorted(glob.glob(os.path.join(options.dir, "matrix-*x*.npy")),
                   key=lambda p: [int(x) for x in re.findall(r"(\d+)x(\d+)\.npy", p)[0]])
    if not paths:
        print(f"torch_sketch.py: {options.dir} holds no matrix-ROWSxCOLS.npy; flrq bench sketch --dump makes them",
              file=sys.stderr)
        return 2
    ranks = [int(r) for r in options.ranks.split(",")]
    rows = [r for path in paths for r in measure(torch, path, ranks, options.repeats, options.exact_limit)]
    out = open(options.csv, "w", newline="") if options.csv else sys.stdout
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    if options.csv:
        out.close()
        for r in rows:
            print(f"{r['rows']:>6} x {r['cols']:<6} rank {r['rank']:<4} {r['method']:<18} {r['seconds']:.5f} s  "
                  f"residual {r['residual']:.6g}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
