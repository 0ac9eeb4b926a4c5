#!/bin/sh
# workers_resume.sh - what some workers began, others complete: any number of them, joined in any way.
#
#   workers_resume.sh FLRQ MAKE_MODEL COMPARE_REPORTS DEVICE      runs in tests/; DEVICE: cpu, cudasim
#
# A run of three workers is asked to stop, or one of them is killed, after its first block is committed. The folder that
# is left is continued by several groups, each on a copy of its own. Kinds of groups that are not there are left out.
flrq=$1 make_model=$2 compare_reports=$3 device=$4
. e2e/lib.sh
. e2e/workers_lib.sh
model=$work/model out=$work/out.q
if [ "$device" = cpu ]; then
    "$make_model" random "$model" 192 4232 4 100 11 24 || exit 1
    options="--group 0 --rank-policy fixed --rank 5"
else
    need nccl
    "$make_model" random "$model" 64 1032 2 100 9 8 || exit 1
    options="--group 0 --rank-policy fixed --rank 3 --error-sketch 16 --power-iterations 1 --clip-steps 4"
fi
run="quantize $model -o $out --quiet --calib-tokens $model/tokens.npy $options"
# shellcheck disable=SC2086
flrq 0 $run --device "$device"
reference=$work/reference
mv "$out" "$reference"

# interrupted KIND SIGNAL NEXT...: by a signal to the last worker; each NEXT (KIND:WORKERS) continues.
interrupted() {
    kind=$1 signal=$2
    shift 2
    available "$kind" || return 0
    rm -rf "$out"
    # shellcheck disable=SC2086
    start "$kind" 3 $run
    until_is committed "$out" 0
    kill -"$signal" "$(cat "$ranks/pid.2" 2>/dev/null || cat "$ranks/pid.0")"
    ended
    what="$kind, $signal"
    expect "$what: not complete" unfinished "$out"
    if [ "$signal" = TERM ]; then
        expect "$what: code $code" test "$code" -eq 75
        expect "$what: says so" grep -q 'stopped with [1-4] of [24] blocks committed' "$work/err"
        expect "$what: the input of the next block is saved" test -n "$(ls "$out"/.flrq/activations-*)"
    else
        expect "$what: code $code" test "$code" -ne 0 -a "$code" -ne 124
    fi
    rm -rf "$work/halfway"
    mv "$out" "$work/halfway"
    for next in "$@"; do
        available "${next%:*}" || continue
        cp -r "$work/halfway" "$out"
        # shellcheck disable=SC2086
        group 0 "${next%:*}" "${next#*:}" $run --resume required
        expect "$what, continued by $next: bytes" the_same "$out" "$reference"
        rm -rf "$out"
    done
}
if [ "$device" = cpu ]; then
    interrupted local TERM local:1 local:2 openmpi:2 mpich:8
    interrupted local KILL local:8 openmpi:3
    interrupted openmpi TERM local:1 local:8 openmpi:2 mpich:3
    interrupted openmpi KILL local:1 openmpi:8
    interrupted mpich TERM local:2 openmpi:3 mpich:8
    interrupted mpich KILL local:1 mpich:2
else
    interrupted nccl TERM nccl:1 tasks:2
    interrupted tasks TERM nccl:2
    interrupted tasks KILL tasks:3 openmpi+gpu:2
    interrupted mpich+gpu TERM nccl:1
fi
finish
