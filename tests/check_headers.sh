#!/usr/bin/env bash
# check_headers.sh - each public header compiles alone and twice, as strict C99 and as C++11, without a warning.
#
# Usage: check_headers.sh [ROOT]    (CC and CXX choose the compilers)
set -euo pipefail
root=$(cd "${1:-$(dirname "$0")/..}" && pwd)
strict=(-Wall -Wextra -Wshadow -Wundef -pedantic -Werror -fsyntax-only -I"$root/include")
status=0
for header in "$root"/include/*.h; do
    name=$(basename "$header")
    for times in 1 2; do
        source=$(for ((i = 0; i < times; i++)); do printf '#include "%s"\n' "$name"; done; echo 'int flrq_check_headers;')
        "${CC:-cc}" -x c -std=c99 -Wstrict-prototypes "${strict[@]}" - <<<"$source" || { echo "$name, $times time(s): not clean C99" && status=1; }
        "${CXX:-c++}" -x c++ -std=c++11 "${strict[@]}" - <<<"$source" || { echo "$name, $times time(s): not clean C++11" && status=1; }
    done
done
exit $status
