/* test_quant_ops.c - clip_quantize, pack and unpack.
 *
 * The op cases on every face; answers worked out by hand; what must hold for any weights (scales, codes, errors that
 * never exceed round to nearest); the promise of the fast search against a full grid on many distributions; hostile
 * numbers; every refusal. Whatever is asked of one face is asked of both.
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

#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "backend/optable.h"
#include "core/dtype.h"
#include "core/philox.h"

static const char *const faces[] = {"cpu", "cpu-ref"};

static flrq_backend *open_backend(const char *name) {
    flrq_backend *be;
    if (flrq_backend_open(&be, name, 2) != FLRQ_OK) fail_msg("%s", flrq_last_error());
    return be;
}

static void op_cases(void **state) {
    assert_int_equal(op_table_test(&ops_quant, op_test_device()), 0);
}

/* ---- tools -------------------------------------------------------------------------------------------------- */

enum { MOST = 1 << 16 }; /* weights of a matrix below */

typedef struct result {
    flrq_codes codes;
    uint8_t code[MOST], zero[MOST];
    float scale[MOST];
    flrq_clip_stats stats;
} result;

static void quantize(flrq_backend *be, result *r, const float *w, int64_t rows, int64_t cols, const float *h,
                     flrq_scheme scheme, flrq_clip clip) {
    int64_t group = scheme.group ? scheme.group : cols;
    assert_true(rows * cols <= MOST);
    memset(r, 0xff, sizeof *r);
    r->codes = (flrq_codes){rows,
                            cols,
                            group,
                            (cols + group - 1) / group,
                            scheme.bits,
                            scheme.symmetric,
                            r->code,
                            r->scale,
                            scheme.symmetric ? NULL : r->zero};
    flrq_operand a = {.rows = rows, .cols = cols, .d_dense = w, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    if (be->clip_quantize(be, &r->codes, &a, h, &scheme, &clip, &r->stats) != FLRQ_OK)
        fail_msg("%s", flrq_last_error());
}

static double value(const result *r, int64_t i, int64_t j) {
    int64_t g = i * r->codes.n_groups + j / r->codes.group;
    double zero = r->codes.symmetric ? 1 << (r->codes.bits - 1) : r->zero[g];
    return (double)r->scale[g] * (r->code[i * r->codes.cols + j] - zero);
}

/* Error of group g of row i in double. */
static double group_error(const result *r, const float *w, const float *h, int64_t i, int64_t g) {
    int64_t cols = r->codes.cols, end = (g + 1) * r->codes.group < cols ? (g + 1) * r->codes.group : cols;
    double error = 0;
    for (int64_t j = g * r->codes.group; j < end; j++) {
        double e = (double)w[i * cols + j] - value(r, i, j);
        error += (h ? (double)h[j] : 1) * e * e;
    }
    return error;
}

static const flrq_clip none = {FLRQ_CLIP_NONE, FLRQ_CLIP_CLAMP, 1, 1, 0};
static const flrq_clip fast = {FLRQ_CLIP_FAST, FLRQ_CLIP_CLAMP, 1, 1, 0};

static flrq_clip grid(int steps, float min_ratio) {
    return (flrq_clip){FLRQ_CLIP_GRID, FLRQ_CLIP_CLAMP, steps, min_ratio, 0};
}

static flrq_scheme symmetric(int bits, int64_t group) {
    return (flrq_scheme){bits, 1, FLRQ_GRID_FULL, 0, group};
}

static flrq_scheme mirror(int bits, int64_t group) {
    return (flrq_scheme){bits, 1, FLRQ_GRID_MIRROR, 0, group};
}

static flrq_scheme asymmetric(int bits, int64_t group) {
    return (flrq_scheme){bits, 0, 0, 0, group};
}

/* ---- answers worked out by hand ----------------------------------------------------------------------------- */

static void expect(flrq_backend *be, const float *w, int64_t n, flrq_scheme scheme, flrq_clip clip, float scale,
                   int zero, const uint8_t *code, int64_t clipped) {
    static result r;
    quantize(be, &r, w, 1, n, NULL, scheme, clip);
    if (r.scale[0] != scale) fail_msg("%s: scale %.9g, expected %.9g", be->name, (double)r.scale[0], (double)scale);
    if (!scheme.symmetric) assert_int_equal(r.zero[0], zero);
    assert_memory_equal(r.code, code, (size_t)n);
    assert_int_equal(r.stats.clipped, clipped);
    assert_int_equal(r.stats.groups, 1);
}

static void known_answers(void **state) {
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        /* 8 / 7.5 = 1.0667 = 136.5 / 128, rounded to 137 / 128 = 1.0703; -8, 7, 3, 0.4 are -7.47, 6.54, 2.80, 0.37 of
         * it. */
        expect(be, (float[]){-8, 7, 3, 0.4f}, 4, symmetric(4, 32), none, 137 / 128.0f, 8, (uint8_t[]){1, 15, 11, 8}, 0);
        /* +8 is +7.47, the top level. */
        expect(be, (float[]){8, -8}, 2, symmetric(4, 32), none, 137 / 128.0f, 8, (uint8_t[]){15, 1}, 0);
        /* 8 / 7 = 146.3 / 128; -7.01, 6.14, 2.63, 0.35. */
        expect(be, (float[]){-8, 7, 3, 0.4f}, 4, mirror(4, 32), none, 146 / 128.0f, 8, (uint8_t[]){1, 14, 11, 8}, 0);
        /* Two bits: 3 / 1.5 = 2: levels -4, -2, 0, 2. -3 is -1.5, a tie that goes to the even -2; 3 is clipped to 1. */
        expect(be, (float[]){-3, 3, 0.9f, -1.1f}, 4, symmetric(2, 32), none, 2, 2, (uint8_t[]){0, 3, 2, 1}, 1);
        /* Ties at 0.5 and 1.5 of an asymmetric scale 1. */
        expect(be, (float[]){0, 3, 0.5f, 1.5f}, 4, asymmetric(2, 32), none, 1, 0, (uint8_t[]){0, 3, 0, 2}, 0);
        expect(be, (float[]){-1, 2, 0, 1}, 4, asymmetric(2, 32), none, 1, 1, (uint8_t[]){0, 3, 1, 2}, 0);
        /* All of one sign: the other end of the range is 0. */
        expect(be, (float[]){-15, -7.4f}, 2, asymmetric(4, 32), none, 1, 15, (uint8_t[]){0, 8}, 0);
        expect(be, (float[]){7.5f, 30}, 2, asymmetric(4, 32), none, 2, 0, (uint8_t[]){4, 15}, 0);
        /* A group of zeros. */
        expect(be, (float[]){0, -0.0f, 0}, 3, symmetric(3, 32), fast, 1, 4, (uint8_t[]){4, 4, 4}, 0);
        expect(be, (float[]){0, -0.0f, 0}, 3, asymmetric(4, 32), fast, 1, 0, (uint8_t[]){0, 0, 0}, 0);
        /* Two bits, 1.5 and seven times 0.5: at scale 1 the 0.5 are ties that go to 0, error 7 / 4 + 1 / 4 (1.5 to 1);
         * at ratio 0.5 the 0.5 are levels, error 1 for the clipped 1.5. */
        static const float steep[8] = {1.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
        expect(be, steep, 8, symmetric(2, 32), none, 1, 2, (uint8_t[]){3, 2, 2, 2, 2, 2, 2, 2}, 1);
        expect(be, steep, 8, symmetric(2, 32), grid(2, 0.5f), 0.5f, 2, (uint8_t[]){3, 3, 3, 3, 3, 3, 3, 3}, 1);
        /* The same with the largest set to zero: error 2.25 at ratio 0.5 is worse than 2 at ratio 1, where nothing is
         * cut. */
        flrq_clip cut = grid(2, 0.5f);
        cut.mode = FLRQ_CLIP_ZERO;
        expect(be, steep, 8, symmetric(2, 32), cut, 1, 2, (uint8_t[]){3, 2, 2, 2, 2, 2, 2, 2}, 0);
        /* Worth it with ten 0.5 (2.75 at ratio 1). */
        static const float steeper[11] = {1.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f, 0.5f};
        expect(be, steeper, 11, symmetric(2, 32), cut, 0.5f, 2, (uint8_t[]){2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3}, 1);
        /* A tie between ratios (zero error at scales 1 and 0.5 of three bits): the larger. */
        expect(be, (float[]){3, 1, -2}, 3, mirror(3, 32), grid(2, 0.5f), 1, 4, (uint8_t[]){7, 5, 2}, 0);
        flrq_backend_close(be);
    }
}

static void known_stream(void **state) {
    static const uint8_t code[11] = {0, 1, 2, 3, 4, 5, 6, 7, 1, 1, 7};
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        uint32_t packed[3];
        uint8_t back[11];
        /* Octal digits 76543210, then 1 and 1 at bits 24 and 27, and 7 at bit 30: two of its bits in this word. */
        assert_int_equal(be->pack(be, (int32_t *)packed, code, 1, 11, 3), FLRQ_OK);
        assert_true(packed[0] == (076543210u | 1u << 24 | 1u << 27 | 3u << 30) && packed[1] == 1);
        assert_int_equal(be->unpack(be, back, (int32_t *)packed, 1, 11, 3), FLRQ_OK);
        assert_memory_equal(back, code, 11);
        assert_int_equal(be->pack(be, (int32_t *)packed, code, 1, 11, 4), FLRQ_OK);
        assert_true(packed[0] == 0x76543210u && packed[1] == 0x711u);
        assert_int_equal(be->pack(be, (int32_t *)packed, code, 2, 3, 8), FLRQ_OK); /* each row fills its words */
        assert_true(packed[0] == 0x020100u && packed[1] == 0x050403u);
        static const uint8_t two[5] = {3, 0, 1, 2, 3};
        assert_int_equal(be->pack(be, (int32_t *)packed, two, 1, 5, 2), FLRQ_OK);
        assert_true(packed[0] == (3u | 0u << 2 | 1u << 4 | 2u << 6 | 3u << 8));
        flrq_backend_close(be);
    }
}

/* ---- what must hold for any weights ------------------------------------------------------------------------- */

typedef enum shape { GAUSS, LAPLACE, STUDENT, UNIFORM, OUTLIERS, SHAPES } shape;
static const char *const shape_names[] = {"Gaussian", "Laplace", "Student t4", "uniform", "1% outliers"};

static void fill(float *w, int64_t count, shape s, uint64_t stream) {
    static float z[6 * MOST];
    flrq_philox_normal(z, 11, stream, 0, (uint64_t)(6 * count));
    for (int64_t i = 0; i < count; i++) {
        const float *n = z + 6 * i;
        float square = n[1] * n[1] + n[2] * n[2];
        switch (s) {
        case GAUSS:
            w[i] = n[0];
            break;
        case LAPLACE:
            w[i] = n[0] * sqrtf(square);
            break; /* a normal times an independent Rayleigh */
        case STUDENT:
            w[i] = n[0] / sqrtf((square + n[3] * n[3] + n[4] * n[4]) / 4);
            break;
        case UNIFORM:
            w[i] = atan2f(n[0], n[1]);
            break;
        default:
            w[i] = fabsf(n[1]) > 2.576f ? 6 * n[0] : n[0];
        }
        w[i] *= 0.02f;
    }
}

/* Like mean squares of LLM activations: log-normal, 2 % of channels x100. */
static void fill_h(float *h, int64_t count) {
    flrq_philox_normal(h, 12, 0, 0, (uint64_t)count);
    for (int64_t j = 0; j < count; j++) h[j] = expf(0.7f * h[j]) * (j % 50 == 17 ? 100 : 1);
}

/* Errors are chosen by sums in fp32: at most 16 terms and 4 folds of a block (quant_search.h), 3 roundings of a term.
 */
static const double choice = 23 * OP_EPS32;

static void any_weights(void **state) {
    static float w[MOST], h[4096];
    static result r, nearest;
    static const int64_t groups[] = {32, 128, 100, 0};
    fill_h(h, 4096);
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        int64_t cols = 531, rows = f == 0 ? 24 : 3, round = 0;
        for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1)
            for (int kind = 0; kind < 4; kind++) /* symmetric, signed, mirror, asymmetric */
                for (int way = 0; way < 2; way++, round++) {
                    flrq_scheme scheme = kind == 3   ? asymmetric(bits, groups[round % 4])
                                         : kind == 2 ? mirror(bits, groups[round % 4])
                                                     : symmetric(bits, groups[round % 4]);
                    flrq_clip clip = way ? fast : grid(15, 0.4f);
                    const float *weights = round % 3 ? h : NULL;
                    clip.signed_scale = kind == 1;
                    fill(w, rows * cols, (shape)(round % SHAPES), (uint64_t)round);
                    quantize(be, &r, w, rows, cols, weights, scheme, clip);
                    quantize(be, &nearest, w, rows, cols, weights, scheme, none);
                    double total = 0;
                    int top = (1 << bits) - 1, low = kind == 2 ? 1 : 0;
                    for (int64_t i = 0; i < rows * cols; i++)
                        if (r.code[i] > top || r.code[i] < low) fail_msg("code %d at %d bits", r.code[i], bits);
                    for (int64_t i = 0; i < rows; i++)
                        for (int64_t g = 0; g < r.codes.n_groups; g++) {
                            float scale = r.scale[i * r.codes.n_groups + g];
                            double error = group_error(&r, w, weights, i, g);
                            double most = group_error(&nearest, w, weights, i, g);
                            if (flrq_f16_to_f32(flrq_f32_to_f16(scale)) != scale ||
                                flrq_bf16_to_f32(flrq_f32_to_bf16(scale)) != scale || scale == 0)
                                fail_msg("scale %.9g is not exact in 16 bits", (double)scale);
                            if (scale < 0 && kind != 1) fail_msg("negative scale in kind %d", kind);
                            if (kind == 3 && r.zero[i * r.codes.n_groups + g] > top)
                                fail_msg("zero point beyond %d", top);
                            if (!(error <= most * (1 + 2 * choice)))
                                fail_msg("%s %d bits kind %d way %d: error %g of a group, round to nearest %g",
                                         be->name, bits, kind, way, error, most);
                            total += error;
                        }
                    if (!(fabs(total - r.stats.weighted_error) <= choice * total))
                        fail_msg("stated error %g, real %g", r.stats.weighted_error, total);
                    assert_int_equal(r.stats.groups, rows * r.codes.n_groups);
                    assert_int_equal(r.stats.zero_groups, 0);
                    assert_true(r.stats.ratio_sum > 0 && r.stats.ratio_sum < 1.5 * (double)r.stats.groups);
                }
        flrq_backend_close(be);
    }
}

/* A row quantized alone, or as part of a matrix, is the same. */
static void rows_alone(void **state) {
    static float w[MOST], h[700];
    static result all, one;
    fill(w, 90 * 700, STUDENT, 5);
    fill_h(h, 700);
    flrq_backend *be = open_backend("cpu");
    quantize(be, &all, w, 90, 700, h, asymmetric(4, 64), fast);
    for (int64_t i = 0; i < 90; i++) {
        quantize(be, &one, w + i * 700, 1, 700, h, asymmetric(4, 64), fast);
        assert_memory_equal(one.code, all.code + i * 700, 700);
        assert_memory_equal(one.scale, all.scale + i * 11, 11 * sizeof *one.scale);
        assert_memory_equal(one.zero, all.zero + i * 11, 11);
    }
    flrq_backend_close(be);
}

/* ---- the fast search ---------------------------------------------------------------------------------------- */

/* Within 0.1 % of a grid of 100 ratios in total error, whatever the weights; a gain of more than 5 % over the grid on
 * the whole of the weighted cases of short groups is what the header of quant_search.h claims. */
static void fast_against_grid(void **state) {
    static float w[MOST], h[4096];
    static result by_grid, by_fast;
    static const int all_bits[] = {2, 3, 4, 8};
    static const float min_ratio[] = {0.2f, 0.3f, 0.4f, 0.8f};
    static const int64_t groups[] = {32, 64, 128, 0};
    flrq_backend *be = open_backend("cpu");
    fill_h(h, 4096);
    for (int b = 0; b < 4; b++)
        for (int g = 0; g < 4; g++) {
            double gain = 0;
            for (int kind = 0; kind < 3; kind++)
                for (int s = 0; s < SHAPES; s++)
                    for (int weighted = 0; weighted < 2; weighted++) {
                        flrq_scheme scheme = kind == 0   ? symmetric(all_bits[b], groups[g])
                                             : kind == 1 ? asymmetric(all_bits[b], groups[g])
                                                         : mirror(all_bits[b], groups[g]);
                        fill(w, 15 * 4096, (shape)s, (uint64_t)(100 + s));
                        quantize(be, &by_grid, w, 15, 4096, weighted ? h : NULL, scheme, grid(100, min_ratio[b]));
                        quantize(be, &by_fast, w, 15, 4096, weighted ? h : NULL, scheme, fast);
                        double ratio = by_fast.stats.weighted_error / by_grid.stats.weighted_error;
                        if (!(ratio <= 1.001))
                            fail_msg("%d bits, group %d, kind %d, %s, %s: fast / grid %.5f", all_bits[b],
                                     (int)groups[g], kind, shape_names[s], weighted ? "h" : "no h", ratio);
                        if (weighted) gain += (1 - ratio) / (3 * SHAPES);
                    }
            print_message("%d bits, group %lld, with h: fast search %.2f %% below the grid\n", all_bits[b],
                          (long long)groups[g], 100 * gain);
        }
    flrq_backend_close(be);
}

/* Weights that reach further on the positive side have their extra level there when the scale is negative. */
static void negative_scale(void **state) {
    static float w[MOST];
    static result plain, both;
    flrq_clip clip = fast;
    clip.signed_scale = 1;
    fill(w, 64 * 128, GAUSS, 9);
    for (int64_t i = 0; i < 64 * 128; i++) w[i] = fabsf(w[i]) - 0.004f;
    for (int f = 0; f < 2; f++)
        for (int bits = 2; bits <= 4; bits++) {
            flrq_backend *be = open_backend(faces[f]);
            quantize(be, &plain, w, 64, 128, NULL, symmetric(bits, 128), fast);
            quantize(be, &both, w, 64, 128, NULL, symmetric(bits, 128), clip);
            int negative = 0;
            for (int i = 0; i < 64; i++) negative += both.scale[i] < 0;
            if (!(negative > 32)) fail_msg("%d bits: %d of 64 scales are negative", bits, negative);
            if (!(both.stats.weighted_error < 0.97 * plain.stats.weighted_error))
                fail_msg("%d bits: error %g with both signs, %g without", bits, both.stats.weighted_error,
                         plain.stats.weighted_error);
            flrq_backend_close(be);
        }
}

/* FLRQ_CLIP_ZERO: in a group where some weight was cut, the codes of the cut ones are the zero point and no code that
 * is not has a weight as large; the clipped count says how many. */
static void cut_to_zero(void **state) {
    static float w[MOST];
    static result r;
    for (int f = 0; f < 2; f++)
        for (int asym = 0; asym < 2; asym++) {
            flrq_backend *be = open_backend(faces[f]);
            fill(w, 8 * 1024, GAUSS, 3);
            for (int64_t i = 0; i < 8 * 1024; i++) /* most weights on two levels: it pays to cut the others */
                if (i % 16) w[i] = i % 2 ? 0.01f : -0.01f;
            flrq_clip clip = {FLRQ_CLIP_GRID, FLRQ_CLIP_ZERO, 60, 0.1f, 0};
            quantize(be, &r, w, 8, 1024, NULL, asym ? asymmetric(2, 64) : symmetric(2, 64), clip);
            int64_t cut = 0;
            for (int64_t g = 0; g < 8 * 16; g++) {
                float largest_kept = 0, smallest_cut = FLT_MAX;
                for (int64_t j = g * 64; j < g * 64 + 64; j++) {
                    double q = r.code[j] - (asym ? r.zero[g] : 2);
                    float size = fabsf(w[j]);
                    if (q != 0) {
                        largest_kept = size > largest_kept ? size : largest_kept;
                    } else if (size > fabsf(r.scale[g])) { /* nothing rounds to zero from beyond one step */
                        cut++;
                        smallest_cut = size < smallest_cut ? size : smallest_cut;
                    }
                }
                if (!asym && !(largest_kept < smallest_cut))
                    fail_msg("kept %g, cut %g", (double)largest_kept, (double)smallest_cut);
            }
            assert_true(cut > 0 && r.stats.clipped >= cut);
            flrq_backend_close(be);
        }
}

/* ---- hostile numbers ---------------------------------------------------------------------------------------- */

static void hostile_numbers(void **state) {
    static float w[512], h[512], big[512];
    static result r, ref;
    flrq_backend *be = open_backend("cpu"), *judge = open_backend("cpu-ref");
    static const float sizes[] = {1e-45f, 1e-40f, 1e-30f, 6e-8f, 6e-5f, 60000, 65504, 1e6f, 1e18f, 1e30f, FLT_MAX};
    fill_h(h, 512);
    for (int64_t j = 0; j < 512; j++) big[j] = ldexpf(h[j], (int)(j % 160) - 80);
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1)
            for (int kind = 0; kind < 8; kind++) {
                flrq_scheme scheme = kind % 2 ? asymmetric(bits, 100) : symmetric(bits, 100);
                flrq_clip clip = kind / 2 % 2 ? fast : grid(9, 0.5f);
                clip.signed_scale = k % 2 != 0;
                clip.mode = kind / 4 ? FLRQ_CLIP_ZERO : FLRQ_CLIP_CLAMP;
                fill(w, 512, GAUSS, k);
                for (int64_t j = 0; j < 512; j++) w[j] = tanhf(50 * w[j]) * sizes[k];
                w[3] = sizes[k];
                w[4] = -sizes[k];
                quantize(be, &r, w, 1, 512, big, scheme, clip);
                quantize(judge, &ref, w, 1, 512, big, scheme, clip);
                assert_memory_equal(r.code, ref.code, 512);
                assert_memory_equal(r.scale, ref.scale, 6 * sizeof *r.scale);
                if (kind % 2) assert_memory_equal(r.zero, ref.zero, 6);
                assert_int_equal(r.stats.clipped, ref.stats.clipped);
                for (int64_t j = 0; j < 512; j++)
                    if (!isfinite(value(&r, 0, j)) || r.code[j] >> bits) fail_msg("size %g", (double)sizes[k]);
                /* The largest scale is 65280, the smallest 2^-24. */
                for (int g = 0; g < 6; g++) assert_true(fabsf(r.scale[g]) <= 65280 && fabsf(r.scale[g]) >= 0x1p-24f);
            }
    /* Columns that do not count: a group without any that counts is rounded to nearest; a single one is met exactly
     * well. */
    fill(w, 512, GAUSS, 77);
    memset(h, 0, sizeof h);
    for (int bits = 2; bits <= 4; bits++) {
        quantize(be, &r, w, 4, 128, h, symmetric(bits, 128), fast);
        quantize(be, &ref, w, 4, 128, h, symmetric(bits, 128), none);
        assert_memory_equal(r.code, ref.code, 512);
        assert_true(r.stats.weighted_error == 0 && r.stats.weighted_norm == 0);
        h[9] = 3;
        quantize(be, &r, w, 4, 128, h, symmetric(bits, 128), fast);
        for (int64_t i = 0; i < 4; i++) { /* a level can lie anywhere: the scale is rounded to 8 bits */
            double e = fabs((double)w[i * 128 + 9] - value(&r, i, 9));
            if (!(e <= 0x1p-8 * fabs((double)w[i * 128 + 9]))) fail_msg("%d bits: error %g", bits, e);
        }
        h[9] = 0;
    }
    flrq_backend_close(be);
    flrq_backend_close(judge);
}

/* ---- refusals ----------------------------------------------------------------------------------------------- */

typedef struct request {
    flrq_codes codes;
    flrq_operand a;
    flrq_scheme scheme;
    flrq_clip clip;
} request;

static uint8_t some_code[64], some_zero[8];
static float some_scale[8];
static const float some_w[64] = {1};

static request good(void) {
    return (request){{2, 32, 32, 1, 4, 0, some_code, some_scale, some_zero},
                     {.rows = 2, .cols = 32, .d_dense = some_w, .ld_dense = 32, .dense_dtype = FLRQ_F32},
                     asymmetric(4, 32),
                     grid(3, 0.5f)};
}

static void refused(flrq_backend *be, const request *r, flrq_status expected, const char *word) {
    flrq_codes codes = r->codes;
    flrq_status status = be->clip_quantize(be, &codes, &r->a, NULL, &r->scheme, &r->clip, NULL);
    if (status != expected || !strstr(flrq_last_error(), word))
        fail_msg("%s: status %d, \"%s\"; expected %d with \"%s\"", be->name, (int)status, flrq_last_error(),
                 (int)expected, word);
}

#define REFUSED(change, status, word)                                                                                  \
    do {                                                                                                               \
        request r = good();                                                                                            \
        change;                                                                                                        \
        refused(be, &r, status, word);                                                                                 \
    } while (0)

static void refusals(void **state) {
    for (int f = 0; f < 2; f++) {
        flrq_backend *be = open_backend(faces[f]);
        request ok = good();
        assert_int_equal(be->clip_quantize(be, &ok.codes, &ok.a, NULL, &ok.scheme, &ok.clip, NULL), FLRQ_OK);
        REFUSED(r.scheme.bits = r.codes.bits = 5, FLRQ_ERR_SHAPE, "5 bits");
        REFUSED(r.scheme.bits = r.codes.bits = 0, FLRQ_ERR_SHAPE, "0 bits");
        REFUSED(r.codes.bits = 3, FLRQ_ERR_SHAPE, "3 bits");
        REFUSED(r.codes.rows = 3, FLRQ_ERR_SHAPE, "3 x 32");
        REFUSED(r.codes.cols = 31, FLRQ_ERR_SHAPE, "2 x 31");
        REFUSED(r.codes.group = 16, FLRQ_ERR_SHAPE, "16");
        REFUSED(r.codes.n_groups = 2, FLRQ_ERR_SHAPE, "2 groups");
        REFUSED(r.scheme.group = -1, FLRQ_ERR_SHAPE, "groups of -1");
        REFUSED(r.codes.symmetric = 1, FLRQ_ERR_SHAPE, "asymmetric");
        REFUSED(r.codes.zero = NULL, FLRQ_ERR_SHAPE, "zero points");
        REFUSED((r.scheme.symmetric = r.codes.symmetric = 1, r.scheme.grid = 2), FLRQ_ERR_USAGE, "grid 2");
        REFUSED(r.clip.search = (flrq_clip_search)3, FLRQ_ERR_USAGE, "search 3");
        REFUSED(r.clip.mode = (flrq_clip_mode)2, FLRQ_ERR_USAGE, "mode 2");
        REFUSED(r.clip.steps = 0, FLRQ_ERR_USAGE, "0 steps");
        REFUSED(r.clip.steps = 10001, FLRQ_ERR_USAGE, "10001 steps");
        REFUSED(r.clip.min_ratio = 0, FLRQ_ERR_USAGE, "ratio 0");
        REFUSED(r.clip.min_ratio = 1.5f, FLRQ_ERR_USAGE, "ratio 1.5");
        REFUSED(r.clip.min_ratio = NAN, FLRQ_ERR_USAGE, "ratio");
        REFUSED(r.a.ld_dense = 31, FLRQ_ERR_SHAPE, "31");
        REFUSED(r.a.dense_dtype = FLRQ_I8, FLRQ_ERR_UNSUPPORTED, "dense");
        int32_t packed[16];
        assert_int_equal(be->pack(be, packed, some_code, 1, 8, 5), FLRQ_ERR_SHAPE);
        assert_int_equal(be->pack(be, packed, some_code, -1, 8, 4), FLRQ_ERR_SHAPE);
        assert_int_equal(be->unpack(be, some_code, packed, 1, INT64_MAX / 4, 4), FLRQ_ERR_SHAPE);
        assert_int_equal(be->unpack(be, some_code, packed, INT64_MAX / 4, 8, 4), FLRQ_ERR_SHAPE);
        /* Nothing to do is no fault. */
        flrq_clip_stats stats = {1, 1, 1, 1, 1, 1};
        request empty = good();
        empty.codes.rows = empty.a.rows = 0;
        assert_int_equal(be->clip_quantize(be, &empty.codes, &empty.a, NULL, &empty.scheme, &empty.clip, &stats),
                         FLRQ_OK);
        assert_true(stats.groups == 0 && stats.weighted_error == 0);
        empty = good();
        empty.codes.cols = empty.a.cols = empty.codes.n_groups = 0;
        assert_int_equal(be->clip_quantize(be, &empty.codes, &empty.a, NULL, &empty.scheme, &empty.clip, &stats),
                         FLRQ_OK);
        assert_int_equal(be->pack(be, packed, some_code, 0, 8, 4), FLRQ_OK);
        assert_int_equal(be->unpack(be, some_code, packed, 3, 0, 3), FLRQ_OK);
        flrq_backend_close(be);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_cases),       cmocka_unit_test(known_answers), cmocka_unit_test(known_stream),
        cmocka_unit_test(any_weights),    cmocka_unit_test(rows_alone),    cmocka_unit_test(fast_against_grid),
        cmocka_unit_test(negative_scale), cmocka_unit_test(cut_to_zero),   cmocka_unit_test(hostile_numbers),
        cmocka_unit_test(refusals),
    };
    /* What is written by hand hands host memory to the ops. */
    const struct CMUnitTest device[] = {cmocka_unit_test(op_cases)};
    if (strcmp(op_test_device(), "cpu") != 0) return cmocka_run_group_tests(device, NULL, NULL);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
