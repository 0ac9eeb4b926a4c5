/* logits.h - runs a whole model on a backend, block by block, as the tests of the model layer need it; and their
 * measure of agreement. */
#ifndef TESTS_MODEL_LOGITS_H
#define TESTS_MODEL_LOGITS_H

#include <math.h>
#include "model/folder.h"

static inline flrq_backend *backend_opens(const char *name) {
    flrq_backend *be = NULL;
    if (flrq_backend_open(&be, name, 2) != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return be;
}

static inline void *backend_memory(flrq_backend *be, size_t bytes) {
    void *memory = NULL;
    if (be->alloc(be, &memory, bytes, "a test") != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return memory;
}

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        if ((call) != FLRQ_OK) fail_msg("%s", flrq_last_error());                                                      \
    } while (0)

/** Logits [tokens, vocab] of one sequence (free()). */
static inline float *model_logits(const flrq_model *m, flrq_backend *be, const int32_t *ids, int64_t tokens) {
    flrq_globals *globals;
    flrq_block *block;
    size_t x_bytes = (size_t)(tokens * m->hidden) * sizeof(float);
    size_t logits_bytes = (size_t)(tokens * m->vocab) * sizeof(float);
    float *d_x = backend_memory(be, x_bytes), *d_logits = backend_memory(be, logits_bytes);
    void *d_work = backend_memory(be, flrq_workspace_bytes(m, tokens, FLRQ_TOKEN_TILE));
    MUST(flrq_globals_load(&globals, m, be, FLRQ_GLOBALS_EMBED));
    MUST(flrq_forward_embed(m, be, globals, d_x, ids, tokens));
    flrq_globals_free(globals, be);
    MUST(flrq_block_new(&block, m, be));
    for (int64_t b = 0; b < m->layers; b++) {
        MUST(flrq_block_load(block, m, b));
        MUST(flrq_forward_block(m, be, block, d_x, tokens, FLRQ_TOKEN_TILE, d_work, NULL, NULL));
    }
    flrq_block_free(block, be);
    MUST(flrq_globals_load(&globals, m, be, FLRQ_GLOBALS_HEAD));
    MUST(flrq_forward_head(m, be, globals, d_logits, d_x, tokens));
    flrq_globals_free(globals, be);
    float *logits = malloc(logits_bytes);
    assert_non_null(logits);
    MUST(be->download(be, logits, d_logits, logits_bytes));
    be->release(be, d_x);
    be->release(be, d_logits);
    be->release(be, d_work);
    return logits;
}

/** ||a - b|| / ||b||, or max|a - b| / max|b|, whichever is larger; infinity when anything is not finite. */
static inline double disagreement(const float *a, const float *b, int64_t count) {
    double diff = 0, norm = 0, max_diff = 0, max = 0;
    for (int64_t i = 0; i < count; i++) {
        if (!isfinite(a[i]) || !isfinite(b[i])) return INFINITY;
        double d = fabs((double)a[i] - b[i]), v = fabs((double)b[i]);
        diff += d * d;
        norm += v * v;
        if (d > max_diff) max_diff = d;
        if (v > max) max = v;
    }
    double whole = sqrt(diff / norm), worst = max_diff / max;
    return whole > worst ? whole : worst;
}

#endif
