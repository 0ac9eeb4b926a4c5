#!/bin/sh
# peers.sh - bench/peers.py: what it says where no peer is installed, its judge, and PyTorch's results where there is PyTorch.
#
#   [FLRQ_PYTHON=venv/bin/python] peers.sh FLRQ      runs in tests/
#
# Everything but the last part runs on the bare standard library (python3 -I -S), whatever this machine has installed. The last part
# wants numpy and torch in FLRQ_PYTHON (python3 when unset) and is left out with a message where they are missing.
flrq=$1
command -v python3 >/dev/null || { echo "skipped: no python3"; exit 77; }
. e2e/lib.sh
script=../bench/peers.py
model=data/tinylm

# peers CODE PYTHON ARGUMENT...: runs the script, keeps stdout and stderr, checks the exit code.
peers() {
    wanted=$1 python=$2
    shift 2
    code=0
    # shellcheck disable=SC2086
    $python $script "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    expect "exit code $code of: peers.py $*" test "$code" -eq "$wanted"
}

# cells FILE COLUMN [KEY VALUE]...: a column of a CSV, of the rows where every KEY column has that VALUE.
cells() {
    python3 -I -S -c '
import csv, sys
keys = list(zip(sys.argv[3::2], sys.argv[4::2]))
for row in csv.DictReader(open(sys.argv[1], newline="")):
    if all(row[k] == v for k, v in keys):
        print(row[sys.argv[2]])' "$@"
}

bare="python3 -B -I -S"
sketch="sketch --flrq $flrq --shapes 96x160,192x128 --ranks 4,12 --repeats 2"
head -c 12000 $model/eval.txt >"$work/eval.txt"
head -c 60000 $model/calib.txt >"$work/calib.txt"
quantize="quantize --flrq $flrq --model $model --calib $work/calib.txt --text $work/eval.txt --doc-sep \\n --ctx 256
    --calib-samples 4 --calib-len 64 --bits 4,2"

# ---- usage ------------------------------------------------------------------------------------------------------------
peers 2 "$bare"
peers 2 "$bare" sketch
peers 2 "$bare" quantize --flrq "$flrq" --model "$work/none" --calib e2e/lib.sh --text e2e/lib.sh -o "$work/r"
expect "the folder is named" grep -q "model $work/none" "$work/err"
# shellcheck disable=SC2086
for wrong in "--bits 4,9" "--bits four" "--bits 5" "--peers awq" "--repeats 0" "--calib-len 50000"; do
    peers 2 "$bare" $quantize -o "$work/r" $wrong
done
expect "the tokens are counted" grep -q "tokens, one segment has 50000" "$work/err"
peers 1 "$bare" sketch --flrq "$work/none" -o "$work/r"
expect "the program is named" grep -q "$work/none" "$work/err"
# shellcheck disable=SC2086
peers 2 "$bare" $sketch --methods qr -o "$work/r"
expect "flrq's own line" grep -q "flrq bench: .*qr" "$work/err"
mkdir "$work/empty"
# shellcheck disable=SC2086
peers 1 "$bare" $quantize --model "$work/empty" -o "$work/r"
expect "flrq's own line" grep -q "^peers.py: flrq tokenize: folder $work/empty: no tokenizer" "$work/err"
expect "no stack of calls" test "$(grep -c Traceback "$work/err")" -eq 0
expect "no results of what failed" test -z "$(find "$work/r" -type f)"

# ---- no peer is installed ---------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
peers 0 "$bare" $sketch --methods block,svd -o "$work/bare"
expect "flrq's rows" test "$(cells "$work/bare/peers-sketch.csv" status peer flrq | grep -c '^ok$')" -eq 8
expect "PyTorch's rows" test "$(cells "$work/bare/peers-sketch.csv" status peer PyTorch | sort | uniq -c | tr -s ' ')" = " 2 not installed"
expect "a table" grep -q 'torch.svd_lowrank .*not installed' "$work/out"

# shellcheck disable=SC2086
peers 0 "$bare" $quantize --repeats 2 -o "$work/bare"
csv=$work/bare/peers-quantize.csv
expect "four peers, two widths" test "$(cells "$csv" status | grep -c '^not installed$')" -eq 8
expect "two rounds" test "$(cells "$csv" runs peer flrq | tr '\n' ' ')" = "2 2 2 2 "
source=$(cells "$csv" perplexity peer source)
expect "the control is the source" number "$(cells "$csv" perplexity peer control) / $source - 1 < 1e-6"
expect "the control does not diverge" number "$(cells "$csv" kl_mean peer control) < 1e-6"
expect "2 bits cost quality" number "$(cells "$csv" kl_mean peer flrq method rtn bits 2) > 0.05"
expect "flrq beats rounding" number "$(cells "$csv" kl_mean peer flrq method flrq bits 2) < $(cells "$csv" kl_mean method rtn bits 2)"
expect "bits of rounding" number "$(cells "$csv" bits_per_weight peer flrq method rtn bits 2) == 2.125"
# shellcheck disable=SC2086
expect "versions" $bare -c 'import json, sys; v = json.load(open(sys.argv[1])); assert v["versions"]["flrq"] and v["date"] and not v["versions"]["hqq"]' \
    "${csv%.csv}.json"
# The control can fail: weights that lose the lower half of their mantissa on the way are noticed.
code=0
# shellcheck disable=SC2086
python3 -B -I -S -c '
import sys
sys.path.insert(0, "../bench")
import peers
exact = peers.widened
def cut(data, dtype):
    out, dtype = exact(data, dtype)
    out[2::4] = bytes(len(out) // 4)
    return out, dtype
peers.widened = cut
sys.exit(peers.main())' $quantize -o "$work/cut" >"$work/out" 2>"$work/err" </dev/null || code=$?
expect "a judge that is not neutral ends the run" test "$code" -eq 1
expect "and says so" grep -q "control: the source as fp32" "$work/err"
expect "without results" test -z "$(find "$work/cut" -type f)"

# ---- PyTorch ----------------------------------------------------------------------------------------------------------
torch=${FLRQ_PYTHON:-python3}
if ! reason=$("$torch" -c 'import numpy, torch' 2>&1); then
    echo "PyTorch's results are not checked: $(echo "$reason" | tail -n 1)"
    finish
fi
# shellcheck disable=SC2086
peers 0 "$torch -B" $sketch --methods svd -o "$work/torch"
csv=$work/torch/peers-sketch.csv
expect "PyTorch's rows" test "$(cells "$csv" status peer PyTorch | grep -c '^ok$')" -eq 8
# Two exact SVDs of the same fp32 matrix: norms of at most 30,720 residuals that each carry some roundings of 2^-24.
cells "$csv" residual method svd >"$work/ours"
cells "$csv" residual method torch.linalg.svd >"$work/theirs"
expect "exact residuals agree" test "$(paste "$work/ours" "$work/theirs" | awk '{ d = $1 / $2 - 1; n += d < 1e-5 && d > -1e-5 } END { print n }')" -eq 4
for excess in $(cells "$csv" excess method torch.svd_lowrank); do
    # As for flrq's own in bench.sh: two power iterations are within a few per cent of the optimum, and nothing is below it.
    expect "excess $excess" number "$excess > -1e-5 && $excess < 0.05"
done
# shellcheck disable=SC2086
peers 0 "$torch -B" $quantize --bits 4 --repeats 1 --peers torchao -o "$work/torch"
csv=$work/torch/peers-quantize.csv
status=$(cells "$csv" status peer torchao method "rtn symmetric")
echo "torchao: $status"
if [ "$status" = ok ]; then
    # The same scheme as flrq's rtn but for the end of the range that the scale belongs to and its rounding.
    ours=$(cells "$csv" kl_mean peer flrq method rtn) theirs=$(cells "$csv" kl_mean peer torchao method "rtn symmetric")
    expect "rounding is rounding" number "$theirs > 0.5 * $ours && $theirs < 2 * $ours"
    expect "other weights" number "$(cells "$csv" weight_error peer torchao method "rtn symmetric") > 0.01"
else
    expect "the reason" test "$status" = "not installed"
fi
finish
