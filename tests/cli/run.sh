#!/bin/sh
# run.sh - the program `flrq` against a stand-in library: arguments, tables, messages, exit codes, terminal, signals.
#
#   run.sh FLRQ_FAKE PTY            compares with golden/*, exit 1 on any difference
#   run.sh FLRQ_FAKE PTY --update   writes golden/* anew; read the diff before committing it
#
# A golden file holds the command line, stdout, stderr and the exit code of one case. Clock times become HH:MM:SS.
set -u
fake=$1 pty=$2 update=${3:-}
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0 ran=0
unset NO_COLOR COLUMNS SLURM_JOB_ID SLURM_STEP_NUM_TASKS SLURM_PROCID SLURMD_NODENAME OMPI_COMM_WORLD_RANK PMIX_RANK PMI_RANK
TERM=xterm
export TERM

bad() {
    failed=$((failed + 1))
    printf 'FAILED %s\n' "$*"
}

# golden NAME ARGUMENT...: one case.
golden() {
    case_name=$1
    shift
    ran=$((ran + 1))
    "$fake" "$@" >"$work/out" 2>"$work/err" </dev/null
    code=$?
    {
        printf '$ flrq'
        printf ' %s' "$@"
        printf '\n--- stdout\n'
        cat "$work/out"
        printf -- '--- stderr\n'
        sed 's/^\(\[[^]]*\] \)\{0,1\}[0-9][0-9]:[0-9][0-9]:[0-9][0-9]  /\1HH:MM:SS  /' "$work/err"
        printf -- '--- exit %s\n' "$code"
    } >"$work/got"
    if [ "$update" = --update ]; then
        cp "$work/got" "$here/golden/$case_name"
    else
        diff -u "$here/golden/$case_name" "$work/got" || bad "golden $case_name"
    fi
}

# expect NAME CONDITION...: a check that is no text comparison.
expect() {
    what=$1
    shift
    ran=$((ran + 1))
    "$@" || bad "$what: $*"
}

# ---- help ------------------------------------------------------------------------------------------------------------
golden no-command
golden no-command-json --json
golden help --help
golden help-short -h
golden help-word help
golden version --version
golden version-no-value quantize MODEL --version
golden quantize-help quantize --help
golden quantize-help-wins quantize --no-such-option -h
golden eval-help help eval
golden bench-help bench sketch --help
golden devices-help devices --help
golden man help --man
expect help-width test "$("$fake" quantize --help | awk 'length > 100' | wc -l)" -eq 0

# ---- arguments -------------------------------------------------------------------------------------------------------
golden args-space quantize echo --out x --bits 8 --tolerance 0.5
golden args-equals quantize echo --out=x --bits=8 --a-very-long-name-for-an-option=a=b
golden args-short-out quantize echo -o x
golden args-short-out-joined quantize echo -ox
golden args-named-positional quantize -o x --model echo
golden args-named-first-positional compare --a echo other
golden args-named-second-positional compare --b other echo
golden args-flags eval echo --check
golden args-flags-off quantize echo -o x --no-sym
golden args-flag-value quantize echo -o x --sym=false
golden args-last-wins quantize echo -o x --bits 3 --bits 8
golden args-preset-first quantize echo -o x --bits 8 --preset paper
golden args-preset quantize echo -o x --preset paper
golden args-dashes inspect -- --model
golden args-dash-value quantize echo -o x --a-very-long-name-for-an-option=--bits
golden args-negative quantize echo -o x --tolerance -1
golden args-empty-value quantize echo -o x --bits=
golden args-leading --quiet --color never inspect MODEL
golden args-leading-unknown --bits 4 quantize MODEL
golden unknown-command quantise MODEL
golden unknown-command-far xyzzy
golden unknown-second-word bench skech
golden half-command bench
golden joined-command bench-sketch --quiet
golden unknown-option quantize MODEL -o x --bist 3
golden unknown-option-begin quantize MODEL -o x --tol 3
golden unknown-option-far quantize MODEL -o x --xyzzy
golden unknown-option-elsewhere quantize MODEL -o x --csv f
golden unknown-short quantize MODEL -x
golden unknown-short-out inspect MODEL -o x
golden missing-value quantize MODEL -o x --bits
golden missing-value-option quantize MODEL --out --bits 3
golden missing-positional quantize -o x
golden missing-out quantize MODEL
golden too-many inspect MODEL other
golden no-form quantize MODEL -o x --no-bits
golden no-form-value quantize MODEL -o x --no-sym=true
golden flag-garbage quantize MODEL -o x --sym=maybe
golden own-flag-garbage inspect MODEL --quiet=maybe
golden color-garbage inspect MODEL --color blue
golden out-of-bounds quantize MODEL -o x --bits 9
golden usage-json quantize MODEL --json --bits 9
golden submit-help submit --help
golden submit-help-carried submit -- quantize --help
golden submit-echo submit --nodes 2 -- quantize echo -o x --bits 3
golden submit-own-options submit -- quantize echo -o x --json
golden submit-nothing submit --nodes 2
golden submit-empty submit --
golden submit-other submit -- plan MODEL
golden submit-misplaced submit --bits 3 -- quantize MODEL -o x
golden submit-misplaced-job submit -- quantize MODEL -o x --nodes 2
golden submit-missing submit -- quantize -o x

# ---- results ---------------------------------------------------------------------------------------------------------
golden quantize quantize MODEL -o OUT
golden plan plan MODEL
golden eval eval MODEL
golden inspect inspect MODEL
golden compare compare A B
golden compare-same compare same B
golden devices devices
golden tokenize tokenize MODEL -o ids.npy
golden bench bench sketch
golden bench-ops bench ops
golden bench-quantize bench quantize
golden bench-quantize-several bench quantize --name several
golden bench-quantize-several-quiet bench quantize --name several --quiet
golden bench-methods bench methods MODEL
golden bench-methods-sparse bench methods sparse
golden bench-methods-odd-types bench methods odd-types
golden report report OUT
golden report-sparse report sparse
golden report-odd-types report odd-types
golden submit submit -- quantize MODEL -o OUT
golden submit-print submit --print -- quantize MODEL -o OUT
golden submit-quiet submit --quiet -- quantize MODEL -o OUT
golden submit-json submit --json -- quantize MODEL -o OUT
golden submit-sparse submit -- quantize sparse -o OUT
golden submit-odd-types submit -- quantize odd-types -o OUT
golden unknown-to-program bench later
golden unknown-to-program-quiet bench later --quiet
for command in "quantize MODEL -o OUT" "plan MODEL" "eval MODEL" "inspect MODEL" "compare A B" devices \
    "tokenize MODEL -o ids.npy" "bench sketch" "bench ops" "bench quantize" "bench methods MODEL" "report MODEL"; do
    name=$(printf '%s' "${command%% [MA-]*}" | tr ' ' -)
    # shellcheck disable=SC2086
    golden "$name-quiet" $command --quiet
    # shellcheck disable=SC2086
    golden "$name-json" $command --json
done
golden quantize-json-quiet quantize MODEL -o OUT --json --quiet
for command in quantize plan eval inspect compare tokenize; do
    set -- "$command"
    case $command in
    quantize | tokenize) set -- "$@" -o x ;;
    compare) set -- "$@" --b x ;;
    esac
    golden "$command-sparse" "$@" sparse
    golden "$command-sparse-quiet" "$@" sparse --quiet
    golden "$command-odd-types" "$@" odd-types
done

for command in sketch ops quantize; do
    golden "bench-$command-sparse" bench $command --name sparse
    golden "bench-$command-sparse-quiet" bench $command --name sparse --quiet
    golden "bench-$command-odd-types" bench $command --name odd-types
done

# ---- failures --------------------------------------------------------------------------------------------------------
golden error inspect missing
golden error-json inspect missing --json
golden error-quiet inspect missing --quiet
golden error-color inspect missing --color always
golden note-color quantize MODEL -o OUT --color always
golden hostile inspect hostile
golden hostile-error inspect hostile-error
golden hostile-error-json inspect hostile-error --json
golden gate quantize gate -o OUT --quiet
golden gate-json quantize gate -o OUT --json
golden stopped quantize stopped -o OUT
golden stopped-json quantize stopped -o OUT --json
golden stopped-eval eval stopped
golden no-result inspect no-result

# ---- in a job of Slurm -------------------------------------------------------------------------------------------------
SLURM_JOB_ID=1234 SLURMD_NODENAME=n0
export SLURM_JOB_ID SLURMD_NODENAME
golden job quantize MODEL -o OUT --quiet
golden job-log quantize gate -o OUT
golden job-json quantize stopped -o OUT --json
golden job-log-json quantize gate -o OUT --json
golden job-stopped quantize stopped -o OUT
golden job-usage quantize MODEL -o OUT --bits 9
SLURMD_NODENAME=$(printf 'n\0331') golden job-hostile quantize stopped -o OUT
# A terminal needs no telling.
"$pty" "$fake" quantize missing -o OUT >"$work/tty"
expect job-tty test "$(grep -c 1234 "$work/tty")" -eq 0
# The first task speaks for all.
SLURM_STEP_NUM_TASKS=8 SLURM_PROCID=0
export SLURM_STEP_NUM_TASKS SLURM_PROCID
golden first-stopped quantize stopped -o OUT
golden first-no-result quantize no-result -o OUT
SLURM_PROCID=3
golden follower quantize follower -o OUT
golden follower-null quantize no-result -o OUT
golden follower-json quantize follower -o OUT --json
golden follower-stopped quantize stopped -o OUT
golden follower-stopped-json quantize stopped -o OUT --json
golden follower-failed quantize follower-failed -o OUT
golden follower-failed-json quantize follower-failed -o OUT --json
golden follower-error quantize missing -o OUT
unset SLURM_JOB_ID SLURMD_NODENAME SLURM_STEP_NUM_TASKS SLURM_PROCID
for rank in OMPI_COMM_WORLD_RANK PMIX_RANK PMI_RANK; do
    env "$rank=0" "$fake" quantize no-result -o OUT >"$work/out" 2>"$work/err"
    expect "first by $rank" test $? -eq 1
    env "$rank=1" "$fake" quantize no-result -o OUT >"$work/out" 2>"$work/err"
    expect "follower by $rank" test $? -eq 0 -a ! -s "$work/err"
done

# ---- streams ---------------------------------------------------------------------------------------------------------
exit_code() {
    "$@"
    printf '%s' $? >"$work/code"
}
"$fake" inspect MODEL >/dev/full 2>"$work/err"
expect full-disk test $? -eq 1
expect full-disk-says grep -q 'standard output: cannot write the result: No space left' "$work/err"
"$fake" inspect MODEL >&- 2>"$work/err"
expect closed-stdout test $? -eq 1
"$fake" quantize gate -o x >/dev/full 2>/dev/null
expect full-disk-keeps-code test $? -eq 3
"$fake" inspect MODEL 2>&- >"$work/out" <&-
expect closed-stderr test $? -eq 0
expect closed-stderr-result grep -q parameters "$work/out"
"$fake" quantize MODEL -o x 2>/dev/full >/dev/null
expect full-stderr test $? -eq 0
# The reader of the pipe is gone before the program writes.
{ sleep 0.3; exit_code "$fake" inspect MODEL 2>"$work/err"; } | :
expect broken-pipe test "$(cat "$work/code")" -eq 1
expect broken-pipe-silent test ! -s "$work/err"
# A log reader that goes away does not end the job.
{ sleep 0.3; exit_code "$fake" quantize MODEL -o x 2>&1 >"$work/out"; } | :
expect lost-log test "$(cat "$work/code")" -eq 0

# ---- terminal --------------------------------------------------------------------------------------------------------
escape=$(printf '\033')
return=$(printf '\r')
began=$(date +%s)
"$pty" -w 60 "$fake" quantize slow -o OUT >"$work/tty"
expect tty-exit test $? -eq 0
seconds=$(($(date +%s) - began + 1))
tr '\r' '\n' <"$work/tty" | grep "$escape\[K" | sed "s/$escape\[K.*//" | grep '^block' >"$work/live"
lines=$(wc -l <"$work/live")
expect tty-live test "$lines" -ge 3
expect tty-rate test "$lines" -le $((10 * seconds + 1))
expect tty-width test "$(awk 'length > 59' "$work/live" | wc -l)" -eq 0
expect tty-cut grep -q '^block [123]/32  quantize  matrices [0-7]/7  3.1/s  elapsed 1:4' "$work/live"
expect tty-note-once test "$(grep -c 'note:.* tensor x: fell back to SVD' "$work/tty")" -eq 1
expect tty-note-cleared grep -q "$return$escape\[K.*note:" "$work/tty"
expect tty-end-cleared grep -q "$return$escape\[K.*note:.* context shortened to 512" "$work/tty"
expect tty-no-log-lines test "$(grep -c '^[0-9][0-9]:' "$work/tty")" -eq 0
"$pty" -w 200 "$fake" quantize slow -o OUT >"$work/tty"
expect tty-wide grep -q 'block 3/32  quantize  matrices [0-7]/7  3.1/s  elapsed 5:..  ETA 8:40  mem 3.2 GB' "$work/tty"
expect tty-color grep -q "$escape\[1;33mnote:" "$work/tty"
NO_COLOR=1 "$pty" "$fake" quantize slow -o OUT >"$work/tty"
expect tty-no-color test "$(grep -c "$escape\[1;33m" "$work/tty")" -eq 0
TERM=dumb "$pty" "$fake" quantize slow -o OUT >"$work/tty"
expect tty-dumb test "$(grep -c "$escape" "$work/tty")" -eq 0
expect tty-dumb-log test "$(grep -c '^[0-9:]*  block [123]/32' "$work/tty")" -eq 3
"$pty" "$fake" quantize slow -o OUT --quiet >"$work/tty"
expect tty-quiet test "$(wc -l <"$work/tty")" -eq 1

# ---- signals ---------------------------------------------------------------------------------------------------------
for signal in INT TERM; do
    "$pty" -k $signal forward "$fake" quantize endless -o OUT >"$work/tty"
    expect "stop-$signal" test $? -eq 75
    expect "stop-$signal-note" grep -q 'note: stopping after the present unit; again to abort' "$work/tty"
    expect "stop-$signal-resume" grep -q 'flrq: stopped after block 4 of 32; run the same command again to resume' \
        "$work/tty"
done
"$pty" -k INT forward "$fake" eval endless --json >"$work/tty"
expect stop-json test $? -eq 75
expect stop-json-note grep -q '{"event":"notice","text":"stopping after the present unit; again to abort"}' "$work/tty"
expect stop-json-error grep -q '{"event":"error","status":"stopped",' "$work/tty"
"$pty" -k INT forward -k INT 'again to abort' "$fake" quantize deaf -o OUT >"$work/tty"
expect abort-INT test $? -eq 130
"$pty" -k INT forward -k TERM 'again to abort' "$fake" quantize deaf -o OUT >"$work/tty"
expect abort-TERM test $? -eq 143
# What batch systems send before a time limit.
for signal in USR1 USR2; do
    "$pty" -k $signal forward "$fake" quantize endless -o OUT >"$work/tty"
    expect "stop-$signal" test $? -eq 75
done
"$pty" -k USR1 forward -k TERM 'again to abort' "$fake" quantize deaf -o OUT >"$work/tty"
expect abort-USR1-TERM test $? -eq 143
# A launcher's tasks get one request several times, at once; later it is another one.
(
    SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0
    export SLURM_STEP_NUM_TASKS SLURM_PROCID
    "$pty" -k TERM forward -k TERM 'again to abort' "$fake" quantize endless -o OUT >"$work/tty"
)
expect twice-TERM test $? -eq 75
SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=0 "$fake" quantize deaf -o OUT >"$work/out" 2>"$work/err" &
job=$!
tries=0
until grep -q 'block 3/32' "$work/err" || [ $((tries += 1)) -gt 200 ]; do sleep 0.05; done
kill -TERM $job
sleep 0.5
kill -TERM $job
sleep 0.2
expect second-soon kill -0 $job
sleep 3
kill -TERM $job
wait $job
expect second-late test $? -eq 143
# A command that ends at once is not in need of a polite stop: the first signal ends it.
"$pty" -k INT forward "$fake" inspect endless >"$work/tty"
expect plain-INT test $? -eq 130
# In the background of a script SIGINT is ignored, and stays so; SIGTERM is not.
"$fake" quantize endless -o OUT >"$work/out" 2>"$work/err" &
job=$!
tries=0
until grep -q 'block 3/32' "$work/err" || [ $((tries += 1)) -gt 200 ]; do sleep 0.05; done
kill -INT $job
sleep 0.2
expect background-INT test "$(grep -c 'again to abort' "$work/err")" -eq 0
kill -TERM $job
wait $job
expect background-TERM test $? -eq 75
expect background-TERM-note grep -q '^note: stopping after the present unit; again to abort$' "$work/err"

# ---- manual page -----------------------------------------------------------------------------------------------------
"$fake" help --man >"$work/flrq.1"
if command -v groff >/dev/null 2>&1; then
    groff -man -Tutf8 -ww "$work/flrq.1" >"$work/page" 2>"$work/err"
    expect man-clean test ! -s "$work/err"
    expect man-dashes grep -q -- '--bits 4 --group 128' "$work/page"
else
    echo "skipped: groff is not here to check the manual page"
fi

if [ "$update" = --update ]; then
    echo "golden files written"
fi
echo "$ran checks, $failed failed"
[ "$failed" -eq 0 ]
