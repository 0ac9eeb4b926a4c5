/* ref_matrix.c - the scalar reference of the implicit-matrix ops: plain loops, double accumulators, one element at a
 * time.
 *
 * The judge of every other backend. Must stay obvious: no tiles, no threads, no BLAS. Results are rounded to the type
 * of the output once, at the end. Operand checks are those of the fast face, so both refuse the same input.
 */
#include "backend/cpu.h"
#include "core/dtype.h"
#include "core/philox.h"

#include <math.h>
#include <stdlib.h>

double ref_operand_at(const flrq_operand *a, int64_t i, int64_t j) {
    double value = 0;
    if (a->d_dense) value += (double)flrq_load(a->d_dense, a->dense_dtype, i * a->ld_dense + j);
    if (a->codes) {
        const flrq_codes *c = a->codes;
        int64_t g = i * c->n_groups + j / c->group;
        int zero = c->zero ? c->zero[g] : 1 << (c->bits - 1);
        value += (double)a->codes_sign * (double)c->scale[g] * (double)(c->code[i * c->cols + j] - zero);
    }
    double product = 0;
    for (int64_t k = 0; k < a->rank; k++) product += (double)a->d_l[i * a->rank + k] * (double)a->d_r[k * a->cols + j];
    value += (double)a->lr_sign * product;
    return a->d_col_scale ? value * (double)a->d_col_scale[j] : value;
}

static flrq_status ref_normal(flrq_backend *be, float *d_out, uint64_t key, uint64_t stream, uint64_t index0,
                              int64_t count) {
    if (count > 0) flrq_philox_normal(d_out, key, stream, index0, (uint64_t)count);
    return FLRQ_OK;
}

static flrq_status ref_materialize(flrq_backend *be, float *d_out, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("materialize", a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) d_out[i * a->cols + j] = (float)ref_operand_at(a, i, j);
    return FLRQ_OK;
}

static flrq_status ref_materialize_bf16(flrq_backend *be, uint16_t *d_out, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("materialize_bf16", a));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) d_out[i * a->cols + j] = flrq_f32_to_bf16((float)ref_operand_at(a, i, j));
    return FLRQ_OK;
}

/* y [b] = row i of A times d_x [n, b]. */
static void row_times(double *y, const flrq_operand *a, int64_t i, const float *d_x, int64_t b) {
    for (int64_t k = 0; k < b; k++) y[k] = 0;
    for (int64_t j = 0; j < a->cols; j++) {
        double value = ref_operand_at(a, i, j);
        for (int64_t k = 0; k < b; k++) y[k] += value * (double)d_x[j * b + k];
    }
}

static flrq_status new_doubles(double **out, int64_t count) {
    *out = calloc((size_t)count + 1, sizeof **out);
    return *out ? FLRQ_OK : flrq_fail_memory((size_t)count * sizeof **out, "a row of the reference");
}

static flrq_status ref_mul(flrq_backend *be, float *d_y, const flrq_operand *a, const float *d_x, int64_t b) {
    FLRQ_TRY(op_check_operand("mul", a));
    FLRQ_TRY(op_check_columns("mul", b));
    double *row;
    FLRQ_TRY(new_doubles(&row, b));
    for (int64_t i = 0; i < a->rows; i++) {
        row_times(row, a, i, d_x, b);
        for (int64_t k = 0; k < b; k++) d_y[i * b + k] = (float)row[k];
    }
    free(row);
    return FLRQ_OK;
}

static flrq_status ref_mul_t(flrq_backend *be, float *d_z, const flrq_operand *a, const float *d_q, int64_t b) {
    FLRQ_TRY(op_check_operand("mul_t", a));
    FLRQ_TRY(op_check_columns("mul_t", b));
    double *sum;
    FLRQ_TRY(new_doubles(&sum, b));
    for (int64_t j = 0; j < a->cols; j++) {
        for (int64_t k = 0; k < b; k++) sum[k] = 0;
        for (int64_t i = 0; i < a->rows; i++) {
            double value = ref_operand_at(a, i, j);
            for (int64_t k = 0; k < b; k++) sum[k] += value * (double)d_q[i * b + k];
        }
        for (int64_t k = 0; k < b; k++) d_z[j * b + k] = (float)sum[k];
    }
    free(sum);
    return FLRQ_OK;
}

static flrq_status ref_scale_rows(flrq_backend *be, float *d_y, const float *d_scale, int64_t m, int64_t n) {
    FLRQ_TRY(op_check_shape("scale_rows", m, n, sizeof(float)));
    for (int64_t i = 0; i < m * n; i++) d_y[i] = d_scale[i / n] * d_y[i];
    return FLRQ_OK;
}

static flrq_status ref_sum_squares(flrq_backend *be, double *sum, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("sum_squares", a));
    *sum = 0;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) *sum += ref_operand_at(a, i, j) * ref_operand_at(a, i, j);
    return FLRQ_OK;
}

static flrq_status ref_sum_squares_mul(flrq_backend *be, double *sum, const flrq_operand *a, const float *d_s,
                                       int64_t k) {
    FLRQ_TRY(op_check_operand("sum_squares_mul", a));
    FLRQ_TRY(op_check_columns("sum_squares_mul", k));
    double *row;
    FLRQ_TRY(new_doubles(&row, k));
    *sum = 0;
    for (int64_t i = 0; i < a->rows; i++) {
        row_times(row, a, i, d_s, k);
        for (int64_t c = 0; c < k; c++) *sum += row[c] * row[c];
    }
    free(row);
    return FLRQ_OK;
}

static flrq_status ref_amax_curve(flrq_backend *be, float *amax, const flrq_operand *a, const float *d_u,
                                  const float *d_v, int64_t b) {
    FLRQ_TRY(op_check_operand("amax_curve", a));
    FLRQ_TRY(op_check_columns("amax_curve", b));
    double *curve;
    FLRQ_TRY(new_doubles(&curve, b + 1));
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            double residual = ref_operand_at(a, i, j);
            curve[0] = fmax(curve[0], fabs(residual));
            for (int64_t r = 0; r < b; r++) {
                residual -= (double)d_u[i * b + r] * (double)d_v[j * b + r];
                curve[r + 1] = fmax(curve[r + 1], fabs(residual));
            }
        }
    for (int64_t r = 0; r <= b; r++) amax[r] = (float)curve[r];
    free(curve);
    return FLRQ_OK;
}

static flrq_status ref_count_nonfinite(flrq_backend *be, int64_t *count, int64_t *first, const flrq_operand *a) {
    FLRQ_TRY(op_check_operand("count_nonfinite", a));
    *count = 0;
    *first = -1;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++)
            if (!isfinite((float)ref_operand_at(a, i, j)) && (*count)++ == 0) *first = i * a->cols + j;
    return FLRQ_OK;
}

void ref_register_matrix(flrq_backend *be) {
    be->normal = ref_normal;
    be->materialize = ref_materialize;
    be->materialize_bf16 = ref_materialize_bf16;
    be->mul = ref_mul;
    be->mul_t = ref_mul_t;
    be->scale_rows = ref_scale_rows;
    be->sum_squares = ref_sum_squares;
    be->sum_squares_mul = ref_sum_squares_mul;
    be->amax_curve = ref_amax_curve;
    be->count_nonfinite = ref_count_nonfinite;
}
