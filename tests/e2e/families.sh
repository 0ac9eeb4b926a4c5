#!/bin/sh
# families.sh - every model of data/families through quantize and eval: each tensor accounted for, and closer to its source the more bits it has.
#
#   families.sh FLRQ      runs in tests/
flrq=$1
. e2e/lib.sh

# names FILE...: of the tensors, from the headers.
names() {
    for shard in "$@"; do
        tail -c +9 "$shard" | head -c "$(od -An -tu8 -N 8 "$shard" | tr -d ' ')" | tr '{' '\n' |
            sed -n 's/.*"\([^"]*\)": *$/\1/p' | grep -v '^__metadata__$'
    done | sort
}

families=0
for m in data/families/*/; do
    m=${m%/} family=${m##*/}
    families=$((families + 1))
    tokens="--calib-tokens $m/tokens.npy"
    # The largest group that all its matrices can be cut into.
    for group in 32 16 12 8 4; do
        # shellcheck disable=SC2086
        "$flrq" plan "$m" $tokens --group $group >/dev/null 2>&1 && break
    done
    json 0 eval "$m" --tokens "$m/tokens.npy" --ctx 40
    source=$(value perplexity)
    names "$m"/*.safetensors >"$work/source"
    last=4
    for bits in 2 4 8; do
        out=$work/$family-$bits
        # shellcheck disable=SC2086
        json 0 quantize "$m" -o "$out" --group $group --bits $bits --rank-policy fixed --rank 2 $tokens
        matrices=$(grep -c '"amax"' "$out/report.json") copied=$(value copied_count)
        names "$out"/*.safetensors >"$work/written"
        expect "$family: a matrix is three tensors" test "$(grep -c '_packed$' "$work/written")" -eq "$matrices"
        expect "$family: $matrices quantized and $copied copied" test $((3 * matrices + copied)) -eq "$(wc -l <"$work/written")"
        # Back to the names of the source: nothing is missing, nothing new, unless the report says so.
        sed -e '/_shape$/d' -e '/_scale$/d' -e 's/_packed$//' "$work/written" | sort >"$work/back"
        sed -n '/"tied"/,/\]/p; /"dropped"/,/\]/p' "$out/report.json" | sed -n 's/.*"name": "\(.*\)".*/\1/p' | sort - "$work/back" >"$work/all"
        expect "$family: every tensor accounted for" diff "$work/source" "$work/all"
        names "$out/lowrank/adapter_model.safetensors" >"$work/factors"
        expect "$family: two factors of each" test "$(wc -l <"$work/factors")" -eq $((2 * matrices))
        json 0 eval "$out" --tokens "$m/tokens.npy" --ctx 40 --against "$m"
        kl=$(value kl_mean) top1=$(value top1_agreement)
        echo "$family, groups of $group, $bits bits: KL $kl, top-1 $top1, perplexity $(value perplexity) of $source"
        expect "$family: the reference is the source" grep -q "^\"perplexity\":$source$" "$work/tidy"
        # Each two bits more divide the error of a weight by four and the divergence, its square, by sixteen; a third of that is asked for. A wrong
        # role or layout of one matrix moves these models by their own size: it stays whatever the bits.
        expect "$family: $bits bits: KL $kl after $last" number "$kl >= 0 && $kl < $last / $([ $bits -eq 8 ] && echo 80 || echo 5)"
        last=$kl
    done
    expect "$family: 8 bits: KL $kl" number "$kl < 4e-4"
    expect "$family: 8 bits: agreement $top1" number "$top1 >= 0.9"
    # The adapter is left out of the model by --no-lowrank, and of the program by nothing else.
    json 0 eval "$work/$family-2" --tokens "$m/tokens.npy" --ctx 40 --against "$work/$family-2" --no-lowrank
    expect "$family: the low rank matters" number "$(value kl_mean) > 1e-6"
done
# A family that is not known: weights only, and said; nothing that would need its forward pass.
cp -r data/families/llama "$work/unknown"
sed -i 's/"model_type": "llama"/"model_type": "unheard_of"/' "$work/unknown/config.json"
flrq 0 quantize "$work/unknown" -o "$work/weights" --group 16 --calib none
expect "unknown family: said" grep -q 'unknown family: weights only' "$work/err"
flrq 1 eval "$work/weights" --tokens data/families/llama/tokens.npy --ctx 40
expect "unknown family: named, with those that are known" grep -q 'unheard_of.*llama, mistral, qwen2, qwen3, opt' "$work/err"
# The same tensors as with its family known, where nothing is calibrated either; only the norms lie in another shard.
flrq 0 quantize data/families/llama -o "$work/known" --group 16 --calib none
flrq 0 compare "$work/known" "$work/weights" --quiet
expect "unknown family: tensors" grep -qx identical "$work/out"
expect "families: $families" test $families -ge 13
finish
