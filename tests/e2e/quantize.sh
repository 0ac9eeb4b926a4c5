#!/bin/sh
# quantize.sh - what quantizing does to a model, measured by the program itself, and the files that it writes.
#
#   quantize.sh FLRQ MAKE_MODEL      runs in tests/; MAKE_MODEL is the program of make_model.c
flrq=$1 make_model=$2
. e2e/lib.sh

# ---- perplexities that are known ----------------------------------------------------------------------------------------------
# No rounding to allow for: the logits of the one are all equal, those of the other are further apart than float can tell from certainty.
for family in llama opt; do
    for kind in uniform cycle; do
        m=$work/$kind-$family
        "$make_model" $kind $family "$m" || exit 1
        perplexity=$([ $kind = uniform ] && echo 64 || echo 1)
        for bits in 0 2 4; do
            subject=$m
            if [ $bits != 0 ]; then
                subject=$m-$bits
                flrq 0 quantize "$m" -o "$subject" --bits $bits --group 32 --calib-tokens "$m/tokens.npy" --quiet
            fi
            json 0 eval "$subject" --tokens "$m/tokens.npy" --ctx 64
            expect "$kind $family at $bits bits: perplexity $(value perplexity)" number "($(value perplexity) - $perplexity) ^ 2 <= 1e-18"
            expect "$kind $family: all tokens but the last are scored" test "$(value scored)" -eq 255
            json 0 eval "$subject" --tokens "$m/backwards.npy" --ctx 64
            if [ $kind = cycle ]; then
                expect "certain and wrong: nll $(value nll)" number "$(value nll) > 100"
            else
                expect "order does not matter: nll $(value nll)" number "($(value nll) - log(64)) ^ 2 <= 1e-18"
            fi
        done
    done
done

# ---- the bundled model ----------------------------------------------------------------------------------------------------------
head -c 12000 data/tinylm/eval.txt >"$work/text"
calib="--calib data/tinylm/calib.txt --calib-samples 8 --calib-len 128"
json 0 eval data/tinylm --text "$work/text" --ctx 256
source=$(value perplexity)
echo "source: perplexity $source"
# Measured; the distance allowed is what another order of additions can do to a sum over 4,000 tokens, with room.
expect "perplexity of the source" number "$source > 13.11 && $source < 13.13"

# measure NAME OPTION...: quantizes to $work/NAME and evaluates; sets ppl, kl, top1, rank, bits.
measure() {
    name_of=$1
    shift
    json 0 quantize data/tinylm -o "$work/$name_of" "$@"
    rank=$(value average_rank) bits=$(value bits_per_weight) max_rank=$(value max_rank)
    json 0 eval "$work/$name_of" --text "$work/text" --ctx 256 --against data/tinylm
    ppl=$(value perplexity) kl=$(value kl_mean) top1=$(value top1_agreement)
    echo "$name_of: $bits bits, mean rank $rank, perplexity $ppl, KL $kl, top-1 $top1"
    expect "$name_of: the reference is the source" grep -q "^\"perplexity\":$source$" "$work/tidy"
}
# bound LOW HIGH: of the divergence, in nats per token.
bound() {
    expect "$name_of: KL $kl between $1 and $2" number "$kl >= $1 && $kl <= $2"
    # A perplexity that moves much more, or less, than the distributions do is measured wrongly.
    expect "$name_of: perplexity $ppl" number "log($ppl / $source) <= 1.5 * $kl + 0.001 && log($ppl / $source) >= -0.5 * $kl - 0.001"
    expect "$name_of: agreement $top1" number "$top1 >= 1 - sqrt($kl) && $top1 <= 1 - 0.2 * sqrt($kl)"
}
# Round to nearest has nothing to choose: bounds on both sides. What searches must not be worse than measured by more than 10 %, and each of
# these is far better than round to nearest at the same bits.
# shellcheck disable=SC2086
{
    measure rtn8 $calib --bits 8 --method rtn
    bound 3e-5 5e-5
    measure rtn4 $calib --bits 4 --method rtn
    bound 0.0108 0.0132
    measure rtn3 $calib --bits 3 --method rtn
    bound 0.052 0.064
    measure rtn2 $calib --bits 2 --method rtn
    bound 0.38 0.46
    measure flrq8 $calib --bits 8
    bound 1e-5 5e-5
    measure flrq4 $calib
    bound 0.004 0.0095
    measure flrq3 $calib --bits 3
    bound 0.02 0.039
    measure flrq2 $calib --bits 2
    bound 0.09 0.21
    measure asym4 $calib --no-sym
    bound 0.004 0.0092
    measure asym8 $calib --no-sym --bits 8
    bound 1e-5 5e-5
    measure channel4 $calib --group 0
    bound 0.005 0.0116
    expect "per channel: more bits than codes and one scale per row ($bits)" number "$bits > 4.05 && $bits < 4.1"
    measure lqer3 $calib --bits 3 --method lqer --rank 32
    bound 0.02 0.042
    measure paper2 $calib --bits 2 --preset paper
    bound 0.09 0.35
    paper_rank=$rank paper_max=$max_rank
    measure none4 --calib none
    bound 0.004 0.0105
    measure rank8 $calib --bits 2 --rank-policy fixed --rank 8
    bound 0.05 0.135
}
with=$kl
# overlapped NAME OPTION...: the same with a reader's and a writer's thread.
overlapped() {
    name_of=$1
    shift
    flrq 0 quantize data/tinylm -o "$work/overlap" "$@" --overlap on --quiet
    expect "$name_of: overlap changes no byte" diff -r -x journal.jsonl -x report.json "$work/$name_of" "$work/overlap"
    rm -rf "$work/overlap"
}
# shellcheck disable=SC2086
{
    overlapped asym4 $calib --no-sym
    overlapped channel4 $calib --group 0
    overlapped paper2 $calib --bits 2 --preset paper
    overlapped none4 --calib none
}
expect "fixed rank: $rank" number "$rank == 8 && $max_rank == 8"
json 0 eval "$work/rank8" --text "$work/text" --ctx 256 --against data/tinylm --no-lowrank
expect "without its low-rank part: KL $(value kl_mean)" number "$(value kl_mean) > 2 * $with"
expect "without its low-rank part: said" test "$(value lowrank)" = false
json 0 eval "$work/rank8" --text "$work/text" --ctx 256 --against "$work/rank8"
expect "against itself: KL $(value kl_mean)" number "$(value kl_mean) == 0 && $(value kl_max) == 0"
expect "against itself: agreement $(value top1_agreement)" number "$(value top1_agreement) == 1"
json 0 eval "$work/rtn3" --text "$work/text" --ctx 256
before=$(value perplexity)
json 0 eval "$work/rtn3" --text "$work/text" --ctx 256 --no-lowrank
expect "rank 0: nothing to leave out" test "$(value perplexity)" = "$before"
expect "rank 0: no adapter" test ! -e "$work/rtn3/lowrank"

# ---- files ---------------------------------------------------------------------------------------------------------------------------
# quantization_config as in the format's own documentation; the rest of config.json is the source's.
expected() { # BITS SYMMETRIC STRATEGY GROUP
    cat <<EOF
 "quantization_config": {
  "quant_method": "compressed-tensors",
  "version": "0.18.0",
  "format": "pack-quantized",
  "quantization_status": "compressed",
  "global_compression_ratio": null,
  "kv_cache_scheme": null,
  "ignore": [
   "lm_head"
  ],
  "config_groups": {
   "group_0": {
    "targets": [
     "Linear"
    ],
    "weights": {
     "num_bits": $1,
     "type": "int",
     "symmetric": $2,
     "strategy": "$3",
     "group_size": $4,
     "dynamic": false,
     "actorder": null,
     "block_structure": null,
     "observer": "minmax",
     "observer_kwargs": {}
    },
    "input_activations": null,
    "output_activations": null
   }
  }
 }
}
EOF
}
quantization_config() { sed -n '/"quantization_config"/,$p' "$work/$1/config.json"; }
for folder in "flrq4 4 true group 128" "flrq2 2 true group 128" "asym8 8 false group 128" "channel4 4 true channel null"; do
    # shellcheck disable=SC2086
    set -- $folder
    expected "$2" "$3" "$4" "$5" >"$work/expected"
    quantization_config "$1" >"$work/found"
    expect "quantization_config of $1" diff "$work/expected" "$work/found"
done
# rms_norm_eps apart, which is the same number in other digits.
keys() { tr -d ' \n' <"$1" | sed 's/,"quantization_config.*//; s/}$//' | tr ',' '\n' | grep -v rms_norm_eps; }
keys data/tinylm/config.json >"$work/expected"
keys "$work/flrq4/config.json" >"$work/found"
expect "the rest of config.json" diff "$work/expected" "$work/found"

# names DIR: tensors of all shards, each with its file, from the headers.
names() {
    for shard in "$1"/*.safetensors; do
        length=$(od -An -tu8 -N 8 "$shard")
        tail -c +9 "$shard" | head -c "$length" | tr '{' '\n' | sed -n "s|.*\"\(.*\)\":\$|\1 ${shard##*/}|p" | grep -v '^__metadata__'
    done | sort
}
index="$work/flrq4/model.safetensors.index.json"
names "$work/flrq4" >"$work/headers"
sed -n 's/.*"\(.*\)": "\(model-.*\)".*/\1 \2/p' "$index" | sort >"$work/indexed"
expect "index and headers agree" diff "$work/headers" "$work/indexed"
expect "tensors: 28 x 3 packed and 10 copied" test "$(wc -l <"$work/headers")" -eq 94
expect "no dense weight beside a packed one" test "$(grep -c '_proj.weight ' "$work/headers")" -eq 0
names "$work/asym8" >"$work/headers"
expect "asymmetric: zero points too" test "$(wc -l <"$work/headers")" -eq 122
for file in tokenizer.json tokenizer_config.json; do expect "$file copied" cmp "data/tinylm/$file" "$work/flrq4/$file"; done

# The adapter: every module's scaling is 1, whether an engine knows rank patterns or not (r = lora_alpha, equal patterns).
a=$work/paper2/lowrank
expect "ranks differ: mean $paper_rank, largest $paper_max" number "$paper_rank > 0 && $paper_rank < $paper_max"
tr -d ' ' <"$a/adapter_config.json" | tr ',{' '\n\n' >"$work/tidy"
expect "r is the largest rank" test "$(value r)" = "$paper_max"
expect "lora_alpha is r" test "$(value lora_alpha)" = "$paper_max"
for key in use_rslora use_dora fan_in_fan_out; do expect "$key" test "$(value $key)" = false; done
pattern() { sed -n "/\"$1\": {/,/}/p" "$a/adapter_config.json" | sed -n 's/.*"\(model.*\)": \([0-9]*\).*/\1 \2/p' | sort; }
pattern rank_pattern >"$work/rank_pattern"
pattern alpha_pattern >"$work/alpha_pattern"
expect "patterns are equal" cmp "$work/rank_pattern" "$work/alpha_pattern"
shard=$a/adapter_model.safetensors
tail -c +9 "$shard" | head -c "$(od -An -tu8 -N 8 "$shard")" | tr '{' '\n' >"$work/header"
sed -n 's/.*"base_model.model.\(.*\).lora_A.weight":$/\1/p' "$work/header" | sort >"$work/modules"
sed -n '/"target_modules"/,/\]/s/.*"\(model\..*\)".*/\1/p' "$a/adapter_config.json" | sort | diff - "$work/modules" >"$work/out"
expect "target_modules are those with tensors" test $? -eq 0
# Ranks by shape: the first number of lora_A's shape, the second of lora_B's.
awk -v r="$paper_max" '/lora_A.weight":$/ { sub(/.*base_model.model./, ""); sub(/.lora_A.*/, ""); m = $0; getline; sub(/.*shape":\[/, ""); if ($0 + 0 != r) print m, $0 + 0 }' \
    "$work/header" | sort >"$work/shapes"
expect "rank_pattern says the shapes" diff "$work/rank_pattern" "$work/shapes"
finish
