#!/bin/sh
# run.sh BUILD [OUT] - runs every bench and writes the results of this machine. Quiet machine wanted: nothing else running.
set -eu

build=${1:?usage: run.sh BUILD [OUT]}
name=$(sed -n 's/^model name[^:]*: *//p;T;q' /proc/cpuinfo | tr -cs 'A-Za-z0-9\n' '-' | tr 'A-Z' 'a-z' | sed 's/-*$//')
out=${2:-bench/results/${name:-cpu}-$(nproc)}
mkdir -p "$out"
if grep -q avx512bw /proc/cpuinfo; then
    export OPENBLAS_CORETYPE=SkylakeX
elif grep -q avx2 /proc/cpuinfo; then
    export OPENBLAS_CORETYPE=Haswell
fi

{
    date -u +%Y-%m-%d
    "$build/flrq" --version
    "$build/flrq" devices
    echo "OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE:-}"
    echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    cc --version | head -1
} >"$out/machine.txt"

"$build/flrq" bench ops --csv "$out/ops.csv" 2>/dev/null >"$out/ops.txt"
"$build/bench_clip" --csv >"$out/clip.csv"
"$build/flrq" bench sketch --shapes 4096x4096,11008x4096 --csv "$out/sketch.csv" 2>/dev/null >"$out/sketch.txt"
full=
[ "${LARGE:-1}" = 1 ] && full=--full
"$build/flrq" bench sketch --shapes 28672x8192 $full --repeats 3 --csv "$out/sketch-large.csv" 2>/dev/null \
    >"$out/sketch-large.txt"
"$build/bench_ablation" layers >"$out/ablation-layers.csv"
model=tests/data/tinylm
"$build/bench_ablation" model $model $model/calib.txt $model/eval.txt "$out/work" >"$out/ablation-tinylm.csv"
rm -rf "$out/work"
sh bench/demo.sh "$build" >"$out/demo.txt"
