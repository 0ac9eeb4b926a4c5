/* test_small_ops.c - small dense ops and calibration sums: the op cases on every face, answers worked out by hand,
 * which also judge the reference, and every refusal, on both faces.
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

#include "backend/optable.h"

/* Impossible allocations must come back as NULL under AddressSanitizer, as they do without it. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) {
    return "allocator_may_return_null=1";
}

static const char *const faces[] = {"cpu", "cpu-ref"};

static flrq_backend *open_backend(const char *name) {
    flrq_backend *be;
    if (flrq_backend_open(&be, name, 2) != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return be;
}

static void op_cases(void **state) {
    assert_int_equal(op_table_test(&ops_small, op_test_device()), 0);
}

static void assert_near(double got, double want, double tolerance) {
    if (!(fabs(got - want) <= tolerance)) fail_msg("%.17g, must be %.17g", got, want);
}

/* ---- known answers -------------------------------------------------------------------------------------------------
 */

static void known_gram_and_cholesky(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        static const float y[3][2] = {{2, 1}, {0, 1}, {0, 1}};
        double gram[4];
        assert_int_equal(be->gram(be, gram, y[0], 3, 2), FLRQ_OK);
        assert_true(gram[0] == 4 && gram[1] == 2 && gram[2] == 2 && gram[3] == 3);
        int info = -1;
        assert_int_equal(be->cholesky(be, gram, 2, &info), FLRQ_OK);
        assert_int_equal(info, 0);
        assert_near(gram[0], 2, 0);
        assert_near(gram[1], 1, 0);
        assert_near(gram[2], 0, 0);
        assert_near(gram[3], sqrt(2), DBL_EPSILON);
        float row[2] = {4, 3};
        assert_int_equal(be->solve_right(be, row, gram, 1, 2), FLRQ_OK); /* (2, (3 - 2) / sqrt 2) */
        assert_near((double)row[0], 2, 0);
        assert_near((double)row[1], sqrt(0.5), 2 * FLT_EPSILON);
        /* Products that overflow fp32 do not overflow here. */
        static const float large[2] = {3e38f, 3e38f};
        assert_int_equal(be->gram(be, gram, large, 2, 1), FLRQ_OK);
        assert_near(gram[0] / (2.0 * 3e38 * 3e38), 1, 1e-6);
        flrq_backend_close(be);
    }
}

static void known_eigenvalues(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        double a[4] = {2, 1, 1, 2}, values[2];
        assert_int_equal(be->eigh(be, a, values, 2), FLRQ_OK);
        assert_near(values[0], 3, 4 * DBL_EPSILON);
        assert_near(values[1], 1, 4 * DBL_EPSILON);
        assert_near(a[0] * a[2], 0.5, 4 * DBL_EPSILON);  /* first column (1, 1) / sqrt 2 up to sign */
        assert_near(a[1] * a[3], -0.5, 4 * DBL_EPSILON); /* second column (1, -1) / sqrt 2 */
        /* Only the values decide the order, not their size: negative ones come last. */
        double b[9] = {-5, 0, 0, 0, 1, 0, 0, 0, 2}, three[3];
        assert_int_equal(be->eigh(be, b, three, 3), FLRQ_OK);
        assert_near(three[0], 2, 0);
        assert_near(three[1], 1, 0);
        assert_near(three[2], -5, 0);
        assert_near(fabs(b[0 * 3 + 2]), 1, 0);
        flrq_backend_close(be);
    }
}

static void known_svd(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        float a[6] = {0, 3, 0, 2, 0, 0}, u[4], s[2], vt[6];
        assert_int_equal(be->svd(be, FLRQ_SVD_DEFAULT, a, 2, 3, u, s, vt), FLRQ_OK);
        assert_near((double)s[0], 3, 4 * FLT_EPSILON);
        assert_near((double)s[1], 2, 4 * FLT_EPSILON);
        assert_near((double)(u[0] * vt[1]), 1, 4 * FLT_EPSILON); /* e1 e2^T times 3 */
        assert_near((double)(u[3] * vt[3]), 1, 4 * FLT_EPSILON); /* e2 e1^T times 2 */
        flrq_backend_close(be);
    }
}

static void known_products(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        static const float a[4] = {1, 2, 3, 4}, b[4] = {0, 1, 1, 0};
        float c[4] = {10, 20, 30, 40};
        assert_int_equal(be->gemm(be, c, a, b, 2, 2, 2, 2, -1), FLRQ_OK);
        assert_true(c[0] == -6 && c[1] == -18 && c[2] == -22 && c[3] == -34);
        assert_int_equal(be->rank_one(be, c, a, b, 2, 2, 3), FLRQ_OK); /* + 3 (1, 2)^T (0, 1) */
        assert_true(c[0] == -6 && c[1] == -15 && c[2] == -22 && c[3] == -28);
        /* Tokens (1, -3) and (0, 0): |x| / mean = (.5, 1.5), and nothing. */
        double abs_sum[2] = {1, 1}, square_sum[2] = {0, 2};
        static const float x[4] = {1, -3, 0, 0};
        assert_int_equal(be->input_stats(be, abs_sum, square_sum, x, 2, 2), FLRQ_OK);
        assert_true(abs_sum[0] == 1.5 && abs_sum[1] == 2.5 && square_sum[0] == 1 && square_sum[1] == 11);
        float s[2] = {5, 5};
        static const float g[2] = {2, 9};
        assert_int_equal(be->input_sketch(be, s, x, g, 2, 2, 1), FLRQ_OK);
        assert_true(s[0] == 7 && s[1] == -1);
        flrq_backend_close(be);
    }
}

/* Graded columns: Householder stays orthonormal where the Gram matrix has lost everything. */
static void householder_on_graded_columns(void **state) {
    enum { M = 40, N = 6 };
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        float y[M * N];
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) y[i * N + j] = ldexpf((float)((i * 7 + j * j * 3) % 11) - 5, -12 * j);
        assert_int_equal(be->householder(be, y, M, N), FLRQ_OK);
        for (int p = 0; p < N; p++)
            for (int q = 0; q <= p; q++) {
                double sum = 0;
                for (int i = 0; i < M; i++) sum += (double)y[i * N + p] * (double)y[i * N + q];
                assert_near(sum, p == q, 16 * FLT_EPSILON);
            }
        flrq_backend_close(be);
    }
}

/* ---- refusals ------------------------------------------------------------------------------------------------------
 */

static void expect(flrq_status got, flrq_status want, const char *op, const char *text) {
    if (got != want) fail_msg("%s: %s (%s)", op, flrq_status_name(got), flrq_last_error());
    assert_memory_equal(flrq_last_error(), op, strlen(op));
    if (!strstr(flrq_last_error(), text)) fail_msg("\"%s\" lacks \"%s\"", flrq_last_error(), text);
}

static void refused_shapes(void **state) {
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        float x[4] = {0};
        double d[4] = {1, 0, 0, 1};
        int info;
        const int64_t big = (int64_t)1 << 31;
        expect(be->gram(be, d, x, -1, 2), FLRQ_ERR_SHAPE, "gram", "-1 x 2");
        expect(be->gram(be, d, x, 2, big), FLRQ_ERR_SHAPE, "gram", "2147483648");
        expect(be->cholesky(be, d, -2, &info), FLRQ_ERR_SHAPE, "cholesky", "-2");
        expect(be->solve_right(be, x, d, -1, 2), FLRQ_ERR_SHAPE, "solve_right", "-1 x 2");
        expect(be->householder(be, x, 1, 2), FLRQ_ERR_SHAPE, "householder", "2 columns of length 1");
        expect(be->householder(be, x, big, 1), FLRQ_ERR_SHAPE, "householder", "2147483648");
        expect(be->eigh(be, d, d, -1), FLRQ_ERR_SHAPE, "eigh", "-1");
        expect(be->gemm(be, x, x, x, 1, -1, 1, 1, 0), FLRQ_ERR_SHAPE, "gemm", "1 x -1");
        expect(be->gemm(be, x, x, x, 1, 1, -1, 1, 0), FLRQ_ERR_SHAPE, "gemm", "1 x -1");
        expect(be->rank_one(be, x, x, x, 1, -3, 1), FLRQ_ERR_SHAPE, "rank_one", "1 x -3");
        expect(be->svd(be, FLRQ_SVD_DEFAULT, x, -1, 1, x, x, x), FLRQ_ERR_SHAPE, "svd", "-1 x 1");
        expect(be->input_stats(be, d, d, x, 1, -1), FLRQ_ERR_SHAPE, "input_stats", "1 x -1");
        expect(be->input_sketch(be, x, x, x, 1, 1, -7), FLRQ_ERR_SHAPE, "input_sketch", "1 x -7");
        /* Empty problems are no error. */
        assert_int_equal(be->cholesky(be, d, 0, &info), FLRQ_OK);
        assert_int_equal(info, 0);
        assert_int_equal(be->eigh(be, d, d, 0), FLRQ_OK);
        assert_int_equal(be->svd(be, FLRQ_SVD_DEFAULT, x, 0, 3, x, x, x), FLRQ_OK);
        assert_int_equal(be->householder(be, x, 3, 0), FLRQ_OK);
        flrq_backend_close(be);
    }
}

static void refused_numbers(void **state) {
    static const double bad64[] = {NAN, INFINITY, -INFINITY};
    for (size_t f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        for (int k = 0; k < 3; k++) {
            float x[6] = {1, 2, 3, 4, (float)bad64[k], 6}, u[6], s[2], vt[6];
            double a[9] = {1, 0, 0, 0, 1, bad64[k], 0, bad64[k], 1}, values[3];
            expect(be->svd(be, FLRQ_SVD_DEFAULT, x, 3, 2, u, s, vt), FLRQ_ERR_NUMERIC, "svd",
                   "element (2, 0) of the 3 x 2");
            expect(be->householder(be, x, 3, 2), FLRQ_ERR_NUMERIC, "householder", "element (2, 0) of the 3 x 2");
            expect(be->eigh(be, a, values, 3), FLRQ_ERR_NUMERIC, "eigh", "element (1, 2) of the 3 x 3");
            double r[4] = {1, 0, 0, bad64[k]};
            expect(be->solve_right(be, x, r, 1, 2), FLRQ_ERR_NUMERIC, "solve_right", "diagonal element 1");
            int info = 0;
            double gram[4] = {1, 0, 0, bad64[k]};
            assert_int_equal(be->cholesky(be, gram, 2, &info), FLRQ_OK); /* a breakdown is an answer, not a failure */
            assert_int_equal(info, 2);
        }
        float x[2] = {1, 2};
        double r[4] = {1, 0, 0, 0};
        expect(be->solve_right(be, x, r, 1, 2), FLRQ_ERR_NUMERIC, "solve_right", "diagonal element 1 of R is 0");
        r[3] = 1e-60; /* zero in fp32 */
        expect(be->solve_right(be, x, r, 1, 2), FLRQ_ERR_NUMERIC, "solve_right", "1e-60");
        flrq_backend_close(be);
    }
}

static void no_scratch(void **state) {
    flrq_backend *be = open_backend("cpu");
    float x[1] = {1};
    double d[1] = {1};
    /* b x b doubles beyond any address space. */
    expect(be->gram(be, d, x, 1, INT32_MAX), FLRQ_ERR_SHAPE, "gram", "2147483647");
    assert_int_equal(be->gram(be, d, x, 1, 190000000), FLRQ_ERR_MEMORY);
    assert_non_null(strstr(flrq_last_error(), "bytes wanted for"));
    assert_int_equal(be->gram(be, d, x, 1, 1), FLRQ_OK);
    assert_true(d[0] == 1);
    flrq_backend_close(be);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_cases),       cmocka_unit_test(known_gram_and_cholesky),
        cmocka_unit_test(known_products), cmocka_unit_test(known_eigenvalues),
        cmocka_unit_test(known_svd),      cmocka_unit_test(householder_on_graded_columns),
        cmocka_unit_test(refused_shapes), cmocka_unit_test(refused_numbers),
        cmocka_unit_test(no_scratch),
    };
    /* What is written by hand hands host memory to the ops. */
    const struct CMUnitTest device[] = {cmocka_unit_test(op_cases)};
    if (strcmp(op_test_device(), "cpu") != 0) return cmocka_run_group_tests(device, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
