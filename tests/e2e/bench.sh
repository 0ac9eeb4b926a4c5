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
flrq 0 bench ops --device "$device" --only "gram 4096x40" --seconds 0.001 --csv "$work/ops.csv"
expect "a row a case" test "$(rows "$work/ops.csv")" -eq 1
expect "measured" test "$(column "$work/ops.csv" status)" = ok
expect "a fraction of the floor" number "$(column "$work/ops.csv" of_floor) > 0"
expect "limits" grep -q "^copy .* GB/s" "$work/out"
json 0 bench ops --device "$device" --only "cholesky b=40" --seconds 0.001
expect "limits in the result" number "$(value copy_gb_s) > 0 && $(value full_gflop_s) > 0 && $(value upload_gb_s) > 0"
flrq 2 bench ops --device "$device" --only "no such case"
expect "no case" grep -q 'no such case' "$work/err"
flrq 1 bench ops --device "$device" --only "cholesky b=40" --seconds 0.001 --csv "$work/no/such/folder.csv"
expect "the file is named" grep -q "no/such/folder" "$work/err"

# ---- bench sketch -----------------------------------------------------------------------------------------------------
flrq 0 bench sketch --device "$device" --shapes 192x128,96x160 --ranks 4,12 --repeats 2 --csv "$work/sketch.csv" --dump "$work/npy"
expect "a row a method, rank and shape" test "$(rows "$work/sketch.csv")" -eq 20
expect "matrices in fp32" test "$(wc -c <"$work/npy/matrix-192x128.npy")" -eq $((192 * 128 * 4 + 128))
for excess in $(column "$work/sketch.csv" excess); do
    # Nothing beats the optimum but by the roundings of a norm of 30,000 fp32 elements; a sketch with two power
    # iterations is within a few per cent of it.
    expect "excess $excess" number "$excess > -1e-5 && $excess < 0.05"
done
if [ "$device" = cpu ]; then
    expect "what the CPU lacks" test "$(column "$work/sketch.csv" status | grep -c 'not on this device')" -eq 8
fi
flrq 0 bench sketch --device "$device" --shapes 64x64 --ranks 100 --methods block,svd --spectrum flat --repeats 1 --csv "$work/full.csv"
expect "a rank above the size is the size" test "$(column "$work/full.csv" rank | sort -u)" = 64
flrq 2 bench sketch --device "$device" --methods block,qr
expect "methods are named" grep -q svdj "$work/err"
flrq 2 bench sketch --device "$device" --shapes 64by64
flrq 2 bench sketch --device "$device" --ranks 0

# ---- bench quantize ---------------------------------------------------------------------------------------------------
mkdir "$work/scratch"
small="--device $device --shape tiny --calib-samples 2 --calib-len 32 --epochs 1 --error-sketch 16 --scratch $work/scratch"
# shellcheck disable=SC2086
json 0 bench quantize $small --blocks 2 --csv "$work/run.csv"
expect "nothing is left" test -z "$(ls "$work/scratch")"
expect "weights of two blocks" test "$(value weights)" -eq 1179648
expect "weights of the model" test "$(value model_weights)" -eq 2359296
expect "over the floor" number "$(value over_floor) > 0 && $(value over_floor_model) > 0"
expect "a total" grep -q '^total,' "$work/run.csv"
expect "a floor" grep -q '^floor,' "$work/run.csv"
# shellcheck disable=SC2086
json 0 bench quantize $small --blocks 1
expect "nothing follows from one block" test "$(value seconds_model)" = null
for copy in 1 2; do
    # shellcheck disable=SC2086
    flrq 0 bench quantize $small --blocks 2 --keep --quiet
    mv "$work"/scratch/* "$work/kept$copy"
done
for file in config.json model.safetensors.index.json model-00001-of-00003.safetensors model-00003-of-00003.safetensors; do
    expect "same seed, same $file" cmp "$work/kept1/model/$file" "$work/kept2/model/$file"
done
expect "same result" cmp "$work"/kept1/quantized/model-00001-of-*.safetensors "$work"/kept2/quantized/model-00001-of-*.safetensors
flrq 0 inspect "$work/kept1/model"
flrq 0 bench quantize --device "$device" --shape llama2-7b --plan-only --keep --scratch "$work/scratch"
expect "plan writes holes, not 13 GB" number "$(du -sk "$work/scratch" | cut -f 1) < 4096"
expect "a card of 24 GB" grep -q "24 GB card .* of the device's" "$work/out"
flrq 2 bench quantize --device "$device" --shape tiny --calib-len 4096
expect "the context is named" grep -q 2048 "$work/err"
flrq 1 bench quantize --device "$device" --shape tiny --scratch "$work/none"
expect "the remedy is named" grep -q -e --scratch "$work/err"
flrq 2 bench quantize --device no-such --shape tiny
finish
