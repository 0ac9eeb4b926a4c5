/* simd_quant.c - the fused clip search and quantization of one row, and packing; compiled once per instruction set.
 *
 * Candidates lie in the lanes of a vector, the elements of a group come one after another as broadcasts: no sum over
 * lanes, no special case for short groups and tails, and sums in an order that does not depend on the vector length.
 * The order and every float expression are those of quant_search.h; all instruction sets give the same bytes.
 */
#include "backend/simd.h"
#include "backend/cpu_kernels.h"
#include "backend/quant_search.h"

/* simd.h has no fused product in its generic face; here the bytes depend on it. */
static inline vf fused(vf a, vf b, vf c) {
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fma(a, b, c);
#endif
}

static inline vf fused_minus(vf a, vf b, vf c) { /* c - a*b */
#if defined(CPU_ISA_generic)
    for (int k = 0; k < V; k++) c.f[k] = fmaf(-a.f[k], b.f[k], c.f[k]);
    return c;
#else
    return v_fnma(a, b, c);
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

/* ---- candidates ---------------------------------------------------------------------------------------------------
 */

/* Candidates side by side. down and up include QUANT_MAGIC. */
typedef struct batch {
    _Alignas(64) float scale[QUANT_BATCH], inv[QUANT_BATCH], down[QUANT_BATCH], up[QUANT_BATCH];
    _Alignas(64) float lo[QUANT_BATCH], hi[QUANT_BATCH];
    _Alignas(64) double error[QUANT_BATCH];               /* of trial_error() */
    _Alignas(64) double wq[QUANT_BATCH], qq[QUANT_BATCH]; /* of trial_fit(): sum h w q and sum h q^2 */
    quant_candidate candidate[QUANT_BATCH];
    int count;
} batch;

static void batch_add(batch *b, quant_candidate c) {
    int k = b->count++;
    b->candidate[k] = c;
    b->scale[k] = c.scale;
    b->inv[k] = c.inv;
    b->down[k] = QUANT_MAGIC + c.down;
    b->up[k] = QUANT_MAGIC + c.up;
    b->lo[k] = c.lo;
    b->hi[k] = c.hi;
}

/* Lanes without a candidate repeat the first. */
static void batch_fill(batch *b) {
    int count = b->count;
    while (b->count < QUANT_BATCH) batch_add(b, b->candidate[0]);
    b->count = count;
}

/* ---- trials -------------------------------------------------------------------------------------------------------
 */

/* A group, or what is left of a row: h NULL means 1. */
typedef struct group {
    const float *w, *h;
    int64_t n;
    bool cut;
} group;

/* At most QUANT_BLOCK columns, padded with zeros (which add nothing to any sum) to a multiple of QUANT_LANES. */
typedef struct block {
    _Alignas(64) float w[QUANT_BLOCK], h[QUANT_BLOCK], hw[QUANT_BLOCK];
    int n;
} block;

static void block_load(block *b, const group *g, int64_t j0) {
    int64_t n = g->n - j0 < QUANT_BLOCK ? g->n - j0 : QUANT_BLOCK, padded = (n + V - 1) / V * V;
    b->n = (int)((n + QUANT_LANES - 1) / QUANT_LANES * QUANT_LANES);
    memcpy(b->w, g->w + j0, (size_t)n * sizeof *b->w);
    for (int64_t j = n; j < padded; j++) b->w[j] = 0;
    if (!g->h) return;
    memcpy(b->h, g->h + j0, (size_t)n * sizeof *b->h);
    for (int64_t j = n; j < padded; j++) b->h[j] = 0;
    for (int64_t j = 0; j < padded; j += V) v_store(b->hw + j, v_mul(v_load(b->h + j), v_load(b->w + j)));
}

typedef enum trial_kind { TRIAL_ERROR, TRIAL_FIT } trial_kind;

/* Adds one block to the sums of V candidates, k0 .. k0+V-1. */
static inline void trial_block(batch *t, const block *b, int k0, trial_kind kind, bool weighted, bool cut) {
    const vf scale = v_load(t->scale + k0), inv = v_load(t->inv + k0), magic = v_set(QUANT_MAGIC);
    const vf down = v_load(t->down + k0), up = v_load(t->up + k0), lo = v_load(t->lo + k0), hi = v_load(t->hi + k0);
    vf s0[QUANT_LANES], s1[QUANT_LANES];
    for (int p = 0; p < QUANT_LANES; p++) s0[p] = s1[p] = v_set(0);
    for (int j = 0; j < b->n; j += QUANT_LANES)
#pragma GCC unroll 4
        for (int p = 0; p < QUANT_LANES; p++) {
            vf w = v_set(b->w[j + p]);
            vf q = v_sub(v_min(v_max(fused(w, inv, magic), down), up), magic);
            if (cut) q = inside(q, w, lo, hi);
            if (kind == TRIAL_ERROR) {
                vf e = fused_minus(q, scale, w);
                s0[p] = fused(weighted ? v_mul(v_set(b->h[j + p]), e) : e, e, s0[p]);
            } else {
                s0[p] = fused(weighted ? v_set(b->hw[j + p]) : w, q, s0[p]);
                s1[p] = fused(weighted ? v_mul(v_set(b->h[j + p]), q) : q, q, s1[p]);
            }
        }
    float sum[V];
    v_store(sum, v_add(v_add(s0[0], s0[2]), v_add(s0[1], s0[3])));
    double *to = kind == TRIAL_ERROR ? t->error + k0 : t->wq + k0;
    for (int k = 0; k < V; k++) to[k] += (double)sum[k];
    if (kind == TRIAL_ERROR) return;
    v_store(sum, v_add(v_add(s1[0], s1[2]), v_add(s1[1], s1[3])));
    for (int k = 0; k < V; k++) t->qq[k0 + k] += (double)sum[k];
}

static inline void trial_blocks(batch *t, const group *g, block *b, trial_kind kind, bool weighted, bool cut) {
    for (int64_t j = 0; j < g->n; j += QUANT_BLOCK) {
        if (g->n > QUANT_BLOCK) block_load(b, g, j);
        for (int k = 0; k < t->count; k += V) trial_block(t, b, k, kind, weighted, cut);
    }
}

/* Evaluates a batch. b holds the whole group when it fits in one block. */
static void trial(batch *t, const group *g, block *b, trial_kind kind) {
    batch_fill(t);
    memset(t->error, 0, sizeof t->error);
    memset(t->wq, 0, sizeof t->wq);
    memset(t->qq, 0, sizeof t->qq);
    if (g->cut) {
        if (g->h)
            trial_blocks(t, g, b, kind, true, true);
        else
            trial_blocks(t, g, b, kind, false, true);
    } else if (kind == TRIAL_ERROR) {
        if (g->h)
            trial_blocks(t, g, b, TRIAL_ERROR, true, false);
        else
            trial_blocks(t, g, b, TRIAL_ERROR, false, false);
    } else {
        if (g->h)
            trial_blocks(t, g, b, TRIAL_FIT, true, false);
        else
            trial_blocks(t, g, b, TRIAL_FIT, false, false);
    }
}

/* ---- search -------------------------------------------------------------------------------------------------------
 */

typedef struct winner {
    quant_candidate c;
    double error;
} winner;

static void keep_lowest(winner *best, batch *t, const group *g, block *b) {
    trial(t, g, b, TRIAL_ERROR);
    for (int k = 0; k < t->count; k++)
        if (t->error[k] < best->error) {
            best->error = t->error[k];
            best->c = t->candidate[k];
        }
    t->count = 0;
}

static winner search(const group *g, block *b, const quant_range *r, const flrq_scheme *scheme, const flrq_clip *clip) {
    batch t = {.count = 0};
    int signs = scheme->symmetric && scheme->grid == FLRQ_GRID_FULL && clip->signed_scale ? 2 : 1;
    winner best = {.c = quant_at_ratio(r, scheme, 1, 1), .error = INFINITY};
    if (clip->search == FLRQ_CLIP_GRID) {
        batch_add(&t, best.c);
        for (int32_t i = 0; i < clip->steps; i++)
            for (int sign = 0; sign < signs; sign++) {
                if (t.count == QUANT_BATCH) keep_lowest(&best, &t, g, b);
                batch_add(&t, quant_at_ratio(r, scheme, quant_grid_ratio(clip, i), sign ? -1.0f : 1.0f));
            }
    } else if (clip->search == FLRQ_CLIP_FAST) {
        quant_candidate from[QUANT_FINALISTS];
        double gain[QUANT_FINALISTS] = {0}, scale[QUANT_FINALISTS];
        for (int sign = 0; sign < signs; sign++) {
            for (int i = 0; i < QUANT_BATCH; i++)
                batch_add(&t, quant_at_ratio(r, scheme, quant_fast_ratio(scheme->bits, i), sign ? -1.0f : 1.0f));
            trial(&t, g, b, TRIAL_FIT);
            for (int k = 0; k < QUANT_BATCH; k++) {
                double value = t.wq[k] * t.wq[k] / t.qq[k];
                if (!(value > gain[QUANT_FINALISTS - 2])) continue;
                int at = QUANT_FINALISTS - 2;
                for (; at > 0 && value > gain[at - 1]; at--) {
                    gain[at] = gain[at - 1];
                    scale[at] = scale[at - 1];
                    from[at] = from[at - 1];
                }
                gain[at] = value;
                scale[at] = fabs(t.wq[k] / t.qq[k]);
                from[at] = t.candidate[k];
            }
            t.count = 0;
        }
        batch_add(&t, best.c);
        for (int i = 0; i < QUANT_FINALISTS - 1 && gain[i] > 0; i++)
            batch_add(&t, quant_with_scale(&from[i], scale[i]));
    } else {
        batch_add(&t, best.c);
    }
    keep_lowest(&best, &t, g, b);
    return best;
}

/* ---- codes --------------------------------------------------------------------------------------------------------
 */

static int64_t encode(uint8_t *code, const group *g, const quant_candidate *c) {
    const vf inv = v_set(c->inv), magic = v_set(QUANT_MAGIC), zero = v_set(QUANT_MAGIC - c->zero);
    const vf down = v_set(QUANT_MAGIC + c->down), up = v_set(QUANT_MAGIC + c->up), lo = v_set(c->lo), hi = v_set(c->hi);
    int64_t clipped = 0;
    for (int64_t j = 0; j < g->n; j += V) {
        float tail[V];
        uint8_t tail_code[V];
        int64_t n = g->n - j < V ? g->n - j : V;
        const float *from = g->w + j;
        if (n < V) {
            memset(tail, 0, sizeof tail);
            memcpy(tail, from, (size_t)n * sizeof *tail);
            from = tail;
        }
        vf w = v_load(from), t = fused(w, inv, magic), q;
        if (g->cut) {
            vf kept = inside(v_set(1), w, lo, hi);
            clipped += differing(kept, v_set(1));
            q = v_sub(inside(v_sub(v_min(v_max(t, down), up), magic), w, lo, hi), v_sub(zero, magic));
        } else {
            vf in = v_min(v_max(t, down), up);
            clipped += differing(in, t);
            q = v_sub(in, zero);
        }
        if (n == V) {
            v_store_u8(code + j, v_int(q));
        } else {
            v_store_u8(tail_code, v_int(q));
            memcpy(code + j, tail_code, (size_t)n);
        }
    }
    return clipped;
}

static double norm_of(const group *g) {
    double total = 0;
    for (int64_t j = 0; j < g->n; j++) total += (g->h ? (double)g->h[j] : 1.0) * (double)g->w[j] * (double)g->w[j];
    return total;
}

static void quantize_row(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group_size, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    block b;
    for (int64_t j0 = 0, i = 0; j0 < cols; j0 += group_size, i++) {
        group g = {w + j0, h ? h + j0 : NULL, cols - j0 < group_size ? cols - j0 : group_size,
                   clip->mode == FLRQ_CLIP_ZERO};
        float lo = g.w[0], hi = g.w[0];
        int64_t j = 0;
        if (g.n >= V) {
            vf least = v_load(g.w), most = least;
            for (j = V; j + V <= g.n; j += V) {
                least = v_min(v_load(g.w + j), least);
                most = v_max(v_load(g.w + j), most);
            }
            lo = v_minall(least);
            hi = v_maxall(most);
        }
        for (; j < g.n; j++) {
            lo = g.w[j] < lo ? g.w[j] : lo;
            hi = g.w[j] > hi ? g.w[j] : hi;
        }
        quant_range r = quant_range_of(scheme, lo, hi);
        stats->groups++;
        if (r.lo == r.hi) {
            float middle = scheme->symmetric ? quant_middle(scheme) : 0;
            memset(code + j0, (int)middle, (size_t)g.n);
            scale[i] = 1;
            if (zero) zero[i] = (uint8_t)middle;
            stats->zero_groups++;
            stats->ratio_sum += 1;
            continue;
        }
        if (g.n <= QUANT_BLOCK) block_load(&b, &g, 0);
        winner best = search(&g, &b, &r, scheme, clip);
        scale[i] = best.c.scale;
        if (zero) zero[i] = (uint8_t)best.c.zero;
        stats->clipped += encode(code + j0, &g, &best.c);
        stats->weighted_error += best.error;
        stats->weighted_norm += norm_of(&g);
        stats->ratio_sum += fabs((double)best.c.scale) / (double)r.scale;
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
