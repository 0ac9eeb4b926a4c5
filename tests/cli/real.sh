#!/bin/sh
# real.sh - the program with its real library: the option tables, bounds in messages, a result of a real checkpoint.
#
#   real.sh FLRQ PTY        runs in tests/, where data/tinylm is
set -u
flrq=$1 pty=$2
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0 ran=0

expect() {
    name=$1
    shift
    ran=$((ran + 1))
    "$@" || {
        failed=$((failed + 1))
        echo "FAILED $name: $*"
        tail -n 5 "$work/out" "$work/err"
    }
}

# status CODE ARGUMENT...: runs, keeps stdout and stderr, checks the exit code.
status() {
    wanted=$1
    shift
    "$flrq" "$@" >"$work/out" 2>"$work/err" </dev/null
    expect "flrq $*" test $? -eq "$wanted"
}

status 0 --version
expect version grep -qx "flrq [0-9]*\.[0-9]*\.[0-9]*" "$work/out"
status 2
for command in quantize plan eval inspect compare devices tokenize "bench sketch" "bench ops" "bench quantize" submit; do
    # shellcheck disable=SC2086
    status 0 $command --help
    expect "$command usage" grep -q "^usage: flrq $command" "$work/out"
    expect "$command width" test "$(awk 'length > 100' "$work/out" | wc -l)" -eq 0
    cp "$work/out" "$work/help-$(echo "$command" | tr ' ' -)"
    [ "$command" != submit ] || cat "$work/help-quantize" >>"$work/help-submit" # it carries one
    # Every option of every example of the manual page exists.
    "$flrq" help --man | sed -n "s/^flrq $command \(.*\)/\1/p" | sed 's/\\-/-/g' >"$work/examples"
    for word in $(grep -o -- '--[a-z-]*' "$work/examples"); do
        case $word in
        --json | --quiet) ;;
        *) expect "example option $word of $command" grep -q -e "$word " "$work/help-$(echo "$command" | tr ' ' -)" ;;
        esac
    done
done
"$flrq" help --man >"$work/flrq.1"
if command -v groff >/dev/null 2>&1; then
    groff -man -Tutf8 -ww "$work/flrq.1" >"$work/out" 2>"$work/err"
    expect man-clean test ! -s "$work/err"
fi

status 2 quantize data/tinylm -o "$work/q" --bits 9 --calib none
expect both-bounds grep -q 'from 2 to 8' "$work/err"
status 2 quantize data/tinylm -o "$work/q" --bits four --calib none
expect not-a-number grep -q '"four"' "$work/err"
status 2 quantize data/tinylm -o "$work/q" --method xyzzy --calib none
expect choices grep -q 'flrq|lqer|rtn' "$work/err"
status 2 quantize data/tinylm -o "$work/q" --bist 3
expect suggestion grep -q 'did you mean --bits' "$work/err"
expect nothing-written test ! -e "$work/q"

status 0 devices
expect devices-cpu grep -q '^cpu  *yes' "$work/out"
status 0 inspect data/tinylm
expect inspect-family grep -q '^family  *llama' "$work/out"
expect inspect-grouped grep -q '^model.layers.\*.mlp.down_proj' "$work/out"
status 0 inspect data/tinylm --json
expect inspect-one-object sh -c "head -c 1 '$work/out' | grep -q '{' && test \$(wc -l <'$work/out') -eq 1"
status 1 inspect data
expect inspect-one-line test "$(wc -l <"$work/err")" -eq 1
expect inspect-names-file grep -q '^flrq: error: .*config.json' "$work/err"
status 1 inspect data --json
expect inspect-error-json grep -q '^{"event":"error","status":"[a-z]*","message":' "$work/err"
status 0 compare data/tinylm data/tinylm --quiet
expect compare-same grep -qx identical "$work/out"

# A stop on request, the same command again, and what it says when all is done.
set -- quantize data/tinylm -o "$work/q" --calib data/tinylm/calib.txt --calib-samples 2 --calib-len 64
TERM=xterm "$pty" -k TERM "block 1/4" "$flrq" "$@" >"$work/out"
expect stop test $? -eq 75
expect stop-says-how grep -q 'run the same command again to resume' "$work/out"
status 0 "$@"
expect log-lines test "$(grep -c '^[0-9:]*  block [1-4]/4  ' "$work/err")" -eq 4
expect block-rows test "$(grep -c '^ *[1-4] .*_proj ' "$work/out")" -eq 4
status 0 "$@" --quiet
expect one-line test "$(wc -l <"$work/out")" -eq 1
expect bits grep -q ': 4\.[0-9]* bits/weight, mean rank' "$work/out"
status 2 "$@" --bits 3
expect other-settings grep -q 'bits' "$work/err"
status 0 inspect "$work/q"
expect quantized grep -q '^kind  *quantized' "$work/out"
status 1 compare data/tinylm "$work/q"
expect differences grep -q '^different$' "$work/out"

echo "$ran checks, $failed failed"
[ "$failed" -eq 0 ]
