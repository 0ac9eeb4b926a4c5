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

static float h_of(const group *g, int64_t j) {
    return g->h ? g->h[j] : 1;
}

static float integer_of(const group *g, const quant_candidate *c, int64_t j) {
    if (g->cut && !(g->w[j] >= c->lo && g->w[j] <= c->hi)) return 0;
    return quant_nearest(g->w[j], c->inv, c->down, c->up);
}

/* The sum over one block: terms a[j] * b[j] into `lanes` partial sums, which fold in halves. */
static double block_sum(const float *a, const float *b, int64_t n, int lanes) {
    float part[QUANT_ERROR_LANES] = {0};
    for (int64_t j = 0; j < n; j++) part[j % lanes] = fmaf(a[j], b[j], part[j % lanes]);
    for (int half = lanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) part[i] += part[i + half];
    return part[0];
}

/* sum of h w^2, and *mass = sum of h */
static double norm_of(const group *g, double *mass) {
    double norm = 0;
    *mass = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        float hw[QUANT_BLOCK], h[QUANT_BLOCK], one[QUANT_BLOCK];
        int64_t n = g->n - j0 < QUANT_BLOCK ? g->n - j0 : QUANT_BLOCK;
        for (int64_t j = 0; j < n; j++) {
            h[j] = h_of(g, j0 + j);
            hw[j] = h[j] * g->w[j0 + j];
            one[j] = 1;
        }
        norm += block_sum(hw, g->w + j0, n, QUANT_ERROR_LANES);
        *mass += block_sum(h, one, n, QUANT_ERROR_LANES);
    }
    return norm;
}

/* sum of h (w - q scale)^2 */
static double error_of(const group *g, const quant_candidate *c) {
    double total = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        float he[QUANT_BLOCK], e[QUANT_BLOCK];
        int64_t n = g->n - j0 < QUANT_BLOCK ? g->n - j0 : QUANT_BLOCK;
        for (int64_t j = 0; j < n; j++) {
            e[j] = fmaf(-integer_of(g, c, j0 + j), c->scale, g->w[j0 + j]);
            he[j] = h_of(g, j0 + j) * e[j];
        }
        total += block_sum(he, e, n, QUANT_ERROR_LANES);
    }
    return total;
}

/* B = sum of h w q and C = sum of h q^2 for the integers that a candidate gives */
static void fit_of(const group *g, const quant_candidate *c, float *b, float *square) {
    double sum_b = 0, sum_c = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        float hq[QUANT_BLOCK], q[QUANT_BLOCK];
        int64_t n = g->n - j0 < QUANT_BLOCK ? g->n - j0 : QUANT_BLOCK;
        for (int64_t j = 0; j < n; j++) {
            q[j] = integer_of(g, c, j0 + j);
            hq[j] = h_of(g, j0 + j) * q[j];
        }
        sum_b += block_sum(hq, g->w + j0, n, QUANT_FIT_LANES);
        sum_c += block_sum(hq, q, n, QUANT_FIT_LANES);
    }
    *b = (float)sum_b;
    *square = (float)sum_c;
}

/* ---- search ---------------------------------------------------------------------------------------------------- */

typedef struct winner {
    quant_candidate c;
    double error;
} winner;

static void challenge(winner *best, const group *g, quant_candidate c) {
    double error = error_of(g, &c);
    if (error < best->error) *best = (winner){c, error};
}

/* The best of `count` trials with 1 / scale = inv[i]: its number, or -1 when nothing can be fitted. */
static int best_fit(const group *g, quant_candidate c, const float *inv, int count, float *gain, float *b,
                    float *square) {
    int best = -1;
    *gain = 0;
    for (int i = 0; i < count; i++) {
        float trial_b, trial_c;
        c.inv = inv[i];
        fit_of(g, &c, &trial_b, &trial_c);
        if (quant_gain(trial_b, trial_c) > *gain) {
            *gain = quant_gain(trial_b, trial_c);
            *b = trial_b;
            *square = trial_c;
            best = i;
        }
    }
    return best;
}

static void search_by_fits(winner *best, const group *g, const quant_levels *l, quant_range r, const quant_plan *plan,
                           int variants) {
    double mass, norm = norm_of(g, &mass);
    float step = quant_first_step(plan, r, (float)(norm / mass)), inv[16], gain = 0, b = 0, square = 0;
    quant_candidate c = {0};
    int first = -1;
    for (int variant = 0; variant < variants; variant++) {
        float sign = quant_variant_sign(l, variant), gain_here, b_here, square_here;
        quant_candidate here = quant_at_fit(l, r, sign, quant_variant_zero(l, quant_fit_zero(l, r), variant));
        for (int i = 0; i < plan->first; i++) inv[i] = sign * quant_first_inv(plan, r, step, i);
        int i = best_fit(g, here, inv, plan->first, &gain_here, &b_here, &square_here);
        if (!(gain_here > gain)) continue;
        gain = gain_here;
        b = b_here;
        square = square_here;
        first = i;
        c = here;
    }
    if (first < 0) return;
    float second = quant_second_step(plan, step, first), centre = square / b;
    for (int i = 0; i < plan->second; i++) inv[i] = quant_second_inv(plan, centre, second, i);
    if (best_fit(g, c, inv, plan->second, &gain, &b, &square) >= 0)
        challenge(best, g, quant_at_fit(l, r, b / square, c.zero));
}

static winner search(const group *g, const quant_levels *l, quant_range r, const quant_plan *plan,
                     const flrq_scheme *scheme, const flrq_clip *clip) {
    bool negative = quant_signed(scheme, clip);
    winner best = {.c = quant_at_ratio(l, r, 1, 1)};
    best.error = error_of(g, &best.c);
    if (clip->search == FLRQ_CLIP_FAST && plan->second > 0) {
        search_by_fits(&best, g, l, r, plan, quant_variants(scheme, clip));
    } else if (clip->search != FLRQ_CLIP_NONE) {
        bool grid = clip->search == FLRQ_CLIP_GRID;
        for (int i = 0; i < (grid ? clip->steps : plan->first); i++) {
            float ratio = grid ? quant_grid_ratio(clip, i) : quant_first_ratio(plan, quant_error_step(plan), i);
            challenge(&best, g, quant_at_ratio(l, r, ratio, 1));
            if (negative) challenge(&best, g, quant_at_ratio(l, r, ratio, -1));
        }
    }
    return best;
}

static void quantize_group(flrq_codes *out, int64_t i, int64_t index, const group *g, int64_t j0,
                           const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    quant_levels l = quant_levels_of(scheme);
    quant_plan plan = quant_plan_of(scheme->bits, out->group, g->cut);
    float least = g->w[0], most = g->w[0];
    for (int64_t j = 1; j < g->n; j++) {
        least = g->w[j] < least ? g->w[j] : least;
        most = g->w[j] > most ? g->w[j] : most;
    }
    quant_range r = quant_range_of(&l, least, most);
    uint8_t *code = out->code + i * out->cols + j0;
    stats->groups++;
    if (r.lo == r.hi) {
        memset(code, (int)l.middle, (size_t)g->n);
        out->scale[index] = 1;
        if (out->zero) out->zero[index] = 0;
        stats->zero_groups++;
        stats->ratio_sum += 1;
        return;
    }
    winner best = search(g, &l, r, &plan, scheme, clip);
    const quant_candidate *c = &best.c;
    double mass;
    out->scale[index] = c->scale;
    if (out->zero) out->zero[index] = (uint8_t)c->zero;
    for (int64_t j = 0; j < g->n; j++) {
        float q = integer_of(g, c, j);
        code[j] = (uint8_t)(q + c->zero);
        bool within =
            g->cut ? g->w[j] >= c->lo && g->w[j] <= c->hi : q == quant_nearest(g->w[j], c->inv, -0x1p21f, 0x1p21f);
        stats->clipped += !within;
    }
    stats->weighted_error += best.error;
    stats->weighted_norm += norm_of(g, &mass);
    stats->ratio_sum += quant_ratio(r, c->scale);
}

static flrq_status clip_quantize(flrq_backend *be, flrq_codes *out, const flrq_operand *a, const float *h,
                                 const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    FLRQ_TRY(op_check_quantize(out, a, scheme, clip));
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
    FLRQ_TRY(op_check_pack(rows, cols, bits));
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
    FLRQ_TRY(op_check_pack(rows, cols, bits));
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
