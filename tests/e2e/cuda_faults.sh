#!/bin/sh
# cuda_faults.sh - every allocation and every library call on the simulated GPU fails once (cuda_faults.c).
#
#   cuda_faults.sh FLRQ MAKE_MODEL CUDA_FAULTS [STEP]
flrq=$1 make_model=$2 cuda_faults=$3 step=${4:-1}
. e2e/lib.sh
"$make_model" random "$work/model" 32 64 1 64 || exit 1
mkdir "$work/runs"
expect "faults" "$cuda_faults" "$work/model" "$work/runs" "$step"
finish
