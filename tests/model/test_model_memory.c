/* test_model_memory.c - opening and loading with every single allocation failing in turn, and the promise that loading
 * a block and running it allocate nothing.
 *
 * The allocator is that of tests/allocator.h, which lets a chosen one fail. Skipped under AddressSanitizer, whose
 * allocator cannot be replaced.
 */
#include "model/logits.h"
#include "model/packed.h"

#if defined(__SANITIZE_ADDRESS__) || !defined(__GLIBC__)
int main(void) {
    return 77;
}
#else

#include "allocator.h"

static char dense_dir[512], packed_dir[512], tied_dir[512], old_dir[512], strange_dir[512];

static flrq_status open_and_load(const char *dir, int flags) {
    flrq_model *model = NULL;
    flrq_backend *be = NULL;
    flrq_block *block = NULL;
    flrq_globals *globals = NULL;
    flrq_status status = flrq_model_open(&model, dir, flags);
    if (status == FLRQ_OK && model->family) {
        status = flrq_backend_open(&be, "cpu-ref", 1);
        if (status == FLRQ_OK) status = flrq_block_new(&block, model, be);
        if (status == FLRQ_OK) status = flrq_block_load(block, model, 1);
        if (status == FLRQ_OK) status = flrq_globals_load(&globals, model, be, FLRQ_GLOBALS_EMBED | FLRQ_GLOBALS_HEAD);
        if (be) {
            flrq_block_free(block, be);
            flrq_globals_free(globals, be);
        }
        flrq_backend_close(be);
    }
    flrq_model_close(model);
    return status;
}

static void test_every_allocation(void **state) {
    static const struct {
        const char *dir;
        int flags;
    } cases[] = {{dense_dir, 0}, {packed_dir, 0}, {tied_dir, 0}, {old_dir, 0}, {strange_dir, FLRQ_MODEL_ALLOW_UNKNOWN}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (open_and_load(cases[i].dir, cases[i].flags) != FLRQ_OK)
            fail_msg("%s", flrq_last_error()); /* warms caches */
        int failed = 0;
        for (int skip = 0;; skip++) {
            long alive = allocator.alive;
            allocator.skip = skip;
            allocator.happened = 0;
            allocator.armed = 1;
            flrq_status status = open_and_load(cases[i].dir, cases[i].flags);
            allocator.armed = 0;
            if (allocator.alive != alive)
                fail_msg("case %zu, allocation %d: %ld blocks leaked", i, skip, allocator.alive - alive);
            if (!allocator.happened) break;
            failed += status != FLRQ_OK;
            if (status != FLRQ_OK && status != FLRQ_ERR_MEMORY)
                fail_msg("case %zu, allocation %d: %s: %s", i, skip, flrq_status_name(status), flrq_last_error());
        }
        assert_true(failed > 20);
    }
}

/** Neither flrq_block_load() nor flrq_forward_block() allocates, dense or packed, once the backend's scratch has grown.
 */
static void test_no_allocation(void **state) {
    static const char *const dirs[] = {dense_dir, packed_dir};
    for (int i = 0; i < 2; i++) {
        flrq_backend *be = NULL;
        flrq_block *block;
        MUST(flrq_backend_open(&be, "cpu", 1));
        flrq_model *m = model_opens(dirs[i], 0);
        MUST(flrq_block_new(&block, m, be));
        float *d_x = backend_memory(be, (size_t)(20 * m->hidden) * sizeof(float));
        void *d_work = backend_memory(be, flrq_workspace_bytes(m, 20, FLRQ_TOKEN_TILE));
        MUST(be->zero(be, d_x, (size_t)(20 * m->hidden) * sizeof(float)));
        long calls = 0;
        for (int64_t b = 0; b < m->layers; b++) {
            if (b == 1) calls = allocator.calls;
            MUST(flrq_block_load(block, m, b));
            MUST(flrq_forward_block(m, be, block, d_x, 20, FLRQ_TOKEN_TILE, d_work, NULL, NULL));
        }
        assert_int_equal(allocator.calls - calls, 0);
        be->release(be, d_x);
        be->release(be, d_work);
        flrq_block_free(block, be);
        flrq_model_close(m);
        flrq_backend_close(be);
    }
}

static void make_folders(void) {
    folder *f = folder_read("families/llama_bias");
    snprintf(dense_dir, sizeof dense_dir, "%s", folder_write(f));
    folder_tensor *e = folder_find(f, "model.embed_tokens.weight");
    folder_add(f, "lm_head.weight", FLRQ_F32, 2, e->shape[0], e->shape[1], e->data);
    snprintf(tied_dir, sizeof tied_dir, "%s", folder_write(f));
    json_object_set_new(f->config, "model_type", json_string("strange"));
    snprintf(strange_dir, sizeof strange_dir, "%s", folder_write(f));
    folder_free(f);
    f = folder_read("families/opt");
    for (int i = 0; i < f->n; i++) memmove(f->tensors[i].name, f->tensors[i].name + 6, strlen(f->tensors[i].name) - 5);
    snprintf(old_dir, sizeof old_dir, "%s", folder_write(f));
    folder_free(f);
    const recipe r = {"families/llama_bias", 3, 0, 16, 2, FLRQ_F16, 1};
    pair p = make_pair(&r);
    json_t *q = json_object_get(p.packed->config, "quantization_config");
    json_object_set_new(q, "ignore", json_pack("[s]", "re:.*lm_head")); /* regular expressions allocate too */
    snprintf(packed_dir, sizeof packed_dir, "%s", write_packed(&p));
    free_pair(&p);
}

int main(void) {
    /* jansson itself drops characters of a text when it cannot grow a buffer: its allocations are left out */
    json_set_alloc_funcs(__libc_malloc, __libc_free);
    make_folders();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation), cmocka_unit_test(test_no_allocation)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
