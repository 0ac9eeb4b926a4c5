#!/bin/sh
# worker.sh - one process of a group of workers: notes its process and its outputs by rank, and lets a test treat one
# rank differently from the others.
#
#   worker.sh FOLDER FLRQ ARGUMENT...
#
# FOLDER/pid.RANK, out.RANK and err.RANK are written. The rank E2E_RANK alone gets the variables of E2E_SET (NAME=VALUE
# ...), and E2E_OPTIONS after its arguments.
folder=$1
shift
rank=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-${SLURM_PROCID:-0}}}
if [ "$rank" = "${E2E_RANK:-none}" ]; then
    # shellcheck disable=SC2086,SC2163
    [ -z "${E2E_SET:-}" ] || export $E2E_SET
    # shellcheck disable=SC2086
    set -- "$@" ${E2E_OPTIONS:-}
fi
echo $$ >"$folder/pid.$rank.new" && mv "$folder/pid.$rank.new" "$folder/pid.$rank"
exec "$@" >"$folder/out.$rank" 2>"$folder/err.$rank" </dev/null
