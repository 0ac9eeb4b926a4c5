#!/bin/sh
# resume.sh - a run that is killed, stopped or damaged anywhere and then run again writes the bytes of an uninterrupted one.
#
#   resume.sh FLRQ FAULTS [OPTION...]      runs in tests/; FAULTS is the library of faults.c
#
# The uninterrupted run is made without the options (--overlap on), the others with them.
# Compared: every file of OUT but the journal and the report, which hold times; of the report all that is not a time.
flrq=$1 faults=$2
shift 2
options=$*
. e2e/lib.sh
model=data/families/llama
out=$work/out.q
# Ranks above 0, so that there are factors to lose; two blocks; 20 ms a run.
plain="quantize $model -o $out --group 16 --rank-policy fixed --rank 4 --calib-tokens $model/tokens.npy"
# shellcheck disable=SC2086
set -- $plain $options --quiet

# The report without what differs between two runs of the same bytes.
timeless() {
    sed -e '/"notices": \[$/,/\]/d' -e '/"phases": {/,/}/d' -e '/"device": {/,/}/d' "$1/report.json" |
        grep -v -e seconds -e _bytes -e resumed_blocks -e '"resume"' -e '"threads"' -e '"overlap"' -e '"out"' -e '"notices": \[\]'
}

# same OUT REFERENCE: equal files, nothing more, nothing less, nothing private left.
same() {
    diff -r -x journal.jsonl -x report.json "$1" "$2" || return 1
    timeless "$1" >"$work/a"
    timeless "$2" | diff "$work/a" -
}

# unfinished OUT: does not look complete, unless it is.
unfinished() {
    [ ! -e "$1/config.json" ] || { rm -rf "$work/c" && cp -r "$1" "$work/c" && rm -rf "$work/c/.flrq" "$work/c/.lock" && same "$work/c" "$2"; }
}

flip() { # FILE OFFSET: inverts one byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((255 - byte)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

reference=$work/reference
flrq 0 $plain --quiet
mv "$out" "$reference"
faulty 0 "count:$work/count" "$@"
total=$(cat "$work/count")
expect "some operations: $total" test "$total" -gt 100
expect "options and all" same "$out" "$reference"
rm -rf "$out"
expect "nothing private left" test ! -e "$reference/.flrq"

# ---- number of threads ------------------------------------------------------------------------------------------------
for threads in 1 2 5; do
    flrq 0 "$@" --threads $threads
    expect "$threads threads" same "$out" "$reference"
    rm -rf "$out"
done

# ---- death in every operation -----------------------------------------------------------------------------------------
n=0 both=
while [ $n -lt "$total" ]; do
    n=$((n + 1))
    faulty 137 kill:$n "$@"
    expect "death in $n: looks complete" unfinished "$out" "$reference"
    # The first operation after the commit of one block: a stop there leaves one block and its successor's input.
    [ -n "$both" ] || ! grep -q '"kind":"shard","block":0' "$out/journal.jsonl" 2>/dev/null || both=term:$n
    # A fifth of them dies again on the way back.
    if [ $((n % 5)) -eq 0 ]; then
        faulty 137 kill:$((n % 7 + 3)) "$@"
        expect "second death in $n: looks complete" unfinished "$out" "$reference"
    fi
    faulty 0 count:/dev/null "$@"
    expect "death in $n: bytes" same "$out" "$reference"
    rm -rf "$out"
done

# ---- stop before every operation, and death while stopping ---------------------------------------------------------------
n=0 stopped=0
while [ $n -lt "$total" ]; do
    n=$((n + 9))
    E2E_FAULTS=term:$n,count:$work/count LD_PRELOAD=$faults "$flrq" "$@" >"$work/out" 2>"$work/err"
    code=$?
    if [ $code -eq 75 ]; then
        stopped=$((stopped + 1))
        expect "stop before $n: says so" grep -q 'stopped with [0-2] of 2 blocks' "$work/err"
        expect "stop before $n: looks complete" test ! -e "$out/config.json"
        end=$(cat "$work/count")
        faulty 0 count:/dev/null "$@" --resume required
    else
        expect "stop before $n: code $code" test $code -eq 0
        end=0
    fi
    expect "stop before $n: bytes" same "$out" "$reference"
    rm -rf "$out"
    # In the operations that save the activations and after them.
    m=$((end - 4))
    while [ $m -gt $n ] && [ $m -le "$end" ]; do
        # With overlap the writer may have come further by the time of the stop, and the end is elsewhere.
        code=0
        { E2E_FAULTS=term:$n,kill:$m LD_PRELOAD=$faults "$flrq" "$@" >"$work/out" 2>"$work/err"; } 2>"$work/shell" || code=$?
        expect "stop before $n, death in $m: code $code" test $code -eq 137 -o -n "$options" -a $code -eq 75
        faulty 0 count:/dev/null "$@"
        expect "stop before $n, death in $m: bytes" same "$out" "$reference"
        rm -rf "$out"
        m=$((m + 1))
    done
done
# That enough of these runs were stopped at all. With overlap threads share the operations, and on a busy machine more of the
# runs are complete before the signal is seen: then fewer.
expect "stops: $stopped" test $stopped -gt "$([ -n "$options" ] && echo 5 || echo 10)"
expect "a stop after one block: $both" test -n "$both"

# ---- damage -----------------------------------------------------------------------------------------------------------
# damaged NAME FAULT WORD COMMAND...: stops by FAULT, changes OUT by COMMAND, runs again; stderr must hold WORD.
damaged() {
    title=$1 fault=$2 word=$3
    shift 3
    E2E_FAULTS=$fault LD_PRELOAD=$faults "$flrq" $run >"$work/out" 2>"$work/err"
    "$@"
    code=0
    "$flrq" $run_loud >"$work/out" 2>"$work/err" || code=$?
    expect "$title: code $code" test $code -eq 0
    expect "$title: said" grep -q -e "$word" "$work/err"
    expect "$title: bytes" same "$out" "$reference"
    rm -rf "$out"
}
run=$*
run_loud=${run% --quiet}
first=$(sed -n 's/.*"model.embed_tokens.weight": "\(.*\)".*/\1/p' "$reference/model.safetensors.index.json")
second=$(sed -n 's/.*"model.layers.0.mlp.up_proj.weight_packed": "\(.*\)".*/\1/p' "$reference/model.safetensors.index.json")
third=$(sed -n 's/.*"model.layers.1.mlp.up_proj.weight_packed": "\(.*\)".*/\1/p' "$reference/model.safetensors.index.json")
late=kill:$((total - 70)) # all blocks committed
damaged "shard of block 1" $both "$second" flip "$out/$second" 5000
damaged "shard of block 1, header" $both "$second" flip "$out/$second" 20
damaged "shard outside the blocks" $both "$first" flip "$out/$first" 9000
damaged "factors" $both "block 1" flip "$out/.flrq/lowrank-00002.safetensors" 2000
damaged "activations" $both activations flip "$out/.flrq/activations-00001.safetensors" 3000
damaged "activations cut" $both activations truncate -s 900 "$out/.flrq/activations-00001.safetensors"
damaged "activations gone" $both activations rm "$out/.flrq/activations-00001.safetensors"
damaged "shard gone" $both "$second" rm "$out/$second"
damaged "shard cut" $both "$second" truncate -s 5000 "$out/$second"
damaged "second shard, killed late" $late "$third" flip "$out/$third" 5000
damaged "journal's tail cut" $both continuing truncate -s -7 "$out/journal.jsonl"
damaged "journal's tail garbage" $both continuing sh -c "printf '{\"kind\":\"shard\",\"blo' >>'$out/journal.jsonl'"
damaged "private folder gone" $both "block 1" rm -r "$out/.flrq"
for file in "$first" "$second" "$third" lowrank/adapter_model.safetensors; do
    damaged "complete, $file" count:/dev/null "$file" flip "$out/$file" 100
    damaged "complete, $file gone" count:/dev/null "$file" rm "$out/$file"
done
for file in config.json lowrank/adapter_config.json model.safetensors.index.json; do
    damaged "complete, $file gone" count:/dev/null "$file" rm "$out/$file"
done
# Redoing a damaged complete run is itself safe against death.
cp -r "$reference" "$out"
flip "$out/$second" 5000
faulty 0 "count:$work/count" "$@"
repair=$(cat "$work/count")
rm -rf "$out"
for n in 1 5 10 20 $((repair / 3)) $((repair / 2)) $((repair - 20)) $((repair - 10)) $((repair - 8)) $((repair - 5)) $((repair - 2)) "$repair"; do
    cp -r "$reference" "$out"
    flip "$out/$second" 5000
    faulty 137 kill:"$n" "$@"
    [ "$n" -lt 10 ] || expect "repair, death in $n: looks complete" unfinished "$out" "$reference"
    flrq 0 "$@"
    expect "repair, death in $n: bytes" same "$out" "$reference"
    rm -rf "$out"
done
E2E_FAULTS=$both LD_PRELOAD=$faults "$flrq" "$@" >"$work/out" 2>"$work/err"
flip "$out/journal.jsonl" 100
flrq 1 "$@"
expect "journal damaged in the middle" grep -q 'journal.jsonl.*line 1' "$work/err"
rm -rf "$out"

# ---- the same run only ----------------------------------------------------------------------------------------------------
flrq 2 "$@" --resume required
expect "nothing to resume" grep -q 'does not exist' "$work/err"
expect "nothing made" test ! -e "$out"
E2E_FAULTS=$both LD_PRELOAD=$faults "$flrq" "$@" >"$work/out" 2>"$work/err"
refused() { # FIELD OPTION...
    field=$1
    shift
    flrq 2 $run "$@"
    expect "other $field" grep -q "settings ($field: .* there, .* here)" "$work/err"
}
refused seed --seed 1
refused bits --bits 3
refused rank --rank 3
refused clip --clip none
flrq 2 quantize data/families/qwen3 -o "$out" --group 16 --rank-policy fixed --rank 4 --calib-tokens $model/tokens.npy
expect "other model" grep -q 'model tensors.*model config\|model config.*model tensors' "$work/err"
cp $model/tokens.npy "$work/tokens.npy"
printf '\7' | dd of="$work/tokens.npy" bs=1 seek=160 conv=notrunc 2>/dev/null
flrq 2 quantize $model -o "$out" --group 16 --rank-policy fixed --rank 4 --calib-tokens "$work/tokens.npy"
expect "other tokens" grep -q 'calibration tokens: ' "$work/err"
flrq 2 "$@" --resume never
expect "never" grep -q 'resume is never' "$work/err"
flrq 0 "$@" --resume required --threads 1 # threads may differ
expect "after refusals: bytes" same "$out" "$reference"

# ---- complete ------------------------------------------------------------------------------------------------------------
snapshot() { find "$out" -type f -exec stat -c '%n %i %s %Y %Z' {} + | sort; }
snapshot >"$work/before"
flrq 0 $run_loud
expect "complete: said" grep -q 'already complete' "$work/err"
snapshot >"$work/after"
expect "complete: unchanged" diff "$work/before" "$work/after"
flrq 3 "$@" --max-error 0.0001
expect "complete: the gate still holds" grep -q 'above --max-error' "$work/err"
flrq 2 "$@" --resume never
refused seed --seed 2
echo >>"$out/config.json" # its owner may edit it
cp "$out/config.json" "$work/edited"
flrq 0 "$@"
expect "edited config.json" cmp "$out/config.json" "$work/edited"
rm -rf "$out"

# ---- one run at a time --------------------------------------------------------------------------------------------------
E2E_FAULTS=pause:$((total / 2)) LD_PRELOAD=$faults "$flrq" "$@" >"$work/first" 2>&1 &
pid=$!
tries=0
until grep -q '^State:.*T' /proc/$pid/status || [ $tries -gt 200 ]; do
    tries=$((tries + 1))
    sleep 0.05
done
flrq 1 "$@"
expect "second run refused with the pid of the first" grep -q "process $pid .*is using it" "$work/err"
kill -CONT $pid
wait $pid
expect "the first finishes" same "$out" "$reference"
rm -rf "$out"

# ---- signals and deaths at odd moments, on a model that takes longer --------------------------------------------------------
run="quantize data/tinylm -o $out --bits 2 --calib data/tinylm/calib.txt --calib-samples 2 --calib-len 32 --epochs 1 --quiet"
flrq 0 $run --threads 1
run="$run $options"
mv "$out" "$work/tinylm"
for shot in KILL:0.02 TERM:0.05 KILL:0.1 INT:0.13 KILL:0.17 TERM:0.21 KILL:0.26 KILL:0.31 TERM:0.37 KILL:0.45; do
    # Not a background job of this shell, which would ignore SIGINT.
    timeout -s "${shot%:*}" "${shot#*:}" "$flrq" $run >"$work/out" 2>"$work/err"
    code=$?
    case $code in
    0 | 75 | 124 | 137) ;;
    *) expect "code after $shot" test $code -eq 75 ;;
    esac
done
flrq 0 $run --threads 5
expect "after ten shots: bytes" same "$out" "$work/tinylm"
finish
