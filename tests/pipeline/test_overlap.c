/* test_overlap.c - quantize on a device with memory of its own: the same bytes whatever the order of copies, the place
 * of the activations, the token batch or the moment of a stop; every failure clean and resumable; the plan it is made
 * by.
 */
#include <dirent.h>

#include "core/dtype.h"
#include "io/npy.h"
#include "pipeline/device.h"

enum { SEGMENTS = 2, LENGTH = 1300 };

static char model_dir[512], tokens_path[560];

/* The small Llama with a longer context, as it is or in bf16. */
static void write_model(char dir[512], flrq_dtype dtype) {
    folder *f = folder_read("families/llama");
    json_object_set_new(f->config, "max_position_embeddings", json_integer(4096));
    for (int i = 0; i < f->n && dtype == FLRQ_BF16; i++) {
        folder_tensor *t = &f->tensors[i];
        assert_int_equal(t->dtype, FLRQ_F32);
        t->dtype = FLRQ_BF16, t->bytes /= 2;
        for (int64_t k = 0; k < (int64_t)t->bytes / 2; k++) /* in place: element k is read before its bytes are lost */
            flrq_store(t->data, FLRQ_BF16, k, flrq_load(t->data, FLRQ_F32, k));
    }
    snprintf(dir, 512, "%s", folder_write(f));
    folder_free(f);
}

/* The model, and tokens that fill several tiles. */
static int set_up(void **state) {
    write_model(model_dir, FLRQ_F32);
    int32_t *ids = malloc(sizeof(int32_t) * SEGMENTS * LENGTH);
    for (int i = 0; i < SEGMENTS * LENGTH; i++) ids[i] = (int32_t)((uint64_t)i * 2654435761u % 96);
    int64_t shape[2] = {SEGMENTS, LENGTH};
    flrq_npy_writer *writer;
    snprintf(tokens_path, sizeof tokens_path, "%s/tokens.npy", model_dir);
    MUST(flrq_npy_create(&writer, tokens_path, "<i4", sizeof(int32_t), 2, shape));
    MUST(flrq_npy_append(writer, ids, sizeof(int32_t) * SEGMENTS * LENGTH));
    MUST(flrq_npy_finish(writer));
    free(ids);
    return 0;
}

/* ---- jobs -------------------------------------------------------------------------------------------------------- */

/* What the events of a job said, and when it is to be stopped. */
typedef struct listener {
    char notices[4096];
    int64_t blocks_done, block_events;
    long progress, stop_at; /* number of the progress event that asks to stop; 0 none */
} listener;

static void listen_to(void *user, const flrq_event *event) {
    listener *l = user;
    size_t used = strlen(l->notices);
    if (event->kind == FLRQ_EVENT_NOTICE)
        snprintf(l->notices + used, sizeof l->notices - used, "%s\n", event->text);
    else if (event->kind == FLRQ_EVENT_BLOCK) {
        if (l->blocks_done) assert_int_equal(event->block, l->blocks_done + 1);
        l->blocks_done = event->block;
        l->block_events++;
    } else if (++l->progress == l->stop_at)
        flrq_request_stop();
}

/* Runs a job with pairs of option and value, ended by NULL. *result may be NULL. */
static flrq_status job(const char *command, const char *out, listener *l, json_t **result, ...) {
    static const char *const fixed[][2] = {{"group", "16"}, {"rank-policy", "fixed"}, {"rank", "4"}, {"threads", "2"}};
    flrq_params *params;
    char *text = NULL;
    listener none = {{0}, 0, 0, 0, 0};
    va_list options;
    MUST(flrq_params_new(&params, command));
    MUST(flrq_params_set(params, "model", model_dir));
    MUST(flrq_params_set(params, "out", out));
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++) MUST(flrq_params_set(params, fixed[i][0], fixed[i][1]));
    va_start(options, result);
    for (const char *name; (name = va_arg(options, const char *));)
        MUST(flrq_params_set(params, name, va_arg(options, const char *)));
    va_end(options);
    flrq_status status = flrq_run(params, listen_to, l ? l : &none, &text);
    if (result) *result = text ? json_loads(text, 0, NULL) : NULL;
    flrq_free(text);
    flrq_params_free(params);
    return status;
}

#define CALIBRATED   "calib-tokens", tokens_path
#define WEIGHTS_ONLY "calib", "none"

/* XXH3 of the safetensors and configs of a finished folder, by name. */
static json_t *hashes_of(const char *dir) {
    json_t *hashes = json_object();
    DIR *d = opendir(dir);
    if (!d) return hashes;
    for (struct dirent *e; (e = readdir(d));) {
        char path[800];
        uint64_t hash;
        if (e->d_name[0] == '.' || strcmp(e->d_name, "journal.jsonl") == 0 || strcmp(e->d_name, "report.json") == 0)
            continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (strcmp(e->d_name, "lowrank") == 0) {
            json_object_set_new(hashes, e->d_name, hashes_of(path));
            continue;
        }
        MUST(flrq_file_hash(path, &hash));
        json_object_set_new(hashes, e->d_name, json_integer((json_int_t)hash));
    }
    closedir(d);
    return hashes;
}

static void same_bytes(const char *a, const char *b) {
    json_t *left = hashes_of(a), *right = hashes_of(b);
    assert_true(json_object_size(left) >= 4);
    if (!json_equal(left, right)) fail_msg("%s and %s differ", a, b);
    json_decref(left);
    json_decref(right);
}

/* A name for a new output folder, and the reference: the CPU without overlap. */
static const char *new_out(char out[600]) {
    snprintf(out, 600, "%s/q", folder_new());
    return out;
}

static const char *reference(int calibrated) {
    static char done[2][600];
    if (done[calibrated][0]) return done[calibrated];
    new_out(done[calibrated]);
    if (calibrated)
        MUST(job("quantize", done[1], NULL, NULL, "device", "cpu", CALIBRATED, NULL));
    else
        MUST(job("quantize", done[0], NULL, NULL, "device", "cpu", WEIGHTS_ONLY, NULL));
    return done[calibrated];
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

static void copies_in_any_order(void **state) {
    char out[600];
    for (uint64_t seed = 0; seed < 12; seed++)
        for (int calibrated = 0; calibrated < 2; calibrated++) {
            listener l = {{0}, 0, 0, 0, 0};
            device_reset(seed);
            if (calibrated)
                MUST(job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL));
            else
                MUST(job("quantize", new_out(out), &l, NULL, "device", "cuda", WEIGHTS_ONLY, NULL));
            device_is_clean();
            assert_int_equal(l.block_events, 2);
            assert_true(device.copies > 40); /* overlap is the choice of auto */
            assert_true(device.phases > 14);
            same_bytes(out, reference(calibrated));
        }
}

static void overlap_off_uses_no_lane(void **state) {
    char out[600];
    device_reset(1);
    MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", "overlap", "off", CALIBRATED, NULL));
    device_is_clean();
    assert_int_equal(device.copies, 0);
    same_bytes(out, reference(1));
}

/* The main thread arrives at the fit of block 2 long before block 1 is written. */
static void slow_writer(void **state) {
    char out[600];
    device_reset(7);
    device.download_us = 15000;
    MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL));
    device_is_clean();
    same_bytes(out, reference(1));
}

static int64_t number_of(const json_t *result, const char *object, const char *key) {
    return json_integer_value(json_object_get(object ? json_object_get(result, object) : result, key));
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Of the plan made last: the backend's own part, which this device does not take, and its context in it. */
static size_t own_bytes;
static const size_t context_bytes = (size_t)600 << 20;

/* Device memory that is planned with these options where nothing limits it. */
static size_t planned(const char *overlap, int64_t *batch, int *on_host, size_t limit) {
    json_t *result;
    char out[600], gb[64];
    device_reset(0);
    device.absent = 1; /* a machine without the device */
    snprintf(gb, sizeof gb, "%.17g", (double)limit / 1e9);
    flrq_status status = job("plan", new_out(out), NULL, &result, "device", "cuda", "device-memory", gb, "overlap",
                             overlap, CALIBRATED, NULL);
    if (status != FLRQ_OK) return 0;
    size_t bytes = (size_t)number_of(result, "device", "bytes"), i;
    json_t *item;
    own_bytes = 0;
    json_array_foreach(json_object_get(result, "memory"), i,
                       item) if (strncmp(json_string_value(json_object_get(item, "name")), "CUDA ", 5) == 0)
        own_bytes += (size_t)number_of(item, NULL, "device_bytes");
    if (batch) *batch = number_of(result, "device", "batch");
    if (on_host) *on_host = json_is_true(json_object_get(json_object_get(result, "device"), "activations_on_host"));
    assert_true(json_is_true(json_object_get(json_object_get(result, "device"), "separate")));
    assert_false(json_is_true(json_object_get(json_object_get(result, "device"), "open")));
    json_decref(result);
    return bytes;
}

/* The device has so much memory as the plan wants, and room for small buffers that the plan does not list. */
static void limit_device(size_t bytes) {
    device.own = own_bytes - context_bytes;
    device.limit = bytes - own_bytes + 8192;
}

static void plan_is_the_run(void **state) {
    char out[600];
    static const char *const overlaps[] = {"on", "off"};
    for (int i = 0; i < 2; i++) {
        int64_t batch;
        int on_host;
        size_t bytes = planned(overlaps[i], &batch, &on_host, 0);
        bytes -= own_bytes;
        assert_int_equal(batch, LENGTH);
        assert_int_equal(on_host, 0);
        device_reset(3);
        MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", "overlap", overlaps[i], CALIBRATED, NULL));
        device_is_clean();
        /* The plan does not list the smallest buffers, and has room for the 4 MiB of a replay, which is not met here.
         */
        if (!(device.peak <= bytes + 8192 && device.peak + ((size_t)4 << 20) >= bytes * 0.98))
            fail_msg("overlap %s: %zu planned, %zu taken", overlaps[i], bytes, device.peak);
    }
}

/* As memory shrinks: a smaller batch, then activations on the host, then no overlap, then a refusal; every one of these
 * that runs gives the same bytes within what the plan allows. */
static void less_and_less_memory(void **state) {
    int64_t batch = 0, last_batch = LENGTH;
    int on_host = 0, last_on_host = 0;
    int seen_batches = 0, seen_host = 0;
    size_t bytes = planned("auto", &batch, &on_host, 0);
    assert_true(bytes > 0);
    for (;;) {
        char out[600];
        size_t limit = bytes - 1;
        bytes = planned("auto", &batch, &on_host, limit);
        if (!bytes) break;
        assert_true(bytes <= limit);
        seen_batches += batch < last_batch && !on_host;
        seen_host += on_host && !last_on_host;
        last_batch = batch, last_on_host = on_host;
        listener l = {{0}, 0, 0, 0, 0};
        device_reset(bytes);
        limit_device(bytes);
        MUST(job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL));
        device_is_clean();
        same_bytes(out, reference(1));
        assert_int_equal(strstr(l.notices, "stay in host memory") != NULL, on_host);
    }
    assert_int_equal(seen_batches, 4); /* 1300 tokens, 1024, 512; once with overlap and once without */
    assert_int_equal(seen_host, 2);
    assert_non_null(strstr(flrq_last_error(), "bytes of device memory wanted"));
    assert_non_null(strstr(flrq_last_error(), "--calib-len"));
}

/* More is free by the plan than can be had: the batch is halved once more, and recorded for the run that resumes. */
static void halved_when_memory_runs_out(void **state) {
    char out[600];
    listener l = {{0}, 0, 0, 0, 0};
    device_reset(0);
    MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL));
    long last = device.allocations;
    int halved = 0, refused = 0;
    for (long n = 1; n <= last; n += 3) {
        memset(&l, 0, sizeof l);
        device_reset(n);
        device.fail_allocation = n;
        flrq_status status = job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL);
        device_is_clean();
        if (status == FLRQ_OK) {
            same_bytes(out, reference(1));
            assert_non_null(strstr(l.notices, "token batch halved to 512"));
            halved++;
            continue;
        }
        refused++;
        assert_int_equal(status, FLRQ_ERR_MEMORY);
        assert_non_null(strstr(flrq_last_error(), "bytes wanted for "));
        device_reset(n);
        MUST(job("quantize", out, NULL, NULL, "device", "cuda", CALIBRATED, NULL));
        device_is_clean();
        same_bytes(out, reference(1));
    }
    assert_true(halved > 10 && refused > 3);
}

/* The same where an op wants memory of its own: the first block is begun again, later ones are an error. */
static void memory_for_an_op(void **state) {
    char out[600];
    device_reset(0);
    MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL));
    long last = device.linears, halved = 0, refused = 0;
    for (long n = 1; n <= last; n += 3) {
        listener l = {{0}, 0, 0, 0, 0};
        device_reset((uint64_t)n);
        device.fail_linear = n;
        flrq_status status = job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL);
        device_is_clean();
        if (status == FLRQ_OK) {
            assert_non_null(strstr(l.notices, "7 are free: token batch halved to 512"));
            halved++;
        } else {
            refused++;
            assert_int_equal(status, FLRQ_ERR_MEMORY);
            assert_non_null(
                strstr(flrq_last_error(), "99 bytes wanted for scratch, 7 are free; use a shorter --calib-len"));
            assert_non_null(strstr(flrq_last_error(), "block "));
            MUST(job("quantize", out, NULL, NULL, "device", "cuda", CALIBRATED, NULL));
            device_is_clean();
        }
        same_bytes(out, reference(1));
    }
    assert_true(halved > 3 && refused > 3);
}

/* Between a block's way to the writer and the next forward: the block cannot be begun again, though it may not be
 * committed yet. */
static void memory_after_the_fit(void **state) {
    char out[600], whole[600], bf16[512];
    write_model(bf16, FLRQ_BF16);
    MUST(job("quantize", new_out(whole), NULL, NULL, "model", bf16, "device", "cpu", CALIBRATED, NULL));
    device_reset(5);
    device.refuse_bf16 = 1;
    device.download_us = 15000;
    assert_int_equal(job("quantize", new_out(out), NULL, NULL, "model", bf16, "device", "cuda", CALIBRATED, NULL),
                     FLRQ_ERR_MEMORY);
    assert_non_null(strstr(flrq_last_error(), "99 bytes wanted for panels"));
    device_is_clean();
    listener l = {{0}, 0, 0, 0, 0};
    device_reset(5);
    MUST(job("quantize", out, &l, NULL, "model", bf16, "device", "cuda", CALIBRATED, NULL));
    device_is_clean();
    assert_non_null(strstr(l.notices, "1 of 2 blocks are done"));
    same_bytes(out, whole);
}

static void plan_without_a_device(void **state) {
    char out[600];
    listener l = {{0}, 0, 0, 0, 0};
    json_t *result;
    device_reset(0);
    device.absent = 1;
    MUST(job("plan", new_out(out), &l, &result, "device", "cuda:0", "device-memory", "24", CALIBRATED, NULL));
    assert_non_null(strstr(l.notices, "24 GB that is not here (device cuda: no driver)"));
    assert_int_equal(number_of(result, "device", "limit"), 24000000000);
    int64_t device_sum = 0;
    size_t i;
    json_t *item;
    json_array_foreach(json_object_get(result, "memory"), i, item) {
        const char *place = json_string_value(json_object_get(item, "place"));
        int64_t host = number_of(item, NULL, "bytes"), on_device = number_of(item, NULL, "device_bytes");
        assert_string_equal(place, host && on_device ? "both" : on_device ? "device" : "host");
        device_sum += on_device;
    }
    assert_true(device_sum >= number_of(result, "device", "bytes"));
    json_decref(result);
    assert_int_equal(job("plan", new_out(out), NULL, NULL, "device", "nonsense", CALIBRATED, NULL), FLRQ_ERR_USAGE);
    assert_int_equal(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL),
                     FLRQ_ERR_UNSUPPORTED);
}

/* ---- failures and stops ------------------------------------------------------------------------------------------ */

/* Every copy fails in turn: an error with its text and a tensor, and a state that leads to the same bytes. */
static void failing_copies(void **state) {
    char out[600];
    device_reset(0);
    MUST(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL));
    long last = device.copies;
    for (long n = 1; n <= last; n += 2) {
        device_reset((uint64_t)n);
        device.fail_copy = n;
        assert_int_equal(job("quantize", new_out(out), NULL, NULL, "device", "cuda", CALIBRATED, NULL), FLRQ_ERR_IO);
        if (!strstr(flrq_last_error(), "failed on the device") || !strstr(flrq_last_error(), "tensor model.layers."))
            fail_msg("copy %ld: %s", n, flrq_last_error());
        device_is_clean();
        MUST(job("quantize", out, NULL, NULL, "device", "cuda", CALIBRATED, NULL));
        device_is_clean();
        same_bytes(out, reference(1));
    }
}

/* A stop at every event: what was in flight is committed first, and the run goes on to the same bytes. */
static void stops(void **state) {
    char out[600];
    int stopped = 0;
    for (long n = 1;; n++) {
        listener l = {{0}, 0, 0, 0, n};
        device_reset((uint64_t)n);
        flrq_status status = job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL);
        device_is_clean();
        if (l.progress < n) break;
        if (status == FLRQ_STOPPED) {
            char said[64];
            stopped++;
            snprintf(said, sizeof said, "stopped with %lld of 2 blocks", (long long)l.blocks_done);
            assert_non_null(strstr(flrq_last_error(), said));
            MUST(job("quantize", out, NULL, NULL, "device", "cuda", "resume", "required", CALIBRATED, NULL));
            device_is_clean();
        } else
            assert_int_equal(status, FLRQ_OK); /* after the blocks there is nothing to stop */
        same_bytes(out, reference(1));
    }
    assert_true(stopped > 10);
}

/* The batch of the first part is the batch of the second, or nothing. */
static void resumed_with_its_batch(void **state) {
    char out[600];
    size_t half = planned("auto", NULL, NULL, planned("auto", NULL, NULL, 0) - 1);
    listener l = {{0}, 0, 0, 0, 12};
    device_reset(0);
    limit_device(half);
    assert_int_equal(job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL), FLRQ_STOPPED);
    assert_int_equal(l.blocks_done, 1);
    device_reset(0); /* room for all */
    json_t *result;
    MUST(job("quantize", out, NULL, &result, "device", "cuda", CALIBRATED, NULL));
    device_is_clean();
    assert_int_equal(number_of(result, "calibration", "batch"), 1024);
    json_decref(result);
    same_bytes(out, reference(1));
}

static void precision_is_part_of_the_run(void **state) {
    char out[600];
    listener l = {{0}, 0, 0, 0, 12};
    device_reset(0);
    assert_int_equal(job("quantize", new_out(out), &l, NULL, "device", "cuda", CALIBRATED, NULL), FLRQ_STOPPED);
    assert_int_equal(job("quantize", out, NULL, NULL, "device", "cuda", "precision", "full", CALIBRATED, NULL),
                     FLRQ_ERR_USAGE);
    assert_non_null(strstr(flrq_last_error(), "precision: \"fast\" there, \"full\" here"));
    MUST(job("quantize", out, NULL, NULL, "device", "cuda", "precision", "fast", CALIBRATED, NULL)); /* as auto */
    device_is_clean();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_in_any_order),
        cmocka_unit_test(memory_for_an_op),
        cmocka_unit_test(plan_without_a_device),
        cmocka_unit_test(stops),
        cmocka_unit_test(failing_copies),
        cmocka_unit_test(overlap_off_uses_no_lane),
        cmocka_unit_test(slow_writer),
        cmocka_unit_test(plan_is_the_run),
        cmocka_unit_test(less_and_less_memory),
        cmocka_unit_test(halved_when_memory_runs_out),
        cmocka_unit_test(memory_after_the_fit),
        cmocka_unit_test(resumed_with_its_batch),
        cmocka_unit_test(precision_is_part_of_the_run),
    };
    size_t count = sizeof tests / sizeof *tests;
#ifdef __SANITIZE_ADDRESS__
    count = 5; /* the others are more runs through the same code, and would take minutes */
#endif
    return _cmocka_run_group_tests("overlap", tests, count, set_up, NULL);
}
