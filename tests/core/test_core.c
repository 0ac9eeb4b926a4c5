/* test_core.c - core: element types, Philox, ordered sums, error text, parallel tasks.
 *
 * The 16-bit conversions are checked against the compiler's own _Float16 where it has one, the generator against the
 * known-answer vectors of Random123, the tree against its recursive definition.
 */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <cmocka.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/philox.h"
#include "core/tree.h"

static uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Same bits, where any NaN equals any NaN. */
static void assert_same(float got, float want, const char *what, uint32_t input) {
    if (isnan(got) && isnan(want)) return;
    if (bits_of(got) == bits_of(want)) return;
    fail_msg("%s of %08x: got %a, want %a", what, input, (double)got, (double)want);
}

/* ---- dtype ------------------------------------------------------------------------------------------------------- */

static void dtype_table(void **state) {
    static const int bits[FLRQ_DTYPE_COUNT] = {32, 16, 16, 64, 8, 8, 8, 16, 16, 32, 32,
                                               64, 64, 8,  8,  8, 8, 8, 64, 4,  6,  6};
    for (int i = 0; i < FLRQ_DTYPE_COUNT; i++) {
        flrq_dtype parsed = FLRQ_DTYPE_COUNT;
        assert_true(flrq_dtype_parse(flrq_dtype_name((flrq_dtype)i), &parsed));
        assert_int_equal(parsed, i);
        assert_int_equal(flrq_dtype_bits((flrq_dtype)i), bits[i]);
        assert_int_equal(flrq_dtype_is_float((flrq_dtype)i), i <= FLRQ_BF16);
    }
    static const char *const unknown[] = {"", "f32", "F", "F32 ", "F16x", "BF", "F128"};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        flrq_dtype parsed;
        assert_false(flrq_dtype_parse(unknown[i], &parsed));
    }
}

/* Value of a 16-bit float from its definition: (1 + f / 2^F) 2^(e - bias), or f / 2^F 2^(1 - bias) when e = 0. */
static float by_definition(uint16_t half, int exponent_bits, int fraction_bits) {
    int exponent = half >> fraction_bits & ((1 << exponent_bits) - 1), bias = (1 << (exponent_bits - 1)) - 1;
    int fraction = half & ((1 << fraction_bits) - 1);
    float sign = half & 0x8000 ? -1.0f : 1.0f;
    if (exponent == (1 << exponent_bits) - 1) return fraction ? NAN : sign * INFINITY;
    int leading = exponent ? 1 << fraction_bits : 0;
    return sign * (float)ldexp(leading + fraction, (exponent ? exponent : 1) - bias - fraction_bits);
}

static void halves_to_float(void **state) {
    for (uint32_t i = 0; i < 65536; i++) {
        assert_same(flrq_f16_to_f32((uint16_t)i), by_definition((uint16_t)i, 5, 10), "f16_to_f32", i);
        assert_same(flrq_bf16_to_f32((uint16_t)i), by_definition((uint16_t)i, 8, 7), "bf16_to_f32", i);
        /* And back: every value that the type has comes back as itself. */
        float half = flrq_f16_to_f32((uint16_t)i), brain = flrq_bf16_to_f32((uint16_t)i);
        if (!isnan(half)) assert_int_equal(flrq_f32_to_f16(half), i);
        if (!isnan(brain)) assert_int_equal(flrq_f32_to_bf16(brain), i);
        if (isnan(half)) assert_true(isnan(flrq_f16_to_f32(flrq_f32_to_f16(half))));
        if (isnan(brain)) assert_true(isnan(flrq_bf16_to_f32(flrq_f32_to_bf16(brain))));
    }
}

/* Round to nearest even by search: `to` widens a code, codes of one sign are ordered like their values. */
static uint16_t nearest(float value, float (*to)(uint16_t), uint16_t infinity) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs((double)value);
    uint32_t low = 0, high = infinity; /* to(low) <= magnitude < to(high), with infinity as one ulp above the largest */
    double top = 2.0 * (double)to((uint16_t)(infinity - 1)) - (double)to((uint16_t)(infinity - 2));
    if (magnitude >= top) return sign | infinity;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        if ((double)to((uint16_t)middle) <= magnitude)
            low = middle;
        else
            high = middle;
    }
    double below = (double)to((uint16_t)low), above = high == infinity ? top : (double)to((uint16_t)high);
    double down = magnitude - below, up = above - magnitude;
    return sign | (uint16_t)(down < up || (down == up && low % 2 == 0) ? low : high);
}

/* Bit patterns that rounding gets wrong: every exponent with fractions around ties of both types, and random ones. */
static uint32_t hostile(uint32_t i) {
    static const uint32_t fractions[] = {0,        1,        0x000fff, 0x001000, 0x001001, 0x002fff,
                                         0x003000, 0x003001, 0x007fff, 0x008000, 0x008001, 0x017fff,
                                         0x018000, 0x018001, 0x3fffff, 0x400000, 0x400001, 0x7fdfff,
                                         0x7fe000, 0x7fefff, 0x7ff000, 0x7f7fff, 0x7f8000, 0x7fffff};
    enum { FRACTIONS = sizeof fractions / sizeof *fractions };
    if (i < 512 * FRACTIONS) return (i / FRACTIONS) << 23 | fractions[i % FRACTIONS];
    uint32_t w[4];
    flrq_philox(w, 99, 0, i);
    return w[0];
}
enum { HOSTILE = 300000 };

static void float_to_halves(void **state) {
    for (uint32_t i = 0; i < HOSTILE; i++) {
        uint32_t bits = hostile(i);
        float value = float_of(bits);
        if (isnan(value)) {
            assert_true(isnan(flrq_f16_to_f32(flrq_f32_to_f16(value))));
            assert_true(isnan(flrq_bf16_to_f32(flrq_f32_to_bf16(value))));
            continue;
        }
        uint16_t half = flrq_f32_to_f16(value), brain = flrq_f32_to_bf16(value);
        if (half != nearest(value, flrq_f16_to_f32, 0x7c00)) fail_msg("f32_to_f16 of %08x gives %04x", bits, half);
        if (brain != nearest(value, flrq_bf16_to_f32, 0x7f80)) fail_msg("f32_to_bf16 of %08x gives %04x", bits, brain);
#ifdef __FLT16_MAX__
        _Float16 native = (_Float16)value;
        uint16_t native_bits;
        memcpy(&native_bits, &native, sizeof native_bits);
        if (half != native_bits) fail_msg("f32_to_f16 of %08x gives %04x, _Float16 %04x", bits, half, native_bits);
#endif
    }
}

static void load_and_store(void **state) {
    static const flrq_dtype types[] = {FLRQ_F32, FLRQ_F16, FLRQ_BF16};
    uint32_t buffer[8];
    for (size_t t = 0; t < 3; t++) {
        memset(buffer, 0, sizeof buffer);
        for (int i = 0; i < 5; i++) flrq_store(buffer, types[t], i, (float)i - 2.5f);
        for (int i = 0; i < 5; i++) assert_true(flrq_load(buffer, types[t], i) == (float)i - 2.5f);
        assert_true(flrq_load(buffer, types[t], 5) == 0); /* not one element too far */
    }
}

static void round_scale(void **state) {
    for (uint32_t i = 0; i < HOSTILE; i++) {
        uint32_t bits = hostile(i);
        float scale = float_of(bits), rounded = flrq_round_scale(scale);
        if (isnan(scale)) {
            assert_true(isnan(rounded));
            continue;
        }
        /* Exact in both types, same sign, stable, and never zero unless it was. */
        assert_same(flrq_f16_to_f32(flrq_f32_to_f16(rounded)), rounded, "fp16 of round_scale", bits);
        assert_same(flrq_bf16_to_f32(flrq_f32_to_bf16(rounded)), rounded, "bf16 of round_scale", bits);
        assert_same(flrq_round_scale(rounded), rounded, "round_scale twice", bits);
        assert_int_equal(signbit(rounded) != 0, signbit(scale) != 0);
        assert_int_equal(rounded == 0, scale == 0);
        double magnitude = fabs((double)scale), error = fabs(fabs((double)rounded) - magnitude);
        if (magnitude >= 65280) {
            assert_true(fabsf(rounded) == 65280.0f);
        } else if (magnitude >= 0x1p-25) {
            /* Half a unit of 8 significant bits; in the fp16 subnormal range also half a unit of 2^-24. */
            double unit = ldexp(1, ilogb(magnitude) - 7);
            double bound = unit / 2 + (magnitude < 0x1p-14 ? 0x1p-25 : 0);
            if (!(error <= bound))
                fail_msg("round_scale of %a gives %a: error %g > %g", (double)scale, (double)rounded, error, bound);
        } else if (scale != 0) {
            assert_true(fabsf(rounded) == 0x1p-24f);
        }
    }
}

/* ---- philox ------------------------------------------------------------------------------------------------------ */

/* Known answers of philox4x32-10 in the Random123 distribution (kat_vectors): counter, key, result. */
static void philox_known_answers(void **state) {
    static const struct {
        uint32_t counter[4], key[2], want[4];
    } cases[] = {
        {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
         {0xffffffff, 0xffffffff},
         {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xa4093822, 0x299f31d0},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const uint32_t *c = cases[i].counter, *k = cases[i].key;
        uint32_t got[4];
        flrq_philox(got, (uint64_t)k[1] << 32 | k[0], (uint64_t)c[3] << 32 | c[2], (uint64_t)c[1] << 32 | c[0]);
        for (int j = 0; j < 4; j++) assert_int_equal(got[j], cases[i].want[j]);
    }
}

static void philox_key(void **state) {
    assert_true(flrq_philox_key(1, "a") != flrq_philox_key(1, "b"));
    assert_true(flrq_philox_key(1, "a") != flrq_philox_key(2, "a"));
    assert_true(flrq_philox_key(1, "a") == flrq_philox_key(1, "a"));
    assert_true(flrq_philox_key(0, "") == 0xef46db3751d8e999ULL); /* XXH64 of nothing */
}

static void philox_below(void **state) {
    enum { BOUND = 7, COUNT = 70000 };
    int64_t seen[BOUND] = {0};
    for (uint64_t i = 0; i < COUNT; i++) {
        uint64_t value = flrq_philox_below(5, 3, i, BOUND);
        assert_true(value < BOUND);
        seen[value]++;
    }
    /* Chi-square with 6 degrees of freedom: 40 has a probability of 4e-7; the seed is fixed. */
    double chi2 = 0, expected = (double)COUNT / BOUND;
    for (int i = 0; i < BOUND; i++) chi2 += ((double)seen[i] - expected) * ((double)seen[i] - expected) / expected;
    assert_true(chi2 < 40);
    assert_true(flrq_philox_below(5, 3, 11, 1) == 0);
    uint64_t high = 0;
    for (uint64_t i = 0; i < 64; i++) {
        uint64_t value = flrq_philox_below(5, 3, i, UINT64_MAX);
        assert_true(value < UINT64_MAX);
        high |= value;
    }
    assert_true(high >> 60 == 15); /* all of the range is used */
}

static void philox_normal(void **state) {
    enum { COUNT = 200000, PIECES = 300 };
    float *all = malloc(COUNT * sizeof *all), piece[64];
    assert_non_null(all);
    uint64_t far = (1ULL << 40) - 100; /* the block index crosses 2^32 * 2^6: the high counter word is in use */
    flrq_philox_normal(all, 42, 9, far, COUNT);
    for (int i = 0; i < PIECES; i++) {
        uint64_t start = flrq_philox_below(1, 1, (uint64_t)i, COUNT - 64), count = (uint64_t)i % 65;
        flrq_philox_normal(piece, 42, 9, far + start, count);
        assert_memory_equal(piece, all + start, count * sizeof *piece);
    }
    /* Moments of N(0, 1): standard errors are sqrt(1, 2, 15, 96) / sqrt(COUNT); 5 of them. */
    double m[5] = {0};
    for (int i = 0; i < COUNT; i++) {
        double z = (double)all[i];
        assert_true(isfinite(z));
        m[1] += z, m[2] += z * z, m[3] += z * z * z, m[4] += z * z * z * z;
    }
    static const double mean[5] = {0, 0, 1, 0, 3}, variance[5] = {0, 1, 2, 15, 96};
    for (int k = 1; k < 5; k++) assert_true(fabs(m[k] / COUNT - mean[k]) < 5 * sqrt(variance[k] / COUNT));
    /* Neighbours (sine and cosine of one pair) are independent. */
    double product = 0;
    for (int i = 0; i < COUNT; i += 2) product += (double)all[i] * (double)all[i + 1];
    assert_true(fabs(product / (COUNT / 2)) < 5 / sqrt(COUNT / 2));
    free(all);
}

/* ---- tree ----------------------------------------------------------------------------------------------------------
 */

/* The definition: node (level, i) = node (level-1, 2i) + node (level-1, 2i+1); an odd last node moves up unchanged. */
static float tree_by_definition(const float *parts, int count) {
    float nodes[256];
    memcpy(nodes, parts, (size_t)count * sizeof *nodes);
    for (; count > 1; count = (count + 1) / 2)
        for (int i = 0; i < (count + 1) / 2; i++)
            nodes[i] = 2 * i + 1 < count ? nodes[2 * i] + nodes[2 * i + 1] : nodes[2 * i];
    return count ? nodes[0] : 0;
}

static void tree_sums(void **state) {
    enum { WIDTH = 3 };
    float parts[WIDTH][256];
    for (int w = 0; w < WIDTH; w++) {
        flrq_philox_normal(parts[w], 3, (uint64_t)w, 0, 256);
        for (int i = 0; i < 256; i++) parts[w][i] *= exp2f((float)(i * 7 % 40)); /* the order of additions shows */
    }
    for (int count = 0; count <= 256; count++) {
        float memory[32][WIDTH], *buffers[32], sum[WIDTH];
        double memory64[32][WIDTH], *buffers64[32], sum64[WIDTH], exact[WIDTH] = {0}, size[WIDTH] = {0};
        int levels = flrq_tree_levels(count);
        assert_true(levels <= 32);
        for (int k = 0; k < 32; k++)
            buffers[k] = k < levels ? memory[k] : NULL, buffers64[k] = k < levels ? memory64[k] : NULL;
        flrq_tree tree = {0}, tree64 = {0};
        for (int i = 0; i < count; i++) {
            for (int w = 0; w < WIDTH; w++) {
                buffers[0][w] = parts[w][i], buffers64[0][w] = (double)parts[w][i];
                exact[w] += (double)parts[w][i];
                size[w] += fabs((double)parts[w][i]);
            }
            flrq_tree_push_f32(&tree, buffers, WIDTH);
            flrq_tree_push_f64(&tree64, buffers64, WIDTH);
        }
        flrq_tree_finish_f32(&tree, buffers, count % 2 ? buffers[0] : sum, WIDTH);
        if (count % 2) memcpy(sum, buffers[0], sizeof sum);
        flrq_tree_finish_f64(&tree64, buffers64, sum64, WIDTH);
        for (int w = 0; w < WIDTH; w++) {
            assert_same(sum[w], tree_by_definition(parts[w], count), "tree sum", (uint32_t)count);
            assert_true(fabs(sum64[w] - exact[w]) <= 256 * DBL_EPSILON * size[w]);
        }
    }
    /* Every row count that an operand may have fits the levels that callers reserve. */
    assert_true(flrq_tree_levels(INT32_MAX / 512 + 1) <= FLRQ_TREE_LEVELS + 2);
}

/* ---- error ---------------------------------------------------------------------------------------------------------
 */

static void *other_thread(void *arg) {
    assert_string_equal(flrq_last_error(), "");
    flrq_fail(FLRQ_ERR_IO, "in the other thread");
    return NULL;
}

static void error_text(void **state) {
    assert_int_equal(flrq_fail(FLRQ_ERR_SHAPE, "tensor %s: %d rows", "q", 3), FLRQ_ERR_SHAPE);
    assert_string_equal(flrq_last_error(), "tensor q: 3 rows");
    assert_int_equal(flrq_trace(FLRQ_ERR_SHAPE, "block %d", 7), FLRQ_ERR_SHAPE);
    assert_string_equal(flrq_last_error(), "block 7: tensor q: 3 rows");
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, other_thread, NULL), 0);
    pthread_join(thread, NULL);
    assert_string_equal(flrq_last_error(), "block 7: tensor q: 3 rows");
    errno = ENOENT;
    assert_int_equal(flrq_fail_errno(FLRQ_ERR_IO, "cannot open %s", "x"), FLRQ_ERR_IO);
    assert_string_equal(flrq_last_error(), "cannot open x: No such file or directory");
    assert_int_equal(flrq_fail_memory(123, "a test"), FLRQ_ERR_MEMORY);
    assert_string_equal(flrq_last_error(), "out of memory: 123 bytes wanted for a test");
    /* Texts longer than any buffer are cut, not overrun, also while unwinding. */
    char *text = malloc(10000);
    assert_non_null(text);
    memset(text, 'x', 9999);
    text[9999] = 0;
    flrq_fail(FLRQ_ERR_IO, "%s", text);
    size_t cut = strlen(flrq_last_error());
    assert_true(cut > 500 && cut < 9999);
    for (int i = 0; i < 50; i++) flrq_trace(FLRQ_ERR_IO, "%s", text);
    assert_int_equal(strlen(flrq_last_error()), cut);
    errno = EIO;
    flrq_fail_errno(FLRQ_ERR_IO, "%s", text);
    assert_int_equal(strlen(flrq_last_error()), cut);
    free(text);
}

static void status_names(void **state) {
    static const char *const names[] = {"ok",     "usage",       "io",   "format",  "shape",   "numeric",
                                        "memory", "unsupported", "busy", "quality", "stopped", "internal"};
    for (int i = 0; i < 12; i++) {
        assert_string_equal(flrq_status_name((flrq_status)i), names[i]);
        int code = flrq_exit_code((flrq_status)i);
        assert_int_equal(code, i == 0                  ? 0
                               : i == FLRQ_ERR_USAGE   ? 2
                               : i == FLRQ_ERR_QUALITY ? 3
                               : i == FLRQ_STOPPED     ? 75
                                                       : 1);
    }
    assert_string_equal(flrq_status_name((flrq_status)99), "unknown");
}

/* ---- parallel ------------------------------------------------------------------------------------------------------
 */

typedef struct cover {
    int seen[1000];
    int bad_thread, threads;
} cover;

static void cover_task(void *arg, int64_t index, int thread) {
    cover *c = arg;
    __atomic_add_fetch(&c->seen[index], 1, __ATOMIC_RELAXED);
    if (thread < 0 || thread >= c->threads) __atomic_store_n(&c->bad_thread, 1, __ATOMIC_RELAXED);
}

static void parallel_covers(void **state) {
    static const int64_t counts[] = {0, 1, 2, 5, 64, 1000};
    for (int threads = 1; threads <= 7; threads++)
        for (size_t k = 0; k < sizeof counts / sizeof *counts; k++) {
            static cover c;
            memset(&c, 0, sizeof c);
            c.threads = threads;
            flrq_parallel_for(threads, counts[k], cover_task, &c);
            for (int64_t i = 0; i < 1000; i++) assert_int_equal(c.seen[i], i < counts[k]);
            assert_int_equal(c.bad_thread, 0);
        }
    assert_true(flrq_hardware_threads() >= 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dtype_table),     cmocka_unit_test(halves_to_float), cmocka_unit_test(float_to_halves),
        cmocka_unit_test(load_and_store),  cmocka_unit_test(round_scale),     cmocka_unit_test(philox_known_answers),
        cmocka_unit_test(philox_key),      cmocka_unit_test(philox_below),    cmocka_unit_test(philox_normal),
        cmocka_unit_test(tree_sums),       cmocka_unit_test(error_text),      cmocka_unit_test(status_names),
        cmocka_unit_test(parallel_covers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
