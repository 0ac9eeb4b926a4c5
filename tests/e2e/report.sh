#!/bin/sh
# report.sh - flrq report: the page of a real run holds what its report.json says and nothing from elsewhere; what is
# refused leaves nothing behind. In a browser, where Chromium is installed: all sections are there, nothing is asked of
# the network, and something is drawn at the widths of a desk and of a phone.
#
#   report.sh FLRQ      runs in tests/
flrq=$1
. e2e/lib.sh
run=$work/run page=$work/run/report.html

flrq 0 quantize data/tinylm -o "$run" --bits 3 --calib data/tinylm/calib.txt --doc-sep '\n' --calib-samples 16 \
    --calib-len 256 --quiet
json 0 report "$run"
expect "result: page" test "$(value page)" = "$page"
expect "result: report" test "$(value report)" = "$run/report.json"
expect "result: bytes" test "$(value bytes)" -eq "$(wc -c <"$page")"
expect "result: matrices" test "$(value matrices)" -eq 28
expect "result: blocks" test "$(value blocks)" -eq 4

# ---- it stands alone --------------------------------------------------------------------------------------------------
sed 's|xmlns="http://www.w3.org/2000/svg"||g' "$page" >"$work/alone"
for part in http: https: src= 'url(' '<script' '<link' '<iframe' '<object' '@import' ' on[a-z]*="'; do
    expect "stands alone: $part" test "$(grep -c -i -e "$part" "$work/alone")" -eq 0
done
expect "links go into the page" test "$(grep -o 'href="[^"]*' "$work/alone" | grep -c -v 'href="#[a-z]*$')" -eq 0
for anchor in $(grep -o 'href="#[a-z]*' "$work/alone" | sed 's/.*#//'); do
    expect "anchor $anchor" test "$(grep -c "id=\"$anchor\"" "$page")" -eq 1
done

# ---- what it says -----------------------------------------------------------------------------------------------------
# Exact numbers of the headline, in the order of the page; they are the values that the JSON has, digit for digit but for
# how a double is printed.
header() { sed -n '/<header>/,/<\/header>/p' "$page"; }
header | grep -o '<data value="[^"]*">[^<]*' | sed 's/<data value="//; s/">/ /' >"$work/numbers"
tr ',{' '\n\n' <"$run/report.json" >"$work/tidy"
reported() { sed -n "s/^ *\"$1\": \([-0-9.e+]*\).*/\1/p" "$work/tidy" | sed -n "${2:-1}p"; }
line=0
for key in bits_per_weight codes scales lowrank error error_nearest average_rank max_rank weights seconds; do
    line=$((line + 1))
    shown=$(sed -n "${line}p" "$work/numbers" | cut -d ' ' -f 1) real=$(reported $key)
    # "seconds" and "error" stand in the list of blocks too, before or after the total's own.
    [ $key = seconds ] && real=$(sed -n 's/^ "seconds": \([-0-9.e+]*\).*/\1/p' "$run/report.json")
    expect "headline $key: $shown, report $real" number "\"$shown\" != \"\" && $shown == $real"
done
expect "headline: no other number" test "$(wc -l <"$work/numbers")" -eq "$line"
# What is read is the exact number, rounded: to half a unit of its last digit.
while read -r exact shown unit; do
    case $unit in million) scale=1e6 ;; billion) scale=1e9 ;; ms) scale=1e-3 ;; *) scale=1 ;; esac
    shown=$(echo "$shown" | tr -d ,)
    decimals=$(echo "$shown" | sed -n 's/^[0-9]*\.//p' | wc -m)
    expect "shown $shown $unit of $exact" number "($exact - $shown * $scale) ^ 2 <= (0.5001 * $scale * 10 ^ -($decimals > 1 ? $decimals - 1 : 0)) ^ 2"
done <"$work/numbers"

sed -n '/<h2 id="matrices">/,$p' "$page" >"$work/matrices"
names=$(sed -n 's/^   "name": "\(model\.[^"]*\)",$/\1/p' "$run/report.json" | sort -u)
expect "28 names" test "$(echo "$names" | wc -l)" -eq 28
for name in $names; do
    expect "$name in the table" test "$(grep -c -F "<td class=\"t\">$name</td>" "$work/matrices")" -eq 1
done
expect "a row for each matrix" test "$(grep -c '^<tr><td' "$work/matrices")" -eq 28
for section in facts ranks errors bits time worst matrices; do
    expect "section $section" test "$(grep -c "<h2 id=\"$section\">" "$page")" -eq 1
done
# one mean, one for each of 7 kinds, ranks, bits, phases, layers, and the curves of the worst
expect "figures" test "$(grep -c '<svg ' "$page")" -eq 13

# The command is one that repeats the run: a page of the repetition differs in folders and times alone.
header | sed -n 's/.*<code>\(.*\)<\/code>.*/\1/p' | sed 's/<[^>]*>//g; s/&#39;/'\''/g; s/&quot;/"/g; s/&lt;/</g; s/&gt;/>/g; s/&amp;/\&/g' >"$work/command"
expect "command" grep -q "^flrq quantize data/tinylm -o $run --bits 3 --calib data/tinylm/calib.txt " "$work/command"
sed "s|^flrq |'$flrq' |; s| -o $run | -o $work/again |" "$work/command" >"$work/again.sh"
sh "$work/again.sh" >"$work/out" 2>"$work/err"
for file in "$run"/*.safetensors; do
    expect "the command repeats ${file##*/}" cmp "$file" "$work/again/${file##*/}"
done

# ---- the same report, the same bytes ------------------------------------------------------------------------------------
flrq 0 report "$run/report.json" -o "$work/other.html" --quiet
expect "summary" test "$(cat "$work/out")" = "$work/other.html"
expect "same bytes" cmp "$page" "$work/other.html"
flrq 0 report "$run"
expect "facts" grep -q "28 in 4 blocks" "$work/out"
# A finished folder stays one with the page in it.
flrq 0 quantize data/tinylm -o "$run" --bits 3 --calib data/tinylm/calib.txt --doc-sep '\n' --calib-samples 16 \
    --calib-len 256 --quiet

# ---- older reports, hostile ones ----------------------------------------------------------------------------------------
reported_as() { # reported_as TEXT: the text is a report; its page is $work/odd.html
    printf '%s' "$1" >"$work/odd.json"
    flrq 0 report "$work/odd.json" -o "$work/odd.html" --quiet
}
reported_as '{"flrq": "0.0.1", "bits_per_weight": 4, "matrices": []}'
expect "older: a page" grep -q '<data value="4">4.0000</data>' "$work/odd.html"
expect "older: no empty sections" test "$(grep -c '<h2 id=' "$work/odd.html")" -eq 1
reported_as '{"flrq": "0", "bits_per_weight": 4, "matrices": [{}, 3, {"name": "a.0.b"}, {"name": "a.99999999999999999999.b", "rank": 1},
    {"name": 7}], "blocks": [{}, 1], "phases": {"x": "y"}, "worst": 3, "arguments": {"later": 1}, "notices": ["n"]}'
reported_as '{"flrq": "0", "bits_per_weight": 1e308, "weights": -1e308, "seconds": 1e300, "error": 1e-320, "error_nearest": 0,
    "matrices": [{"name": "m.0.k", "rows": 1e300, "cols": 1e300, "group": 0, "bits": -1, "rank": 1e99, "error": 1e300, "amax": [0, "x"]},
    {"name": "m.1.k", "error": -5, "error_nearest": 0}], "bits_breakdown": {"codes": "x"}, "phases": {"p": 0}}'
expect "absurd numbers: none is shown as nan or inf" test "$(grep -c -w -i -e nan -e inf "$work/odd.html")" -eq 0
evil='</title><script>alert(1)</script><img src=x onerror=\"y\">\u202e&amp;'
reported_as "{\"flrq\": \"$evil\", \"model\": \"$evil\", \"out\": \"$evil\", \"method\": \"$evil\", \"bits_per_weight\": 4, \"blocks\": [{\"worst\": \"$evil\"}],
    \"device\": {\"name\": \"$evil\"}, \"notices\": [\"$evil\"], \"phases\": {\"$evil\": 1}, \"arguments\": {\"model\": \"$evil\", \"out\": \"$evil\"},
    \"matrices\": [{\"name\": \"m.0.$evil\", \"error\": 1, \"rank\": 1, \"amax\": [1, 2]}], \"dropped\": [{\"name\": \"$evil\", \"reason\": \"$evil\"}]}"
expect "hostile names: no script" test "$(grep -c -i -e '<script' -e '<img' "$work/odd.html")" -eq 0
expect "hostile names: shown" grep -q -F '&lt;script&gt;alert(1)&lt;/script&gt;&lt;img src=x onerror=&quot;y&quot;&gt;?&amp;amp;' "$work/odd.html"
expect "hostile names: one title and one end" test "$(grep -c '</html>' "$work/odd.html")" -eq 1

# ---- what is refused ----------------------------------------------------------------------------------------------------
refused() { # refused WORDS ARGUMENT...: one line with these words, and no page
    words=$1
    shift
    code=0
    "$flrq" report "$@" >"$work/out" 2>"$work/err" </dev/null || code=$?
    expect "refused: $words ($code)" test "$code" -gt 0
    expect "refused: $words: one line" test "$(wc -l <"$work/err")" -eq 1
    expect "refused: $words: says so" grep -q -e "$words" "$work/err"
    expect "refused: $words: nothing on stdout" test ! -s "$work/out"
}
mkdir "$work/unfinished" "$work/empty"
cp "$run/journal.jsonl" "$work/unfinished"
refused "unfinished: the quantize run in it has not ended" "$work/unfinished"
refused "empty: no report.json in it" "$work/empty"
refused "nowhere: No such file" "$work/nowhere"
echo 'not JSON' >"$work/bad.json"
refused "bad.json" "$work/bad.json" -o "$work/bad.html"
head -c 2000 "$run/report.json" >"$work/short.json"
refused "short.json" "$work/short.json" -o "$work/bad.html"
echo '{"tensors": []}' >"$work/other.json"
refused "other.json: not a report of flrq quantize" "$work/other.json" -o "$work/bad.html"
echo '[1]' >"$work/list.json"
refused "list.json: not a report of flrq quantize" "$work/list.json" -o "$work/bad.html"
refused "nofolder/p.html" "$run" -o "$work/nofolder/p.html"
refused "empty" "$run" -o "$work/empty"
cp "$run/report.json" "$work/same.json"
refused "same.json: -o names the report itself" "$work/same.json" -o "$work/same.json"
expect "the report is as before" cmp "$run/report.json" "$work/same.json"
ln -s same.json "$work/link.json"
refused "link.json: -o names the report itself" "$work/same.json" -o "$work/link.json"
expect "no page of a refused report" test ! -e "$work/bad.html"
expect "nothing half-written" test -z "$(find "$work" -name '*.tmp')"

# ---- in a browser -------------------------------------------------------------------------------------------------------
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -z "$browser" ]; then
    echo "no Chromium here: the page was not opened in a browser"
    finish
fi
browse() { # browse ARGUMENT...: every name is one that does not resolve; what the page says goes to $work/err
    HOME=$work timeout 120 "$browser" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage --hide-scrollbars \
        --user-data-dir="$work/profile" --host-resolver-rules='MAP * ~NOTFOUND' --enable-logging=stderr "$@" \
        >"$work/out" 2>"$work/err" </dev/null
}
if ! browse --dump-dom about:blank; then
    echo "$browser does not start here: the page was not opened in a browser"
    finish
fi
expect "browser: opens" browse --log-net-log="$work/net" --dump-dom "file://$page"
for section in facts ranks errors bits time worst matrices; do
    expect "browser: section $section" test "$(grep -c "<h2 id=\"$section\">" "$work/out")" -eq 1
done
expect "browser: every matrix" test "$(sed -n '/<h2 id="matrices">/,$p' "$work/out" | grep -o '<td class="t">model' | wc -l)" -eq 28
expect "browser: no word on the console" test "$(grep -c -e CONSOLE "$work/err")" -eq 0
# The browser itself asks for updates and the like, as "not an origin"; requests of a page, files included, have one.
requests() { grep -o '"initiator":"[^"]*"' "$1" | grep -c -v '"not an origin"'; }
expect "browser: a log of the network" test -s "$work/net"
expect "browser: no request of the page" test "$(requests "$work/net")" -eq 0
# Both would be seen: a page that asks and speaks.
sed 's|<meta http-equiv[^>]*>|<script>console.log("planted")</script><img src="http://planted.invalid/x.png">|' "$page" >"$work/planted.html"
browse --log-net-log="$work/net" --dump-dom "file://$work/planted.html"
expect "browser: planted word is seen" test "$(grep -c -e CONSOLE "$work/err")" -eq 1
expect "browser: planted request is seen" test "$(requests "$work/net")" -gt 0
# A browser takes hostile names for text as well, wherever they stand.
browse --dump-dom "file://$work/odd.html"
expect "browser: hostile names are no elements" test "$(grep -c -i -e '<script' -e '<img' "$work/out")" -eq 0
expect "browser: hostile names do not end the page" grep -q '<h2 id="matrices">' "$work/out"
expect "browser: hostile names say nothing" test "$(grep -c -e CONSOLE "$work/err")" -eq 0

# An empty page is rows of one colour, which deflate takes down to a thousandth of their 3 bytes a pixel, and the marks of
# the page cannot be: five times the empty page is far below what they need (more than ten times).
echo '<!DOCTYPE html><title>empty</title>' >"$work/empty.html"
for width in 1280 420; do
    browse --window-size=$width,3000 --screenshot="$work/empty.png" "file://$work/empty.html"
    expect "browser: screenshot at $width" browse --window-size=$width,3000 --screenshot="$work/shot.png" "file://$page"
    expect "browser: PNG at $width" test "$(head -c 4 "$work/shot.png" | tail -c 3)" = PNG
    drawn=$(wc -c <"$work/shot.png") empty=$(wc -c <"$work/empty.png")
    expect "browser: drawn at $width: $drawn bytes, empty $empty" number "$empty > 0 && $drawn > 5 * $empty"
    rm -f "$work/shot.png" "$work/empty.png"
done
finish
