#!/bin/sh
# workers_failures.sh - a worker that dies, hangs, does not come, loses its device or disk, or is not like the others: all
# workers end, one line names the culprit, and the folder that is left can be continued to the bytes of an undisturbed run.
#
#   workers_failures.sh FLRQ MAKE_MODEL COMPARE_REPORTS FAULTS DEVICE      runs in tests/; FAULTS is the library of faults.c;
#                                                                          DEVICE: cpu, cudasim
flrq=$1 make_model=$2 compare_reports=$3 faults=$4 device=$5
. e2e/lib.sh
. e2e/workers_lib.sh
model=$work/model out=$work/out.q reference=$work/reference
patience=200 # a group that takes longer hangs
wait=20     # --peer-timeout where it is the subject: on a busy machine the workers that live come seconds late, too
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
mv "$out" "$reference"

# failed_well TITLE WORDS...: the group that has ended failed, not by the guard against hangs; each of the WORDS was said; and
# a run of one worker completes what is left.
failed_well() {
    title=$1
    shift
    expect "$title: code $code" test "$code" -ne 0 -a "$code" -ne 124 -a "$code" -ne 137
    said "$title" "$@"
    expect "$title: looks complete" test ! -e "$out/config.json"
    completes "$title"
}

said() {
    title=$1
    shift
    for words in "$@"; do expect "$title: said" grep -q -e "$words" "$work/err"; done
}

completes() {
    # shellcheck disable=SC2086
    flrq 0 $run --device "$device"
    expect "$1: bytes" the_same "$out" "$reference"
    rm -rf "$out"
}

# refused TITLE WORDS...: before anything was written.
refused() {
    title=$1
    shift
    expect "$title: code $code" test "$code" -ne 0 -a "$code" -ne 124
    said "$title" "$@"
    expect "$title: journal" test ! -e "$out/journal.jsonl"
    rm -rf "$out"
}

# killed SIGNAL RANK: sends it to a worker of the group.
killed() {
    kill -"$1" "$(cat "$ranks/pid.$2")"
}

flip() { # FILE OFFSET: inverts one byte
    byte=$(od -An -tu1 -j "$2" -N 1 "$1")
    # shellcheck disable=SC2059
    printf "\\$(printf %o $((255 - byte)))" | dd of="$1" bs=1 seek="$2" conv=notrunc 2>/dev/null
}

# busy FIRST SECOND: while a group (KIND:WORKERS) is in the middle of its run, another comes.
busy() {
    # shellcheck disable=SC2086
    start "${1%:*}" "${1#*:}" $run
    first=$launcher first_ranks=$ranks ranks=$work/other_ranks
    until_is committed "$out" 0
    killed_first=$(cat "$first_ranks/pid.0")
    kill -STOP "$killed_first"
    # shellcheck disable=SC2086
    start "${2%:*}" "${2#*:}" $run
    ended
    kill -CONT "$killed_first"
    expect "$2 beside $1: code $code" test "$code" -eq 1 -o "$code" -eq 9 # that of MPICH's launcher when it kills the others
    expect "$2 beside $1: said" grep -q "process $killed_first .*is using it" "$work/err"
    launcher=$first ranks=$first_ranks
    ended
    expect "$1 beside $2: code $code" test "$code" -eq 0
    expect "$1 beside $2: bytes" the_same "$out" "$reference"
    rm -rf "$out"
}

# ---- processes on CPUs -----------------------------------------------------------------------------------------------
if [ "$device" = cpu ]; then
    for mpi in openmpi mpich; do
        available $mpi || continue
        # A worker that hangs. The launcher kills it when the others have gone.
        # shellcheck disable=SC2086
        start $mpi 3 $run --peer-timeout $wait
        until_is committed "$out" 0
        killed STOP 1
        hanging=$(cat "$ranks/pid.1")
        ended
        failed_well "$mpi, hung" "worker 1 of 3 (host [^ ]*, process $hanging" "$wait s"

        # shellcheck disable=SC2086
        {
            E2E_RANK=1 E2E_OPTIONS="--bits 3" start $mpi 3 $run
            ended
            refused "$mpi, other bits" "worker 1 of 3 (host .*differs from rank 0 (bits: 4 there, 3 here)"
            E2E_RANK=2 E2E_SET="FLRQ_ISA=generic" start $mpi 3 $run
            ended
            refused "$mpi, other instructions" "worker 2 of 3 (host .*differs from rank 0 (instruction set: "
            start $mpi 3 $run --workers 2
            ended
            refused "$mpi, other number" "workers 2, but 3 were started"
            start $mpi 2 $run --mpi off
            ended
            refused "$mpi, off" "need MPI to find each other"
        }

        # A full disk in one worker: from the middle of what it does to the file system on.
        # shellcheck disable=SC2086
        {
            E2E_RANK=1 E2E_SET="LD_PRELOAD=$faults E2E_FAULTS=count:$work/count" start $mpi 3 $run
            ended
            rm -rf "$out"
            for part in 2 4; do
                E2E_RANK=1 E2E_SET="LD_PRELOAD=$faults E2E_FAULTS=full:$(($(cat "$work/count") * (part - 1) / part))" start $mpi 3 $run
                ended
                failed_well "$mpi, full" "worker 1 of 3 (host .*, block [1-4].*No space left"
            done
        }
    done

    # Weights that only the last worker reads: its part of the last matrix ends with a NaN.
    cp "$model/model.safetensors" "$work/good"
    size=$(wc -c <"$work/good")
    printf '\300\177' | dd of="$model/model.safetensors" bs=1 seek=$((size - 3 * 192 * 2 - 2)) conv=notrunc 2>"$work/shell"
    # shellcheck disable=SC2086
    start local 3 quantize "$model" -o "$out" --quiet --calib none --group 0
    ended
    expect "NaN: code $code" test "$code" -eq 1
    said "NaN" "model.layers.3.mlp.down_proj.weight: 1 values are NaN or infinite, the first at row 191, column 4231"
    cp "$work/good" "$model/model.safetensors"
    rm -rf "$out"
    # A file that shrinks while it is read.
    for group in local:3 openmpi:3; do
        available ${group%:*} || continue
        # shellcheck disable=SC2086
        start ${group%:*} ${group#*:} $run
        until_is committed "$out" 0
        truncate -s $((size / 3)) "$model/model.safetensors"
        ended
        cp "$work/good" "$model/model.safetensors"
        failed_well "$group, source cut" "model.safetensors"
    done

    # Damage between two runs is noticed and redone.
    for group in local:3 mpich:3; do
        available ${group%:*} || continue
        # shellcheck disable=SC2086
        start local 3 $run
        until_is committed "$out" 1
        killed TERM 0
        ended
        flip "$out/model-00003-of-00005.safetensors" 5000
        # shellcheck disable=SC2086
        start ${group%:*} ${group#*:} ${run% --quiet*} --calib-tokens "$model/tokens.npy" $options
        ended
        expect "$group, damage: code $code" test "$code" -eq 0
        said "$group, damage" "model-00003-of-00005.safetensors of block 2 is not as recorded"
        expect "$group, damage: bytes" the_same "$out" "$reference"
        rm -rf "$out"
    done

    busy local:3 local:2
    ! available openmpi || busy openmpi:3 local:8
    ! available mpich || busy local:2 mpich:3

    # The gate, and a run that is complete.
    ! available openmpi || {
        # shellcheck disable=SC2086
        {
            group 3 openmpi 3 $run --max-error 0.0001
            said "gate" "above --max-error"
            group 3 local 3 $run --max-error 0.0001
            group 0 openmpi 2 ${run% --quiet*} --calib-tokens "$model/tokens.npy" $options
            said "complete" "already complete"
            expect "gate: bytes" same "$out" "$reference" arguments.device arguments.max-error
        }
        rm -rf "$out"
    }

# ---- processes with devices, which no launcher looks after --------------------------------------------------------------
else
    who="worker 1 of 3 (host [^ ]*, process"
    # shellcheck disable=SC2086
    {
        start tasks 3 $run
        until_is committed "$out" 0
        killed KILL 1
        dead=$(cat "$ranks/pid.1")
        ended
        for rank in 0 2; do expect "killed: code of $rank" test "$(cat "$ranks/code.$rank")" -eq 1; done
        failed_well "killed" "$who $dead, cudasim:1), block [12], .*: died without a word"

        start tasks 3 $run --peer-timeout $wait
        until_is committed "$out" 0
        killed STOP 1
        hanging=$(cat "$ranks/pid.1")
        until_is test -e "$ranks/code.0" -a -e "$ranks/code.2"
        killed KILL 1
        ended
        for rank in 0 2; do expect "hung: code of $rank" test "$(cat "$ranks/code.$rank")" -eq 1; done
        failed_well "hung" "$who $hanging, cudasim:1), block [12], .*: no sign of life for"

        for absent in 0 1; do
            start tasks 3 $run --peer-timeout 10
            ended
            refused "absent" "worker $absent of 3 has not come within 10 s"
        done
        absent=

        # A device that fails in an operation, and one whose link does.
        for what in launch lib; do
            E2E_RANK=1 E2E_SET="FLRQ_CUDASIM_FAIL=600 FLRQ_CUDASIM_FAIL_WHAT=$what" start tasks 3 $run
            ended
            failed_well "lost by $what" "$who [0-9]*, cudasim:1), block 1, quantize: tensor model.layers.0"
        done
        FLRQ_CUDASIM_FAIL=900 FLRQ_CUDASIM_FAIL_WHAT=launch start nccl 3 $run
        ended
        failed_well "lost by threads" "unspecified launch failure" # in the simulator a fault is of all devices of a process

        E2E_RANK=1 E2E_SET="LD_PRELOAD=$faults E2E_FAULTS=full:20" start tasks 3 $run
        ended
        failed_well "full" "worker 1 of 3 (host .*, block [12].*No space left"

        E2E_RANK=2 E2E_OPTIONS="--seed 3" start tasks 3 $run
        ended
        refused "other seed" "worker 2 of 3 (host .*differs from rank 0 (seed: 0 there, 3 here)"

        export FLRQ_CUDASIM_DEVICES=2
        flrq 2 $run --device cudasim --workers 3
        said "more workers than devices" "workers 3, but there are 2 cudasim devices; each worker needs its own"
        flrq 2 $run --device cudasim:1 --workers 2
        said "one device" "workers 2, but --device cudasim:1 is one device"
        export SLURM_STEP_NUM_TASKS=3 SLURM_PROCID=2 SLURM_LOCALID=2
        flrq 2 $run --device cudasim
        said "more tasks than devices" "task 2 of this machine has no cudasim device: there are 2"
        unset FLRQ_CUDASIM_DEVICES SLURM_STEP_NUM_TASKS SLURM_PROCID SLURM_LOCALID
        expect "nothing made" test ! -e "$out"
    }
fi
finish
