#!/usr/bin/env bash
# down.sh DIR - stops the cluster that up.sh started in DIR, with the jobs on it. Only processes that it started.
set -u
dir=$(realpath "$1")
if [ -f "$dir/env" ]; then
    . "$dir/env"
    timeout 10 scancel --user="$(id -un)" 2>/dev/null
    for ((tries = 0; tries < 100; tries++)); do
        [ -z "$(timeout 10 squeue -h 2>/dev/null)" ] && break
        sleep 0.1
    done
fi
for file in "$dir"/slurmd.*.pid "$dir"/slurmctld.pid "$dir"/munged.pid; do
    [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null
done
exit 0
