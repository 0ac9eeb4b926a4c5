#!/usr/bin/env bash
# run_mpi.sh - starts comm_mpi_suite under the launcher of an MPI and judges the outcome.
#
# Usage: run_mpi.sh PROGRAM MPI CHECK WORKERS     CHECK: suite, failure, missing, leaving, watch, late, refused
# Exit: 0 passed, 77 skipped (no such launcher), 1 failed. FLRQ_PLUGINS names the folder of the plugin.
set -eu
program=$1 mpi=$2 check=$3 workers=$4

[ -e "$FLRQ_PLUGINS/libflrq_$mpi.so" ] || { echo "skipped: no libflrq_$mpi.so was built"; exit 77; }
started_by=$mpi
if [ "$check" = refused ]; then # the launcher of the other MPI
    started_by=openmpi
    [ "$mpi" = mpich ] || started_by=mpich
fi
launcher=$(command -v "mpirun.$started_by" || true)
[ -n "$launcher" ] || { echo "skipped: no mpirun.$started_by"; exit 77; }
options=
[ "$started_by" = mpich ] || options="--oversubscribe --allow-run-as-root"

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
status=0
# shellcheck disable=SC2086
timeout 300 "$launcher" $options -n "$workers" "$program" "$mpi" "$check" "$folder" >"$folder/output" 2>&1 || status=$?
heard=$(find "$folder" -name 'rank-*' | wc -l)
case $check in
suite) [ "$status" -eq 0 ] && [ "$heard" -eq "$workers" ] && exit 0 ;;
refused) [ "$status" -eq 0 ] && exit 0 ;;
*) [ "$status" -ne 124 ] && [ "$heard" -eq "$workers" ] && exit 0 ;; # launchers do not like what follows a failure
esac
cat "$folder/output"
echo "failed: $mpi, $check: status $status, $heard of $workers workers passed"
exit 1
