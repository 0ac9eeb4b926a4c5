/* test_workers_agree.c - what workers of one run must do alike although each finds it out for itself: to stop at the
 * same point with nothing of theirs on its way, and to make the same calls where their devices have unequal memory.
 */
#include <pthread.h>

#include "model/logits.h"
#include "pipeline/bench_model.h"
#include "pipeline/job.h"

enum { WORKERS = 2, SEGMENTS = 2, LENGTH = 64 };

/* Three chunks of rows in the MLP, one elsewhere: both workers have rows to send. */
static const flrq_bench_shape shape = {"test", FLRQ_BENCH_LLAMA, 128, 1280, 3, 4, 2, 64, 1024, 10000};
static char model_dir[512], tokens_path[560];

static int set_up(void **state) {
    flrq_reporter reporter = {0};
    folder *f = folder_read("families/llama"); /* for its temporary folder alone */
    snprintf(model_dir, sizeof model_dir, "%.480s/generated", folder_write(f));
    snprintf(tokens_path, sizeof tokens_path, "%s.npy", model_dir);
    folder_free(f);
    MUST(flrq_dir_make(model_dir));
    MUST(flrq_bench_model_write(model_dir, &shape, shape.blocks, 1, 2, 0, &reporter));
    MUST(flrq_bench_tokens_write(tokens_path, shape.vocab, SEGMENTS, LENGTH, 1));
    return 0;
}

static flrq_params *params_for(const char *out, const char *overlap) {
    const char *const options[][2] = {{"model", model_dir},
                                      {"out", out},
                                      {"device", "cpu"},
                                      {"threads", "1"},
                                      {"calib-tokens", tokens_path},
                                      {"overlap", overlap},
                                      {"epochs", "1"},
                                      {"rank-policy", "fixed"},
                                      {"rank", "3"},
                                      {"clip-steps", "2"}};
    flrq_params *params;
    MUST(flrq_params_new(&params, "quantize"));
    for (size_t i = 0; i < sizeof options / sizeof *options; i++)
        MUST(flrq_params_set(params, options[i][0], options[i][1]));
    MUST(flrq_params_check(params));
    return params;
}

/* ---- running one ------------------------------------------------------------------------------------------------- */

typedef struct one_worker {
    const flrq_params *params;
    flrq_comm *comm;
    flrq_event_fn fn; /* of rank 0 */
    flrq_status status;
    char text[512];
    int begun;     /* gathers that were never ended */
    size_t memory; /* that the device says is free; 0: it has none of its own */
} one_worker;

static _Thread_local one_worker *self;
static flrq_status (*original_begin)(flrq_comm *, flrq_backend *, void *, const size_t *);
static flrq_status (*original_end)(flrq_comm *, flrq_backend *);
static flrq_status (*original_info)(flrq_backend *, flrq_device_info *);

static flrq_status noted_begin(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    self->begun++;
    return original_begin(comm, be, d_all, first);
}

static flrq_status noted_end(flrq_comm *comm, flrq_backend *be) {
    self->begun = 0;
    return original_end(comm, be);
}

static flrq_status own_info(flrq_backend *be, flrq_device_info *info) {
    flrq_status status = original_info(be, info);
    info->separate_memory = 1;
    info->free_bytes = self->memory;
    return status;
}

static void *work(void *user) {
    self = user;
    flrq_reporter reporter = {.fn = self->comm->rank ? NULL : self->fn};
    json_t *result = NULL;
    flrq_backend *be = NULL;
    MUST(flrq_backend_open(&be, "cpu", 1));
    if (self->memory) be->info = own_info;
    self->status = flrq_quantize_worker(self->params, &reporter, be, self->comm, &result);
    snprintf(self->text, sizeof self->text, "%s", flrq_last_error());
    json_decref(result);
    flrq_backend_close(be);
    return NULL;
}

static void run(one_worker w[WORKERS], const flrq_params *params, flrq_event_fn fn) {
    static const char *const places[WORKERS] = {"first", "second"};
    pthread_t threads[WORKERS];
    flrq_comm *comms[WORKERS];
    flrq_backend *be = NULL;
    MUST(flrq_backend_open(&be, "cpu", 1));
    original_info = be->info;
    flrq_backend_close(be);
    MUST(flrq_comm_local(comms, WORKERS, places, 60));
    original_begin = comms[0]->gather_begin, original_end = comms[0]->gather_end;
    for (int i = 0; i < WORKERS; i++) {
        comms[i]->gather_begin = noted_begin, comms[i]->gather_end = noted_end;
        w[i].params = params, w[i].comm = comms[i], w[i].fn = fn;
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < WORKERS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < WORKERS; i++) flrq_comm_close(comms[i]);
}

/* ---- stopping ---------------------------------------------------------------------------------------------------- */

static const char *stop_phase;
static int64_t stop_block, stop_done;

static void stop_there(void *user, const flrq_event *event) {
    if (event->kind != FLRQ_EVENT_PROGRESS || strcmp(event->phase, stop_phase) != 0) return;
    if (event->block == stop_block && event->done == stop_done) flrq_request_stop();
}

/* Gathers go on beside the fits, and with overlap beside the forward: what frees their arrays must have ended them. */
static void stop_leaves_no_gather(void **state) {
    static const struct {
        const char *overlap, *phase;
        int64_t block, done;
    } cases[] = {{"off", "quantize", 1, 0},
                 {"off", "quantize", 1, 3},
                 {"off", "forward", 1, 0},
                 {"on", "quantize", 2, 3},
                 {"on", "forward", 1, 0}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char out[600];
        snprintf(out, sizeof out, "%s.stop%zu", model_dir, i);
        flrq_params *params = params_for(out, cases[i].overlap);
        stop_phase = cases[i].phase, stop_block = cases[i].block, stop_done = cases[i].done;
        one_worker w[WORKERS] = {0};
        flrq_stop_clear();
        run(w, params, stop_there);
        flrq_stop_clear();
        for (int r = 0; r < WORKERS; r++) {
            if (w[r].status != FLRQ_STOPPED) fail_msg("case %zu, worker %d: %d, %s", i, r, w[r].status, w[r].text);
            assert_int_equal(w[r].begun, 0);
        }
        run(w, params, NULL); /* and nothing is lost */
        for (int r = 0; r < WORKERS; r++)
            if (w[r].status != FLRQ_OK) fail_msg("case %zu, worker %d: %s", i, r, w[r].text);
        flrq_params_free(params);
    }
}

/* ---- unequal devices --------------------------------------------------------------------------------------------- */

/* The plan on a device with so much memory. */
static flrq_plan plan_for(const flrq_params *params, size_t memory) {
    flrq_plan plan;
    flrq_model *model;
    flrq_plan_target target = {.threads = 1, .separate = 1, .open = 1, .memory = memory, .workers = WORKERS};
    MUST(flrq_model_open(&model, model_dir, 0));
    MUST(flrq_plan_make(&plan, &params->config, model, SEGMENTS, LENGTH, &target));
    flrq_model_close(model);
    return plan;
}

/* With overlap the workers' calls come in another order, so one that has no memory for it decides for all. */
static void the_smallest_decides_on_overlap(void **state) {
    size_t much = (size_t)1 << 40, enough = much, step = (size_t)1 << 39;
    char out[600];
    snprintf(out, sizeof out, "%s.unequal", model_dir);
    flrq_params *params = params_for(out, "auto");
    assert_int_equal(plan_for(params, much).overlap, 1);
    for (; step > 0; step /= 2) /* the least with overlap */
        if (enough > step && enough - step > (size_t)1 << 24) {
            flrq_plan plan;
            flrq_model *model;
            flrq_plan_target target = {.threads = 1, .separate = 1, .open = 1, .workers = WORKERS};
            target.memory = enough - step;
            MUST(flrq_model_open(&model, model_dir, 0));
            if (flrq_plan_make(&plan, &params->config, model, SEGMENTS, LENGTH, &target) == FLRQ_OK && plan.overlap)
                enough -= step;
            flrq_model_close(model);
        }
    assert_int_equal(plan_for(params, enough - 1).overlap, 0);
    for (int smaller = 0; smaller < WORKERS; smaller++) {
        one_worker w[WORKERS] = {{.memory = much}, {.memory = much}};
        char name[640];
        snprintf(name, sizeof name, "%s%d", out, smaller);
        MUST(flrq_params_set(params, "out", name));
        w[smaller].memory = enough - 1;
        run(w, params, NULL);
        for (int r = 0; r < WORKERS; r++)
            if (w[r].status != FLRQ_OK) fail_msg("worker %d of unequal devices: %s", r, w[r].text);
    }
    flrq_params_free(params);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_leaves_no_gather),
        cmocka_unit_test(the_smallest_decides_on_overlap),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
