#!/bin/sh
# run.sh BUILD [OUT] - every bench on this machine's CPU, into bench/results/<machine>. Quiet machine wanted: nothing else
# running; about an hour on two cores. PYTHON names a Python that has the peers (python3 otherwise); what it lacks is
# a row saying so. STEPS="sketch methods" runs some of: ops clip sketch large spectra methods planted quantize peers ablation.
set -eu

build=${1:?usage: run.sh BUILD [OUT]}
name=$(sed -n 's/^model name[^:]*: *//p;T;q' /proc/cpuinfo | tr -cs 'A-Za-z0-9\n' '-' | tr 'A-Z' 'a-z' | sed 's/-*$//')
out=${2:-bench/results/${name:-cpu}-$(nproc)}
steps=${STEPS:-ops clip sketch large spectra methods planted quantize peers ablation}
flrq=$build/flrq
model=tests/data/tinylm
texts="--calib $model/calib.txt --text $model/eval.txt --doc-sep \\n --ctx 256 --calib-samples 64 --calib-len 256"
python=${PYTHON:-python3}
mkdir -p "$out"
work=$build/bench-work # not a temporary name: it stands in the commands that the results tell
rm -rf "$work"
mkdir "$work"
trap 'rm -rf "$work"' EXIT
if grep -q avx512bw /proc/cpuinfo; then
    export OPENBLAS_CORETYPE=SkylakeX
elif grep -q avx2 /proc/cpuinfo; then
    export OPENBLAS_CORETYPE=Haswell
fi

# step NAME COMMAND...: runs it when the step is wanted.
step() {
    name=$1
    shift
    case " $steps " in *" $name "*) ;; *) return 0 ;; esac
    echo "$name: $*" >&2
    "$@" 2>"$work/log" >"$work/text" || {
        tail -n 5 "$work/log" >&2
        exit 1
    }
}

{
    date -u +%Y-%m-%d
    "$flrq" --version
    "$flrq" devices
    echo "OPENBLAS_CORETYPE=${OPENBLAS_CORETYPE:-}"
    echo "load before: $(cut -d' ' -f1-3 /proc/loadavg)"
    cc --version | head -1
} >"$out/machine.txt"

step ops "$flrq" bench ops --device cpu -o "$out"
step clip sh -c "'$build/bench_clip' --csv >'$out/clip.csv'"
step peers "$python" bench/peers.py sketch --flrq "$flrq" --shapes 4096x4096,11008x4096 --full -o "$out"
step sketch "$flrq" bench sketch --device cpu --shapes 4096x4096,11008x4096 --full -o "$out"
# Without the exact SVD, which takes over ten minutes.
step large "$flrq" bench sketch --device cpu --shapes 28672x8192 --ranks 32,128 --methods block,r1,rsvd --full --repeats 3 \
    -o "$out" --name sketch-large
step spectra "$flrq" bench sketch --device cpu --shapes 2048x2048 --spectra power,flat,fast,step \
    --outliers columns,rows,spikes,none --ranks 64 --repeats 3 -o "$out" --name sketch-spectra
# shellcheck disable=SC2086
step methods "$flrq" bench methods $model $texts --device cpu --repeats 3 -o "$out"
"$python" bench/plant_outliers.py $model "$work/planted"
# shellcheck disable=SC2086
step planted "$flrq" bench methods "$work/planted" $texts --device cpu --bits 3,2 --methods flrq,paper,svd,lqer,clip,rtn \
    -o "$out" --name methods-planted
step quantize "$flrq" bench quantize --device cpu --shape llama2-7b,llama3-8b,opt-6.7b,llama2-70b --blocks 2 \
    --calib-samples 1 --scratch "$work" -o "$out"
# shellcheck disable=SC2086
step peers "$python" bench/peers.py quantize --flrq "$flrq" --model $model $texts --bits 4,3,2 --group 128 -o "$out"
step ablation sh -c "'$build/bench_ablation' layers >'$out/ablation-layers.csv'"
step ablation sh -c "'$build/bench_ablation' model $model $model/calib.txt $model/eval.txt '$work/ablation' >'$out/ablation-tinylm.csv'"
