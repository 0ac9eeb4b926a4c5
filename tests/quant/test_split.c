/* test_split.c - a matrix shared by several workers gives the bytes that it gives to one.
 *
 * Each op of split.h, the sketches and whole fits run on 1, 2, 3, 5 and 8 workers, threads with a CPU backend each, on
 * shapes with whole, odd, few and no chunks for a worker; all results are compared byte for byte with those of one.
 */
#include "matrices.h"

#include <pthread.h>

#include "quant/fit.h"

enum { MAX_WORKERS = 8, COLS = 130, B = 17, K = 24 };

static const int sizes[] = {2, 3, 5, 8};
static const int64_t row_counts[] = {1, 511, 512, 513, 1300, 1536, 2048, 3700};

/* ---- a group of threads ------------------------------------------------------------------------------------------ */

typedef void (*work_fn)(flrq_backend *be, flrq_comm *comm, void *user);
typedef struct member {
    flrq_comm *comm;
    work_fn work;
    void *user;
    pthread_t thread;
} member;

static void *run_member(void *argument) {
    member *m = argument;
    flrq_backend *be;
    CHECK_OK(flrq_backend_open(&be, "cpu", 1));
    m->work(be, m->comm, m->user);
    flrq_backend_close(be);
    return NULL;
}

/* Runs work(…, users[r]) on every worker of a group. */
static void run_group(int size, work_fn work, void *users, size_t user_bytes) {
    flrq_comm *comms[MAX_WORKERS];
    member members[MAX_WORKERS];
    const char *places[MAX_WORKERS];
    for (int r = 0; r < size; r++) places[r] = "cpu";
    if (size == 1)
        comms[0] = flrq_comm_self();
    else
        CHECK_OK(flrq_comm_local(comms, size, places, 60));
    for (int r = 0; r < size; r++) {
        members[r] = (member){.comm = comms[r], .work = work, .user = (char *)users + (size_t)r * user_bytes};
        assert_int_equal(pthread_create(&members[r].thread, NULL, run_member, &members[r]), 0);
    }
    for (int r = 0; r < size; r++) pthread_join(members[r].thread, NULL);
    for (int r = 0; r < size; r++) flrq_comm_close(comms[r]);
}

/* Fails unless the bytes are equal; checked on threads, so by abort() and not by cmocka. */
static void must_equal(const void *a, const void *b, size_t bytes, const char *what, int64_t rows, int size) {
    if (memcmp(a, b, bytes) == 0) return;
    size_t at = 0;
    while (((const char *)a)[at] == ((const char *)b)[at]) at++;
    fail_msg("%s of %lld rows on %d workers: byte %zu of %zu differs", what, (long long)rows, size, at, bytes);
}

/* ---- single ops -------------------------------------------------------------------------------------------------- */

/* What the ops of one worker gave; per-row results hold its rows only. */
typedef struct op_results {
    int64_t rows;
    const float *w, *x, *q, *scale, *s;
    flrq_range own;
    float *y, *z, *z_scaled, amax[B + 1], columns[B];
    double gram[B * B], squares, squares_mul;
    uint8_t *code;
    float *code_scale;
    flrq_clip_stats stats;
} op_results;

static void run_ops(flrq_backend *be, flrq_comm *comm, void *user) {
    op_results *o = user;
    int64_t m = o->rows, groups = 2;
    const flrq_scheme scheme = {.bits = 4, .symmetric = 1, .grid = 0, .group = 65};
    const flrq_clip clip = {.search = FLRQ_CLIP_FAST, .steps = 20, .min_ratio = 0.4f};
    void *nodes = test_alloc(1, flrq_split_node_bytes(m, COLS * B, sizeof(double), comm->size) + 1);
    void *sums = test_alloc(1, flrq_split_scratch_bytes(m, COLS * B, sizeof(double), comm->size) + 1);
    flrq_split split = flrq_split_of(be, comm, m, nodes, sums);
    flrq_operand a = dense_operand((float *)o->w, m, COLS), scaled = a;
    scaled.d_col_scale = o->scale;
    o->own = split.own;
    o->y = floats(m * B), o->z = floats(COLS * B), o->z_scaled = floats(COLS * B);
    o->code = test_alloc(m * COLS, 1), o->code_scale = floats(m * groups);
    CHECK_OK(flrq_split_mul(&split, o->y, &scaled, o->x, B));
    CHECK_OK(flrq_split_mul_t(&split, o->z, &a, o->q, B));
    CHECK_OK(flrq_split_mul_t(&split, o->z_scaled, &scaled, o->q, B));
    CHECK_OK(flrq_split_gram(&split, o->gram, o->q, B));
    CHECK_OK(flrq_split_sum_squares(&split, &o->squares, &scaled));
    CHECK_OK(flrq_split_sum_squares_mul(&split, &o->squares_mul, &a, o->s, K));
    CHECK_OK(flrq_split_amax_curve(&split, o->amax, &scaled, o->q, o->x, B));
    CHECK_OK(flrq_split_column_amax(&split, o->columns, o->q, B, B));
    flrq_codes codes = {.code = o->code, .scale = o->code_scale, .rows = m, .cols = COLS, .group = 65};
    codes.n_groups = groups, codes.bits = 4, codes.symmetric = 1;
    CHECK_OK(flrq_split_clip_quantize(&split, &codes, &a, NULL, &scheme, &clip, &o->stats));
    CHECK_OK(flrq_split_gather(&split, o->y, B * sizeof(float)));
    free(nodes);
    free(sums);
}

static void drop_ops(op_results *o) {
    free(o->y);
    free(o->z);
    free(o->z_scaled);
    free(o->code);
    free(o->code_scale);
}

/* Scratch is made for the widest sum and used for narrower ones, which may travel in another way (comm.c). */
static void scratch_holds_smaller_sums(void **state) {
    (void)state;
    for (int workers = 2; workers <= 20; workers++)
        for (int64_t rows = FLRQ_CHUNK_ROWS; rows <= 20 * FLRQ_CHUNK_ROWS; rows += FLRQ_CHUNK_ROWS)
            for (size_t width = 4; width <= 8; width += 4) {
                size_t most = 0;
                for (int64_t count = 500; count < 80000; count += 499) {
                    size_t bytes = flrq_split_scratch_bytes(rows, count, width, workers);
                    assert_true(bytes >= most);
                    most = bytes;
                }
            }
}

static void ops_give_the_same_bytes(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        int64_t m = row_counts[i];
        float *w = normals(m * COLS, 1, 1), *x = normals(COLS * B, 1, 2), *q = normals(m * B, 1, 3);
        float *scale = normals(COLS, 1, 4), *s = normals(COLS * K, 1, 5);
        op_results one = {.rows = m, .w = w, .x = x, .q = q, .scale = scale, .s = s};
        const op_results start = one;
        run_group(1, run_ops, &one, sizeof one);
        assert_true(one.squares > 0 && one.squares_mul > 0 && one.stats.groups == 2 * m);
        for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
            op_results many[MAX_WORKERS];
            int64_t rows = 0;
            for (int r = 0; r < sizes[k]; r++) many[r] = start;
            run_group(sizes[k], run_ops, many, sizeof *many);
            for (int r = 0; r < sizes[k]; r++) {
                op_results *o = &many[r];
                size_t first = (size_t)o->own.first, count = (size_t)o->own.count;
                assert_int_equal(first, rows);
                rows += o->own.count;
                must_equal(o->y, one.y, (size_t)(m * B) * 4, "mul and gather", m, sizes[k]);
                must_equal(o->z, one.z, COLS * B * 4, "mul_t", m, sizes[k]);
                must_equal(o->z_scaled, one.z_scaled, COLS * B * 4, "mul_t with a scale", m, sizes[k]);
                must_equal(o->gram, one.gram, sizeof one.gram, "gram", m, sizes[k]);
                must_equal(&o->squares, &one.squares, 8, "sum_squares", m, sizes[k]);
                must_equal(&o->squares_mul, &one.squares_mul, 8, "sum_squares_mul", m, sizes[k]);
                must_equal(o->amax, one.amax, sizeof one.amax, "amax_curve", m, sizes[k]);
                must_equal(o->columns, one.columns, sizeof one.columns, "column_amax", m, sizes[k]);
                must_equal(o->code + first * COLS, one.code + first * COLS, count * COLS, "codes", m, sizes[k]);
                must_equal(o->code_scale + first * 2, one.code_scale + first * 2, count * 8, "scales", m, sizes[k]);
                assert_int_equal(o->stats.groups, one.stats.groups);
                assert_int_equal(o->stats.clipped, one.stats.clipped);
                assert_true(o->stats.ratio_sum == one.stats.ratio_sum);
                drop_ops(o);
            }
            assert_int_equal(rows, m);
        }
        drop_ops(&one);
        free(w), free(x), free(q), free(scale), free(s);
    }
}

/* ---- sketches ---------------------------------------------------------------------------------------------------- */

typedef struct sketch_result {
    flrq_sketch_options options;
    const float *w, *scale;
    int64_t rows, terms, width;
    flrq_range own;
    float *u, *v;
    double sigma[B + 8];
    flrq_status status;
} sketch_result;

static void run_sketch(flrq_backend *be, flrq_comm *comm, void *user) {
    sketch_result *o = user;
    flrq_sketch *s;
    flrq_extent extent = {o->rows, COLS, o->rows * COLS};
    flrq_operand a = dense_operand((float *)o->w, o->rows, COLS);
    a.d_col_scale = o->scale;
    o->options.workers = comm->size;
    o->own = flrq_share_rows(o->rows, comm->rank, comm->size);
    CHECK_OK(flrq_sketch_new(&s, be, &o->options, extent, B));
    o->status = flrq_sketch_run(s, be, comm, &o->options, &a, B, 0, NULL);
    if (o->status == FLRQ_OK && o->options.kind == FLRQ_SKETCH_BLOCK) /* and once more from where that ended */
        CHECK_OK(flrq_sketch_run(s, be, comm, &o->options, &a, B / 2, 1, NULL));
    o->terms = s->terms, o->width = s->width;
    o->u = to_host(be, s->d_u, (size_t)(o->rows * s->width) * 4);
    o->v = to_host(be, s->d_v, (size_t)(COLS * s->width) * 4);
    for (int64_t i = 0; i < s->width; i++) o->sigma[i] = s->sigma[i];
    flrq_sketch_free(s, be);
}

static void compare_sketches(sketch_result start) {
    sketch_result one = start;
    run_group(1, run_sketch, &one, sizeof one);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        sketch_result many[MAX_WORKERS];
        for (int r = 0; r < sizes[k]; r++) many[r] = start;
        run_group(sizes[k], run_sketch, many, sizeof *many);
        for (int r = 0; r < sizes[k]; r++) {
            sketch_result *o = &many[r];
            size_t row = (size_t)one.width * 4, first = (size_t)o->own.first * (size_t)one.width;
            assert_int_equal(o->status, FLRQ_OK);
            assert_int_equal(o->terms, one.terms);
            assert_int_equal(o->width, one.width);
            must_equal(o->sigma, one.sigma, (size_t)one.width * 8, "sigma", one.rows, sizes[k]);
            must_equal(o->v, one.v, COLS * row, "v", one.rows, sizes[k]);
            must_equal(o->u + first, one.u + first, (size_t)o->own.count * row, "u", one.rows, sizes[k]);
            free(o->u), free(o->v);
        }
    }
    free(one.u), free(one.v);
}

static void sketches_give_the_same_bytes(void **state) {
    (void)state;
    float *scale = normals(COLS, 1, 6);
    for (size_t i = 0; i < sizeof row_counts / sizeof *row_counts; i++) {
        float *w = normals(row_counts[i] * COLS, 1, 7);
        for (int kind = FLRQ_SKETCH_BLOCK; kind <= FLRQ_SKETCH_R1; kind++)
            compare_sketches((sketch_result){
                .options = {.kind = (flrq_sketch_kind)kind, .power_iterations = 2, .oversample = 8, .key = 99},
                .w = w,
                .scale = scale,
                .rows = row_counts[i]});
        free(w);
    }
    free(scale);
}

/* Rank 3: the Gram matrix of 25 columns is singular, and Householder takes over, on rows of all workers. */
static void breakdown_gives_the_same_bytes(void **state) {
    (void)state;
    enum { ROWS = 1300, RANK = 3 };
    float *l = normals(ROWS * RANK, 1, 8), *r = normals(RANK * COLS, 1, 9), *w = floats(ROWS * COLS);
    for (int64_t i = 0; i < ROWS; i++)
        for (int64_t j = 0; j < COLS; j++)
            for (int64_t k = 0; k < RANK; k++) w[i * COLS + j] += l[i * RANK + k] * r[k * COLS + j];
    compare_sketches(
        (sketch_result){.options = {.power_iterations = 2, .oversample = 8, .key = 5}, .w = w, .rows = ROWS});
    free(w), free(l), free(r);
}

static void exact_svd_is_for_one_worker(void **state) {
    (void)state;
    sketch_result both[2] = {{.options = {.kind = FLRQ_SKETCH_SVD}, .rows = 600},
                             {.options = {.kind = FLRQ_SKETCH_SVD}}};
    float *w = normals(600 * COLS, 1, 10);
    both[0].w = w, both[1] = both[0];
    run_group(2, run_sketch, both, sizeof *both);
    for (int r = 0; r < 2; r++) {
        assert_int_equal(both[r].status, FLRQ_ERR_UNSUPPORTED);
        free(both[r].u), free(both[r].v);
    }
    free(w);
}

/* ---- fits -------------------------------------------------------------------------------------------------------- */

typedef struct fit_run {
    flrq_fit_options options;
    const float *w, *s;
    const double *squares;
    int64_t rows;
    flrq_range own;
    uint8_t *code, *zero;
    float *scale, *l, *r;
    flrq_fit_result result;
    float amax[64];
} fit_run;

static void run_fit(flrq_backend *be, flrq_comm *comm, void *user) {
    fit_run *o = user;
    flrq_fit_space *space;
    flrq_codes codes;
    flrq_extent extent = {o->rows, COLS, o->rows * COLS};
    flrq_input_stats stats = {.n = COLS, .tokens = 10, .square_sum = o->squares, .d_sketch = o->s, .sketch_cols = K};
    flrq_operand w = dense_operand((float *)o->w, o->rows, COLS);
    o->options.sketch.workers = comm->size;
    o->own = flrq_share_rows(o->rows, comm->rank, comm->size);
    int64_t cap = flrq_fit_rank_cap(&o->options, o->rows, COLS);
    o->l = floats((cap + 1) * o->rows), o->r = floats((cap + 1) * COLS);
    CHECK_OK(flrq_codes_alloc(&codes, be, &o->options.scheme, extent));
    CHECK_OK(flrq_fit_space_new(&space, be, &o->options, extent));
    CHECK_OK(flrq_fit(space, be, comm, &o->options, "layer", &w, &stats, &codes, o->l, o->r, &o->result));
    memcpy(o->amax, o->result.amax, (size_t)(o->result.curve_terms + 1) * sizeof(float));
    o->code = to_host(be, codes.code, (size_t)(o->rows * COLS));
    o->scale = to_host(be, codes.scale, (size_t)(o->rows * codes.n_groups) * 4);
    o->zero = codes.zero ? to_host(be, codes.zero, (size_t)(o->rows * codes.n_groups)) : NULL;
    flrq_fit_space_free(space, be);
    flrq_codes_release(&codes, be);
}

static void drop_fit(fit_run *o) {
    free(o->code), free(o->zero), free(o->scale), free(o->l), free(o->r);
}

static void compare_fits(fit_run start) {
    fit_run one = start;
    run_group(1, run_fit, &one, sizeof one);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        fit_run many[MAX_WORKERS];
        for (int r = 0; r < sizes[k]; r++) many[r] = start;
        run_group(sizes[k], run_fit, many, sizeof *many);
        for (int r = 0; r < sizes[k]; r++) {
            fit_run *o = &many[r];
            size_t first = (size_t)o->own.first, rows = (size_t)o->own.count, rank = (size_t)one.result.rank;
            o->result.seconds = one.result.seconds, o->result.amax = one.result.amax;
            must_equal(&o->result, &one.result, sizeof one.result, "the result", one.rows, sizes[k]);
            must_equal(o->amax, one.amax, (size_t)(one.result.curve_terms + 1) * 4, "amax", one.rows, sizes[k]);
            must_equal(o->code + first * COLS, one.code + first * COLS, rows * COLS, "codes", one.rows, sizes[k]);
            must_equal(o->scale + first * 2, one.scale + first * 2, rows * 8, "scales", one.rows, sizes[k]);
            if (one.zero) must_equal(o->zero + first * 2, one.zero + first * 2, rows * 2, "zeros", one.rows, sizes[k]);
            must_equal(o->l + first * rank, one.l + first * rank, rows * rank * 4, "L", one.rows, sizes[k]);
            must_equal(o->r, one.r, rank * COLS * 4, "R", one.rows, sizes[k]);
            drop_fit(o);
        }
    }
    drop_fit(&one);
}

static void fits_give_the_same_bytes(void **state) {
    (void)state;
    float *s = normals(COLS * K, 1, 11);
    double *squares = doubles(COLS);
    for (int64_t j = 0; j < COLS; j++) squares[j] = 1 + (double)(j % 7);
    for (int64_t rows = 1300; rows <= 3700; rows += 2400)
        for (int policy = FLRQ_RANK_R1FLR; policy <= FLRQ_RANK_ERROR; policy += FLRQ_RANK_ERROR - FLRQ_RANK_R1FLR)
            for (int symmetric = 0; symmetric < 2; symmetric++) {
                float *w = normals(rows * COLS, 1, 12);
                fit_run start = {.w = w, .s = s, .squares = squares, .rows = rows};
                flrq_fit_options *o = &start.options;
                o->scheme = (flrq_scheme){.bits = symmetric ? 3 : 4, .symmetric = symmetric, .group = 65};
                o->clip =
                    (flrq_clip){.search = FLRQ_CLIP_FAST, .steps = 20, .min_ratio = 0.4f, .signed_scale = symmetric};
                o->clip_weights_h = 1;
                o->sketch = (flrq_sketch_options){.power_iterations = 2, .oversample = 8};
                o->sketch.kind = policy == FLRQ_RANK_R1FLR ? FLRQ_SKETCH_R1 : FLRQ_SKETCH_BLOCK;
                o->rank =
                    (flrq_rank_policy){.rule = (flrq_rank_rule)policy, .max_rank = 16, .multiple = 1, .extra = 0.4};
                o->rank.bits = o->scheme.bits;
                o->metric = FLRQ_METRIC_RMS, o->epochs = 2, o->factor_dtype = FLRQ_BF16;
                compare_fits(start);
                free(w);
            }
    free(squares), free(s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scratch_holds_smaller_sums),   cmocka_unit_test(ops_give_the_same_bytes),
        cmocka_unit_test(sketches_give_the_same_bytes), cmocka_unit_test(breakdown_gives_the_same_bytes),
        cmocka_unit_test(exact_svd_is_for_one_worker),  cmocka_unit_test(fits_give_the_same_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
