#!/bin/sh
# ablation_table.sh CSV... - the tables of the README from bench_ablation's output: one row a variant, one column group a bit width.
# Files with perplexities make a model table, the others a layer table.
awk -F, '
    $1 == "bits" { next }
    {
        key = $1 SUBSEP $2
        if (!(key in seen)) { seen[key] = 1; if (!($2 in order)) { order[$2] = ++count; name[count] = $2 } bits[$1] = 1 }
        total[key] = $3; error[key] = $5; ppl[key] = $6; score[key] = $7
        if ($6 != "") model = 1
    }
    END {
        head = "| choice |"; rule = "|---|"
        for (b = 4; b >= 2; b--) if (b in bits) {
            head = head (model ? " bits/weight | ppl | error |" : " bits/weight | error | score |")
            rule = rule "---|---|---|"
        }
        print head; print rule
        for (i = 1; i <= count; i++) {
            line = "| " name[i] " |"
            for (b = 4; b >= 2; b--) if (b in bits) {
                k = b SUBSEP name[i]
                if (!(k in seen)) line = line " | | |"
                else if (model) line = line sprintf(" %.3f | %.3f | %.4f |", total[k], ppl[k], error[k])
                else line = line sprintf(" %.3f | %.4f | %.3f |", total[k], error[k], score[k])
            }
            print line
        }
    }' "$@"
