/* tokenizer_json.c - reads a tokenizer.json of Hugging Face `tokenizers`.
 *
 * Every component is built as the reference builds it or refused by name. Three parts of the file do not touch the ids
 * of a corpus and are not read: `decoder`, `truncation` and `padding` (settings of single calls; texts here are encoded
 * whole). The file is hostile until proven otherwise: types, ids, nesting and numbers are all checked here.
 */
#include "text/tokenizer_impl.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "io/file.h"
#include "text/unicode.h"

enum { NESTING_MAX = 16, WHERE_BYTES = 1024 };

#define REMEDY "give token ids instead of text (--calib-tokens, --tokens)"

/* The tokenizer that is being built and the words for its place in the file. */
typedef struct reader {
    const char *path;
    flrq_tokenizer *tokenizer;
} reader;

/* ---- members of objects ----------------------------------------------------------------------------------------- */

static flrq_status bad_member(const reader *r, const char *part, const char *key, const char *wanted) {
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %s: \"%s\" is not %s", r->path, part, key, wanted);
}

static flrq_span string_span(const json_t *value) {
    return (flrq_span){json_string_value(value), json_string_length(value)};
}

/* A member that must be there. */
static flrq_status get_bool(const reader *r, const char *part, const json_t *object, const char *key, bool *out) {
    const json_t *value = json_object_get(object, key);
    if (!json_is_boolean(value)) return bad_member(r, part, key, "true or false");
    *out = json_is_true(value);
    return FLRQ_OK;
}

/* A member that may be missing: *out then keeps its value. */
static flrq_status get_bool_or(const reader *r, const char *part, const json_t *object, const char *key, bool *out) {
    return json_object_get(object, key) ? get_bool(r, part, object, key, out) : FLRQ_OK;
}

static flrq_status get_string(const reader *r, const char *part, const json_t *object, const char *key,
                              flrq_span *out) {
    const json_t *value = json_object_get(object, key);
    *out = (flrq_span){NULL, 0};
    if (!json_is_string(value)) return bad_member(r, part, key, "a string");
    *out = string_span(value);
    return FLRQ_OK;
}

/* A string member that may be missing or null: *out is then empty. */
static flrq_status get_string_or_null(const reader *r, const char *part, const json_t *object, const char *key,
                                      flrq_span *out) {
    const json_t *value = json_object_get(object, key);
    *out = (flrq_span){0};
    return !value || json_is_null(value) ? FLRQ_OK : get_string(r, part, object, key, out);
}

static flrq_status get_id(const reader *r, const char *part, const json_t *value, const char *key, int32_t *out) {
    json_int_t id = json_integer_value(value);
    *out = 0;
    if (!json_is_integer(value) || id < 0 || id > FLRQ_TOKEN_ID_MAX) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "a token id (0 to %d)", FLRQ_TOKEN_ID_MAX);
        return bad_member(r, part, key, wanted);
    }
    *out = (int32_t)id;
    return FLRQ_OK;
}

/* The "type" of a component; its name for messages is appended to `part` in where[WHERE_BYTES]. */
static flrq_status get_type(const reader *r, const char *part, const json_t *component, const char **type,
                            char *where) {
    char quoted[64];
    if (!json_is_object(component)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %s is not an object", r->path, part);
    *type = json_string_value(json_object_get(component, "type"));
    if (!*type) return bad_member(r, part, "type", "a string");
    snprintf(where, WHERE_BYTES, "%.900s %s", part, flrq_text_quote(quoted, *type));
    return FLRQ_OK;
}

static flrq_status not_supported(const reader *r, const char *where) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: %s is not supported; " REMEDY, r->path, where);
}

/* "file PATH: WHERE" for the functions that take one text. */
static const char *full_where(char out[WHERE_BYTES], const reader *r, const char *where) {
    snprintf(out, WHERE_BYTES, "file %.800s: %.200s", r->path, where);
    return out;
}

/* Calls `read` on every element of the array member `key` of a Sequence. */
typedef flrq_status (*component_fn)(const reader *r, const char *part, const json_t *component, int depth);

static flrq_status read_sequence(const reader *r, const char *part, const char *where, const json_t *sequence,
                                 const char *key, int depth, component_fn read) {
    const json_t *list = json_object_get(sequence, key);
    if (!json_is_array(list)) return bad_member(r, where, key, "an array");
    if (depth == NESTING_MAX)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: %s: nested more than %d levels", r->path, part, NESTING_MAX);
    for (size_t i = 0; i < json_array_size(list); i++) {
        char inner[WHERE_BYTES];
        snprintf(inner, sizeof inner, "%.900s[%zu]", part, i);
        FLRQ_TRY(read(r, inner, json_array_get(list, i), depth + 1));
    }
    return FLRQ_OK;
}

/* {"String": "..."} or {"Regex": "..."} as `pattern`. */
static flrq_status get_pattern(const reader *r, const char *where, const json_t *component, flrq_regex_syntax *syntax,
                               flrq_span *pattern) {
    const json_t *value = json_object_get(component, "pattern");
    const json_t *string = json_object_get(value, "String"), *regex = json_object_get(value, "Regex");
    if (json_object_size(value) != 1 || !json_is_string(string ? string : regex))
        return bad_member(r, where, "pattern", "{\"String\": ...} or {\"Regex\": ...}");
    *syntax = string ? FLRQ_REGEX_LITERAL : FLRQ_REGEX_RUBY;
    *pattern = string_span(string ? string : regex);
    return FLRQ_OK;
}

/* ---- normalizer ------------------------------------------------------------------------------------------------- */

static flrq_status read_normalizer(const reader *r, const char *part, const json_t *component, int depth) {
    static const struct {
        const char *type;
        flrq_normalizer normalizer;
    } simple[] = {
        {"NFC", {.kind = FLRQ_NORMALIZE_FORM, .compose = true}},
        {"NFD", {.kind = FLRQ_NORMALIZE_FORM}},
        {"NFKC", {.kind = FLRQ_NORMALIZE_FORM, .compose = true, .compatible = true}},
        {"NFKD", {.kind = FLRQ_NORMALIZE_FORM, .compatible = true}},
        {"Lowercase", {.kind = FLRQ_NORMALIZE_LOWERCASE}},
        {"StripAccents", {.kind = FLRQ_NORMALIZE_STRIP_ACCENTS}},
        {"ByteLevel", {.kind = FLRQ_NORMALIZE_BYTE_LEVEL}},
    };
    flrq_tokenizer *t = r->tokenizer;
    char where[WHERE_BYTES], message[WHERE_BYTES];
    const char *type;
    flrq_span text, pattern;
    flrq_regex_syntax syntax;
    FLRQ_TRY(get_type(r, part, component, &type, where));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, part, where, component, "normalizers", depth, read_normalizer);
    if (t->n_normalizers == FLRQ_NORMALIZERS_MAX)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: more than %d normalizers", r->path, FLRQ_NORMALIZERS_MAX);
    flrq_normalizer *n = &t->normalizers[t->n_normalizers++];
    for (size_t i = 0; i < sizeof simple / sizeof *simple; i++)
        if (strcmp(type, simple[i].type) == 0) {
            *n = simple[i].normalizer;
            return FLRQ_OK;
        }
    if (strcmp(type, "Strip") == 0) {
        n->kind = FLRQ_NORMALIZE_STRIP;
        FLRQ_TRY(get_bool(r, where, component, "strip_left", &n->left));
        return get_bool(r, where, component, "strip_right", &n->right);
    }
    if (strcmp(type, "Prepend") == 0) {
        n->kind = FLRQ_NORMALIZE_PREPEND;
        FLRQ_TRY(get_string(r, where, component, "prepend", &text));
        if (text.bytes == 0) return bad_member(r, where, "prepend", "a text: it is empty");
        return flrq_bytes_append(&n->text, text.data, text.bytes);
    }
    if (strcmp(type, "Replace") == 0) {
        n->kind = FLRQ_NORMALIZE_REPLACE;
        FLRQ_TRY(get_pattern(r, where, component, &syntax, &pattern));
        FLRQ_TRY(get_string(r, where, component, "content", &text));
        FLRQ_TRY(flrq_bytes_append(&n->text, text.data, text.bytes));
        return flrq_regex_compile(&n->regex, full_where(message, r, where), syntax, pattern.data, pattern.bytes);
    }
    return not_supported(r, where);
}

/* ---- pre_tokenizer ---------------------------------------------------------------------------------------------- */

static flrq_status get_behavior(const reader *r, const char *where, const json_t *component, flrq_split_behavior *out) {
    static const char *const names[] = {
        [FLRQ_SPLIT_REMOVED] = "Removed",
        [FLRQ_SPLIT_ISOLATED] = "Isolated",
        [FLRQ_SPLIT_MERGED_WITH_PREVIOUS] = "MergedWithPrevious",
        [FLRQ_SPLIT_MERGED_WITH_NEXT] = "MergedWithNext",
        [FLRQ_SPLIT_CONTIGUOUS] = "Contiguous",
    };
    flrq_span name;
    FLRQ_TRY(get_string(r, where, component, "behavior", &name));
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (strcmp(name.data, names[i]) == 0) {
            *out = (flrq_split_behavior)i;
            return FLRQ_OK;
        }
    return bad_member(r, where, "behavior", "one of Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous");
}

/* Metaspace says how it prefixes in prepend_scheme; before that existed, in add_prefix_space. */
static flrq_status get_scheme(const reader *r, const char *where, const json_t *component, flrq_prefix_scheme *out) {
    flrq_span name;
    bool add_prefix_space = true;
    FLRQ_TRY(get_bool_or(r, where, component, "add_prefix_space", &add_prefix_space));
    if (!json_object_get(component, "prepend_scheme")) {
        *out = add_prefix_space ? FLRQ_PREFIX_ALWAYS : FLRQ_PREFIX_NEVER;
        return FLRQ_OK;
    }
    FLRQ_TRY(get_string(r, where, component, "prepend_scheme", &name));
    if (strcmp(name.data, "always") == 0)
        *out = FLRQ_PREFIX_ALWAYS;
    else if (strcmp(name.data, "first") == 0)
        *out = FLRQ_PREFIX_FIRST;
    else if (strcmp(name.data, "never") == 0)
        *out = FLRQ_PREFIX_NEVER;
    else
        return bad_member(r, where, "prepend_scheme", "always, first or never");
    if (!add_prefix_space && *out != FLRQ_PREFIX_NEVER)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %s: add_prefix_space contradicts prepend_scheme", r->path, where);
    return FLRQ_OK;
}

static flrq_status read_metaspace(const reader *r, const char *where, const json_t *component) {
    char message[WHERE_BYTES];
    flrq_span mark;
    flrq_prefix_scheme scheme = FLRQ_PREFIX_NEVER;
    bool split = true;
    flrq_stage *stage = NULL;
    full_where(message, r, where);
    FLRQ_TRY(get_string(r, where, component, "replacement", &mark));
    if (mark.bytes == 0 || mark.bytes != flrq_utf8_length(*mark.data))
        return bad_member(r, where, "replacement", "one character");
    FLRQ_TRY(get_scheme(r, where, component, &scheme));
    if (!json_is_null(json_object_get(component, "split"))) FLRQ_TRY(get_bool_or(r, where, component, "split", &split));
    FLRQ_TRY(flrq_tokenizer_new_stage(r->tokenizer, message, &stage));
    *stage = (flrq_stage){.kind = FLRQ_STAGE_PREFIX, .mark_bytes = mark.bytes, .scheme = scheme};
    memcpy(stage->mark, mark.data, mark.bytes);
    if (!split) return FLRQ_OK;
    return flrq_tokenizer_add_split(r->tokenizer, message, FLRQ_REGEX_LITERAL, mark.data, mark.bytes,
                                    FLRQ_SPLIT_MERGED_WITH_NEXT, false);
}

/* A pre-tokenizer that is a fixed pattern. */
static flrq_status add_fixed(const reader *r, const char *where, const char *pattern, flrq_split_behavior behavior,
                             bool invert) {
    char message[WHERE_BYTES];
    return flrq_tokenizer_add_split(r->tokenizer, full_where(message, r, where), FLRQ_REGEX_RUBY, pattern,
                                    strlen(pattern), behavior, invert);
}

static flrq_status read_pre_tokenizer(const reader *r, const char *part, const json_t *component, int depth) {
    static const char words[] = "[\\w\\x{200c}\\x{200d}]+|[^\\w\\s\\x{200c}\\x{200d}]+"; /* joiners count as letters */
    /* ASCII punctuation and symbols, and punctuation as of Unicode 8: the reference's table ends there. */
    static const char punctuation[] =
        "(?!["
        "\\x{61d}\\x{9fd}\\x{a76}\\x{c77}\\x{c84}\\x{1b4e}-\\x{1b4f}\\x{1b7d}-\\x{1b7f}"
        "\\x{2e43}-\\x{2e4f}\\x{2e52}-\\x{2e5d}\\x{10d6e}\\x{10ead}\\x{10f55}-\\x{10f59}"
        "\\x{10f86}-\\x{10f89}\\x{113d4}-\\x{113d5}\\x{113d7}-\\x{113d8}\\x{1144b}-\\x{1144f}"
        "\\x{1145a}-\\x{1145b}\\x{1145d}\\x{11660}-\\x{1166c}\\x{116b9}\\x{1183b}\\x{11944}-\\x{11946}"
        "\\x{119e2}\\x{11a3f}-\\x{11a46}\\x{11a9a}-\\x{11a9c}\\x{11a9e}-\\x{11aa2}\\x{11b00}-\\x{11b09}"
        "\\x{11be1}\\x{11c41}-\\x{11c45}\\x{11c70}-\\x{11c71}\\x{11ef7}-\\x{11ef8}\\x{11f43}-\\x{11f4f}"
        "\\x{11fff}\\x{12ff1}-\\x{12ff2}\\x{16d6d}-\\x{16d6f}\\x{16e97}-\\x{16e9a}\\x{16fe2}\\x{1e5ff}"
        "\\x{1e95e}-\\x{1e95f}])"
        "[\\p{P}\\x{166d}\\x{111c9}$+<=>^`|~]";
    char where[WHERE_BYTES], message[WHERE_BYTES];
    const char *type;
    bool flag = false, use_regex = true;
    flrq_split_behavior behavior = FLRQ_SPLIT_ISOLATED;
    FLRQ_TRY(get_type(r, part, component, &type, where));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, part, where, component, "pretokenizers", depth, read_pre_tokenizer);
    if (strcmp(type, "ByteLevel") == 0) {
        FLRQ_TRY(get_bool(r, where, component, "add_prefix_space", &flag));
        FLRQ_TRY(get_bool_or(r, where, component, "use_regex", &use_regex));
        return flrq_tokenizer_add_byte_level(r->tokenizer, full_where(message, r, where), flag, use_regex);
    }
    if (strcmp(type, "Split") == 0) {
        flrq_regex_syntax syntax;
        flrq_span pattern;
        FLRQ_TRY(get_pattern(r, where, component, &syntax, &pattern));
        FLRQ_TRY(get_behavior(r, where, component, &behavior));
        FLRQ_TRY(get_bool_or(r, where, component, "invert", &flag));
        return flrq_tokenizer_add_split(r->tokenizer, full_where(message, r, where), syntax, pattern.data,
                                        pattern.bytes, behavior, flag);
    }
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(r, where, component);
    if (strcmp(type, "Digits") == 0) {
        FLRQ_TRY(get_bool(r, where, component, "individual_digits", &flag));
        /* The reference's numbers here are Rust's, which know Unicode 17. */
        return add_fixed(r, where, "[\\p{N}\\x{11de0}-\\x{11de9}\\x{16ff4}-\\x{16ff6}]",
                         flag ? FLRQ_SPLIT_ISOLATED : FLRQ_SPLIT_CONTIGUOUS, false);
    }
    if (strcmp(type, "Punctuation") == 0) {
        if (json_object_get(component, "behavior")) FLRQ_TRY(get_behavior(r, where, component, &behavior));
        return add_fixed(r, where, punctuation, behavior, false);
    }
    if (strcmp(type, "Whitespace") == 0) return add_fixed(r, where, words, FLRQ_SPLIT_REMOVED, true);
    if (strcmp(type, "WhitespaceSplit") == 0) return add_fixed(r, where, "\\s", FLRQ_SPLIT_REMOVED, false);
    return not_supported(r, where);
}

/* ---- post_processor --------------------------------------------------------------------------------------------- */

/* The reference runs a second processor over the parts of the first one's result, which nobody can want. */
static flrq_status new_template(const reader *r, flrq_ids **out) {
    if (r->tokenizer->has_template)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "file %s: more than one post-processor that adds tokens is not supported", r->path);
    r->tokenizer->has_template = true;
    *out = &r->tokenizer->template;
    return FLRQ_OK;
}

/* An id that a post-processor adds: it need not be in the vocabulary. */
static flrq_status get_special_id(const reader *r, const char *where, const json_t *value, const char *key,
                                  int32_t *id) {
    FLRQ_TRY(get_id(r, where, value, key, id));
    if (*id >= r->tokenizer->vocab) r->tokenizer->vocab = (int64_t)*id + 1;
    return FLRQ_OK;
}

/* {"SpecialToken": {"id": name}}: the ids that special_tokens gives for the name. */
static flrq_status read_special(const reader *r, const char *where, const json_t *component, const json_t *piece,
                                flrq_ids *items) {
    char quoted[64];
    const char *name = json_string_value(json_object_get(piece, "id"));
    if (!name) return bad_member(r, where, "SpecialToken", "an object with an id");
    const json_t *ids = json_object_get(json_object_get(json_object_get(component, "special_tokens"), name), "ids");
    if (!json_is_array(ids))
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %s: special token \"%s\" has no ids in special_tokens", r->path,
                         where, flrq_text_quote(quoted, name));
    for (size_t i = 0; i < json_array_size(ids); i++) {
        int32_t id;
        FLRQ_TRY(get_special_id(r, where, json_array_get(ids, i), "ids", &id));
        FLRQ_TRY(flrq_ids_push(items, id));
    }
    return FLRQ_OK;
}

static flrq_status read_template(const reader *r, const char *where, const json_t *component) {
    const json_t *single = json_object_get(component, "single");
    bool has_sequence = false;
    flrq_ids *items = NULL;
    if (!json_is_array(single)) return bad_member(r, where, "single", "an array");
    FLRQ_TRY(new_template(r, &items));
    for (size_t i = 0; i < json_array_size(single); i++) {
        const json_t *item = json_array_get(single, i);
        const json_t *sequence = json_object_get(item, "Sequence"), *special = json_object_get(item, "SpecialToken");
        if (special) {
            FLRQ_TRY(read_special(r, where, component, special, items));
            continue;
        }
        const char *name = json_string_value(json_object_get(sequence, "id"));
        if (!name || strcmp(name, "A") != 0)
            return bad_member(r, where, "single", "a list of SpecialToken and Sequence A");
        if (has_sequence)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: %s: the sequence is repeated", r->path, where);
        has_sequence = true;
        FLRQ_TRY(flrq_ids_push(items, FLRQ_TEMPLATE_SEQUENCE));
    }
    return FLRQ_OK;
}

/* "cls" and "sep" of BertProcessing and RobertaProcessing: [text, id]. */
static flrq_status read_pair(const reader *r, const char *where, const json_t *component, const char *key,
                             int32_t *id) {
    const json_t *pair = json_object_get(component, key);
    if (json_array_size(pair) != 2 || !json_is_string(json_array_get(pair, 0)))
        return bad_member(r, where, key, "a pair of text and id");
    return get_special_id(r, where, json_array_get(pair, 1), key, id);
}

static flrq_status read_post_processor(const reader *r, const char *part, const json_t *component, int depth) {
    char where[WHERE_BYTES];
    const char *type;
    FLRQ_TRY(get_type(r, part, component, &type, where));
    if (strcmp(type, "Sequence") == 0)
        return read_sequence(r, part, where, component, "processors", depth, read_post_processor);
    if (strcmp(type, "ByteLevel") == 0) return FLRQ_OK; /* trims offsets, which are not kept here */
    if (strcmp(type, "TemplateProcessing") == 0) return read_template(r, where, component);
    if (strcmp(type, "BertProcessing") == 0 || strcmp(type, "RobertaProcessing") == 0) {
        int32_t cls, sep;
        flrq_ids *items = NULL;
        FLRQ_TRY(read_pair(r, where, component, "cls", &cls));
        FLRQ_TRY(read_pair(r, where, component, "sep", &sep));
        FLRQ_TRY(new_template(r, &items));
        return flrq_ids_append(items, (int32_t[]){cls, FLRQ_TEMPLATE_SEQUENCE, sep}, 3);
    }
    return not_supported(r, where);
}

/* ---- model ------------------------------------------------------------------------------------------------------ */

/* A merge is "left right", which must have just one space, or ["left", "right"]. */
static flrq_status read_merge(const reader *r, flrq_bpe *bpe, const json_t *merge, size_t index) {
    if (json_is_string(merge)) {
        flrq_span all = string_span(merge);
        const char *space = memchr(all.data, ' ', all.bytes);
        size_t left = space ? (size_t)(space - all.data) : all.bytes, behind = all.bytes - left;
        if (space && !memchr(space + 1, ' ', behind - 1))
            return flrq_bpe_add_merge(bpe, (flrq_span){all.data, left}, (flrq_span){space + 1, behind - 1});
    } else if (json_array_size(merge) == 2) {
        const json_t *left = json_array_get(merge, 0), *right = json_array_get(merge, 1);
        if (json_is_string(left) && json_is_string(right))
            return flrq_bpe_add_merge(bpe, string_span(left), string_span(right));
    }
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: model: merge %zu is neither \"left right\" nor [\"left\", \"right\"]",
                     r->path, index);
}

static flrq_status read_model(const reader *r, json_t *model) {
    static const char part[] = "model BPE";
    const char *type = json_string_value(json_object_get(model, "type")), *token;
    json_t *vocab = json_object_get(model, "vocab"), *merges = json_object_get(model, "merges"), *value;
    const json_t *dropout = json_object_get(model, "dropout");
    flrq_bpe_options options = {0};
    char quoted[64];
    size_t i;
    if (!json_is_object(model)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: there is no model", r->path);
    if (type && strcmp(type, "BPE") != 0)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: model %s is not supported, only BPE is; " REMEDY, r->path,
                         flrq_text_quote(quoted, type));
    if (dropout && !json_is_null(dropout) && !(json_is_number(dropout) && json_number_value(dropout) == 0))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: model BPE: dropout would make ids random", r->path);
    if (!json_is_object(vocab)) return bad_member(r, part, "vocab", "an object");
    if (!json_is_array(merges)) return bad_member(r, part, "merges", "an array");
    FLRQ_TRY(get_bool_or(r, part, model, "byte_fallback", &options.byte_fallback));
    FLRQ_TRY(get_bool_or(r, part, model, "fuse_unk", &options.fuse_unk));
    FLRQ_TRY(get_bool_or(r, part, model, "ignore_merges", &options.ignore_merges));
    FLRQ_TRY(get_string_or_null(r, part, model, "unk_token", &options.unk));
    if (options.unk.data && options.unk.bytes == 0) return bad_member(r, part, "unk_token", "a token: it is empty");
    FLRQ_TRY(get_string_or_null(r, part, model, "continuing_subword_prefix", &options.prefix));
    FLRQ_TRY(get_string_or_null(r, part, model, "end_of_word_suffix", &options.suffix));
    FLRQ_TRY(flrq_bpe_new(&r->tokenizer->bpe, r->path, &options, json_object_size(vocab), json_array_size(merges)));
    json_object_foreach(vocab, token, value) {
        if (!json_is_integer(value))
            return flrq_fail(FLRQ_ERR_FORMAT, "file %s: model BPE: the id of token \"%s\" is not an integer", r->path,
                             flrq_text_quote(quoted, token));
        FLRQ_TRY(flrq_bpe_add_token(r->tokenizer->bpe, (flrq_span){token, strlen(token)}, json_integer_value(value)));
    }
    json_array_foreach(merges, i, value) {
        /* A leftover first line of merges.txt, which the reference skips too. */
        if (json_is_string(value) && strncmp(json_string_value(value), "#version", 8) == 0) continue;
        FLRQ_TRY(read_merge(r, r->tokenizer->bpe, value, i));
    }
    return flrq_bpe_finish(r->tokenizer->bpe);
}

/* ---- added_tokens ----------------------------------------------------------------------------------------------- */

/* The id of an added token is that of its text in the vocabulary. A text that is not there gets the next id behind the
 * vocabulary and the tokens added before it (`*next_id`); the file's own "id" is what the reference only compares.
 * Where the two differ nobody knows which id the checkpoint was trained with. */
static flrq_status read_added_token(const reader *r, size_t index, const json_t *token, int64_t *next_id) {
    char part[64], message[WHERE_BYTES], quoted[64];
    flrq_span text;
    bool normalized = false, special = false;
    int32_t id = 0;
    flrq_added_token added = {0};
    snprintf(part, sizeof part, "added_tokens[%zu]", index);
    if (!json_is_object(token)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %s is not an object", r->path, part);
    FLRQ_TRY(get_string(r, part, token, "content", &text));
    FLRQ_TRY(get_id(r, part, json_object_get(token, "id"), "id", &id));
    FLRQ_TRY(get_bool(r, part, token, "single_word", &added.single_word));
    FLRQ_TRY(get_bool(r, part, token, "lstrip", &added.lstrip));
    FLRQ_TRY(get_bool(r, part, token, "rstrip", &added.rstrip));
    FLRQ_TRY(get_bool(r, part, token, "normalized", &normalized));
    FLRQ_TRY(get_bool(r, part, token, "special", &special));
    if (text.bytes == 0) return FLRQ_OK; /* never found, as in the reference */
    added.id = flrq_bpe_find(r->tokenizer->bpe, text);
    if (added.id < 0) added.id = (int32_t)(*next_id)++;
    if (added.id != id)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: %s \"%s\" says id %d, but by the vocabulary it is %d; " REMEDY,
                         r->path, part, flrq_text_quote(quoted, text.data), (int)id, (int)added.id);
    if (added.id >= r->tokenizer->vocab) r->tokenizer->vocab = (int64_t)added.id + 1;
    snprintf(message, sizeof message, "file %.800s: %s \"%s\"", r->path, part, flrq_text_quote(quoted, text.data));
    return flrq_tokenizer_add_token(r->tokenizer, message, text, added, normalized);
}

static flrq_status read_added_tokens(const reader *r, const json_t *tokens) {
    int64_t next_id = flrq_bpe_count(r->tokenizer->bpe);
    if (!tokens) return FLRQ_OK;
    if (!json_is_array(tokens)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: added_tokens is not an array", r->path);
    for (size_t i = 0; i < json_array_size(tokens); i++)
        FLRQ_TRY(read_added_token(r, i, json_array_get(tokens, i), &next_id));
    return FLRQ_OK;
}

/* ---- the file --------------------------------------------------------------------------------------------------- */

static flrq_status read_file(const reader *r, json_t *root) {
    static const char *const known[] = {"version",       "truncation",     "padding", "added_tokens", "normalizer",
                                        "pre_tokenizer", "post_processor", "decoder", "model"};
    const json_t *version = json_object_get(root, "version"), *part;
    const char *key;
    char quoted[64];
    json_t *value;
    if (!json_is_object(root)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not a JSON object", r->path);
    json_object_foreach(root, key, value) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(key, known[i]) != 0) i++;
        if (i == sizeof known / sizeof *known) return not_supported(r, flrq_text_quote(quoted, key));
    }
    if (version && (!json_is_string(version) || strcmp(json_string_value(version), "1.0") != 0))
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: \"version\" is not \"1.0\"", r->path);
    FLRQ_TRY(read_model(r, json_object_get(root, "model")));
    r->tokenizer->vocab = flrq_bpe_largest(r->tokenizer->bpe) + 1;
    part = json_object_get(root, "normalizer");
    if (part && !json_is_null(part)) FLRQ_TRY(read_normalizer(r, "normalizer", part, 0));
    part = json_object_get(root, "pre_tokenizer");
    if (part && !json_is_null(part)) FLRQ_TRY(read_pre_tokenizer(r, "pre_tokenizer", part, 0));
    part = json_object_get(root, "post_processor");
    if (part && !json_is_null(part)) FLRQ_TRY(read_post_processor(r, "post_processor", part, 0));
    return read_added_tokens(r, json_object_get(root, "added_tokens"));
}

/* What it is, for reports. */
static const char *describe(const flrq_tokenizer *t, const json_t *model) {
    bool byte_level = false;
    for (int i = 0; i < t->n_stages; i++) byte_level |= t->stages[i].kind == FLRQ_STAGE_BYTE_MAP;
    for (int i = 0; i < t->n_normalizers; i++) byte_level |= t->normalizers[i].kind == FLRQ_NORMALIZE_BYTE_LEVEL;
    if (byte_level) return "tokenizer.json (byte-level BPE)";
    if (json_is_true(json_object_get(model, "byte_fallback"))) return "tokenizer.json (BPE with byte fallback)";
    return "tokenizer.json (BPE)";
}

flrq_status flrq_tokenizer_parse(flrq_tokenizer **out, const char *path, const char *json, size_t bytes) {
    json_t *root;
    *out = NULL;
    FLRQ_TRY(flrq_json_parse(path, json, bytes, &root));
    reader r = {path, calloc(1, sizeof(flrq_tokenizer))};
    flrq_status status = r.tokenizer ? read_file(&r, root) : flrq_fail_memory(sizeof(flrq_tokenizer), path);
    if (status == FLRQ_OK) {
        r.tokenizer->kind = describe(r.tokenizer, json_object_get(root, "model"));
        *out = r.tokenizer;
    } else {
        flrq_tokenizer_close(r.tokenizer);
    }
    json_decref(root);
    return status;
}
