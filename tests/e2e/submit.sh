#!/bin/sh
# submit.sh - flrq submit without a Slurm: what is refused, the script that is written, and what the script does.
#
#   submit.sh FLRQ      runs in tests/
#
# Slurm's commands are stand-ins on PATH that note how they were called; srun runs what it is given, so that the script is
# executed in full. slurm.sh is the same on a real one.
flrq=$1
. e2e/lib.sh
unset SLURM_JOB_ID SLURM_JOB_END_TIME SLURM_STEP_NUM_TASKS SLURM_PROCID SLURMD_NODENAME SLURM_RESTART_COUNT
model=data/families/llama
run="quantize $model --group 16 --calib-tokens $model/tokens.npy"

mkdir "$work/bin"
command_of() { # NAME BODY
    printf '#!/bin/sh\necho "$0 $*" >>"%s/called"\n%s\n' "$work" "$2" >"$work/bin/$1"
    chmod +x "$work/bin/$1"
}
command_of sinfo 'echo "cpu*|up|infinite|4|8|64000|(null)"; echo "gpu|up|1-00:00:00|2|64|512000|gpu:h100:8"'
command_of srun 'if [ "$1" = --mpi=list ]; then echo "MPI plugin types are..."; echo "	pmi2"; exit; fi
while [ "${1#--}" != "$1" ]; do shift; done; "$@"'
command_of sbatch 'echo 4711'
command_of scontrol 'exit ${SCONTROL_CODE:-0}'
command_of squeue 'echo "${JOB_STATE:-RUNNING None}"'

# ---- --print needs no Slurm -------------------------------------------------------------------------------------------
out="$work/o 'u' \$t %j \\\\"
flrq 0 submit --nodes 2 --gpus-per-node 8 --cpus-per-task 12 --time 1-12 --partition 'a b' --account acc --qos high \
    --constraint 'h100&nvlink' --job-name 'a "name"' --signal-seconds 90 --print -- \
    $run -o "$out" --bits 3 --preset paper --no-signed-scale --doc-sep=--x --device-memory 80
cp "$work/out" "$work/script"
expect "print: nothing made" test ! -e "$out"
expect "print: bash reads it" bash -n "$work/script"
expect "print: notes on stderr" grep -q 'planned for a device of 80 GB that is not here' "$work/err"
for line in '#SBATCH --job-name="a \"name\""' '#SBATCH --partition="a b"' '#SBATCH --account=acc' '#SBATCH --qos=high' \
    '#SBATCH --constraint="h100&nvlink"' '#SBATCH --nodes=2' '#SBATCH --ntasks-per-node=8' '#SBATCH --gpus-per-node=8' \
    '#SBATCH --cpus-per-task=12' '#SBATCH --time=1-12' '#SBATCH --requeue' '#SBATCH --open-mode=append' \
    '#SBATCH --signal=USR1@90'; do
    expect "print: $line" grep -q -x -F -e "$line" "$work/script"
done
expect "print: memory" grep -q -x '#SBATCH --mem=[0-9]*M' "$work/script"
expect "print: log, % doubled" grep -q -F -e '%%j' "$work/script"
expect "print: no binding of GPUs" test "$(grep -c -e gpu-bind -e gpus-per-task "$work/script")" -eq 0
expect "print: others are not killed" grep -q -e '^srun --kill-on-bad-exit=0 --wait=660 --cpus-per-task=12 --mpi=none ' "$work/script"
# The words that the program would get, as bash sees them: absolute, quoted, no default said, flags as flags.
words=$work/words
sed -e '/^srun/,/^rc=/!d' -e 's/^rc=.*//' -e 's/^srun [^\\]*/show /' "$work/script" >"$work/piece"
bash -c 'show() { printf "%s\n" "$@"; }; . "$1"' sh "$work/piece" >"$words"
cat >"$work/wanted" <<END
quantize
$PWD/$model
-o
$out
--preset
paper
--bits
3
--group
16
--calib-tokens
$PWD/$model/tokens.npy
--doc-sep=--x
--device-memory
80
--device
cuda
--threads
12
END
sed 1d "$words" | diff "$work/wanted" - >"$work/out"
expect "print: words" test ! -s "$work/out"
expect "print: this program" test "$(sed -n 1p "$words")" = "$(realpath "$flrq")"

# Relative names are those of the present folder.
(cd data && "$flrq" submit --print -- quantize tinylm -o ../data/./q --calib tinylm/calib.txt) >"$work/out" 2>"$work/err"
expect "relative: model" grep -q -F " $PWD/data/tinylm -o $PWD/data/../data/./q" "$work/out"
expect "relative: text" grep -q -F -e "--calib $PWD/data/tinylm/calib.txt" "$work/out"
expect "relative: weights only" sh -c "'$flrq' submit --print -- quantize data/tinylm -o '$work/q' --calib none | grep -q -e '--calib none'"

# On CPUs: the device is said, MPI by the plugin of quantize, memory by the plan.
flrq 0 submit --print --nodes 2 --tasks-per-node 4 --mem 8G -- $run -o "$work/q" --mpi mpich
expect "cpu: srun" grep -q '^srun .* --mpi=pmi2 ' "$work/out"
expect "cpu: device" grep -q -e '--device cpu' "$work/out"
expect "cpu: tasks" grep -q -x '#SBATCH --ntasks-per-node=4' "$work/out"
expect "cpu: memory" grep -q -x '#SBATCH --mem=8192M' "$work/out"
expect "cpu: no GPUs" test "$(grep -c gpus "$work/out")" -eq 0
flrq 0 submit --print --nodes 2 --mem none -- $run -o "$work/q" --mpi openmpi
expect "cpu: pmix" grep -q '^srun .* --mpi=pmix ' "$work/out"
expect "cpu: site's memory" test "$(grep -c -e --mem "$work/out")" -eq 0
flrq 0 submit --print --mpi cray_shasta --mem 0 -- $run -o "$work/q"
expect "cpu: given" grep -q '^srun .* --mpi=cray_shasta ' "$work/out"
expect "cpu: all memory" grep -q -x '#SBATCH --mem=0M' "$work/out"

# A container and a setup.
printf '#SBATCH --exclusive\nmodule load cuda' >"$work/setup"
: >"$work/flrq.sif"
flrq 0 submit --print --gpus-per-node 2 --setup "$work/setup" --container "$work/flrq.sif" -- $run -o "$work/q"
expect "container: call" grep -q -x -F -e "    apptainer exec --nv --bind $PWD/$model --bind $work/q --bind $PWD/$model/tokens.npy \\" "$work/out"
expect "container: its own program" grep -q "^    flrq quantize $PWD/$model -o $work/q" "$work/out"
expect "setup: its SBATCH lines are read" sh -c "sed '/^[^#]/,\$d' '$work/out' | grep -q -x '#SBATCH --exclusive'"
expect "setup: on a line of its own" grep -q -x 'module load cuda' "$work/out"

# ---- refusals ---------------------------------------------------------------------------------------------------------
PATH=$work/bin:$PATH
refused() { # CODE WORD OPTION... -- ARGUMENT...
    wanted=$1 word=$2
    shift 2
    flrq "$wanted" submit "$@"
    expect "refused: $*" grep -q -e "$word" "$work/err"
    expect "refused, one line: $*" test "$(grep -c error "$work/err")" -eq 1
    expect "refused, not submitted: $*" test "$(grep -c sbatch "$work/called" 2>/dev/null)" -eq 0
    expect "refused, nothing made: $*" test ! -e "$work/q"
}
: >"$work/called"
refused 2 'MODEL .*no-model: No such file' -- quantize no-model -o "$work/q" --calib none
refused 2 'calib .*no-text: No such file' -- quantize $model -o "$work/q" --calib no-text
refused 2 'no-parent, where OUT is to be: No such file' -- $run -o "$work/no-parent/q"
refused 2 'is a file; -o names the output folder' -- $run -o "$work/script"
refused 2 'exists and is not a run of flrq' -- $run -o "$work/bin"
refused 2 'holds no run to resume' -- $run -o "$work/q" --resume required
refused 2 'no-sym needs 4 or 8 bits' -- $run -o "$work/q" --bits 3 --no-sym
refused 2 'calibration text wanted' -- quantize $model -o "$work/q"
refused 1 'does not divide' -- quantize $model -o "$work/q" --calib none --group 100
refused 2 'workers is for one machine' -- $run -o "$work/q" --workers 2
refused 2 'uses no GPU, but --gpus-per-node is 2' --gpus-per-node 2 -- $run -o "$work/q" --device cpu
refused 2 'device cuda needs --gpus-per-node' -- $run -o "$work/q" --device cuda
refused 2 'names one GPU' --gpus-per-node 2 --partition gpu -- $run -o "$work/q" --device cuda:1
refused 2 'each of --gpus-per-node has a task' --gpus-per-node 2 --tasks-per-node 2 -- $run -o "$work/q"
refused 2 'time takes minutes' --time 4h -- $run -o "$work/q"
refused 2 'time takes minutes' --time 0 -- $run -o "$work/q"
refused 2 'signal-seconds 300 is not within --time 5' --time 5 --signal-seconds 300 -- $run -o "$work/q"
refused 2 'mem takes a size' --mem lots -- $run -o "$work/q"
refused 2 'less than the .* MB that the workers of a node need' --mem 1M -- $run -o "$work/q"
refused 2 'is no name that Slurm takes' --account '' -- $run -o "$work/q"
refused 2 'is no name that Slurm takes' --job-name "$(printf 'a\nb')" -- $run -o "$work/q"
refused 2 'holds a line break' -- $run -o "$(printf '%s/a\nb' "$work")"
refused 2 'not UTF-8' -- $run -o "$(printf '%s/a\377b' "$work")"
refused 2 'not UTF-8' -- $run -o "$work/q" --doc-sep "$(printf 'a\377b')"
# A file system with less than the 34 GB that the activations of this run take.
if [ -w /dev/shm ] && [ "$(df -k /dev/shm | awk 'NR == 2 { print $4 }')" -lt 30000000 ]; then
    refused 1 'dev/shm/flrq-no-run: .* GB are free on its file system, up to .* GB are needed' --mem none -- quantize data/tinylm \
        -o /dev/shm/flrq-no-run --calib data/tinylm/calib.txt --calib-samples 65536 --calib-len 512
fi
refused 1 'no-setup: cannot open: No such file' --setup no-setup -- $run -o "$work/q"
refused 2 'container .*no.sif: No such file' --container no.sif -- $run -o "$work/q"
refused 2 'program .*/no/flrq: No such file' --program /no/flrq -- $run -o "$work/q"
refused 2 'partition nope does not exist; this cluster has: cpu,gpu' --partition nope -- $run -o "$work/q"
refused 2 'jobs of partition gpu may take 1440 minutes' --partition gpu --time 1-01 -- $run -o "$work/q"
refused 2 'nodes of the default partition have 0' --gpus-per-node 1 -- $run -o "$work/q"
refused 2 'srun has no --mpi=pmix' --nodes 2 -- $run -o "$work/q" --mpi openmpi
# The time that the plan predicts from a profile of a device, here of a very slow one.
sed 's/"flops_s": [0-9][0-9.e+]*/"flops_s": 1e6/' ../bench/scaling-h100-sxm.json >"$work/profile"
set -- --gpus-per-node 1 --partition gpu --profile "$work/profile"
slow="quantize data/tinylm -o $work/q --calib data/tinylm/calib.txt --calib-samples 32 --calib-len 64"
json 0 submit --print "$@" -- $slow
predicted=$(value seconds_total)
minutes=$(awk "BEGIN { printf \"%d\", 0.6 * $predicted / 60 + 1 }")
expect "predicted: minutes $minutes of $predicted s" test "$minutes" -ge 20
flrq 0 submit --print "$@" --time "$minutes" -- $slow
expect "predicted: queued again" grep -q "the plan predicts .* s, --time is .* s: the job will be started about 2 times" "$work/err"
flrq 0 submit --print "$@" --time $((4 * minutes)) -- $slow
expect "predicted: enough time" test "$(grep -c 'will be started about' "$work/err")" -eq 0
refused 2 'no block would finish: the plan predicts .* s for each, and --time leaves' "$@" --time $((minutes / 4)) -- $slow
flrq 0 submit "$@" --time 4 --print -- $run -o "$work/q"
expect "predicted: a small model" test "$(grep -c 'will be started about' "$work/err")" -eq 0
PATH=/usr/bin:/bin
command -v sinfo >/dev/null || refused 1 'sinfo: not found in PATH; submit where' -- $run -o "$work/q"
PATH=$work/bin:$PATH
command_of sbatch 'echo "sbatch: error: Batch job submission failed: Invalid qos specification" >&2; exit 1'
flrq 2 submit --qos nope -- $run -o "$work/q"
expect "sbatch's refusal" grep -q 'error: sbatch refused the job: Batch job submission failed: Invalid qos specification$' "$work/err"
expect "sbatch's refusal: nothing left" test ! -e "$work/q"
command_of sbatch 'echo "4711;cluster"'

# ---- a submitted job ----------------------------------------------------------------------------------------------------
: >"$work/called"
flrq 0 submit --time 10 -- $run -o "$work/q"
expect "job: number" grep -q '^job  *4711 submitted: 1 node, 1 worker$' "$work/out"
expect "job: log" grep -q "^follow  *tail -F $work/q/slurm/job-4711.log" "$work/out"
expect "job: sbatch" grep -q "sbatch --parsable $work/q/slurm/job.sbatch" "$work/called"
flrq 0 submit --quiet -- $run -o "$work/q"
expect "job: number alone" test "$(cat "$work/out")" = 4711
json 0 submit -- $run -o "$work/q"
expect "job: json" test "$(value job)" = 4711

# The script itself, with the stand-ins. script CODE: runs it as Slurm would; stderr in $work/err.
SLURM_JOB_ID=4711 SLURMD_NODENAME=n0 SLURM_JOB_NODELIST=n0
export SLURM_JOB_ID SLURMD_NODENAME SLURM_JOB_NODELIST JOB_STATE SCONTROL_CODE
script() {
    wanted=$1
    : >"$work/called"
    code=0
    bash "$work/q/slurm/job.sbatch" >"$work/out" 2>"$work/err" </dev/null || code=$?
    expect "script: exit code $code, not $wanted" test "$code" -eq "$wanted"
}
requeued() { grep -q 'scontrol requeue 4711' "$work/called"; }
not_requeued() { ! requeued; }
flrq 0 $run -o "$work/reference" --quiet --device cpu
script 0
expect "script: the run" diff -r -x journal.jsonl -x report.json -x slurm "$work/reference" "$work/q"
expect "script: done" not_requeued
expect "script: says where it starts" grep -q -F '[4711 n0] start 1 on n0' "$work/err"

# With a program that plays the run: commits a block or not, ends with a code.
cat >"$work/play" <<END
#!/bin/sh
[ -z "\$COMMIT" ] || echo '{"kind":"shard","block":0,"hash":"x"}' >>"$work/p/journal.jsonl"
exit "\$CODE"
END
chmod +x "$work/play"
mkdir "$work/p"
flrq 0 submit --program "$work/play" -- $run -o "$work/p"
cp "$work/p/slurm/job.sbatch" "$work/q/slurm/job.sbatch"
export COMMIT CODE
for code in 0 1 2 3 137; do
    CODE=$code COMMIT=1 script $code
    expect "script: code $code" not_requeued
done
CODE=75 COMMIT=1
script 0
expect "script: stopped" requeued
JOB_STATE='COMPLETING TimeLimit'
script 0
expect "script: at the limit" requeued
JOB_STATE='COMPLETING None'
script 75
expect "script: cancelled" not_requeued
expect "script: cancelled, says so" grep -q 'cancelled: not queued again; sbatch .*/p/slurm/job.sbatch continues' "$work/err"
JOB_STATE= SCONTROL_CODE=1
script 75
expect "script: no requeue here" grep -q 'cannot be queued again; sbatch' "$work/err"
SCONTROL_CODE=0 COMMIT=
script 75
expect "script: nothing done" not_requeued
expect "script: nothing done, says so" grep -q 'no block was finished since this start' "$work/err"
rm "$work/p/journal.jsonl"
script 75
expect "script: no journal" not_requeued
finish
