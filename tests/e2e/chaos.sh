#!/bin/sh
# chaos.sh - random workers of a run are shot at random moments, and whoever comes next continues: in the end the bytes are
# those of a run that nobody disturbed.
#
#   chaos.sh FLRQ MAKE_MODEL COMPARE_REPORTS SIGNAL HITS      runs in tests/; SIGNAL is KILL or TERM
#
# So many hits, at moments spread over the length of a run as measured here, each on a group of another random size and
# kind. A run that gets through is compared, and the next begins; moments then come earlier, for the machine has become
# faster. The numbers are random but the same every time; where the
# hits fall depends on the machine.
flrq=$1 make_model=$2 compare_reports=$3 signal=$4 hits=$5
. e2e/lib.sh
. e2e/workers_lib.sh
"$make_model" random "$work/model" 64 1096 6 100 9 16 || exit 1
out=$work/out.q reference=$work/reference
run="quantize $work/model -o $out --quiet --group 0 --rank-policy fixed --rank 4 --calib-tokens $work/model/tokens.npy"
groups="local:1 local:3 local:8"
processes=
for mpi in openmpi mpich; do
    available $mpi && groups="$groups $mpi:2 $mpi:3 $mpi:3 $mpi:4" processes=$mpi
done
[ -n "$processes" ] || {
    echo "skipped: no MPI, so no workers that die one by one"
    exit 77
}
# shellcheck disable=SC2086
flrq 0 $run
mv "$out" "$reference"

milliseconds() { echo $(($(date +%s%N) / 1000000)); }

seed=20240607
# draw N: sets $drawn to 0 .. N-1.
draw() {
    seed=$(((seed * 1103515245 + 12345) % 2147483648))
    drawn=$((seed / 65536 % $1))
}

# shellcheck disable=SC2086
pick() {
    draw $(echo $groups | wc -w)
    group=$(echo $groups | cut -d ' ' -f $((drawn + 1)))
}

began=$(milliseconds)
# shellcheck disable=SC2086
group 0 $processes 3 $run
length=$(($(milliseconds) - began))
expect "undisturbed: bytes" same "$out" "$reference" arguments.device
rm -rf "$out"

hit=0 shots=0 through=0 resumed=0
while [ $hit -lt $hits ] && [ $shots -lt $((6 * hits)) ]; do
    shots=$((shots + 1))
    pick
    draw $length
    delay=$(printf '%d.%03d' $((drawn / 1000)) $((drawn % 1000)))
    # shellcheck disable=SC2086
    start ${group%:*} ${group#*:} $run
    sleep "$delay"
    draw ${group#*:}
    [ -e "$ranks/pid.$drawn" ] || drawn=0 # threads have one process
    kill -"$signal" "$(cat "$ranks/pid.$drawn" 2>/dev/null)" 2>/dev/null
    ended
    what="shot $shots at $group, worker $drawn, after $delay s"
    expect "$what: code $code" test $code -ne 124
    if [ $code -eq 0 ]; then
        through=$((through + 1)) length=$((length * 15 / 16 + 20))
        expect "$what: bytes" the_same "$out" "$reference"
        rm -rf "$out"
    else
        hit=$((hit + 1))
        ! committed "$out" 0 2>/dev/null || resumed=$((resumed + 1))
        # Only the record that it is complete may be missing from a run that looks so.
        [ ! -e "$out/config.json" ] || expect "$what: whole" test -e "$out/report.json" -a -e "$out/model.safetensors.index.json"
        case $signal:$group in
        TERM:local*) expect "$what: code $code" test $code -eq 75 -o $code -eq 143 ;; # 143: before it listens
        esac
    fi
done
# shellcheck disable=SC2086
group 0 local 2 $run
expect "the last: bytes" the_same "$out" "$reference"
echo "$signal: $hit hits in $shots shots of at most $length ms, $resumed of them with blocks to continue from; $through runs got through"
expect "hits: $hit" test $hit -eq $hits
expect "hits with blocks committed: $resumed" test $resumed -ge $((hits / 5))
finish
