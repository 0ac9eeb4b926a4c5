/* pretokenize.c - the stages of pre-tokenization; see pretokenize.h. Empty pieces never leave a stage, as in the
 * reference. */
#include "text/pretokenize.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include "text/unicode.h"

/* Stages may lengthen a text (a mark before every piece, two bytes for one), and 64 of them may do so 64 times over: a
 * file of a few kilobytes could ask for 2^64 words. So a stage is given, on average over the stages, at most GROWTH_MAX
 * bytes for each byte of the text; real tokenizers stay below 4. */
enum { GROWTH_MAX = 64, GROWTH_FREE = 1 << 20 };

typedef struct run {
    const flrq_stage *stages;
    int count;
    flrq_matcher *matcher;
    flrq_bytes *work;
    flrq_word_fn emit;
    void *user;
    size_t text_bytes;
    size_t *budget; /* bytes that stages may still be given */
} run;

void flrq_stage_clear(flrq_stage *stage) {
    flrq_regex_free(stage->regex);
}

static flrq_status run_stage(const run *r, int stage, flrq_span text, size_t lead);

static flrq_status add_prefix(const run *r, int stage, flrq_span text, size_t lead) {
    const flrq_stage *s = &r->stages[stage];
    flrq_bytes *to = &r->work[stage];
    flrq_span mark = {s->mark, s->mark_bytes};
    bool starts = text.bytes >= mark.bytes && memcmp(text.data, mark.data, mark.bytes) == 0;
    size_t out_lead = lead;
    to->count = 0;
    if (!starts && text.data[0] != ' ' &&
        (s->scheme == FLRQ_PREFIX_ALWAYS || (s->scheme == FLRQ_PREFIX_FIRST && lead))) {
        FLRQ_TRY(flrq_bytes_append(to, mark.data, mark.bytes));
        if (lead) out_lead += mark.bytes;
    }
    for (const char *at = text.data, *end = text.data + text.bytes; at < end;) {
        const char *space = memchr(at, ' ', (size_t)(end - at));
        FLRQ_TRY(flrq_bytes_append(to, at, (size_t)((space ? space : end) - at)));
        if (!space) break;
        if ((size_t)(space - text.data) < lead) out_lead += mark.bytes - 1;
        FLRQ_TRY(flrq_bytes_append(to, mark.data, mark.bytes));
        at = space + 1;
    }
    return run_stage(r, stage + 1, (flrq_span){to->data, to->count}, out_lead);
}

/* Joins the pieces between and at matches as the behavior of the stage asks. One piece is held back until it is known
 * whether the next one joins it. */
typedef struct splitter {
    const run *r;
    int stage;
    flrq_span text;
    size_t lead;
    bool holding, held_is_match;
    size_t begin, end;
} splitter;

static flrq_status send(const splitter *s, size_t begin, size_t end) {
    if (begin == end) return FLRQ_OK;
    size_t lead = s->lead <= begin ? 0 : (s->lead < end ? s->lead : end) - begin;
    return run_stage(s->r, s->stage + 1, (flrq_span){s->text.data + begin, end - begin}, lead);
}

static flrq_status add_piece(splitter *s, size_t begin, size_t end, bool is_match) {
    bool join = false;
    switch (s->r->stages[s->stage].behavior) {
    case FLRQ_SPLIT_REMOVED:
        return is_match ? FLRQ_OK : send(s, begin, end);
    case FLRQ_SPLIT_ISOLATED:
        return send(s, begin, end);
    case FLRQ_SPLIT_CONTIGUOUS:
        join = is_match == s->held_is_match;
        break;
    case FLRQ_SPLIT_MERGED_WITH_PREVIOUS:
        join = is_match && !s->held_is_match;
        break;
    case FLRQ_SPLIT_MERGED_WITH_NEXT:
        join = !is_match && s->held_is_match;
        break;
    }
    s->held_is_match = is_match;
    if (s->holding && join) {
        s->end = end;
        return FLRQ_OK;
    }
    if (s->holding) FLRQ_TRY(send(s, s->begin, s->end));
    s->holding = true;
    s->begin = begin;
    s->end = end;
    return FLRQ_OK;
}

static flrq_status split(const run *r, int stage, flrq_span text, size_t lead) {
    const flrq_stage *s = &r->stages[stage];
    splitter pieces = {.r = r, .stage = stage, .text = text, .lead = lead};
    flrq_search search = {.regex = s->regex, .text = text.data, .bytes = text.bytes};
    size_t done = 0;
    for (;;) {
        bool found;
        FLRQ_TRY(flrq_search_next(&search, r->matcher, &found));
        if (!found) break;
        if (done != search.begin) FLRQ_TRY(add_piece(&pieces, done, search.begin, s->invert));
        FLRQ_TRY(add_piece(&pieces, search.begin, search.end, !s->invert));
        done = search.end;
    }
    if (done != text.bytes) FLRQ_TRY(add_piece(&pieces, done, text.bytes, s->invert));
    return pieces.holding ? send(&pieces, pieces.begin, pieces.end) : FLRQ_OK;
}

static flrq_status run_stage(const run *r, int stage, flrq_span text, size_t lead) {
    if (text.bytes == 0) return FLRQ_OK;
    if (stage == r->count) return r->emit(r->user, text);
    if (text.bytes > *r->budget)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "the pre-tokenizer makes more than %d times a text of %zu bytes",
                         GROWTH_MAX, r->text_bytes);
    *r->budget -= text.bytes;
    switch (r->stages[stage].kind) {
    case FLRQ_STAGE_PREFIX:
        return add_prefix(r, stage, text, lead);
    case FLRQ_STAGE_SPLIT:
        return split(r, stage, text, lead);
    case FLRQ_STAGE_BYTE_MAP:
        break;
    }
    flrq_bytes *to = &r->work[stage];
    to->count = 0;
    FLRQ_TRY(flrq_byte_map(to, text.data, lead));
    size_t out_lead = to->count;
    FLRQ_TRY(flrq_byte_map(to, text.data + lead, text.bytes - lead));
    return run_stage(r, stage + 1, (flrq_span){to->data, to->count}, out_lead);
}

flrq_status flrq_pretokenize(const flrq_stage *stages, int count, flrq_matcher *matcher, flrq_bytes *work,
                             flrq_span text, size_t lead, flrq_word_fn emit, void *user) {
    size_t stage_count = count > 0 ? (size_t)count : 1, budget = SIZE_MAX;
    if (text.bytes < (SIZE_MAX - GROWTH_FREE) / GROWTH_MAX / stage_count)
        budget = GROWTH_FREE + GROWTH_MAX * stage_count * text.bytes;
    run r = {stages, count, matcher, work, emit, user, text.bytes, &budget};
    return run_stage(&r, 0, text, lead);
}
