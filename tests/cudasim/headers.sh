#!/bin/sh
# headers.sh CC NVIDIA_INCLUDE WORK_DIR - the simulator's C headers agree with NVIDIA's.
#
# Takes every function declaration and every enumerator out of the simulator's preprocessed headers and puts them behind
# NVIDIA's headers: a signature that differs is then a conflicting declaration, a value that differs a failed assertion.
# Also checks that both compile as C11 without warnings.
set -e
cc=$1 nvidia=$2 work=$3
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$work"
cd "$work"
cat > includes.h <<'END'
#include <cuda_runtime_api.h>
#include <cublas_v2.h>
#include <cusolverDn.h>
END
# NCCL comes apart from the toolkit and may be missing.
if echo '#include <nccl.h>' | "$cc" -std=c11 -isystem "$nvidia" -fsyntax-only -x c - 2> /dev/null; then
    echo '#include <nccl.h>' >> includes.h
else
    echo "no nccl.h: its part is not compared"
fi
"$cc" -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$here/include" -E -P includes.h > ours.txt

# One declaration per line; the simulator's own (cudasim_, CUDASIM_) are not NVIDIA's.
tr '\n' ' ' < ours.txt | sed 's/[;{}]/&\n/g' |
    sed -n -E 's/^ *((cudaError_t|cublasStatus_t|cusolverStatus_t|ncclResult_t|const char \*) *(cu|nccl)[A-Za-z0-9_]+\(.*\);)$/\1/p' |
    grep -v cudasim_ > functions.txt
tr ',{}' '\n' < ours.txt | sed -n -E 's/^ *((cuda|nccl)[A-Za-z0-9]+|CU[A-Z0-9_]+) = (-?[0-9]+) *$/_Static_assert(\1 == \3, "\1");/p' |
    grep -v CUDASIM_ > values.txt
[ "$(wc -l < functions.txt)" -ge 90 ] && [ "$(wc -l < values.txt)" -ge 90 ] || {
    echo "found only $(wc -l < functions.txt) functions and $(wc -l < values.txt) values: the extraction is broken"
    exit 1
}
cat includes.h functions.txt values.txt > check.c
"$cc" -std=c11 -Wall -Wextra -Werror -isystem "$nvidia" -fsyntax-only check.c
echo "$(wc -l < functions.txt) functions and $(wc -l < values.txt) values agree"
