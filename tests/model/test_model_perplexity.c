/* test_model_perplexity.c - a trained model from text to perplexity: tokenizer, embedding, blocks, head and loss
 * together, against the number that an independent program gave for the same text (each line with <s> before it, all
 * joined, windows of 256 tokens, every token scored against its successor; bf16 weights, fp32 arithmetic).
 */
#include "model/logits.h"
#include "text/tokenizer.h"

enum { WINDOW = 256 };

/** The text's lines, newline included, each encoded with its special tokens (free()). */
static int32_t *encode_lines(const char *path, int64_t *count) {
    flrq_tokenizer *tokenizer;
    char *text;
    size_t bytes;
    MUST(flrq_tokenizer_open(&tokenizer, "data/tinylm"));
    MUST(flrq_file_read(path, 1 << 24, &text, &bytes));
    int32_t *all = malloc(bytes * 2 * sizeof *all); /* no more tokens than bytes, and one per line */
    assert_non_null(all);
    *count = 0;
    for (char *line = text; line < text + bytes;) {
        char *end = memchr(line, '\n', (size_t)(text + bytes - line));
        size_t length = end ? (size_t)(end + 1 - line) : (size_t)(text + bytes - line);
        int32_t *ids;
        int64_t n;
        MUST(flrq_tokenizer_encode(tokenizer, line, length, true, &ids, &n));
        memcpy(all + *count, ids, (size_t)n * sizeof *ids);
        *count += n;
        free(ids);
        line += length;
    }
    free(text);
    flrq_tokenizer_close(tokenizer);
    return all;
}

static void test_tinylm(void **state) {
    int64_t count;
    int32_t *ids = encode_lines("data/tinylm/eval.txt", &count);
    assert_int_equal(count, 61887);
    flrq_backend *be = NULL;
    MUST(flrq_backend_open(&be, "cpu", 1));
    flrq_model *m = model_opens("data/tinylm", 0);
    int64_t windows = (count - 1) / WINDOW, tokens = windows * WINDOW;
    float *d_x = backend_memory(be, (size_t)(tokens * m->hidden) * sizeof(float));
    float *d_logits = backend_memory(be, (size_t)(WINDOW * m->vocab) * sizeof(float));
    void *d_work = backend_memory(be, flrq_workspace_bytes(m, WINDOW, FLRQ_TOKEN_TILE));
    flrq_globals *globals;
    flrq_block *block;
    MUST(flrq_globals_load(&globals, m, be, FLRQ_GLOBALS_EMBED | FLRQ_GLOBALS_HEAD));
    MUST(flrq_block_new(&block, m, be));
    MUST(flrq_forward_embed(m, be, globals, d_x, ids, tokens));
    for (int64_t b = 0; b < m->layers; b++) {
        MUST(flrq_block_load(block, m, b));
        for (int64_t w = 0; w < windows; w++)
            MUST(flrq_forward_block(m, be, block, d_x + w * WINDOW * m->hidden, WINDOW, FLRQ_TOKEN_TILE, d_work, NULL,
                                    NULL));
    }
    double sum = 0, nll[WINDOW];
    for (int64_t w = 0; w < windows; w++) {
        MUST(flrq_forward_head(m, be, globals, d_logits, d_x + w * WINDOW * m->hidden, WINDOW));
        MUST(be->nll(be, nll, NULL, d_logits, ids + w * WINDOW + 1, WINDOW, m->vocab));
        for (int t = 0; t < WINDOW; t++) sum += nll[t];
    }
    double perplexity = exp(sum / (double)tokens);
    print_message("perplexity %.6f over %lld tokens\n", perplexity, (long long)tokens);
    if (!(fabs(perplexity - 13.7245) <= 1e-4))
        fail_msg("perplexity %.6f, known 13.7245", perplexity); /* its last digit */
    be->release(be, d_x);
    be->release(be, d_logits);
    be->release(be, d_work);
    flrq_block_free(block, be);
    flrq_globals_free(globals, be);
    flrq_model_close(m);
    flrq_backend_close(be);
    free(ids);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_tinylm)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
