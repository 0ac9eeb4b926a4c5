/* test_rank.c - the rank rules against hand-computed cases and against their definitions written out as loops.
 *
 * The literal rule here is Algorithm 1 of the paper with k and q as printed (Eq. 9), not the shorter identity that the
 * header names; the two must agree.
 */
#include "matrices.h"
#include "quant/rank.h"

static flrq_rank_policy policy_of(flrq_rank_rule rule, int bits, double extra) {
    return (flrq_rank_policy){.rule = rule, .max_rank = 1024, .multiple = 1, .extra = extra, .bits = bits};
}

/* ---- cost and cap ------------------------------------------------------------------------------------------------ */

static void cost_by_hand(void **state) {
    assert_true(flrq_rank_cost(32, 32) == 1.0);
    assert_true(flrq_rank_cost(1024, 1024) == 0.03125);
    assert_true(flrq_rank_cost(1, 1) == 32.0);
    /* 16 (11008 + 4096) / (11008 * 4096) = 241664 / 45088768 */
    CHECK_LE(fabs(flrq_rank_cost(11008, 4096) - 241664.0 / 45088768.0), 1e-17);
    assert_true(flrq_rank_cost(11008, 4096) == flrq_rank_cost(4096, 11008));
    /* Sides whose product and whose sum times 16 overflow 32 bits. */
    CHECK_LE(fabs(flrq_rank_cost(1 << 30, 1 << 30) / (32.0 / (1 << 30)) - 1), 1e-15);
}

static void cap_by_hand(void **state) {
    flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, 4, 0.2);
    /* 0.2 * 4 = 0.8 bits; 0.03125 per rank: 25.6. */
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 25);
    p.max_rank = 24;
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 24);
    p.max_rank = 26;
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 25);
    p.multiple = 8;
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 24);
    p.multiple = 32;
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 0);
    /* The rank of the matrix: 40 x 1000 costs 0.416 bits a rank, x = 4 would allow 38; 8 x 1000 costs 2.016. */
    p = policy_of(FLRQ_RANK_ENERGY, 8, 4);
    assert_int_equal(flrq_rank_cap(&p, 40, 1000), 40); /* 32 / 0.416 = 76.9 */
    assert_int_equal(flrq_rank_cap(&p, 8, 1000), 8);   /* 32 / 2.016 = 15.9 */
    p.multiple = 16;
    assert_int_equal(flrq_rank_cap(&p, 40, 1000), 32);
    p = policy_of(FLRQ_RANK_R1FLR_BEST, 4, 0);
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 0);
    p = policy_of(FLRQ_RANK_R1FLR_BEST, 4, 4);
    p.max_rank = 0;
    assert_int_equal(flrq_rank_cap(&p, 1024, 1024), 0);
}

/* k > 1 + x rejects, so cost = x d is allowed: with x = 0.2 and m = n = 160 i the cap is exactly i d. */
static void cap_includes_its_bound(void **state) {
    static const int bits[] = {2, 3, 4, 8};
    for (int b = 0; b < 4; b++)
        for (int64_t i = 1; i <= 60; i++) {
            flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, bits[b], 0.2);
            int64_t cap = flrq_rank_cap(&p, 160 * i, 160 * i);
            if (cap != i * bits[b])
                fail_msg("%d bits, %lld square: cap %lld, want %lld", bits[b], (long long)(160 * i), (long long)cap,
                         (long long)(i * bits[b]));
        }
}

/* The fixed rank is held by the matrix and the multiple, not by x or max_rank. */
static void fixed(void **state) {
    flrq_rank_policy p = policy_of(FLRQ_RANK_FIXED, 4, 0.0);
    float amax[65];
    double sigma[64];
    for (int i = 0; i <= 64; i++) amax[i] = 1;
    for (int i = 0; i < 64; i++) sigma[i] = 1;
    p.max_rank = 3;
    for (int64_t rank = 0; rank <= 80; rank += 5) {
        p.fixed = rank;
        int64_t want = rank < 64 ? rank : 64;
        assert_int_equal(flrq_rank_cap(&p, 64, 100), want);
        assert_int_equal(flrq_rank_choose(&p, 64, 100, amax, sigma, 64, 64), want);
    }
    p.fixed = 40;
    assert_int_equal(flrq_rank_choose(&p, 64, 100, amax, sigma, 64, 17), 17); /* no more than there are */
    assert_int_equal(flrq_rank_choose(&p, 64, 100, amax, sigma, 64, 0), 0);
}

/* ---- Eq. 9 ------------------------------------------------------------------------------------------------------- */

/* k <= q and k <= 1 + x, as printed. `slack` widens the accepting side, so that +-slack brackets rounding. */
static int literal_accepts(int64_t m, int64_t n, int bits, double x, double w0, double wr, int64_t r, double slack) {
    double d = bits, mn = (double)m * (double)n;
    double k = 1 + 16 * (double)r * (double)(m + n) / (d * mn);
    double q = (d + log2(w0 / wr)) / d;
    return k <= q + slack && k <= 1 + x + slack;
}

static void accepts_by_hand(void **state) {
    flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, 4, 1);
    /* 32 x 32: one rank costs one bit, so it must halve amax; k = q is accepted. */
    float halves[3] = {1, 0.5f, 0.25f};
    assert_true(flrq_rank_accepts(&p, 32, 32, halves, 1));
    assert_true(flrq_rank_accepts(&p, 32, 32, halves, 2));
    float above[2] = {1, nextafterf(0.5f, 1)};
    assert_false(flrq_rank_accepts(&p, 32, 32, above, 1));
    float below[2] = {1, nextafterf(0.5f, 0)};
    assert_true(flrq_rank_accepts(&p, 32, 32, below, 1));
    /* 1024 x 1024: 2^-0.03125 = 0.978572. */
    float little[2] = {3.0f, 3.0f * 0.9785f}, less[2] = {3.0f, 3.0f * 0.9786f}, more[2] = {3.0f, 3.1f};
    assert_true(flrq_rank_accepts(&p, 1024, 1024, little, 1));
    assert_false(flrq_rank_accepts(&p, 1024, 1024, less, 1));
    assert_false(flrq_rank_accepts(&p, 1024, 1024, more, 1));
    /* methods.md: k = 1.008, q = 0.997 on 1024 x 1024 at 4 bits. */
    float prototype[2] = {1.0f, 1.0083f};
    assert_false(flrq_rank_accepts(&p, 1024, 1024, prototype, 1));
}

static void accepts_is_the_literal_rule(void **state) {
    static const int bits[] = {2, 3, 4, 8};
    static const int64_t sides[][2] = {{32, 32}, {64, 48}, {1024, 1024}, {11008, 4096}, {1, 700}, {5, 3}};
    int yes = 0, no = 0, marginal = 0;
    for (uint64_t i = 0; i < 20000; i++) {
        int64_t m = sides[i % 6][0], n = sides[i % 6][1];
        flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, bits[i / 6 % 4], 4);
        int64_t full = m < n ? m : n, limit = full < 40 ? full : 40;
        int64_t r = 1 + (int64_t)flrq_philox_below(1, 2, i, (uint64_t)limit);
        float amax[41];
        double gain = (double)flrq_philox_below(1, 3, i, 1000000) * 2e-6 * flrq_rank_cost(m, n) * (double)r;
        for (int64_t j = 0; j <= r; j++) amax[j] = 7.5f;
        amax[r] = (float)(7.5 * exp2(-gain));
        int strict = literal_accepts(m, n, p.bits, p.extra, amax[0], amax[r], r, -1e-12);
        int loose = literal_accepts(m, n, p.bits, p.extra, amax[0], amax[r], r, 1e-12);
        if (strict != loose) {
            marginal++;
            continue;
        }
        int got = flrq_rank_accepts(&p, m, n, amax, r) != 0;
        if (r > flrq_rank_cap(&p, m, n)) continue; /* r beyond the cap is never asked */
        if (got != strict)
            fail_msg("%lldx%lld %d bits r=%lld amax %a -> %a: accepts %d, k <= q %d", (long long)m, (long long)n,
                     p.bits, (long long)r, (double)amax[0], (double)amax[r], got, strict);
        *(got ? &yes : &no) += 1;
    }
    assert_true(yes > 4000 && no > 4000 && marginal < 100); /* the cases do test both answers */
}

/* Algorithm 1 over a given curve; a multiple u walks over u, 2u, ... */
static int64_t literal_greedy(const flrq_rank_policy *p, int64_t m, int64_t n, const float *amax, int64_t terms) {
    int64_t full = m < n ? m : n, best = 0;
    for (int64_t r = p->multiple; r <= terms && r <= full && r <= p->max_rank; r += p->multiple) {
        if (!literal_accepts(m, n, p->bits, p->extra, amax[0], amax[r], r, 0)) break;
        if (p->flat > 0 && r >= 4 && amax[r - 4] - amax[r] < p->flat * amax[0]) break;
        best = r;
    }
    return best;
}

/* argmax over 0, u, 2u, ... of gain(r) - cost(r), the smallest r of equals. gains[r] in bits. */
static int64_t literal_best(const flrq_rank_policy *p, int64_t m, int64_t n, const double *gains, int64_t terms) {
    int64_t full = m < n ? m : n, best = 0;
    double top = 0;
    for (int64_t r = p->multiple; r <= terms && r <= full && r <= p->max_rank; r += p->multiple) {
        double cost = 16.0 * (double)r * (double)(m + n) / ((double)m * (double)n);
        if (cost > p->extra * p->bits) break;
        if (gains[r] - cost > top) top = gains[r] - cost, best = r;
    }
    return best;
}

static void choose_is_the_definition(void **state) {
    enum { TERMS = 60 };
    static const int64_t sides[][2] = {{1024, 1024}, {700, 300}, {4096, 11008}, {100, 90}, {40, 2000}};
    static const int64_t multiples[] = {1, 1, 2, 4, 8, 7};
    static const double extras[] = {0.2, 0.5, 4, 0.05, 1};
    int64_t sum[3] = {0};
    for (uint64_t i = 0; i < 3000; i++) {
        int64_t m = sides[i % 5][0], n = sides[i % 5][1], terms = i % 7 == 0 ? 13 : TERMS;
        if (terms > n) terms = n;
        if (terms > m) terms = m;
        flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, (int)(2 + i % 3), extras[i / 5 % 5] + 1e-9);
        p.multiple = multiples[i % 6];
        if (i % 11 == 0) p.max_rank = 20;
        /* A curve that falls in steps and sometimes rises, a spectrum that falls. */
        float amax[TERMS + 1];
        double sigma[TERMS], norm2 = 0, range[TERMS + 1], energy[TERMS + 1];
        amax[0] = 2;
        for (int64_t r = 1; r <= TERMS; r++) {
            double u = (double)flrq_philox_below(i, 1, (uint64_t)r, 1 << 20) / (1 << 20);
            amax[r] = (float)(amax[r - 1] * (u < 0.5 ? 1 : u > 0.97 ? 1.01 : 0.92));
        }
        double fall = 0.5 + 0.5 * (double)flrq_philox_below(i, 2, 0, 1000) / 1000, value = 3;
        for (int64_t r = 0; r < TERMS; r++, value *= fall) sigma[r] = value, norm2 += value * value;
        norm2 += 0.5;
        double left = norm2;
        range[0] = energy[0] = 0;
        for (int64_t r = 1; r <= TERMS; r++) {
            left -= sigma[r - 1] * sigma[r - 1];
            range[r] = log2((double)amax[0] / amax[r]);
            energy[r] = 0.5 * log2(norm2 / left);
        }
        int64_t want[3] = {literal_greedy(&p, m, n, amax, terms), literal_best(&p, m, n, range, terms),
                           literal_best(&p, m, n, energy, terms)};
        for (int rule = 0; rule < 3; rule++) {
            p.rule = (flrq_rank_rule)rule;
            int64_t got = flrq_rank_choose(&p, m, n, amax, sigma, norm2, terms);
            if (got != want[rule])
                fail_msg("case %llu rule %d %lldx%lld multiple %lld extra %g: rank %lld, want %lld",
                         (unsigned long long)i, rule, (long long)m, (long long)n, (long long)p.multiple, p.extra,
                         (long long)got, (long long)want[rule]);
            sum[rule] += got;
        }
    }
    for (int rule = 0; rule < 3; rule++) assert_true(sum[rule] > 3000); /* not all zero */
}

/* The multiple belongs to the rule: amax falls at rank 3 only by enough for 3 ranks, at rank 4 for none more. */
static void multiple_inside_the_rule(void **state) {
    /* 320 x 320: 0.1 bits a rank. */
    float amax[9] = {1, 0.9f, 0.85f, 0.80f, 0.80f, 0.79f, 0.5f, 0.5f, 0.5f};
    double sigma[8] = {0}; /* not looked at */
    flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, 4, 0.25);
    /* needs: r=1 0.933, 2 0.871, 3 0.812, 4 0.758, 6 0.660 */
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 3);
    p.multiple = 2; /* 2 is accepted, 4 is not */
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 2);
    p.multiple = 4; /* rounding 3 up after the rule would give 4 */
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 0);
    p.multiple = 6; /* looks at 6 alone */
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 6);
    p.rule = FLRQ_RANK_R1FLR_BEST;
    for (p.multiple = 1; p.multiple <= 3; p.multiple++)
        assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 6);
    p.multiple = 4; /* 8: 1 - 0.8 = 0.2 bits; 4: 0.32 - 0.4 < 0 */
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 8), 8);
    assert_int_equal(flrq_rank_choose(&p, 320, 320, amax, sigma, 1, 7), 0);
}

/* A flat stretch stops the greedy rule although k <= q there; the best point behind it is found by r1flr-best. */
static void flat_stretch(void **state) {
    enum { TERMS = 24 };
    float amax[TERMS + 1] = {1, 0.5f, 0.25f, 0.125f, 0.0625f, 0.03125f, 0.015625f};
    for (int r = 7; r < 20; r++) amax[r] = amax[6];
    for (int r = 20; r <= TERMS; r++) amax[r] = 0x1p-20f;
    double sigma[TERMS] = {0}; /* not looked at */
    flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, 4, 1);
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 1, TERMS), TERMS); /* 0: off */
    p.flat = 0.01;
    /* amax[5] - amax[9] = 0.0156 >= 0.01; amax[6] - amax[10] = 0: rank 10 is rejected. */
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 1, TERMS), 9);
    assert_true(flrq_rank_accepts(&p, 1024, 1024, amax, 9));
    assert_false(flrq_rank_accepts(&p, 1024, 1024, amax, 10));
    p.rule = FLRQ_RANK_R1FLR_BEST;
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 1, TERMS), 20);
}

/* ---- energy, zeros ----------------------------------------------------------------------------------------------- */

static void energy_on_known_spectra(void **state) {
    /* 1024 x 1024, 0.03125 bits a rank: a term is worth taking when it lowers |T - T_r|^2 by more than the factor
     * 2^-0.0625 = 0.9576, i.e. holds more than 4.24 % of what is left. Twenty terms of 10 (2000), 1000 terms of 1:
     * the j-th big one holds 100 / (2000 - 100 (j - 1) + 1000) >= 3.3 %, growing to 9 %; a small one 0.1 %. All or
     * none: 0.5 log2(3000 / 1000) = 0.79 bits for 0.625. All. */
    enum { TERMS = 32 };
    double sigma[TERMS];
    float amax[TERMS + 1];
    for (int i = 0; i <= TERMS; i++) amax[i] = 1; /* not looked at */
    for (int i = 0; i < TERMS; i++) sigma[i] = i < 20 ? 10 : 1;
    flrq_rank_policy p = policy_of(FLRQ_RANK_ENERGY, 4, 1);
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 3000, TERMS), 20);
    /* Tail of 2400: 0.5 log2(4400 / 2400) = 0.437 bits for 0.625. None. */
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 4400, TERMS), 0);
    /* A flat spectrum is worth nothing. */
    for (int i = 0; i < TERMS; i++) sigma[i] = 1;
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 1024, TERMS), 0);
    /* sigma = 4, 3: everything after two terms; rounding may leave norm2 - sum slightly below zero. */
    double two[4] = {4, 3, 0, 0};
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, two, 25, 4), 2);
    double thirds[4] = {1.0 / 3, 0.1, 0, 0};
    assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, thirds, (1.0 / 9 + 0.01) * (1 - 1e-15), 4), 2);
}

static void zero_target(void **state) {
    float amax[9] = {0};
    double sigma[8] = {0};
    for (int rule = 0; rule < 3; rule++) {
        flrq_rank_policy p = policy_of((flrq_rank_rule)rule, 4, 4);
        assert_int_equal(flrq_rank_choose(&p, 64, 64, amax, sigma, 0, 8), 0);
        assert_int_equal(flrq_rank_choose(&p, 64, 64, amax, sigma, 0, 0), 0);
    }
    flrq_rank_policy p = policy_of(FLRQ_RANK_R1FLR, 4, 4);
    assert_false(flrq_rank_accepts(&p, 64, 64, amax, 1));
}

/* Nothing is left after three terms: no rule pays for a fourth. */
static void amax_reaches_zero(void **state) {
    float amax[9] = {1, 0.25f, 0.125f, 0, 0, 0, 0, 0, 0};
    double sigma[8] = {3, 2, 1};
    for (int rule = 0; rule < 3; rule++) {
        flrq_rank_policy p = policy_of((flrq_rank_rule)rule, 4, 4);
        assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 14, 8), 3);
        p.multiple = 2;
        assert_int_equal(flrq_rank_choose(&p, 1024, 1024, amax, sigma, 14, 8), 4);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cost_by_hand),
        cmocka_unit_test(cap_by_hand),
        cmocka_unit_test(cap_includes_its_bound),
        cmocka_unit_test(fixed),
        cmocka_unit_test(accepts_by_hand),
        cmocka_unit_test(accepts_is_the_literal_rule),
        cmocka_unit_test(choose_is_the_definition),
        cmocka_unit_test(multiple_inside_the_rule),
        cmocka_unit_test(flat_stretch),
        cmocka_unit_test(energy_on_known_spectra),
        cmocka_unit_test(zero_target),
        cmocka_unit_test(amax_reaches_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
