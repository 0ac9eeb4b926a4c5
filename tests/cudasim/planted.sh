#!/bin/sh
# planted.sh PROGRAM CASE PATTERN - a planted bug must be found, its corrected twin must be clean.
#
# Runs "PROGRAM CASE bug" and "PROGRAM CASE fixed" in several orders of threads and of queued work. The bug counts as found
# in a run that fails and whose standard error matches PATTERN (an extended regular expression); one such run is enough,
# because some bugs need the right order. The twin must succeed and print nothing, in every run.
program=$1 case=$2 pattern=$3
found=0 runs=0
for order in forward reverse random:1 random:2 random:3 random:4 random:5 random:6; do
    runs=$((runs + 1))
    export FLRQ_CUDASIM_ORDER=$order FLRQ_CUDASIM_SEED=$runs
    if said=$("$program" "$case" bug 2>&1); then
        :
    elif printf '%s\n' "$said" | grep -Eq "$pattern"; then
        found=$((found + 1))
    else
        printf '%s, order %s: failed, but not with /%s/:\n%s\n' "$case" "$order" "$pattern" "$said"
        exit 1
    fi
    said=$("$program" "$case" fixed 2>&1)
    status=$?
    if [ $status -ne 0 ] || [ -n "$said" ]; then
        printf '%s, order %s: the corrected twin gave status %s:\n%s\n' "$case" "$order" "$status" "$said"
        exit 1
    fi
done
echo "$case: found in $found of $runs orders"
[ $found -gt 0 ]
