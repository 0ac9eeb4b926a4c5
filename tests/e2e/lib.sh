# lib.sh - what the end-to-end tests share. Sourced with $flrq set, in tests/; makes $work, which goes when the test ends.
#
# Every check goes through expect, which counts it and shows the last outputs when it fails; the last line of a test is `finish`.
set -u
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0 ran=0
unset NO_COLOR COLUMNS
# The preloaded library comes before the sanitizers' own; SIGKILL leaves nothing to find leaks in.
ASAN_OPTIONS=${ASAN_OPTIONS:-}:verify_asan_link_order=0
export ASAN_OPTIONS

# expect NAME COMMAND...: a check.
expect() {
    name=$1
    shift
    ran=$((ran + 1))
    "$@" || {
        failed=$((failed + 1))
        echo "FAILED $name: $*"
        for stream in out err; do
            [ -s "$work/$stream" ] && tail -n 5 "$work/$stream" | cut -c 1-400 | sed "s/^/  std$stream: /"
        done
    }
}

# flrq CODE ARGUMENT...: runs the program, keeps stdout and stderr, checks the exit code.
flrq() {
    wanted=$1
    shift
    code=0
    "$flrq" "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    expect "exit code $code of: flrq $*" test "$code" -eq "$wanted"
}

# faulty CODE FAULTS ARGUMENT...: the same with faults (faults.c).
faulty() {
    wanted=$1 orders=$2
    shift 2
    code=0
    { E2E_FAULTS=$orders LD_PRELOAD=$faults "$flrq" "$@" >"$work/out" 2>"$work/err" </dev/null; } 2>"$work/shell" || code=$?
    expect "exit code $code with $orders of: flrq $*" test "$code" -eq "$wanted"
}

# value KEY: number or text of a key in the JSON result on stdout (the first of that name).
value() {
    sed -n "s/.*\"$1\": *\"\{0,1\}\([^\",}]*\).*/\1/p" "$work/tidy" | head -n 1
}

# json CODE ARGUMENT...: like flrq, with --json; the result lies in $work/tidy with one key per line.
json() {
    flrq "$@" --json
    tr ',{[' '\n\n\n' <"$work/out" >"$work/tidy"
}

# number CONDITION: arithmetic on real numbers, "nan" and nothing at all are false.
number() {
    awk "BEGIN { exit !($1) }" 2>/dev/null
}

finish() {
    echo "$ran checks, $failed failed"
    [ "$failed" -eq 0 ]
    exit
}
