#!/bin/sh
# slurm.sh - flrq submit on a real Slurm of two nodes, which the test starts on this machine and stops again.
#
#   slurm.sh FLRQ [WAY...]      runs in tests/; WAY: how workers are joined here, of openmpi, mpich, cudasim
#
# A job that is stopped, cancelled, out of time, or loses a worker or a node, and then goes on by itself or by being submitted
# again, writes the bytes of a run without workers and interruptions. Skipped (77) without root, Slurm's daemons and munge.
# FLRQ_SLURM_PORT: first of three ports. FLRQ_TEST_LONG=1: also waits for a real time limit, five minutes more.
flrq=$1
shift
ways=$*
. e2e/lib.sh
PATH=$PATH:/usr/sbin:/sbin
for program in slurmctld slurmd munged sbatch srun; do
    command -v $program >/dev/null || { echo "skipped: no $program (apt-get install slurmctld slurmd slurm-client munge)"; exit 77; }
done
[ "$(id -u)" -eq 0 ] || { echo "skipped: Slurm's daemons need root"; exit 77; }
slurmd -h 2>&1 | grep -q -e '-N' || { echo "skipped: this slurmd cannot be several nodes on one machine"; exit 77; }

cluster=$work/cluster
trap 'bash slurm/down.sh "$cluster"; rm -rf "$work"' EXIT
bash slurm/up.sh "$cluster" 2 2 4 >"$work/out" 2>&1 || { cat "$work/out"; exit 1; }
. "$cluster/env"
FLRQ_CUDASIM_DEVICES=2
export FLRQ_CUDASIM_DEVICES

# ---- tools ------------------------------------------------------------------------------------------------------------
# Four blocks of less than a second each, and of two: time to do something to them.
brief="--bits 3 --calib data/tinylm/calib.txt --calib-samples 32 --calib-len 256 --threads 1"
lengthy="--bits 3 --calib data/tinylm/calib.txt --calib-samples 128 --calib-len 256 --threads 1"

# until_true SECONDS COMMAND...
until_true() {
    tries=$(($1 * 20))
    shift
    until "$@"; do
        tries=$((tries - 1))
        [ $tries -gt 0 ] || return 1
        sleep 0.05
    done
}

# submit NAME OPTION... -- ARGUMENT...: a job for $work/NAME; sets job, log and out.
submit() {
    name=$1
    shift
    out=$work/$name
    options=
    while [ "$1" != -- ]; do
        options="$options $1"
        shift
    done
    shift
    # shellcheck disable=SC2086
    flrq 0 submit --quiet $options -- quantize data/tinylm -o "$out" "$@"
    job=$(cat "$work/out")
    log=$out/slurm/job-$job.log
}

logged() { grep -q -e "$1" "$log" 2>/dev/null; }
is_gone() { [ -z "$(squeue --noheader --jobs="$1" 2>/dev/null)" ]; }
is_state() { [ "$(squeue --noheader --jobs="$job" --format=%T 2>/dev/null)" = "$1" ]; }
no_task_left() { ! pgrep -f "quantize $PWD/data/tinylm -o $out " >/dev/null; }

# ended NAME STATE [CODE]: the job ends so.
ended() {
    failed_before=$failed
    expect "$1: ends" until_true 240 is_gone "$job"
    scontrol show job "$job" >"$work/out"
    expect "$1: $2" grep -q "JobState=$2 " "$work/out"
    [ -z "${3:-}" ] || expect "$1: exit code $3" grep -q "ExitCode=$3:0" "$work/out"
    [ $failed -eq $failed_before ] || tail -n 20 "$log"
}

same() { diff -r -x journal.jsonl -x report.json -x slurm "$1" "$2" && [ ! -e "$1/.flrq" ]; }

for args in brief lengthy; do
    eval "flrq 0 quantize data/tinylm -o $work/$args --device cpu --quiet \$$args --threads 2"
done

# ---- one node, one worker -----------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
submit one --time 5 -- $brief
ended one COMPLETED 0
expect "one: bytes" same "$out" "$work/brief"
expect "one: log lines name job, node and device" test "$(grep -c "^\[$job n[01] cpu\] [0-9:]*  block [1-4]/4  " "$log")" -eq 4
expect "one: no other lines of progress" test "$(grep -c ' block [0-9]/' "$log")" -eq 4
expect "one: report" grep -q '^bits/weight  3' "$log"
# The folder holds a run now: submitting it again does nothing.
# shellcheck disable=SC2086
submit one --time 5 -- $brief
ended "one again" COMPLETED 0
expect "one again: says so" logged 'already complete'

# In a container: a stand-in for Apptainer notes how it is called and runs the program outside of one.
mkdir "$work/bin"
cat >"$work/bin/apptainer" <<END
#!/bin/sh
echo "\$*" >"$work/apptainer"
echo "\$SLURM_JOB_END_TIME" >"$work/end"
until [ "\$1" = "$work/flrq.sif" ]; do shift; done
shift
exec "\$@"
END
chmod +x "$work/bin/apptainer"
: >"$work/flrq.sif"
PATH=$PATH:$work/bin
# shellcheck disable=SC2086
submit contained --time 5 --container "$work/flrq.sif" --program "$flrq" -- $brief
ended contained COMPLETED 0
expect "contained: bytes" same "$out" "$work/brief"
expect "contained: folders" grep -q "^exec --bind $PWD/data/tinylm --bind $out --bind $PWD/data/tinylm/calib.txt $work/flrq.sif $flrq quantize" "$work/apptainer"
end=$(cat "$work/end")
expect "contained: knows its end: $end" test "$((end - $(date +%s)))" -gt 200 -a "$((end - $(date +%s)))" -le 300

# ---- what Slurm would refuse, or run into --------------------------------------------------------------------------------
refused() { # WORD OPTION...
    word=$1
    shift
    # shellcheck disable=SC2086
    flrq 2 submit "$@" -- quantize data/tinylm -o "$work/refused" $brief
    expect "refused: $*" grep -q -e "$word" "$work/err"
    expect "refused, one line: $*" test "$(grep -c error "$work/err")" -eq 1
    expect "refused, nothing made: $*" test ! -e "$work/refused"
}
refused 'partition nope does not exist; this cluster has: main,short' --partition nope
refused 'partition nope does not exist' --partition main,nope
refused 'jobs of partition short may take 5 minutes' --partition short --time 6
refused 'nodes 3: the default partition has 2' --nodes 3
refused 'nodes of the default partition have 2' --gpus-per-node 3
refused '5 CPUs on a node wanted' --cpus-per-task 5
refused '8.6 GB on a node wanted' --mem 8G
refused 'sbatch refused the job: Batch job submission failed: Invalid feature' --constraint nope

# ---- two nodes, several workers --------------------------------------------------------------------------------------------
# Both nodes are this machine, on which Open MPI's shared memory would take ranks of one for those of the other.
echo 'export OMPI_MCA_btl=self,tcp' >"$work/setup"
scatter() { # WAY: the options of submit before --, and of quantize after it, for four workers
    case $1 in
    openmpi) before="--tasks-per-node 2 --setup $work/setup --mpi pmix" after="--mpi openmpi" ;;
    mpich) before="--tasks-per-node 2" after="--mpi mpich" ;;
    cudasim) before="--gpus-per-node 2" after="--device cudasim" ;;
    *) before="" after="" ;;
    esac
    before="--nodes 2 --time 5 $before"
}
for way in $ways; do
    scatter "$way"
    reference=$work/brief
    if [ "$way" = cudasim ]; then # seconds where the CPU takes less than one; other last bits
        brief_gpu="--bits 3 --calib data/tinylm/calib.txt --calib-samples 2 --calib-len 64 --threads 1"
        reference=$work/cudasim
        # shellcheck disable=SC2086
        flrq 0 quantize data/tinylm -o "$reference" --device cudasim --workers 1 --quiet $brief_gpu
        # shellcheck disable=SC2086
        submit "four.$way" $before -- $brief_gpu $after
    else
        # shellcheck disable=SC2086
        submit "four.$way" $before -- $brief $after
    fi
    ended "four.$way" COMPLETED 0
    expect "four.$way: bytes" same "$out" "$reference"
    expect "four.$way: one line a block" test "$(grep -c '  block [1-4]/4  ' "$log")" -eq 4
    expect "four.$way: one report" test "$(grep -c '^bits/weight  3' "$log")" -eq 1
    expect "four.$way: nobody speaks but the first" test "$(grep -c "^\[$job n[1-9]" "$log")" -eq 0
    [ "$way" = cudasim ] && expect "four.$way: the device" logged "^\[$job n0 cudasim:0\] .*block 4/4"
done

# The failures below are those of several workers where MPI is here, else of one.
way=
for w in $ways; do [ "$w" = cudasim ] || way=$w; done
scatter "$way"
[ -n "$way" ] || before="--time 5"

# ---- a time limit near: stopped, queued again, continued ---------------------------------------------------------------------
# shellcheck disable=SC2086
submit signal $before -- $brief $after
expect "signal: first block" until_true 60 logged '  block 1/4  '
scancel --signal=USR1 "$job"
expect "signal: stops" until_true 30 logged 'stopped with [1-3] of 4 blocks'
expect "signal: once" test "$(grep -c 'flrq: stopped' "$log")" -eq 1
expect "signal: queued again" until_true 30 logged 'queued again'
expect "signal: looks unfinished" test ! -e "$out/config.json"
ended signal COMPLETED 0
expect "signal: second start" logged '\] start 2 on'
expect "signal: continued" logged 'continuing .*[1-3] of 4 blocks are done'
expect "signal: each block once" test "$(grep -c '  block [1-4]/4  ' "$log")" -eq 4
expect "signal: bytes" same "$out" "$work/brief"

# By the clock, which the worker asks: what is left is too little for another block.
cat >"$work/hasty" <<END
#!/bin/sh
# The first start believes that its job ends in 6 s.
[ "\${SLURM_RESTART_COUNT:-0}" -gt 0 ] || SLURM_JOB_END_TIME=\$((\$(date +%s) + 6)) && export SLURM_JOB_END_TIME
[ -n "\$SLURM_JOB_END_TIME" ] || unset SLURM_JOB_END_TIME
exec $flrq "\$@"
END
chmod +x "$work/hasty"
# shellcheck disable=SC2086
submit clock --time 5 --program "$work/hasty" -- $brief
ended clock COMPLETED 0
expect "clock: stops by itself" logged 'too few for another block'
expect "clock: no signal" test "$(grep -c 'stopping after' "$log")" -eq 0
expect "clock: second start" logged '\] start 2 on'
expect "clock: bytes" same "$out" "$work/brief"

# ---- nothing done: not again -----------------------------------------------------------------------------------------------
# shellcheck disable=SC2086
submit idle $before -- $lengthy $after
expect "idle: begins" until_true 60 test -e "$out/.flrq"
scancel --signal=USR1 "$job"
ended idle FAILED 75
expect "idle: says why" logged 'no block was finished since this start: not queued again'

# ---- cancelled: not again, until submitted --------------------------------------------------------------------------------------
# shellcheck disable=SC2086
submit idle $before -- $lengthy $after
expect "cancel: first block" until_true 60 logged '  block 1/4  '
scancel "$job"
ended cancel CANCELLED
expect "cancel: stops in order" logged 'stopped with [1-3] of 4 blocks'
expect "cancel: not queued again" logged 'cancelled: not queued again'
expect "cancel: looks unfinished" test ! -e "$out/config.json"
job=$(sbatch --parsable "$out/slurm/job.sbatch")
log=$out/slurm/job-$job.log
ended "after cancel" COMPLETED 0
expect "after cancel: continued" logged 'continuing .*[1-3] of 4 blocks are done'
expect "after cancel: bytes" same "$out" "$work/lengthy"

# ---- a worker dies -------------------------------------------------------------------------------------------------------------
if [ -n "$way" ]; then
    # shellcheck disable=SC2086
    submit death $before -- $lengthy $after
    expect "death: first block" until_true 60 logged '  block 1/4  '
    victim=$(pgrep -f "^$flrq quantize $PWD/data/tinylm -o $out " | tail -n 1)
    kill -9 "$victim"
    expect "death: the job ends" until_true 60 is_gone "$job"
    expect "death: nobody is left" until_true 10 no_task_left
    expect "death: looks unfinished" test ! -e "$out/config.json"
    # shellcheck disable=SC2086
    submit death $before -- $lengthy $after
    ended "after death" COMPLETED 0
    expect "after death: continued" logged 'continuing .*[1-3] of 4 blocks are done'
    expect "after death: bytes" same "$out" "$work/lengthy"
fi

# ---- a node dies, with all that runs on it: Slurm starts the job again when it can ---------------------------------------------------
# shellcheck disable=SC2086
submit node $before -- $lengthy $after
expect "node: first block" until_true 60 logged '  block 1/4  '
lost=$(squeue --noheader --jobs="$job" --format=%B)
[ -z "$way" ] || lost=n1 # not the one whose script runs srun
kill -9 "$(cat "$cluster/slurmd.$lost.pid")"
scontrol update nodename="$lost" state=down reason=test
for pid in $(pgrep -f "quantize $PWD/data/tinylm -o $out "); do
    tr '\0' '\n' <"/proc/$pid/environ" | grep -q -x "SLURMD_NODENAME=$lost" && kill -9 "$pid"
done
[ -z "$way" ] || expect "node: queued again" until_true 30 is_state PENDING
expect "node: nobody is left of the first start" until_true 30 no_task_left
slurmd -f "$SLURM_CONF" -N "$lost"
ended node COMPLETED 0
expect "node: second start" logged '\] start 2 on'
expect "node: bytes" same "$out" "$work/lengthy"

# ---- real time limits: one that the run knows, and one of which only Slurm tells it -----------------------------------------------
if [ "${FLRQ_TEST_LONG:-}" = 1 ]; then
    # Blocks of about 14 s on this machine, if it is idle: three fit into a minute with time to stop, four do not.
    # shellcheck disable=SC2086
    json 0 quantize data/tinylm -o "$work/measure" --device cpu $lengthy
    samples=$(awk "BEGIN { printf \"%d\", 128 * 14 / $(value seconds) }")
    longest="--bits 3 --calib data/tinylm/calib.txt --calib-samples $samples --calib-len 256 --threads 1"
    # shellcheck disable=SC2086
    flrq 0 quantize data/tinylm -o "$work/longest" --device cpu --quiet $longest --threads 2
    cat >"$work/unaware" <<END
#!/bin/sh
SLURM_JOB_END_TIME=\$((\$(date +%s) + 86400))
export SLURM_JOB_END_TIME
exec $flrq "\$@"
END
    chmod +x "$work/unaware"
    for long in limit told; do
        options="--time 1"
        [ $long = limit ] || options="--time 1 --signal-seconds 5 --program $work/unaware"
        # shellcheck disable=SC2086
        submit $long $options -- $longest
        ended $long COMPLETED 0
        expect "$long: stopped in order" logged 'stopped with [1-3] of 4 blocks'
        expect "$long: queued again" logged 'queued again'
        expect "$long: not ended by Slurm" test "$(grep -c 'DUE TO TIME LIMIT' "$log")" -eq 0
        expect "$long: bytes" same "$out" "$work/longest"
        if [ $long = limit ]; then
            expect "limit: by the clock" logged 'too few for another block'
        else
            expect "told: by the signal" logged 'stopping after the present unit'
        fi
    done
fi
finish
