#!/bin/sh
# demo.sh BUILD - quantizes the bundled model at 4, 3 and 2 bits, measures perplexity, and prints one table: flrq against
# round-to-nearest in the same groups and against round-to-nearest in groups so small that it has at least as many bits.
set -eu

build=${1:-build}
flrq=$build/flrq
model=tests/data/tinylm
out=demo-out
rm -rf $out
mkdir $out

field() { # field KEY FILE: the first number under that key in a one-line JSON object
    sed "s/\"$1\":/\n&/;s/^[^\n]*\n//" "$2" | sed "s/\"$1\":\([-0-9.eE+]*\).*/\1/;q"
}
ppl() { # ppl DIR NAME
    $flrq eval "$1" --text $model/eval.txt --doc-sep '\n' --ctx 256 --json >$out/$2.eval 2>/dev/null
    field perplexity $out/$2.eval
}
quantize() { # quantize NAME OPTIONS...
    name=$1
    shift
    $flrq quantize $model -o $out/$name "$@" --json >$out/$name.json 2>$out/$name.log || {
        cat $out/$name.log >&2
        exit 1
    }
}
row() { # row LABEL NAME BASE
    awk -v label="$1" -v base="$3" -v b="$(field bits_per_weight $out/$2.json)" -v r="$(field average_rank $out/$2.json)" \
        -v x="$(field max_rank $out/$2.json)" -v e="$(field error $out/$2.json)" -v p="$(ppl $out/$2 $2)" 'BEGIN {
            printf "  %-34s %11.3f %6.2f %5d %11.3f %+9.2f %%\n", label, b, r, x, p, 100 * (p / base - 1) }'
}

echo "flrq demo: $model (a Llama of 3.4 million parameters), groups of 128, $(uname -m), $(nproc) processors"
echo
base=$(ppl $model source)
printf '  %-34s %11s %6s %5s %11s %11s\n' "" bits/weight "rank" max perplexity "change"
printf '  %-34s %11s %6s %5s %11.3f\n' "source (bf16)" 16 "" "" "$base"
for bits in 4 3 2; do
    echo
    quantize flrq$bits --bits $bits --calib $model/calib.txt --doc-sep '\n' --calib-samples 64 --calib-len 256
    row "flrq, $bits bits" flrq$bits "$base"
    quantize rtn$bits --bits $bits --method rtn --calib none
    row "round to nearest, $bits bits" rtn$bits "$base"
    group=$(awk -v b="$(field bits_per_weight $out/flrq$bits.json)" -v d=$bits 'BEGIN {
        g = 128; while (g > 16 && d + 16 / g < b) g /= 2; print g }')
    if [ "$group" -lt 128 ]; then
        quantize rtn$bits-g$group --bits $bits --group "$group" --method rtn --calib none
        row "round to nearest, groups of $group" rtn$bits-g$group "$base"
    fi
done
echo
echo "  seconds                 open calibrate  quantize     write   forward    verify     total"
for bits in 4 3 2; do
    f=$out/flrq$bits.json
    awk -v bits=$bits -v o="$(field open $f)" -v c="$(field calibrate $f)" -v q="$(field quantize $f)" -v w="$(field write $f)" \
        -v f="$(field forward $f)" -v v="$(field verify $f)" 'BEGIN {
            printf "  flrq, %d bits       %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f %9.2f\n", bits, o, c, q, w, f, v, o + c + q + w + f + v }'
done
echo
echo "Quantized folders, their report.json and adapters are in $out/."
