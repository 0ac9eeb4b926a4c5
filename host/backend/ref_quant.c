/* ref_quant.c - clip search, quantization and packing of the reference face: plain loops in the order that
 * quant_search.h prescribes, one candidate at a time.
 *
 * The judge of simd_quant.c: codes, scales and zero points must be the same bytes. Statistics are sums in double of
 * exact terms, so they agree with the fast face within the rounding of its fp32 terms only.
 */
#include "backend/cpu.h"
#include "backend/quant_search.h"

#include <stdlib.h>
#include <string.h>

/* One group: w and h (NULL: 1), n columns. */
typedef struct group {
    const float *w, *h;
    int64_t n;
    bool cut; /* FLRQ_CLIP_ZERO */
} group;

static float integer_of(const group *g, const quant_candidate *c, int64_t j) {
    if (g->cut && (g->w[j] < c->lo || g->w[j] > c->hi)) return 0;
    return quant_nearest(g->w[j], c->inv, c->down, c->up);
}

/* sum of h (w - q scale)^2 */
static double error_of(const group *g, const quant_candidate *c) {
    double total = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        float part[QUANT_LANES] = {0};
        for (int64_t j = j0; j < g->n && j < j0 + QUANT_BLOCK; j++) {
            float e = fmaf(-integer_of(g, c, j), c->scale, g->w[j]);
            part[j % QUANT_LANES] = fmaf(g->h ? g->h[j] * e : e, e, part[j % QUANT_LANES]);
        }
        total += (part[0] + part[2]) + (part[1] + part[3]);
    }
    return total;
}

/* The least-squares scale for the integers of a candidate is B / C with B = sum h w q, C = sum h q^2, and it lowers the
 * error from sum h w^2 by B^2 / C. */
static double gain_of(const group *g, const quant_candidate *c, double *scale) {
    double b = 0, q2 = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        float part_b[QUANT_LANES] = {0}, part_c[QUANT_LANES] = {0};
        for (int64_t j = j0; j < g->n && j < j0 + QUANT_BLOCK; j++) {
            float q = integer_of(g, c, j), *pb = &part_b[j % QUANT_LANES], *pc = &part_c[j % QUANT_LANES];
            *pb = fmaf(g->h ? g->h[j] * g->w[j] : g->w[j], q, *pb);
            *pc = fmaf(g->h ? g->h[j] * q : q, q, *pc);
        }
        b += (part_b[0] + part_b[2]) + (part_b[1] + part_b[3]);
        q2 += (part_c[0] + part_c[2]) + (part_c[1] + part_c[3]);
    }
    *scale = fabs(b / q2);
    return b * b / q2;
}

static int signs_of(const flrq_scheme *scheme, const flrq_clip *clip) {
    return scheme->symmetric && scheme->grid == FLRQ_GRID_FULL && clip->signed_scale ? 2 : 1;
}

static quant_candidate search_grid(const group *g, const quant_range *r, const flrq_scheme *scheme,
                                   const flrq_clip *clip) {
    quant_candidate best = quant_at_ratio(r, scheme, 1, 1);
    double lowest = error_of(g, &best);
    int signs = signs_of(scheme, clip);
    for (int32_t i = 0; i < clip->steps; i++)
        for (int sign = 0; sign < signs; sign++) {
            quant_candidate c = quant_at_ratio(r, scheme, quant_grid_ratio(clip, i), sign ? -1.0f : 1.0f);
            double error = error_of(g, &c);
            if (error < lowest) {
                lowest = error;
                best = c;
            }
        }
    return best;
}

static quant_candidate search_fast(const group *g, const quant_range *r, const flrq_scheme *scheme,
                                   const flrq_clip *clip) {
    quant_candidate first[2 * QUANT_BATCH];
    double gain[2 * QUANT_BATCH], scale[2 * QUANT_BATCH];
    int count = 0;
    for (int sign = 0; sign < signs_of(scheme, clip); sign++)
        for (int i = 0; i < QUANT_BATCH; i++, count++) {
            first[count] = quant_at_ratio(r, scheme, quant_fast_ratio(scheme->bits, i), sign ? -1.0f : 1.0f);
            gain[count] = gain_of(g, &first[count], &scale[count]);
        }
    quant_candidate best = first[0];
    double lowest = error_of(g, &best);
    for (int finalist = 1; finalist < QUANT_FINALISTS; finalist++) {
        int top = -1;
        for (int i = 0; i < count; i++)
            if (gain[i] > (top < 0 ? 0 : gain[top])) top = i;
        if (top < 0) break;
        gain[top] = 0;
        quant_candidate c = quant_with_scale(&first[top], scale[top]);
        double error = error_of(g, &c);
        if (error < lowest) {
            lowest = error;
            best = c;
        }
    }
    return best;
}

static void quantize_group(flrq_codes *out, int64_t i, int64_t index, const group *g, int64_t j0,
                           const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    float lo = g->w[0], hi = g->w[0];
    for (int64_t j = 1; j < g->n; j++) {
        lo = g->w[j] < lo ? g->w[j] : lo;
        hi = g->w[j] > hi ? g->w[j] : hi;
    }
    quant_range r = quant_range_of(scheme, lo, hi);
    uint8_t *code = out->code + i * out->cols + j0;
    stats->groups++;
    if (r.lo == r.hi) {
        float zero = scheme->symmetric ? quant_middle(scheme) : 0;
        memset(code, (int)zero, (size_t)g->n);
        out->scale[index] = 1;
        if (out->zero) out->zero[index] = (uint8_t)zero;
        stats->zero_groups++;
        stats->ratio_sum += 1;
        return;
    }
    quant_candidate c = clip->search == FLRQ_CLIP_NONE   ? quant_at_ratio(&r, scheme, 1, 1)
                        : clip->search == FLRQ_CLIP_GRID ? search_grid(g, &r, scheme, clip)
                                                         : search_fast(g, &r, scheme, clip);
    out->scale[index] = c.scale;
    if (out->zero) out->zero[index] = (uint8_t)c.zero;
    for (int64_t j = 0; j < g->n; j++) {
        float q = integer_of(g, &c, j), free = rintf((float)((double)g->w[j] * (double)c.inv));
        double h = g->h ? g->h[j] : 1, e = (double)g->w[j] - (double)c.scale * q;
        code[j] = (uint8_t)(q + c.zero);
        stats->weighted_error += h * e * e;
        stats->weighted_norm += h * (double)g->w[j] * (double)g->w[j];
        if (g->cut ? g->w[j] < c.lo || g->w[j] > c.hi : free < c.down || free > c.up) stats->clipped++;
    }
    stats->ratio_sum += fabs((double)c.scale) / (double)r.scale;
}

static flrq_status clip_quantize(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *h,
                                 const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    FLRQ_TRY(quant_check(out, a, scheme, clip));
    flrq_clip_stats sums = {0};
    float *w = malloc((size_t)(a->cols > 0 ? a->cols : 1) * sizeof *w);
    if (!w) return flrq_fail_memory((size_t)a->cols * sizeof *w, "a row of weights");
    for (int64_t i = 0; i < a->rows; i++) {
        for (int64_t j = 0; j < a->cols; j++) w[j] = (float)ref_operand_at(a, i, j);
        for (int64_t g = 0; g < out->n_groups; g++) {
            int64_t j0 = g * out->group, n = a->cols - j0 < out->group ? a->cols - j0 : out->group;
            group one = {w + j0, h ? h + j0 : NULL, n, clip->mode == FLRQ_CLIP_ZERO};
            quantize_group(out, i, i * out->n_groups + g, &one, j0, scheme, clip, &sums);
        }
    }
    free(w);
    if (stats) *stats = sums;
    return FLRQ_OK;
}

static flrq_status pack(flrq_backend *be, int32_t *packed, const uint8_t *code, int64_t rows, int64_t cols, int bits) {
    FLRQ_TRY(quant_check_pack(rows, cols, bits));
    int64_t words = (cols * bits + 31) / 32;
    for (int64_t i = 0; i < rows; i++) {
        uint32_t *row = (uint32_t *)packed + i * words;
        memset(row, 0, (size_t)words * sizeof *row);
        for (int64_t j = 0; j < cols; j++)
            for (int64_t k = 0; k < bits; k++) {
                int64_t at = j * bits + k;
                row[at / 32] |= (uint32_t)(code[i * cols + j] >> k & 1) << (at % 32);
            }
    }
    return FLRQ_OK;
}

static flrq_status unpack(flrq_backend *be, uint8_t *code, const int32_t *packed, int64_t rows, int64_t cols,
                          int bits) {
    FLRQ_TRY(quant_check_pack(rows, cols, bits));
    int64_t words = (cols * bits + 31) / 32;
    for (int64_t i = 0; i < rows; i++) {
        const uint32_t *row = (const uint32_t *)packed + i * words;
        for (int64_t j = 0; j < cols; j++) {
            uint32_t value = 0;
            for (int64_t k = 0; k < bits; k++) {
                int64_t at = j * bits + k;
                value |= (row[at / 32] >> (at % 32) & 1) << k;
            }
            code[i * cols + j] = (uint8_t)value;
        }
    }
    return FLRQ_OK;
}

void ref_register_quant(flrq_backend *be) {
    be->clip_quantize = clip_quantize;
    be->pack = pack;
    be->unpack = unpack;
}
