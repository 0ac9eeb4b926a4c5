/* simd_quant.c - the fused clip search and quantization of one row, and packing; compiled once per instruction set.
 *
 * Trials of a group share its vectors: the 16 lanes (one, or two shorter vectors) hold several trial scales times a few
 * neighbouring columns, pairs or quads of columns broadcast from memory. So a group of any length costs the same per
 * column, a sum runs over lanes once per group, and the order of sums does not depend on the vector length. Groups go
 * through a round of the search together: what is chosen for one overlaps the arithmetic of the next, and the scalars
 * of all are computed side by side. Every float expression is one of quant_search.h: all instruction sets give the same
 * bytes.
 */
#include "backend/cpu_kernels.h"
#include "backend/simd_lanes.h"

enum {
    GROUPS = 8,    /* that go through a round together; 8 groups of 128 columns and their tables stay in the L1 cache */
    TRIALS = LANES /* candidates that are set up side by side */
};

/* ---- groups ---------------------------------------------------------------------------------------------------- */

/* Where a row goes. */
typedef struct row {
    uint8_t *code;
    float *scale;
    uint8_t *zero; /* NULL when symmetric */
    const float *w;
    flrq_clip_stats *stats;
} row;

/* One block of a group, padded with zeros (which add nothing to any sum) to a multiple of LANES. */
typedef struct block {
    const float *w, *h;                                   /* h NULL: 1 */
    int n;                                                /* padded */
    _Alignas(64) float size[QUANT_BLOCK];                 /* |w| */
    _Alignas(64) float most[QUANT_VARIANTS][QUANT_BLOCK]; /* QUANT_MAGIC + the largest |q| there */
    _Alignas(64) float w_copy[QUANT_BLOCK], h_copy[QUANT_BLOCK];
} block;

/* Groups that go through the search together. A group of one block has its block at hand; a longer one reloads it.
 * Arrays of LANES are computed side by side and read in whole vectors. */
typedef struct lot {
    int count;
    bool cut; /* FLRQ_CLIP_ZERO */
    quant_levels levels;
    const float *w[GROUPS], *h[GROUPS];
    int64_t n[GROUPS], index[GROUPS];        /* number of the group in its row */
    float lo[LANES], hi[LANES], unit[LANES]; /* quant_range; unit is its scale */
    double norm[LANES];                      /* sum h w^2 */
    float power[LANES];                      /* sum h w^2 / sum h */
    float zero[LANES];                       /* of all fits */
    float step[LANES], centre[LANES];        /* of a round of fits; 1 / scale in the middle of round two */
    float b[LANES], c[LANES];                /* sums of the best fit */
    float gain[LANES];                       /* its gain, 0 when there is none */
    float trial[LANES];                      /* its number */
    int variant[GROUPS];                     /* its variant */
    _Alignas(64) float inv[GROUPS][LANES];   /* 1 / scale of trials, in lanes */
    _Alignas(64) float beyond[LANES];        /* weights of this row so far that lie beyond the chosen range */
    block blocks[GROUPS];
} lot;

/* Makes every entry that is computed for all groups side by side a number, whether the group exists or not. */
static void lot_clear(lot *t) {
    t->count = 0;
    memset(t->lo, 0, sizeof t->lo);
    memset(t->hi, 0, sizeof t->hi);
    memset(t->unit, 0, sizeof t->unit);
    memset(t->power, 0, sizeof t->power);
    memset(t->b, 0, sizeof t->b);
    memset(t->c, 0, sizeof t->c);
    memset(t->trial, 0, sizeof t->trial);
    memset(t->variant, 0, sizeof t->variant);
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

/* Range and norm of group i, and the mean square of its weights by h. */
static inline void measure_as(lot *t, int i, bool weighted) {
    block *k = &t->blocks[i];
    double norm = 0, mass = 0;
    vf least = v_set(t->w[i][0]), most = least; /* zeros that pad a block do not change the range of either scheme */
    for (int64_t j0 = 0; j0 < t->n[i]; j0 += QUANT_BLOCK) {
        block_at(k, t, i, j0);
        vf part[VECTORS], part_mass[VECTORS];
        float sums[2];
        for (int v = 0; v < VECTORS; v++) part[v] = part_mass[v] = v_set(0);
        for (int j = 0; j < k->n; j += LANES)
            for (int v = 0; v < VECTORS; v++) {
                vf w = v_load(k->w + j + v * V), h = weighted ? v_load(k->h + j + v * V) : w;
                least = v_min(w, least);
                most = v_max(w, most);
                part[v] = fused(weighted ? v_mul(h, w) : w, w, part[v]);
                if (weighted) part_mass[v] = v_add(part_mass[v], h);
            }
        fold_two(sums, part, part_mass);
        norm += (double)sums[0];
        mass += (double)sums[1];
    }
    quant_range r = t->levels.symmetric ? quant_range_of(&t->levels, 0, v_maxall(v_max(most, v_sub(v_set(0), least))))
                                        : quant_range_of(&t->levels, v_minall(least), v_maxall(most));
    t->lo[i] = r.lo;
    t->hi[i] = r.hi;
    t->unit[i] = r.scale;
    t->norm[i] = norm;
    t->power[i] = (float)(norm / (weighted ? mass : (double)t->n[i]));
}

/* ---- trials by fits -------------------------------------------------------------------------------------------- */

/* Fills size and most for one variant of group i. */
static void block_prepare(block *k, const lot *t, int i, int variant) {
    const quant_levels *l = &t->levels;
    float shift = l->symmetric ? 0 : quant_variant_zero(l, t->zero[i], variant);
    vf above = v_set(QUANT_MAGIC + (l->up - shift)), below = v_set(QUANT_MAGIC - (l->down - shift));
    if (quant_variant_sign(l, variant) < 0) {
        vf swap = above;
        above = below;
        below = swap;
    }
    for (int j = 0; j < k->n; j += V) {
        vf w = v_load(k->w + j);
        v_store(k->size + j, v_abs(w));
        v_store(k->most[variant] + j, by_sign(w, below, above));
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

static inline void fit_block(float *b, float *c, const float *inv, int trials, const block *k, int variant,
                             bool weighted) {
    if (trials == 4)
        fit_four(b, c, inv, k, k->most[variant], weighted);
    else
        fit_eight(b, c, inv, k, k->most[variant], weighted);
}

/* The same over a group of many blocks. */
static void fit_blocks(float *b, float *c, const float *inv, int trials, lot *t, int i, int variant) {
    block *k = &t->blocks[i];
    double sum_b[LANES] = {0}, sum_c[LANES] = {0};
    for (int64_t j = 0; j < t->n[i]; j += QUANT_BLOCK) {
        block_at(k, t, i, j);
        block_prepare(k, t, i, variant);
        if (k->h)
            fit_block(b, c, inv, trials, k, variant, true);
        else
            fit_block(b, c, inv, trials, k, variant, false);
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

/* B and C, in lanes, of 4 or 8 trials for every group; variant < 0: that of the group. */
static inline void fit_as(float (*b)[LANES], float (*c)[LANES], lot *t, int trials, int variant, bool weighted) {
    for (int i = 0; i < t->count; i++) {
        int here = variant < 0 ? t->variant[i] : variant;
        if (t->n[i] <= QUANT_BLOCK)
            fit_block(b[i], c[i], t->inv[i], trials, &t->blocks[i], here, weighted);
        else
            fit_blocks(b[i], c[i], t->inv[i], trials, t, i, here);
    }
}

static void fit(float (*b)[LANES], float (*c)[LANES], lot *t, int trials, int variant) {
    bool weighted = t->h[0] != NULL;
    if (trials == 4)
        weighted ? fit_as(b, c, t, 4, variant, true) : fit_as(b, c, t, 4, variant, false);
    else
        weighted ? fit_as(b, c, t, 8, variant, true) : fit_as(b, c, t, 8, variant, false);
}

/* Takes the best of 4 or 8 trials, numbers `first` and up, when it gains more than t->gain[i]. */
static inline void keep_best_fit(lot *t, int i, const float *b, const float *c, int first, int trials, int variant) {
    float gain;
    int lane = best_lane(b, c, &gain);
    if (!(gain > t->gain[i])) return;
    t->gain[i] = gain;
    t->b[i] = b[lane];
    t->c[i] = c[lane];
    t->trial[i] = (float)(first + lane / (LANES / trials));
    t->variant[i] = variant;
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
static void round_one(lot *t, const quant_plan *plan, int variants) {
    _Alignas(64) float b[GROUPS][LANES], c[GROUPS][LANES];
    memset(t->gain, 0, sizeof t->gain);
    for (int variant = 0; variant < variants; variant++)
        for (int first = 0; first < plan->first; first += 8) {
            first_inv(t, plan, first);
            fit(b, c, t, 8, variant);
            for (int i = 0; i < t->count; i++) keep_best_fit(t, i, b[i], c[i], first, 8, variant);
        }
}

static void round_two(lot *t, const quant_plan *plan) {
    _Alignas(64) float b[GROUPS][LANES], c[GROUPS][LANES];
    second_inv(t, plan);
    fit(b, c, t, plan->second, -1);
    for (int i = 0; i < t->count; i++) {
        bool centred = t->gain[i] > 0; /* else round one found nothing to go on from, and the trials mean nothing */
        t->gain[i] = 0;
        if (centred) keep_best_fit(t, i, b[i], c[i], 0, plan->second, t->variant[i]);
    }
}

/* ---- candidates ------------------------------------------------------------------------------------------------ */

/* Candidates side by side. down and up include QUANT_MAGIC. */
typedef struct candidates {
    float scale[TRIALS], inv[TRIALS], zero[TRIALS], down[TRIALS], up[TRIALS], lo[TRIALS], hi[TRIALS];
} candidates;

/* quant_at_ratio() side by side: entries k .. k+V-1. Symmetric schemes have lo = -hi. */
static inline void set_at_ratio(candidates *s, int k, const quant_levels *l, vf lo, vf hi, vf unit, vf ratio, vf sign) {
    const vf magic = v_set(QUANT_MAGIC), down = v_set(l->down), up = v_set(l->up);
    vf scale = v_mul(sign, round_scale(v_mul(ratio, unit))), inv = v_div(v_set(1), scale), zero = v_set(l->middle),
       shift = v_set(0);
    lo = v_mul(ratio, lo);
    hi = v_mul(ratio, hi);
    if (!l->symmetric) {
        zero = v_min(v_max(fused_minus(lo, inv, magic), v_add(magic, down)), v_add(magic, up));
        zero = shift = v_sub(zero, magic);
    }
    v_store(s->scale + k, scale);
    v_store(s->inv + k, inv);
    v_store(s->zero + k, zero);
    v_store(s->down + k, v_add(magic, v_sub(down, shift)));
    v_store(s->up + k, v_add(magic, v_sub(up, shift)));
    v_store(s->lo + k, lo);
    v_store(s->hi + k, hi);
}

/* quant_at_fit() side by side; sign is that of the scale. Without lo and hi, which FLRQ_CLIP_ZERO alone reads. */
static inline void set_at_fit(candidates *s, int k, const quant_levels *l, vf scale, vf sign, vf zero) {
    const vf magic = v_set(QUANT_MAGIC), shift = l->symmetric ? v_set(0) : zero;
    scale = v_mul(sign, round_scale(scale));
    v_store(s->scale + k, scale);
    v_store(s->inv + k, v_div(v_set(1), scale));
    v_store(s->zero + k, zero);
    v_store(s->down + k, v_add(magic, v_sub(v_set(l->down), shift)));
    v_store(s->up + k, v_add(magic, v_sub(v_set(l->up), shift)));
}

/* One candidate in all lanes. Copies, because the bytes of codes that a loop stores could alias anything. */
typedef struct candidate_lanes {
    vf scale, inv, down, up;
} candidate_lanes;

static inline candidate_lanes lanes_of(const candidates *s, int i) {
    return (candidate_lanes){v_set(s->scale[i]), v_set(s->inv[i]), v_set(s->down[i]), v_set(s->up[i])};
}

/* Writes the codes of group i under candidate i and counts the weights beyond its range. Returns the error, or -1
 * when a rival's is not higher. */
static inline double encode_as(uint8_t *restrict code, lot *t, int i, const candidates *s, const candidates *rival,
                               bool weighted, bool cut) {
    const vf magic = v_set(QUANT_MAGIC), zero = v_set(s->zero[i]);
    const vf lo = cut ? v_set(s->lo[i]) : zero, hi = cut ? v_set(s->hi[i]) : zero;
    const candidate_lanes c = lanes_of(s, i), other = lanes_of(rival ? rival : s, i);
    double error = 0, other_error = 0;
    vf beyond[VECTORS];
    for (int v = 0; v < VECTORS; v++) beyond[v] = v_load(t->beyond + v * V);
    for (int64_t j0 = 0; j0 < t->n[i]; j0 += QUANT_BLOCK) {
        if (t->n[i] > QUANT_BLOCK) block_at(&t->blocks[i], t, i, j0);
        const float *w_at = t->blocks[i].w, *h_at = t->blocks[i].h;
        const int n = t->blocks[i].n;
        const int64_t end = t->n[i] - j0;
        vf part[VECTORS], part_other[VECTORS];
        float sums[2];
        for (int v = 0; v < VECTORS; v++) part[v] = part_other[v] = v_set(0);
        for (int j = 0; j < n; j += LANES)
            for (int v = 0; v < VECTORS; v++) {
                int at = j + v * V;
                vf w = v_load(w_at + at), h = weighted ? v_load(h_at + at) : magic, e;
                if (rival) {
                    vf in = v_min(v_max(fused(w, other.inv, magic), other.down), other.up);
                    e = fused_minus(v_sub(in, magic), other.scale, w);
                    part_other[v] = fused(weighted ? v_mul(h, e) : e, e, part_other[v]);
                }
                vf free = fused(w, c.inv, magic), in = v_min(v_max(free, c.down), c.up);
                if (cut) {
                    in = v_add(inside(v_sub(in, magic), w, lo, hi), magic);
                    beyond[v] = count_differing(beyond[v], inside(magic, w, lo, hi), magic);
                } else {
                    beyond[v] = count_differing(beyond[v], in, free);
                }
                e = fused_minus(v_sub(in, magic), c.scale, w);
                part[v] = fused(weighted ? v_mul(h, e) : e, e, part[v]);
                if (at + V <= end) {
                    store_codes(code + j0 + at, v_add(in, zero));
                } else if (at < end) {
                    uint8_t tail[V];
                    store_codes(tail, v_add(in, zero));
                    memcpy(code + j0 + at, tail, (size_t)(end - at));
                }
            }
        fold_two(sums, part, part_other);
        error += (double)sums[0];
        other_error += (double)sums[1];
    }
    if (rival && !(error < other_error)) return -1;
    for (int v = 0; v < VECTORS; v++) v_store(t->beyond + v * V, beyond[v]);
    return error;
}

/* Writes codes, scale and zero point of group i under candidate i. With a rival: false, and nothing is final, unless
 * the candidate has the lower error. */
static inline bool encode(const row *to, lot *t, int i, const candidates *s, const candidates *rival, bool weighted,
                          bool cut) {
    double error = encode_as(to->code + (t->w[i] - to->w), t, i, s, rival, weighted, cut);
    if (error < 0) return false;
    to->scale[t->index[i]] = s->scale[i];
    if (to->zero) to->zero[t->index[i]] = (uint8_t)s->zero[i];
    to->stats->weighted_error += error;
    to->stats->weighted_norm += t->norm[i];
    to->stats->ratio_sum += quant_ratio(range_of(t, i), s->scale[i]);
    return true;
}

/* The same for all groups, whose candidates stand at their numbers. */
static void encode_all(const row *to, lot *t, const candidates *s) {
    bool weighted = t->h[0] != NULL;
    for (int i = 0; i < t->count; i++)
        if (t->cut)
            encode(to, t, i, s, NULL, weighted, true);
        else if (weighted)
            encode(to, t, i, s, NULL, true, false);
        else
            encode(to, t, i, s, NULL, false, false);
}

/* The fit of every group if it has one that is better than the nearest, else the nearest. */
static inline void encode_better(const row *to, lot *t, const candidates *found, const candidates *nearest,
                                 bool weighted) {
    for (int i = 0; i < t->count; i++)
        if (!(t->gain[i] > 0) || !encode(to, t, i, found, nearest, weighted, false))
            encode(to, t, i, nearest, NULL, weighted, false);
}

/* ---- search by fits -------------------------------------------------------------------------------------------- */

/* Sets step, zero and the candidates of ratio 1 for all groups: quant_first_step(), quant_fit_zero(). */
static inline void before_round_one(lot *t, candidates *nearest, const quant_plan *plan) {
    const quant_levels *l = &t->levels;
    const vf most = v_set(plan->high * 0.75f), magic = v_set(QUANT_MAGIC);
    for (int i = 0; i < GROUPS; i += V) {
        vf lo = v_load(t->lo + i), hi = v_load(t->hi + i), unit = v_load(t->unit + i);
        vf low = v_div(v_mul(v_set(plan->low), v_sqrt(v_load(t->power + i))), v_mul(v_set(0.5f), v_sub(hi, lo)));
        low = v_min(v_max(low, v_set(0.02f)), most);
        v_store(t->step + i, v_div(v_sub(v_set(plan->high), low), v_set((float)(plan->first - 1))));
        vf zero = fused_minus(lo, v_div(v_set(1), v_max(unit, v_set(0x1p-24f))), magic);
        zero = v_sub(v_min(v_max(zero, v_set(QUANT_MAGIC + l->down)), v_set(QUANT_MAGIC + l->up)), magic);
        v_store(t->zero + i, l->symmetric ? v_set(l->middle) : zero);
        set_at_ratio(nearest, i, l, lo, hi, unit, v_set(1), v_set(1));
    }
}

/* quant_second_step() */
static inline void before_round_two(lot *t, const quant_plan *plan) {
    for (int i = 0; i < GROUPS; i += V) {
        vf step = v_load(t->step + i), ratio = fused_minus(v_load(t->trial + i), step, v_set(plan->high));
        vf relative = v_div(v_mul(v_set(plan->spread), step), ratio);
        v_store(t->step + i, v_min(relative, v_set(1.2f / (float)(plan->second - 1))));
        v_store(t->centre + i, v_div(v_load(t->c + i), v_load(t->b + i)));
    }
}

static void quantize_by_fits(const row *to, lot *t, const quant_plan *plan, int variants) {
    candidates nearest, found;
    before_round_one(t, &nearest, plan);
    for (int i = 0; i < t->count; i++)
        for (int variant = 0; variant < variants; variant++) block_prepare(&t->blocks[i], t, i, variant);
    round_one(t, plan, variants);
    before_round_two(t, plan);
    round_two(t, plan);
    float zero[LANES] = {0}, sign[LANES] = {0};
    for (int i = 0; i < t->count; i++) {
        zero[i] = quant_variant_zero(&t->levels, t->zero[i], t->variant[i]);
        sign[i] = quant_variant_sign(&t->levels, t->variant[i]);
    }
    for (int i = 0; i < GROUPS; i += V)
        set_at_fit(&found, i, &t->levels, v_div(v_load(t->b + i), v_load(t->c + i)), v_load(sign + i),
                   v_load(zero + i));
    t->h[0] ? encode_better(to, t, &found, &nearest, true) : encode_better(to, t, &found, &nearest, false);
}

/* ---- search by true errors ------------------------------------------------------------------------------------- */

/* Adds one block to the errors of trials first .. first+3. Lane i is trial i / 4, column i % 4. */
static inline void error_four(double *error, const candidates *s, int first, const block *k, bool weighted, bool cut) {
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
        for (int p = 0; p < V / 4; p++) error[at + p] += (double)sum[4 * p];
    }
}

static inline void errors_of(double *error, const candidates *s, int count, lot *t, int i, bool weighted, bool cut) {
    for (int k = 0; k < TRIALS; k++) error[k] = 0;
    for (int64_t j = 0; j < t->n[i]; j += QUANT_BLOCK) {
        if (t->n[i] > QUANT_BLOCK) block_at(&t->blocks[i], t, i, j);
        for (int first = 0; first < count; first += 4) error_four(error, s, first, &t->blocks[i], weighted, cut);
    }
}

/* The candidates of a grid or fast search by true errors: ratio 1, then the ratios in their order, each with both signs
 * of the scale when `signs` is 2. */
typedef struct candidate_list {
    const flrq_clip *clip;
    quant_plan plan;
    int count, signs;
} candidate_list;

/* Candidates number `first` .. of group i. */
static inline void set_trials(candidates *s, const candidate_list *list, const lot *t, int i, int first) {
    float ratio[TRIALS], sign[TRIALS], step = quant_error_step(&list->plan);
    for (int k = 0; k < TRIALS; k++) {
        int number = first + k, at = (number - 1) >> (list->signs - 1);
        float found = list->clip->search == FLRQ_CLIP_GRID ? quant_grid_ratio(list->clip, at)
                                                           : quant_first_ratio(&list->plan, step, at);
        ratio[k] = number > 0 ? found : 1.0f;
        sign[k] = list->signs == 2 && number > 0 && number % 2 == 0 ? -1.0f : 1.0f;
    }
    for (int k = 0; k < TRIALS; k += V)
        set_at_ratio(s, k, &t->levels, v_set(t->lo[i]), v_set(t->hi[i]), v_set(t->unit[i]), v_load(ratio + k),
                     v_load(sign + k));
}

/* The number of the candidate with the lowest error. */
static int search_by_errors(lot *t, int i, const candidate_list *list) {
    double lowest = INFINITY, error[TRIALS];
    int best = 0;
    candidates s;
    for (int done = 0; done < list->count; done += TRIALS) {
        int now = list->count - done < TRIALS ? list->count - done : TRIALS;
        set_trials(&s, list, t, i, done);
        if (t->cut)
            errors_of(error, &s, now, t, i, t->h[i] != NULL, true);
        else if (t->h[i])
            errors_of(error, &s, now, t, i, true, false);
        else
            errors_of(error, &s, now, t, i, false, false);
        for (int k = 0; k < now; k++) {
            best = error[k] < lowest ? done + k : best;
            lowest = error[k] < lowest ? error[k] : lowest;
        }
    }
    return best;
}

static void quantize_by_errors(const row *to, lot *t, const candidate_list *list) {
    candidates s, chosen;
    for (int i = 0; i < GROUPS; i += V) /* number 0 for all groups */
        set_at_ratio(&chosen, i, &t->levels, v_load(t->lo + i), v_load(t->hi + i), v_load(t->unit + i), v_set(1),
                     v_set(1));
    for (int i = 0; i < t->count && list->count > 1; i++) {
        int best = search_by_errors(t, i, list);
        if (best == 0) continue;
        set_trials(&s, list, t, i, best);
        chosen.scale[i] = s.scale[0];
        chosen.inv[i] = s.inv[0];
        chosen.zero[i] = s.zero[0];
        chosen.down[i] = s.down[0];
        chosen.up[i] = s.up[0];
        chosen.lo[i] = s.lo[0];
        chosen.hi[i] = s.hi[0];
    }
    encode_all(to, t, &chosen);
}

/* ---- one row --------------------------------------------------------------------------------------------------- */

/* Asks for what the group at w will need GROUPS groups later (or in the next row), so that it is in the cache by then.
 * The addresses are integers here because they may lie past the end of the matrix, where asking is no fault. */
static inline void fetch_ahead(const float *w, const uint8_t *code, int64_t n) {
    if (n > QUANT_BLOCK) return;
    uintptr_t from = (uintptr_t)(w) + (uintptr_t)(GROUPS * n) * sizeof *w,
              to = (uintptr_t)code + (uintptr_t)(GROUPS * n);
    for (uintptr_t byte = 0; byte < (uintptr_t)n * sizeof *w; byte += 64)
        __builtin_prefetch((const void *)(from + byte));
    for (uintptr_t byte = 0; byte < (uintptr_t)n; byte += 64) __builtin_prefetch((const void *)(to + byte), 1);
}

static void quantize_row(uint8_t *code, float *scale, uint8_t *zero, const float *w, const float *h, int64_t cols,
                         int64_t group, const flrq_scheme *scheme, const flrq_clip *clip, flrq_clip_stats *stats) {
    const row to = {code, scale, zero, w, stats};
    lot t;
    t.cut = clip->mode == FLRQ_CLIP_ZERO;
    t.levels = quant_levels_of(scheme);
    quant_plan plan = quant_plan_of(scheme->bits, group, t.cut);
    bool both_signs = quant_signed(scheme, clip), by_fits = clip->search == FLRQ_CLIP_FAST && plan.second > 0;
    int ratios = clip->search == FLRQ_CLIP_NONE ? 0 : clip->search == FLRQ_CLIP_GRID ? clip->steps : plan.first;
    const candidate_list list = {clip, plan, 1 + ratios * (1 + both_signs), 1 + both_signs};
    memset(t.beyond, 0, sizeof t.beyond);
    lot_clear(&t);
    for (int64_t j0 = 0, index = 0; j0 < cols; j0 += group, index++) {
        int i = t.count;
        t.w[i] = w + j0;
        t.h[i] = h ? h + j0 : NULL;
        t.n[i] = cols - j0 < group ? cols - j0 : group;
        t.index[i] = index;
        fetch_ahead(w + j0, code + j0, t.n[i]);
        h ? measure_as(&t, i, true) : measure_as(&t, i, false);
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
            quantize_by_fits(&to, &t, &plan, quant_variants(scheme, clip));
        else
            quantize_by_errors(&to, &t, &list);
        lot_clear(&t);
    }
    for (int k = 0; k < LANES; k++) stats->clipped += (int64_t)t.beyond[k];
}

/* ---- packing ----------------------------------------------------------------------------------------------- */

/* Eight codes are `bits` whole bytes of the stream, so eight at a time go through a 64-bit register: neighbours close
 * up in three steps, or move apart. That is as fast as memory at every width. */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the stream of codes is little-endian");

static inline uint64_t close_up(uint64_t x, int bits) {
    const uint64_t ones = (1ull << bits) - 1;
    x &= ones * 0x0101010101010101ull;
    x = (x | x >> (8 - bits)) & (((1ull << 2 * bits) - 1) * 0x0001000100010001ull);
    x = (x | x >> 2 * (8 - bits)) & (((1ull << 4 * bits) - 1) * 0x0000000100000001ull);
    return (x | x >> 4 * (8 - bits)) & ((1ull << 8 * bits) - 1);
}

static inline uint64_t move_apart(uint64_t x, int bits) {
    x = (x | x << 4 * (8 - bits)) & (((1ull << 4 * bits) - 1) * 0x0000000100000001ull);
    x = (x | x << 2 * (8 - bits)) & (((1ull << 2 * bits) - 1) * 0x0001000100010001ull);
    return (x | x << (8 - bits)) & (((1ull << bits) - 1) * 0x0101010101010101ull);
}

/* The first 2, 3 or 4 bytes at p, without a detour through memory. */
static inline uint64_t load_bytes(const uint8_t *p, int bytes) {
    uint16_t low, high = 0;
    memcpy(&low, p, 2);
    if (bytes == 3) high = p[2];
    if (bytes == 4) memcpy(&high, p + 2, 2);
    return low | (uint64_t)high << 16;
}

/* Packs a multiple of 64 codes at 2 or 4 bits with multiply-adds of neighbours; returns how many. */
static inline int64_t pack_vectors(uint8_t *packed, const uint8_t *code, int64_t cols, int bits) {
    int64_t j = 0;
#if defined(CPU_ISA_avx512)
    const __m512i mask = _mm512_set1_epi8((char)((1 << bits) - 1));
    const __m512i pairs = _mm512_set1_epi16((short)(1 | 1 << (8 + bits))),
                  quads = _mm512_set1_epi32(1 | 1 << (16 + 2 * bits));
    for (; j + 64 <= cols; j += 64) {
        __m512i x = _mm512_and_si512(_mm512_loadu_si512(code + j), mask);
        x = _mm512_maddubs_epi16(x, pairs);
        if (bits == 4)
            _mm256_storeu_si256((__m256i *)(packed + j / 2), _mm512_cvtepi16_epi8(x));
        else
            _mm_storeu_si128((__m128i *)(packed + j / 4), _mm512_cvtepi32_epi8(_mm512_madd_epi16(x, quads)));
    }
#elif defined(CPU_ISA_avx2)
    const __m256i mask = _mm256_set1_epi8((char)((1 << bits) - 1));
    const __m256i pairs = _mm256_set1_epi16((short)(1 | 1 << (8 + bits))),
                  quads = _mm256_set1_epi32(1 | 1 << (16 + 2 * bits));
    for (; j + 64 <= cols; j += 64) {
        __m256i x = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(code + j)), mask);
        __m256i y = _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(code + j + 32)), mask);
        x = _mm256_maddubs_epi16(x, pairs);
        y = _mm256_maddubs_epi16(y, pairs);
        if (bits == 4) {
            x = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, y), 0xd8);
            _mm256_storeu_si256((__m256i *)(packed + j / 2), x);
        } else {
            x = _mm256_permute4x64_epi64(_mm256_packs_epi32(_mm256_madd_epi16(x, quads), _mm256_madd_epi16(y, quads)),
                                         0xd8);
            x = _mm256_permute4x64_epi64(_mm256_packus_epi16(x, x), 0xd8);
            _mm_storeu_si128((__m128i *)(packed + j / 4), _mm256_castsi256_si128(x));
        }
    }
#endif
    return j;
}

static inline void pack_codes(uint8_t *packed, const uint8_t *code, int64_t cols, int bits) {
    uint8_t *end = packed + (cols * bits + 31) / 32 * 4;
    int64_t j = bits == 3 ? 0 : pack_vectors(packed, code, cols, bits);
    packed += j / 8 * bits;
    for (; j + 8 <= cols; j += 8, packed += bits) {
        uint64_t x;
        memcpy(&x, code + j, 8);
        x = close_up(x, bits);
        memcpy(packed, &x, (size_t)bits);
    }
    memset(packed, 0, (size_t)(end - packed));
    if (j == cols) return;
    uint64_t x = 0;
    memcpy(&x, code + j, (size_t)(cols - j));
    x = close_up(x, bits);
    memcpy(packed, &x, (size_t)(((cols - j) * bits + 7) / 8));
}

static inline void unpack_codes(uint8_t *code, const uint8_t *packed, int64_t cols, int bits) {
    int64_t j = 0;
    for (; j + 8 <= cols; j += 8, packed += bits) {
        uint64_t x = move_apart(load_bytes(packed, bits), bits);
        memcpy(code + j, &x, 8);
    }
    if (j == cols) return;
    uint64_t x = 0;
    memcpy(&x, packed, (size_t)(((cols - j) * bits + 7) / 8));
    x = move_apart(x, bits);
    memcpy(code + j, &x, (size_t)(cols - j));
}

static void pack_row(int32_t *packed, const uint8_t *code, int64_t cols, int bits) {
    uint8_t *to = (uint8_t *)packed;
    switch (bits) {
    case 2:
        pack_codes(to, code, cols, 2);
        break;
    case 3:
        pack_codes(to, code, cols, 3);
        break;
    case 4:
        pack_codes(to, code, cols, 4);
        break;
    default:
        memset(to + cols, 0, (size_t)((cols + 3) / 4 * 4 - cols));
        memcpy(to, code, (size_t)cols);
    }
}

static void unpack_row(uint8_t *code, const int32_t *packed, int64_t cols, int bits) {
    const uint8_t *from = (const uint8_t *)packed;
    switch (bits) {
    case 2:
        unpack_codes(code, from, cols, 2);
        break;
    case 3:
        unpack_codes(code, from, cols, 3);
        break;
    case 4:
        unpack_codes(code, from, cols, 4);
        break;
    default:
        memcpy(code, from, (size_t)cols);
    }
}

void SIMD_NAME(simd_quant)(struct cpu_kernels *k) {
    k->quantize_row = quantize_row;
    k->pack_row = pack_row;
    k->unpack_row = unpack_row;
}
