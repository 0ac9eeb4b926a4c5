#!/bin/sh
# oracles.sh - quantized folders of every scheme and family against the packages that users load them with.
#
#   FLRQ_PYTHON=venv/bin/python oracles.sh FLRQ      runs in tests/; FLRQ_PYTHON is python3 when unset
#
# Owns the list of folders; what is checked of each, and in which versions of the packages, is oracle/check_output.py's. All folders go through
# one Python process, since loading the packages takes longer than checking. Exit code: 0 nothing failed (folders that this compressed-tensors
# cannot read are counted as skipped), 1 a check failed, 77 no packages at all.
set -u
flrq=$1
python=${FLRQ_PYTHON:-python3}
if ! reason=$("$python" -c 'import numpy, torch, transformers, compressed_tensors, peft, tokenizers' 2>&1); then
    echo "skipped: $python has not all of numpy, torch, transformers, compressed-tensors, peft, tokenizers ($(echo "$reason" | tail -n 1))"
    echo "oracle/README.md says how to install them; then FLRQ_PYTHON=venv/bin/python"
    exit 77
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0

# folder NAME MODEL OPTION...: quantizes MODEL and puts it on the list. Its tokens.npy is the calibration, or none with --calib among the options.
folder() {
    name=$1 model=$2
    shift 2
    case " $* " in
    *" --calib "*) ;;
    *) set -- "$@" --calib-tokens "$model/tokens.npy" ;;
    esac
    if "$flrq" quantize "$model" -o "$work/$name" --quiet "$@" >"$work/$name.log" 2>&1; then
        echo "$name|$model|$*" >>"$work/list"
    else
        failed=1
        echo "FAILED $name: flrq quantize $model $*"
        tail -n 3 "$work/$name.log"
    fi
}

f=data/families
fixed="--rank-policy fixed --rank 4"
# Every scheme: bits, zero points, one scale per row, both grids.
for bits in 2 3 4 8; do folder "sym$bits" $f/llama --group 16 --bits $bits; done
for bits in 4 8; do folder "asym$bits" $f/llama --group 16 --bits $bits --no-sym; done
folder mirror2 $f/llama_bf16 --group 16 --bits 2 --grid mirror
folder channel4 $f/llama_f16_sharded --group 0
folder channel3 $f/llama_bias --group 0 --bits 3
folder channel_asym8 $f/llama_bf16 --group 0 --bits 8 --no-sym
# Every family with an adapter: tied and untied heads, biases, head sizes, windows, rope spellings, OPT's two shapes.
# shellcheck disable=SC2086
{
    folder llama $f/llama --group 32 $fixed
    folder llama_bf16 $f/llama_bf16 --group 16 $fixed --bits 2
    folder llama_bias $f/llama_bias --group 12 $fixed
    folder llama_sharded $f/llama_f16_sharded --group 16 $fixed --no-sym
    folder llama_linear $f/llama_linear --group 32 $fixed --bits 8
    folder llama_rope3 $f/llama_rope3 --group 32 $fixed
    folder mistral $f/mistral --group 16 $fixed --bits 2
    folder mistral_window $f/mistral_window --group 32 --method lqer --rank 7
    folder qwen2 $f/qwen2 --group 8 $fixed --bits 3
    folder qwen2_window $f/qwen2_window --group 8 $fixed --no-sym --bits 8
    folder qwen3 $f/qwen3 --group 16 $fixed --bits 2
    folder opt $f/opt --group 16 $fixed
    folder opt_asym $f/opt --group 0 $fixed --no-sym
    folder opt_350m $f/opt_350m --group 4 $fixed --bits 2
}
# Ranks of its own for every matrix, zero among them; round to nearest; weights only.
folder differing data/tinylm --bits 2 --calib data/tinylm/calib.txt --calib-samples 4 --calib-len 64
folder paper data/tinylm --preset paper --bits 2 --calib data/tinylm/calib.txt --calib-samples 4 --calib-len 64
folder rtn $f/qwen3 --group 16 --method rtn --calib none

cat >"$work/drive.py" <<'EOF'
import contextlib, io, sys
sys.path.insert(0, "oracle")
import check_output
flrq, work = sys.argv[1:]
verdicts = {0: "passed", 77: "skipped"}
count = {}
for line in open(f"{work}/list"):
    name, model, options = line.rstrip("\n").split("|")
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = check_output.main(["--bin", flrq, "--source", model, "--out", f"{work}/{name}", "--windows", "2"])
    verdict = verdicts.get(code, "FAILED")
    count[verdict] = count.get(verdict, 0) + 1
    text = said.getvalue()
    print(f"{verdict} {name}: {model} {options}", flush=True)
    if verdict == "FAILED":
        print(text)
    elif verdict == "skipped":
        print("  " + text.rstrip().split("\n")[-1])
print(", ".join(f"{n} {v}" for v, n in count.items()))
sys.exit("FAILED" in count)
EOF
"$python" "$work/drive.py" "$flrq" "$work" || failed=1
"$python" oracle/check_text.py "$flrq" data/tinylm data/tinylm/calib.txt data/tinylm/eval.txt
case $? in
0 | 77) ;;
*) failed=1 ;;
esac
exit $failed
