#!/bin/sh
# workers.sh - the bytes of a run do not depend on how many workers there are, nor on how they are joined, nor on who
# continues what others began.
#
#   workers.sh FLRQ MAKE_MODEL COMPARE_REPORTS KIND...      runs in tests/; kinds of groups: workers_lib.sh
flrq=$1 make_model=$2 compare_reports=$3
shift 3
kinds=$*
. e2e/lib.sh
. e2e/workers_lib.sh
for kind in $kinds; do need "$kind"; done
case $kinds in
*nccl* | *tasks*) device="--device cudasim" ;;
*) device=--device=cpu ;;
esac
out=$work/out.q

# ---- models ----------------------------------------------------------------------------------------------------------
# Matrices are split by 512 rows, tokens by segments: 8 workers get a chunk each of 4096 rows and nothing of 512; of 4232
# rows (9 chunks, the last of 136) and of 9 or 11 segments they get shares that are uneven, of 576 rows (2 chunks, the
# last of 64) most get nothing.
case $kinds in
local*)
    "$make_model" random "$work/even" 512 4096 1 128 8 32 || exit 1
    "$make_model" random "$work/odd" 576 4232 2 100 11 24 || exit 1
    ;;
*mpi*)
    "$make_model" random "$work/even" 256 2048 1 128 8 32 || exit 1
    "$make_model" random "$work/odd" 192 4232 2 100 11 24 || exit 1
    ;;
*)
    "$make_model" random "$work/odd" 64 1096 1 100 9 8 || exit 1
    ;;
esac

# identical MODEL COUNTS OPTION...: every group of the kinds writes what one worker writes.
identical() {
    model=$1 counts=$2
    shift 2
    reference=$work/reference
    rm -rf "$reference"
    # shellcheck disable=SC2086
    flrq 0 quantize "$model" -o "$reference" --quiet $device "$@"
    expect "nothing private left" test ! -e "$reference/.flrq"
    ranked=$(sed -n 's/^ "max_rank": \(.*\),/\1/p' "$reference/report.json")
    for kind in $kinds; do
        for count in $counts; do
            rm -rf "$out"
            group 0 "$kind" "$count" quantize "$model" -o "$out" --quiet "$@"
            expect "$kind, $count workers, $*: bytes" same "$out" "$reference" arguments.device
        done
    done
    echo "$model $*: max rank $ranked"
}
cheap="--error-sketch 16 --power-iterations 1 --clip-steps 4"
t="--calib-tokens $work/odd/tokens.npy"
case $kinds in
local)
    identical "$work/even" "2 3 8" --calib-tokens "$work/even/tokens.npy" --rank-policy fixed --rank 5
    # shellcheck disable=SC2086
    {
        identical "$work/odd" "1 2 3 8" --group 0 $t
        identical "$work/odd" "2 3 8" --group 0 $t --rank-policy fixed --rank 7 --bits 2 --epochs 2
        identical "$work/odd" "2 3 8" --group 0 $t --bits 8 --no-sym --rank-policy fixed --rank 1
        identical "$work/odd" "2 3 8" --group 0 $t --sketch r1 --rank-policy r1flr --max-rank 12
        identical "$work/odd" "2 3 8" --group 0 $t --bits 3 --rank-policy energy --max-rank 9 --metric alpha --overlap on
        identical "$work/odd" "2 3 8" --group 0 --calib none --rank-policy fixed --rank 6
        identical "$work/odd" "3 8" --group 0 --calib none --method rtn --overlap on
    }
    # Every family, one chunk of rows each and two segments: most workers have nothing.
    for family in data/families/*; do
        identical "$family" "3" --group 0 --rank-policy fixed --rank 4 --calib-tokens "$family/tokens.npy"
    done
    ;;
*mpi*)
    identical "$work/even" "2 8" --calib-tokens "$work/even/tokens.npy" --rank-policy fixed --rank 5
    # shellcheck disable=SC2086
    {
        identical "$work/odd" "1 2 3 8" --group 0 $t --bits 2 --epochs 2 --rank-policy fixed --rank 7
        identical "$work/odd" "3" --group 0 $t --bits 8 --no-sym --sketch r1 --rank-policy r1flr --max-rank 12 --overlap on
        identical "$work/odd" "3" --group 0 --calib none
    }
    ;;
*)
    # shellcheck disable=SC2086
    {
        identical "$work/odd" "1 2 3 8" --group 0 $t $cheap --rank-policy fixed --rank 3
        identical "$work/odd" "3" --group 0 $t $cheap --bits 2 --epochs 1 --rank-policy fixed --rank 3 --overlap off
        identical "$work/odd" "2" --group 0 --calib none $cheap --bits 8 --no-sym
        kinds=
        for kind in openmpi+gpu mpich+gpu; do ! available $kind || kinds="$kinds $kind"; done
        identical "$work/odd" "3" --group 0 $t $cheap --rank-policy fixed --rank 3
    }
    ;;
esac
finish
