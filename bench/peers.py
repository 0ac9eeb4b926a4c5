#!/usr/bin/env python3
"""peers.py - flrq beside what can be installed from PyPI: the same input, the same machine, the same run.

    peers.py sketch   --flrq BIN [--shapes LIST] [--ranks LIST] ... -o DIR
    peers.py quantize --flrq BIN --model DIR --calib FILE --text FILE [--bits 4,3,2] ... -o DIR

sketch: `flrq bench sketch` makes the matrices, times its own methods and the device library's SVDs and dumps what it
used; torch.svd_lowrank and torch.linalg.svd are timed on those files, shape by shape, so that a machine that becomes
slower does so for both.

quantize: the linear layers that flrq quantizes are quantized by torchao (round to nearest), HQQ and GPTQModel (GPTQ)
too, from the same weights, in the same groups, with the same calibration tokens and as many threads. Every result is
judged by one program: the peer's dequantized weights are written as fp32 into a copy of the model folder, and `flrq
eval --against SOURCE` reads it. The control row is the source itself after the same way: its divergence must be zero
to rounding, else nothing is reported.

Results are DIR/peers-sketch.csv and .json, DIR/peers-quantize.csv and .json, and a table on stdout. A peer that is not
installed, lacks a bit width or fails is a row that says so. What must not change: nothing outside Python's standard
library is imported but by the code that measures it; a peer is measured in a process of its own, because packages of
this kind replace functions of each other; seconds never hold imports, files or compilation.

Exit codes: 0 (also without any peer), 1 flrq failed or the control did not hold, 2 wrong usage.
"""
import argparse
import array
import csv
import datetime
import glob
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import random
import shlex
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import traceback

MATRIX_COLUMNS = ["matrix", "rows", "cols", "spectrum", "outliers"]
SKETCH_COLUMNS = ["peer", "version", *MATRIX_COLUMNS, "rank", "method", "routine", "status", "seconds", "seconds_p10",
                  "seconds_p90", "runs", "residual", "optimum", "excess"]
QUANTIZE_COLUMNS = ["peer", "version", "method", "bits", "group", "bits_per_weight", "perplexity", "kl_mean", "top1",
                    "weight_error", "seconds", "seconds_p10", "seconds_p90", "runs", "status", "stores", "counts"]
DISTRIBUTIONS = ["torch", "numpy", "transformers", "hqq", "torchao", "gptqmodel"]
# The rules of flrq bench sketch: a case stops repeating after so many seconds, a first run of more than LONG_RUN is no
# warm-up, and an exact SVD of more operations wants --full.
TIME_PER_CASE, LONG_RUN, FLOP_LIMIT = 20.0, 5.0, 5e12
# flrq's defaults, given to torch.svd_lowrank.
OVERSAMPLE, ITERATIONS = 8, 2
# Logits of size 10 in fp32 differ by some 1e-5 when sums are ordered in another way, and the divergence is half the
# variance of such differences.
CONTROL_KL = 1e-6


class Usage(Exception):
    """Wrong usage: exit 2 with this line."""


class FlrqFailed(Exception):
    """flrq itself failed: exit 1 with this line."""


# ---- what both comparisons share -------------------------------------------------------------------------------------


def spread(seconds):
    """Median, p10 and p90 as in flrq's benches."""
    s, n = sorted(seconds), len(seconds)
    return {"seconds": statistics.median(s), "seconds_p10": s[n // 10], "seconds_p90": s[n - 1 - n // 10], "runs": n}


def version_of(distribution):
    """Version of an installed distribution, None when it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def missing(modules):
    """Status of a peer that needs modules which are not there, else None."""
    absent = [m for m in modules if importlib.util.find_spec(m) is None]
    if not absent:
        return None
    return "not installed" if absent[0] == modules[0] else f"not installed: {absent[0]}, which it needs"


def cpuinfo(key):
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                if line.split(":")[0].strip() == key:
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def prepare_environment(threads):
    """Threads of every child, and the OpenBLAS kernels of this machine: Debian's picks those of a 2004 processor on
    machines newer than itself, and a slow baseline would flatter flrq."""
    flags = cpuinfo("flags").split()
    if "avx512bw" in flags:
        os.environ.setdefault("OPENBLAS_CORETYPE", "SkylakeX")
    elif "avx2" in flags:
        os.environ.setdefault("OPENBLAS_CORETYPE", "Haswell")
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(threads)
    # No peer fetches anything; GPTQModel's pool wants two workers, which it does not give itself on two processors.
    os.environ.update({"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"})
    os.environ.setdefault("GPTQMODEL_CPU_WORKERS", str(max(2, min(12, (threads + 1) // 2))))


def run_flrq(options, arguments):
    """stdout of flrq; FlrqFailed, or Usage where it is about options, with its own last line when it fails."""
    try:
        done = subprocess.run([options.flrq, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              check=False)
    except OSError as e:
        raise FlrqFailed(f"{options.flrq}: {e.strerror}; --flrq names the program") from e
    if done.returncode == 0:
        return done.stdout
    line = (done.stderr.strip().splitlines() or ["no message"])[-1]
    try:
        line = json.loads(line)["message"]
    except (ValueError, KeyError, TypeError):
        pass
    raise (Usage if done.returncode == 2 else FlrqFailed)(f"flrq {arguments[0]}: {line}")


def flrq_json(options, *arguments):
    return json.loads(run_flrq(options, [*arguments, "--device", options.device, "--threads", str(options.threads),
                                         "--json"]))


def text_of(value):
    if value is None:
        return ""
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def print_table(rows, columns):
    cells = [[text_of(r.get(c)) for c in columns] for r in rows]
    widths = [max([len(c)] + [len(row[i]) for row in cells]) for i, c in enumerate(columns)]
    for row in [columns] + cells:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths)).rstrip())


def write_results(options, name, columns, shown, rows):
    versions = {"python": platform.python_version(), **{d: version_of(d) for d in DISTRIBUTIONS},
                "flrq": options.version}
    result = {"command": shlex.join([os.path.relpath(__file__), *sys.argv[1:]]),
              "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
              "machine": {"cpu": cpuinfo("model name") or platform.machine(), "threads": options.threads,
                          "device": options.device, "load_before": options.load, "flrq": options.described},
              "versions": versions, "rows": rows}
    path = os.path.join(options.out, name)
    with open(path + ".json", "w", encoding="utf-8") as f:
        json.dump(result, f, indent=1)
        f.write("\n")
    with open(path + ".csv", "w", encoding="utf-8", newline="") as f:
        writer = csv.DictWriter(f, columns, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print_table(rows, shown)


# ---- sketch ----------------------------------------------------------------------------------------------------------


def torch_timed(torch, work, repeats):
    """Seconds of `work`, measured by the rules of flrq bench sketch, and its last result."""
    seconds, total = [], 0.0
    for run in range(repeats + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        begin = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        taken = time.perf_counter() - begin
        total += taken
        if run > 0 or taken > LONG_RUN:
            seconds.append(taken)
        if len(seconds) >= repeats or (seconds and total > TIME_PER_CASE):
            break
    return seconds, result


def torch_sketch(options, path, cases):
    """Rows of PyTorch on one dumped matrix; `cases` are flrq's rows of that matrix."""
    import numpy
    import torch
    torch.set_num_threads(options.threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    a = torch.from_numpy(numpy.load(path)).to(options.device)
    m, n = a.shape
    library = "CUDA" if options.device == "cuda" else "MKL" if torch.backends.mkl.is_available() else "its BLAS"
    same = {c: cases[0].get(c) for c in MATRIX_COLUMNS}
    exact_seconds, exact = [], None
    skipped = "skipped: over 5e12 operations; --full has it"
    if options.full or 14.0 * m * n * min(m, n) <= FLOP_LIMIT:
        exact_seconds, exact = torch_timed(torch, lambda: torch.linalg.svd(a, full_matrices=False), options.repeats)
    rows = []
    for rank in sorted({c["rank"] for c in cases}):
        # One optimum for all rows of a case: flrq's exact SVD where it ran, else PyTorch's.
        optimum = next((c["optimum"] for c in cases if c["rank"] == rank and c.get("optimum") is not None), None)
        if optimum is None and exact:
            optimum = exact[1][rank:].double().square().sum().sqrt().item()
        q = min(rank + OVERSAMPLE, m, n)
        seconds, (u, s, v) = torch_timed(torch, lambda: torch.svd_lowrank(a, q=q, niter=ITERATIONS), options.repeats)
        found = [("torch.svd_lowrank", seconds, (u, s, v.T)), ("torch.linalg.svd", exact_seconds, exact)]
        for method, seconds, factors in found:
            row = {"peer": "PyTorch", "version": version_of("torch"), **same, "rank": rank, "method": method,
                   "routine": f"PyTorch with {library}", "status": "ok" if factors else skipped, "optimum": optimum}
            if factors:
                u, s, vt = factors
                row.update(spread(seconds))
                row["residual"] = (a - (u[:, :rank] * s[:rank]) @ vt[:rank]).double().norm().item()
                if not math.isfinite(row["residual"]):
                    raise ArithmeticError(f"rank {rank}: {method} leaves a residual of {row['residual']}")
                row["excess"] = row["residual"] / optimum - 1 if optimum else None
            rows.append(row)
    return rows


def sketch(options):
    """flrq, which dumps its matrices, then PyTorch on the dumps: shape by shape, or all of --model at once."""
    forwarded = ["--ranks", options.ranks, "--methods", options.methods, "--repeats", str(options.repeats)]
    for name in ("spectra", "outliers", "model", "tensor"):
        if getattr(options, name):
            forwarded += ["--" + name, getattr(options, name)]
    if options.full:
        forwarded.append("--full")
    absent = missing(["torch", "numpy"])
    rows = []
    for chosen in [[]] if options.model else [["--shapes", shape] for shape in options.shapes.split(",")]:
        dump = os.path.join(options.scratch, "dump")
        result = flrq_json(options, "bench", "sketch", "--dump", dump, *forwarded, *chosen)
        options.described = {k: result[k] for k in ("device", "machine", "libraries", "precision", "threads")}
        mine = result["rows"]
        note("flrq " + " ".join(sorted({r["matrix"] for r in mine})))
        rows += [{"peer": "flrq", "version": options.version, **r} for r in mine]
        for name in sorted({r["dump"] for r in mine}) if not absent else []:
            cases = [r for r in mine if r["dump"] == name]
            try:
                rows += torch_sketch(options, os.path.join(dump, name), cases)
            except Exception as e:  # a peer's failure is a row
                rows.append({"peer": "PyTorch", "version": version_of("torch"), "status": one_line(e),
                             **{c: cases[0].get(c) for c in MATRIX_COLUMNS}})
            note("PyTorch " + cases[0]["matrix"])
        shutil.rmtree(dump)
    if absent:
        rows += [{"peer": "PyTorch", "method": m, "status": absent} for m in ("torch.svd_lowrank", "torch.linalg.svd")]
    shown = [c for c in SKETCH_COLUMNS if c not in ("version", "rows", "cols", "spectrum", "outliers")]
    write_results(options, "peers-sketch", SKETCH_COLUMNS, shown, rows)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def tensors_of(folder):
    """Tensors of a folder's safetensors: name -> (file, dtype, shape, first byte, bytes)."""
    found = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(folder), "*.safetensors"))):
        with open(path, "rb") as f:
            size = struct.unpack("<Q", f.read(8))[0]
            header = json.loads(f.read(size))
        for name, t in header.items():
            if name != "__metadata__":
                begin, end = t["data_offsets"]
                found[name] = (path, t["dtype"], t["shape"], 8 + size + begin, end - begin)
    return found


def read_tensor(tensor):
    with open(tensor[0], "rb") as f:
        f.seek(tensor[3])
        return f.read(tensor[4])


def widened(data, dtype):
    """Bytes of floating-point values in fp32, exactly; whatever else as it is. Returns bytes and dtype."""
    if dtype == "BF16":
        out = bytearray(2 * len(data))
        out[2::4], out[3::4] = data[0::2], data[1::2]
        return out, "F32"
    if dtype == "F16":
        return array.array("f", struct.unpack(f"<{len(data) // 2}e", data)).tobytes(), "F32"
    return data, dtype


def write_fp32(source, replaced, out):
    """A copy of the model folder in fp32. replaced: name -> a function that gives the tensor's fp32 bytes."""
    os.makedirs(out)
    for name in os.listdir(source):
        path = os.path.join(source, name)
        if os.path.isfile(path) and name.endswith((".json", ".model", ".txt", ".jinja")) \
                and not name.endswith(".safetensors.index.json"):
            shutil.copy(path, out)
    with open(os.path.join(source, "config.json"), encoding="utf-8") as f:
        config = json.load(f)
    config.pop("dtype", None)
    config["torch_dtype"] = "float32"
    with open(os.path.join(out, "config.json"), "w", encoding="utf-8") as f:
        json.dump(config, f, indent=1)
    header, end, tensors = {}, 0, tensors_of(source)
    for name, (_, dtype, shape, _, size) in tensors.items():
        size, dtype = (2 * size, "F32") if dtype in ("BF16", "F16") else (size, dtype)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(os.path.join(out, "model.safetensors"), "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, tensor in tensors.items():
            data = replaced[name]() if name in replaced else widened(read_tensor(tensor), tensor[1])[0]
            begin, end = header[name]["data_offsets"]
            if len(data) != end - begin:
                raise ValueError(f"{name}: {len(data)} bytes instead of {end - begin}")
            f.write(data)


# ---- calibration tokens ----------------------------------------------------------------------------------------------


def draw_tokens(options, path):
    """Writes the calibration segments [samples, length] that everyone gets, drawn from the tokenized text."""
    stream = os.path.join(options.scratch, "stream.npy")
    run_flrq(options, ["tokenize", options.model, "--text", options.calib, "-o", stream, "--json",
                       *separator(options)])
    tokens = array.array("i")
    with open(stream, "rb") as f:
        start = 10 + struct.unpack("<8xH", f.read(10))[0]
        if b"'<i4'" not in f.read(start - 10):
            raise FlrqFailed("flrq tokenize: the tokens are not int32")
        tokens.frombytes(f.read())
    count, length = options.calib_samples, options.calib_len
    if len(tokens) < length:
        raise Usage(f"{options.calib}: {len(tokens)} tokens, one segment has {length}; --calib-len makes it shorter")
    draw = random.Random(0)
    header = f"{{'descr': '<i4', 'fortran_order': False, 'shape': ({count}, {length}), }}"
    header += " " * (-(10 + len(header) + 1) % 64) + "\n"
    with open(path, "wb") as f:
        f.write(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())
        for _ in range(count):
            first = draw.randrange(len(tokens) - length + 1)
            f.write(tokens[first:first + length].tobytes())


def separator(options):
    return ["--doc-sep", options.doc_sep] if options.doc_sep else []


# ---- the peers, each in a process of its own ------------------------------------------------------------------------


class Torchao:
    """torchao's weight-only round to nearest: IntxWeightOnlyConfig by groups, scales in the dtype of the model."""

    counts = "quantize_() on the linear layers in memory"

    def __init__(self, job, weights):
        import torch
        self.torch, self.job, self.weights = torch, job, weights

    def prepare(self, bits, segments):
        torch = self.torch
        self.dtype = getattr(torch, f"int{bits}", None)
        if self.dtype is None:
            raise NotImplementedError(f"no {bits}-bit type in PyTorch {torch.__version__}")
        self.layers = torch.nn.ModuleDict()
        for i, w in enumerate(self.weights.values()):
            layer = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta")
            layer.weight = torch.nn.Parameter(w, requires_grad=False)
            self.layers[str(i)] = layer

    def quantize(self):
        from torchao.quantization import IntxWeightOnlyConfig, quantize_
        from torchao.quantization.granularity import PerGroup
        from torchao.quantization.quant_primitives import MappingType
        mapping = MappingType.ASYMMETRIC if "asymmetric" in self.job["method"] else MappingType.SYMMETRIC
        quantize_(self.layers, IntxWeightOnlyConfig(weight_dtype=self.dtype, mapping_type=mapping,
                                                    granularity=PerGroup(self.job["group"])))

    def dequantized(self):
        return {name: layer.weight.dequantize() for name, layer in zip(self.weights, self.layers.values())}

    def stores(self, bits):
        group, scale = self.job["group"], 8 * self.layers["0"].weight.scale.element_size()
        zero = bits if "asymmetric" in self.job["method"] else 0
        text = f"{bits} + {scale}/{group} (scale)" + (f" + {zero}/{group} (zero point)" if zero else "")
        return bits + (scale + zero) / group, text


class Hqq:
    """HQQ's half-quadratic optimisation of scales and zero points: HQQLinear with axis=1, the rest its defaults."""

    counts = "HQQLinear() of every linear layer in memory"

    def __init__(self, job, weights):
        import torch
        self.torch, self.job, self.weights = torch, job, weights

    def prepare(self, bits, segments):
        from hqq.core.quantize import BaseQuantizeConfig, Quantizer
        if bits not in Quantizer.SUPPORTED_BITS:
            raise NotImplementedError(f"no {bits}-bit scheme in HQQ {version_of('hqq')}")
        self.config = BaseQuantizeConfig(nbits=bits, group_size=self.job["group"], axis=1)
        self.linear = {}
        for name, w in self.weights.items():
            self.linear[name] = self.torch.nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta")
            self.linear[name].weight = self.torch.nn.Parameter(w, requires_grad=False)

    def quantize(self):
        from hqq.core.quantize import HQQLinear
        self.layers = {name: HQQLinear(linear, self.config, compute_dtype=self.torch.float16,
                                       device=self.job["device"]) for name, linear in self.linear.items()}

    def dequantized(self):
        return {name: layer.dequantize() for name, layer in self.layers.items()}

    def stores(self, bits):
        # As stored: 3-bit codes lie ten in a word of 32 bits.
        code = 3.2 if bits == 3 else bits
        meta = next(iter(self.layers.values())).meta
        scale, zero, group = 8 * meta["scale"].element_size(), 8 * meta["zero"].element_size(), self.job["group"]
        return code + (scale + zero) / group, f"{code} + {scale}/{group} (scale) + {zero}/{group} (zero)"


class Gptq:
    """GPTQ by GPTQModel: symmetric, no activation order, the rest its defaults but for the file format, whose second
    version keeps in memory the zero points that dequantize_weight() wants."""

    counts = "GPTQModel.quantize(): calibration forwards, Hessians, rounding, packing"

    def __init__(self, job, weights):
        import numpy
        import torch
        tokens = torch.from_numpy(numpy.load(job["tokens"]).astype("int64"))
        self.job, self.weights = job, weights
        self.segments = [{"input_ids": t[None], "attention_mask": torch.ones_like(t)[None]} for t in tokens]

    def prepare(self, bits, segments):
        from gptqmodel import GPTQModel, QuantizeConfig
        config = QuantizeConfig(bits=bits, group_size=self.job["group"], sym=True, desc_act=False,
                                offload_to_disk=False, device=self.job["device"], format="gptq_v2")
        self.calibration = self.segments[:segments]
        self.model = GPTQModel.load(self.job["model"], config)

    def quantize(self):
        self.model.quantize(self.calibration, batch_size=8)

    def dequantized(self):
        # GPTQModel's layers hold W^T.
        found = {name + ".weight": m.dequantize_weight().T for name, m in self.model.model.named_modules()
                 if hasattr(m, "qweight")}
        if set(found) != set(self.weights):
            raise RuntimeError(f"other layers are quantized: {sorted(set(found) ^ set(self.weights))[0]}")
        return found

    def stores(self, bits):
        group = self.job["group"]
        return bits + (16 + bits) / group, f"{bits} + 16/{group} (scale) + {bits}/{group} (qzeros)"


# Peer, distribution, modules, method, class.
PEERS = [
    ("torchao", "torchao", ["torchao", "torch"], "rtn symmetric", Torchao),
    ("torchao", "torchao", ["torchao", "torch"], "rtn asymmetric", Torchao),
    ("HQQ", "hqq", ["hqq", "torch"], "hqq", Hqq),
    ("GPTQModel", "gptqmodel", ["gptqmodel", "torch", "numpy"], "gptq", Gptq),
]


def one_line(error):
    """Status of a failure: the first line of what it said."""
    if isinstance(error, NotImplementedError) and str(error).startswith("no "):
        return str(error)
    lines = str(error).strip().splitlines() or [""]
    return f"failed: {type(error).__name__}: {lines[0]}"[:200]


def source_weights(torch, job):
    """The layers' weights as PyTorch tensors in the dtype of the file, on the device."""
    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}
    tensors, weights = tensors_of(job["model"]), {}
    for name in job["layers"]:
        if name not in tensors or len(tensors[name][2]) != 2:
            raise RuntimeError(f"layer {name} is no matrix of the source")
        t = torch.frombuffer(bytearray(read_tensor(tensors[name])), dtype=dtypes[tensors[name][1]])
        weights[name] = t.reshape(tensors[name][2]).to(job["device"])
        if weights[name].shape[1] % job["group"]:
            raise RuntimeError(f"layer {name} has {weights[name].shape[1]} columns: no whole groups")
    return weights


def measure(torch, peer, bits, segments):
    """Seconds of one quantization. Nothing is compiled or loaded in them after a first call."""
    peer.prepare(bits, segments)
    begin = time.perf_counter()
    peer.quantize()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def worker(job_path):
    """One peer, all bit widths once after a warm-up; writes what it found beside the job."""
    with open(job_path, encoding="utf-8") as f:
        job = json.load(f)
    import torch
    torch.set_num_threads(job["threads"])
    peer_class = next(p[4] for p in PEERS if p[0] == job["peer"])
    weights = source_weights(torch, job)
    peer = peer_class(job, weights)
    results = []
    warm = False
    for bits in job["bits"]:
        result = {"bits": bits, "status": "ok"}
        try:
            if not warm:
                measure(torch, peer, bits, 2)
                warm = True
            result["seconds"] = measure(torch, peer, bits, None)
            if job["write"]:
                result["bits_per_weight"], result["stores"] = peer.stores(bits)
                found = {k: w.detach().float().cpu().contiguous() for k, w in peer.dequantized().items()}
                squares = [((found[k] - w.cpu().float()).double().square().sum().item(),
                            w.double().square().sum().item()) for k, w in weights.items()]
                result["weight_error"] = math.sqrt(sum(e for e, _ in squares) / sum(w for _, w in squares))
                if not 0 < result["weight_error"] < math.inf:
                    raise RuntimeError(f"the dequantized weights differ by {result['weight_error']}")
                result["folder"] = os.path.join(job["scratch"], f"judged-{bits}")
                write_fp32(job["model"], {k: lambda w=w: w.numpy().tobytes() for k, w in found.items()},
                           result["folder"])
        except Exception as e:  # the next width may work
            traceback.print_exc()
            result["status"] = one_line(e)
        results.append(result)
    with open(job["result"], "w", encoding="utf-8") as f:
        json.dump(results, f)


def run_worker(options, job):
    """Results of a worker, or the status of all widths."""
    job["result"] = os.path.join(options.scratch, "result.json")
    job_path, log_path = os.path.join(options.scratch, "job.json"), os.path.join(options.scratch, "worker.log")
    if os.path.exists(job["result"]):
        os.remove(job["result"])
    with open(job_path, "w", encoding="utf-8") as f:
        json.dump(job, f)
    with open(log_path, "wb") as log:
        try:
            code = subprocess.run([sys.executable, os.path.abspath(__file__), "worker", job_path], check=False,
                                  stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=options.peer_timeout,
                                  cwd=options.scratch).returncode
        except subprocess.TimeoutExpired:
            return [{"bits": b, "status": f"failed: more than {options.peer_timeout:g} s"} for b in job["bits"]]
    if code == 0:
        with open(job["result"], encoding="utf-8") as f:
            return json.load(f)
    with open(log_path, encoding="utf-8", errors="replace") as f:
        lines = [line for line in f.read().splitlines() if line.strip()]
    said = lines[-1].strip() if lines else "no message"
    return [{"bits": b, "status": f"failed: exit code {code}: {said}"[:200]} for b in job["bits"]]


# ---- quantize --------------------------------------------------------------------------------------------------------


def judge(options, folder):
    """Quality of a folder: perplexity, divergence from the source, agreement of the first token."""
    result = flrq_json(options, "eval", folder, "--text", options.text, "--ctx", str(options.ctx), "--against",
                       options.model, "--precision", "full", *separator(options))
    against = result["against"]
    return {"perplexity": result["perplexity"], "kl_mean": against["kl_mean"], "top1": against["top1_agreement"],
            "source": against["perplexity"]}


def control(options):
    """Rows of the source and of the source after the way that every peer's weights go."""
    folder = os.path.join(options.scratch, "control")
    write_fp32(options.model, {}, folder)
    q = judge(options, folder)
    shutil.rmtree(folder)
    if not (q["kl_mean"] <= CONTROL_KL and abs(q["perplexity"] / q["source"] - 1) <= CONTROL_KL):
        raise FlrqFailed(f"control: the source as fp32 has perplexity {q['perplexity']}, the source {q['source']}, mean"
                         f" divergence {q['kl_mean']}; no peer can be judged")
    source = {"peer": "source", "method": "not quantized", "perplexity": q["source"], "status": "ok"}
    return [source, {"peer": "control", "method": "source as fp32", "bits": 32, "bits_per_weight": 32, **q,
                     "status": "ok"}]


def flrq_round(options, rows, method, judged):
    """One run of flrq per bit width; returns the names of the weights it quantized."""
    layers = []
    for row in rows:
        out = os.path.join(options.scratch, "flrq")
        calibration = ["--calib", "none"] if method == "rtn" else ["--calib-tokens", options.tokens]
        result = flrq_json(options, "quantize", options.model, "-o", out, "--bits", str(row["bits"]), "--group",
                           str(options.group), "--method", method, *calibration)
        phases, options.described = result["phases"], result["device"]
        row["taken"].append(sum(phases.get(p, 0.0) for p in ("calibrate", "quantize", "forward")))
        if judged:
            row["bits_per_weight"] = result["bits_per_weight"]
            row["stores"] = " + ".join(f"{v:.4g} ({k})" for k, v in result["bits_breakdown"].items() if v)
            row.update(judge(options, out))
            layers = [n[:-len("_packed")] for n in tensors_of(out) if n.endswith(".weight_packed")]
        shutil.rmtree(out)
    return layers


def peer_round(options, rows, layers, judged):
    """One worker process of a peer: all bit widths that have not failed."""
    alive = [r for r in rows if r["status"] == "ok"]
    if not alive:
        return
    job = {"peer": alive[0]["peer"], "method": alive[0]["method"], "model": os.path.abspath(options.model),
           "layers": layers, "bits": [r["bits"] for r in alive], "group": options.group, "device": options.device,
           "threads": options.threads, "tokens": options.tokens, "scratch": options.scratch, "write": judged}
    for row, result in zip(alive, run_worker(options, job)):
        row["status"] = result["status"]
        if result["status"] != "ok":
            continue
        row["taken"].append(result["seconds"])
        if judged:
            row.update({k: result[k] for k in ("bits_per_weight", "stores", "weight_error")})
            row.update(judge(options, result["folder"]))
    for bits in options.bits:
        shutil.rmtree(os.path.join(options.scratch, f"judged-{bits}"), ignore_errors=True)


def quantize(options):
    """All contestants one after another, --repeats times over; the first round is judged."""
    def new_rows(peer, version, method, status, counts):
        return [{"peer": peer, "version": version, "method": method, "bits": b, "group": options.group,
                 "status": status, "counts": counts, "taken": []} for b in options.bits]

    options.tokens = os.path.join(options.scratch, "tokens.npy")
    draw_tokens(options, options.tokens)
    rows = control(options)
    phases = "phases calibrate, quantize and forward of its report: all but opening, writing and verifying files"
    own = {m: new_rows("flrq", options.version, m, "ok", phases) for m in ("flrq", "rtn")}
    peers = [new_rows(peer, version_of(distribution), method, missing(modules) or "ok", c.counts)
             for peer, distribution, modules, method, c in PEERS if distribution in options.peers]
    layers = []
    for repeat in range(options.repeats):
        for method, mine in own.items():
            layers = flrq_round(options, mine, method, repeat == 0) or layers
            note(f"round {repeat + 1}: flrq {method}")
        for theirs in peers:
            peer_round(options, theirs, layers, repeat == 0)
            note(f"round {repeat + 1}: {theirs[0]['peer']} {theirs[0]['method']}: {theirs[0]['status']}")
    measured = [*own.values(), *peers]
    for i in range(len(options.bits)):
        rows += [contestant[i] for contestant in measured]
    for row in rows:
        taken = row.pop("taken", None)
        row.pop("source", None)
        if taken:
            row.update(spread(taken))
    shown = [c for c in QUANTIZE_COLUMNS if c not in ("group", "stores", "counts")]
    write_results(options, "peers-quantize", QUANTIZE_COLUMNS, shown, rows)


def note(text):
    print(f"peers.py: {text}", file=sys.stderr, flush=True)


# ---- command line ----------------------------------------------------------------------------------------------------


def integers(low, high):
    def parse(text):
        values = [int(v) for v in text.split(",")]
        if not values or min(values) < low or max(values) > high:
            raise argparse.ArgumentTypeError(f"{text}: integers of {low} to {high} are wanted")
        return values
    parse.__name__ = "list of integers"
    return parse


def integer(low, high):
    def parse(text):
        return integers(low, high)(text.strip(","))[0]
    parse.__name__ = "integer"
    return parse


def known_peers(text):
    names, known = text.split(","), {p[1] for p in PEERS}
    if not set(names) <= known:
        raise argparse.ArgumentTypeError(f"{text}: peers are {', '.join(sorted(known))}")
    return names


def parse_arguments():
    parser = argparse.ArgumentParser(prog="peers.py", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    for name in ("sketch", "quantize"):
        p = commands.add_parser(name)
        p.add_argument("--flrq", required=True, metavar="BIN", help="the program")
        p.add_argument("-o", "--out", required=True, metavar="DIR", help="folder of the results")
        p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
        p.add_argument("--threads", type=integer(1, 4096), default=threads, help="of flrq and of every peer")
        p.add_argument("--scratch", metavar="DIR", help="where temporary files go: fp32 copies of the model")
    p = commands.choices["sketch"]
    p.add_argument("--shapes", default="4096x4096,11008x4096")
    p.add_argument("--ranks", default="32,64,128")
    p.add_argument("--methods", default="block,r1,rsvd,svd", help="flrq's: see flrq bench sketch --help")
    for name in ("spectra", "outliers", "model", "tensor"):
        p.add_argument("--" + name, help="passed on to flrq bench sketch")
    p.add_argument("--repeats", type=integer(1, 1000), default=5)
    p.add_argument("--full", action="store_true", help="also exact SVDs of many minutes")
    p = commands.choices["quantize"]
    p.add_argument("--model", required=True, metavar="DIR", help="Hugging Face model folder")
    p.add_argument("--calib", required=True, metavar="FILE", help="calibration text")
    p.add_argument("--text", required=True, metavar="FILE", help="text of the judge")
    p.add_argument("--doc-sep", metavar="TEXT", help="separator of documents in both texts")
    p.add_argument("--ctx", type=integer(2, 1 << 20), default=2048)
    p.add_argument("--calib-samples", type=integer(1, 65536), default=128)
    p.add_argument("--calib-len", type=integer(2, 1 << 20), default=2048)
    p.add_argument("--bits", type=integers(2, 8), default=[4, 3, 2])
    p.add_argument("--group", type=integer(8, 1 << 20), default=128)
    p.add_argument("--peers", type=known_peers, default=known_peers("torchao,hqq,gptqmodel"), metavar="LIST")
    p.add_argument("--repeats", type=integer(1, 1000), default=3)
    p.add_argument("--peer-timeout", type=integer(1, 1000000), default=1800, metavar="SECONDS",
                   help="a peer's process that takes longer has failed")
    return parser.parse_args()


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "worker":
        worker(sys.argv[2])
        return 0
    options = parse_arguments()
    parent = options.scratch
    try:
        for name in ("model", "calib", "text"):
            path = getattr(options, name, None)
            if path is not None and not os.path.exists(path):
                raise Usage(f"--{name} {path}: no such file or folder")
        prepare_environment(options.threads)
        options.version = run_flrq(options, ["--version"]).strip().split()[-1]
        os.makedirs(options.out, exist_ok=True)
        options.load = round(os.getloadavg()[0], 2)
        if options.load > 0.5:
            note(f"this machine is busy (load {options.load}); libraries whose threads wait for each other suffer most")
        with tempfile.TemporaryDirectory(prefix="peers-", dir=parent) as options.scratch:
            {"sketch": sketch, "quantize": quantize}[options.command](options)
    except Usage as e:
        print(f"peers.py: {e}", file=sys.stderr)
        return 2
    except (FlrqFailed, OSError) as e:
        print(f"peers.py: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
