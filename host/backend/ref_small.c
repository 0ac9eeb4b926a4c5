/* ref_small.c - the scalar reference of the small dense ops and calibration sums: plain loops in double.
 *
 * Must stay obvious: textbook algorithms (Cholesky-Banachiewicz, Householder, cyclic Jacobi), no BLAS, no threads. Slow
 * on purpose; meant for matrices of a few hundred columns. Bases are unique only up to sign or rotation: tests compare
 * what they span, not their elements.
 */
#include "backend/cpu.h"
#include "core/dtype.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

static flrq_status new_doubles(double **out, int64_t count) {
    *out = calloc((size_t)count + 1, sizeof **out);
    return *out ? FLRQ_OK : flrq_fail_memory((size_t)count * sizeof **out, "a matrix of the reference");
}

static flrq_status ref_gram(flrq_backend *be, double *d_gram, const float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("gram", m, b, sizeof(float)));
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < b; j++) {
            double sum = 0;
            for (int64_t k = 0; k < m; k++) sum += (double)d_y[k * b + i] * (double)d_y[k * b + j];
            d_gram[i * b + j] = sum;
        }
    return FLRQ_OK;
}

static flrq_status ref_cholesky(flrq_backend *be, double *d_gram, int64_t b, int *info) {
    FLRQ_TRY(op_check_shape("cholesky", b, b, sizeof(double)));
    *info = 0;
    for (int64_t i = 0; i < b && *info == 0; i++)
        for (int64_t j = i; j < b; j++) {
            double sum = d_gram[i * b + j];
            for (int64_t k = 0; k < i; k++) sum -= d_gram[k * b + i] * d_gram[k * b + j];
            if (j > i) {
                d_gram[i * b + j] = sum / d_gram[i * b + i];
            } else if (sum > 0 && isfinite(sum)) {
                d_gram[i * b + i] = sqrt(sum);
            } else {
                *info = (int)i + 1;
                break;
            }
        }
    for (int64_t i = 0; i < b; i++)
        for (int64_t j = 0; j < i; j++) d_gram[i * b + j] = 0;
    return FLRQ_OK;
}

static flrq_status ref_solve_right(flrq_backend *be, float *d_y, const double *d_r, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("solve_right", m, b, sizeof(float)));
    FLRQ_TRY(cpu_diagonal_check("solve_right", d_r, b));
    double *row;
    FLRQ_TRY(new_doubles(&row, b));
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < b; j++) {
            double sum = (double)d_y[i * b + j];
            for (int64_t k = 0; k < j; k++) sum -= row[k] * d_r[k * b + j];
            row[j] = sum / d_r[j * b + j];
        }
        for (int64_t j = 0; j < b; j++) d_y[i * b + j] = (float)row[j];
    }
    free(row);
    return FLRQ_OK;
}

static flrq_status ref_gemm(flrq_backend *be, float *d_c, const float *d_a, const float *d_b, int64_t m, int64_t k,
                            int64_t b, float alpha, float beta) {
    FLRQ_TRY(op_check_shape("gemm", m, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", m, b, sizeof(float)));
    FLRQ_TRY(op_check_shape("gemm", b, k, sizeof(float)));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++) {
            double sum = 0;
            for (int64_t l = 0; l < b; l++) sum += (double)d_a[i * b + l] * (double)d_b[l * k + j];
            double old = beta != 0 ? (double)beta * (double)d_c[i * k + j] : 0;
            d_c[i * k + j] = (float)((double)alpha * sum + old);
        }
    return FLRQ_OK;
}

static flrq_status ref_column_amax(flrq_backend *be, float *amax, const float *d_x, int64_t ld, const float *d_divisor,
                                   int64_t m, int64_t b) {
    FLRQ_TRY(op_check_columns_of("column_amax", m, ld, b));
    for (int64_t k = 0; k < b; k++) {
        amax[k] = 0;
        for (int64_t i = 0; i < m; i++) {
            float value = fabsf(d_divisor ? d_x[i * ld + k] / d_divisor[i] : d_x[i * ld + k]);
            if (isnan(value) || value > amax[k]) amax[k] = value;
            if (isnan(value)) break;
        }
    }
    return FLRQ_OK;
}

static flrq_status ref_round_factor(flrq_backend *be, float *d_out, const float *d_x, int64_t ld,
                                    const float *d_divisor, const float *factor, int64_t m, int64_t b, int transpose,
                                    flrq_dtype dtype) {
    FLRQ_TRY(op_check_columns_of("round_factor", m, ld, b));
    FLRQ_TRY(op_check_factor_type(dtype));
    for (int64_t i = 0; i < m; i++)
        for (int64_t k = 0; k < b; k++) {
            uint16_t bits;
            float value = d_divisor ? d_x[i * ld + k] / d_divisor[i] : d_x[i * ld + k];
            flrq_store(&bits, dtype, 0, value * factor[k]);
            d_out[transpose ? k * m + i : i * b + k] = flrq_load(&bits, dtype, 0);
        }
    return FLRQ_OK;
}

static flrq_status ref_rank_one(flrq_backend *be, float *d_y, const float *d_u, const float *d_v, int64_t m, int64_t n,
                                float alpha) {
    FLRQ_TRY(op_check_shape("rank_one", m, n, sizeof(float)));
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < n; j++)
            d_y[i * n + j] = (float)((double)d_y[i * n + j] + (double)alpha * (double)d_u[i] * (double)d_v[j]);
    return FLRQ_OK;
}

/* x -= 2 v (v.x) for a vector x of length count and stride ld. */
static void reflect(double *x, int64_t ld, const double *v, int64_t count) {
    double product = 0;
    for (int64_t i = 0; i < count; i++) product += v[i] * x[i * ld];
    for (int64_t i = 0; i < count; i++) x[i * ld] -= 2 * product * v[i];
}

static flrq_status ref_householder(flrq_backend *be, float *d_y, int64_t m, int64_t b) {
    FLRQ_TRY(op_check_shape("householder", m, b, sizeof(float)));
    FLRQ_TRY(op_check_tall("householder", m, b));
    FLRQ_TRY(cpu_finite_check("householder", d_y, m, b));
    double *a, *v; /* [m, b]; unit reflectors [b, m], v[k] starts at row k */
    FLRQ_TRY(new_doubles(&a, m * b));
    flrq_status status = new_doubles(&v, b * m);
    if (status != FLRQ_OK) goto out;
    for (int64_t i = 0; i < m * b; i++) a[i] = (double)d_y[i];
    for (int64_t k = 0; k < b; k++) {
        double *w = v + k * m, norm = 0;
        for (int64_t i = k; i < m; i++) norm += a[i * b + k] * a[i * b + k];
        for (int64_t i = k; i < m; i++) w[i] = a[i * b + k];
        w[k] += copysign(sqrt(norm), w[k]);
        norm = 0;
        for (int64_t i = k; i < m; i++) norm += w[i] * w[i];
        for (int64_t i = k; i < m; i++) w[i] = norm > 0 ? w[i] / sqrt(norm) : 0;
        for (int64_t j = k; j < b; j++) reflect(a + k * b + j, b, w + k, m - k);
    }
    /* Q = H_0 ... H_{b-1} applied to the first b unit vectors. */
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < b; j++) a[i * b + j] = i == j;
    for (int64_t k = b - 1; k >= 0; k--)
        for (int64_t j = 0; j < b; j++) reflect(a + k * b + j, b, v + k * m + k, m - k);
    for (int64_t i = 0; i < m * b; i++) d_y[i] = (float)a[i];
out:
    free(a);
    free(v);
    return status;
}

/* Columns p and q of x [rows, cols] := rotated by (c, s). */
static void rotate_columns(double *x, int64_t rows, int64_t cols, int64_t p, int64_t q, double c, double s) {
    for (int64_t i = 0; i < rows; i++) {
        double a = x[i * cols + p], b = x[i * cols + q];
        x[i * cols + p] = c * a - s * b;
        x[i * cols + q] = s * a + c * b;
    }
}

/* One-sided Jacobi: rotates the columns of x [rows, cols] until they are orthogonal, and those of v [cols, cols] with
 * them. Returns the number of sweeps, or 0 when 60 sweeps did not suffice. */
static int orthogonalise_columns(double *x, int64_t rows, double *v, int64_t cols) {
    for (int sweep = 1; sweep <= 60; sweep++) {
        int rotations = 0;
        for (int64_t p = 0; p < cols; p++)
            for (int64_t q = p + 1; q < cols; q++) {
                double pp = 0, qq = 0, pq = 0;
                for (int64_t i = 0; i < rows; i++) {
                    double a = x[i * cols + p], b = x[i * cols + q];
                    pp += a * a, qq += b * b, pq += a * b;
                }
                if (!(fabs(pq) > 1e-15 * sqrt(pp * qq))) continue;
                double zeta = (qq - pp) / (2 * pq), t = copysign(1, zeta) / (fabs(zeta) + sqrt(1 + zeta * zeta));
                double c = 1 / sqrt(1 + t * t), s = c * t;
                rotate_columns(x, rows, cols, p, q, c, s);
                rotate_columns(v, cols, cols, p, q, c, s);
                rotations++;
            }
        if (rotations == 0) return sweep;
    }
    return 0;
}

/* Indices 0..count-1 in descending order of key. */
static void sort_descending(int64_t *order, const double *key, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        int64_t at = k;
        for (; at > 0 && key[order[at - 1]] < key[k]; at--) order[at] = order[at - 1];
        order[at] = k;
    }
}

static flrq_status ref_eigh(flrq_backend *be, double *d_a, double *d_values, int64_t b) {
    FLRQ_TRY(op_check_shape("eigh", b, b, sizeof(double)));
    FLRQ_TRY(cpu_finite_check_f64("eigh", d_a, b, b));
    /* Cyclic Jacobi: A := J^T A J with the rotation that zeroes (p, q). */
    double *v = NULL, *values = NULL;
    int64_t *order = calloc((size_t)b + 1, sizeof *order);
    if (!order) return flrq_fail_memory((size_t)b * sizeof *order, "an order of the reference");
    flrq_status status;
    FLRQ_GOTO(new_doubles(&v, b * b));
    FLRQ_GOTO(new_doubles(&values, b));
    double norm = 0, off = 0;
    for (int64_t i = 0; i < b * b; i++) norm += d_a[i] * d_a[i];
    for (int64_t i = 0; i < b; i++) v[i * b + i] = 1;
    for (int sweep = 0; sweep < 60; sweep++) {
        off = 0;
        for (int64_t i = 0; i < b; i++)
            for (int64_t j = 0; j < b; j++) off += i != j ? d_a[i * b + j] * d_a[i * b + j] : 0;
        if (!(off > 1e-32 * norm)) break;
        for (int64_t p = 0; p < b; p++)
            for (int64_t q = p + 1; q < b; q++) {
                if (d_a[p * b + q] == 0) continue;
                double theta = (d_a[q * b + q] - d_a[p * b + p]) / (2 * d_a[p * b + q]);
                double t = copysign(1, theta) / (fabs(theta) + sqrt(1 + theta * theta));
                double c = 1 / sqrt(1 + t * t), s = c * t;
                rotate_columns(d_a, b, b, p, q, c, s);
                for (int64_t j = 0; j < b; j++) {
                    double x = d_a[p * b + j], y = d_a[q * b + j];
                    d_a[p * b + j] = c * x - s * y;
                    d_a[q * b + j] = s * x + c * y;
                }
                rotate_columns(v, b, b, p, q, c, s);
            }
    }
    if (!(off <= 1e-28 * norm)) {
        status = flrq_fail(FLRQ_ERR_NUMERIC, "eigh: no convergence on %lld x %lld", (long long)b, (long long)b);
        goto out;
    }
    for (int64_t k = 0; k < b; k++) values[k] = d_a[k * b + k];
    sort_descending(order, values, b);
    for (int64_t k = 0; k < b; k++) {
        d_values[k] = values[order[k]];
        for (int64_t i = 0; i < b; i++) d_a[i * b + k] = v[i * b + order[k]];
    }
out:
    free(order);
    free(v);
    free(values);
    return status;
}

static flrq_status ref_svd(flrq_backend *be, flrq_svd_method method, float *d_a, int64_t m, int64_t n, float *d_u,
                           float *d_s, float *d_vt) {
    FLRQ_TRY(cpu_svd_check(method));
    FLRQ_TRY(op_check_shape("svd", m, n, sizeof(float)));
    FLRQ_TRY(cpu_finite_check("svd", d_a, m, n));
    /* One-sided Jacobi on the taller of A and A^T: x [rows, p] = w S, v [p, p] the other side. */
    bool wide = m < n;
    int64_t rows = wide ? n : m, p = wide ? m : n;
    double *x = NULL, *v = NULL, *s = NULL;
    int64_t *order = calloc((size_t)p + 1, sizeof *order);
    if (!order) return flrq_fail_memory((size_t)p * sizeof *order, "an order of the reference");
    flrq_status status;
    FLRQ_GOTO(new_doubles(&x, rows * p));
    FLRQ_GOTO(new_doubles(&v, p * p));
    FLRQ_GOTO(new_doubles(&s, p));
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < p; j++) x[i * p + j] = (double)(wide ? d_a[j * n + i] : d_a[i * n + j]);
    for (int64_t i = 0; i < p; i++) v[i * p + i] = 1;
    if (orthogonalise_columns(x, rows, v, p) == 0) {
        status = flrq_fail(FLRQ_ERR_NUMERIC, "svd: no convergence on %lld x %lld", (long long)m, (long long)n);
        goto out;
    }
    for (int64_t j = 0; j < p; j++) {
        for (int64_t i = 0; i < rows; i++) s[j] += x[i * p + j] * x[i * p + j];
        s[j] = sqrt(s[j]);
    }
    sort_descending(order, s, p);
    for (int64_t k = 0; k < p; k++) {
        int64_t j = order[k];
        d_s[k] = (float)s[j];
        for (int64_t i = 0; i < rows; i++) {
            float w = (float)(s[j] > 0 ? x[i * p + j] / s[j] : 0);
            if (wide)
                d_vt[k * n + i] = w;
            else
                d_u[i * p + k] = w;
        }
        for (int64_t i = 0; i < p; i++) {
            if (wide)
                d_u[i * p + k] = (float)v[i * p + j];
            else
                d_vt[k * n + i] = (float)v[i * p + j];
        }
    }
out:
    free(order);
    free(x);
    free(v);
    free(s);
    return status;
}

static flrq_status ref_input_stats(flrq_backend *be, double *d_abs_sum, double *d_square_sum, const float *d_x,
                                   int64_t tokens, int64_t n) {
    FLRQ_TRY(op_check_shape("input_stats", tokens, n, sizeof(float)));
    for (int64_t t = 0; t < tokens; t++) {
        const float *x = d_x + t * n;
        double sum = 0;
        for (int64_t j = 0; j < n; j++) sum += fabs((double)x[j]);
        for (int64_t j = 0; j < n; j++) {
            d_abs_sum[j] += sum > 0 ? fabs((double)x[j]) / (sum / (double)n) : 0;
            d_square_sum[j] += (double)x[j] * (double)x[j];
        }
    }
    return FLRQ_OK;
}

static flrq_status ref_input_sketch(flrq_backend *be, float *d_s, const float *d_x, const float *d_g, int64_t tokens,
                                    int64_t n, int64_t k) {
    FLRQ_TRY(op_check_shape("input_sketch", tokens, n, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", tokens, k, sizeof(float)));
    FLRQ_TRY(op_check_shape("input_sketch", n, k, sizeof(float)));
    for (int64_t j = 0; j < n; j++)
        for (int64_t c = 0; c < k; c++) {
            double sum = (double)d_s[j * k + c];
            for (int64_t t = 0; t < tokens; t++) sum += (double)d_x[t * n + j] * (double)d_g[t * k + c];
            d_s[j * k + c] = (float)sum;
        }
    return FLRQ_OK;
}

void ref_register_small(flrq_backend *be) {
    be->gram = ref_gram;
    be->cholesky = ref_cholesky;
    be->solve_right = ref_solve_right;
    be->householder = ref_householder;
    be->eigh = ref_eigh;
    be->gemm = ref_gemm;
    be->column_amax = ref_column_amax;
    be->round_factor = ref_round_factor;
    be->rank_one = ref_rank_one;
    be->svd = ref_svd;
    be->input_stats = ref_input_stats;
    be->input_sketch = ref_input_sketch;
}
