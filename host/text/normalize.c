/* normalize.c - normalizers; see normalize.h.
 *
 * Unicode data are utf8proc's. Its own utf8proc_map() sorts combining marks in quadratic time, so decomposition
 * and composition are called apart, with a sort between them that a megabyte of marks does not stop.
 */
#include "text/normalize.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>
#include "text/unicode.h"
#include "text/unicode_later.h"

void flrq_normalizer_clear(flrq_normalizer *normalizer) {
    free(normalizer->text.data);
    flrq_regex_free(normalizer->regex);
}

/* Normalizers can lengthen a text, and 64 of them can do so 64 times over: a file of a few kilobytes could ask for 2^64
 * bytes. No step may make more than GROWTH_MAX bytes for each byte of the original text; Unicode's longest
 * decomposition makes 11 (U+FDFA). */
enum { GROWTH_MAX = 64, GROWTH_FREE = 1 << 20 };

static size_t growth_limit(size_t bytes) {
    return bytes < (SIZE_MAX - GROWTH_FREE) / GROWTH_MAX ? GROWTH_FREE + GROWTH_MAX * bytes : SIZE_MAX;
}

static flrq_status fail_growth(void) {
    return flrq_fail(FLRQ_ERR_UNSUPPORTED, "the normalizer makes more than %d bytes of a byte of text", GROWTH_MAX);
}

/* Appends text[begin..end), of which the bytes before `lead` come from the first character of the document. */
static flrq_status copy(flrq_bytes *out, const char *text, size_t begin, size_t end, size_t lead, size_t *out_lead) {
    if (begin < lead) *out_lead = out->count + (end < lead ? end : lead) - begin;
    return flrq_bytes_append(out, text + begin, end - begin);
}

static flrq_status replace(const flrq_normalizer *n, flrq_matcher *matcher, const char *text, size_t bytes,
                           size_t limit, size_t *lead, flrq_bytes *out) {
    flrq_search search = {.regex = n->regex, .text = text, .bytes = bytes};
    size_t copied = 0, out_lead = 0;
    for (;;) {
        bool found;
        FLRQ_TRY(flrq_search_next(&search, matcher, &found));
        if (!found) break;
        FLRQ_TRY(copy(out, text, copied, search.begin, *lead, &out_lead));
        FLRQ_TRY(flrq_bytes_append(out, n->text.data, n->text.count));
        if (search.end <= *lead) out_lead = out->count; /* it comes from where the match ended */
        if (out->count > limit) return fail_growth();
        copied = search.end;
    }
    FLRQ_TRY(copy(out, text, copied, bytes, *lead, &out_lead));
    *lead = out_lead;
    return FLRQ_OK;
}

/* ---- canonical forms -------------------------------------------------------------------------------------------- */

typedef struct mark {
    int combining_class;
    uint32_t order;
    utf8proc_int32_t code;
} mark;

static int compare_marks(const void *a, const void *b) {
    const mark *x = a, *y = b;
    if (x->combining_class != y->combining_class) return x->combining_class < y->combining_class ? -1 : 1;
    return x->order < y->order ? -1 : 1;
}

static int combining_class(utf8proc_int32_t code) {
    return utf8proc_get_property(code)->combining_class;
}

/* Canonical order: every run of characters with a combining class is sorted by class, equals keeping their order. */
static flrq_status sort_marks(utf8proc_int32_t *codes, size_t count) {
    for (size_t i = 0; i < count;) {
        if (combining_class(codes[i]) == 0) {
            i++;
            continue;
        }
        size_t begin = i;
        bool sorted = true;
        for (int last = 0; i < count; i++) {
            int class = combining_class(codes[i]);
            if (class == 0) break;
            if (class < last) sorted = false;
            last = class;
        }
        if (sorted) continue;
        mark *marks = malloc((i - begin) * sizeof *marks);
        if (!marks) return flrq_fail_memory((i - begin) * sizeof *marks, "normalizing");
        for (size_t k = begin; k < i; k++)
            marks[k - begin] = (mark){combining_class(codes[k]), (uint32_t)(k - begin), codes[k]};
        qsort(marks, i - begin, sizeof *marks, compare_marks);
        for (size_t k = begin; k < i; k++) codes[k] = marks[k - begin].code;
        free(marks);
    }
    return FLRQ_OK;
}

/* A stretch of text that no composition or reordering connects to its surroundings. `codes` is a work array. */
static flrq_status normalize_stretch(const flrq_normalizer *n, const char *text, size_t bytes, flrq_ids *codes,
                                     flrq_bytes *out) {
    enum { ONE_CODE_MAX = 32 }; /* the longest decomposition has 18 characters */
    int options = UTF8PROC_STABLE | (n->compatible ? UTF8PROC_COMPAT : 0);
    codes->count = 0;
    for (size_t at = 0, length; at < bytes; at += length) {
        utf8proc_int32_t code = (utf8proc_int32_t)flrq_utf8_get(text + at, &length);
        int boundary = 0;
        FLRQ_TRY(flrq_ids_reserve(codes, ONE_CODE_MAX));
        utf8proc_ssize_t made = utf8proc_decompose_char(code, codes->data + codes->count, ONE_CODE_MAX,
                                                        options | UTF8PROC_DECOMPOSE, &boundary);
        if (made < 0 || made > ONE_CODE_MAX)
            return flrq_fail(FLRQ_ERR_INTERNAL, "Unicode normalization of U+%04X: %s", (unsigned)code,
                             utf8proc_errmsg(made));
        codes->count += (size_t)made;
    }
    FLRQ_TRY(sort_marks(codes->data, codes->count));
    if (n->compose) {
        utf8proc_ssize_t left =
            utf8proc_normalize_utf32(codes->data, (utf8proc_ssize_t)codes->count, options | UTF8PROC_COMPOSE);
        if (left < 0) return flrq_fail(FLRQ_ERR_INTERNAL, "Unicode normalization: %s", utf8proc_errmsg(left));
        codes->count = (size_t)left;
    }
    for (size_t i = 0; i < codes->count; i++) FLRQ_TRY(flrq_utf8_append(out, (uint32_t)codes->data[i]));
    return FLRQ_OK;
}

/* ASCII characters stay as they are and nothing joins them from behind, so a stretch may start at any of them; it needs
 * one only when a character that is not ASCII follows. Characters that the reference does not know end a stretch. */
static flrq_status normalize_form(const flrq_normalizer *n, const char *text, size_t bytes, flrq_bytes *out) {
    flrq_status status = FLRQ_OK;
    flrq_ids codes = {0};
    for (size_t at = 0; at < bytes;) {
        size_t plain = at, end;
        while (plain < bytes && (unsigned char)text[plain] < 0x80) plain++;
        end = plain;
        if (plain < bytes && plain > at) plain--;
        FLRQ_GOTO(flrq_bytes_append(out, text + at, plain - at));
        for (size_t length; end < bytes && (unsigned char)text[end] >= 0x80; end += length)
            if (flrq_is_unknown_form(flrq_utf8_get(text + end, &length))) break;
        if (end > plain) FLRQ_GOTO(normalize_stretch(n, text + plain, end - plain, &codes, out));
        at = end;
        if (end == bytes || (unsigned char)text[end] < 0x80) continue;
        at += flrq_utf8_length(text[end]);
        FLRQ_GOTO(flrq_bytes_append(out, text + end, at - end));
    }
out:
    free(codes.data);
    return status;
}

/* ---- characters one by one -------------------------------------------------------------------------------------- */

static flrq_status lowercase(const char *text, size_t bytes, flrq_bytes *out) {
    for (size_t at = 0, length; at < bytes; at += length) {
        uint32_t code = flrq_utf8_get(text + at, &length);
        if (code == 0x130)
            FLRQ_TRY(flrq_bytes_append(out, "i\xcc\x87", 3)); /* the one character that becomes two */
        else
            FLRQ_TRY(flrq_utf8_append(out, flrq_later_lower((uint32_t)utf8proc_tolower((utf8proc_int32_t)code))));
    }
    return FLRQ_OK;
}

static flrq_status strip_accents(const char *text, size_t bytes, size_t *lead, flrq_bytes *out) {
    size_t out_lead = 0;
    for (size_t at = 0, length; at < bytes; at += length)
        if (!flrq_is_mark(flrq_utf8_get(text + at, &length)))
            FLRQ_TRY(copy(out, text, at, at + length, *lead, &out_lead));
    *lead = out_lead;
    return FLRQ_OK;
}

static void strip(const flrq_normalizer *n, const char **text, size_t *bytes, size_t *lead) {
    const char *begin = *text, *end = *text + *bytes;
    size_t length;
    if (n->left)
        while (begin < end && flrq_is_space(flrq_utf8_get(begin, &length))) begin += length;
    if (n->right)
        while (end > begin && flrq_is_space(flrq_utf8_get(flrq_utf8_back(end), &length))) end -= length;
    size_t removed = (size_t)(begin - *text);
    *lead = *lead > removed ? *lead - removed : 0;
    *text = begin;
    *bytes = (size_t)(end - begin);
    if (*lead > *bytes) *lead = *bytes;
}

/* Bytes that the first `lead` bytes become, on their own, under a normalizer that maps character by character; at least
 * the first character of what the whole text has become, which may have absorbed more. */
static flrq_status map_lead(const flrq_normalizer *n, const char *text, size_t *lead, const flrq_bytes *whole) {
    flrq_bytes part = {0};
    flrq_status status = FLRQ_OK;
    if (*lead == 0 || whole->count == 0) return FLRQ_OK;
    if (n->kind == FLRQ_NORMALIZE_FORM)
        status = normalize_form(n, text, *lead, &part);
    else if (n->kind == FLRQ_NORMALIZE_LOWERCASE)
        status = lowercase(text, *lead, &part);
    else
        status = flrq_byte_map(&part, text, *lead);
    *lead = flrq_utf8_length(*whole->data);
    if (part.count > *lead) *lead = part.count;
    free(part.data);
    return status;
}

flrq_status flrq_normalize(const flrq_normalizer *normalizers, int count, flrq_matcher *matcher, flrq_bytes work[2],
                           const char *text, size_t bytes, size_t *lead, const char **out, size_t *out_bytes) {
    size_t limit = growth_limit(bytes);
    for (int i = 0, next = 0; i < count && bytes > 0; i++) {
        const flrq_normalizer *n = &normalizers[i];
        flrq_bytes *to = &work[next]; /* the one that text does not lie in */
        to->count = 0;
        switch (n->kind) {
        case FLRQ_NORMALIZE_STRIP:
            strip(n, &text, &bytes, lead);
            continue;
        case FLRQ_NORMALIZE_PREPEND:
            FLRQ_TRY(flrq_bytes_append(to, n->text.data, n->text.count));
            FLRQ_TRY(flrq_bytes_append(to, text, bytes));
            if (*lead) *lead += n->text.count;
            break;
        case FLRQ_NORMALIZE_REPLACE:
            FLRQ_TRY(replace(n, matcher, text, bytes, limit, lead, to));
            break;
        case FLRQ_NORMALIZE_STRIP_ACCENTS:
            FLRQ_TRY(strip_accents(text, bytes, lead, to));
            break;
        case FLRQ_NORMALIZE_FORM:
            FLRQ_TRY(normalize_form(n, text, bytes, to));
            FLRQ_TRY(map_lead(n, text, lead, to));
            break;
        case FLRQ_NORMALIZE_LOWERCASE:
            FLRQ_TRY(lowercase(text, bytes, to));
            FLRQ_TRY(map_lead(n, text, lead, to));
            break;
        case FLRQ_NORMALIZE_BYTE_LEVEL:
            FLRQ_TRY(flrq_byte_map(to, text, bytes));
            FLRQ_TRY(map_lead(n, text, lead, to));
            break;
        }
        text = to->data;
        bytes = to->count;
        if (bytes > limit) return fail_growth();
        if (*lead > bytes) *lead = bytes;
        next = !next;
    }
    *out = text;
    *out_bytes = bytes;
    return FLRQ_OK;
}
