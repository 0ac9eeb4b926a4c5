# workers_lib.sh - starts groups of workers, of every kind. Sourced after lib.sh, in tests/, with $compare_reports set.
#
# Kinds: local    threads of one process, on CPUs
#        openmpi  processes on CPUs, started by the mpirun of Open MPI
#        mpich    the same by that of MPICH
#        nccl     threads of one process with a simulated GPU each
#        tasks    processes with a simulated GPU each and what srun tells its tasks: no launcher, no MPI
#        openmpi+gpu, mpich+gpu    processes of mpirun with a simulated GPU each
# The bytes of the last four are those of their device, the others' those of the CPU.
unset OMPI_COMM_WORLD_RANK PMI_RANK SLURM_PROCID SLURM_STEP_NUM_TASKS SLURM_JOB_ID FLRQ_CUDASIM_DEVICES
plugins=${FLRQ_PLUGINS:-$(dirname "$flrq")}
ranks=$work/ranks # what worker.sh notes
job=100           # of the last tasks

# available KIND
available() {
    case $1 in
    local) ;;
    openmpi | mpich) [ -e "$plugins/libflrq_$1.so" ] && command -v "mpirun.$1" >"$work/path" ;;
    nccl | tasks) [ -e "$plugins/libflrq_cudasim.so" ] ;;
    *+gpu) available nccl && available "${1%+gpu}" ;;
    esac
}

# need KIND: ends the test, as skipped, where there is none of the kind.
need() {
    available "$1" || {
        echo "skipped: $1 is not there (its launcher, or its plugin in $plugins)"
        exit 77
    }
}

# start KIND WORKERS ARGUMENT...: starts flrq in the background, for the time of a hang at most. Then $launcher is the
# process that started the workers (for local and nccl: that guards them), and $ranks/pid.RANK names each.
start() {
    kind=$1 n=$2
    shift 2
    rm -rf "$ranks"
    mkdir "$ranks"
    guard="timeout -k 10 ${patience:-300}"
    case $kind in
    *+gpu)
        set -- "$@" --device cudasim
        FLRQ_CUDASIM_DEVICES=$n FLRQ_CUDASIM_BACKGROUND=1
        export FLRQ_CUDASIM_DEVICES FLRQ_CUDASIM_BACKGROUND
        ;;
    esac
    case ${kind%+gpu} in
    local) $guard sh e2e/worker.sh "$ranks" "$flrq" "$@" --workers "$n" & ;;
    nccl) FLRQ_CUDASIM_DEVICES=$n $guard sh e2e/worker.sh "$ranks" "$flrq" "$@" --device cudasim --workers "$n" & ;;
    openmpi)
        # shellcheck disable=SC2086
        $guard mpirun.openmpi --oversubscribe --allow-run-as-root --bind-to none ${openmpi_options:-} -n "$n" \
            sh e2e/worker.sh "$ranks" "$flrq" "$@" </dev/null >"$ranks/out" 2>"$ranks/err" &
        ;;
    mpich) $guard mpirun.mpich -n "$n" sh e2e/worker.sh "$ranks" "$flrq" "$@" </dev/null >"$ranks/out" 2>"$ranks/err" & ;;
    tasks)
        job=$((job + 1))
        tasks "$n" "$@" &
        ;;
    esac
    launcher=$!
    unset FLRQ_CUDASIM_DEVICES FLRQ_CUDASIM_BACKGROUND
}

# tasks WORKERS ARGUMENT...: the workers of such a group, without those in $absent. Their exit codes go to
# $ranks/code.RANK; its own is that of the first worker that is there.
tasks() {
    n=$1 rank=0 first=
    shift
    while [ $rank -lt "$n" ]; do
        case " ${absent:-} " in
        *" $rank "*) ;;
        *)
            (
                FLRQ_CUDASIM_DEVICES=$n SLURM_STEP_NUM_TASKS=$n SLURM_PROCID=$rank SLURM_LOCALID=$rank SLURM_JOB_ID=$job SLURM_STEP_ID=0 \
                    timeout -k 10 "${patience:-300}" sh e2e/worker.sh "$ranks" "$flrq" "$@" --device cudasim
                echo $? >"$ranks/code.$rank"
            ) 2>"$ranks/shell.$rank" &
            first=${first:-$rank}
            ;;
        esac
        rank=$((rank + 1))
    done
    wait
    exit "$(cat "$ranks/code.$first")"
}

# ended: waits for the group that was started; sets $code, and $work/out and err to what all workers wrote.
ended() {
    code=0
    { wait "$launcher" || code=$?; } 2>"$work/shell"
    cat "$ranks"/out* >"$work/out" 2>/dev/null
    cat "$ranks"/err* >"$work/err" 2>/dev/null
}

# group CODE KIND WORKERS ARGUMENT...: runs flrq to its end.
group() {
    wanted=$1
    shift
    start "$@"
    ended
    expect "exit code $code of $*" test "$code" -eq "$wanted"
}

# until_is COMMAND...: waits for something to become true, while the group lives.
until_is() {
    while ! "$@" 2>/dev/null; do
        kill -0 "$launcher" 2>/dev/null || return 1
        sleep 0.01
    done
}

# committed OUT BLOCK: block (from 0) is in the journal.
committed() {
    grep -q "\"kind\":\"shard\",\"block\":$2" "$1/journal.jsonl"
}

# same OUT REFERENCE [KEY...]: equal files, nothing more and nothing less; reports that differ in times, memory, places,
# threads, and the KEYs. Journals hold times.
same() {
    diff -r -x journal.jsonl -x report.json "$1" "$2" >"$work/difference" &&
        "$compare_reports" "$@" >>"$work/difference" || { head -n 5 "$work/difference"; return 1; }
}

# the_same: of a run that was resumed: it says so.
the_same() {
    same "$1" "$2" resumed_blocks notices arguments.resume arguments.device
}

# unfinished OUT: may be continued, and does not look complete.
unfinished() {
    [ -e "$1/journal.jsonl" ] && [ ! -e "$1/config.json" ]
}
