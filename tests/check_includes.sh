#!/usr/bin/env bash
# check_includes.sh - the direction of dependencies between the layers of host/, held by grep.
#
#   core <- io, text, backend <- quant, model, cases <- pipeline <- cli     nothing points back
#
# Usage: check_includes.sh [ROOT]        checks the tree (default: the one this script lies in)
#        check_includes.sh --self-test   plants one violation of every kind in a copy and wants each reported
set -euo pipefail
export LC_ALL=C

# What files of a place may include: names of layers, of headers in include/, of one header of a layer, or "kernels".
# Kernels share those definitions that are written to compile on the device too (core/host_device.h).
allowed() {
    case $1 in
    include) echo "flrq.h flrq_backend.h flrq_format.h" ;;
    core) echo "$(allowed include) core" ;;
    io) echo "$(allowed core) io" ;;
    text) echo "$(allowed core) io text" ;;
    backend) echo "$(allowed core) backend kernels" ;;
    cases) echo "$(allowed core) backend cases" ;;
    quant) echo "$(allowed core) io text backend quant" ;;
    model) echo "$(allowed core) io text backend model" ;;
    pipeline) echo "$(allowed core) io text backend cases quant model pipeline" ;;
    cli) echo "flrq.h" ;;
    kernels) echo "$(allowed include) kernels backend/quant_search.h" ;;
    *) return 1 ;;
    esac
}

# One line for each include of $1 (a file of place $2) that is not allowed.
check_file() {
    local file=$1 place=$2 own permitted line number header first
    own=$(dirname "$file")
    permitted=" $(allowed "$place") "
    while IFS= read -r line; do
        number=${line%%:*}
        [[ $line =~ [\"\<]([^\"\>]*)[\"\>] ]] || { echo "$file:$number: include of a macro" && continue; }
        header=${BASH_REMATCH[1]}
        first=${header%%/*}
        case $header in
        *..*) echo "$file:$number: include of \"$header\": no relative paths" && continue ;;
        esac
        if [[ $header == */* ]]; then
            # A path into a layer; other paths (sys/stat.h) belong to the system.
            [[ -d $root/host/$first || $first == kernels || $first == host || $first == include ]] || continue
            [[ $permitted == *" $first "* || $permitted == *" $header "* ]] && continue
        else
            # A bare name: one of include/, a neighbour (cli and kernels only), or the system.
            if [[ -e $root/include/$header ]]; then
                [[ $permitted == *" $header "* ]] && continue
            elif [[ -e $own/$header ]]; then
                [[ $place == cli || $place == kernels ]] && continue
            elif [[ $line != *"\"$header\""* ]]; then
                continue
            fi
        fi
        echo "$file:$number: $place must not include \"$header\""
    done < <(grep -nE '^[[:space:]]*#[[:space:]]*include' "$file" || true)
}

check_tree() {
    local dir place file
    for dir in "$root"/include "$root"/kernels "$root"/host/*/; do
        [[ -d $dir ]] || continue
        place=$(basename "$dir")
        if ! allowed "$place" >/dev/null; then
            echo "$dir: a layer without a rule: add it to $(basename "$0")"
            continue
        fi
        while IFS= read -r -d '' file; do check_file "$file" "$place"; done \
            < <(find "$dir" -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 | sort -z)
    done
}

self_test() {
    local failures=0 planted file
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    mkdir -p "$scratch"/host/{core,io,text,backend,cases,quant,model,pipeline,cli} "$scratch"/{include,kernels}
    touch "$scratch"/include/{flrq,flrq_backend,flrq_format}.h "$scratch"/host/cli/cli.h "$scratch"/host/core/near.h
    root=$scratch
    expect() { # wanted(0: clean, 1: reported) file include
        printf '%s\n' "/* planted */" "$3" >"$scratch/$2"
        planted=$(check_tree)
        if [[ $1 == 1 && $planted != *"$2:2:"* ]] || [[ $1 == 0 && -n $planted ]]; then
            echo "self-test: $2 with $3: ${planted:-not reported}"
            failures=$((failures + 1))
        fi
        rm "$scratch/$2"
    }
    for file in core:io core:backend core:pipeline io:text io:backend io:quant text:backend text:model backend:io backend:quant backend:cases \
        cases:io cases:quant cases:pipeline quant:cases model:cases cli:cases quant:model quant:pipeline model:quant model:pipeline \
        pipeline:cli cli:core cli:pipeline kernels:core kernels:backend include:core; do
        local place=${file%%:*} target=${file##*:}
        local dir=host/$place
        [[ $place == kernels || $place == include ]] && dir=$place
        expect 1 "$dir/a.c" "#include \"$target/x.h\""
        expect 1 "$dir/a.h" "  #  include <$target/x.h>"
    done
    expect 1 host/cli/a.c '#include "flrq_backend.h"'
    expect 1 host/cli/a.c '#include "host/core/error.h"'
    expect 1 host/core/a.c '#include "../io/file.h"'
    expect 1 host/core/a.c '#include "near.h"'
    expect 1 host/core/a.c '#include "no_such_header.h"'
    expect 1 host/core/a.c '#include HEADER'
    expect 0 host/cli/a.c '#include "flrq.h"'
    expect 0 host/cli/a.c '#include "cli.h"'
    expect 0 host/cli/a.c '#include <sys/stat.h>'
    expect 0 host/core/a.c '#include "core/near.h"'
    expect 0 host/text/a.cpp '#include "io/file.h"'
    expect 0 host/pipeline/a.c '#include "model/x.h"'
    expect 0 host/cases/a.c '#include "backend/x.h"'
    expect 0 host/pipeline/a.c '#include "cases/opcase.h"'
    expect 0 host/backend/a.c '#include "kernels/flrq_kernels.h"'
    expect 0 kernels/a.cu '#include "flrq_format.h"'
    expect 0 kernels/a.cu '#include "backend/quant_search.h"'
    mkdir "$scratch/host/newlayer"
    planted=$(check_tree)
    [[ $planted == *newlayer*"without a rule"* ]] || { echo "self-test: a layer without a rule is not reported" && failures=$((failures + 1)); }
    return $((failures > 0))
}

if [[ ${1:-} == --self-test ]]; then
    self_test
    exit
fi
root=$(cd "${1:-$(dirname "$0")/..}" && pwd)
violations=$(check_tree)
[[ -z $violations ]] || { echo "$violations" && exit 1; }
