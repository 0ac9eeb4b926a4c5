#!/bin/sh
# bench.sh - the benches do what they say: rows, tables as CSV, reproducible checkpoints, nothing left behind. No time is
# asserted.
#
#   bench.sh FLRQ [DEVICE]      runs in tests/; DEVICE is cpu (default) or cudasim
flrq=$1 device=${2:-cpu}
. e2e/lib.sh

# rows FILE: lines below the heading.
rows() {
    tail -n +2 "$1" | wc -l
}

# column FILE NAME: the values of a column; texts with commas do not occur in the files below.
column() {
    awk -F, -v name="$2" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next } { print $c }' "$1"
}

# ---- bench ops --------------------------------------------------------------------------------------------------------
flrq 0 bench ops --device "$device" --only "gram 4096x40" --seconds 0.001 -o "$work"
expect "a row a case" test "$(rows "$work/ops.csv")" -eq 1
expect "measured" test "$(column "$work/ops.csv" status)" = ok
expect "a fraction of the floor" number "$(column "$work/ops.csv" of_floor) > 0"
expect "limits" grep -q "^copy .* GB/s" "$work/out"
json 0 bench ops --device "$device" --only "cholesky b=40" --seconds 0.001
expect "limits in the result" number "$(value copy_gb_s) > 0 && $(value full_gflop_s) > 0 && $(value upload_gb_s) > 0"
flrq 2 bench ops --device "$device" --only "no such case"
expect "no case" grep -q 'no such case' "$work/err"
flrq 1 bench ops --device "$device" --only "cholesky b=40" --seconds 0.001 -o "$work/no/such/folder"
expect "the file is named" grep -q "no/such/folder" "$work/err"

# ---- bench sketch -----------------------------------------------------------------------------------------------------
# row FILE MATRIX METHOD: the lines of a method on a matrix, with the heading.
row() {
    awk -F, -v matrix="$2" -v method="$3" '
        NR == 1 { for (i = 1; i <= NF; i++) if ($i == "method") c = i; print; next }
        $1 == matrix && $c == method' "$1" >"$work/row.csv"
}

out=$work/sketch
flrq 0 bench sketch --device "$device" --shapes 192x128,96x160 --ranks 4,12 --repeats 2 -o "$out" --dump "$out/npy"
expect "a row a method, rank and shape" test "$(rows "$out/sketch.csv")" -eq 20
expect "matrices in fp32" test "$(wc -c <"$out/npy/matrix-192x128.npy")" -eq $((192 * 128 * 4 + 128))
expect "their name in every row" test "$(column "$out/sketch.csv" dump | grep -c '^matrix-[0-9]*x[0-9]*.npy$')" -eq 20
for excess in $(column "$out/sketch.csv" excess); do
    # Nothing beats the optimum but by the roundings of a norm of 30,000 fp32 elements; a sketch with two power
    # iterations is within a few per cent of it.
    expect "excess $excess" number "$excess > -1e-5 && $excess < 0.05"
done
methods=5
if [ "$device" = cpu ]; then
    methods=4
    expect "what the CPU lacks" test "$(column "$out/sketch.csv" status | grep -c 'not on this device')" -eq 4
    row "$out/sketch.csv" "power+columns 192x128" svd
    expect "routines by name" test "$(column "$work/row.csv" routine | sort -u)" = "LAPACK gesdd"
else
    expect "all methods are there" test "$(column "$out/sketch.csv" status | sort -u)" = ok
    row "$out/sketch.csv" "power+columns 192x128" rsvd
    expect "routines by name" test "$(column "$work/row.csv" routine | sort -u)" = "simulated cuSOLVER Xgesvdr"
    row "$out/sketch-ranks.csv" "power+columns 192x128" svdj
    expect "two exact SVDs choose the same ranks" test "$(column "$work/row.csv" agrees)" = true
fi
expect "ranks of every method" test "$(rows "$out/sketch-ranks.csv")" -eq $((2 * methods))
expect "a curve from 0 to the largest rank" test "$(rows "$out/sketch-amax.csv")" -eq $((2 * methods * 13))
for figure in amax-1 amax-2 seconds-1 seconds-2; do
    expect "figure $figure" test "$(tail -c 7 "$out/sketch-$figure.svg")" = "</svg>"
done
expect "the summary" grep -q '^ranks of rsvd  *agree for [0-2] of 2 matrices' "$work/out"
json 0 bench sketch --device "$device" --shapes 192x128,96x160 --ranks 4,12 --repeats 2 --spectra step --methods block
expect "the result is what is shown" test "$(value spectrum)" = step
flrq 0 bench sketch --device "$device" --shapes 64x64 --ranks 100 --methods block,svd --spectra flat --repeats 1 -o "$out" --name full
expect "a rank above the size is the size" test "$(column "$out/full.csv" rank | sort -u)" = 64
expect "one matrix, one figure" test -s "$out/full-seconds.svg"

# Weights of a checkpoint, as they are stored.
flrq 0 bench sketch --device "$device" --model data/families/llama_f16_sharded --ranks 4 --repeats 1 -o "$out" --name f16
expect "the linear layers of block 0" test "$(column "$out/f16-ranks.csv" matrix | sort -u | wc -l)" -eq 7
expect "stored as F16" test "$(column "$out/f16.csv" dtype | sort -u)" = F16
flrq 0 bench sketch --device "$device" --model data/families/llama --tensor '1\..*(up|down)_proj' --ranks 4 --repeats 1 -o "$out" \
    --name f32 --dump "$out/npy"
expect "those that match" test "$(column "$out/f32.csv" matrix | sort -u | sed 's/.*layers//' | tr '\n' ' ')" = \
    ".1.mlp.down_proj.weight .1.mlp.up_proj.weight "
expect "dumped by number" test "$(find "$out/npy" -name 'matrix-[12]-*.npy' | wc -l)" -eq 2
flrq 2 bench sketch --device "$device" --model data/families/llama --tensor no_such
expect "some names there are" grep -q 'model.layers.0.self_attn.q_proj.weight' "$work/err"
flrq 2 bench sketch --device "$device" --model data/families/llama --shapes 64x64
flrq 0 quantize data/families/llama -o "$work/llama4" --calib none --group 32 --epochs 1 --quiet
flrq 1 bench sketch --device "$device" --model "$work/llama4"
expect "packed codes are no matrix" grep -q 'is quantized' "$work/err"

flrq 2 bench sketch --device "$device" --methods block,qr
expect "methods are named" grep -q svdj "$work/err"
flrq 2 bench sketch --device "$device" --shapes 64by64
flrq 2 bench sketch --device "$device" --ranks 0
flrq 2 bench sketch --device "$device" --spectra power,steep
expect "spectra are named" grep -q 'power, flat, fast, step' "$work/err"
flrq 2 bench sketch --device "$device" --outliers none,none
expect "once is enough" grep -q 'none twice' "$work/err"
: >"$work/file"
flrq 1 bench sketch --device "$device" --shapes 8x8 -o "$work/file"
flrq 1 bench sketch --device "$device" --shapes 8x8 -o "$work/no/such"
expect "the folder is named" grep -q 'no/such' "$work/err"
if [ "$(id -u)" -ne 0 ]; then
    mkdir "$work/closed" && chmod 500 "$work/closed"
    flrq 1 bench sketch --device "$device" --shapes 8x8 -o "$work/closed"
fi

# ---- bench quantize ---------------------------------------------------------------------------------------------------
scratch=$work/scratch results=$work/results
mkdir "$scratch"
small="--device $device --calib-samples 2 --calib-len 32 --epochs 1 --error-sketch 16 --scratch $scratch"

# phase SHAPE PHASE NAME: a value of the table.
phase() {
    awk -F, -v shape="$1" -v phase="$2" -v name="$3" 'NR == 1 { for (i = 1; i <= NF; i++) if ($i == name) c = i; next }
        $1 == shape && $2 == phase { print $c }' "$results/quantize.csv"
}

# shellcheck disable=SC2086
json 0 bench quantize $small --shape tiny --blocks 2 -o "$results"
expect "nothing is left" test -z "$(ls "$scratch")"
expect "weights of two blocks" test "$(value weights)" -eq 1179648
expect "weights of the model" test "$(value model_weights)" -eq 2359296
expect "over the floor" number "$(value over_floor) > 0 && $(value over_floor_model) > 0"
expect "command, version, date" grep -q '"command".*bench quantize.*--shape tiny' "$results/quantize.json"
expect "a figure" grep -q 'extrapolated from 2 blocks' "$results/quantize-phases.svg"
for phase in open calibrate quantize write forward verify "read and rest" total; do
    expect "a row of $phase" test "$(phase tiny "$phase" status)" = ok
    expect "seconds of $phase" number "$(phase tiny "$phase" seconds) >= 0"
done
# Parts in nine digits.
expect "phases add up" number "$(awk -F, 'NR > 1 && $2 != "total" { sum += $3; share += $4; whole += $6 } $2 == "total" {
    print (sum / $3 - 1) ^ 2 + (share - 1) ^ 2 + (whole / $6 - 1) ^ 2 }' "$results/quantize.csv") < 1e-14"
expect "opening is extrapolated as it is" test "$(phase tiny open seconds)" = "$(phase tiny open seconds_model)"
expect "the last block needs no forward" number "($(phase tiny forward seconds_model) / $(phase tiny forward seconds) / 3 - 1) ^ 2 < 1e-14"
expect "floor of the forward" number "($(phase tiny calibrate floor) / $(phase tiny forward floor) / 2 - 1) ^ 2 < 1e-14"
expect "its floor in the model" number "($(phase tiny calibrate floor_model) / $(phase tiny forward floor_model) / 4 * 3 - 1) ^ 2 < 1e-14"
expect "no floor of the fit" test -z "$(phase tiny quantize floor)"
expect "the floor adds up" number "(($(phase tiny calibrate floor) + $(phase tiny forward floor) + $(phase tiny "read and rest" floor)) / $(phase tiny total floor) - 1) ^ 2 < 1e-14"
# shellcheck disable=SC2086
json 0 bench quantize $small --shape tiny --blocks 1 -o "$results" --name one
expect "nothing follows from one block" test "$(value over_floor_model)" = null
expect "names" test "$(ls "$results" | tr '\n' ' ')" = "one-phases.svg one.csv one.json quantize-phases.svg quantize.csv quantize.json "

# Checkpoints: reproducible, what eval and transformers read, and quantized like any other. They do not depend on the
# device, so that one will do for a slow one.
shapes="tiny tiny-opt tiny-qwen2"
[ "$device" = cpu ] || shapes=tiny
for shape in $shapes; do
    for copy in 1 2; do
        # shellcheck disable=SC2086
        flrq 0 bench quantize $small --shape $shape --blocks 2 --keep --quiet
        mv "$scratch"/* "$work/$shape$copy"
    done
    expect "same seed, same $shape" diff -r "$work/${shape}1/model" "$work/${shape}2/model"
    for file in model-00001-of-00003.safetensors model-00003-of-00003.safetensors lowrank/adapter_model.safetensors; do
        expect "same result of $shape, $file" cmp "$work/${shape}1/quantized/$file" "$work/${shape}2/quantized/$file"
    done
    tokens=$work/${shape}1/tokens.npy
    flrq 0 eval "$work/${shape}1/model" --device cpu --tokens "$tokens" --ctx 32 --dump-logits "$work/${shape}1/logits.npy"
    flrq 0 eval "$work/${shape}1/quantized" --device cpu --tokens "$tokens" --ctx 32
done
if [ "$device" = cpu ] && command -v "${FLRQ_PYTHON:-python3}" >/dev/null; then
    code=0
    "${FLRQ_PYTHON:-python3}" oracle/check_bench_model.py "$work/tiny1" "$work/tiny-opt1" "$work/tiny-qwen21" >"$work/out" 2>"$work/err" || code=$?
    [ $code -eq 77 ] && cat "$work/out"
    expect "transformers reads them" test $code -eq 0 -o $code -eq 77
fi
flrq 0 inspect "$work/tiny1/model"

# Several shapes; one that cannot run is a row, and only when none can the command fails. (The limit of a file's size is
# 10 MB here.)
limited() {
    wanted=$1 code=0
    shift
    (trap '' XFSZ && ulimit -f 20480 && exec "$flrq" "$@" >"$work/out" 2>"$work/err" </dev/null) || code=$?
    expect "exit code $code of: flrq $*" test "$code" -eq "$wanted"
}
rm -r "$results"
# shellcheck disable=SC2086
json 0 bench quantize $small --shape tiny-opt,tiny -o "$results"
expect "a run a shape" number "$(phase tiny total seconds) > 0 && $(phase tiny-opt total seconds) > 0"
expect "in the order given" test "$(sed -n 2p "$results/quantize.csv" | cut -d , -f 1)" = tiny-opt
expect "nothing extrapolated" test "$(phase tiny total seconds)" = "$(phase tiny total seconds_model)"
expect "a result a run" test "$(grep -c '"over_floor"' "$results/quantize.json")" -eq 2
expect "a bar each and its floor" test "$(grep -c 'tiny-opt: floor' "$results/quantize-phases.svg")" -ge 1
# shellcheck disable=SC2086
limited 0 bench quantize $small --shape opt-1.3b,tiny --blocks 1 -o "$results"
expect "the row says why" grep -q '^opt-1.3b,,.*cannot be made' "$results/quantize.csv"
expect "the table says why" grep -q '^opt-1.3b .*cannot be made' "$work/out"
expect "the other went on" number "$(phase tiny total seconds) > 0"
# shellcheck disable=SC2086
limited 1 bench quantize $small --shape opt-1.3b,opt-2.7b --blocks 1
expect "none could run" grep -q 'none of the 2 shapes could run; opt-2.7b: .*cannot be made' "$work/err"
# shellcheck disable=SC2086
limited 1 bench quantize $small --shape opt-1.3b --blocks 1
expect "one shape: the error as it is" grep -q 'error: .*opt\|error: .*cannot be made' "$work/err"
expect "nothing is left after failures" test -z "$(ls "$scratch")"

# A folder of the user's, which stays as it is.
before=$(sha256sum data/tinylm/*)
rm -r "$results"
# shellcheck disable=SC2086
json 0 bench quantize $small --model data/tinylm/ -o "$results"
expect "the folder's name" number "$(phase tinylm total seconds) > 0 && $(value blocks) == $(value model_blocks)"
expect "nothing was generated" test "$(value generate_seconds)" = null
expect "its linear weights" test "$(value weights)" -eq "$("$flrq" plan data/tinylm --calib none --device cpu --json | sed 's/.*"weights": *\([0-9]*\).*/\1/')"
expect "untouched" test "$before" = "$(sha256sum data/tinylm/*)"
expect "nothing is left of it" test -z "$(ls "$scratch")"
# shellcheck disable=SC2086
flrq 2 bench quantize $small --model data/tinylm --blocks 2
expect "blocks of a folder" grep -q -e --blocks "$work/err"
# shellcheck disable=SC2086
flrq 2 bench quantize $small --model data/tinylm --shape tiny
expect "a folder or a shape" grep -q 'give one of them' "$work/err"
flrq 2 bench quantize --device "$device" --model data/tinylm --calib-len 100000 --scratch "$scratch"
expect "its positions" grep -q 'positions of tinylm' "$work/err"
flrq 1 bench quantize --device "$device" --model "$work/none" --scratch "$scratch"
expect "the missing folder is named" grep -q "$work/none" "$work/err"
flrq 1 bench quantize --device "$device" --model "$work/tiny1/quantized" --calib-len 32 --scratch "$scratch"
expect "quantized already" grep -q 'quantized already' "$work/err"

# Plans of all shapes: holes, no gigabytes.
flrq 0 bench quantize --device "$device" --shape llama2-7b --plan-only --keep --scratch "$scratch"
expect "plan writes holes, not 13 GB" number "$(du -sk "$scratch" | cut -f 1) < 4096"
expect "a card of 24 GB" grep -q "24 GB card .* of the device's" "$work/out"
rm -r "${scratch:?}"/*
json 0 bench quantize --device "$device" --shape all --plan-only --scratch "$scratch"
expect "a plan each" test "$(grep -c '"plan_24gb"' "$work/tidy")" -eq 12
if [ "$device" = cpu ]; then
    expect "all planned" test "$(grep -c '"error"' "$work/tidy")" -eq 0
else # what the plan refuses is not generated
    # shellcheck disable=SC2086
    flrq 0 bench quantize $small --shape opt-66b,tiny -o "$results"
    expect "no memory is a row" grep -q '^opt-66b,,.*device memory wanted' "$results/quantize.csv"
    # shellcheck disable=SC2086
    flrq 1 bench quantize $small --shape tiny,tiny-opt --device-memory 0.001
    expect "no memory for any" grep -q 'none of the 2 shapes could run; tiny-opt: .*device memory wanted' "$work/err"
fi

# Refusals, and a stop.
flrq 2 bench quantize --device "$device" --shape tiny --calib-len 4096
expect "the context is named" grep -q '2048 positions of tiny' "$work/err"
flrq 2 bench quantize --device "$device" --shape tiny,gpt-5
expect "the shapes are named" grep -q 'llama2-7b.*opt-66b.*qwen2.5-72b.*tiny,gpt-5' "$work/err"
flrq 2 bench quantize --device "$device" --shape tiny,tiny
expect "twice" grep -q 'tiny twice' "$work/err"
flrq 1 bench quantize --device "$device" --shape tiny --scratch "$work/none"
expect "the remedy is named" grep -q -e --scratch "$work/err"
flrq 2 bench quantize --device no-such --shape tiny
code=0
timeout -s INT 1 "$flrq" bench quantize --device "$device" --shape llama2-7b --blocks 4 --scratch "$scratch" >"$work/out" 2>"$work/err" || code=$?
expect "stopped, $code" test $code -eq 124
expect "and says so" grep -q 'stopp' "$work/err"
expect "nothing is left after a stop" test -z "$(ls "$scratch")"
finish
