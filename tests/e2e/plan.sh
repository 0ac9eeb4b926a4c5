#!/bin/sh
# plan.sh - what plan says, against what the run took: memory, files, shapes.
#
#   plan.sh FLRQ MAKE_MODEL      runs in tests/; MAKE_MODEL is the program of make_model.c
#
# Memory is asked of the run itself (peak resident size). Within 15 % is what the program promises; nothing here depends on time.
flrq=$1 make_model=$2
. e2e/lib.sh
out=$work/out.q

# planned NAME MODEL OPTION...: plan, run, compare; leaves peak in bytes and the table of the plan in $work/plan.
planned() {
    title=$1 model=$2
    shift 2
    rm -rf "$out"
    json 0 plan "$model" -o "$out" "$@"
    expect "$title: plan makes nothing" test ! -e "$out"
    cp "$work/tidy" "$work/plan"
    host=$(value host_bytes) files=$(value output_bytes)
    json 0 quantize "$model" -o "$out" "$@"
    peak=$(value peak_rss_bytes)
    written=$(cat "$out"/*.safetensors "$out"/lowrank/*.safetensors 2>/dev/null | wc -c)
    echo "$title: $host bytes planned, $peak at the peak; files $files planned, $written written"
    expect "$title: planned $host, took $peak" number "$host >= 0.85 * $peak && $host <= 1.15 * $peak"
    expect "$title: the run says the same" test "$(value planned_bytes)" = "$host"
    # The plan's files are those at the rank bounds, without headers.
    expect "$title: files $files, written $written" number "$written <= 1.01 * $files + 40000 && $written >= 0.5 * $files"
}

# 100 MB of bf16 in the proportions of a small Llama.
m=$work/m
"$make_model" random "$m" 1024 2816 4 8192 || exit 1
tokens="--calib-tokens $m/tokens.npy"
# shellcheck disable=SC2086
{
    planned "nearest" "$m" $tokens --method rtn
    planned "nearest, 1 thread" "$m" $tokens --method rtn --threads 1
    planned "nearest, 4 threads" "$m" $tokens --method rtn --threads 4
    planned "nearest, 8 bits, per channel" "$m" $tokens --method rtn --bits 8 --group 0 --no-sym
    planned "weights only" "$m" --calib none --method rtn
    planned "fixed rank" "$m" $tokens --method lqer --rank 64
    # At most three blocks, the activations of one block boundary, and 300 MB; a block has 12,845,056 weights of two bytes.
    expect "bound: $peak" number "$peak <= 3 * 25690112 + 4 * 256 * 1024 * 4 + 300e6"
}
rm -rf "$m"
# Long segments, where the forward pass and the activations rule; a text that is larger than the model; a vocabulary that is.
calib=data/tinylm/calib.txt
planned "activations" data/tinylm --calib $calib --calib-samples 48 --calib-len 512 --method rtn
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do cat $calib; done >"$work/long.txt"
planned "long text" data/tinylm --calib "$work/long.txt" --calib-samples 8 --calib-len 64 --method rtn
"$make_model" random "$m" 256 512 2 100000 || exit 1
planned "large vocabulary" "$m" --calib-tokens "$m/tokens.npy" --method rtn

# ---- what the plan lists ----------------------------------------------------------------------------------------------------------------
json 0 plan data/tinylm --calib none --bits 3
expect "plan without -o" test "$(value linears)" -eq 28
expect "weights" test "$(value weights)" -eq 3145728
expect "bits: codes and scales" number "$(value bits_per_weight_min) == 3 + 16 / 128"
expect "bits: bounded by the paper's share" number "$(value bits_per_weight_max) <= 3 + 16 / 128 + 0.2 * 3"
expect "every tensor" test "$(grep -c '"rank_cap":' "$work/tidy")" -eq 28
flrq 1 plan data/tinylm --calib none --group 100
expect "refuses what quantize would refuse" grep -q 'tensor model.layers.0.self_attn.q_proj.weight: group 100' "$work/err"

# ---- a device that is not here ------------------------------------------------------------------------------------------------------------
json 0 plan data/tinylm --calib $calib --device cuda:7 --device-memory 24
expect "a device of 24 GB" grep -q '24 GB that is not here' "$work/tidy"
expect "it has memory of its own" test "$(value separate)" = true
on_device=$(sed -n 's/.*"device_bytes": *\([0-9]*\).*/\1/p' "$work/tidy" | awk '{ sum += $1 } END { print sum }')
expect "and parts there: $on_device" number "$on_device > 67108864"
flrq 1 plan data/tinylm --calib $calib --device cuda:7 --device-memory 0.5
expect "a device that is too small" grep -q 'bytes of device memory wanted, 500000000 to be had.*--calib-len' "$work/err"
json 0 plan data/tinylm --calib $calib --device cpu
expect "on the CPU all memory is the host's" test "$(value separate)" = false

# ---- time -----------------------------------------------------------------------------------------------------------------------------------
# Numbers of a profile are held by test_predict.c; here that the program finds, refuses and shows them.
flrq 0 plan data/tinylm --calib none --device cpu
expect "no profile, no time, and how to make one" grep -q 'no profile for this device: times are not predicted; make one with flrq bench ops --profile FILE' "$work/out"
flrq 0 bench ops --device cpu --threads 2 --seconds 0.001 --profile "$work/cpu.json" --scratch "$work"
expect "a profile" grep -q '"source": "measured"' "$work/cpu.json"
expect "nothing is left of the file bench" test -z "$(ls "$work" | grep flrq-bench)"
json 0 plan data/tinylm --calib $calib --device cpu --threads 2 --profile "$work/cpu.json"
alone=$(value seconds_total)
expect "seconds: $alone" number "$alone > 0"
expect "one worker" test "$(value workers)" -eq 1
expect "one worker exchanges nothing" number "$(value exchange) == 0 && $(value gather) == 0"
json 0 plan data/tinylm --calib $calib --device cpu --threads 2 --profile "$work/cpu.json" --workers 4 --nodes 2
expect "four on two nodes" test "$(value workers)" -eq 4
expect "links carry something" number "$(value network) > 0 && $(value exchange) > 0"
flrq 0 plan data/tinylm --calib $calib --device cpu --profile "$work/cpu.json"
expect "phases" grep -q '^calibrate ' "$work/out"
expect "assumptions are listed" grep -q '^assumed .*rank_of_bound 0.25' "$work/out"
flrq 2 plan data/tinylm --calib $calib --device cpu --profile "$work/cpu.json" --workers 3 --nodes 2
expect "unequal nodes" grep -q -- '--workers 3 on --nodes 2' "$work/err"
flrq 0 plan data/tinylm --calib $calib --device cpu --profile ../bench/scaling-h100-sxm.json
expect "of another kind of device" grep -q '^time .*profile of another kind of device' "$work/out"
flrq 0 plan data/tinylm --calib $calib --device cuda:7 --device-memory 80 --profile ../bench/scaling-h100-sxm.json
expect "from data sheets" grep -q 'from data sheets, not measured' "$work/out"
sed 's/"call_seconds": [^,]*/"call_seconds": -1/' "$work/cpu.json" >"$work/bad.json"
flrq 1 plan data/tinylm --calib $calib --device cpu --profile "$work/bad.json"
expect "file and key are named" grep -q 'bad.json: ops.mul.call_seconds must be' "$work/err"
flrq 1 bench ops --device cpu --seconds 0.001 --profile "$work/no/such/folder.json"
expect "the file is named" grep -q "no/such/folder.json" "$work/err"
for profile in ../profiles/*.json; do
    flrq 0 plan data/tinylm --calib $calib --device cpu --profile "$profile"
    expect "$profile is measured" grep -q '^profile .*, measured 20' "$work/out"
done
finish
