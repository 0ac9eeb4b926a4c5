/* ops_quant.c - op cases of quantization: clip_quantize, pack, unpack.
 *
 * From a dense operand the reference and every face must choose the same bytes. An operand with codes or factors is
 * formed in fp32 on the fast faces and in double by the reference, so a weight may round the other way: there the
 * errors are compared, each face's codes must have the error that the face states, and must be the bytes that the same
 * face chooses for the matrix as it evaluates it. So a difference is one of the evaluation (which the cases of
 * materialize judge), never of the search.
 *
 * Tolerances. Statistics of equal choices are equal terms added in another order in double: 1e-12. A stated error
 * against one computed in double: every weight passes at most 16 fused additions and 4 folds in fp32 (quant_search.h)
 * and its own error term carries 3 roundings: 23 eps. Errors of operands that differ by a relative d = eps sqrt(4 +
 * rank): E = |e|^2 moves by 2 |e| d |w|, that is by 2 d |w| / |e| of itself, and |w| / |e| is below 400 at 8 bits, 30
 * below; a scale that rounds the other way (a change of 2^-8 at its optimum) is rarer than that effect is large. Ten
 * times this sum is allowed.
 */
#include <math.h>
#include <string.h>

#include "cases/opcase.h"
#include "backend/quant_search.h"

typedef struct quant_case {
    op_matrix m;
    flrq_scheme scheme;
    flrq_clip clip;
    int weighted; /* 1: log-normal h with an outlier every 37 columns, 2: and every fifth h zero,
                     3: and two of three zero */
    float size;   /* the dense part, fp32, has normals times this; 0: as op_operand() has it */
} quant_case;

static float *weights(op_run *r, const quant_case *q) {
    if (!q->weighted) return NULL;
    float *h = op_temp(r, (size_t)q->m.cols * sizeof *h);
    op_random(r, h, q->m.cols, 0.7f, 1000);
    for (int64_t j = 0; j < q->m.cols; j++) {
        h[j] = expf(h[j]) * (j % 37 == 5 ? 100.0f : 1.0f);
        if (q->weighted == 2 && j % 5 == 0) h[j] = 0;
        if (q->weighted == 3 && j % 3 != 0) h[j] = 0;
    }
    return op_in(r, "h", OP_F32, h, q->m.cols);
}

/* The error that codes really have, in double. */
static double true_error(op_run *r, const flrq_codes *codes, const flrq_operand *a, const float *d_h) {
    int64_t n = a->rows * a->cols, groups = a->rows * codes->n_groups;
    float *w = op_temp(r, (size_t)n * sizeof *w), *scale = op_temp(r, (size_t)groups * sizeof *scale);
    float *h = op_temp(r, (size_t)a->cols * sizeof *h);
    uint8_t *code = op_temp(r, (size_t)n), *zero = op_temp(r, (size_t)groups);
    float *d_w = op_scratch(r, OP_F32, n);
    if (r->be->materialize(r->be, d_w, a) != FLRQ_OK) return NAN;
    op_get(r, w, d_w, (size_t)n * sizeof *w);
    op_get(r, scale, codes->scale, (size_t)groups * sizeof *scale);
    op_get(r, code, codes->code, (size_t)n);
    if (codes->zero) op_get(r, zero, codes->zero, (size_t)groups);
    if (d_h) op_get(r, h, d_h, (size_t)a->cols * sizeof *h);
    double error = 0;
    for (int64_t i = 0; i < a->rows; i++)
        for (int64_t j = 0; j < a->cols; j++) {
            int64_t g = i * codes->n_groups + j / codes->group;
            double z = codes->zero ? zero[g] : 1 << (codes->bits - 1);
            double e = (double)w[i * a->cols + j] - (double)scale[g] * (code[i * a->cols + j] - z);
            error += (d_h ? (double)h[j] : 1) * e * e;
        }
    return error;
}

/* Codes, scales and zero points that are not those of the evaluated matrix. */
static double differing(op_run *r, const flrq_codes *codes, const flrq_operand *a, const float *h,
                        const quant_case *q) {
    size_t n = (size_t)(a->rows * a->cols), groups = (size_t)(a->rows * codes->n_groups), count = 0;
    flrq_codes again = *codes;
    float *w = op_scratch(r, OP_F32, a->rows * a->cols);
    again.code = op_scratch(r, OP_U8, a->rows * a->cols);
    again.scale = op_scratch(r, OP_F32, a->rows * codes->n_groups);
    if (codes->zero) again.zero = op_scratch(r, OP_U8, a->rows * codes->n_groups);
    flrq_operand dense = {.rows = a->rows, .cols = a->cols, .d_dense = w, .ld_dense = a->cols, .dense_dtype = FLRQ_F32};
    OP_CALL(r, materialize, w, a);
    OP_CALL(r, clip_quantize, &again, &dense, h, &q->scheme, &q->clip, NULL);
    uint8_t *bytes[2] = {op_temp(r, n), op_temp(r, n)}, *zeros[2] = {op_temp(r, groups), op_temp(r, groups)};
    float *scales[2] = {op_temp(r, groups * sizeof **scales), op_temp(r, groups * sizeof **scales)};
    for (int k = 0; k < 2; k++) {
        const flrq_codes *from = k ? &again : codes;
        op_get(r, bytes[k], from->code, n);
        op_get(r, scales[k], from->scale, groups * sizeof **scales);
        if (from->zero) op_get(r, zeros[k], from->zero, groups);
    }
    for (size_t i = 0; i < n; i++) count += bytes[0][i] != bytes[1][i];
    for (size_t g = 0; g < groups; g++)
        count += memcmp(&scales[0][g], &scales[1][g], sizeof **scales) != 0 || zeros[0][g] != zeros[1][g];
    return (double)count;
}

/* fp32 instructions per weight that the definition asks for, two flops each, so that their floor is that of as many
 * multiply-adds. A trial by fit: fma, min, sub, h q, two fma. An error: fma, min, max, sub, fma, h e, fma; two compares
 * and a choice more where weights are cut. Range and norm: max, h w, fma. Codes: fma, min, max, add, store. */
static double search_flops(const quant_case *q) {
    bool cut = q->clip.mode == FLRQ_CLIP_ZERO, fast = q->clip.search == FLRQ_CLIP_FAST;
    quant_plan plan = quant_plan_of(q->scheme.bits, q->scheme.group ? q->scheme.group : q->m.cols, cut);
    int h = q->weighted != 0, both_signs = quant_signed(&q->scheme, &q->clip), ratios = fast ? plan.first : 0;
    if (q->clip.search == FLRQ_CLIP_GRID) ratios = q->clip.steps;
    bool fits = fast && plan.second > 0;
    double trials = fits ? plan.first * quant_variants(&q->scheme, &q->clip) + plan.second : 0;
    double errors = fits ? 2 : 1 + ratios * (1 + both_signs);
    return 2 * (trials * (5 + h) + errors * (6 + h + (cut ? 3 : 0)) + 2 + h + 5);
}

static void run_clip_quantize(op_run *r, const op_case *c) {
    const quant_case *q = c->extra;
    flrq_operand a = op_operand(r, &q->m);
    if (q->size > 0) {
        float *w = op_temp(r, (size_t)(a.rows * a.cols) * sizeof *w);
        op_random(r, w, a.rows * a.cols, q->size, 1001);
        a.d_dense = op_in(r, "w", OP_F32, w, a.rows * a.cols);
    }
    bool exact = q->m.rank == 0 && q->m.bits == 0;
    int64_t group = q->scheme.group ? q->scheme.group : a.cols, groups = (a.cols + group - 1) / group,
            n = a.rows * a.cols;
    op_compare how = exact ? OP_EXACT : OP_ANY;
    double ratio = q->scheme.bits == 8 ? 400 : 30, moved = 10 * 2 * OP_EPS32 * sqrt(4 + (double)q->m.rank) * ratio;
    const float *h = weights(r, q);
    flrq_codes out = {.rows = a.rows,
                      .cols = a.cols,
                      .group = group,
                      .n_groups = groups,
                      .bits = q->scheme.bits,
                      .symmetric = q->scheme.symmetric,
                      .code = op_out(r, "code", OP_U8, n, how, 0),
                      .scale = op_out(r, "scale", OP_F32, a.rows * groups, how, 0),
                      .zero = q->scheme.symmetric ? NULL : op_out(r, "zero", OP_U8, a.rows * groups, how, 0)};
    double *sums = op_host_out(r, "error, norm, ratios", OP_F64, 3, OP_EACH, exact ? 1e-12 : moved);
    int64_t *counts = op_host_out(r, "clipped, zero groups, groups", OP_I64, 3, exact ? OP_EXACT : OP_ANY, 0);
    flrq_clip_stats stats = {0};
    op_cost(r, op_operand_bytes(&q->m) + (double)n + 4 * (double)(a.rows * groups),
            (double)n * (search_flops(q) + 2 * (double)q->m.rank));
    OP_CALL(r, clip_quantize, &out, &a, h, &q->scheme, &q->clip, &stats);
    memcpy(sums, (double[]){stats.weighted_error, stats.weighted_norm, stats.ratio_sum}, 3 * sizeof *sums);
    memcpy(counts, (int64_t[]){stats.clipped, stats.zero_groups, stats.groups}, 3 * sizeof *counts);
    if (!op_ok(r)) return;
    double stated = stats.weighted_error, real = true_error(r, &out, &a, h);
    bool normal = q->size == 0 || q->size > 1e-10f; /* else fp32 has no bits left for the squares of errors */
    if (normal)
        op_expect(r, "error of the codes", fabs(real - stated) / (stated > 0 ? stated : 1),
                  23 * OP_EPS32 + (exact ? 0 : moved / 10));
    if (!exact) op_expect(r, "bytes that are not those of the evaluated matrix", differing(r, &out, &a, h, q), 0);
    op_expect(r, "groups", fabs((double)(stats.groups - a.rows * groups)), 0);
}

static void run_pack(op_run *r, const op_case *c) {
    int64_t rows = c->d[0], cols = c->d[1], bits = c->d[2], words = (cols * bits + 31) / 32;
    uint8_t *code = op_temp(r, (size_t)(rows * cols));
    for (int64_t i = 0; i < rows * cols; i++) code[i] = (uint8_t)((i * 2654435761u >> 7) & ((1 << bits) - 1));
    uint8_t *d_code = op_in(r, "code", OP_U8, code, rows * cols);
    int32_t *d_packed = op_out(r, "packed", OP_I32, rows * words, OP_EXACT, 0);
    op_cost(r, (double)(rows * cols) + 4 * (double)(rows * words), 0);
    OP_CALL(r, pack, d_packed, d_code, rows, cols, (int)bits);
}

static void run_unpack(op_run *r, const op_case *c) {
    int64_t rows = c->d[0], cols = c->d[1], bits = c->d[2], words = (cols * bits + 31) / 32;
    int32_t *packed = op_temp(r, (size_t)(rows * words) * sizeof *packed);
    for (int64_t i = 0; i < rows * words; i++) packed[i] = (int32_t)(uint32_t)(i * 2654435761u);
    int32_t *d_packed = op_in(r, "packed", OP_I32, packed, rows * words);
    uint8_t *d_code = op_out(r, "code", OP_U8, rows * cols, OP_EXACT, 0);
    op_cost(r, (double)(rows * cols) + 4 * (double)(rows * words), 0);
    OP_CALL(r, unpack, d_code, d_packed, rows, cols, (int)bits);
}

/* ---- cases -------------------------------------------------------------------------------------------------- */

#define SYM(bits, group)                                                                                               \
    { bits, 1, FLRQ_GRID_FULL, 0, group }
#define MIRROR(bits, group)                                                                                            \
    { bits, 1, FLRQ_GRID_MIRROR, 0, group }
#define ASYM(bits, group)                                                                                              \
    { bits, 0, 0, 0, group }
#define NONE                                                                                                           \
    { FLRQ_CLIP_NONE, FLRQ_CLIP_CLAMP, 1, 1, 0 }
#define GRID(steps)                                                                                                    \
    { FLRQ_CLIP_GRID, FLRQ_CLIP_CLAMP, steps, 0.3f, 0 }
#define FAST                                                                                                           \
    { FLRQ_CLIP_FAST, FLRQ_CLIP_CLAMP, 1, 1, 0 }
#define SIGNED(search)                                                                                                 \
    { search, FLRQ_CLIP_CLAMP, 19, 0.4f, 1 }
#define ZERO(search)                                                                                                   \
    { search, FLRQ_CLIP_ZERO, 21, 0.5f, 0 }
#define F32(rows, cols)                                                                                                \
    { rows, cols, .dense = "F32" }
#define CASE(shape, use, ...)                                                                                          \
    {                                                                                                                  \
        "clip_quantize", shape, {0}, run_clip_quantize, use, &(const quant_case) {                                     \
            __VA_ARGS__                                                                                                \
        }                                                                                                              \
    }
#define T(shape, ...) CASE(shape, OP_TEST, __VA_ARGS__)
#define B(shape, ...) CASE(shape, OP_BENCH, __VA_ARGS__)
#define P(shape, m, n, b, uses)                                                                                        \
    {"pack", shape, {m, n, b}, run_pack, uses}, {                                                                      \
        "unpack", shape, {m, n, b}, run_unpack, uses                                                                   \
    }

static const op_case cases[] = {
    T("1x1 sym4", F32(1, 1), SYM(4, 32), FAST, 0),
    T("3x2 asym2 g1", F32(3, 2), ASYM(2, 1), FAST, 1),
    T("5x31 sym4 g32 none", F32(5, 31), SYM(4, 32), NONE, 0),
    T("5x33 asym4 g32 none h", F32(5, 33), ASYM(4, 32), NONE, 1),
    T("7x128 sym2 g128 h", F32(7, 128), SYM(2, 128), FAST, 1),
    T("7x130 sym3 g64 h, holes", F32(7, 130), SYM(3, 64), FAST, 2),
    T("40x600 sym2 g3, a column each", F32(40, 600), SYM(2, 3), FAST, 3),
    T("40x600 asym3 g3, a column each", F32(40, 600), ASYM(3, 3), FAST, 3),
    T("33x385 sym4 g128 h", F32(33, 385), SYM(4, 128), FAST, 1),
    T("33x385 sym4 g128", F32(33, 385), SYM(4, 128), FAST, 0),
    T("9x300 sym8 g128 h", F32(9, 300), SYM(8, 128), FAST, 1),
    T("9x300 asym8 g100", F32(9, 300), ASYM(8, 100), FAST, 0),
    T("9x257 asym2 g32", F32(9, 257), ASYM(2, 32), FAST, 0),
    T("9x257 asym3 g48 h", F32(9, 257), ASYM(3, 48), FAST, 1),
    T("9x1100 asym4 g64 h", F32(9, 1100), ASYM(4, 64), FAST, 1),
    T("9x200 mirror2 g32 h", F32(9, 200), MIRROR(2, 32), FAST, 1),
    T("9x200 mirror4 g128", F32(9, 200), MIRROR(4, 128), FAST, 0),
    T("9x400 sym2 g64 signed h", F32(9, 400), SYM(2, 64), SIGNED(FLRQ_CLIP_FAST), 1),
    T("9x400 sym4 g96 signed", F32(9, 400), SYM(4, 96), SIGNED(FLRQ_CLIP_FAST), 0),
    T("9x400 sym8 g32 signed h", F32(9, 400), SYM(8, 32), SIGNED(FLRQ_CLIP_FAST), 1),
    T("9x400 sym3 g32 signed grid h", F32(9, 400), SYM(3, 32), SIGNED(FLRQ_CLIP_GRID), 1),
    T("5x200 sym4 g32 grid 1", F32(5, 200), SYM(4, 32), GRID(1), 0),
    T("5x200 sym4 g32 grid 100 h", F32(5, 200), SYM(4, 32), GRID(100), 1),
    T("5x200 asym2 g64 grid 17", F32(5, 200), ASYM(2, 64), GRID(17), 0),
    T("5x200 mirror3 g64 grid 16 h", F32(5, 200), MIRROR(3, 64), GRID(16), 1),
    T("5x200 sym2 g64 zero", F32(5, 200), SYM(2, 64), ZERO(FLRQ_CLIP_GRID), 0),
    T("5x200 asym4 g64 zero h", F32(5, 200), ASYM(4, 64), ZERO(FLRQ_CLIP_GRID), 1),
    T("5x200 sym3 g64 zero fast h", F32(5, 200), SYM(3, 64), ZERO(FLRQ_CLIP_FAST), 1),
    T("5x1000 sym2 channel h", F32(5, 1000), SYM(2, 0), FAST, 1),
    T("5x1000 asym3 channel", F32(5, 1000), ASYM(3, 0), FAST, 0),
    T("5x1007 sym4 channel signed h", F32(5, 1007), SYM(4, 0), SIGNED(FLRQ_CLIP_FAST), 1),
    T("3x1007 sym8 channel h", F32(3, 1007), SYM(8, 0), FAST, 1),
    T("3x1007 asym4 channel grid h", F32(3, 1007), ASYM(4, 0), GRID(20), 1),
    T("2x29568 sym4 g128 h", F32(2, 29568), SYM(4, 128), FAST, 1),
    T("2x29568 sym4 channel", F32(2, 29568), SYM(4, 0), FAST, 0),
    T("260x1100 sym4 g32 h", F32(260, 1100), SYM(4, 32), FAST, 1),
    T("f16 17x300 sym4 g128 h", {17, 300, .dense = "F16", .ld_extra = 3}, SYM(4, 128), FAST, 1),
    T("bf16 130x300 asym4 g128 h", {130, 300, .dense = "BF16"}, ASYM(4, 128), FAST, 1),
    T("f32 scaled 17x300 sym3 g64", {17, 300, .dense = "F32", .ld_extra = 5, .col_scale = 1}, SYM(3, 64), FAST, 0),
    T("bf16 - lr 140x520 sym4 g128 h", {140, 520, .dense = "BF16", .rank = 8, .lr_sign = -1}, SYM(4, 128), FAST, 1),
    T("bf16 - lr 140x520 sym2 g64 h", {140, 520, .dense = "BF16", .rank = 32, .lr_sign = -1}, SYM(2, 64), FAST, 1),
    /* a tile that would pass the shared memory of a launch if a block kept its eight warps */
    T("bf16 - lr 70x500 sym4 g160 h", {70, 500, .dense = "BF16", .rank = 8, .lr_sign = -1}, SYM(4, 160), FAST, 1),
    T("f32 - codes 20x260 sym4 g128", {20, 260, .dense = "F32", .bits = 4, .group = 128, .codes_sign = -1}, SYM(4, 128),
      FAST, 0),
    T("f32 - codes 20x260 asym4 g60 h", {20, 260, .dense = "F32", .bits = 4, .group = 20, .codes_sign = -1},
      ASYM(4, 60), FAST, 1),
    T("codes + lr 37x96 sym4 g32 h", {37, 96, .bits = 3, .group = 48, .asymmetric = 1, .rank = 5}, SYM(4, 32), FAST, 1),
    T("f16 - lr 70x300 sym4 g128 rank 45", {70, 300, .dense = "F16", .rank = 45, .lr_sign = -1}, SYM(4, 128), FAST, 0),
    T("bf16 - lr scaled 35x520 asym3 g200 h", {35, 520, .dense = "BF16", .rank = 33, .lr_sign = -1, .col_scale = 1},
      ASYM(3, 200), FAST, 1),
    T("bf16 - lr 6x1100 sym4 channel h", {6, 1100, .dense = "BF16", .rank = 8, .lr_sign = -1}, SYM(4, 0), FAST, 1),
    T("f32 - codes 6x1100 sym8 g512", {6, 1100, .dense = "F32", .bits = 3, .group = 100, .codes_sign = -1}, SYM(8, 512),
      FAST, 0),
    T("5x600 sym4 g255 h", F32(5, 600), SYM(4, 255), FAST, 1),
    T("5x600 asym4 g256 h", F32(5, 600), ASYM(4, 256), FAST, 1),
    T("5x600 sym3 g257 h", F32(5, 600), SYM(3, 257), FAST, 1),
    T("5x600 asym2 g512 grid", F32(5, 600), ASYM(2, 512), GRID(9), 0),
    T("5x600 sym2 g512 zero h", F32(5, 600), SYM(2, 512), ZERO(FLRQ_CLIP_GRID), 1),
    T("5x600 sym4 channel none h", F32(5, 600), SYM(4, 0), NONE, 1),
    T("3x37 asym4 g1", F32(3, 37), ASYM(4, 1), FAST, 0),
    T("70x100 sym8 g7 h", F32(70, 100), SYM(8, 7), FAST, 1),
    T("scaled bf16 9x1024 asym4 g512 h", {9, 1024, .dense = "BF16", .ld_extra = 1, .col_scale = 1}, ASYM(4, 512), FAST,
      1),
    T("1e-42 9x300 asym4 g100 h", F32(9, 300), ASYM(4, 100), FAST, 1, 1e-42f),
    T("1e-22 9x300 sym4 g128 h", F32(9, 300), SYM(4, 128), FAST, 1, 1e-22f),
    T("1e-22 9x600 asym3 g300 h", F32(9, 600), ASYM(3, 300), FAST, 1, 1e-22f),
    T("1e-7 9x300 sym2 g64 signed h", F32(9, 300), SYM(2, 64), SIGNED(FLRQ_CLIP_FAST), 1, 1e-7f),
    T("1e6 9x300 sym8 g64 h", F32(9, 300), SYM(8, 64), FAST, 1, 1e6f),
    T("1e16 9x300 sym4 g64", F32(9, 300), SYM(4, 64), FAST, 0, 1e16f),
    P("1x1 2 bit", 1, 1, 2, OP_TEST),
    P("1x1 3 bit", 1, 1, 3, OP_TEST),
    P("1x1 8 bit", 1, 1, 8, OP_TEST),
    P("3x7 2 bit", 3, 7, 2, OP_TEST),
    P("3x7 3 bit", 3, 7, 3, OP_TEST),
    P("3x7 4 bit", 3, 7, 4, OP_TEST),
    P("5x63 2 bit", 5, 63, 2, OP_TEST),
    P("5x65 2 bit", 5, 65, 2, OP_TEST),
    P("5x65 4 bit", 5, 65, 4, OP_TEST),
    P("5x333 3 bit", 5, 333, 3, OP_TEST),
    P("5x333 4 bit", 5, 333, 4, OP_TEST),
    P("5x333 8 bit", 5, 333, 8, OP_TEST),
    P("9x96 2 bit", 9, 96, 2, OP_TEST),
    P("9x96 3 bit", 9, 96, 3, OP_TEST),
    P("9x104 4 bit", 9, 104, 4, OP_TEST),
    P("9x104 8 bit", 9, 104, 8, OP_TEST),
    P("67x1056 3 bit", 67, 1056, 3, OP_TEST),
    P("257x1030 3 bit", 257, 1030, 3, OP_TEST),
    P("257x1030 4 bit", 257, 1030, 4, OP_TEST),
    B("4096x4096 sym2 g128 h", F32(4096, 4096), SYM(2, 128), FAST, 1),
    B("4096x4096 sym3 g128 h", F32(4096, 4096), SYM(3, 128), FAST, 1),
    B("4096x4096 sym4 g128 h", F32(4096, 4096), SYM(4, 128), FAST, 1),
    B("bf16 - lr 4096x4096 sym4 g128 h", {4096, 4096, .dense = "BF16", .rank = 32, .lr_sign = -1}, SYM(4, 128), FAST,
      1),
    B("4096x4096 sym8 g128 h", F32(4096, 4096), SYM(8, 128), FAST, 1),
    B("4096x4096 asym4 g128 h", F32(4096, 4096), ASYM(4, 128), FAST, 1),
    B("4096x4096 sym4 g32 h", F32(4096, 4096), SYM(4, 32), FAST, 1),
    B("4096x4096 sym4 channel h", F32(4096, 4096), SYM(4, 0), FAST, 1),
    B("4096x4096 sym4 g128 none", F32(4096, 4096), SYM(4, 128), NONE, 0),
    B("bf16 - lr 11008x4096 sym4 g128 h", {11008, 4096, .dense = "BF16", .rank = 64, .lr_sign = -1}, SYM(4, 128), FAST,
      1),
    B("bf16 11008x4096 sym4 g128 grid 13 h", {11008, 4096, .dense = "BF16"}, SYM(4, 128), GRID(13), 1),
    P("11008x4096 4 bit", 11008, 4096, 4, OP_BENCH),
    P("28672x8192 4 bit", 28672, 8192, 4, OP_BENCH | OP_LARGE),
    P("4096x4096 2 bit", 4096, 4096, 2, OP_BENCH),
    P("4096x4096 3 bit", 4096, 4096, 3, OP_BENCH),
    P("4096x4096 4 bit", 4096, 4096, 4, OP_BENCH),
};

const op_table ops_quant = {"quant", cases, sizeof cases / sizeof *cases};
