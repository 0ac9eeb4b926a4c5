/* simd_quant.c - the fused clip search and quantization of one row, and packing; compiled once per instruction set.
 *
 * Trials of a group share its vectors: lanes hold several trial scales times a few neighbouring columns (pairs or quads
 * of columns broadcast from memory), so no sum runs over lanes until a group is done, short groups and tails cost no
 * extra code, and the order of sums does not depend on the vector length. Groups go through each round of the search
 * together, so that the choice among the trials of one group overlaps the arithmetic of the next. All float expressions
 * are those of quant_search.h: every instruction set gives the same bytes.
 */
#include "backend/simd.h"
#include "backend/cpu_kernels.h"
#include "backend/quant_search.h"

/* ---- what this file needs beyond simd.h ---------------------------------------------------------------------------
 */

/* a*b + c and c - a*b with one rounding on every face: the generic v_fma has two. */
static inline vf fused(vf a, vf b, vf c) {
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fma(a, b, c);
#endif
}

static inline vf fused_minus(vf a, vf b, vf c) {
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(-a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fnma(a, b, c);
#endif
}

/* p[0] p[1] p[0] p[1] .. */
static inline vf load_pairs(const float *p) {
#if defined(CPU_ISA_avx512)
    return _mm512_castpd_ps(_mm512_broadcastsd_pd(_mm_load_sd((const double *)p)));
#elif defined(CPU_ISA_avx2)
    return _mm256_castpd_ps(_mm256_broadcast_sd((const double *)p));
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k & 1];
    return r;
#endif
}

/* p[0] .. p[3] p[0] .. */
static inline vf load_quads(const float *p) {
#if defined(CPU_ISA_avx512)
    return _mm512_broadcast_f32x4(_mm_loadu_ps(p));
#elif defined(CPU_ISA_avx2)
    return _mm256_broadcast_ps((const __m128 *)p);
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k & 3];
    return r;
#endif
}

/* a + (a with lanes exchanged at distance 1 or 2) */
static inline vf add_near(vf a, int distance) {
#if defined(CPU_ISA_avx512)
    return _mm512_add_ps(a, distance == 1 ? _mm512_permute_ps(a, 0xb1) : _mm512_permute_ps(a, 0x4e));
#elif defined(CPU_ISA_avx2)
    return _mm256_add_ps(a, distance == 1 ? _mm256_permute_ps(a, 0xb1) : _mm256_permute_ps(a, 0x4e));
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = a.f[k] + a.f[k ^ distance];
    return r;
#endif
}

/* x where lo <= w <= hi, else 0 */
static inline vf inside(vf x, vf w, vf lo, vf hi) {
#if defined(CPU_ISA_avx512)
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(w, lo, _CMP_GE_OQ) & _mm512_cmp_ps_mask(w, hi, _CMP_LE_OQ), x);
#elif defined(CPU_ISA_avx2)
    __m256 in = _mm256_and_ps(_mm256_cmp_ps(w, lo, _CMP_GE_OQ), _mm256_cmp_ps(w, hi, _CMP_LE_OQ));
    return _mm256_and_ps(in, x);
#else
    for (int k = 0; k < V; k++) x.f[k] = w.f[k] >= lo.f[k] && w.f[k] <= hi.f[k] ? x.f[k] : 0;
    return x;
#endif
}

/* a where w < 0, else b */
static inline vf by_sign(vf w, vf a, vf b) {
#if defined(CPU_ISA_avx512)
    return _mm512_mask_mov_ps(b, _mm512_movepi32_mask(_mm512_castps_si512(w)), a);
#elif defined(CPU_ISA_avx2)
    return _mm256_blendv_ps(b, a, w);
#else
    for (int k = 0; k < V; k++) b.f[k] = signbit(w.f[k]) ? a.f[k] : b.f[k];
    return b;
#endif
}

/* Number of lanes in which a and b differ. */
static inline int differing(vf a, vf b) {
#if defined(CPU_ISA_avx512)
    return __builtin_popcount(_mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ));
#elif defined(CPU_ISA_avx2)
    return __builtin_popcount((unsigned)_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ)));
#else
    int count = 0;
    for (int k = 0; k < V; k++) count += a.f[k] != b.f[k];
    return count;
#endif
}

/* ---- groups -------------------------------------------------------------------------------------------------------
 */

enum {
    GROUPS = 8, /* that go through a round together: enough to hide the end of one group behind the next */
    LANES = 16, /* trials times columns of a fit, whatever the vector length */
    VECTORS = LANES / V
};

/* One block of a group, padded with zeros (which add nothing to any sum) to a multiple of LANES. */
typedef struct block {
    const float *w, *h;                      /* h NULL: 1 */
    int n;                                   /* padded */
    _Alignas(64) float size[QUANT_BLOCK];    /* |w| */
    _Alignas(64) float most[2][QUANT_BLOCK]; /* QUANT_MAGIC + largest |q| there; [1] for negative scales */
    _Alignas(64) float w_copy[QUANT_BLOCK], h_copy[QUANT_BLOCK];
} block;

typedef struct group {
    const float *w, *h;
    int64_t n;
    bool cut; /* FLRQ_CLIP_ZERO */
    quant_range range;
    double norm; /* sum h w^2 */
    float step;  /* of the present round of fits */
    float inv;   /* 1 / scale of the best fit of round one, 0 when there is none */
    bool negative;
    quant_candidate best;
    double error;
} group;

/* Points a block at columns j0 .. of its group, or at a padded copy where the group ends off the grid of LANES. */
static void block_at(block *b, const group *g, int64_t j0) {
    int64_t n = g->n - j0 < QUANT_BLOCK ? g->n - j0 : QUANT_BLOCK;
    b->n = (int)((n + LANES - 1) / LANES * LANES);
    b->w = g->w + j0;
    b->h = g->h ? g->h + j0 : NULL;
    if (n == b->n) return;
    memset(b->w_copy + b->n - LANES, 0, LANES * sizeof *b->w_copy);
    memset(b->h_copy + b->n - LANES, 0, LANES * sizeof *b->h_copy);
    memcpy(b->w_copy, b->w, (size_t)n * sizeof *b->w_copy);
    b->w = b->w_copy;
    if (!b->h) return;
    memcpy(b->h_copy, b->h, (size_t)n * sizeof *b->h_copy);
    b->h = b->h_copy;
}

/* The sum of LANES partial sums, folded in halves. */
static inline float fold(const vf *part) {
#if defined(CPU_ISA_avx512)
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(part[0]), _mm512_extractf32x8_ps(part[0], 1));
#elif defined(CPU_ISA_avx2)
    __m256 s = _mm256_add_ps(part[0], part[1]);
#else
    vf s = v_add(part[0], part[1]);
    return ((s.f[0] + s.f[4]) + (s.f[2] + s.f[6])) + ((s.f[1] + s.f[5]) + (s.f[3] + s.f[7]));
#endif
#if !defined(CPU_ISA_generic)
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
#endif
}

/* ---- trials by fits -----------------------------------------------------------------------------------------------
 */

/* Fills size and most for trials with a given zero point. */
static void block_prepare(block *b, const quant_range *r, float zero, bool both_signs) {
    float up = r->symmetric ? r->up : r->up - zero, down = r->symmetric ? r->down : -zero;
    const vf above = v_set(QUANT_MAGIC + up), below = v_set(QUANT_MAGIC - down);
    for (int j = 0; j < b->n; j += V) {
        vf w = v_load(b->w + j);
        v_store(b->size + j, v_abs(w));
        v_store(b->most[0] + j, by_sign(w, below, above));
        if (both_signs) v_store(b->most[1] + j, by_sign(w, above, below));
    }
}

/* sum h w^2 over a block, whose columns count 1 each without h; adds sum h to *mass. */
static inline double block_norm(const block *b, int64_t columns, double *mass) {
    vf norm[VECTORS], sum[VECTORS];
    for (int v = 0; v < VECTORS; v++) norm[v] = sum[v] = v_set(0);
    for (int j = 0; j < b->n; j += LANES)
        for (int v = 0; v < VECTORS; v++) {
            vf w = v_load(b->w + j + v * V), h = b->h ? v_load(b->h + j + v * V) : v_set(1);
            norm[v] = fused(v_mul(h, w), w, norm[v]);
            sum[v] = v_add(sum[v], h);
        }
    *mass += b->h ? (double)fold(sum) : (double)columns;
    return (double)fold(norm);
}

/* Adds the columns of one step to the sums of a vector of trials. */
static inline void fit_step(vf *sum_b, vf *sum_c, vf size, vf most, vf h, vf inv, bool weighted) {
    const vf magic = v_set(QUANT_MAGIC);
    vf q = v_sub(v_min(fused(size, inv, magic), most), magic), hq = weighted ? v_mul(h, q) : q;
    *sum_b = fused(hq, size, *sum_b);
    *sum_c = fused(hq, q, *sum_c);
}

/* B and C of 8 trials over one block. Lane i is trial i/2, column i%2. */
static inline void fit_eight(float *b, float *c, const float *inv, const block *k, const float *most, bool weighted) {
    for (int v = 0; v < VECTORS; v++) {
        vf lane_inv, b0 = v_set(0), b1 = b0, c0 = b0, c1 = b0;
        float spread[V], sums[V];
        for (int i = 0; i < V; i++) spread[i] = inv[v * (V / 2) + i / 2];
        lane_inv = v_load(spread);
        for (int j = 0; j < k->n; j += 4) {
            vf none = v_set(0);
            fit_step(&b0, &c0, load_pairs(k->size + j), load_pairs(most + j), weighted ? load_pairs(k->h + j) : none,
                     lane_inv, weighted);
            fit_step(&b1, &c1, load_pairs(k->size + j + 2), load_pairs(most + j + 2),
                     weighted ? load_pairs(k->h + j + 2) : none, lane_inv, weighted);
        }
        v_store(sums, add_near(v_add(b0, b1), 1));
        for (int i = 0; i < V / 2; i++) b[v * (V / 2) + i] = sums[2 * i];
        v_store(sums, add_near(v_add(c0, c1), 1));
        for (int i = 0; i < V / 2; i++) c[v * (V / 2) + i] = sums[2 * i];
    }
}

/* The same for 4 trials: lane i is trial i/4, column i%4. */
static inline void fit_four(float *b, float *c, const float *inv, const block *k, const float *most, bool weighted) {
    for (int v = 0; v < VECTORS; v++) {
        vf lane_inv, b0 = v_set(0), c0 = b0;
        float spread[V], sums[V];
        for (int i = 0; i < V; i++) spread[i] = inv[v * (V / 4) + i / 4];
        lane_inv = v_load(spread);
        for (int j = 0; j < k->n; j += 4)
            fit_step(&b0, &c0, load_quads(k->size + j), load_quads(most + j),
                     weighted ? load_quads(k->h + j) : v_set(0), lane_inv, weighted);
        v_store(sums, add_near(add_near(b0, 2), 1));
        for (int i = 0; i < V / 4; i++) b[v * (V / 4) + i] = sums[4 * i];
        v_store(sums, add_near(add_near(c0, 2), 1));
        for (int i = 0; i < V / 4; i++) c[v * (V / 4) + i] = sums[4 * i];
    }
}

static inline void fit_block(float *b, float *c, const float *inv, int count, const block *k, bool negative) {
    const float *most = k->most[negative];
    if (count == 4) {
        if (k->h)
            fit_four(b, c, inv, k, most, true);
        else
            fit_four(b, c, inv, k, most, false);
    } else {
        for (int i = 0; i < count; i += 8)
            if (k->h)
                fit_eight(b + i, c + i, inv + i, k, most, true);
            else
                fit_eight(b + i, c + i, inv + i, k, most, false);
    }
}

/* B and C of `count` trials over a group; k already holds a group of one block. */
static void fit(float *b, float *c, const float *inv, int count, const group *g, block *k, bool negative) {
    if (g->n <= QUANT_BLOCK) {
        fit_block(b, c, inv, count, k, negative);
        return;
    }
    double sum_b[16] = {0}, sum_c[16] = {0};
    for (int64_t j = 0; j < g->n; j += QUANT_BLOCK) {
        block_at(k, g, j);
        block_prepare(k, &g->range, g->best.zero, negative);
        fit_block(b, c, inv, count, k, negative);
        for (int i = 0; i < count; i++) {
            sum_b[i] += (double)b[i];
            sum_c[i] += (double)c[i];
        }
    }
    for (int i = 0; i < count; i++) {
        b[i] = (float)sum_b[i];
        c[i] = (float)sum_c[i];
    }
}

/* The number of the trial that gains most, or -1. */
static int best_fit(const float *b, const float *c, int count, float *gain) {
    int best = -1;
    float highest = 0;
    for (int i = 0; i < count; i++) {
        float value = quant_gain(b[i], c[i]);
        best = value > highest ? i : best;
        highest = value > highest ? value : highest;
    }
    *gain = highest;
    return best;
}

/* ---- one candidate ------------------------------------------------------------------------------------------------
 */

/* Error of a candidate; with a code array, the codes as well, and the number of weights beyond its range in *clipped.
 */
static inline double encode_as(uint8_t *code, int64_t *clipped, const group *g, const quant_candidate *c, block *k,
                               bool weighted, bool cut) {
    const vf inv = v_set(c->inv), scale = v_set(c->scale), magic = v_set(QUANT_MAGIC), zero = v_set(c->zero);
    const vf down = v_set(QUANT_MAGIC + c->down), up = v_set(QUANT_MAGIC + c->up), lo = v_set(c->lo), hi = v_set(c->hi);
    double error = 0;
    for (int64_t j0 = 0; j0 < g->n; j0 += QUANT_BLOCK) {
        int64_t end = g->n - j0;
        if (g->n > QUANT_BLOCK) block_at(k, g, j0);
        vf part[VECTORS];
        for (int v = 0; v < VECTORS; v++) part[v] = v_set(0);
        for (int j = 0; j < k->n; j += LANES)
            for (int v = 0; v < VECTORS; v++) {
                int at = j + v * V;
                vf w = v_load(k->w + at), t = fused(w, inv, magic), in = v_min(v_max(t, down), up),
                   q = v_sub(in, magic);
                if (cut) q = inside(q, w, lo, hi);
                vf e = fused_minus(q, scale, w);
                part[v] = fused(weighted ? v_mul(v_load(k->h + at), e) : e, e, part[v]);
                if (!code) continue;
                *clipped += cut ? differing(inside(magic, w, lo, hi), magic) : differing(in, t);
                if (at + V <= end) {
                    v_store_u8(code + j0 + at, v_int(v_add(q, zero)));
                } else if (at < end) {
                    uint8_t tail[V];
                    v_store_u8(tail, v_int(v_add(q, zero)));
                    memcpy(code + j0 + at, tail, (size_t)(end - at));
                }
            }
        error += (double)fold(part);
    }
    return error;
}

static double encode(uint8_t *code, int64_t *clipped, const group *g, const quant_candidate *c, block *k) {
    if (g->cut)
        return g->h ? encode_as(code, clipped, g, c, k, true, true) : encode_as(code, clipped, g, c, k, false, true);
    if (!code) return g->h ? encode_as(NULL, NULL, g, c, k, true, false) : encode_as(NULL, NULL, g, c, k, false, false);
    return g->h ? encode_as(code, clipped, g, c, k, true, false) : encode_as(code, clipped, g, c, k, false, false);
}

static void challenge(group *g, block *k, quant_candidate c) {
    double error = encode(NULL, NULL, g, &c, k);
    if (error < g->error) {
        g->error = error;
        g->best = c;
    }
}

/* ---- search -------------------------------------------------------------------------------------------------------
 */

/* Trials by true errors. */
static void search_by_errors(group *g, block *k, const flrq_scheme *scheme, const flrq_clip *clip,
                             const quant_plan *plan) {
    bool negative = quant_signed(scheme, clip), grid = clip->search == FLRQ_CLIP_GRID;
    float step = grid ? 0 : quant_first_step(plan, &g->range, 0, 0);
    int count = grid ? clip->steps : plan->first;
    g->best = quant_at_ratio(&g->range, 1, 1);
    g->error = encode(NULL, NULL, g, &g->best, k);
    if (clip->search == FLRQ_CLIP_NONE) return;
    for (int i = 0; i < count; i++) {
        float ratio = grid ? quant_grid_ratio(clip, i) : quant_first_ratio(plan, step, i);
        challenge(g, k, quant_at_ratio(&g->range, ratio, 1));
        if (negative) challenge(g, k, quant_at_ratio(&g->range, ratio, -1));
    }
}

static void search_by_fits(group *group_of, block *blocks, int count, const quant_plan *plan, bool both_signs) {
    float b[GROUPS][2][16], c[GROUPS][2][16], inv[16];
    for (int i = 0; i < count; i++) {
        group *g = &group_of[i];
        for (int t = 0; t < plan->first; t++) inv[t] = quant_first_inv(plan, &g->range, g->step, t);
        fit(b[i][0], c[i][0], inv, plan->first, g, &blocks[i], false);
        if (both_signs) fit(b[i][1], c[i][1], inv, plan->first, g, &blocks[i], true);
    }
    for (int i = 0; i < count; i++) {
        group *g = &group_of[i];
        float gain, other = 0;
        int best = best_fit(b[i][0], c[i][0], plan->first, &gain);
        int best_other = both_signs ? best_fit(b[i][1], c[i][1], plan->first, &other) : -1;
        g->negative = other > gain;
        if (g->negative) best = best_other;
        g->inv = 0;
        if (best < 0) continue;
        g->inv = c[i][g->negative][best] / b[i][g->negative][best];
        g->step = quant_second_step(plan, g->step, best);
    }
    for (int i = 0; i < count; i++) {
        group *g = &group_of[i];
        for (int t = 0; t < plan->second; t++) inv[t] = quant_second_inv(plan, g->inv, g->step, t);
        fit(b[i][0], c[i][0], inv, plan->second, g, &blocks[i], g->negative);
    }
    for (int i = 0; i < count; i++) {
        group *g = &group_of[i];
        float gain, zero = g->best.zero;
        int best = g->inv > 0 ? best_fit(b[i][0], c[i][0], plan->second, &gain) : -1;
        g->best = quant_at_ratio(&g->range, 1, 1);
        g->error = encode(NULL, NULL, g, &g->best, &blocks[i]);
        if (best < 0) continue;
        float scale = b[i][0][best] / c[i][0][best];
        challenge(g, &blocks[i], quant_at_fit(&g->range, g->negative ? -scale : scale, zero));
    }
}

static inline quant_range range_of(const float *w, int64_t n, const flrq_scheme *scheme) {
    float lo = w[0], hi = w[0];
    int64_t j = 0;
    if (n >= V) {
        vf least = v_load(w), most = least;
        for (j = V; j + V <= n; j += V) {
            least = v_min(v_load(w + j), least);
            most = v_max(v_load(w + j), most);
        }
        lo = v_minall(least);
        hi = v_maxall(most);
    }
    for (; j < n; j++) {
        lo = w[j] < lo ? w[j] : lo;
        hi = w[j] > hi ? w[j] : hi;
    }
    return quant_range_of(scheme, lo, hi);
}

static void quantize_row(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group_size, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    block blocks[GROUPS];
    group groups[GROUPS];
    int64_t index[GROUPS];
    bool cut = clip->mode == FLRQ_CLIP_ZERO, both_signs = quant_signed(scheme, clip);
    quant_plan plan = quant_plan_of(scheme->bits, group_size, cut);
    bool fits = clip->search == FLRQ_CLIP_FAST && plan.second > 0;
    int64_t n_groups = (cols + group_size - 1) / group_size;
    for (int64_t i = 0; i < n_groups;) {
        int count = 0;
        for (; i < n_groups && count < GROUPS; i++) {
            int64_t j0 = i * group_size;
            group *g = &groups[count];
            *g = (group){.w = w + j0, .h = h ? h + j0 : NULL, .n = cols - j0 < group_size ? cols - j0 : group_size};
            g->cut = cut;
            g->range = range_of(g->w, g->n, scheme);
            stats->groups++;
            if (g->range.lo == g->range.hi) {
                memset(code + j0, (int)g->range.middle, (size_t)g->n);
                scale[i] = 1;
                if (zero) zero[i] = 0;
                stats->zero_groups++;
                stats->ratio_sum += 1;
                continue;
            }
            block *k = &blocks[count];
            double mass = 0;
            for (int64_t j = 0; j < g->n; j += QUANT_BLOCK) {
                block_at(k, g, j);
                g->norm += block_norm(k, g->n - j < QUANT_BLOCK ? g->n - j : QUANT_BLOCK, &mass);
            }
            if (fits) {
                g->step = quant_first_step(&plan, &g->range, g->norm, mass);
                g->best.zero = quant_fit_zero(&g->range);
                block_prepare(k, &g->range, g->best.zero, both_signs);
            }
            index[count++] = i;
        }
        if (fits)
            search_by_fits(groups, blocks, count, &plan, both_signs);
        else
            for (int t = 0; t < count; t++) search_by_errors(&groups[t], &blocks[t], scheme, clip, &plan);
        for (int t = 0; t < count; t++) {
            const group *g = &groups[t];
            encode(code + (g->w - w), &stats->clipped, g, &g->best, &blocks[t]);
            scale[index[t]] = g->best.scale;
            if (zero) zero[index[t]] = (uint8_t)g->best.zero;
            stats->weighted_error += g->error;
            stats->weighted_norm += g->norm;
            stats->ratio_sum += fabs((double)g->best.scale) / (double)g->range.scale;
        }
    }
}

/* ---- packing ------------------------------------------------------------------------------------------------------
 */

static void pack_row(int32_t *packed, const uint8_t *code, int64_t cols, int bits) {
    uint64_t pool = 0;
    int held = 0;
    uint32_t mask = (1u << bits) - 1;
    for (int64_t j = 0; j < cols; j++) {
        pool |= (uint64_t)(code[j] & mask) << held;
        held += bits;
        if (held >= 32) {
            *packed++ = (int32_t)(uint32_t)pool;
            pool >>= 32;
            held -= 32;
        }
    }
    if (held > 0) *packed = (int32_t)(uint32_t)pool;
}

static void unpack_row(uint8_t *code, const int32_t *packed, int64_t cols, int bits) {
    uint64_t pool = 0;
    int held = 0;
    uint32_t mask = (1u << bits) - 1;
    for (int64_t j = 0; j < cols; j++) {
        if (held < bits) {
            pool |= (uint64_t)(uint32_t)*packed++ << held;
            held += 32;
        }
        code[j] = (uint8_t)(pool & mask);
        pool >>= bits;
        held -= bits;
    }
}

void SIMD_NAME(simd_quant)(struct cpu_kernels *k) {
    k->quantize_row = quantize_row;
    k->pack_row = pack_row;
    k->unpack_row = unpack_row;
}
