/* test_predict.c - predicted times: every op of a real job is counted, calls, elements and flops, and the prediction
 * from a profile in which one of these costs a second, and all else nothing, must be that count.
 *
 * The counts are those of worker 0, alone and among others, over all phases of a run. Two things cannot be known before
 * a run and are kept out of it: ranks that errors decide (fixed ranks are used) and rounds that end early (two cannot).
 */
#include <pthread.h>

#include "model/logits.h"
#include "pipeline/bench_model.h"
#include "pipeline/predict.h"

enum { SEGMENTS = 5, LENGTH = 600, MAX_WORKERS = 8 };

/* Three chunks of rows in the MLP, one elsewhere; a segment is longer than a tile of tokens. */
static const flrq_bench_shape shape = {"test", FLRQ_BENCH_LLAMA, 128, 1280, 2, 4, 2, 64, 1024, 10000};
static char model_dir[512], tokens_path[560];

static int set_up(void **state) {
    flrq_reporter reporter = {0};
    char path[512];
    folder *f = folder_read("families/llama"); /* for its temporary folder alone */
    snprintf(path, sizeof path, "%s", folder_write(f));
    folder_free(f);
    snprintf(model_dir, sizeof model_dir, "%.480s/generated", path);
    snprintf(tokens_path, sizeof tokens_path, "%s.npy", model_dir);
    MUST(flrq_dir_make(model_dir));
    MUST(flrq_bench_model_write(model_dir, &shape, shape.blocks, 1, 2, 0, &reporter));
    MUST(flrq_bench_tokens_write(tokens_path, shape.vocab, SEGMENTS, LENGTH, 1));
    return 0;
}

/* ---- what a job does --------------------------------------------------------------------------------------------- */

enum { CALLS, ELEMENTS, FLOPS, UNITS };
static const char *const unit_names[UNITS] = {"calls", "elements", "flops"};

/* Ops of the table, which are one or more classes of a profile. */
#define OPS(X)                                                                                                         \
    X(mul)                                                                                                             \
    X(mul_t)                                                                                                           \
    X(sum_squares)                                                                                                     \
    X(sum_squares_mul)                                                                                                 \
    X(amax_curve) X(clip_quantize) X(count_nonfinite) X(pack) X(unpack) X(linear) X(attention) X(rmsnorm) X(rope)      \
        X(swiglu) X(input_stats) X(input_sketch) X(normal) X(gram) X(cholesky) X(solve_right) X(eigh) X(gemm)          \
            X(column_amax) X(round_factor)
typedef enum op_id {
#define NAME(op) OP_##op,
    OPS(NAME)
#undef NAME
        OP_COUNT
} op_id;

typedef double counts[OP_COUNT][UNITS];
static flrq_backend original;
static _Thread_local counts seen;
static _Thread_local double received; /* bytes from other workers, in backend memory */

static void note(op_id op, double elements, double flops) {
    seen[op][CALLS]++;
    seen[op][ELEMENTS] += elements;
    seen[op][FLOPS] += flops;
}

static double size_of(const flrq_operand *a) {
    return (double)a->rows * (double)a->cols;
}

/* COUNTED(op, (parameters), (arguments), elements, flops): a table entry that counts and passes on. */
#define COUNTED(op, parameters, arguments, elements, flops)                                                            \
    static flrq_status counted_##op parameters {                                                                       \
        note(OP_##op, elements, flops);                                                                                \
        return original.op arguments;                                                                                  \
    }

COUNTED(mul, (flrq_backend * be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b), (be, d_y, a, d_x, b),
        size_of(a), 2 * size_of(a) * (double)b)
COUNTED(mul_t, (flrq_backend * be, float *d_z, const flrq_operand *a, const float *d_q, int64_t b),
        (be, d_z, a, d_q, b), size_of(a), 2 * size_of(a) * (double)b)
COUNTED(sum_squares, (flrq_backend * be, double *sum, const flrq_operand *a), (be, sum, a), size_of(a),
        2 * size_of(a) * (double)a->rank)
COUNTED(sum_squares_mul, (flrq_backend * be, double *sum, const flrq_operand *a, const float *d_s, int64_t k),
        (be, sum, a, d_s, k), size_of(a), 2 * size_of(a) * (double)(k + a->rank))
COUNTED(amax_curve,
        (flrq_backend * be, float *amax, const flrq_operand *a, const float *d_u, const float *d_v, int64_t b),
        (be, amax, a, d_u, d_v, b), size_of(a), 2 * size_of(a) * (double)b)
COUNTED(clip_quantize,
        (flrq_backend * be, flrq_codes *out, const flrq_operand *a, const float *d_h, const flrq_scheme *scheme,
         const flrq_clip *clip, flrq_clip_stats *stats),
        (be, out, a, d_h, scheme, clip, stats), size_of(a), 2 * size_of(a) * (double)a->rank)
COUNTED(count_nonfinite, (flrq_backend * be, int64_t *count, int64_t *first, const flrq_operand *a),
        (be, count, first, a), size_of(a), 0)
COUNTED(pack, (flrq_backend * be, int32_t *d_packed, const uint8_t *d_code, int64_t rows, int64_t cols, int bits),
        (be, d_packed, d_code, rows, cols, bits), (double)(rows *cols), 0)
COUNTED(unpack, (flrq_backend * be, uint8_t *d_code, const int32_t *d_packed, int64_t rows, int64_t cols, int bits),
        (be, d_code, d_packed, rows, cols, bits), (double)(rows *cols), 0)
COUNTED(linear,
        (flrq_backend * be, float *d_y, const float *d_x, const flrq_operand *a, const float *d_bias, int64_t tokens),
        (be, d_y, d_x, a, d_bias, tokens), size_of(a), 2 * size_of(a) * (double)tokens)
COUNTED(attention,
        (flrq_backend * be, float *d_out, const float *d_q, const float *d_k, const float *d_v,
         const flrq_attention *s),
        (be, d_out, d_q, d_k, d_v, s), 0, 2 * (double)(s->tokens * s->tokens) * (double)(s->heads * s->head_dim))
COUNTED(rmsnorm,
        (flrq_backend * be, float *d_y, const float *d_x, const float *d_weight, int64_t rows, int64_t n, float eps),
        (be, d_y, d_x, d_weight, rows, n, eps), (double)(rows *n), 0)
COUNTED(rope,
        (flrq_backend * be, float *d_x, const float *d_freq, int64_t tokens, int64_t heads, int64_t dim,
         int64_t position0, float magnitude),
        (be, d_x, d_freq, tokens, heads, dim, position0, magnitude), (double)(tokens *heads *dim), 0)
COUNTED(swiglu, (flrq_backend * be, float *d_gate, const float *d_up, int64_t count), (be, d_gate, d_up, count),
        (double)count, 0)
COUNTED(input_stats, (flrq_backend * be, double *d_abs, double *d_square, const float *d_x, int64_t tokens, int64_t n),
        (be, d_abs, d_square, d_x, tokens, n), (double)(tokens *n), 0)
COUNTED(input_sketch,
        (flrq_backend * be, float *d_s, const float *d_x, const float *d_g, int64_t tokens, int64_t n, int64_t k),
        (be, d_s, d_x, d_g, tokens, n, k), 0, 2 * (double)(tokens * n) * (double)k)
COUNTED(normal, (flrq_backend * be, float *d_out, uint64_t key, uint64_t stream, uint64_t index0, int64_t count),
        (be, d_out, key, stream, index0, count), (double)count, 0)
COUNTED(gram, (flrq_backend * be, double *d_gram, const float *d_y, int64_t m, int64_t b), (be, d_gram, d_y, m, b), 0,
        2 * (double)m * (double)(b * b))
COUNTED(cholesky, (flrq_backend * be, double *d_gram, int64_t b, int *info), (be, d_gram, b, info), 0,
        (double)(b *b *b))
COUNTED(solve_right, (flrq_backend * be, float *d_y, const double *d_r, int64_t m, int64_t b), (be, d_y, d_r, m, b), 0,
        (double)m *(double)(b *b))
COUNTED(eigh, (flrq_backend * be, double *d_a, double *d_values, int64_t b), (be, d_a, d_values, b), 0,
        (double)(b *b *b))
COUNTED(gemm,
        (flrq_backend * be, float *d_c, const float *d_a, const float *d_b, int64_t m, int64_t k, int64_t b,
         float alpha, float beta),
        (be, d_c, d_a, d_b, m, k, b, alpha, beta), 0, 2 * (double)m * (double)(k * b))
COUNTED(column_amax,
        (flrq_backend * be, float *amax, const float *d_x, int64_t ld, const float *d_divisor, int64_t m, int64_t b),
        (be, amax, d_x, ld, d_divisor, m, b), (double)(m *b), 0)
COUNTED(round_factor,
        (flrq_backend * be, float *d_out, const float *d_x, int64_t ld, const float *d_divisor, const float *factor,
         int64_t m, int64_t b, int transpose, flrq_dtype dtype),
        (be, d_out, d_x, ld, d_divisor, factor, m, b, transpose, dtype), (double)(m *b), 0)

static flrq_backend *counting_backend(void) {
    flrq_backend *be = NULL;
    MUST(flrq_backend_open(&be, "cpu", 1));
    original = *be;
#define COUNT(op) be->op = counted_##op;
    OPS(COUNT)
#undef COUNT
    return be;
}

/* Bytes that the others' parts of gathers and transfers have. */
static flrq_status (*original_gather)(flrq_comm *, flrq_backend *, void *, const size_t *);
static flrq_status (*original_begin)(flrq_comm *, flrq_backend *, void *, const size_t *);
static flrq_status (*original_transfer)(flrq_comm *, flrq_backend *, const flrq_transfer *, int, const flrq_transfer *,
                                        int);
static flrq_status (*original_values)(flrq_comm *, void *, size_t);

static void note_gather(const flrq_comm *comm, const size_t *first) {
    received += (double)(first[comm->size] - first[0] - (first[comm->rank + 1] - first[comm->rank]));
}

static flrq_status counted_gather(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    note_gather(comm, first);
    return original_gather(comm, be, d_all, first);
}

static flrq_status counted_begin(flrq_comm *comm, flrq_backend *be, void *d_all, const size_t *first) {
    note_gather(comm, first);
    return original_begin(comm, be, d_all, first);
}

static flrq_status counted_transfer(flrq_comm *comm, flrq_backend *be, const flrq_transfer *sends, int n_sends,
                                    const flrq_transfer *receives, int n_receives) {
    for (int i = 0; i < n_receives; i++)
        if (receives[i].peer != comm->rank) received += (double)receives[i].bytes;
    return original_transfer(comm, be, sends, n_sends, receives, n_receives);
}

static flrq_status counted_values(flrq_comm *comm, void *all, size_t bytes) {
    received += (double)bytes * (comm->size - 1);
    return original_values(comm, all, bytes);
}

/* ---- running one ------------------------------------------------------------------------------------------------- */

typedef struct one_worker {
    const flrq_params *params;
    flrq_comm *comm;
    counts seen;
    double received;
} one_worker;

static void *work(void *user) {
    one_worker *w = user;
    flrq_reporter reporter = {0};
    json_t *result = NULL;
    flrq_backend *be = counting_backend();
    memset(seen, 0, sizeof seen);
    received = 0;
    flrq_status status = flrq_quantize_worker(w->params, &reporter, be, w->comm, &result);
    if (status != FLRQ_OK) fprintf(stderr, "%s\n", flrq_last_error());
    memcpy(w->seen, seen, sizeof seen);
    w->received = status == FLRQ_OK ? received : NAN;
    json_decref(result);
    flrq_backend_close(be);
    return NULL;
}

/* The job of the params by so many workers; what worker 0 did, and the mean of what all received. */
static one_worker run_job(const flrq_params *params, int workers) {
    one_worker w[MAX_WORKERS];
    pthread_t threads[MAX_WORKERS];
    flrq_comm *comms[MAX_WORKERS];
    const char *places[MAX_WORKERS];
    for (int i = 0; i < workers; i++) places[i] = "cpu";
    MUST(flrq_comm_local(comms, workers, places, 60));
    original_gather = comms[0]->gather, original_begin = comms[0]->gather_begin;
    original_transfer = comms[0]->transfer, original_values = comms[0]->gather_host;
    for (int i = 0; i < workers; i++) {
        comms[i]->gather = counted_gather, comms[i]->gather_begin = counted_begin;
        comms[i]->transfer = counted_transfer, comms[i]->gather_host = counted_values;
        w[i] = (one_worker){.params = params, .comm = comms[i]};
        assert_int_equal(pthread_create(&threads[i], NULL, work, &w[i]), 0);
    }
    for (int i = 0; i < workers; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < workers; i++) flrq_comm_close(comms[i]);
    for (int i = 1; i < workers; i++) w[0].received += w[i].received;
    w[0].received /= workers;
    return w[0];
}

static flrq_params *params_for(const char *const *options, const char *out) {
    flrq_params *params;
    MUST(flrq_params_new(&params, "quantize"));
    MUST(flrq_params_set(params, "model", model_dir));
    MUST(flrq_params_set(params, "out", out));
    MUST(flrq_params_set(params, "device", "cpu"));
    MUST(flrq_params_set(params, "threads", "1"));
    for (; *options; options += 2) MUST(flrq_params_set(params, options[0], options[1]));
    MUST(flrq_params_check(params));
    return params;
}

/* ---- predicting it ----------------------------------------------------------------------------------------------- */

/* A profile in which nothing takes time. */
static flrq_profile free_profile(void) {
    flrq_profile p = {.backend = "cpu",
                      .name = "a machine",
                      .measured = 1,
                      .threads = 1,
                      .copy = INFINITY,
                      .upload = INFINITY,
                      .download = INFINITY};
    p.op[FLRQ_COST_ROUND_BF16].call = -1;
    return p;
}

static flrq_cluster free_cluster(int workers, int nodes) {
    return (flrq_cluster){.workers = workers,
                          .nodes = nodes,
                          .threads = 1,
                          .node_link = {INFINITY, 0},
                          .network = {INFINITY, 0},
                          .read = INFINITY,
                          .write = INFINITY,
                          .rank = 0.25};
}

static flrq_plan plan_of(const flrq_params *params, const flrq_model *model, int workers) {
    flrq_plan plan;
    flrq_reporter reporter = {0};
    int64_t segments, length;
    flrq_plan_target target = {.threads = 1, .workers = workers};
    MUST(flrq_plan_calibration(params, model, &reporter, &segments, &length));
    MUST(flrq_plan_make(&plan, &params->config, model, segments, length, &target));
    return plan;
}

static flrq_prediction predict(const flrq_plan *plan, const flrq_params *params, const flrq_model *model,
                               const flrq_profile *profile, const flrq_cluster *cluster) {
    flrq_prediction p;
    MUST(flrq_predict(&p, plan, &params->config, model, profile, cluster));
    assert_true(p.total >= 0 && isfinite(p.total));
    return p;
}

/* Classes of a profile that the calls of an op belong to. */
static const struct {
    op_id op;
    int classes;
    flrq_cost cost[6];
} classes_of[] = {
    {OP_mul, 2, {FLRQ_COST_MUL, FLRQ_COST_MUL_CODES}},
    {OP_mul_t, 4, {FLRQ_COST_MUL_T, FLRQ_COST_MUL_T_CODES, FLRQ_COST_MUL_T_FULL, FLRQ_COST_MUL_T_CODES_FULL}},
    {OP_sum_squares, 1, {FLRQ_COST_NORM}},
    {OP_sum_squares_mul, 2, {FLRQ_COST_ERROR, FLRQ_COST_ERROR_CODES}},
    {OP_amax_curve, 1, {FLRQ_COST_CURVE}},
    {OP_clip_quantize,
     6,
     {FLRQ_COST_CLIP_NONE, FLRQ_COST_CLIP_GRID, FLRQ_COST_CLIP_FAST2, FLRQ_COST_CLIP_FAST3, FLRQ_COST_CLIP_FAST4,
      FLRQ_COST_CLIP_FAST8}},
    {OP_count_nonfinite, 1, {FLRQ_COST_NONFINITE}},
    {OP_pack, 1, {FLRQ_COST_PACK}},
    {OP_unpack, 1, {FLRQ_COST_UNPACK}},
    {OP_linear, 2, {FLRQ_COST_LINEAR, FLRQ_COST_LINEAR_CODES}},
    {OP_attention, 1, {FLRQ_COST_ATTENTION}},
    {OP_rmsnorm, 1, {FLRQ_COST_NORM_ROWS}},
    {OP_rope, 1, {FLRQ_COST_ROPE}},
    {OP_swiglu, 1, {FLRQ_COST_ACTIVATION}},
    {OP_input_stats, 1, {FLRQ_COST_INPUT_STATS}},
    {OP_input_sketch, 1, {FLRQ_COST_INPUT_SKETCH}},
    {OP_normal, 1, {FLRQ_COST_NORMAL}},
    {OP_gram, 1, {FLRQ_COST_GRAM}},
    {OP_cholesky, 1, {FLRQ_COST_CHOLESKY}},
    {OP_solve_right, 1, {FLRQ_COST_SOLVE}},
    {OP_eigh, 1, {FLRQ_COST_EIGH}},
    {OP_gemm, 1, {FLRQ_COST_GEMM}},
    {OP_column_amax, 1, {FLRQ_COST_COLUMN_AMAX}},
    {OP_round_factor, 1, {FLRQ_COST_ROUND_FACTOR}},
};

static const char *const op_names[OP_COUNT] = {
#define TEXT(op) #op,
    OPS(TEXT)
#undef TEXT
};

/* Files are packed and unpacked in pieces, which the prediction does not count one by one. */
static int is_counted(op_id op, int unit) {
    return !(unit == CALLS && (op == OP_pack || op == OP_unpack));
}

static void compare(const char *what, const char *const *options, int workers) {
    char out[600];
    snprintf(out, sizeof out, "%s.%s.%d", model_dir, what, workers);
    flrq_params *params = params_for(options, out);
    flrq_model *model = model_opens(model_dir, 0);
    flrq_plan plan = plan_of(params, model, workers);
    flrq_cluster cluster = free_cluster(workers, 1);
    one_worker w = run_job(params, workers);
    assert_true(w.received >= 0);
    int wrong = 0;
    for (size_t i = 0; i < sizeof classes_of / sizeof *classes_of; i++)
        for (int unit = 0; unit < UNITS; unit++) {
            op_id op = classes_of[i].op;
            flrq_profile profile = free_profile();
            for (int c = 0; c < classes_of[i].classes; c++)
                profile.op[classes_of[i].cost[c]] = (flrq_op_cost){unit == CALLS, unit == ELEMENTS, unit == FLOPS};
            double predicted = predict(&plan, params, model, &profile, &cluster).total;
            if (!is_counted(op, unit) || predicted == w.seen[op][unit]) continue;
            print_message("%s, %d workers: %s: %.0f %s predicted, %.0f seen\n", what, workers, op_names[op], predicted,
                          unit_names[unit], w.seen[op][unit]);
            wrong++;
        }
    flrq_profile profile = free_profile();
    flrq_prediction p = predict(&plan, params, model, &profile, &cluster);
    print_message("%s, %d workers: %.0f bytes from other workers predicted, %.0f seen\n", what, workers, p.link_bytes,
                  w.received);
    /* Not predicted: agreements of a run outside its fits, some hundred bytes each block, and that slices are rounded
     * to 32 values, of which a sum has a thousand and more: below a two-hundredth. */
    if (!(fabs(p.link_bytes - w.received) <= 0.005 * w.received)) wrong++;
    assert_int_equal(wrong, 0);
    flrq_model_close(model);
    flrq_params_free(params);
}

#define TOKENS "calib-tokens", tokens_path

static void test_counts(void **state) {
    const char *fixed[] = {TOKENS, "rank-policy", "fixed", "rank", "8", "epochs", "2", NULL};
    const char *two_bits[] = {TOKENS, "rank-policy", "fixed", "rank",  "3",     "epochs",
                              "1",    "bits",        "2",     "start", "error", NULL};
    const char *lqer[] = {TOKENS, "method", "lqer", "rank", "8", NULL};
    const char *nearest[] = {TOKENS, "method", "rtn", NULL};
    compare("fixed", fixed, 1);
    compare("two-bits", two_bits, 1);
    compare("lqer", lqer, 1);
    compare("nearest", nearest, 1);
}

static void test_counts_of_a_share(void **state) {
    const char *fixed[] = {TOKENS, "rank-policy", "fixed", "rank", "8", "epochs", "2", NULL};
    compare("shared", fixed, 2);
    compare("shared", fixed, 3);
    compare("shared", fixed, 5);
}

static void test_weights_only(void **state) {
    const char *options[] = {"calib", "none", "rank-policy", "fixed", "rank", "8", "epochs", "2", NULL};
    compare("weights", options, 1);
    compare("weights", options, 3);
}

/* ---- the model of exchanges and overlap -------------------------------------------------------------------------- */

/* A large generated model of holes, planned for a device. */
static flrq_model *holes(const char *name) {
    static const flrq_bench_shape large = {"large", FLRQ_BENCH_LLAMA, 4096, 11008, 4, 32, 8, 1000, 2048, 10000};
    flrq_reporter reporter = {0};
    char dir[600];
    snprintf(dir, sizeof dir, "%s.%s", model_dir, name);
    MUST(flrq_dir_make(dir));
    MUST(flrq_bench_model_write(dir, &large, large.blocks, 1, 2, 1, &reporter));
    return model_opens(dir, 0);
}

static flrq_plan device_plan(const flrq_params *params, const flrq_model *model, int overlap) {
    flrq_plan plan;
    flrq_config config = params->config;
    config.overlap = overlap ? OVERLAP_ON : OVERLAP_OFF;
    flrq_plan_target target = {.threads = 1, .separate = 1, .memory = (size_t)80e9, .workers = 1};
    MUST(flrq_plan_make(&plan, &config, model, 64, 2048, &target));
    return plan;
}

static flrq_profile device_profile(void) {
    flrq_profile p = free_profile();
    p.separate = p.fast = 1;
    p.op[FLRQ_COST_ROUND_BF16].call = 0;
    return p;
}

/* Products are shared by the workers until there are no more chunks; eigenproblems never are. */
static void test_scaling(void **state) {
    const char *options[] = {TOKENS, "rank-policy", "fixed", "rank", "8", NULL};
    flrq_params *params = params_for(options, "unused");
    flrq_model *model = holes("scaling");
    flrq_plan plan = device_plan(params, model, 1);
    flrq_profile products = device_profile(), eigen = device_profile(), linear = device_profile();
    products.op[FLRQ_COST_CLIP_FAST4].element = 1;
    eigen.op[FLRQ_COST_EIGH].call = 1;
    linear.op[FLRQ_COST_LINEAR].flop = 1;
    flrq_cluster one = free_cluster(1, 1), two = free_cluster(2, 1), many = free_cluster(64, 8),
                 most = free_cluster(128, 16);
    double alone = predict(&plan, params, model, &products, &one).total;
    /* 4096 rows are 8 chunks, 1024 are 2, 11008 are 22 (the last of 256 rows, so the first half has 11 * 512). */
    double own = (2 * 2048 + 2 * 512) * 4096.0 + 2 * 5632 * 4096.0 + 2048 * 11008.0;
    double all = (2 * 4096 + 2 * 1024) * 4096.0 + 2 * 11008 * 4096.0 + 4096 * 11008.0;
    assert_true(fabs(predict(&plan, params, model, &products, &two).total / alone - own / all) < 1e-12);
    double last = predict(&plan, params, model, &products, &many).total;
    assert_true(fabs(last / alone - 512 * (6 * 4096.0 + 11008) / all) < 1e-12);
    assert_true(predict(&plan, params, model, &products, &most).total == last);
    assert_true(predict(&plan, params, model, &eigen, &many).total ==
                predict(&plan, params, model, &eigen, &one).total);
    assert_true(predict(&plan, params, model, &eigen, &one).total == 4 * 7 * 6); /* a sketch and five rounds of it */
    alone = predict(&plan, params, model, &linear, &one).total;
    assert_true(alone == (2 * 4 - 1) * 2 * all * 64 * 2048);
    assert_true(fabs(predict(&plan, params, model, &linear, &many).total - alone / 64) < 1e-9 * alone);
    assert_true(predict(&plan, params, model, &linear, &most).total == alone / 64);
    flrq_model_close(model);
    flrq_params_free(params);
}

/* With overlap only what is longer than the work beside it is seen; nothing is lost: seen + hidden is the whole. */
static void test_overlap(void **state) {
    const char *options[] = {TOKENS, NULL};
    flrq_params *params = params_for(options, "unused");
    flrq_model *model = holes("overlap");
    flrq_plan with = device_plan(params, model, 1), without = device_plan(params, model, 0);
    flrq_profile profile = device_profile();
    flrq_cluster cluster = free_cluster(1, 1);
    profile.op[FLRQ_COST_LINEAR].flop = 1e-14;
    cluster.read = 1e9;
    flrq_prediction fast = predict(&with, params, model, &profile, &cluster),
                    slow = predict(&without, params, model, &profile, &cluster);
    double read = slow.seconds[FLRQ_TIME_READ], block = read / 4;
    assert_true(read > 0 && slow.hidden[FLRQ_TIME_READ] == 0);
    assert_true(fabs(fast.seconds[FLRQ_TIME_READ] + fast.hidden[FLRQ_TIME_READ] - read) < 1e-9 * read);
    assert_true(fast.seconds[FLRQ_TIME_READ] < read && fast.seconds[FLRQ_TIME_READ] >= block);
    assert_true(fast.seconds[FLRQ_TIME_CALIBRATE] == slow.seconds[FLRQ_TIME_CALIBRATE]);
    profile.op[FLRQ_COST_LINEAR].flop = 1e-12; /* so long that only the first block is waited for */
    fast = predict(&with, params, model, &profile, &cluster);
    assert_true(fabs(fast.seconds[FLRQ_TIME_READ] - block) < 1e-9 * block);
    flrq_model_close(model);
    flrq_params_free(params);
}

/* Every byte of a gather crosses the network once for a node, and each device of a node gets the rest of its own. */
static void test_links(void **state) {
    const char *options[] = {TOKENS, NULL};
    flrq_params *params = params_for(options, "unused");
    flrq_model *model = holes("links");
    flrq_plan plan = device_plan(params, model, 0);
    flrq_profile profile = device_profile();
    flrq_cluster one = free_cluster(1, 1), node = free_cluster(8, 1), two = free_cluster(16, 2);
    flrq_prediction p = predict(&plan, params, model, &profile, &one);
    assert_true(p.link_bytes == 0 && p.network_bytes == 0);
    assert_true(p.seconds[FLRQ_TIME_EXCHANGE] == 0 && p.seconds[FLRQ_TIME_GATHER] == 0);
    p = predict(&plan, params, model, &profile, &node);
    double weights = (2 * 4096 + 2 * 1024) * 4096.0 + 2 * 11008 * 4096.0 + 4096 * 11008.0;
    assert_true(p.network_bytes == 0 && p.link_bytes > 4 * 3 * weights * 7 / 8); /* bf16, and codes but in the last */
    p = predict(&plan, params, model, &profile, &two);
    assert_true(p.network_bytes > 0);
    two.network = (flrq_link_cost){1e9, 0};
    double slow = predict(&plan, params, model, &profile, &two).total;
    two.network.bytes = 2e9;
    double fast = predict(&plan, params, model, &profile, &two).total;
    assert_true(fabs(slow - 2 * fast) < 1e-9 * slow && fabs(slow - p.network_bytes / 1e9) < 1e-9 * slow);
    /* Latency is counted once an exchange, on the slower kind of link that it takes. */
    two.network = (flrq_link_cost){INFINITY, 1e-3}, node.node_link.call = 1e-3;
    slow = predict(&plan, params, model, &profile, &two).total;
    assert_true(slow > 0 && fabs(slow / 1e-3 - rint(slow / 1e-3)) < 1e-6);
    assert_true(predict(&plan, params, model, &profile, &node).total > 0);
    flrq_model_close(model);
    flrq_params_free(params);
}

static void test_rank_search(void **state) {
    const char *options[] = {TOKENS, NULL};
    flrq_params *params = params_for(options, "unused");
    flrq_model *model = holes("search");
    flrq_plan plan = device_plan(params, model, 1);
    flrq_profile profile = device_profile();
    flrq_cluster cluster = free_cluster(1, 1);
    for (cluster.rank = 0; cluster.rank <= 1; cluster.rank += 0.125) {
        flrq_prediction p = predict(&plan, params, model, &profile, &cluster);
        /* 0, 1, 2, 4, ... 64 and the bound, then at most five midpoints (fit.c says about ten). */
        assert_true(p.tries >= 8 && p.tries <= 9 + 5);
    }
    flrq_model_close(model);
    flrq_params_free(params);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

static void refused(flrq_status wanted, const char *text, flrq_status got) {
    assert_int_equal(got, wanted);
    if (!strstr(flrq_last_error(), text)) fail_msg("\"%s\" does not say \"%s\"", flrq_last_error(), text);
}

static void test_refusals(void **state) {
    const char *options[] = {TOKENS, NULL};
    flrq_params *params = params_for(options, "unused");
    flrq_model *model = model_opens(model_dir, 0);
    flrq_plan plan = plan_of(params, model, 1);
    flrq_profile profile = free_profile(), device = device_profile();
    flrq_cluster cluster = free_cluster(1, 1);
    flrq_prediction p;
    flrq_config *c = &params->config;
    params->config.profile = strdup("some.json");
    refused(FLRQ_ERR_UNSUPPORTED, "another kind of device", flrq_predict(&p, &plan, c, model, &device, &cluster));
    profile.fast = 1;
    refused(FLRQ_ERR_UNSUPPORTED, "fast precision", flrq_predict(&p, &plan, c, model, &profile, &cluster));
    profile.fast = 0;
    profile.op[FLRQ_COST_EIGH].call = -1;
    refused(FLRQ_ERR_UNSUPPORTED, "eigh", flrq_predict(&p, &plan, c, model, &profile, &cluster));
    profile.op[FLRQ_COST_EIGH].call = 0;
    plan.fit.sketch.kind = FLRQ_SKETCH_R1;
    refused(FLRQ_ERR_UNSUPPORTED, "--sketch block", flrq_predict(&p, &plan, c, model, &profile, &cluster));
    c->workers = 6, c->nodes = 4;
    refused(FLRQ_ERR_USAGE, "--nodes 4", flrq_cluster_from(&cluster, c, &profile));
    flrq_model_close(model);
    flrq_params_free(params);
}

static void test_cluster(void **state) {
    flrq_config c = {.workers = 8, .nodes = 2};
    flrq_profile p = free_profile();
    flrq_cluster k;
    p.threads = 32, p.copy = 2e10;
    MUST(flrq_cluster_from(&k, &c, &p));
    assert_int_equal(k.threads, 8); /* four workers share a node's 32 */
    assert_true(k.node_link.bytes == 1e10 && !(k.assumed & FLRQ_ASSUMED_LINK));
    assert_true(k.network.bytes == 25e9 && k.assumed & FLRQ_ASSUMED_NETWORK);
    assert_true(k.read > 0 && k.assumed & FLRQ_ASSUMED_READ && k.assumed & FLRQ_ASSUMED_WRITE);
    p.separate = 1;
    MUST(flrq_cluster_from(&k, &c, &p));
    assert_true(k.node_link.bytes == 25e9 && k.assumed & FLRQ_ASSUMED_LINK);
    p.node_link = (flrq_link_cost){3e11, 1e-5}, p.network = (flrq_link_cost){5e10, 2e-5}, p.read = 3e9, p.write = 4e9;
    MUST(flrq_cluster_from(&k, &c, &p));
    assert_true(k.node_link.bytes == 3e11 && k.network.call == 2e-5 && k.read == 3e9 && k.write == 4e9);
    assert_int_equal(k.assumed, 0);
    c.link = 450, c.network = 100, c.read = 7, c.write = 6, c.threads = 3, c.workers = 0, c.nodes = 1;
    MUST(flrq_cluster_from(&k, &c, &p));
    assert_true(k.node_link.bytes == 450e9 && k.network.bytes == 100e9 && k.read == 7e9 && k.write == 6e9);
    assert_int_equal(k.workers, 1);
    assert_int_equal(k.threads, 3);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),       cmocka_unit_test(test_counts_of_a_share),
        cmocka_unit_test(test_weights_only), cmocka_unit_test(test_scaling),
        cmocka_unit_test(test_overlap),      cmocka_unit_test(test_links),
        cmocka_unit_test(test_rank_search),  cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_cluster),
    };
    return cmocka_run_group_tests(tests, set_up, NULL);
}
