/* test_stream.c - the stage of calls between two threads, and the feed on a lane whose copies happen late. */
#include <stdatomic.h>
#include <time.h>

#include "pipeline/device.h"
#include "pipeline/stream.h"

static void nap(long microseconds) {
    nanosleep(&(struct timespec){.tv_nsec = microseconds * 1000}, NULL);
}

/* ---- stage ------------------------------------------------------------------------------------------------------- */

typedef struct record {
    int64_t seen[1000];
    atomic_int count;
    int64_t fail_at; /* value that fails; -1 none */
    int slow;
} record;

static flrq_status note(void *context, const void *arguments) {
    record *r = context;
    int64_t value;
    memcpy(&value, arguments, sizeof value);
    if (r->slow) nap(200);
    if (value == r->fail_at) return flrq_fail(FLRQ_ERR_IO, "file %lld is on a full disk", (long long)value);
    r->seen[r->count] = value;
    r->count++;
    return FLRQ_OK;
}

/* More calls than the queue holds, in order, with their own copies of the arguments. */
static void in_order(void **state) {
    for (int threaded = 0; threaded < 2; threaded++) {
        record r = {.fail_at = -1, .slow = threaded};
        flrq_stage *stage;
        uint64_t ticket[300];
        MUST(flrq_stage_open(&stage, "test", threaded));
        MUST(flrq_stage_wait(stage, 0)); /* of no call */
        for (int64_t i = 0; i < 300; i++) {
            int64_t value = i * i;
            MUST(flrq_stage_call(stage, note, &r, &value, sizeof value, &ticket[i]));
            value = -1;
            if (!threaded) assert_int_equal(r.count, i + 1);
        }
        MUST(flrq_stage_wait(stage, ticket[250]));
        assert_true(r.count > 250);
        MUST(flrq_stage_wait(stage, 0));
        assert_int_equal(r.count, 300);
        for (int64_t i = 0; i < 300; i++) assert_int_equal(r.seen[i], i * i);
        flrq_stage_close(stage);
    }
}

static void close_makes_the_calls(void **state) {
    record r = {.fail_at = -1, .slow = 1};
    flrq_stage *stage;
    MUST(flrq_stage_open(&stage, "test", 1));
    for (int64_t i = 0; i < 20; i++) MUST(flrq_stage_call(stage, note, &r, &i, sizeof i, NULL));
    flrq_stage_close(stage);
    assert_int_equal(r.count, 20);
    flrq_stage_close(NULL);
}

/* The first failure ends the stage: its text comes to the thread that asks, and nothing after it is done. */
static void failure_travels(void **state) {
    for (int threaded = 0; threaded < 2; threaded++) {
        record r = {.fail_at = 7, .slow = threaded};
        flrq_stage *stage;
        flrq_status status = FLRQ_OK;
        MUST(flrq_stage_open(&stage, "test", threaded));
        for (int64_t i = 0; i < 200 && status == FLRQ_OK; i++)
            status = flrq_stage_call(stage, note, &r, &i, sizeof i, NULL);
        assert_int_equal(status, FLRQ_ERR_IO); /* more calls than the queue holds, so it has come by now */
        assert_string_equal(flrq_last_error(), "file 7 is on a full disk");
        flrq_fail(FLRQ_ERR_USAGE, "another");
        assert_int_equal(flrq_stage_drain(stage), FLRQ_ERR_IO);
        assert_string_equal(flrq_last_error(), "another");
        assert_int_equal(flrq_stage_wait(stage, 0), FLRQ_ERR_IO);
        assert_string_equal(flrq_last_error(), "file 7 is on a full disk");
        flrq_fail(FLRQ_ERR_USAGE, "another");
        assert_int_equal(flrq_stage_call(stage, note, &r, &(int64_t){1}, sizeof(int64_t), NULL), FLRQ_ERR_IO);
        assert_string_equal(flrq_last_error(), "file 7 is on a full disk");
        flrq_stage_close(stage);
        assert_int_equal(r.count, 7);
    }
}

static void arguments_that_do_not_fit(void **state) {
    flrq_stage *stage;
    char large[FLRQ_STAGE_ARGUMENTS + 1] = {0};
    MUST(flrq_stage_open(&stage, "test", 1));
    assert_int_equal(flrq_stage_call(stage, note, NULL, large, sizeof large, NULL), FLRQ_ERR_INTERNAL);
    MUST(flrq_stage_wait(stage, 0));
    flrq_stage_close(stage);
}

/* ---- feed -------------------------------------------------------------------------------------------------------- */

/* A tensor through slots far smaller than it, with copies as late as they may be. */
static void feed_in_pieces(void **state) {
    folder *f = folder_read("families/llama");
    flrq_checkpoint *checkpoint;
    flrq_backend *be;
    MUST(flrq_checkpoint_open(&checkpoint, "data/families/llama"));
    for (uint64_t seed = 0; seed < 20; seed++)
        for (int slots = 1; slots <= FLRQ_FEED_SLOTS; slots++)
            for (int beside = 0; beside < 2; beside++) {
                device_reset(seed);
                MUST(flrq_backend_open(&be, "cuda", 1));
                flrq_feed feed;
                void *d_to;
                MUST(flrq_feed_new(&feed, be, 320, slots, beside));
                for (int64_t i = 0; i < checkpoint->n_tensors; i += 7) {
                    const flrq_tensor *t = &checkpoint->tensors[i];
                    MUST(be->alloc(be, &d_to, t->bytes, "a tensor"));
                    MUST(flrq_feed_tensor(&feed, checkpoint, t, d_to));
                    MUST(flrq_feed_wait(&feed));
                    assert_memory_equal(d_to, folder_find(f, t->name)->data, t->bytes);
                    be->release(be, d_to);
                }
                flrq_feed_free(&feed);
                flrq_feed_free(&feed);
                flrq_backend_close(be);
                device_is_clean();
            }
    flrq_checkpoint_close(checkpoint);
    folder_free(f);
}

/* Every failing allocation and copy is an error that names the tensor, and leaves nothing. */
static void feed_failures(void **state) {
    flrq_checkpoint *checkpoint;
    flrq_backend *be;
    MUST(flrq_checkpoint_open(&checkpoint, "data/families/llama"));
    const flrq_tensor *t = flrq_checkpoint_find(checkpoint, "model.layers.1.mlp.up_proj.weight");
    assert_non_null(t);
    for (long n = 1; n <= 3; n++) {
        device_reset(n);
        MUST(flrq_backend_open(&be, "cuda", 1));
        flrq_feed feed;
        device.fail_allocation = n;
        assert_int_equal(flrq_feed_new(&feed, be, 320, 3, 1), FLRQ_ERR_MEMORY);
        flrq_feed_free(&feed);
        flrq_backend_close(be);
        device_is_clean();
    }
    long pieces = (long)((t->bytes + 319) / 320);
    for (long n = 1; n <= pieces + 1; n++) {
        device_reset(n);
        MUST(flrq_backend_open(&be, "cuda", 1));
        flrq_feed feed;
        void *d_to;
        MUST(flrq_feed_new(&feed, be, 320, 3, 1));
        MUST(be->alloc(be, &d_to, t->bytes, "a tensor"));
        device.fail_copy = n;
        flrq_status status = flrq_feed_tensor(&feed, checkpoint, t, d_to);
        assert_int_equal(status, n <= pieces ? FLRQ_ERR_IO : FLRQ_OK);
        if (status != FLRQ_OK) {
            assert_non_null(strstr(flrq_last_error(), "tensor model.layers.1.mlp.up_proj.weight: "));
            assert_non_null(strstr(flrq_last_error(), "failed on the device"));
        }
        flrq_feed_free(&feed); /* first: copies may still be under way to d_to */
        be->release(be, d_to);
        flrq_backend_close(be);
        device_is_clean();
    }
    flrq_checkpoint_close(checkpoint);
}

/* Slots that several threads fill; a file that has lost its end is an error with the text of one reader. */
static void feed_by_several_threads(void **state) {
    folder *f = folder_read("families/llama");
    folder_tensor *t = folder_add(f, "model.layers.0.wide", FLRQ_F32, 2, 1111, 2000, NULL);
    for (uint64_t i = 0; i < t->bytes / 4; i++) ((uint32_t *)t->data)[i] = (uint32_t)i * 2654435761u;
    char path[600];
    snprintf(path, sizeof path, "%s/model.safetensors", folder_write(f));
    flrq_checkpoint *checkpoint;
    flrq_backend *be;
    flrq_feed feed;
    void *d_to;
    device_reset(11);
    MUST(flrq_checkpoint_open(&checkpoint, path));
    MUST(flrq_backend_open(&be, "cuda", 1));
    MUST(flrq_feed_new(&feed, be, 5 << 20, 2, 1));
    feed.readers = FLRQ_FEED_READERS;
    MUST(be->alloc(be, &d_to, t->bytes, "a tensor"));
    const flrq_tensor *stored = flrq_checkpoint_find(checkpoint, t->name);
    MUST(flrq_feed_tensor(&feed, checkpoint, stored, d_to));
    MUST(flrq_feed_wait(&feed));
    assert_memory_equal(d_to, t->data, t->bytes);
    assert_int_equal(truncate(path, (off_t)(stored->offset + t->bytes - 100)), 0);
    assert_int_equal(flrq_feed_tensor(&feed, checkpoint, stored, d_to), FLRQ_ERR_IO);
    assert_non_null(strstr(flrq_last_error(), "tensor model.layers.0.wide: "));
    flrq_feed_free(&feed);
    be->release(be, d_to);
    flrq_backend_close(be);
    flrq_checkpoint_close(checkpoint);
    folder_free(f);
    device_is_clean();
}

/* A whole block on a lane is the block that the order of the ops gives; packed weights are refused there. */
static void block_beside(void **state) {
    flrq_model *m = model_opens("data/families/llama", 0);
    flrq_block *plain, *beside;
    flrq_feed feed;
    flrq_backend *be;
    device_reset(5);
    MUST(flrq_backend_open(&be, "cuda", 1));
    MUST(flrq_block_new(&plain, m, be));
    MUST(flrq_block_new(&beside, m, be));
    MUST(flrq_feed_new(&feed, be, 640, 3, 1));
    for (int64_t b = 0; b < m->layers; b++) {
        MUST(flrq_block_load(plain, m, b));
        MUST(flrq_block_load_through(beside, m, &feed, b));
        for (int s = 0; s < FLRQ_SLOT_COUNT; s++)
            assert_memory_equal(plain->linear[s].d_dense, beside->linear[s].d_dense,
                                (size_t)(plain->linear[s].rows * plain->linear[s].cols * 4));
        assert_memory_equal(plain->d_attn_norm, beside->d_attn_norm, (size_t)m->hidden * sizeof(float));
        assert_int_equal(beside->index, b);
    }
    device.fail_copy = device.copies + 3;
    assert_int_equal(flrq_block_load_through(beside, m, &feed, 0), FLRQ_ERR_IO);
    assert_int_equal(beside->index, -1);
    flrq_feed_free(&feed);
    flrq_block_free(beside, be);
    flrq_block_free(plain, be);
    flrq_backend_close(be);
    flrq_model_close(m);
    device_is_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order),        cmocka_unit_test(close_makes_the_calls),
        cmocka_unit_test(failure_travels), cmocka_unit_test(arguments_that_do_not_fit),
        cmocka_unit_test(feed_in_pieces),  cmocka_unit_test(feed_failures),
        cmocka_unit_test(block_beside),    cmocka_unit_test(feed_by_several_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
