#!/bin/sh
# methods.sh - `flrq bench methods` measures what quantize and eval measure, and `quantize --ranks-from` does what it says.
#
#   methods.sh FLRQ [DEVICE]      runs in tests/; DEVICE is cpu (default) or cudasim
flrq=$1 device=${2:-cpu}
. e2e/lib.sh

# cell METHOD COLUMN: of the first row of that kind in the table.
cell() {
    awk -F, -v kind="$1" -v name="$2" '
        NR == 1 { for (i = 1; i <= NF; i++) { if ($i == name) c = i; if ($i == "kind") k = i } next }
        $k == kind { print $c; exit }' "$work/results/methods.csv"
}
# ranks FILE: name and rank of every matrix of a report, one a line.
ranks() {
    { tr -d '\n ' <"$1"; echo; } | sed 's/"name":/\n/g' | sed -n 's/^"\([^"]*\)","rows":.*"rank":\([0-9]*\),"bits_per_weight".*/\1 \2/p'
}

model=data/tinylm
head -c 6000 $model/eval.txt >"$work/text"
calib="--calib $model/calib.txt --calib-samples 4 --calib-len 64 --error-sketch 32 --device $device"

# ---- ranks of another run -----------------------------------------------------------------------------------------------
flrq 0 quantize $model -o "$work/free" --bits 2 $calib --rank-policy fixed --rank 3 --quiet
# Ranks that no rule would give: the layer's number and the shape decide.
sed 's/"rank": 3,/"rank": 1,/' "$work/free/report.json" | awk '/"name":/ { n++ } /"rank": 1,/ { sub(/"rank": 1,/, "\"rank\": " (n * 5) % 7 ",") } { print }' >"$work/ranks.json"
ranks "$work/ranks.json" >"$work/wanted"
expect "all matrices have a rank" test "$(wc -l <"$work/wanted")" -eq 28
expect "different ones" test "$(cut -d' ' -f2 "$work/wanted" | sort -u | wc -l)" -eq 7
flrq 0 quantize $model -o "$work/given" --bits 2 $calib --ranks-from "$work/ranks.json" --quiet
ranks "$work/given/report.json" >"$work/got"
expect "every matrix has the rank that was given" diff "$work/wanted" "$work/got"
flrq 0 quantize $model -o "$work/same" --bits 2 $calib --ranks-from "$work/free/report.json" --quiet
for file in "$work"/free/model-*.safetensors; do
    expect "ranks of a fixed run give its bytes" cmp "$file" "$work/same/$(basename "$file")"
done
if [ "$device" = cpu ]; then
    flrq 0 quantize $model -o "$work/two" --bits 2 $calib --ranks-from "$work/ranks.json" --workers 2 --quiet
    for file in "$work"/given/model-*.safetensors; do
        expect "two workers, the same bytes" cmp "$file" "$work/two/$(basename "$file")"
    done
fi
flrq 0 quantize $model -o "$work/given" --bits 2 $calib --ranks-from "$work/ranks.json" --quiet
cp "$work/free/report.json" "$work/ranks.json"
flrq 2 quantize $model -o "$work/given" --bits 2 $calib --ranks-from "$work/ranks.json" --quiet
expect "other ranks are another run" grep -q "ranks" "$work/err"
flrq 0 plan $model --bits 2 $calib --ranks-from "$work/free/report.json"

sed 's/layers.2.mlp.up_proj/layers.2.mlp.none/' "$work/free/report.json" >"$work/lacks.json"
flrq 1 quantize $model -o "$work/no" $calib --ranks-from "$work/lacks.json"
expect "the missing matrix is named" grep -q "lacks.json.*layers.2.mlp.up_proj" "$work/err"
sed 's/"rank": 3,/"rank": 300,/' "$work/free/report.json" >"$work/large.json"
flrq 1 quantize $model -o "$work/no" $calib --ranks-from "$work/large.json"
expect "a rank that cannot be" grep -q "0 to 256" "$work/err"
sed 's/"rows": 768/"rows": 760/' "$work/free/report.json" >"$work/shape.json"
flrq 1 quantize $model -o "$work/no" $calib --ranks-from "$work/shape.json"
expect "both shapes" grep -q "760x256 there and 768x256" "$work/err"
echo '{"matrices":3}' >"$work/odd.json"
flrq 1 quantize $model -o "$work/no" $calib --ranks-from "$work/odd.json"
flrq 1 quantize $model -o "$work/no" $calib --ranks-from "$work/none.json"
expect "the file is named" grep -q "none.json" "$work/err"
flrq 2 quantize $model -o "$work/no" $calib --ranks-from "$work/free/report.json" --method rtn
expect "nothing was begun" test ! -e "$work/no"

# ---- the bench --------------------------------------------------------------------------------------------------------------
mkdir "$work/scratch"
bench="bench methods $model $calib --text $work/text --ctx 64 --rank-policy fixed --rank 2"
# shellcheck disable=SC2086
flrq 0 $bench --bits 3 --methods svd,clip,rtn --repeats 2 --scratch "$work/scratch" -o "$work/results"
expect "nothing is left" test -z "$(ls "$work/scratch")"
expect "flrq runs too, for its ranks, and groups are halved twice" test "$(tail -n +2 "$work/results/methods.csv" | wc -l)" -eq 9
expect "all of them" test "$(grep -c ',ok,' "$work/results/methods.csv")" -eq 9
expect "bits of nearest" test "$(cell rtn bits_per_weight)" = 3.125
expect "the same ranks, the same bits" test "$(cell svd bits_per_weight)" = "$(cell flrq bits_per_weight)"
expect "runs" test "$(cell clip runs)" -eq 2
for method in flrq svd clip rtn; do
    expect "$method: KL $(cell $method kl_mean)" number "$(cell $method kl_mean) > 0 && $(cell $method kl_mean) < 1"
    expect "$method: seconds" number "$(cell $method seconds) > 0 && $(cell $method seconds_p10) <= $(cell $method seconds_p90)"
done
expect "clip only is its own measure" test -z "$(cell clip equal_kl)"
expect "nearest at as many bits as clip only" number "($(cell rtn equal_kl) / $(cell clip kl_mean) - 1) ^ 2 < 1e-12"
expect "flrq beyond halved groups" number "$(cell flrq equal_from_bits) >= 3.25 && $(cell flrq equal_to_bits) <= 3.5"
expect "a ratio" number "($(cell flrq equal_ratio) * $(cell flrq equal_kl) / $(cell flrq kl_mean) - 1) ^ 2 < 1e-12"
expect "said at equal bits" grep -q "at as many bits" "$work/out"
expect "the command is told" grep -q '"command": "flrq bench methods data/tinylm' "$work/results/methods.json"
for figure in bits seconds; do
    expect "methods-$figure.svg" grep -q '</svg>' "$work/results/methods-$figure.svg"
done
# shellcheck disable=SC2086
flrq 0 $bench --bits 8,4 --methods rtn -o "$work/results" --name nearest
expect "groups and bits" test "$(tail -n +2 "$work/results/nearest.csv" | cut -d, -f1,4 | tr '\n' ' ')" = "8,128 8,64 8,32 4,128 4,64 4,32 "
# The rows are those of quantize and eval themselves.
flrq 0 quantize $model -o "$work/own" --bits 3 $calib --rank-policy fixed --rank 2 --quiet
json 0 eval "$work/own" --text "$work/text" --ctx 64 --device "$device" --against $model
expect "the KL of eval" number "($(cell flrq kl_mean) / $(value kl_mean) - 1) ^ 2 < 1e-14"

expect "SVD of the weights needs no calibration" number "$(cell svd seconds_calibrate) == 0 && $(cell clip seconds_calibrate) > 0"
head -c 1000 "$work/text" >"$work/short"
flrq 0 tokenize $model --text "$work/short" -o "$work/tokens.npy"
flrq 0 bench methods $model --calib-tokens "$work/tokens.npy" --error-sketch 32 --text "$work/text" --ctx 64 --bits 4 \
    --methods flrq,rtn --device "$device" -o "$work/results" --name tokens
expect "nor does nearest" test "$(awk -F, '$2 == "rtn" { print $19 }' "$work/results/tokens.csv" | sort -u)" = 0
flrq 2 $bench --no-sym --bits 4,3
expect "refused before anything is measured" grep -q "3 bits: .*--no-sym" "$work/err"
flrq 2 $bench --methods awq
expect "methods are named" grep -q "lqer" "$work/err"
flrq 2 $bench --bits 5
flrq 2 $bench --bits 3,3
flrq 2 $bench --name results
expect "no folder, no name" grep -q -e "-o DIR" "$work/err"
flrq 2 bench methods $model --calib none
expect "the text is wanted" grep -q -e "--text" "$work/err"
flrq 1 $bench --scratch "$work/nowhere"
expect "the remedy" grep -q -e "--scratch" "$work/err"
touch "$work/file"
flrq 1 $bench -o "$work/file/results"
expect "the folder is named" grep -q "file/results" "$work/err"
finish
