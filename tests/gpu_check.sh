#!/usr/bin/env bash
# gpu_check.sh - everything that wants a real GPU, in one call of less than nine minutes.
#
#   gpu_check.sh OUTDIR [--deps DIR|ARCHIVE] [--build DIR] [--steps "NAME ..."]
#   gpu_check.sh --pack BUILD ARCHIVE
#
# Builds the CUDA plugin for the present device, runs the op cases and the end-to-end test on it, compute-sanitizer on
# small cases, and the benches. A failing step does not stop the later ones; each has a time limit of its own and all of
# them together BUDGET seconds (default 530). OUTDIR gets summary.txt, log.txt and results.tar.gz, which
# belongs unpacked into bench/results/<device>. Exit code: the number of failed steps.
#
# The machine needs nvcc, gcc and make. Where CMake and the libraries' headers are missing as well, pack them on a
# machine that has them: `--pack` puts the built programs and their libraries (not the system's own) into one archive,
# which `--deps` names on the other. A machine whose C library is older than the packing one's needs its own build.
#
# DEVICE=cudasim rehearses every step on the simulator, with small shapes and ten times the limits; compute-sanitizer is
# replaced by a note.
set -u
here=$(cd "$(dirname "$0")" && pwd)
root=$(dirname "$here")

# ---- packing ---------------------------------------------------------------------------------------------------------
pack() {
    local build=$1 archive=$2 dir program
    dir=$(mktemp -d) || exit 1
    mkdir -p "$dir/bin" "$dir/lib"
    for program in "$build"/flrq "$build"/tests/test_{matrix,small,quant,forward,device}_ops "$build"/tests/test_comm_nccl "$(find "$build" -name '*compare_codes' -type f | head -n 1)"; do
        cp "$program" "$dir/bin/" || exit 1
    done
    strip "$dir"/bin/* 2>/dev/null
    ldd "$build"/flrq "$dir"/bin/* | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u |
        grep -vE '/(libc|libm|libstdc\+\+|libgcc_s|libpthread|libdl|librt|ld-linux[^/]*)\.so' | while read -r library; do
        cp -L "$library" "$dir/lib/" || exit 1
    done
    tar -C "$dir" -cJf "$archive" bin lib || exit 1
    rm -rf "$dir"
    ls -l "$archive"
}

# ---- the steps: each is a function that runs in the repository, with $work, $out and $device set ----------------------
flrq() { "$bin/flrq" "$@"; }

step_machine() {
    date -u +%Y-%m-%dT%H:%MZ
    uname -srm
    grep -m1 'model name' /proc/cpuinfo
    nproc
    free -g | head -n 2
    nvcc --version 2>/dev/null | tail -n 2
    [ "$device" = cudasim ] || nvidia-smi --query-gpu=name,memory.total,driver_version,clocks.max.sm,clocks.max.mem,pcie.link.gen.max,pcie.link.width.max --format=csv
}

step_build() {
    if [ "$device" = cudasim ]; then
        [ -e "$plugins/libflrq_cudasim.so" ] || cmake_build -DFLRQ_CUDASIM=ON
    elif [ -n "$deps" ]; then
        local capability
        capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
        mkdir -p "$plugins" && make -f Makefile.cuda cuda BUILD="$plugins" CUDA_ARCH="$capability"
    else
        cmake_build -DFLRQ_CUDA=ON
    fi
}

cmake_build() {
    cmake -S . -B "$plugins" "$@" && cmake --build "$plugins" -j "$(nproc)"
}

step_devices() {
    flrq devices
    flrq devices --json | tr '{' '\n' | grep "\"$device\"" | grep -q '"available":true'
}

step_ops() {
    local table failed=0
    for table in matrix small quant forward device; do
        echo "== $table"
        (cd tests && FLRQ_TEST_DEVICE=$device FLRQ_TEST_OPS=${ops_filter[$table]-} "$bin_tests/test_${table}_ops") 2>&1 || failed=1
    done
    return $failed
}

step_e2e() {
    local compare
    compare=$(find "$bin_helpers" -name '*compare_codes' -type f | head -n 1)
    [ -n "$compare" ] || { echo "compare_codes is not among the built programs"; return 1; }
    (cd tests && sh e2e/cuda.sh "$bin/flrq" "$compare" "$device")
}

# One worker for each GPU that is visible; with one GPU a link of one, which loads and starts NCCL all the same.
step_nccl() {
    local code
    (cd tests && FLRQ_TEST_DEVICE=$device "$bin_tests/test_comm_nccl") >"$work/nccl.log" 2>&1
    code=$?
    cat "$work/nccl.log"
    if [ $code -ne 0 ] && grep -q 'need libnccl.so.2' "$work/nccl.log"; then
        echo "no NCCL here"
        return 0
    fi
    return $code
}

# Small cases of every table under one tool of compute-sanitizer.
sanitize() {
    local tool=$1 failed=0 table cases
    shift
    if [ "$device" = cudasim ]; then
        echo "not on the simulator, which finds the same faults by itself"
        return 0
    fi
    while read -r table cases; do
        echo "== $tool: $table \"$cases\""
        (cd tests && FLRQ_TEST_DEVICE=$device FLRQ_TEST_OPS=$cases compute-sanitizer --tool "$tool" --error-exitcode 9 "$@" \
            "$bin_tests/test_${table}_ops") 2>&1 | grep -vE '^(ok|none) ' | tail -n 40
        [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1
    done <<'CASES'
small 643x40
small 300x643
small 513x1
quant 9x
quant 5x333
matrix 130x40
matrix 643x1049 b=8
matrix 5x7
matrix 7x33
matrix 3 bit
forward 513x257
forward 129 tokens
forward n=131073
forward vocab 257
CASES
    return $failed
}
step_memcheck() { sanitize memcheck --leak-check no; }
step_racecheck() { sanitize racecheck; }
step_initcheck() { sanitize initcheck; }

# Results of the benches: tables, figures and JSON, which main() packs into one file.
results=${work:-}/results

step_bench_ops() {
    flrq bench ops --device "$device" -o "$results" "${bench_ops[@]}" 2>/dev/null
}

# Then PyTorch's SVDs beside flrq's in one run, where there is a PyTorch.
step_bench_sketch() {
    flrq bench sketch --device "$device" -o "$results" "${bench_sketch[@]}" 2>/dev/null || return
    python3 -c 'import torch' 2>/dev/null || return 0
    python3 bench/peers.py sketch --flrq "$bin/flrq" --device "$device" -o "$results" "${bench_peers[@]}"
}

step_bench_methods() {
    head -c "$text_bytes" "$model/eval.txt" >"$work/text"
    flrq bench methods "$model" --device "$device" -o "$results" --scratch "$work" --calib "$model/calib.txt" \
        --text "$work/text" --doc-sep '\n' "${bench_methods[@]}" 2>/dev/null
}

# bench_run NAME SHAPE OPTION...
bench_run() {
    local name=$1 shape=$2 code
    shift 2
    flrq bench quantize --device "$device" --shape "$shape" --scratch "$work" -o "$results" --name "$name" "$@" 2>"$work/run.log"
    code=$?
    [ $code -eq 0 ] || tail -n 5 "$work/run.log"
    return $code
}

step_quantize_7b() { bench_run quantize-7b "${shapes[0]}" "${run_small[@]}"; }
step_quantize_8b() { bench_run quantize-8b "${shapes[1]}" "${run_small[@]}"; }
step_quantize_70b() { bench_run quantize-70b "${shapes[2]}" "${run_large[@]}"; }

step_plan() {
    local shape
    for shape in "${shapes[@]}"; do
        flrq bench quantize --device "$device" --shape "$shape" --plan-only --scratch "$work" 2>/dev/null || return
    done
}

# ---- settings --------------------------------------------------------------------------------------------------------
# Names with their limits in seconds, what is wanted most first.
steps="machine:20 build:150 devices:60 ops:90 nccl:60 e2e:90 bench_ops:90 quantize_7b:90 bench_sketch:120 memcheck:75 racecheck:60
initcheck:60 quantize_70b:90 bench_methods:90 quantize_8b:60 plan:30"
settings() {
    declare -gA ops_filter=()
    model=tests/data/tinylm
    text_bytes=1000000 # all of it
    if [ "$device" = cudasim ]; then
        bench_ops=(--only "gram 4096x40" --seconds 0.01)
        bench_sketch=(--shapes "192x128,128x192" --ranks 8 --repeats 1)
        bench_peers=(--shapes "192x128" --ranks 8 --repeats 1)
        text_bytes=400
        bench_methods=(--bits 3 --methods rtn --ctx 64 --calib-samples 2 --calib-len 64 --error-sketch 32)
        shapes=(tiny tiny tiny)
        run_small=(--blocks 2 --calib-samples 2 --calib-len 64 --epochs 1 --error-sketch 32)
        run_large=("${run_small[@]}")
    else
        bench_ops=(--full --seconds 0.2)
        bench_sketch=(--shapes "4096x4096,11008x4096,28672x8192" --ranks 32,128 --repeats 5)
        bench_peers=(--shapes "4096x4096,11008x4096" --ranks 32,128 --repeats 5)
        bench_methods=(--ctx 256 --calib-samples 64 --calib-len 256 --repeats 3)
        shapes=(llama2-7b llama3-8b llama2-70b)
        run_small=(--blocks 4)
        run_large=(--blocks 2)
    fi
}

main() {
    local steps_wanted="" name limit begin seconds left code failed=0 begun slow=1
    out=$1
    shift
    device=${DEVICE:-cuda} deps="" plugins=""
    while [ $# -gt 0 ]; do
        case $1 in
        --deps) deps=$2 ;;
        --build) plugins=$2 ;;
        --steps) steps_wanted=$2 ;;
        *) usage ;;
        esac
        shift 2 || usage
    done
    mkdir -p "$out" && out=$(cd "$out" && pwd) || exit 2
    work=$(mktemp -d) || exit 2
    trap 'rm -rf "$work"' EXIT
    cd "$root" || exit 2
    plugins=${plugins:-$work/build}
    mkdir -p "$plugins" && plugins=$(cd "$plugins" && pwd)
    bin=$plugins bin_tests=$plugins/tests bin_helpers=$plugins/tests/e2e
    if [ -f "$deps" ]; then
        mkdir "$work/deps" && tar -C "$work/deps" -xf "$deps" || exit 2
        deps=$work/deps
    fi
    if [ -n "$deps" ]; then
        deps=$(cd "$deps" && pwd) || exit 2
        bin=$deps/bin bin_tests=$deps/bin bin_helpers=$deps/bin
        export LD_LIBRARY_PATH=$deps/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    fi
    export FLRQ_PLUGINS=$plugins
    if grep -q avx512bw /proc/cpuinfo; then
        export OPENBLAS_CORETYPE=SkylakeX
    fi
    export device deps plugins out work bin bin_tests bin_helpers
    [ "$device" != cudasim ] || slow=10
    begun=$SECONDS
    : >"$out/log.txt"
    printf '%-14s %5s %8s\n' step code seconds >"$out/summary.txt"
    for name in $steps; do
        limit=$((slow * ${name#*:})) name=${name%:*}
        [[ -z $steps_wanted || " $steps_wanted " == *" $name "* ]] || continue
        left=$((slow * ${BUDGET:-530} - (SECONDS - begun)))
        [ "$limit" -le "$left" ] || limit=$left
        if [ "$limit" -lt 5 ]; then
            printf '%-14s %5s %8s\n' "$name" - "no time" | tee -a "$out/summary.txt"
            failed=$((failed + 1))
            continue
        fi
        printf '\n==== %s (at most %s s)\n' "$name" "$limit" >>"$out/log.txt"
        begin=$SECONDS
        timeout -k 5 "$limit" bash "$here/gpu_check.sh" --step "$name" >>"$out/log.txt" 2>&1
        code=$?
        seconds=$((SECONDS - begin))
        printf '%-14s %5s %8s\n' "$name" "$code" "$seconds" | tee -a "$out/summary.txt"
        if [ $code -ne 0 ]; then
            failed=$((failed + 1))
            tail -n 8 "$out/log.txt" | cut -c 1-300 | sed 's/^/    /'
        fi
    done
    [ ! -d "$work/results" ] || tar -C "$work" -czf "$out/results.tar.gz" results
    printf '%s failed, %s s in all\n' "$failed" "$((SECONDS - begun))" | tee -a "$out/summary.txt"
    exit "$failed"
}

usage() {
    sed -n '2,5s/^# \{0,1\}//p' "$here/gpu_check.sh" >&2
    exit 2
}

case ${1:-} in
--pack)
    [ $# -eq 3 ] || usage
    pack "$2" "$3"
    ;;
--step) # one step, in its own process so that a limit can end it
    cd "$root" || exit 2
    settings
    "step_$2"
    ;;
"" | -*) usage ;;
*) main "$@" ;;
esac
