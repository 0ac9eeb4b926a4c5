#!/bin/sh
# bad_input.sh - input that is not what it should be, and machines that refuse: one line that names file, tensor and remedy, the exit code, and
# nothing left that looks complete.
#
#   bad_input.sh FLRQ FAULTS      runs in tests/; FAULTS is the library of faults.c
flrq=$1 faults=$2
. e2e/lib.sh
out=$work/out.q
tokens="--calib-tokens data/families/llama/tokens.npy"
m=$work/m

# refused CODE WORDS ARGUMENT...: fails with CODE and one line on stderr that has all WORDS (separated by |, in any order).
refused() {
    words=$2
    wanted_code=$1
    shift 2
    flrq "$wanted_code" "$@"
    expect "one line: $*" test "$(wc -l <"$work/err")" -eq 1
    expect "begins as an error: $*" grep -q '^flrq: error: ' "$work/err"
    old_ifs=$IFS
    IFS='|'
    for word in $words; do expect "says \"$word\"" grep -q -F -e "$word" "$work/err"; done
    IFS=$old_ifs
    expect "nothing on stdout" test ! -s "$work/out"
    expect "nothing that looks complete" test ! -e "$out/config.json"
    rm -rf "$out"
}
# model NAME [FILE]: a copy of a family in $m.
model() {
    rm -rf "$m"
    cp -r "data/families/$1" "$m"
}
# quantize CODE WORDS OPTION...: of $m.
quantize() {
    c=$1 w=$2
    shift 2
    # shellcheck disable=SC2086
    refused "$c" "$w" quantize "$m" -o "$out" --group 16 $tokens "$@"
}

header() { tail -c +9 "$1" | head -c "$(od -An -tu8 -N 8 "$1" | tr -d ' ')"; }
# Eight bytes, little-endian, of a number below 2^24.
eight() { printf "\\$(printf %o $(($1 % 256)))\\$(printf %o $(($1 / 256 % 256)))\\$(printf %o $(($1 / 65536)))\\0\\0\\0\\0\\0"; }
# edit_header SED: changes the header of $m/model.safetensors.
edit_header() {
    file=$m/model.safetensors
    old=$(od -An -tu8 -N 8 "$file" | tr -d ' ')
    header "$file" | sed "$1" >"$work/header"
    tail -c +$((old + 9)) "$file" >"$work/data"
    { eight "$(wc -c <"$work/header")" && cat "$work/header" "$work/data"; } >"$file"
}
# offsets TENSOR: "first,last" within the data.
offsets() { header "$m/model.safetensors" | tr '{}' '\n\n' | sed -n "/\"$1\":\$/{n;s/.*\"data_offsets\": *\[\([0-9, ]*\)\].*/\1/p;}" | tr -d ' '; }
# poke TENSOR INDEX OCTAL: bytes into an fp32 element.
poke() {
    first=$(offsets "$1")
    at=$((8 + $(od -An -tu8 -N 8 "$m/model.safetensors") + ${first%,*} + 4 * $2))
    # shellcheck disable=SC2059
    printf "$3" | dd of="$m/model.safetensors" bs=1 seek=$at conv=notrunc 2>/dev/null
}
shard=model.safetensors
q=model.layers.1.self_attn.q_proj.weight

# ---- safetensors ---------------------------------------------------------------------------------------------------------------------
model llama
cp "$m/$shard" "$work/good"
size=$(wc -c <"$work/good")
for bytes in 0 7 8 100 $((size - 100)); do
    head -c "$bytes" "$work/good" >"$m/$shard"
    quantize 1 "$m/$shard"
done
model llama
edit_header "s/\"$q\"/\"$q.other\"/"
quantize 1 "$m|$q"
model llama
o=$(offsets model.layers.0.input_layernorm.weight)
edit_header "s/\(\"model.layers.0.post_attention_layernorm.weight\":{[^}]*\"data_offsets\": *\)\[[^]]*\]/\1[$o]/"
quantize 1 "$m/$shard|layernorm.weight|overlap"
model llama
printf '\377\377\377\377\377\377\377\177' | dd of="$m/$shard" bs=1 conv=notrunc 2>/dev/null
quantize 1 "$m/$shard|header"
printf '\377\377\377\10' | dd of="$m/$shard" bs=1 conv=notrunc 2>/dev/null
quantize 1 "$m/$shard|header"
model llama
edit_header "s/\(\"$q\":{[^}]*\)F32/\1I32/"
quantize 1 "$m/$shard|$q|I32"
model llama
edit_header "s/\(\"$q\":{[^}]*\)F32/\1F99/"
quantize 1 "$m/$shard|$q|F99"
model llama
edit_header "s/\(\"$q\":{[^}]*\)F32/\1F16/"
quantize 1 "$m/$shard|$q"
model llama
edit_header "s/model.layers.0.post_attention_layernorm.weight/model.layers.0.input_layernorm.weight/"
quantize 1 "$m/$shard|model.layers.0.input_layernorm.weight"
model llama
edit_header 's/^{/[/'
quantize 1 "$m/$shard"
model llama
edit_header "s/\(\"$q\":{[^}]*\"shape\": *\)\[[^]]*\]/\1[16,64]/" # as many elements
quantize 1 "$m|$q|16|64"
model llama
rm "$m/$shard"
quantize 1 "$m|safetensors"
: >"$m/pytorch_model.bin"
quantize 1 "$m|pytorch_model.bin"

# ---- index -----------------------------------------------------------------------------------------------------------------------------
index=model.safetensors.index.json
model llama_f16_sharded
rm "$m/model-00003-of-00004.safetensors"
quantize 1 "model-00003-of-00004.safetensors"
model llama_f16_sharded
cp "$m/model-00003-of-00004.safetensors" "$work/outside.safetensors"
for outside in ../outside.safetensors "$work/outside.safetensors" ./../outside.safetensors x/../../outside.safetensors; do
    model llama_f16_sharded
    sed -i "s|model-00003-of-00004.safetensors|$outside|" "$m/$index"
    quantize 1 "$m/$index|tensor model.layers.|plain name inside the folder"
done
model llama_f16_sharded
sed -i 's/"model.norm.weight"/"model.norm.wait"/' "$m/$index"
quantize 1 "$m|model.norm.w"
model llama_f16_sharded
echo '{"weight_map": [' >"$m/$index"
quantize 1 "$m/$index|JSON"
echo '{}' >"$m/$index"
quantize 1 "$m/$index|weight_map"
echo '{"weight_map": {"model.norm.weight": 3}}' >"$m/$index"
quantize 1 "$m/$index"

# ---- config.json --------------------------------------------------------------------------------------------------------------------------
# config SED WORDS: refused with the changed config.
config() {
    model llama
    sed -i "$1" "$m/config.json"
    quantize 1 "$2"
}
config 's/"hidden_size": 32/"hidden_size": 64/' "$m|weight|64"
config 's/"intermediate_size": 64/"intermediate_size": 80/' "$m|mlp|80"
config 's/"num_hidden_layers": 2/"num_hidden_layers": 3/' "$m|model.layers.2."
config 's/"num_hidden_layers": 2/"num_hidden_layers": 1/' "$m|model.layers.1."
config 's/"vocab_size": 96/"vocab_size": 100/' "$m|100"
config 's/"num_attention_heads": 4/"num_attention_heads": 5/' "$m/config.json|5"
config 's/"num_attention_heads": 4/"num_attention_heads": 0/' "$m/config.json|num_attention_heads"
config 's/"num_attention_heads": 4/"num_attention_heads": -4/' "$m/config.json|num_attention_heads"
config 's/"num_attention_heads": 4/"num_attention_heads": 8/' "$m|k_proj"
config 's/"num_key_value_heads": 2/"num_key_value_heads": 3/' "$m/config.json|num_key_value_heads"
config 's/"hidden_size": 32/"hidden_size": 4611686018427387904/' "$m/config.json|hidden_size"
config 's/"hidden_size": 32/"hidden_size": "32"/' "$m/config.json|hidden_size"
config 's/"rope_theta": 10000.0/"rope_theta": -1/' "$m/config.json|rope_theta"
config 's/"rope_scaling": null/"rope_scaling": {"rope_type": "yarn", "factor": 4.0}/' "$m/config.json|yarn"
config 's/"hidden_act": "silu"/"hidden_act": "gelu"/' "$m/config.json|gelu"
config 's/"model_type": "llama"/"model_type": "gemma9"/' "$m|gemma9|llama, mistral, qwen2, qwen3, opt|--calib none"
config 's/"model_type": "llama",//' "$m/config.json|model_type"
config 's/^{/{{/' "$m/config.json|JSON"
model llama
rm "$m/config.json"
quantize 1 "$m/config.json"
rm -rf "$m"
quantize 1 "$m"
: >"$m"
quantize 1 "$m"
rm -f "$m"

# ---- values that are not finite -----------------------------------------------------------------------------------------------------------
nan='\0\0\300\177' inf='\0\0\200\377'
model llama
poke $q 70 "$nan"
poke $q 300 "$inf"
quantize 1 "$m/$shard|$q|2 values|row 2, column 6|--nonfinite zero" --quiet
quantize 1 "$m/$shard|$q|2 values|--nonfinite zero" --quiet --device cpu-ref
tokens="--calib none"
quantize 1 "$m/$shard|$q|2 values|--nonfinite zero" --quiet
tokens="--calib-tokens data/families/llama/tokens.npy"
# shellcheck disable=SC2086
json 0 quantize "$m" -o "$out" --group 16 $tokens --nonfinite zero
expect "zeroed: said" grep -q "tensor $q: 2 values" "$work/err"
json 0 eval "$out" --tokens data/families/llama/tokens.npy --ctx 40
zeroed=$(value perplexity)
rm -rf "$out"
poke $q 70 '\0\0\0\0'
poke $q 300 '\0\0\0\0'
# shellcheck disable=SC2086
flrq 0 quantize "$m" -o "$out" --group 16 $tokens
json 0 eval "$out" --tokens data/families/llama/tokens.npy --ctx 40
expect "the same as zeros in the file: $zeroed" test "$(value perplexity)" = "$zeroed"
rm -rf "$out"
# Outside the quantized matrices nothing is repaired.
for tensor in model.embed_tokens.weight model.norm.weight lm_head.weight model.layers.1.input_layernorm.weight; do
    model llama
    poke $tensor 5 "$nan"
    quantize 1 "$m/$shard|$tensor|element 5|NaN" --quiet
    quantize 1 "$m/$shard|$tensor|element 5|NaN" --quiet --nonfinite zero
    tokens="--calib none"
    quantize 1 "$m/$shard|$tensor|element 5|NaN" --quiet --method rtn
    tokens="--calib-tokens data/families/llama/tokens.npy"
done
model llama
poke model.norm.weight 5 "$nan"
refused 1 "$m|finite" eval "$m" --tokens data/families/llama/tokens.npy --ctx 40 --quiet

# ---- scheme ----------------------------------------------------------------------------------------------------------------------------------
model llama
quantize 1 "tensor model.layers.0.|.weight|24|32|--group" --group 24
model qwen2
quantize 1 "tensor model.layers.0.|.weight|16|--group" --group 16
quantize 2 "--bits|2, 3, 4 or 8" --bits 5
quantize 2 "--no-sym|3" --bits 3 --no-sym
quantize 2 "exclude" --calib data/tinylm/calib.txt

# ---- calibration -----------------------------------------------------------------------------------------------------------------------------
model llama
printf 'a few words' >"$work/short.txt"
: >"$work/empty.txt"
refused 1 "$m|tokenizer" quantize "$m" -o "$out" --group 16 --calib data/tinylm/calib.txt --calib-len 64
refused 1 "$work/nowhere.txt" quantize data/tinylm -o "$out" --calib "$work/nowhere.txt" --calib-len 512
refused 1 "$work/short.txt|tokens" quantize data/tinylm -o "$out" --calib "$work/short.txt" --calib-len 64
refused 1 "$work/empty.txt" quantize data/tinylm -o "$out" --calib "$work/empty.txt" --calib-len 64
refused 1 "$work" quantize data/tinylm -o "$out" --calib "$work" --calib-len 64
refused 2 "--calib" quantize data/tinylm -o "$out"
cp -r data/tinylm "$work/tiny"
echo '{"model": 3}' >"$work/tiny/tokenizer.json"
refused 1 "$work/tiny/tokenizer.json" quantize "$work/tiny" -o "$out" --calib data/tinylm/calib.txt --calib-len 64
npy=$work/tokens.npy
good_npy=data/families/llama/tokens.npy
ids() { # refused with the changed token file
    tokens="--calib-tokens $npy"
    quantize 1 "$npy|$1"
}
cp $good_npy "$npy"
printf '\0\0\0\200' | dd of="$npy" bs=1 seek=140 conv=notrunc 2>/dev/null
ids "-2147483648"
cp $good_npy "$npy"
printf '\140\0\0\0' | dd of="$npy" bs=1 seek=140 conv=notrunc 2>/dev/null
ids "96"
sed 's/<i4/<f4/' $good_npy >"$npy"
ids "<f4"
head -c 200 $good_npy >"$npy"
ids "truncated"
sed 's/(2, 40), }/(2,4,10) }/' $good_npy >"$npy"
ids "3 dimensions"
sed 's/(2, 40)/(1, 80)/' $good_npy >"$npy"
ids "context of 64"
sed 's/(2, 40)/(80, 1)/' $good_npy >"$npy"
ids "at least 2"
head -c 100 /dev/zero >"$npy"
ids ""
tokens="--calib-tokens $good_npy"

# ---- eval ------------------------------------------------------------------------------------------------------------------------------------
sed 's/(2, 40), /(1, 12), /' $good_npy | head -c 176 >"$npy"
refused 1 "$npy|12 tokens|--ctx" eval "$m" --tokens "$npy" --ctx 64
refused 1 "$m|tokenizer" eval "$m" --text data/tinylm/eval.txt --ctx 64
refused 1 "$m|96|data/tinylm|1024" eval "$m" --tokens $good_npy --ctx 40 --against data/tinylm
refused 1 "$work/nowhere" eval "$work/nowhere" --tokens $good_npy --ctx 40
refused 1 "$work/nowhere" eval "$m" --tokens $good_npy --ctx 40 --against "$work/nowhere"
refused 2 "--text|--tokens" eval "$m"

# ---- OUT -------------------------------------------------------------------------------------------------------------------------------------
: >"$out"
quantize 2 "$out|file"
mkdir "$out" && : >"$out/notes.txt"
cp -r "$out" "$work/kept"
quantize 2 "$out|not a run of flrq|-o"
refused 2 "data/families/llama|not a run" quantize "$m" -o data/families/llama --group 16 $tokens
for place in /dev/null/q /proc/q "$work/nowhere/q"; do
    refused 1 "$place" quantize "$m" -o "$place" --group 16 $tokens
done
if [ "$(id -u)" -ne 0 ]; then # root may write anywhere
    mkdir "$work/locked" && chmod 500 "$work/locked"
    refused 1 "$work/locked/q|ermission" quantize "$m" -o "$work/locked/q" --group 16 $tokens
fi

# ---- a disk that is full, or becomes full at any write; then there is room again -----------------------------------------------------------------
set -- quantize "$m" -o "$out" --group 16 --rank-policy fixed --rank 4 $tokens --quiet
faulty 0 "count:$work/count" "$@"
mv "$out" "$work/reference"
total=$(cat "$work/count") full=0
for overlap in off on; do
    n=1
    while [ $n -lt "$total" ]; do
        { E2E_FAULTS=full:$n LD_PRELOAD=$faults "$flrq" "$@" --overlap $overlap >"$work/out" 2>"$work/err"; }
        code=$?
        if [ $code -ne 0 ]; then
            full=$((full + 1))
            expect "full from $n, overlap $overlap: code $code" test $code -eq 1
            expect "full from $n, overlap $overlap: one line" test "$(wc -l <"$work/err")" -eq 1
            expect "full from $n, overlap $overlap: says so, and where" grep -q "error: .*$out.*No space left" "$work/err"
            # With config.json in place all is written and checked, and only the journal does not say so.
            expect "full from $n, overlap $overlap: nothing that looks complete" sh -c \
                "[ ! -e '$out/config.json' ] || diff -r -x journal.jsonl -x report.json -x .flrq '$out' '$work/reference'"
        fi
        flrq 0 "$@"
        expect "full from $n, overlap $overlap, then not: bytes" diff -r -x journal.jsonl -x report.json "$out" "$work/reference"
        rm -rf "$out"
        n=$((n + 9))
    done
done
expect "met a full disk $full times" test $full -gt 30
faulty 1 space:10000 "$@"
expect "too little space: said before the work" grep -q "$out.*free.*needed" "$work/err"
rm -rf "$out"
(ulimit -f 8 && "$flrq" "$@" >"$work/out" 2>"$work/err")
expect "limit of file sizes" grep -q "flrq: error: .*$out/model-.*too large" "$work/err"
rm -rf "$out"
"$flrq" inspect "$m" >/dev/full 2>"$work/err"
expect "result that cannot be written: code" test $? -eq 1
expect "result that cannot be written" grep -q 'standard output.*No space left' "$work/err"
finish
