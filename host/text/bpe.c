/* bpe.c - byte-pair encoding; see bpe.h.
 *
 * Three tables made at load time: tokens by text, merges by (left id, right id), and seams. A seam is a pair (last
 * character of a left part, first character of a right part) over all merges. Every merged token starts and ends with
 * the characters its outer parts start and end with, so no merge can ever cross a place in a word whose two characters
 * are not a seam: the word is cut there and the parts are merged, and cached, on their own. With a tokenizer that does
 * not cut texts into words (Llama 2) this is what makes encoding linear. A prefix breaks the argument (the right part
 * loses characters): then words stay whole.
 *
 * Kept from the reference because ids depend on it: a merge that waits in the queue is still applied when its place now
 * holds another pair that gives the same token; with byte fallback, an unknown character waiting to be fused is written
 * behind the bytes that follow it.
 */
#include "text/bpe.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>
#include "text/unicode.h"

enum {
    CHAR_TABLE = 0x3000,     /* characters below have their ids in a plain table: most scripts */
    CACHED_SYMBOLS_MAX = 64, /* longer parts hardly ever come back */
    CACHE_SLOTS = 1 << 16,
    CACHE_IDS_MAX = 4 << 20 /* ids kept (16 MiB); then the cache starts again */
};

static const uint64_t NO_PAIR = UINT64_MAX;

typedef struct token_slot {
    uint32_t offset, bytes; /* of the text in `pool` */
    int32_t id;             /* -1: free */
} token_slot;

typedef struct merge_slot {
    uint64_t pair; /* left id << 32 | right id; NO_PAIR: free */
    uint32_t rank;
    int32_t id;
} merge_slot;

struct flrq_bpe {
    char *path;
    flrq_bpe_options options; /* spans point into `pool_options` */
    char *affixes;
    size_t token_room, token_count, merge_room, merge_count;
    size_t token_mask, merge_mask, seam_mask;
    token_slot *tokens;
    merge_slot *merges;
    uint64_t *seams;
    flrq_bytes pool;
    uint64_t *used_ids; /* bit set, while building */
    int64_t largest;
    int32_t unk, bytes[256];
    int32_t chars[CHAR_TABLE];
};

/* Slots of a hash table that is at most half full: a power of two. */
static size_t table_slots(size_t entries) {
    size_t slots = 16;
    while (slots < 2 * entries) slots *= 2;
    return slots;
}

static uint64_t mix(uint64_t x) {
    x ^= x >> 32;
    x *= 0x9e3779b97f4a7c15u;
    return x ^ x >> 29;
}

static uint64_t pair_of(uint32_t left, uint32_t right) {
    return (uint64_t)left << 32 | right;
}

/* ---- building --------------------------------------------------------------------------------------------------- */

flrq_status flrq_bpe_new(flrq_bpe **out, const char *path, const flrq_bpe_options *options, size_t tokens,
                         size_t merges) {
    *out = NULL;
    if (tokens > FLRQ_TOKEN_ID_MAX || merges > FLRQ_TOKEN_ID_MAX)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: %zu tokens and %zu merges, at most %d of each are supported", path,
                         tokens, merges, FLRQ_TOKEN_ID_MAX);
    flrq_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) return flrq_fail_memory(sizeof *bpe, path);
    const flrq_span *from[3] = {&options->unk, &options->prefix, &options->suffix};
    flrq_span *to[3] = {&bpe->options.unk, &bpe->options.prefix, &bpe->options.suffix};
    size_t affix_bytes = options->unk.bytes + options->prefix.bytes + options->suffix.bytes;
    size_t token_slots = table_slots(tokens), merge_slots = table_slots(merges);
    bpe->largest = bpe->unk = -1;
    bpe->token_room = tokens, bpe->merge_room = merges;
    bpe->token_mask = token_slots - 1, bpe->merge_mask = bpe->seam_mask = merge_slots - 1;
    bpe->path = strdup(path);
    bpe->affixes = malloc(affix_bytes + 1);
    bpe->tokens = malloc(token_slots * sizeof *bpe->tokens);
    bpe->merges = malloc(merge_slots * sizeof *bpe->merges);
    bpe->seams = malloc(merge_slots * sizeof *bpe->seams);
    bpe->used_ids = calloc((FLRQ_TOKEN_ID_MAX + 64) / 64, sizeof *bpe->used_ids);
    if (!bpe->path || !bpe->affixes || !bpe->tokens || !bpe->merges || !bpe->seams || !bpe->used_ids) {
        flrq_bpe_free(bpe);
        return flrq_fail_memory(token_slots * sizeof *bpe->tokens + merge_slots * sizeof *bpe->merges, path);
    }
    bpe->options = *options;
    char *affix = bpe->affixes;
    for (int i = 0; i < 3; i++) {
        if (from[i]->bytes) memcpy(affix, from[i]->data, from[i]->bytes);
        *to[i] = (flrq_span){affix, from[i]->bytes};
        affix += from[i]->bytes;
    }
    for (size_t i = 0; i < token_slots; i++) bpe->tokens[i] = (token_slot){0, 0, -1};
    for (size_t i = 0; i < merge_slots; i++) bpe->merges[i].pair = bpe->seams[i] = NO_PAIR;
    *out = bpe;
    return FLRQ_OK;
}

void flrq_bpe_free(flrq_bpe *bpe) {
    if (!bpe) return;
    free(bpe->path);
    free(bpe->affixes);
    free(bpe->tokens);
    free(bpe->merges);
    free(bpe->seams);
    free(bpe->pool.data);
    free(bpe->used_ids);
    free(bpe);
}

static flrq_span token_text(const flrq_bpe *bpe, const token_slot *slot) {
    return (flrq_span){bpe->pool.data + slot->offset, slot->bytes};
}

/* The slot that holds a text, or the free one where it belongs. */
static token_slot *token_find(const flrq_bpe *bpe, flrq_span text) {
    size_t at = XXH3_64bits(text.bytes ? text.data : "", text.bytes) & bpe->token_mask;
    for (;; at = (at + 1) & bpe->token_mask) {
        token_slot *slot = &bpe->tokens[at];
        if (slot->id < 0) return slot;
        if (slot->bytes != text.bytes) continue;
        if (text.bytes == 0 || memcmp(token_text(bpe, slot).data, text.data, text.bytes) == 0) return slot;
    }
}

int32_t flrq_bpe_find(const flrq_bpe *bpe, flrq_span token) {
    return token_find(bpe, token)->id;
}

int64_t flrq_bpe_count(const flrq_bpe *bpe) {
    return (int64_t)bpe->token_count;
}

int64_t flrq_bpe_largest(const flrq_bpe *bpe) {
    return bpe->largest;
}

/* Copies a span into quoted[64] for a message. */
static const char *quote(char quoted[64], flrq_span span) {
    char text[65];
    size_t bytes = span.bytes < 64 ? span.bytes : 64;
    if (bytes) memcpy(text, span.data, bytes);
    text[bytes] = 0;
    return flrq_text_quote(quoted, text);
}

flrq_status flrq_bpe_add_token(flrq_bpe *bpe, flrq_span token, int64_t id) {
    char quoted[64];
    if (id < 0 || id > FLRQ_TOKEN_ID_MAX)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: token \"%s\" has id %lld, ids are 0 to %d", bpe->path,
                         quote(quoted, token), (long long)id, FLRQ_TOKEN_ID_MAX);
    if (bpe->used_ids[id / 64] >> (id % 64) & 1)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: token \"%s\" has id %lld, which another token has too", bpe->path,
                         quote(quoted, token), (long long)id);
    token_slot *slot = token_find(bpe, token);
    if (slot->id >= 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: token \"%s\" is listed twice", bpe->path, quote(quoted, token));
    if (bpe->token_count == bpe->token_room)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: more than the %zu tokens announced", bpe->path, bpe->token_room);
    if (token.bytes > UINT32_MAX - bpe->pool.count)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: the tokens take more than 4 GiB", bpe->path);
    *slot = (token_slot){(uint32_t)bpe->pool.count, (uint32_t)token.bytes, -1};
    FLRQ_TRY(flrq_bytes_append(&bpe->pool, token.data, token.bytes));
    slot->id = (int32_t)id;
    bpe->used_ids[id / 64] |= (uint64_t)1 << (id % 64);
    bpe->token_count++;
    if (id > bpe->largest) bpe->largest = id;
    return FLRQ_OK;
}

static merge_slot *merge_find(const flrq_bpe *bpe, uint64_t pair) {
    size_t at = mix(pair) & bpe->merge_mask;
    while (bpe->merges[at].pair != pair && bpe->merges[at].pair != NO_PAIR) at = (at + 1) & bpe->merge_mask;
    return &bpe->merges[at];
}

static uint64_t *seam_find(const flrq_bpe *bpe, uint64_t seam) {
    size_t at = mix(seam) & bpe->seam_mask;
    while (bpe->seams[at] != seam && bpe->seams[at] != NO_PAIR) at = (at + 1) & bpe->seam_mask;
    return &bpe->seams[at];
}

static uint32_t first_char(flrq_span text) {
    size_t length;
    return flrq_utf8_get(text.data, &length);
}

static uint32_t last_char(flrq_span text) {
    size_t length;
    return flrq_utf8_get(flrq_utf8_back(text.data + text.bytes), &length);
}

flrq_status flrq_bpe_add_merge(flrq_bpe *bpe, flrq_span left, flrq_span right) {
    char quoted_left[64], quoted_right[64];
    size_t skip = bpe->options.prefix.bytes;
    flrq_bytes joined = {0};
    int32_t left_id = flrq_bpe_find(bpe, left), right_id = flrq_bpe_find(bpe, right), id = -1;
    if (bpe->merge_count == bpe->merge_room)
        return flrq_fail(FLRQ_ERR_INTERNAL, "file %s: more than the %zu merges announced", bpe->path, bpe->merge_room);
    if (left_id >= 0 && right_id >= 0 && left.bytes && right.bytes > skip) {
        flrq_status status = flrq_bytes_append(&joined, left.data, left.bytes);
        if (status == FLRQ_OK) status = flrq_bytes_append(&joined, right.data + skip, right.bytes - skip);
        if (status == FLRQ_OK) id = flrq_bpe_find(bpe, (flrq_span){joined.data, joined.count});
        free(joined.data);
        FLRQ_TRY(status);
    }
    if (id < 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: merge %zu (\"%s\" \"%s\"): %s not in the vocabulary", bpe->path,
                         bpe->merge_count, quote(quoted_left, left), quote(quoted_right, right),
                         left_id < 0    ? "the left part is"
                         : right_id < 0 ? "the right part is"
                                        : "its result is");
    merge_slot *slot = merge_find(bpe, pair_of((uint32_t)left_id, (uint32_t)right_id));
    *slot = (merge_slot){pair_of((uint32_t)left_id, (uint32_t)right_id), (uint32_t)bpe->merge_count, id};
    uint64_t seam = pair_of(last_char(left), first_char(right));
    *seam_find(bpe, seam) = seam;
    bpe->merge_count++;
    return FLRQ_OK;
}

flrq_status flrq_bpe_finish(flrq_bpe *bpe) {
    free(bpe->used_ids);
    bpe->used_ids = NULL;
    for (uint32_t c = 0; c < CHAR_TABLE; c++) {
        char text[4];
        bpe->chars[c] = flrq_bpe_find(bpe, (flrq_span){text, flrq_utf8_put(text, c)});
    }
    for (int byte = 0; byte < 256; byte++) {
        static const char digits[] = "0123456789ABCDEF";
        char text[6] = {'<', '0', 'x', digits[byte >> 4], digits[byte & 15], '>'};
        bpe->bytes[byte] = bpe->options.byte_fallback ? flrq_bpe_find(bpe, (flrq_span){text, sizeof text}) : -1;
    }
    if (bpe->options.unk.bytes) bpe->unk = flrq_bpe_find(bpe, bpe->options.unk);
    return FLRQ_OK;
}

/* ---- merging ---------------------------------------------------------------------------------------------------- */

/* One symbol of the part at hand, linked to its neighbours. */
typedef struct symbol {
    int32_t id;          /* -1: merged into its left neighbour */
    uint32_t prev, next; /* NONE at the ends */
} symbol;

/* A merge that could be made: the heap's order is (rank, position). */
typedef struct candidate {
    uint32_t rank, position;
    int32_t id;
} candidate;

typedef struct cache_slot {
    uint64_t hash;
    uint32_t key, value;             /* where in `kept` */
    uint32_t key_count, value_count; /* key_count 0: free */
} cache_slot;

struct flrq_bpe_work {
    flrq_ids part; /* symbols of the part that is being read */
    symbol *symbols;
    size_t symbol_room;
    candidate *heap;
    size_t heap_count, heap_room;
    flrq_bytes spelled; /* a character with prefix and suffix */
    cache_slot *cache;
    size_t cached;
    flrq_ids kept;
};

static const uint32_t NONE = UINT32_MAX;

flrq_status flrq_bpe_work_new(flrq_bpe_work **out) {
    *out = calloc(1, sizeof **out);
    if (!*out) return flrq_fail_memory(sizeof **out, "merging");
    (*out)->cache = calloc(CACHE_SLOTS, sizeof *(*out)->cache);
    if ((*out)->cache) return FLRQ_OK;
    free(*out);
    *out = NULL;
    return flrq_fail_memory(CACHE_SLOTS * sizeof(cache_slot), "merging");
}

void flrq_bpe_work_free(flrq_bpe_work *work) {
    if (!work) return;
    free(work->part.data);
    free(work->symbols);
    free(work->heap);
    free(work->spelled.data);
    free(work->cache);
    free(work->kept.data);
    free(work);
}

static bool before(candidate a, candidate b) {
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static flrq_status heap_push(flrq_bpe_work *work, candidate c) {
    if (work->heap_count == work->heap_room) {
        size_t room = work->heap_room * 2 + 64;
        candidate *heap = realloc(work->heap, room * sizeof *heap);
        if (!heap) return flrq_fail_memory(room * sizeof *heap, "merging");
        work->heap = heap, work->heap_room = room;
    }
    size_t at = work->heap_count++;
    for (; at > 0 && before(c, work->heap[(at - 1) / 2]); at = (at - 1) / 2) work->heap[at] = work->heap[(at - 1) / 2];
    work->heap[at] = c;
    return FLRQ_OK;
}

static candidate heap_pop(flrq_bpe_work *work) {
    candidate top = work->heap[0], last = work->heap[--work->heap_count];
    size_t at = 0, count = work->heap_count;
    for (size_t child; (child = 2 * at + 1) < count; at = child) {
        if (child + 1 < count && before(work->heap[child + 1], work->heap[child])) child++;
        if (!before(work->heap[child], last)) break;
        work->heap[at] = work->heap[child];
    }
    work->heap[at] = last;
    return top;
}

/* Queues the merge of the symbol at `position` with the next one, if there is such a merge. */
static flrq_status consider(const flrq_bpe *bpe, flrq_bpe_work *work, uint32_t position) {
    const symbol *left = &work->symbols[position], *right = &work->symbols[left->next];
    const merge_slot *merge = merge_find(bpe, pair_of((uint32_t)left->id, (uint32_t)right->id));
    if (merge->pair == NO_PAIR) return FLRQ_OK;
    return heap_push(work, (candidate){merge->rank, position, merge->id});
}

/* Merges the symbols of work->part and appends what is left. */
static flrq_status merge_part(const flrq_bpe *bpe, flrq_bpe_work *work, flrq_ids *ids) {
    size_t count = work->part.count;
    if (count > UINT32_MAX - 1)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "file %s: a word of %zu symbols, at most 2^32 - 2", bpe->path, count);
    if (count > work->symbol_room) {
        symbol *symbols = realloc(work->symbols, count * sizeof *symbols);
        if (!symbols) return flrq_fail_memory(count * sizeof *symbols, "merging");
        work->symbols = symbols, work->symbol_room = count;
    }
    symbol *s = work->symbols;
    for (size_t i = 0; i < count; i++)
        s[i] = (symbol){work->part.data[i], i ? (uint32_t)i - 1 : NONE, i + 1 < count ? (uint32_t)i + 1 : NONE};
    work->heap_count = 0;
    for (size_t i = 0; i + 1 < count; i++) FLRQ_TRY(consider(bpe, work, (uint32_t)i));
    while (work->heap_count) {
        candidate best = heap_pop(work);
        symbol *left = &s[best.position];
        if (left->id < 0 || left->next == NONE) continue;
        symbol *right = &s[left->next];
        const merge_slot *merge = merge_find(bpe, pair_of((uint32_t)left->id, (uint32_t)right->id));
        if (merge->pair == NO_PAIR || merge->id != best.id) continue; /* what was queued is gone */
        left->id = best.id;
        right->id = -1;
        left->next = right->next;
        if (left->next != NONE) s[left->next].prev = best.position;
        if (left->prev != NONE) FLRQ_TRY(consider(bpe, work, left->prev));
        if (left->next != NONE) FLRQ_TRY(consider(bpe, work, best.position));
    }
    FLRQ_TRY(flrq_ids_reserve(ids, count));
    for (uint32_t i = 0; i != NONE; i = s[i].next) ids->data[ids->count++] = s[i].id;
    return FLRQ_OK;
}

/* Encodes the part read so far, from the cache when it has been seen, and starts the next one. */
static flrq_status flush_part(const flrq_bpe *bpe, flrq_bpe_work *work, flrq_ids *ids) {
    const flrq_ids *part = &work->part;
    size_t count = part->count, from = ids->count;
    if (count < 2 || count > CACHED_SYMBOLS_MAX) {
        if (count == 1)
            FLRQ_TRY(flrq_ids_push(ids, part->data[0]));
        else if (count)
            FLRQ_TRY(merge_part(bpe, work, ids));
        work->part.count = 0;
        return FLRQ_OK;
    }
    size_t key_bytes = count * sizeof *part->data;
    uint64_t hash = XXH3_64bits(part->data, key_bytes);
    size_t at = hash & (CACHE_SLOTS - 1);
    for (; work->cache[at].key_count; at = (at + 1) & (CACHE_SLOTS - 1)) {
        const cache_slot *slot = &work->cache[at];
        if (slot->hash != hash || slot->key_count != count) continue;
        if (memcmp(work->kept.data + slot->key, part->data, key_bytes) != 0) continue;
        FLRQ_TRY(flrq_ids_append(ids, work->kept.data + slot->value, slot->value_count));
        work->part.count = 0;
        return FLRQ_OK;
    }
    FLRQ_TRY(merge_part(bpe, work, ids));
    if (work->cached >= CACHE_SLOTS / 2 || work->kept.count + 2 * count > CACHE_IDS_MAX) {
        memset(work->cache, 0, CACHE_SLOTS * sizeof *work->cache);
        work->cached = work->kept.count = 0;
        at = hash & (CACHE_SLOTS - 1);
    }
    cache_slot slot = {hash, (uint32_t)work->kept.count, (uint32_t)(work->kept.count + count), (uint32_t)count,
                       (uint32_t)(ids->count - from)};
    FLRQ_TRY(flrq_ids_append(&work->kept, part->data, count));
    FLRQ_TRY(flrq_ids_append(&work->kept, ids->data + from, ids->count - from));
    work->cache[at] = slot;
    work->cached++;
    work->part.count = 0;
    return FLRQ_OK;
}

/* A symbol joins the part at hand, or starts the next one when no merge can cross the place between them. */
typedef struct part_reader {
    const flrq_bpe *bpe;
    flrq_bpe_work *work;
    flrq_ids *ids;
    bool whole;    /* never cut */
    uint32_t last; /* last character of the symbol before */
} part_reader;

static flrq_status read_symbol(part_reader *reader, int32_t id, uint32_t first, uint32_t last) {
    if (reader->work->part.count && !reader->whole && *seam_find(reader->bpe, pair_of(reader->last, first)) == NO_PAIR)
        FLRQ_TRY(flush_part(reader->bpe, reader->work, reader->ids));
    reader->last = last;
    return flrq_ids_push(&reader->work->part, id);
}

static flrq_status read_unk(part_reader *reader) {
    flrq_span unk = reader->bpe->options.unk;
    return read_symbol(reader, reader->bpe->unk, first_char(unk), last_char(unk));
}

/* Id of one character of a word, -1 when it is no token. Spelled with prefix and suffix in work->spelled if it has any.
 */
static flrq_status find_char(const flrq_bpe *bpe, flrq_bpe_work *work, flrq_span *text, bool first, bool last,
                             int32_t *id) {
    flrq_span prefix = first ? (flrq_span){0} : bpe->options.prefix,
              suffix = last ? bpe->options.suffix : (flrq_span){0};
    if (prefix.bytes || suffix.bytes) {
        work->spelled.count = 0;
        FLRQ_TRY(flrq_bytes_append(&work->spelled, prefix.data, prefix.bytes));
        FLRQ_TRY(flrq_bytes_append(&work->spelled, text->data, text->bytes));
        FLRQ_TRY(flrq_bytes_append(&work->spelled, suffix.data, suffix.bytes));
        *text = (flrq_span){work->spelled.data, work->spelled.count};
        *id = flrq_bpe_find(bpe, *text);
        return FLRQ_OK;
    }
    uint32_t code = first_char(*text);
    *id = code < CHAR_TABLE ? bpe->chars[code] : flrq_bpe_find(bpe, *text);
    return FLRQ_OK;
}

flrq_status flrq_bpe_encode(const flrq_bpe *bpe, flrq_bpe_work *work, flrq_span word, flrq_ids *ids) {
    if (bpe->options.ignore_merges) {
        int32_t id = flrq_bpe_find(bpe, word);
        if (id >= 0) return flrq_ids_push(ids, id);
    }
    part_reader reader = {bpe, work, ids, bpe->options.prefix.bytes > 0, 0};
    bool waiting =
        false; /* an unknown character has been read but its token not yet written: more may be fused to it */
    work->part.count = 0;
    for (size_t at = 0, length; at < word.bytes; at += length) {
        length = flrq_utf8_length(word.data[at]);
        flrq_span text = {word.data + at, length};
        int32_t id;
        FLRQ_TRY(find_char(bpe, work, &text, at == 0, at + length == word.bytes, &id));
        if (id >= 0) {
            if (waiting) FLRQ_TRY(read_unk(&reader));
            waiting = false;
            FLRQ_TRY(read_symbol(&reader, id, first_char(text), last_char(text)));
            continue;
        }
        bool spelled = bpe->options.byte_fallback;
        for (size_t i = 0; i < text.bytes && spelled; i++) spelled = bpe->bytes[(unsigned char)text.data[i]] >= 0;
        if (spelled) {
            for (size_t i = 0; i < text.bytes; i++)
                FLRQ_TRY(read_symbol(&reader, bpe->bytes[(unsigned char)text.data[i]], '<', '>'));
        } else if (bpe->options.unk.bytes) {
            if (bpe->unk < 0) {
                char quoted[64], quoted_unk[64];
                return flrq_fail(FLRQ_ERR_FORMAT,
                                 "file %s: the text has \"%s\", which is no token, and unk_token \"%s\" is not in the "
                                 "vocabulary",
                                 bpe->path, quote(quoted, text), quote(quoted_unk, bpe->options.unk));
            }
            if (waiting && !bpe->options.fuse_unk) FLRQ_TRY(read_unk(&reader));
            waiting = true;
        }
    }
    if (waiting) FLRQ_TRY(read_unk(&reader));
    return flush_part(bpe, work, ids);
}
