#!/usr/bin/env python3
"""Makes tests/data/tokenizers: small tokenizers of every kind that flrq reads, and the ids the reference programs give.

Each folder holds the tokenizer's files and cases.json, a list of {"text", "ids", "ids_special"}: the ids without and with
the special tokens of the post-processor (add_special_tokens False and True). The reference is the Python package
`tokenizers` for tokenizer.json, `sentencepiece` for a lone tokenizer.model (bos in front for ids_special, as LlamaTokenizer
does), and transformers' GPT2Tokenizer for vocab.json + merges.txt.

    gpt2            byte-level BPE, GPT-2's built-in pattern, merges written as "a b" strings
    llama3          byte-level BPE, Split(regex) + ByteLevel, ignore_merges, TemplateProcessing inside a Sequence
    qwen2           NFC, Split(regex, single digits) + ByteLevel, added tokens that are not special, no bos
    llama2          BPE over characters with byte fallback, Prepend + Replace as normalizer; the same vocabulary as
                    tokenizer.model beside it
    llama2_old      the same with added tokens that are matched in the normalised text ("normalized": true)
    llama2_new      the same vocabulary, Metaspace pre-tokenizer (prepend_scheme first, split false), no normalizer
    llama2_regex    the same vocabulary; the normalizer strips and squeezes spaces with regular expressions
    spm_bpe         tokenizer.model alone: BPE with byte fallback, identity normalisation
    spm_unigram     tokenizer.model alone: unigram, normalisation rules, user-defined symbols, no byte fallback
    opt             vocab.json + merges.txt, bos </s>
    added_flags     byte-level BPE with add_prefix_space, and added tokens with lstrip, rstrip, single_word, one a prefix of another

Training text: the King James text of tests/data/tinylm (public domain) and the lines in this file.

    python tests/oracle/make_tokens.py [--text FILE] [--out DIR] [--cases-only]

--cases-only keeps the tokenizers in place and writes cases.json again.
"""
import argparse
import io
import json
import os
import random
import sys
import tempfile

try:
    import sentencepiece as spm
    import tokenizers
    import transformers
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
except ImportError as e:
    print(f"skipped: this needs tokenizers, sentencepiece and transformers ({e})")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
                r"|\s+(?!\S)|\s+")
QWEN2_SPLIT = LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

# So that some merges lie inside and across multi-byte characters, numbers and white space.
MORE_TEXT = """
\u00c5ngstr\u00f6m, caf\u00e9, na\u00efve, fa\u00e7ade, \u00fcber, Stra\u00dfe, \u0153uvre, pi\u00f1ata, smørrebrød, Łódź.
cafe\u0301 nai\u0308ve \u0061\u0323\u0307 re\u0301sume\u0301
\u041c\u0438\u0440 \u0432\u0430\u043c, \u0438 \u043c\u0438\u0440 \u0434\u043e\u043c\u0443 \u0442\u0432\u043e\u0435\u043c\u0443.
\u0395\u1f30\u03c1\u03ae\u03bd\u03b7 \u1f51\u03bc\u1fd6\u03bd.
\u05d1\u05e8\u05d0\u05e9\u05d9\u05ea \u05d1\u05e8\u05d0 \u05d0\u05dc\u05d4\u05d9\u05dd
\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645
\u8d77\u521d\u795e\u521b\u9020\u5929\u5730\u3002\u5730\u662f\u7a7a\u865a\u6df7\u6c8c\u3002
\u306f\u3058\u3081\u306b\u795e\u306f\u5929\u3068\u5730\u3068\u3092\u5275\u9020\u3055\u308c\u305f\u3002
\ud0dc\ucd08\uc5d0 \ud558\ub098\ub2d8\uc774 \ucc9c\uc9c0\ub97c \ucc3d\uc870\ud558\uc2dc\ub2c8\ub77c
\u0928\u092e\u0938\u094d\u0924\u0947
\U0001f600\U0001f600 \U0001f44d\U0001f3fd \U0001f468\u200d\U0001f469\u200d\U0001f467
int main(void)\n{\n    for (int i = 0; i < 1024; i++)\n        x[i] += 0.5;\n    return 0;\n}
\tif (a == b)\n\t\treturn;\n\n\n\t}
1 12 123 1234 2024 1999 3.14159 1,000,000 100 200 300 007
""" * 6


def hostile():
    """Texts on which readers disagree. Everything outside ASCII is written as an escape."""
    out = [
        "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n\n", "\t", "\t\t", "\r", "\r\n", "\r\n\r\n", " \n", "\n ", " \n ", "\x00",
        "a", "A", "1", ".", "'", "\"", "\\", "/", "<", "{", "\x7f", "\x1b[0m",
        "In the beginning God created the heaven and the earth.",
        "And God said, Let there be light: and there was light.\nAnd God saw the light, that it was good.\n",
        " leading space", "trailing space ", "  two  spaces  inside  ", "    four\n        eight\n\ttab\n", "a\tb\t\tc",
        "line one\r\nline two\r\n\r\nline four\r", "end with newline\n", "x \n y\n \nz  \n\n  w", "!\n!\r\n! \n",
        "I'm he'll DON'T YOU'RE we've WE'VE it'S 's 'S 't '' ''' 'sss o'clock rock'n'roll 'D 'LL 'lL 'rE",
        "don\u2019t \u2018quoted\u2019 it\u02bcs '\u017f '\u017fs I'\u212a",                      # long s folds to s, the Kelvin sign to k
        "1234567890123456789012345678901234567890 1 12 123 1234 12345", "3.14159e-10 0x1F 1,000,000.00 50% $5 #1 1st",
        "\u0661\u0662\u0663\u0664 \u0967\u0968\u0969 \uff11\uff12\uff13\uff14 \u00bd\u00b2\u00b3\u216b \u2460\u2461 \U0001d7d8\U0001d7d9\U0001d7da",
        "caf\u00e9 cafe\u0301 CAFE\u0301 \u00c5 A\u030a \u212b \u2126 \u212a",
        "a\u0323\u0307 a\u0307\u0323 \u1e01\u0323 q\u0307\u0323 q\u0323\u0307",                 # reordering of marks
        "\u1e9b\u0323 \u0344 \u0958 \u09dc \u2adc \ufb1d \ufb2c \u0f73 \u0f81",                   # excluded from composition
        "\uf900\uf901 \ufa0e \U0002f800 \U0001d15e \U0001d1bb",                                # singletons, musical symbols
        "\u1100\u1161\u11a8 \u1112\u1161\u11ab\u1100\u1173\u11af \uac00\u11a8 \uac01\u11a8 \u1100\u1161\u1161 \ud7a3",
        "\ud55c\uad6d\uc5b4 \u3131\u3161 \uffa1\uffc2",
        "\u0061" + "\u0301\u0316" * 20 + "b", "\u0301start", "\u0300\u0301\u0302", "e\u0301\u0301 e\u0327\u0301 \u0229\u0301",
        "\U00011131\U00011127 \U00011347\U0001133e \U000114b9\U000114ba \u1b05\u1b35 \u0dd9\u0dca \u09c7\u09be",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea \U0001f44d\U0001f3fd 1\ufe0f\u20e3",
        "\u05e9\u05b8\u05dc\u05d5\u05b9\u05dd \u200f\u0645\u0631\u062d\u0628\u0627\u200e \u202e reversed \u202c \ufdfa \ufefb",
        "\u4e2d\u6587\u6d4b\u8bd5\uff0c\u3002\u3000\u5168\u89d2\u3000\u7a7a\u683c \U00020000\U0002a6df \u3005\u3006\u303c",
        "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8 \u304b\u3099 \u30cf\u309a \uff76\uff9e", "\u0e01\u0e33 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \u0eb3",
        "\u0915\u094d\u0937\u093f \u0b95\u0bca \u0b95\u0bc6\u0bbe \u0d4a \u1025\u102e \u1fb7 \u0390 \u03b9\u0308\u0301",
        "\ud7ff\ue000 \ufffd\ufffe\uffff \U00010000\U0010ffff \ufdd0 \U000e0001\U000e007f",
        "\ufeffstarts with a byte order mark", "in\ufeffside", "a\u00a0b \u00a0 \u00a0\u00a0c", "a\u2028b\u2029c\u0085d\u000be\u000cf",
        "a\u180eb \u180e c", "a\u200bb\u200cc\u200dd\u2060e \u00adf", "a\u1680b\u2000c\u2009d\u202fe\u205ff\u3000g",
        "\u2003\u2003x \u3000 \u3000y\u00a0\n\u00a0z", "\x1c\x1d\x1e\x1f x\x1cy", "nul\x00inside \x00\x00 end\x00", "\x01\x02\x03 \x08\x0e",
        "\u2581", "a\u2581b", "\u2581\u2581x \u2581 y", " \u2581a", "\u0120a\u010a \u0100\u0143",             # the markers themselves
        " " * 7 + "x" + " " * 17 + "y" + " " * 3, "a" + " " * 100 + "b" + " " * 64, "\n" * 40 + "x" + "\n" * 3, " \n" * 20, "\t" * 33 + "x",
        "=" * 80, "-" * 17 + ">" + "." * 31, "a" * 70, "ha" * 40, "!?" * 20 + "\n",
        "x=1;y[2]+=f(z)->w; // comment\n#include <stdio.h>\nhttps://a.b/c?d=e&f=%20 user@host.org C:\\dir",
        "CamelCase snake_case SCREAMING_CASE kebab-case x1y2z3 4th v1.2.3-rc4", "_under_ __init__ ** *a* `b` ~c~ |d|",
        "\u01c5ungla \u02b0\u02b1 \u2071\u207f \u02c6\u02dc \u0378\u0379 \ue000\uf8ff \u00aa\u00ba \u2160\u2188",
        "\u1e9e \u0130\u0131 \ufb00\ufb01\ufb05\ufb06 '\ufb05 \u01f0 \u0149", "\u1c89 \u1c8a \ua7cb \U000105c0 \U00010d40 \U00010d4a \U00016d70 \U0001ccf0",
        "\U00031350 \U0002ebf0 \U0001e4d0 \U0001e4f0 \u0c5d \u08c8 \U00011f50 \U0001f6dc \U0001c400",     # recent Unicode versions
        "\u00bf\u00a1\u00ab\u00bb \u20ac\u00a3\u00a5 \u2211\u222b\u221e \u2190\u2192 \u2603\u2620 \u00a9\u00ae\u2122 \u00b0\u00b5\u00b6",
        "zebra Zebra zebras  zebra xylophone xylophones", "firmament", "Jehovahjireh Mahershalalhashbaz",
    ]
    # one character of every general category: alone, and between letters and digits
    samples = {"Lu": "\u0416", "Ll": "\u0436", "Lt": "\u01c8", "Lm": "\u02b7", "Lo": "\u5b57", "Mn": "\u0308", "Mc": "\u0903",
               "Me": "\u20dd", "Nd": "\u0669", "Nl": "\u2167", "No": "\u00be", "Pc": "\u203f", "Pd": "\u2014", "Ps": "\u300c",
               "Pe": "\u300d", "Pi": "\u201c", "Pf": "\u201d", "Po": "\u00a7", "Sm": "\u00d7", "Sc": "\u20b9", "Sk": "\u00a8",
               "So": "\u2600", "Zs": "\u2007", "Zl": "\u2028", "Zp": "\u2029", "Cc": "\u0081", "Cf": "\u200d", "Co": "\ue123",
               "Cn": "\u0380"}
    for c in samples.values():
        out += [c, f"ab{c}cd {c}{c} 1{c}2 {c}\n{c}"]
    return out


def random_texts(seed, count):
    """Short strings of code points drawn from many blocks, without surrogates."""
    rng = random.Random(seed)
    ranges = [(0x20, 0x7e)] * 6 + [(0x00, 0x1f), (0x80, 0xff), (0x100, 0x24f), (0x250, 0x36f), (0x300, 0x345), (0x370, 0x5ff),
              (0x600, 0x9ff), (0xa00, 0x10ff), (0x1100, 0x11ff), (0x1e00, 0x1fff), (0x2000, 0x206f), (0x2070, 0x2bff),
              (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0xe000, 0xfaff), (0xfe00, 0xffff), (0x10000, 0x1ffff),
              (0x1f300, 0x1faff), (0x20000, 0x323af), (0xe0000, 0x10ffff)]
    spaces = [" ", "  ", "\n", "\r\n", "\t", "\u00a0", "\u3000", " \n"]
    out = []
    for _ in range(count):
        s = ""
        for _ in range(rng.randint(1, 40)):
            s += rng.choice(spaces) if rng.random() < 0.2 else chr(rng.randint(*rng.choice(ranges)))
        out.append(s)
    return out


def long_word():
    rng = random.Random(10000)
    return "".join(rng.choice("eeeattthoninrsldaubm") for _ in range(10000))


def around_specials(specials):
    out = []
    for s in specials:
        out += [s, f"a{s}b", f" {s} ", f"x {s} y", f"{s}{s}", s[:-1], s[1:], f"{s}\n{s}", f"<{s}>", f"{s[:-1]} {s[-1]}", s.upper()]
    out += ["".join(specials), " ".join(specials), f"In the beginning{specials[0]}God created {specials[-1]} the heaven"]
    return out


# ---- training -------------------------------------------------------------------------------------------------------

def added(ids, **flags):
    """Entries of "added_tokens": {content: id}; flags are the defaults changed."""
    base = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    return [dict(id=i, content=c, **{**base, **flags}) for c, i in ids.items()]


def train_bytes(text, size, normalizer, pre):
    """A byte-level BPE: its vocabulary {piece: id} and merges [(a, b)]."""
    tok = Tokenizer(models.BPE())
    if normalizer:
        tok.normalizer = normalizer
    tok.pre_tokenizer = pre
    tok.train_from_iterator(text.splitlines(keepends=True), trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False, min_frequency=2))
    m = json.loads(tok.to_str())["model"]
    return dict(m["vocab"]), [tuple(x) for x in m["merges"]]


def byte_level(**kw):
    return dict(type="ByteLevel", **{**dict(add_prefix_space=False, trim_offsets=True, use_regex=True), **kw})


def bpe_model(vocab, merges, strings=False, **kw):
    base = dict(type="BPE", dropout=None, unk_token=None, continuing_subword_prefix=None, end_of_word_suffix=None,
                fuse_unk=False, byte_fallback=False, ignore_merges=False)
    return dict({**base, **kw}, vocab=vocab, merges=[f"{a} {b}" if strings else [a, b] for a, b in merges])


def template(token, number):
    special, seq = dict(SpecialToken=dict(id=token, type_id=0)), dict(Sequence=dict(id="A", type_id=0))
    other = [dict(SpecialToken=dict(id=token, type_id=1)), dict(Sequence=dict(id="B", type_id=1))]
    return dict(type="TemplateProcessing", single=[special, seq], pair=[special, seq] + other,
                special_tokens={token: dict(id=token, ids=[number], tokens=[token])})


def write_json(path, obj, indent=None):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(obj, f, ensure_ascii=False, indent=indent)
        f.write("\n")


def save(out, name, tokenizer=None, config=None, files=()):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    for f in os.listdir(folder):
        os.remove(os.path.join(folder, f))
    if tokenizer:
        order = ("normalizer", "pre_tokenizer", "post_processor", "decoder", "model")
        full = dict(version="1.0", truncation=None, padding=None, added_tokens=tokenizer["added_tokens"],
                    **{k: tokenizer.get(k) for k in order})
        write_json(os.path.join(folder, "tokenizer.json"), full)
    if config:
        write_json(os.path.join(folder, "tokenizer_config.json"), config, 2)
    for f, data in files:
        with open(os.path.join(folder, f), "wb") as h:
            h.write(data)


def train_sentencepiece(text, rules=None, **kw):
    """The .model of sentencepiece; rules are normalisations {from: to} (the full NFKC table would take 240 kB)."""
    model = io.BytesIO()
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as t:
        os.chdir(t)                                          # the file stores the name of the rules as given
        try:
            if rules:
                kw["normalization_rule_tsv"] = "rules.tsv"
                with open("rules.tsv", "w") as f:
                    for a, b in rules.items():
                        f.write(" ".join(f"{ord(c):X}" for c in a) + "\t" + " ".join(f"{ord(c):X}" for c in b) + "\n")
            spm.SentencePieceTrainer.train(sentence_iterator=iter(text.split("\n")), model_writer=model, num_threads=1, minloglevel=2,
                                           max_sentence_length=100000, **kw)
        finally:
            os.chdir(here)
    return model.getvalue()


def merges_of(proto):
    """Pair merges that rebuild a sentencepiece BPE: every way to cut a piece in two pieces; better score first, then longer
    left part, then longer right part (the order in which published conversions list them)."""
    sp = spm.SentencePieceProcessor(model_proto=proto)
    vocab = {sp.id_to_piece(i): i for i in range(sp.get_piece_size())}
    pairs = []
    for piece, i in vocab.items():
        if sp.is_byte(i) or sp.is_control(i) or sp.is_unknown(i):
            continue
        here = [(piece[:k], piece[k:]) for k in range(1, len(piece)) if piece[:k] in vocab and piece[k:] in vocab]
        here.sort(key=lambda p: (vocab[p[0]], vocab[p[1]]))
        pairs += [(sp.get_score(i), len(a), len(b), a, b) for a, b in here]
    pairs.sort(key=lambda p: p[:3], reverse=True)
    return vocab, [(a, b) for *_, a, b in pairs]


def train_all(text, out):
    kjv = text[:150000]
    paragraphs = kjv.replace(". ", ".\n") + "\n" + MORE_TEXT

    # gpt2: ids 0..n-1 pieces, then one special
    vocab, merges = train_bytes(paragraphs, 1000, None, pre_tokenizers.ByteLevel(add_prefix_space=False))
    vocab["<|endoftext|>"] = len(vocab)
    save(out, "gpt2", dict(added_tokens=added({"<|endoftext|>": len(vocab) - 1}), pre_tokenizer=byte_level(), decoder=byte_level(),
                           post_processor=byte_level(trim_offsets=False), model=bpe_model(vocab, merges, strings=True)),
         dict(add_prefix_space=False, bos_token="<|endoftext|>", eos_token="<|endoftext|>", unk_token="<|endoftext|>",
              model_max_length=1024, tokenizer_class="GPT2Tokenizer"))

    def split(pattern):
        return dict(type="Sequence", pretokenizers=[
            dict(type="Split", pattern=dict(Regex=pattern), behavior="Isolated", invert=False),
            byte_level(trim_offsets=pattern == LLAMA3_SPLIT, use_regex=False)])

    def split_object(pattern):
        return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"),
                                        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])

    # llama3: two pieces without merges, reached by ignore_merges only; specials after the pieces, not in model.vocab
    vocab, merges = train_bytes(paragraphs, 1100, None, split_object(LLAMA3_SPLIT))
    for piece in ("\u0120zebra", "xylophone"):
        vocab[piece] = len(vocab)
    n = len(vocab)
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|reserved_special_token_0|>"]
    ids = {c: n + i for i, c in enumerate(names)}
    save(out, "llama3", dict(added_tokens=added(ids), pre_tokenizer=split(LLAMA3_SPLIT),
                             post_processor=dict(type="Sequence", processors=[byte_level(add_prefix_space=True, trim_offsets=False),
                                                                              template("<|begin_of_text|>", n)]),
                             decoder=byte_level(add_prefix_space=True), model=bpe_model(vocab, merges, strings=True, ignore_merges=True)),
         dict(bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>", clean_up_tokenization_spaces=True, model_max_length=131072,
              tokenizer_class="PreTrainedTokenizerFast"))

    # qwen2: NFC; three specials and two added tokens that are not special
    vocab, merges = train_bytes(paragraphs, 1100, normalizers.NFC(), split_object(QWEN2_SPLIT))
    n = len(vocab)
    tokens = added({c: n + i for i, c in enumerate(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])})
    tokens += added({"<think>": n + 3, "</think>": n + 4}, special=False)
    save(out, "qwen2", dict(added_tokens=tokens, normalizer=dict(type="NFC"), pre_tokenizer=split(QWEN2_SPLIT),
                            post_processor=byte_level(trim_offsets=False, use_regex=False), decoder=byte_level(trim_offsets=False, use_regex=False),
                            model=bpe_model(vocab, merges, continuing_subword_prefix="", end_of_word_suffix="")),
         dict(add_prefix_space=False, bos_token=None, eos_token="<|im_end|>", pad_token="<|endoftext|>", unk_token=None, errors="replace",
              split_special_tokens=False, model_max_length=32768, tokenizer_class="Qwen2Tokenizer"))

    # the Llama 2 vocabulary, trained by sentencepiece as Llama's was
    proto = train_sentencepiece(paragraphs, vocab_size=1100, model_type="bpe", byte_fallback=True, split_digits=True,
                                normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
                                allow_whitespace_only_pieces=True, character_coverage=0.999, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    vocab, merges = merges_of(proto)
    config = dict(add_bos_token=True, add_eos_token=False, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token=None,
                  legacy=True, sp_model_kwargs={}, clean_up_tokenization_spaces=False, model_max_length=4096, tokenizer_class="LlamaTokenizer")
    three = {"<unk>": 0, "<s>": 1, "</s>": 2}
    model = bpe_model(vocab, merges, strings=True, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    marks = dict(type="Sequence", normalizers=[dict(type="Prepend", prepend="\u2581"),
                                               dict(type="Replace", pattern=dict(String=" "), content="\u2581")])
    back = dict(type="Sequence", decoders=[dict(type="Replace", pattern=dict(String="\u2581"), content=" "), dict(type="ByteFallback"),
                                           dict(type="Fuse"), dict(type="Strip", content=" ", start=1, stop=0)])
    bos = template("<s>", 1)
    save(out, "llama2", dict(added_tokens=added(three), normalizer=marks, post_processor=bos, decoder=back, model=model), config,
         [("tokenizer.model", proto)])
    save(out, "llama2_old", dict(added_tokens=added(three, normalized=True), normalizer=marks, post_processor=bos, decoder=back, model=model),
         config)
    meta = dict(type="Metaspace", replacement="\u2581", prepend_scheme="first", split=False)
    save(out, "llama2_new", dict(added_tokens=added(three), pre_tokenizer=meta, post_processor=bos, decoder=back,
                                 model=bpe_model(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)),
         dict(config, legacy=False))
    squeeze = dict(type="Sequence", normalizers=[
        dict(type="Replace", pattern=dict(Regex=r"(?<![\s\S]) +| +(?![\s\S])"), content=""),
        dict(type="Replace", pattern=dict(Regex=" {2,}"), content=" ")] + marks["normalizers"])
    save(out, "llama2_regex", dict(added_tokens=added(three), normalizer=squeeze, post_processor=bos, decoder=back, model=model), config)
    save(out, "spm_bpe", None, config, [("tokenizer.model", proto)])

    rules = {"e\u0301": "\u00e9", "a\u030a": "\u00e5", "\ufb01": "fi", "\u00bd": "1/2", "\u3000": " ", "\u00a0": " ", "\t": " ", "\n": " ",
             "\u200b": " ", "\ufeff": "", "\u00ad": "", "\u1100\u1161": "\uac00", "\uff11": "1", "\u212b": "\u00e5", "\ufdfa": "\u0635\u0644\u0649"}
    proto = train_sentencepiece(paragraphs, rules, vocab_size=900, model_type="unigram",
                                user_defined_symbols=["<sep>", "<|user|>"], character_coverage=0.999, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    save(out, "spm_unigram", None, config, [("tokenizer.model", proto)])

    # opt: four specials first in vocab.json, then the pieces in training order
    vocab, merges = train_bytes(paragraphs, 800, None, pre_tokenizers.ByteLevel(add_prefix_space=False))
    table = {c: i for i, c in enumerate(["<s>", "<pad>", "</s>", "<unk>"])}
    for piece in vocab:
        table[piece] = len(table)
    token = dict(__type="AddedToken", lstrip=False, normalized=True, rstrip=False, single_word=False)
    save(out, "opt", None, dict(errors="replace", add_prefix_space=False, add_bos_token=True, special_tokens_map_file=None, tokenizer_class="GPT2Tokenizer",
                                **{k: dict(token, content=c) for k, c in (("unk_token", "</s>"), ("bos_token", "</s>"), ("eos_token", "</s>"),
                                                                          ("pad_token", "<pad>"))}),
         [("vocab.json", json.dumps(table, ensure_ascii=False).encode()),
          ("merges.txt", ("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in merges)).encode()),
          ("special_tokens_map.json", json.dumps(dict(
              bos_token=dict(content="</s>", lstrip=False, normalized=True, rstrip=False, single_word=False),
              eos_token=dict(content="</s>", lstrip=False, normalized=True, rstrip=False, single_word=False),
              unk_token=dict(content="</s>", lstrip=False, normalized=True, rstrip=False, single_word=False), pad_token="<pad>")).encode())])

    # added_flags
    vocab, merges = train_bytes(paragraphs, 700, None, pre_tokenizers.ByteLevel(add_prefix_space=True))
    n = len(vocab)
    tokens = added({"<mask>": n}, lstrip=True) + added({"<cut>": n + 1}, rstrip=True) + added({"word": n + 2}, single_word=True, special=False)
    tokens += added({"<|a|>": n + 3, "<|a|>b": n + 4, "<|a|>bcd": n + 5}) + added({"   ": n + 6}, normalized=True, special=False)
    tokens += added({"<both>": n + 7}, lstrip=True, rstrip=True) + added({"\u00e9\U0001f600": n + 8}, special=False)
    save(out, "added_flags", dict(added_tokens=tokens, pre_tokenizer=byte_level(add_prefix_space=True), decoder=byte_level(),
                                  model=bpe_model(vocab, merges)),
         dict(tokenizer_class="PreTrainedTokenizerFast"))


# ---- cases ----------------------------------------------------------------------------------------------------------

SPECIALS = {
    "gpt2": ["<|endoftext|>"], "llama3": ["<|begin_of_text|>", "<|eot_id|>"], "qwen2": ["<|im_start|>", "<|im_end|>", "<think>"],
    "llama2": ["<s>", "</s>", "<unk>", "<0x41>"], "llama2_old": ["<s>", "</s>"], "llama2_new": ["<s>", "</s>", "<0x41>"], "llama2_regex": ["<s>"],
    "spm_bpe": ["<s>", "</s>", "<unk>", "<0x41>"], "spm_unigram": ["<s>", "<sep>", "<|user|>"], "opt": ["</s>", "<pad>", "<s>"],
    "added_flags": ["<mask>", "<cut>", "word", "<|a|>", "<|a|>b", "<|a|>bcd", "   ", "<both>", "\u00e9\U0001f600"],
}
EXTRA = {
    "added_flags": ["words word sword word's word. (word) _word word1 \u00e9word word\u0301", "a  \n<mask> b <mask>\t<cut> \n c", "x   y    z      w",
                    " <both>  <both> ", "<|a|>bc<|a|>bcd<|a|>b<|a|>", "<mask><cut><mask> <cut>", "\u00e9\u00e9\U0001f600 e\u0301\U0001f600"],
    "llama2_regex": ["   a   b   ", " <s>  x", "\n  a  \n"],
    "qwen2": ["<think>\nLet there be light.\n</think>\n\n", "<|im_start|>user\nHi<|im_end|>\n"],
    "llama3": ["<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"],
}

VARIANTS = ("llama2_old", "llama2_regex")                    # differ from llama2 in spaces and specials only: fewer cases


def reference(folder):
    """(encode(text, special) -> ids, what gave them)"""
    have = set(os.listdir(folder))
    if "tokenizer.json" in have:
        tok = Tokenizer.from_file(os.path.join(folder, "tokenizer.json"))
        return lambda t, s: tok.encode(t, add_special_tokens=s).ids
    if "tokenizer.model" in have:
        sp = spm.SentencePieceProcessor(model_file=os.path.join(folder, "tokenizer.model"))
        return lambda t, s: ([sp.bos_id()] if s else []) + sp.encode(t)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    return lambda t, s: tok(t, add_special_tokens=s)["input_ids"]


def make_cases(out, name):
    folder = os.path.join(out, name)
    encode = reference(folder)
    texts = hostile() + around_specials(SPECIALS[name]) + EXTRA.get(name, []) + random_texts(name, 8)
    if name not in VARIANTS:
        texts += random_texts(20, 24) + [long_word()]
    lines = []
    for t in dict.fromkeys(texts):
        lines.append(json.dumps({"text": t, "ids": encode(t, False), "ids_special": encode(t, True)}, separators=(",", ":")))
    with open(os.path.join(folder, "cases.json"), "w") as f:
        f.write("[\n" + ",\n".join(lines) + "\n]\n")
    sizes = ", ".join(f"{f} {os.path.getsize(os.path.join(folder, f)) / 1000:.0f}" for f in sorted(os.listdir(folder)))
    print(f"{name:14s} {len(lines)} cases; kB: {sizes}")


def main():
    ap = argparse.ArgumentParser(description="make the tokenizers of tests/data/tokenizers and their cases")
    ap.add_argument("--text", default=os.path.join(HERE, "..", "data", "tinylm", "calib.txt"))
    ap.add_argument("--out", default=os.path.join(HERE, "..", "data", "tokenizers"))
    ap.add_argument("--cases-only", action="store_true")
    a = ap.parse_args()
    transformers.logging.set_verbosity_error()
    print(f"tokenizers {tokenizers.__version__}, sentencepiece {spm.__version__}, transformers {transformers.__version__}")
    if not a.cases_only:
        with open(a.text, encoding="utf-8") as f:
            train_all(f.read(), a.out)
    for name in SPECIALS:
        make_cases(a.out, name)


if __name__ == "__main__":
    main()
