#!/usr/bin/env python3
"""Makes tests/data/unicode/hf.json: what the package `tokenizers` takes every code point for, measured from outside.

Its pattern engine and its normaliser carry Unicode tables of different ages, and neither has the age of the tables in PCRE2 or in
other C libraries, so equal ids need exactly these sets:

    "category"  [[first, last, "Lu"], ...]  general category as \\p{..} of its patterns sees it; what is in no range is Cn
    "space"     [[first, last], ...]        \\s of its patterns
    "class"     [[first, last, ccc], ...]   canonical combining class (0 left out) as its NFC sees it
    "compose"   [[first, second, composed], ...]  primary composites of its NFC, without Hangul syllables
    "decompose" [[code, [codes]], ...]      full canonical decompositions of its NFD, without Hangul syllables

Hangul syllables compose and decompose by arithmetic (U+AC00 + 588 l + 28 v + t). The script checks that NFC done with these
tables equals the package's on random strings of marks and letters.

    python tests/oracle/make_unicode.py [--out FILE]
"""
import argparse
import json
import os
import random
import sys
import unicodedata

try:
    import tokenizers
    from tokenizers import Regex, normalizers, pre_tokenizers
except ImportError as e:
    print(f"skipped: this needs tokenizers ({e})")
    sys.exit(77)

SURROGATES = range(0xD800, 0xE000)
ALL = [c for c in range(0x110000) if c not in SURROGATES]
HANGUL = range(0xAC00, 0xD7A4)
NFC, NFD = normalizers.NFC(), normalizers.NFD()


def members(pattern):
    """Code points that the pattern matches."""
    pre = pre_tokenizers.Split(Regex(pattern), "removed", invert=True)
    out = set()
    for k in range(0, len(ALL), 4096):
        for piece, _ in pre.pre_tokenize_str("".join(map(chr, ALL[k:k + 4096]))):
            out.update(map(ord, piece))
    return out


def ranges(pairs):
    """[(code, value)] sorted -> [[first, last, value]]"""
    out = []
    for c, v in pairs:
        if out and out[-1][1] == c - 1 and out[-1][2] == v:
            out[-1][1] = c
        else:
            out.append([c, c, v])
    return out


def categories():
    found = {}
    for name in "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf Co".split():
        for c in members(r"\p{%s}" % name):
            assert c not in found, hex(c)
            found[c] = name
    return found


def combining():
    """Canonical combining classes: where NFD sorts a code point among probes of known class (a class never changes)."""
    def moves(a, b):
        return NFD.normalize_str(a + b) == b + a

    probes = {}
    for c in ALL:
        v = unicodedata.combining(chr(c))
        if v and NFD.normalize_str(chr(c)) == chr(c) and (moves(chr(c), "\u0334") or moves("\u0345", chr(c)) or v in (1, 240)):
            probes.setdefault(v, chr(c))
    values = sorted(probes)
    low, high = probes[values[0]], probes[values[-1]]
    out = {}
    for c in ALL:
        ch = chr(c)
        if c in HANGUL or NFD.normalize_str(ch) != ch:       # decomposes: the parts count
            continue
        # A starter stays put on either side of a mark of the largest class and a mark of the smallest.
        if not moves(high, ch) and not moves(ch, low) and c not in map(ord, probes.values()):
            continue
        same = [v for v in values if probes[v] == ch or not moves(probes[v], ch) and not moves(ch, probes[v])]
        if len(same) != 1:
            raise SystemExit(f"U+{c:04X}: its class lies between those of the probes: {same}")
        out[c] = same[0]
    return out


def decompositions():
    full = {}
    for c in ALL:
        d = NFD.normalize_str(chr(c))
        if c not in HANGUL and d != chr(c):
            full[c] = [ord(x) for x in d]
    pairs = []
    for c, d in full.items():
        if len(d) > 1 and NFC.normalize_str("".join(map(chr, d))) == chr(c):
            first = NFC.normalize_str("".join(map(chr, d[:-1])))
            if len(first) == 1:
                pairs.append([ord(first), d[-1], c])
            else:
                raise SystemExit(f"U+{c:04X} is not made from a pair")
    return full, sorted(pairs)


def nfc(text, ccc, full, pairs):
    """Normalisation by the tables alone."""
    compose = {(a, b): c for a, b, c in pairs}
    codes = []
    for ch in text:
        c = ord(ch)
        if c in HANGUL:
            s = c - 0xAC00
            codes += [0x1100 + s // 588, 0x1161 + s % 588 // 28] + ([0x11A7 + s % 28] if s % 28 else [])
        else:
            codes += full.get(c, [c])
    k = 0
    while k < len(codes):                                    # stable sort of each run of marks
        e = k
        while e < len(codes) and ccc.get(codes[e], 0):
            e += 1
        codes[k:e] = sorted(codes[k:e], key=lambda c: ccc[c])
        k = max(e, k + 1)
    out, starter, last = [], -1, 0
    for c in codes:
        cc = ccc.get(c, 0)
        if starter >= 0 and (last < cc or last == 0 and starter == len(out) - 1):
            a = out[starter]
            made = compose.get((a, c))
            if made is None and 0x1100 <= a < 0x1113 and 0x1161 <= c < 0x1176:
                made = 0xAC00 + ((a - 0x1100) * 21 + c - 0x1161) * 28
            if made is None and a in HANGUL and (a - 0xAC00) % 28 == 0 and 0x11A8 <= c < 0x11C3:
                made = a + c - 0x11A7
            if made is not None:
                out[starter] = made
                continue
        if cc == 0:
            starter, last = len(out), 0
        else:
            last = cc
        out.append(c)
    return "".join(map(chr, out))


def check(ccc, full, pairs):
    rng = random.Random(1)
    marks, made = sorted(ccc), sorted(full)
    letters = [a for a, _, _ in pairs] + [b for _, b, _ in pairs]
    for k in range(200000):
        s = "".join(chr(rng.choice(rng.choice((marks, marks, made, letters, range(0x1100, 0x1200), HANGUL, range(0x20, 0x250)))))
                    for _ in range(rng.randint(1, 9)))
        if nfc(s, ccc, full, pairs) != NFC.normalize_str(s):
            raise SystemExit(f"tables disagree with the package on {ascii(s)}: {ascii(nfc(s, ccc, full, pairs))} {ascii(NFC.normalize_str(s))}")


def main():
    ap = argparse.ArgumentParser(description="measure the Unicode tables of the tokenizers package")
    ap.add_argument("--out", default=os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "unicode", "hf.json"))
    a = ap.parse_args()
    cat = categories()
    space = members(r"\s")
    ccc = combining()
    full, pairs = decompositions()
    check(ccc, full, pairs)
    tables = {
        "category": ranges(sorted(cat.items())),
        "space": [r[:2] for r in ranges((c, 0) for c in sorted(space))],
        "class": ranges(sorted(ccc.items())),
        "compose": pairs,
        "decompose": [[c, d] for c, d in sorted(full.items())],
    }
    os.makedirs(os.path.dirname(a.out), exist_ok=True)
    with open(a.out, "w") as f:
        f.write("{\n")
        f.write(f'"made_with": "tokenizers {tokenizers.__version__}",\n')
        f.write(",\n".join(f'"{k}": ' + json.dumps(v, separators=(",", ":")) for k, v in tables.items()))
        f.write("\n}\n")
    print(f"tokenizers {tokenizers.__version__}:", ", ".join(f"{k} {len(v)}" for k, v in tables.items()), f"; {os.path.getsize(a.out) / 1000:.0f} kB")


if __name__ == "__main__":
    main()
