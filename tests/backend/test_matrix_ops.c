/* test_matrix_ops.c - memory, random numbers and implicit-matrix ops.
 *
 * The op cases on every face; answers worked out by hand, which also judge the reference; the properties that splitting
 * by rows rests on; the vector kernels on hostile lengths; and every refusal, on both faces.
 */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "backend/optable.h"
#include "core/dtype.h"
#include "core/philox.h"
#include "core/tree.h"

/* Impossible allocations must come back as NULL under AddressSanitizer, as they do without it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

static const char *const faces[] = {"cpu", "cpu-ref"};
static const char *const isas[] = {"generic", "avx2", "avx512"};

static flrq_backend *open_backend(const char *name, int threads) {
    flrq_backend *be;
    if (flrq_backend_open(&be, name, threads) != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return be;
}

/* The fast face with a wanted instruction set, or NULL where this CPU lacks it. */
static flrq_backend *open_isa(const char *isa) {
    setenv("FLRQ_ISA", isa, 1);
    flrq_backend *be = open_backend("cpu", 2);
    unsetenv("FLRQ_ISA");
    if (strcmp(cpu_of(be)->kernels->isa, isa) == 0) return be;
    flrq_backend_close(be);
    return NULL;
}

static void op_cases(void **state) {
    assert_int_equal(op_table_test(&ops_matrix, op_test_device()), 0);
}

/* ---- known answers -------------------------------------------------------------------------------------------------
 */

/* A = (dense - scale (code - zero) - l r) diag(s) with numbers chosen so that every product is exact. */
static const uint16_t known_dense[2][4] = {{0x3f80, 0x4000, 0x4040, 0x0000},
                                           {0xbf80, 0x3f00, 0x4080, 0x0000}}; /* BF16 */
static uint8_t known_code[2][3] = {{3, 0, 2}, {1, 2, 3}}, known_zero[2][2] = {{1, 2}, {0, 3}};
static float known_scale[2][2] = {{0.5f, 2}, {-1, 0.25f}};
static const float known_l[2] = {2, -1}, known_r[3] = {1, 0, 0.5f}, known_s[3] = {1, 2, 4};
/* Row 0: 1 - .5(3-1) - 2*1 = -2; 2 - .5(0-1) - 0 = 2.5; 3 - 2(2-2) - 2*.5 = 2.
 * Row 1: -1 + (1-0) + 1 = 1; .5 + (2-0) - 0 = 2.5; 4 - .25(3-3) + .5 = 4.5. Then columns times 1, 2, 4. */
static const float known_a[2][3] = {{-2, 5, 8}, {1, 5, 18}};

static flrq_operand known_operand(flrq_codes *codes) {
    *codes = (flrq_codes){.rows = 2,
                          .cols = 3,
                          .group = 2,
                          .n_groups = 2,
                          .bits = 2,
                          .code = known_code[0],
                          .scale = known_scale[0],
                          .zero = known_zero[0]};
    return (flrq_operand){.rows = 2,
                          .cols = 3,
                          .d_dense = known_dense,
                          .ld_dense = 4,
                          .dense_dtype = FLRQ_BF16,
                          .codes_sign = -1,
                          .codes = codes,
                          .d_l = known_l,
                          .d_r = known_r,
                          .rank = 1,
                          .lr_sign = -1,
                          .d_col_scale = known_s};
}

static void known_answers(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f], 2);
        flrq_codes codes;
        flrq_operand a = known_operand(&codes);
        float out[6], y[2], z[3], curve[2];
        static const float x[3] = {1, -1, 0.5f}, q[2] = {2, 1}, u[2] = {1, 2}, v[3] = {1, 2, 8};
        assert_int_equal(be->materialize(be, out, &a), FLRQ_OK);
        assert_memory_equal(out, known_a, sizeof known_a);
        assert_int_equal(be->mul(be, y, &a, x, 1), FLRQ_OK);
        assert_true(y[0] == -3 && y[1] == 5);
        assert_int_equal(be->mul_t(be, z, &a, q, 1), FLRQ_OK);
        assert_true(z[0] == -3 && z[1] == 15 && z[2] == 34);
        double sum;
        assert_int_equal(be->sum_squares(be, &sum, &a), FLRQ_OK);
        assert_true(sum == 4 + 25 + 64 + 1 + 25 + 324);
        assert_int_equal(be->sum_squares_mul(be, &sum, &a, x, 1), FLRQ_OK);
        assert_true(sum == 9 + 25);
        /* A - u v^T = {{-3, 3, 0}, {-1, 1, 2}}. */
        assert_int_equal(be->amax_curve(be, curve, &a, u, v, 1), FLRQ_OK);
        assert_true(curve[0] == 18 && curve[1] == 3);
        int64_t count, first;
        assert_int_equal(be->count_nonfinite(be, &count, &first, &a), FLRQ_OK);
        assert_true(count == 0 && first == -1);
        /* Empty sums. */
        a = (flrq_operand){.rows = 2, .cols = 0, .d_dense = known_dense, .ld_dense = 1, .dense_dtype = FLRQ_F32};
        assert_int_equal(be->mul(be, y, &a, x, 1), FLRQ_OK);
        assert_true(y[0] == 0 && y[1] == 0);
        a = (flrq_operand){.rows = 0, .cols = 3, .d_dense = known_dense, .ld_dense = 3, .dense_dtype = FLRQ_F32};
        assert_int_equal(be->mul_t(be, z, &a, q, 1), FLRQ_OK);
        assert_true(z[0] == 0 && z[1] == 0 && z[2] == 0);
        assert_int_equal(be->sum_squares(be, &sum, &a), FLRQ_OK);
        assert_true(sum == 0);
        assert_int_equal(be->sum_squares_mul(be, &sum, &a, x, 1), FLRQ_OK);
        assert_true(sum == 0);
        assert_int_equal(be->amax_curve(be, curve, &a, u, v, 1), FLRQ_OK);
        assert_true(curve[0] == 0 && curve[1] == 0);
        flrq_backend_close(be);
    }
}

/* ---- splitting by rows
 * ----------------------------------------------------------------------------------------------- */

enum { ROWS = 5 * FLRQ_CHUNK_ROWS + 100, COLS = 301, B = 19, GROUP = 100, GROUPS = 4 };

/* Rows row0 .. row0+rows-1 of one big operand: what a worker that owns a range of chunks sees. */
typedef struct big {
    float *dense, *l, *r, *s, *scale;
    uint8_t *code;
    flrq_codes codes;
} big;

static float *normals(uint64_t stream, int64_t count) {
    float *out = malloc((size_t)count * sizeof *out);
    assert_non_null(out);
    flrq_philox_normal(out, 17, stream, 0, (uint64_t)count);
    return out;
}

static void big_new(big *m) {
    m->dense = normals(1, ROWS * COLS), m->l = normals(2, ROWS * 7), m->r = normals(3, 7 * COLS),
    m->s = normals(4, COLS);
    m->scale = normals(5, ROWS * GROUPS);
    m->code = malloc(ROWS * COLS);
    assert_non_null(m->code);
    for (int64_t i = 0; i < ROWS * COLS; i++) m->code[i] = (uint8_t)flrq_philox_below(3, 3, (uint64_t)i, 16);
}

static void big_free(big *m) {
    free(m->dense), free(m->l), free(m->r), free(m->s), free(m->scale), free(m->code);
}

static flrq_operand big_rows(big *m, int64_t row0, int64_t rows, bool everything) {
    flrq_operand a = {.rows = rows,
                      .cols = COLS,
                      .d_dense = m->dense + row0 * COLS,
                      .ld_dense = COLS,
                      .codes_sign = -1,
                      .lr_sign = 1};
    if (!everything) return a;
    m->codes = (flrq_codes){.rows = rows,
                            .cols = COLS,
                            .group = GROUP,
                            .n_groups = GROUPS,
                            .bits = 4,
                            .symmetric = 1,
                            .code = m->code + row0 * COLS,
                            .scale = m->scale + row0 * GROUPS};
    a.codes = &m->codes;
    a.d_l = m->l + row0 * 7, a.d_r = m->r, a.rank = 7;
    a.d_col_scale = m->s;
    return a;
}

static void rows_of_a_worker(void **state) {
    big m;
    big_new(&m);
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        flrq_backend *be = open_isa(isas[k]);
        if (!be) continue;
        float *x = normals(9, COLS * B), *y = malloc(ROWS * B * sizeof *y), *part = malloc(ROWS * COLS * sizeof *part);
        float *whole = malloc(ROWS * COLS * sizeof *whole);
        assert_true(y && part && whole);
        for (int everything = 0; everything <= 1; everything++) {
            flrq_operand a = big_rows(&m, 0, ROWS, everything);
            assert_int_equal(be->mul(be, y, &a, x, B), FLRQ_OK);
            assert_int_equal(be->materialize(be, whole, &a), FLRQ_OK);
            for (int64_t row0 = 0; row0 < ROWS; row0 += 2 * FLRQ_CHUNK_ROWS) {
                int64_t rows = ROWS - row0 < 2 * FLRQ_CHUNK_ROWS ? ROWS - row0 : 2 * FLRQ_CHUNK_ROWS;
                a = big_rows(&m, row0, rows, everything);
                assert_int_equal(be->mul(be, part, &a, x, B), FLRQ_OK);
                assert_memory_equal(part, y + row0 * B, (size_t)(rows * B) * sizeof *y);
                assert_int_equal(be->materialize(be, part, &a), FLRQ_OK);
                assert_memory_equal(part, whole + row0 * COLS, (size_t)(rows * COLS) * sizeof *part);
            }
        }
        free(x), free(y), free(part), free(whole);
        flrq_backend_close(be);
    }
    big_free(&m);
}

/* mul_t of all rows is the tree over mul_t of the chunks, and of aligned ranges of chunks: bytes. */
static void chunks_of_a_transposed_product(void **state) {
    big m;
    big_new(&m);
    flrq_backend *be = open_backend("cpu", 2);
    float *q = normals(10, ROWS * B), *whole = malloc(COLS * B * sizeof *whole), *sum = malloc(COLS * B * sizeof *sum);
    float *buffers[FLRQ_TREE_LEVELS];
    for (int k = 0; k < FLRQ_TREE_LEVELS; k++) assert_non_null(buffers[k] = malloc(COLS * B * sizeof **buffers));
    flrq_operand a = big_rows(&m, 0, ROWS, false);
    assert_int_equal(be->mul_t(be, whole, &a, q, B), FLRQ_OK);
    flrq_tree tree = {0};
    for (int64_t row0 = 0; row0 < ROWS; row0 += FLRQ_CHUNK_ROWS) {
        a = big_rows(&m, row0, ROWS - row0 < FLRQ_CHUNK_ROWS ? ROWS - row0 : FLRQ_CHUNK_ROWS, false);
        assert_int_equal(be->mul_t(be, buffers[0], &a, q + row0 * B, B), FLRQ_OK);
        flrq_tree_push_f32(&tree, buffers, COLS * B);
    }
    flrq_tree_finish_f32(&tree, buffers, sum, COLS * B);
    assert_memory_equal(sum, whole, COLS * B * sizeof *sum);
    /* Chunks 0-3 by one worker, 4-5 by another. */
    a = big_rows(&m, 0, 4 * FLRQ_CHUNK_ROWS, false);
    assert_int_equal(be->mul_t(be, sum, &a, q, B), FLRQ_OK);
    a = big_rows(&m, 4 * FLRQ_CHUNK_ROWS, ROWS - 4 * FLRQ_CHUNK_ROWS, false);
    assert_int_equal(be->mul_t(be, buffers[0], &a, q + 4 * FLRQ_CHUNK_ROWS * B, B), FLRQ_OK);
    for (int64_t i = 0; i < COLS * B; i++) sum[i] += buffers[0][i];
    assert_memory_equal(sum, whole, COLS * B * sizeof *sum);
    for (int k = 0; k < FLRQ_TREE_LEVELS; k++) free(buffers[k]);
    free(q), free(whole), free(sum);
    flrq_backend_close(be);
    big_free(&m);
}

/* ---- kernels -------------------------------------------------------------------------------------------------------
 */

static void kernels_convert(void **state) {
    uint16_t *halves = malloc(65536 * sizeof *halves);
    float *out = malloc(65536 * sizeof *out);
    assert_true(halves && out);
    for (uint32_t i = 0; i < 65536; i++) halves[i] = (uint16_t)i;
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        flrq_backend *be = open_isa(isas[k]);
        if (!be) continue;
        static const flrq_dtype types[] = {FLRQ_F16, FLRQ_BF16};
        for (int t = 0; t < 2; t++) {
            cpu_of(be)->kernels->convert(out, halves, types[t], 65536);
            for (uint32_t i = 0; i < 65536; i++) {
                float want = flrq_load(halves, types[t], i);
                if (isnan(want) ? !isnan(out[i]) : memcmp(&out[i], &want, 4) != 0)
                    fail_msg("%s type %d %04x: %a, must be %a", isas[k], t, i, (double)out[i], (double)want);
            }
        }
        flrq_backend_close(be);
    }
    free(halves);
    free(out);
}

/* Lengths around every vector and unroll width, one float off alignment; the float after the end must stay. */
static void kernels_lengths(void **state) {
    enum { MOST = 300 };
    float *x = normals(20, MOST + 2), *y = normals(21, MOST + 2), out[MOST + 2];
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        flrq_backend *be = open_isa(isas[k]);
        if (!be) continue;
        const cpu_kernels *kernels = cpu_of(be)->kernels;
        for (int64_t n = 0; n <= MOST; n++) {
            double dot = 0, squares = 0, absolute = 0, size = 0;
            for (int64_t i = 0; i < n; i++) {
                dot += (double)x[i + 1] * (double)y[i + 1];
                size += fabs((double)x[i + 1] * (double)y[i + 1]);
                squares += (double)x[i + 1] * (double)x[i + 1];
                absolute += fabs((double)x[i + 1]);
            }
            /* Any order of n fp32 additions and products: n eps times the sum of absolute terms. */
            double eps = OP_EPS32 * (double)(n + 1);
            assert_true(fabs((double)kernels->dot(x + 1, y + 1, n) - dot) <= eps * size);
            assert_true(fabs(kernels->sum_squares(x + 1, n) - squares) <= eps * squares);
            assert_true(fabs(kernels->abs_sum(x + 1, n) - absolute) <= 1e-13 * absolute);
            memcpy(out, y, sizeof out);
            kernels->axpy(out + 1, x + 1, 0.75f, n);
            for (int64_t i = 0; i < n; i++)
                assert_true(fabs((double)out[i + 1] - ((double)y[i + 1] + 0.75 * (double)x[i + 1])) <=
                            2 * OP_EPS32 * 8);
            assert_true(out[0] == y[0] && out[n + 1] == y[n + 1]);
            memcpy(out, y, sizeof out);
            kernels->scale_by(out + 1, x + 1, n);
            for (int64_t i = 0; i < n; i++) assert_true(out[i + 1] == y[i + 1] * x[i + 1]);
            assert_true(out[0] == y[0] && out[n + 1] == y[n + 1]);
            /* A single bad element at every place is found, and nothing beyond the end is looked at. */
            memcpy(out, x, sizeof out);
            out[n + 1] = NAN;
            assert_int_equal(kernels->find_nonfinite(out + 1, n), -1);
            for (int64_t i = 0; i < n; i += 1 + i / 7) {
                out[i + 1] = i % 2 ? NAN : -INFINITY;
                assert_int_equal(kernels->find_nonfinite(out + 1, n), i);
                out[i + 1] = FLT_MAX;
            }
        }
        flrq_backend_close(be);
    }
    free(x);
    free(y);
}

/* Every combination of transposes, edges of the register block and of the block of k, alpha and beta; NaN in C where
 * beta is 0; and the promise that an element does not depend on where it lies. */
static void kernels_gemm(void **state) {
    enum { MOST = 60, LD = MOST + 5, K = 600 };
    static const int64_t sizes[] = {1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 33, 47, 48, 49, MOST};
    static const int64_t inner[] = {0, 1, 2, 15, 16, 17, 255, 256, 257, K};
    enum { SIZES = sizeof sizes / sizeof *sizes, INNER = sizeof inner / sizeof *inner };
    float *a = normals(30, K * LD + MOST * K), *b = normals(31, K * LD + MOST * K), *start = normals(32, LD * LD);
    float *c = malloc(LD * LD * sizeof *c), *single = malloc(sizeof *single);
    assert_true(c && single);
    for (size_t isa = 0; isa < sizeof isas / sizeof *isas; isa++) {
        flrq_backend *be = open_isa(isas[isa]);
        if (!be) continue;
        const cpu_kernels *kernels = cpu_of(be)->kernels;
        float *work = cpu_of(be)->work[0];
        for (int combination = 0; combination < 4 * SIZES * INNER; combination++) {
            int ta = combination & 1, tb = combination >> 1 & 1, s = combination / 4 % SIZES,
                t = combination / 4 / SIZES;
            int64_t m = sizes[s], n = sizes[(s * 5 + t) % SIZES], k = inner[t];
            int64_t ld_a = ta ? m + 3 : k + 1, ld_b = tb ? k + 2 : n + 1, ld_c = n + 4;
            float alpha = t % 3 == 0 ? 1 : -0.5f, beta = s % 3 == 0 ? 0 : s % 3 == 1 ? 1 : 2;
            memcpy(c, start, LD * LD * sizeof *c);
            for (int64_t i = 0; i < m && beta == 0; i++)
                for (int64_t j = 0; j < n; j++) c[i * ld_c + j] = NAN;
            kernels->gemm(ta, tb, m, n, k, alpha, a, ld_a, b, ld_b, beta, c, ld_c, work);
            for (int64_t i = 0; i < m; i++)
                for (int64_t j = 0; j < ld_c; j++) {
                    double old = (double)start[i * ld_c + j], sum = 0, size = 0;
                    if (j >= n) {
                        assert_true(c[i * ld_c + j] == start[i * ld_c + j]); /* between the rows of C */
                        continue;
                    }
                    for (int64_t p = 0; p < k; p++) {
                        double term =
                            (double)a[ta ? p * ld_a + i : i * ld_a + p] * (double)b[tb ? j * ld_b + p : p * ld_b + j];
                        sum += term;
                        size += fabs(term);
                    }
                    double want = (double)alpha * sum + (beta == 0 ? 0 : (double)beta * old);
                    double bound = OP_EPS32 * (double)(k + 4) * (size + fabs(want) + fabs((double)beta * old));
                    if (!(fabs((double)c[i * ld_c + j] - want) <= bound))
                        fail_msg("%s %c%c %d x %d x %d (%d, %d): %g, must be %g", isas[isa], ta ? 'T' : 'N',
                                 tb ? 'T' : 'N', (int)m, (int)n, (int)k, (int)i, (int)j, (double)c[i * ld_c + j], want);
                }
            int64_t i = m / 2, j = n - 1;
            *single = beta == 0 ? NAN : start[i * ld_c + j];
            kernels->gemm(ta, tb, 1, 1, k, alpha, a + (ta ? i : i * ld_a), ld_a, b + (tb ? j * ld_b : j), ld_b, beta,
                          single, 1, work);
            assert_memory_equal(single, &c[i * ld_c + j], sizeof *single);
        }
        /* NaN and infinity go through. */
        float row[2] = {NAN, 1}, column[2] = {0, 1}, out = 0;
        kernels->gemm(0, 0, 1, 1, 2, 1, row, 2, column, 1, 0, &out, 1, work);
        assert_true(isnan(out));
        row[0] = INFINITY, column[0] = 1;
        kernels->gemm(0, 0, 1, 1, 2, 1, row, 2, column, 1, 0, &out, 1, work);
        assert_true(isinf(out));
        flrq_backend_close(be);
    }
    free(a), free(b), free(start), free(c), free(single);
}

/* ---- memory and opening
 * ---------------------------------------------------------------------------------------------- */

static void memory(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f], 3);
        assert_int_equal(be->abi, FLRQ_BACKEND_ABI);
        assert_string_equal(be->name, faces[f]);
        char host[100], back[100];
        for (int i = 0; i < 100; i++) host[i] = (char)(i + 1);
        for (size_t bytes = 0; bytes <= 100; bytes += 25) {
            void *d = NULL;
            assert_int_equal(be->alloc(be, &d, bytes, "a test"), FLRQ_OK);
            assert_non_null(d);
            assert_int_equal((uintptr_t)d % 64, 0);
            assert_int_equal(be->upload(be, d, host, bytes), FLRQ_OK);
            assert_int_equal(be->sync(be), FLRQ_OK);
            assert_int_equal(be->download(be, back, d, bytes), FLRQ_OK);
            assert_memory_equal(host, back, bytes);
            assert_int_equal(be->zero(be, d, bytes), FLRQ_OK);
            for (size_t i = 0; i < bytes; i++) assert_int_equal(((char *)d)[i], 0);
            be->release(be, d);
        }
        be->release(be, NULL);
        static const size_t impossible[] = {SIZE_MAX, SIZE_MAX - 63, SIZE_MAX / 2 + 1};
        for (size_t i = 0; i < 3; i++) {
            void *d = host;
            char want[64];
            snprintf(want, sizeof want, "%zu bytes wanted for the moon", impossible[i]);
            assert_int_equal(be->alloc(be, &d, impossible[i], "the moon"), FLRQ_ERR_MEMORY);
            assert_null(d);
            assert_non_null(strstr(flrq_last_error(), want));
        }
        flrq_device_info info;
        assert_int_equal(be->info(be, &info), FLRQ_OK);
        assert_int_equal(info.threads, 3);
        assert_non_null(strstr(info.name, "3 threads"));
        assert_non_null(strstr(info.name, info.instruction_set));
        assert_true(info.total_bytes >= info.free_bytes && info.free_bytes > 0);
        flrq_backend_close(be);
    }
    flrq_backend_close(NULL);
}

static void opening(void **state) {
    flrq_backend *be = (flrq_backend *)1;
    assert_int_equal(flrq_backend_open(&be, "gpu9", 0), FLRQ_ERR_USAGE);
    assert_null(be);
    assert_non_null(strstr(flrq_last_error(), "gpu9"));
    assert_int_equal(flrq_backend_open(&be, "cpu", -1), FLRQ_ERR_USAGE);
    assert_int_equal(flrq_backend_open(&be, "cpu", 1025), FLRQ_ERR_USAGE);
    assert_non_null(strstr(flrq_last_error(), "[0, 1024]"));
    setenv("FLRQ_ISA", "mmx", 1);
    assert_int_equal(flrq_backend_open(&be, "cpu", 1), FLRQ_ERR_USAGE);
    assert_non_null(strstr(flrq_last_error(), "mmx"));
    assert_null(be);
    setenv("FLRQ_ISA", "", 1); /* as if unset */
    flrq_backend_close(open_backend("cpu", 1));
    unsetenv("FLRQ_ISA");
    be = open_isa("generic"); /* exists everywhere */
    assert_non_null(be);
    flrq_backend_close(be);
    be = open_backend("auto", 0);
    flrq_device_info info;
    assert_int_equal(be->info(be, &info), FLRQ_OK);
    assert_true(info.threads >= 1);
    flrq_backend_close(be);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------
 */

static float spare[64];
static double spare_sum;
static int64_t spare_count[2];

static flrq_status call(flrq_backend *be, int op, const flrq_operand *a, int64_t b) {
    switch (op) {
    case 0:
        return be->materialize(be, spare, a);
    case 1:
        return be->mul(be, spare, a, spare, b);
    case 2:
        return be->mul_t(be, spare, a, spare, b);
    case 3:
        return be->sum_squares(be, &spare_sum, a);
    case 4:
        return be->sum_squares_mul(be, &spare_sum, a, spare, b);
    case 5:
        return be->amax_curve(be, spare, a, spare, spare, b);
    default:
        return be->count_nonfinite(be, &spare_count[0], &spare_count[1], a);
    }
}
static const char *const op_names[] = {"materialize",     "mul",        "mul_t",          "sum_squares",
                                       "sum_squares_mul", "amax_curve", "count_nonfinite"};

static void expect_refusal(flrq_backend *be, const flrq_operand *a, flrq_status want, const char *text) {
    for (int op = 0; op < 7; op++) {
        flrq_status status = call(be, op, a, 1);
        if (status != want) fail_msg("%s on %s: %s", op_names[op], be->name, flrq_status_name(status));
        /* The op that refused is named, and the number that is wrong. */
        assert_memory_equal(flrq_last_error(), op_names[op], strlen(op_names[op]));
        if (!strstr(flrq_last_error(), text)) fail_msg("\"%s\" lacks \"%s\"", flrq_last_error(), text);
    }
}

static void refusals(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f], 2);
        flrq_codes codes;
        const flrq_operand good = known_operand(&codes);
        flrq_operand a = good;
        for (int op = 0; op < 7; op++) assert_int_equal(call(be, op, &good, 1), FLRQ_OK);
        a.rows = -1;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "-1");
        a = good, a.cols = (int64_t)1 << 31;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "2147483648");
        a = good, a.rank = -5;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "-5");
        a = good, a.ld_dense = 2;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "leading dimension 2");
        a = good, a.dense_dtype = FLRQ_U8;
        expect_refusal(be, &a, FLRQ_ERR_UNSUPPORTED, "type");
        a = good, a.d_l = NULL;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "factors");
        a = good, a.d_r = NULL;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "factors");
        a = good;
        codes.rows = 3;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "3 x 3");
        codes.rows = 2, codes.cols = 2;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "2 x 2");
        codes.cols = 3, codes.group = 0;
        expect_refusal(be, &a, FLRQ_ERR_SHAPE, "group 0");
        codes.group = 2;
        static const int with_columns[] = {1, 2, 4, 5};
        for (int i = 0; i < 4; i++) {
            assert_int_equal(call(be, with_columns[i], &good, -1), FLRQ_ERR_SHAPE);
            assert_non_null(strstr(flrq_last_error(), "-1 columns"));
            assert_int_equal(call(be, with_columns[i], &good, (int64_t)1 << 31), FLRQ_ERR_SHAPE);
            assert_non_null(strstr(flrq_last_error(), "2147483648 columns"));
        }
        flrq_backend_close(be);
    }
}

/* Scratch that cannot be had: an error with the number of bytes, and the backend works afterwards. */
static void no_scratch(void **state) {
    flrq_backend *be = open_backend("cpu", 2);
    flrq_codes codes;
    const flrq_operand a = known_operand(&codes);
    static const int with_columns[] = {1, 2, 4, 5};
    for (int i = 0; i < 4; i++) {
        if (with_columns[i] == 2) continue; /* mul_t goes by blocks of columns; its scratch is bounded */
        flrq_operand wide = {
            .rows = 1, .cols = INT32_MAX, .d_dense = known_dense, .ld_dense = INT32_MAX, .d_col_scale = known_s};
        assert_int_equal(call(be, with_columns[i], &wide, INT32_MAX), FLRQ_ERR_MEMORY);
        assert_non_null(strstr(flrq_last_error(), "bytes wanted for"));
        float y[2];
        static const float x[3] = {1, -1, 0.5f};
        assert_int_equal(be->mul(be, y, &a, x, 1), FLRQ_OK);
        assert_true(y[0] == -3 && y[1] == 5);
    }
    /* Products of sizes that do not even fit in size_t. */
    flrq_operand tall = {.rows = INT32_MAX, .cols = INT32_MAX, .rank = INT32_MAX, .d_l = known_l, .d_r = known_r};
    assert_int_equal(be->amax_curve(be, spare, &tall, spare, spare, INT32_MAX), FLRQ_ERR_MEMORY);
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_cases),         cmocka_unit_test(known_answers),
        cmocka_unit_test(rows_of_a_worker), cmocka_unit_test(chunks_of_a_transposed_product),
        cmocka_unit_test(kernels_convert),  cmocka_unit_test(kernels_lengths),
        cmocka_unit_test(kernels_gemm),     cmocka_unit_test(memory),
        cmocka_unit_test(opening),          cmocka_unit_test(refusals),
        cmocka_unit_test(no_scratch),
    };
    /* What is written by hand hands host memory to the ops. */
    const struct CMUnitTest device[] = {cmocka_unit_test(op_cases)};
    if (strcmp(op_test_device(), "cpu") != 0) return cmocka_run_group_tests(device, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
