/* simd_quant.c - the fused clip search and quantization of one row, and packing; compiled once per instruction set.
 *
 * Trials of a group share its vectors: the 16 lanes (one, or two shorter vectors) hold several trial scales times a few
 * neighbouring columns, pairs or quads of columns broadcast from memory. So a group of any length costs the same per
 * column, a sum runs over lanes once per group, and the order of sums does not depend on the vector length. Groups go
 * through a round of the search together: what is chosen for one overlaps the arithmetic of the next, and the scalars
 * of all are computed side by side. Every float expression is one of quant_search.h: all instruction sets give the same
 * bytes.
 */
#include "backend/simd.h"
#include "backend/cpu_kernels.h"
#include "backend/quant_search.h"

enum {
    GROUPS = 8, /* that go through a round together; 8 groups of 128 columns and their tables stay in the L1 cache */
    LANES = 16, /* trials times columns, whatever the vector length */
    VECTORS = LANES / V,
    TRIALS = 16 /* by true errors, set up together */
};

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

/* a where the sign bit of w is set, else b */
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

/* count + 1 in lanes in which a and b differ */
static inline vf count_differing(vf count, vf a, vf b) {
#if defined(CPU_ISA_avx512)
    return _mm512_mask_add_ps(count, _mm512_cmp_ps_mask(a, b, _CMP_NEQ_UQ), count, _mm512_set1_ps(1));
#elif defined(CPU_ISA_avx2)
    return _mm256_add_ps(count, _mm256_and_ps(_mm256_cmp_ps(a, b, _CMP_NEQ_UQ), _mm256_set1_ps(1)));
#else
    for (int k = 0; k < V; k++) count.f[k] += a.f[k] != b.f[k];
    return count;
#endif
}

/* Stores the integers that QUANT_MAGIC was added to, each 0..255, as bytes. */
static inline void store_codes(uint8_t *code, vf t) {
#if defined(CPU_ISA_avx512)
    _mm_storeu_si128((__m128i *)code, _mm512_cvtepi32_epi8(_mm512_castps_si512(t)));
#elif defined(CPU_ISA_avx2)
    v_store_u8(code, _mm256_and_si256(_mm256_castps_si256(t), _mm256_set1_epi32(255)));
#else
    for (int k = 0; k < V; k++) code[k] = (uint8_t)(t.f[k] - QUANT_MAGIC);
#endif
}

/* The sum of LANES partial sums, folded in halves. */
static inline float fold(const vf *part) {
#if defined(CPU_ISA_generic)
    vf t = v_add(part[0], part[1]);
    return ((t.f[0] + t.f[4]) + (t.f[2] + t.f[6])) + ((t.f[1] + t.f[5]) + (t.f[3] + t.f[7]));
#else
#if defined(CPU_ISA_avx512)
    __m256 s = _mm256_add_ps(_mm512_castps512_ps256(part[0]), _mm512_extractf32x8_ps(part[0], 1));
#else
    __m256 s = _mm256_add_ps(part[0], part[1]);
#endif
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_shuffle_ps(t, t, 1)));
#endif
}

/* The first of LANES lanes with the highest gain of a fit, which goes to *gain. Lanes come in equal pairs. */
static inline int best_lane(const float *b, const float *c, float *gain) {
#if defined(CPU_ISA_avx512)
    vf vb = v_load(b), g = v_max(v_div(v_mul(vb, vb), v_load(c)), v_set(0)), top = g;
    top = _mm512_max_ps(top, _mm512_shuffle_f32x4(top, top, 0x4e));
    top = _mm512_max_ps(top, _mm512_shuffle_f32x4(top, top, 0xb1));
    top = _mm512_max_ps(top, _mm512_permute_ps(top, 0x4e));
    *gain = _mm512_cvtss_f32(top);
    return __builtin_ctz(_mm512_cmp_ps_mask(g, top, _CMP_EQ_OQ));
#elif defined(CPU_ISA_avx2)
    vf b0 = v_load(b), b1 = v_load(b + V);
    vf g0 = v_max(v_div(v_mul(b0, b0), v_load(c)), v_set(0)), g1 = v_max(v_div(v_mul(b1, b1), v_load(c + V)), v_set(0));
    vf top = v_max(g0, g1);
    top = _mm256_max_ps(top, _mm256_permute2f128_ps(top, top, 1));
    top = _mm256_max_ps(top, _mm256_permute_ps(top, 0x4e));
    *gain = _mm256_cvtss_f32(top);
    unsigned first = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(g0, top, _CMP_EQ_OQ));
    return __builtin_ctz(first | (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(g1, top, _CMP_EQ_OQ)) << V);
#else
    int best = 0;
    *gain = 0;
    for (int i = 0; i < LANES; i++) {
        float value = quant_gain(b[i], c[i]);
        if (!(value > *gain)) continue;
        *gain = value;
        best = i;
    }
    return best;
#endif
}

/* Lane i of a vector = p[i / 4] */
static inline vf load_spread(const float *p) {
#if defined(CPU_ISA_avx512)
    const __m512i quads = _mm512_set_epi32(3, 3, 3, 3, 2, 2, 2, 2, 1, 1, 1, 1, 0, 0, 0, 0);
    return _mm512_permutexvar_ps(quads, _mm512_castps128_ps512(_mm_loadu_ps(p)));
#elif defined(CPU_ISA_avx2)
    return _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_set1_ps(p[0])), _mm_set1_ps(p[1]), 1);
#else
    vf r;
    for (int k = 0; k < V; k++) r.f[k] = p[k / 4];
    return r;
#endif
}

/* ---- groups -------------------------------------------------------------------------------------------------------
 */

/* One block of a group, padded with zeros (which add nothing to any sum) to a multiple of LANES. */
typedef struct block {
    const float *w, *h;                      /* h NULL: 1 */
    int n;                                   /* padded */
    _Alignas(64) float size[QUANT_BLOCK];    /* |w| */
    _Alignas(64) float most[2][QUANT_BLOCK]; /* QUANT_MAGIC + the largest |q| there; [1] for negative scales */
    _Alignas(64) float w_copy[QUANT_BLOCK], h_copy[QUANT_BLOCK];
} block;

/* Groups that go through the search together. A group of one block has its block at hand; a longer one reloads it. */
typedef struct lot {
    int count;
    bool cut; /* FLRQ_CLIP_ZERO */
    quant_levels levels;
    const float *w[GROUPS], *h[GROUPS];
    int64_t n[GROUPS], index[GROUPS];           /* number of the group in its row */
    float lo[GROUPS], hi[GROUPS], unit[GROUPS]; /* quant_range; unit is its scale */
    double norm[GROUPS], mass[GROUPS];          /* sum h w^2, sum h */
    float zero[GROUPS];                         /* of all fits */
    float step[GROUPS], centre[GROUPS];         /* of a round of fits; 1 / scale in the middle of round two */
    float b[GROUPS], c[GROUPS];                 /* sums of the best fit */
    float gain[GROUPS];                         /* its gain, 0 when there is none */
    int trial[GROUPS];                          /* its number */
    bool negative[GROUPS];                      /* its sign */
    _Alignas(64) float inv[GROUPS][LANES];      /* 1 / scale of trials, in lanes */
    block blocks[GROUPS];
} lot;

/* Makes every entry that is computed for all groups side by side a number, whether the group exists or not. */
static void lot_clear(lot *t) {
    t->count = 0;
    memset(t->lo, 0, sizeof t->lo);
    memset(t->hi, 0, sizeof t->hi);
    memset(t->unit, 0, sizeof t->unit);
    memset(t->norm, 0, sizeof t->norm);
    memset(t->mass, 0, sizeof t->mass);
    memset(t->b, 0, sizeof t->b);
    memset(t->c, 0, sizeof t->c);
    memset(t->trial, 0, sizeof t->trial);
    memset(t->negative, 0, sizeof t->negative);
}

static quant_range range_of(const lot *t, int i) {
    return (quant_range){t->lo[i], t->hi[i], t->unit[i]};
}

/* Points a block at columns j0 .. of its group, or at a padded copy where the group ends off the grid of LANES. */
static void block_at(block *k, const lot *t, int i, int64_t j0) {
    int64_t n = t->n[i] - j0 < QUANT_BLOCK ? t->n[i] - j0 : QUANT_BLOCK;
    k->n = (int)((n + LANES - 1) / LANES * LANES);
    k->w = t->w[i] + j0;
    k->h = t->h[i] ? t->h[i] + j0 : NULL;
    if (n == k->n) return;
    memset(k->w_copy + k->n - LANES, 0, LANES * sizeof *k->w_copy);
    memset(k->h_copy + k->n - LANES, 0, LANES * sizeof *k->h_copy);
    memcpy(k->w_copy, k->w, (size_t)n * sizeof *k->w_copy);
    k->w = k->w_copy;
    if (!k->h) return;
    memcpy(k->h_copy, k->h, (size_t)n * sizeof *k->h_copy);
    k->h = k->h_copy;
}

/* Range, norm and mass of group i. */
static inline void measure(lot *t, int i) {
    block *k = &t->blocks[i];
    double norm = 0, mass = t->h[i] ? 0 : (double)t->n[i];
    float first = t->w[i][0];
    vf least = v_set(first), most = least; /* the zeros of a padded end count in neither scheme */
    for (int64_t j0 = 0; j0 < t->n[i]; j0 += QUANT_BLOCK) {
        block_at(k, t, i, j0);
        vf part[VECTORS], part_mass[VECTORS];
        for (int v = 0; v < VECTORS; v++) part[v] = part_mass[v] = v_set(0);
        for (int j = 0; j < k->n; j += LANES)
            for (int v = 0; v < VECTORS; v++) {
                vf w = v_load(k->w + j + v * V), h = k->h ? v_load(k->h + j + v * V) : v_set(1);
                least = v_min(w, least);
                most = v_max(w, most);
                part[v] = fused(v_mul(h, w), w, part[v]);
                part_mass[v] = v_add(part_mass[v], h);
            }
        norm += (double)fold(part);
        if (k->h) mass += (double)fold(part_mass);
    }
    quant_range r = quant_range_of(&t->levels, v_minall(least), v_maxall(most));
    t->lo[i] = r.lo;
    t->hi[i] = r.hi;
    t->unit[i] = r.scale;
    t->norm[i] = norm;
    t->mass[i] = mass;
}

/* ---- trials by fits -----------------------------------------------------------------------------------------------
 */

/* Fills size and most for trials of group i. */
static void block_prepare(block *k, const lot *t, int i, bool both_signs) {
    const quant_levels *l = &t->levels;
    float shift = l->symmetric ? 0 : t->zero[i];
    const vf above = v_set(QUANT_MAGIC + (l->up - shift)), below = v_set(QUANT_MAGIC - (l->down - shift));
    for (int j = 0; j < k->n; j += V) {
        vf w = v_load(k->w + j);
        v_store(k->size + j, v_abs(w));
        v_store(k->most[0] + j, by_sign(w, below, above));
        if (both_signs) v_store(k->most[1] + j, by_sign(w, above, below));
    }
}

/* Adds the columns of one step to the sums of a vector of trials: |w| |q| and q^2 do not know the sign. */
static inline void fit_step(vf *b, vf *c, vf size, vf most, vf h, vf inv, bool weighted) {
    const vf magic = v_set(QUANT_MAGIC);
    vf q = v_sub(v_min(fused(size, inv, magic), most), magic), hq = weighted ? v_mul(h, q) : q;
    *b = fused(hq, size, *b);
    *c = fused(hq, q, *c);
}

/* B and C of 8 trials over one block. Lane i is trial i / 2, column i % 2. */
static inline void fit_eight(float *b, float *c, const float *inv, const block *k, const float *most, bool weighted) {
    for (int v = 0; v < LANES; v += V) {
        const vf lane_inv = v_load(inv + v);
        vf sum_b[4], sum_c[4], h = v_set(0);
        for (int p = 0; p < 4; p++) sum_b[p] = sum_c[p] = v_set(0);
        for (int j = 0; j < k->n; j += QUANT_FIT_LANES)
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                int at = j + 2 * p;
                if (weighted) h = load_pairs(k->h + at);
                fit_step(&sum_b[p], &sum_c[p], load_pairs(k->size + at), load_pairs(most + at), h, lane_inv, weighted);
            }
        v_store(b + v, add_near(v_add(v_add(sum_b[0], sum_b[2]), v_add(sum_b[1], sum_b[3])), 1));
        v_store(c + v, add_near(v_add(v_add(sum_c[0], sum_c[2]), v_add(sum_c[1], sum_c[3])), 1));
    }
}

/* The same for 4 trials: lane i is trial i / 4, column i % 4. */
static inline void fit_four(float *b, float *c, const float *inv, const block *k, const float *most, bool weighted) {
    for (int v = 0; v < LANES; v += V) {
        const vf lane_inv = v_load(inv + v);
        vf sum_b[2], sum_c[2], h = v_set(0);
        for (int p = 0; p < 2; p++) sum_b[p] = sum_c[p] = v_set(0);
        for (int j = 0; j < k->n; j += QUANT_FIT_LANES)
#pragma GCC unroll 2
            for (int p = 0; p < 2; p++) {
                int at = j + 4 * p;
                if (weighted) h = load_quads(k->h + at);
                fit_step(&sum_b[p], &sum_c[p], load_quads(k->size + at), load_quads(most + at), h, lane_inv, weighted);
            }
        v_store(b + v, add_near(add_near(v_add(sum_b[0], sum_b[1]), 2), 1));
        v_store(c + v, add_near(add_near(v_add(sum_c[0], sum_c[1]), 2), 1));
    }
}

static inline void fit_block(float *b, float *c, const float *inv, int trials, const block *k, bool negative) {
    const float *most = k->most[negative];
    if (trials == 4)
        k->h ? fit_four(b, c, inv, k, most, true) : fit_four(b, c, inv, k, most, false);
    else
        k->h ? fit_eight(b, c, inv, k, most, true) : fit_eight(b, c, inv, k, most, false);
}

/* B and C of 4 or 8 trials, in lanes, over a group of any length. */
static inline void fit(float *b, float *c, const float *inv, int trials, lot *t, int i, bool negative) {
    block *k = &t->blocks[i];
    if (t->n[i] <= QUANT_BLOCK) {
        fit_block(b, c, inv, trials, k, negative);
        return;
    }
    double sum_b[LANES] = {0}, sum_c[LANES] = {0};
    for (int64_t j = 0; j < t->n[i]; j += QUANT_BLOCK) {
        block_at(k, t, i, j);
        block_prepare(k, t, i, negative);
        fit_block(b, c, inv, trials, k, negative);
        for (int lane = 0; lane < LANES; lane++) {
            sum_b[lane] += (double)b[lane];
            sum_c[lane] += (double)c[lane];
        }
    }
    for (int lane = 0; lane < LANES; lane++) {
        b[lane] = (float)sum_b[lane];
        c[lane] = (float)sum_c[lane];
    }
}

/* Takes the best of 4 or 8 trials, numbers `first` and up, when it gains more than t->gain[i]. */
static inline void keep_best_fit(lot *t, int i, const float *b, const float *c, int first, int trials, bool negative) {
    float gain;
    int lane = best_lane(b, c, &gain);
    if (!(gain > t->gain[i])) return;
    t->gain[i] = gain;
    t->b[i] = b[lane];
    t->c[i] = c[lane];
    t->trial[i] = first + lane / (LANES / trials);
    t->negative[i] = negative;
}

/* Sets t->inv to quant_first_inv() of trials `first` .. first + 7. */
static inline void first_inv(lot *t, const quant_plan *plan, int first) {
    static const float trial[LANES] = {0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7};
    for (int i = 0; i < t->count; i++)
        for (int v = 0; v < LANES; v += V) {
            vf number = v_add(v_load(trial + v), v_set((float)first));
            vf ratio = fused_minus(number, v_set(t->step[i]), v_set(plan->high));
            v_store(t->inv[i] + v, v_div(v_set(1), v_max(v_mul(ratio, v_set(t->unit[i])), v_set(0x1p-24f))));
        }
}

/* Sets t->inv to quant_second_inv(). */
static inline void second_inv(lot *t, const quant_plan *plan) {
    static const float trials[2][LANES] = {{0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7},
                                           {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3}};
    const float *trial = trials[plan->second == 4];
    const vf middle = v_set(0.5f * (float)(plan->second - 1));
    for (int i = 0; i < t->count; i++)
        for (int v = 0; v < LANES; v += V) {
            vf offset = fused(v_sub(v_load(trial + v), middle), v_set(t->step[i]), v_set(1));
            v_store(t->inv[i] + v, v_mul(v_set(t->centre[i]), offset));
        }
}

/* Each loop over the groups does one kind of work, so that the long latencies (divisions, sums over lanes, the choice)
 * of eight groups run at the same time. */
static void round_one(lot *t, const quant_plan *plan, bool both_signs) {
    _Alignas(64) float b[GROUPS][LANES], c[GROUPS][LANES];
    memset(t->gain, 0, sizeof t->gain);
    for (int negative = 0; negative <= both_signs; negative++)
        for (int first = 0; first < plan->first; first += 8) {
            first_inv(t, plan, first);
            for (int i = 0; i < t->count; i++) fit(b[i], c[i], t->inv[i], 8, t, i, negative);
            for (int i = 0; i < t->count; i++) keep_best_fit(t, i, b[i], c[i], first, 8, negative);
        }
}

static void round_two(lot *t, const quant_plan *plan) {
    _Alignas(64) float b[GROUPS][LANES], c[GROUPS][LANES];
    second_inv(t, plan);
    for (int i = 0; i < t->count; i++) fit(b[i], c[i], t->inv[i], plan->second, t, i, t->negative[i]);
    memset(t->gain, 0, sizeof t->gain);
    for (int i = 0; i < t->count; i++) keep_best_fit(t, i, b[i], c[i], 0, plan->second, t->negative[i]);
}

/* ---- one candidate ------------------------------------------------------------------------------------------------
 */

/* Error of a candidate; with a code array, the codes as well, and the number of weights beyond its range in *clipped.
 */
static inline double encode_as(uint8_t *code, int64_t *clipped, lot *t, int i, const quant_candidate *c, bool weighted,
                               bool cut) {
    const vf inv = v_set(c->inv), scale = v_set(c->scale), magic = v_set(QUANT_MAGIC), zero = v_set(c->zero);
    const vf down = v_set(QUANT_MAGIC + c->down), up = v_set(QUANT_MAGIC + c->up), lo = v_set(c->lo), hi = v_set(c->hi);
    block *k = &t->blocks[i];
    double error = 0;
    for (int64_t j0 = 0; j0 < t->n[i]; j0 += QUANT_BLOCK) {
        int64_t end = t->n[i] - j0;
        if (t->n[i] > QUANT_BLOCK) block_at(k, t, i, j0);
        vf part[VECTORS], beyond[VECTORS];
        for (int v = 0; v < VECTORS; v++) part[v] = beyond[v] = v_set(0);
        for (int j = 0; j < k->n; j += LANES)
            for (int v = 0; v < VECTORS; v++) {
                int at = j + v * V;
                vf w = v_load(k->w + at), free = fused(w, inv, magic), in = v_min(v_max(free, down), up);
                vf q = v_sub(in, magic);
                if (cut) {
                    q = inside(q, w, lo, hi);
                    in = v_add(q, magic);
                    free = inside(magic, w, lo, hi);
                }
                vf e = fused_minus(q, scale, w);
                part[v] = fused(weighted ? v_mul(v_load(k->h + at), e) : e, e, part[v]);
                if (!code) continue;
                beyond[v] = count_differing(beyond[v], cut ? magic : in, free);
                if (at + V <= end) {
                    store_codes(code + j0 + at, v_add(in, zero));
                } else if (at < end) {
                    uint8_t tail[V];
                    store_codes(tail, v_add(in, zero));
                    memcpy(code + j0 + at, tail, (size_t)(end - at));
                }
            }
        error += (double)fold(part);
        if (code) *clipped += (int64_t)fold(beyond);
    }
    return error;
}

static double error_of(lot *t, int i, const quant_candidate *c) {
    return t->h[i] ? encode_as(NULL, NULL, t, i, c, true, false) : encode_as(NULL, NULL, t, i, c, false, false);
}

static double encode(uint8_t *code, int64_t *clipped, lot *t, int i, const quant_candidate *c) {
    *clipped = 0;
    if (t->cut) {
        bool weighted = t->h[i] != NULL;
        return encode_as(code, clipped, t, i, c, weighted, true);
    }
    return t->h[i] ? encode_as(code, clipped, t, i, c, true, false) : encode_as(code, clipped, t, i, c, false, false);
}

/* ---- trials by true errors ----------------------------------------------------------------------------------------
 */

/* Candidates side by side. down and up include QUANT_MAGIC. */
typedef struct trials {
    float scale[TRIALS], inv[TRIALS], zero[TRIALS], down[TRIALS], up[TRIALS], lo[TRIALS], hi[TRIALS];
    double error[TRIALS];
} trials;

/* Adds one block to the errors of trials first .. first+3. Lane i is trial i / 4, column i % 4. */
static inline void error_four(trials *s, int first, const block *k, bool weighted, bool cut) {
    const vf magic = v_set(QUANT_MAGIC);
    for (int v = 0; v < VECTORS; v++) {
        int at = first + v * (V / 4);
        const vf scale = load_spread(s->scale + at), inv = load_spread(s->inv + at);
        const vf down = load_spread(s->down + at), up = load_spread(s->up + at);
        const vf lo = load_spread(s->lo + at), hi = load_spread(s->hi + at);
        vf part[4];
        float sum[V];
        for (int p = 0; p < 4; p++) part[p] = v_set(0);
        for (int j = 0; j < k->n; j += LANES)
#pragma GCC unroll 4
            for (int p = 0; p < 4; p++) {
                vf w = load_quads(k->w + j + 4 * p);
                vf q = v_sub(v_min(v_max(fused(w, inv, magic), down), up), magic);
                if (cut) q = inside(q, w, lo, hi);
                vf e = fused_minus(q, scale, w);
                part[p] = fused(weighted ? v_mul(load_quads(k->h + j + 4 * p), e) : e, e, part[p]);
            }
        v_store(sum, add_near(add_near(v_add(v_add(part[0], part[2]), v_add(part[1], part[3])), 2), 1));
        for (int p = 0; p < V / 4; p++) s->error[at + p] += (double)sum[4 * p];
    }
}

static inline void errors_of(trials *s, int count, lot *t, int i, bool weighted, bool cut) {
    for (int64_t j = 0; j < t->n[i]; j += QUANT_BLOCK) {
        if (t->n[i] > QUANT_BLOCK) block_at(&t->blocks[i], t, i, j);
        for (int first = 0; first < count; first += 4) error_four(s, first, &t->blocks[i], weighted, cut);
    }
}

/* The ratios of a grid or fast search by true errors; none for FLRQ_CLIP_NONE. */
typedef struct ratio_list {
    const flrq_clip *clip;
    quant_plan plan;
    int64_t count;
    int signs; /* 2: each ratio with both signs of the scale */
} ratio_list;

static inline float ratio_at(const ratio_list *list, int i) {
    if (list->clip->search == FLRQ_CLIP_GRID) return quant_grid_ratio(list->clip, i);
    return quant_first_ratio(&list->plan, quant_error_step(&list->plan), i);
}

/* The candidate with the lowest error. Ratio 1 stands before the list. */
static quant_candidate search_by_errors(lot *t, int i, const ratio_list *list) {
    const quant_levels *l = &t->levels;
    quant_range r = range_of(t, i);
    quant_candidate best = quant_at_ratio(l, r, 1, 1);
    double lowest = INFINITY;
    trials s;
    for (int64_t done = 0, all = 1 + list->count * list->signs; list->count > 0 && done < all; done += TRIALS) {
        int now = all - done < TRIALS ? (int)(all - done) : TRIALS;
        for (int k = 0; k < TRIALS; k++) { /* past the end the last again */
            int64_t number = done + (k < now ? k : now - 1) - 1;
            float ratio = number < 0 ? 1.0f : ratio_at(list, (int)(number / list->signs));
            quant_candidate c = quant_at_ratio(l, r, ratio, number > 0 && number % list->signs ? -1.0f : 1.0f);
            s.scale[k] = c.scale;
            s.inv[k] = c.inv;
            s.zero[k] = c.zero;
            s.down[k] = QUANT_MAGIC + c.down;
            s.up[k] = QUANT_MAGIC + c.up;
            s.lo[k] = c.lo;
            s.hi[k] = c.hi;
            s.error[k] = 0;
        }
        if (t->cut)
            errors_of(&s, now, t, i, t->h[i] != NULL, true);
        else if (t->h[i])
            errors_of(&s, now, t, i, true, false);
        else
            errors_of(&s, now, t, i, false, false);
        for (int k = 0; k < now; k++) {
            if (!(s.error[k] < lowest)) continue;
            lowest = s.error[k];
            best = (quant_candidate){s.scale[k], s.inv[k], s.zero[k], s.down[k] - QUANT_MAGIC, s.up[k] - QUANT_MAGIC,
                                     s.lo[k],    s.hi[k]};
        }
    }
    return best;
}

/* ---- one row ------------------------------------------------------------------------------------------------------
 */

typedef struct row {
    uint8_t *code;
    float *scale;
    uint8_t *zero;
    const float *w;
    flrq_clip_stats *stats;
} row;

static void finish(const row *to, const lot *t, int i, const quant_candidate *c, double error, int64_t clipped) {
    to->scale[t->index[i]] = c->scale;
    if (to->zero) to->zero[t->index[i]] = (uint8_t)c->zero;
    to->stats->clipped += clipped;
    to->stats->weighted_error += error;
    to->stats->weighted_norm += t->norm[i];
    to->stats->ratio_sum += quant_ratio(range_of(t, i), c->scale);
}

static void quantize_by_fits(const row *to, lot *t, const quant_plan *plan, bool both_signs) {
    quant_candidate found[GROUPS], nearest[GROUPS];
    for (int i = 0; i < GROUPS; i++) {
        t->step[i] = quant_first_step(plan, range_of(t, i), t->norm[i], t->mass[i]);
        t->zero[i] = quant_fit_zero(&t->levels, range_of(t, i));
    }
    for (int i = 0; i < t->count; i++) block_prepare(&t->blocks[i], t, i, both_signs);
    round_one(t, plan, both_signs);
    for (int i = 0; i < GROUPS; i++) {
        t->step[i] = quant_second_step(plan, t->step[i], t->trial[i]);
        t->centre[i] = t->c[i] / t->b[i];
    }
    round_two(t, plan);
    for (int i = 0; i < GROUPS; i++) {
        float scale = t->b[i] / t->c[i];
        found[i] = quant_at_fit(&t->levels, range_of(t, i), t->negative[i] ? -scale : scale, t->zero[i]);
        nearest[i] = quant_at_ratio(&t->levels, range_of(t, i), 1, 1);
    }
    for (int i = 0; i < t->count; i++) {
        uint8_t *code = to->code + (t->w[i] - to->w);
        int64_t clipped;
        double error = t->gain[i] > 0 ? encode(code, &clipped, t, i, &found[i]) : INFINITY;
        if (error < error_of(t, i, &nearest[i])) {
            finish(to, t, i, &found[i], error, clipped);
        } else {
            error = encode(code, &clipped, t, i, &nearest[i]);
            finish(to, t, i, &nearest[i], error, clipped);
        }
    }
}

static void quantize_by_errors(const row *to, lot *t, const ratio_list *list) {
    for (int i = 0; i < t->count; i++) {
        quant_candidate c = search_by_errors(t, i, list);
        int64_t clipped;
        double error = encode(to->code + (t->w[i] - to->w), &clipped, t, i, &c);
        finish(to, t, i, &c, error, clipped);
    }
}

static void quantize_row(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    const row to = {code, scale, zero, w, stats};
    lot t;
    t.cut = clip->mode == FLRQ_CLIP_ZERO;
    t.levels = quant_levels_of(scheme);
    quant_plan plan = quant_plan_of(scheme->bits, group, t.cut);
    bool both_signs = quant_signed(scheme, clip), by_fits = clip->search == FLRQ_CLIP_FAST && plan.second > 0;
    const ratio_list list = {clip, plan,
                             clip->search == FLRQ_CLIP_NONE   ? 0
                             : clip->search == FLRQ_CLIP_GRID ? clip->steps
                                                              : plan.first,
                             1 + both_signs};
    lot_clear(&t);
    for (int64_t j0 = 0, index = 0; j0 < cols; j0 += group, index++) {
        int i = t.count;
        t.w[i] = w + j0;
        t.h[i] = h ? h + j0 : NULL;
        t.n[i] = cols - j0 < group ? cols - j0 : group;
        t.index[i] = index;
        measure(&t, i);
        stats->groups++;
        if (t.lo[i] == t.hi[i]) {
            memset(code + j0, (int)t.levels.middle, (size_t)t.n[i]);
            scale[index] = 1;
            if (zero) zero[index] = 0;
            stats->zero_groups++;
            stats->ratio_sum += 1;
        } else {
            t.count++;
        }
        if (t.count < GROUPS && t.n[i] < cols - j0) continue;
        if (by_fits)
            quantize_by_fits(&to, &t, &plan, both_signs);
        else
            quantize_by_errors(&to, &t, &list);
        lot_clear(&t);
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
