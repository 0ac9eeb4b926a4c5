/* added_tokens.c - a trie over the bytes of all added tokens, walked from every place where one could start.
 *
 * The rules for the ends are the reference's, including that a token found in white space which the token before it has
 * taken along still counts, unless it would take along white space itself.
 */
#include "text/added_tokens.h"

#include <stdlib.h>
#include "text/unicode.h"

typedef struct flrq_trie_node {
    unsigned char byte;
    int32_t child, sibling; /* 0: none */
    int32_t token;          /* index into tokens, -1: none ends here */
} flrq_trie_node;

void flrq_added_set_clear(flrq_added_set *set) {
    free(set->tokens);
    free(set->nodes);
    *set = (flrq_added_set){0};
}

/* Node of `byte` in the list of siblings that starts at `node`, 0 when it is not there. */
static int32_t find_node(const flrq_added_set *set, int32_t node, unsigned char byte) {
    while (node && set->nodes[node].byte != byte) node = set->nodes[node].sibling;
    return node;
}

static flrq_status make_node(flrq_added_set *set, unsigned char byte, int32_t sibling, int32_t *node) {
    if (set->node_count + 1 >= set->node_capacity) {
        size_t capacity = set->node_capacity * 2 + 64;
        flrq_trie_node *nodes = capacity < INT32_MAX ? realloc(set->nodes, capacity * sizeof *nodes) : NULL;
        if (!nodes) return flrq_fail_memory(capacity * sizeof *nodes, "added tokens");
        set->nodes = nodes, set->node_capacity = capacity;
    }
    *node = (int32_t)++set->node_count; /* node 0 stays unused: it means none */
    set->nodes[*node] = (flrq_trie_node){byte, 0, sibling, -1};
    return FLRQ_OK;
}

flrq_status flrq_added_set_add(flrq_added_set *set, flrq_span text, flrq_added_token token) {
    int32_t node = 0;
    if (set->count == set->capacity) {
        size_t capacity = set->capacity * 2 + 16;
        flrq_added_token *tokens = realloc(set->tokens, capacity * sizeof *tokens);
        if (!tokens) return flrq_fail_memory(capacity * sizeof *tokens, "added tokens");
        set->tokens = tokens, set->capacity = capacity;
    }
    for (size_t i = 0; i < text.bytes; i++) {
        unsigned char byte = (unsigned char)text.data[i];
        int32_t parent = node, siblings = i ? set->nodes[parent].child : set->roots[byte];
        node = find_node(set, siblings, byte);
        if (node) continue;
        FLRQ_TRY(make_node(set, byte, siblings, &node));
        if (i == 0)
            set->roots[byte] = node;
        else
            set->nodes[parent].child = node;
    }
    if (set->nodes[node].token >= 0) {
        flrq_added_token *known = &set->tokens[set->nodes[node].token];
        if (known->id != token.id)
            return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                             "the added token with id %d is found by the same text: which one "
                             "the reference takes is left to chance",
                             (int)known->id);
        *known = token;
        return FLRQ_OK;
    }
    set->nodes[node].token = (int32_t)set->count;
    set->tokens[set->count++] = token;
    return FLRQ_OK;
}

/* Longest token that starts at `at`: its index, or -1; *end: where it ends. */
static int32_t longest_at(const flrq_added_set *set, flrq_span text, size_t at, size_t *end) {
    int32_t found = -1, node = set->roots[(unsigned char)text.data[at]];
    while (node) {
        const flrq_trie_node *n = &set->nodes[node];
        at++;
        if (n->token >= 0) found = n->token, *end = at;
        if (at == text.bytes) break;
        node = find_node(set, n->child, (unsigned char)text.data[at]);
    }
    return found;
}

/* True when the token at [begin, end) stands apart from word characters on both sides. */
static bool is_single_word(flrq_span text, size_t begin, size_t end) {
    size_t length;
    if (begin > 0 && flrq_is_word(flrq_utf8_get(flrq_utf8_back(text.data + begin), &length))) return false;
    return end == text.bytes || !flrq_is_word(flrq_utf8_get(text.data + end, &length));
}

static size_t space_before(flrq_span text, size_t at) {
    size_t length;
    while (at > 0) {
        const char *back = flrq_utf8_back(text.data + at);
        if (!flrq_is_space(flrq_utf8_get(back, &length))) break;
        at = (size_t)(back - text.data);
    }
    return at;
}

static size_t space_behind(flrq_span text, size_t at) {
    for (size_t length; at < text.bytes && flrq_is_space(flrq_utf8_get(text.data + at, &length));) at += length;
    return at;
}

bool flrq_added_next(flrq_added_scan *scan, flrq_added_piece *piece) {
    const flrq_added_set *set = scan->set;
    flrq_span text = scan->text;
    if (scan->waiting) {
        scan->waiting = false;
        *piece = scan->token;
        return true;
    }
    while (scan->at < text.bytes && set->count) {
        size_t begin = scan->at, end = 0;
        int32_t found = longest_at(set, text, begin, &end);
        if (found < 0) {
            scan->at++;
            continue;
        }
        const flrq_added_token *token = &set->tokens[found];
        scan->at = end;
        if (token->single_word && !is_single_word(text, begin, end)) continue;
        if (token->lstrip) {
            begin = space_before(text, begin);
            if (begin < scan->done) begin = scan->done;
            if (begin >= end) continue; /* all of it is white space that the token before has taken */
        }
        if (token->rstrip) end = space_behind(text, end);
        *piece = (flrq_added_piece){token->id, begin, end};
        if (scan->done < begin) { /* the text before it goes first */
            scan->token = *piece;
            scan->waiting = true;
            *piece = (flrq_added_piece){-1, scan->done, begin};
        }
        scan->done = end;
        return true;
    }
    scan->at = text.bytes;
    if (scan->done == text.bytes) return false;
    *piece = (flrq_added_piece){-1, scan->done, text.bytes};
    scan->done = text.bytes;
    return true;
}
