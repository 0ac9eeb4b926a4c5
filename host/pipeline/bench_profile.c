/* bench_profile.c - `flrq bench ops --profile FILE`: what the classes of ops cost on this device; see profile.h.
 *
 * The calls are those of the op tables (host/cases) at sizes chosen here: a matrix of one chunk's half and a large one,
 * each with few and with many columns (or ranks), and two sizes of everything else, in the precision that quantize uses
 * on the device. Each is timed as every bench case is. The parts of a class are fitted to the tenth percentiles, what
 * an undisturbed call takes, since a run has its node for itself; where medians lie well above them the profile notes
 * that the machine was not quiet. Small calls decide the part per call and little else: they may run from caches that
 * large ones overflow. Large is beyond the caches of a GPU; on a CPU, whose panels stay in L2 whatever the size, less
 * will do. Values are random and change no time, but for the clip search, whose weights are Gaussian as those of models
 * nearly are.
 */
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cases/opcase.h"
#include "pipeline/bench.h"

static const op_table *const tables[] = {&ops_matrix, &ops_small, &ops_quant, &ops_forward};
enum { TABLES = sizeof tables / sizeof *tables };
enum { SMALL = 256, LARGE = 2048, LARGE_SEPARATE = 8192, GROUP = 128, POINTS = 4 };
static const double small_weight = 0.01;
enum { FILE_BYTES = 256 << 20, PIECE_BYTES = 1 << 20 };

typedef struct bench {
    flrq_backend *be;
    const flrq_bench_limits *limits;
    double seconds;
    int64_t large, tokens;
    flrq_reporter *reporter;
    flrq_profile *profile;
    json_t *rows;
    int done;
    double noise; /* sum of the logarithms of median / p10 */
} bench;

/* The run function of an op: that of any of its cases. */
static void (*run_of(const char *op))(op_run *, const op_case *) {
    for (int t = 0; t < TABLES; t++)
        for (size_t i = 0; i < tables[t]->count; i++)
            if (strcmp(tables[t]->cases[i].op, op) == 0) return tables[t]->cases[i].run;
    return NULL;
}

/* Fits a class to its points; `sizes` has their elements and flops, `cases` the calls. */
static flrq_status fit_class(bench *b, flrq_cost id, const op_case *cases, flrq_cost_point *sizes, int count) {
    flrq_op_cost *out = &b->profile->op[id];
    if (flrq_stop_requested()) return flrq_fail(FLRQ_STOPPED, "stopped; bench keeps no state");
    flrq_progress(b->reporter, flrq_cost_name(id), b->done++, FLRQ_COSTS);
    for (int p = 0; p < count; p++) {
        op_timing t = op_case_time(&cases[p], b->be, b->seconds);
        json_array_append_new(b->rows, flrq_bench_op_row(&cases[p], &t, b->limits));
        if (!t.supported || t.status == FLRQ_ERR_UNSUPPORTED) {
            out->call = -1;
            return FLRQ_OK;
        }
        if (t.status != FLRQ_OK) return flrq_fail(t.status, "%s %s: %s", cases[p].op, cases[p].shape, t.text);
        sizes[p].seconds = t.p10;
        b->noise += log(t.median / t.p10);
    }
    *out = flrq_cost_fit(sizes, count);
    return FLRQ_OK;
}

/* ---- ops on a matrix --------------------------------------------------------------------------------------------- */

typedef struct clip_case {
    op_matrix m;
    flrq_scheme scheme;
    flrq_clip clip;
} clip_case;

static void run_clip(op_run *r, const op_case *c) {
    const clip_case *q = c->extra;
    flrq_operand a = op_operand(r, &q->m);
    int64_t groups = (a.cols + GROUP - 1) / GROUP;
    float *h = op_temp(r, (size_t)a.cols * sizeof *h);
    for (int64_t j = 0; j < a.cols; j++) h[j] = (float)(1 + j % 7);
    flrq_codes out = {.rows = a.rows,
                      .cols = a.cols,
                      .group = GROUP,
                      .n_groups = groups,
                      .bits = q->scheme.bits,
                      .symmetric = 1,
                      .code = op_out(r, "code", OP_U8, a.rows * a.cols, OP_IGNORE, 0),
                      .scale = op_out(r, "scale", OP_F32, a.rows * groups, OP_IGNORE, 0)};
    float *d_h = op_in(r, "h", OP_F32, h, a.cols);
    flrq_clip_stats stats;
    op_cost(r, op_operand_bytes(&q->m) + (double)(a.rows * a.cols), 0);
    OP_CALL(r, clip_quantize, &out, &a, d_h, &q->scheme, &q->clip, &stats);
}

/* A class of ops on a matrix: its operand, and what the number of columns (`by` COLUMNS) or the rank is. */
typedef struct matrix_class {
    flrq_cost id;
    const char *op;
    int fast;
    op_matrix form; /* rows and cols are set for each point */
    enum { COLUMNS, RANK } by;
    int narrow, wide; /* 0: the tokens of a forward */
    flrq_clip clip;   /* clip_quantize: search and bits */
    int bits;
} matrix_class;

#define SCALED   .dense = "BF16", .col_scale = 1
#define MINUS_WQ .bits = 4, .group = GROUP, .codes_sign = -1
#define SEARCH(kind)                                                                                                   \
    { FLRQ_CLIP_##kind, FLRQ_CLIP_CLAMP, FLRQ_PROFILE_GRID, 0.4f, FLRQ_CLIP_##kind != FLRQ_CLIP_NONE }

static const matrix_class matrix_classes[] = {
    {FLRQ_COST_MUL, "mul", OP_FAST, {SCALED}, COLUMNS, 40, 136},
    {FLRQ_COST_MUL_CODES, "mul", OP_FAST, {SCALED, MINUS_WQ}, COLUMNS, 40, 136},
    {FLRQ_COST_MUL_T, "mul_t", OP_FAST, {SCALED}, COLUMNS, 40, 136},
    {FLRQ_COST_MUL_T_CODES, "mul_t", OP_FAST, {SCALED, MINUS_WQ}, COLUMNS, 40, 136},
    {FLRQ_COST_MUL_T_FULL, "mul_t", 0, {SCALED}, COLUMNS, 40, 136},
    {FLRQ_COST_MUL_T_CODES_FULL, "mul_t", 0, {SCALED, MINUS_WQ}, COLUMNS, 40, 136},
    {FLRQ_COST_ERROR, "sum_squares_mul", OP_FAST, {.dense = "BF16"}, COLUMNS, 64, 256},
    {FLRQ_COST_ERROR_CODES,
     "sum_squares_mul",
     OP_FAST,
     {.dense = "BF16", MINUS_WQ, .rank = 32, .lr_sign = -1},
     COLUMNS,
     64,
     256},
    {FLRQ_COST_NORM, "sum_squares", 0, {.dense = "BF16", MINUS_WQ, .lr_sign = -1}, RANK, 0, 64},
    {FLRQ_COST_CURVE, "amax_curve", 0, {SCALED}, COLUMNS, 40, 136},
    {FLRQ_COST_CLIP_NONE, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(NONE), 4},
    {FLRQ_COST_CLIP_GRID, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(GRID), 4},
    {FLRQ_COST_CLIP_FAST2, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(FAST), 2},
    {FLRQ_COST_CLIP_FAST3, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(FAST), 3},
    {FLRQ_COST_CLIP_FAST4, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(FAST), 4},
    {FLRQ_COST_CLIP_FAST8, NULL, 0, {.dense = "BF16", .lr_sign = -1}, RANK, 0, 64, SEARCH(FAST), 8},
    {FLRQ_COST_ROUND_BF16, "materialize_bf16", OP_FAST, {.bits = 4, .group = GROUP}, RANK, 0, 64},
    {FLRQ_COST_LINEAR, "linear", OP_FAST, {.dense = "BF16"}, COLUMNS, 64, 0},
    {FLRQ_COST_LINEAR_CODES, "linear", OP_FAST, {.bits = 4, .group = GROUP, .rank = 32}, COLUMNS, 64, 0},
};
enum { MATRIX_CLASSES = sizeof matrix_classes / sizeof *matrix_classes };

static flrq_status measure_matrix(bench *b, const matrix_class *k) {
    op_case cases[POINTS];
    clip_case forms[POINTS];
    char shapes[POINTS][64];
    flrq_cost_point sizes[POINTS];
    for (int p = 0; p < POINTS; p++) {
        int64_t side = p < POINTS / 2 ? SMALL : b->large, width = p % 2 ? k->wide : k->narrow;
        if (p % 2 && !width) width = b->tokens;
        forms[p] = (clip_case){k->form, {k->bits, 1, FLRQ_GRID_FULL, 0, GROUP}, k->clip};
        forms[p].m.rows = forms[p].m.cols = side;
        if (k->by == RANK) forms[p].m.rank = width;
        int64_t columns = k->by == RANK ? 0 : width;
        snprintf(shapes[p], sizeof shapes[p], "%s %lldx%lld, %lld", flrq_cost_name(k->id), (long long)side,
                 (long long)side, (long long)width);
        cases[p] = (op_case){
            k->op ? k->op : "clip_quantize",  shapes[p],          {columns},
            k->op ? run_of(k->op) : run_clip, OP_BENCH | k->fast, k->op ? (const void *)&forms[p].m : &forms[p]};
        double elements = (double)(side * side);
        sizes[p] = (flrq_cost_point){elements, 2 * elements * (double)(columns + forms[p].m.rank), 0,
                                     p < POINTS / 2 ? small_weight : 1};
    }
    return fit_class(b, k->id, cases, sizes, POINTS);
}

/* ---- the others -------------------------------------------------------------------------------------------------- */

/* A class of two calls by the dimensions of their cases. */
typedef struct plain_class {
    flrq_cost id;
    const char *op;
    int fast;
    struct {
        int64_t d[5];
        double elements, flops;
    } point[2];
} plain_class;

#define CUBE(b) ((double)(b) * (b) * (b))

static const plain_class plain_classes[] = {
    {FLRQ_COST_PACK, "pack", 0, {{{256, 256, 4}, 65536, 0}, {{2048, 2048, 4}, 4194304, 0}}},
    {FLRQ_COST_UNPACK, "unpack", 0, {{{256, 256, 4}, 65536, 0}, {{2048, 2048, 4}, 4194304, 0}}},
    {FLRQ_COST_ATTENTION,
     "attention",
     OP_FAST,
     {{{256, 4, 4, 64, 0}, 0, 2.0 * 256 * 256 * 256}, {{2048, 8, 8, 128, 0}, 0, 2.0 * 2048 * 2048 * 1024}}},
    {FLRQ_COST_NORM_ROWS, "rmsnorm", 0, {{{256, 256, 1}, 65536, 0}, {{2048, 4096, 1}, 8388608, 0}}},
    {FLRQ_COST_ROPE, "rope", 0, {{{256, 4, 64, 0, 1000}, 65536, 0}, {{2048, 32, 128, 0, 1000}, 8388608, 0}}},
    {FLRQ_COST_ADD, "add", 0, {{{65536}, 65536, 0}, {{8388608}, 8388608, 0}}},
    {FLRQ_COST_ACTIVATION, "swiglu", 0, {{{65536}, 65536, 0}, {{8388608}, 8388608, 0}}},
    {FLRQ_COST_INPUT_STATS, "input_stats", 0, {{{256, 256}, 65536, 0}, {{2048, 4096}, 8388608, 0}}},
    {FLRQ_COST_INPUT_SKETCH,
     "input_sketch",
     OP_FAST,
     {{{256, 256, 256}, 0, 2 * CUBE(256)}, {{2048, 4096, 256}, 0, 2.0 * 2048 * 4096 * 256}}},
    {FLRQ_COST_NORMAL, "normal", 0, {{{16384, 0}, 16384, 0}, {{4194304, 0}, 4194304, 0}}},
    {FLRQ_COST_GRAM, "gram", 0, {{{256, 40}, 0, 2.0 * 256 * 40 * 40}, {{8192, 136}, 0, 2.0 * 8192 * 136 * 136}}},
    {FLRQ_COST_CHOLESKY, "cholesky", 0, {{{40}, 0, CUBE(40)}, {{136}, 0, CUBE(136)}}},
    {FLRQ_COST_SOLVE, "solve_right", 0, {{{256, 40}, 0, 256.0 * 40 * 40}, {{8192, 136}, 0, 8192.0 * 136 * 136}}},
    {FLRQ_COST_EIGH, "eigh", 0, {{{40}, 0, CUBE(40)}, {{136}, 0, CUBE(136)}}},
    {FLRQ_COST_GEMM,
     "gemm",
     0,
     {{{256, 40, 40, 4, 0}, 0, 2.0 * 256 * 40 * 40}, {{8192, 136, 136, 4, 0}, 0, 2.0 * 8192 * 136 * 136}}},
    {FLRQ_COST_COLUMN_AMAX, "column_amax", 0, {{{256, 40, 40, 1}, 256 * 40, 0}, {{8192, 136, 136, 1}, 8192 * 136, 0}}},
    {FLRQ_COST_ROUND_FACTOR,
     "round_factor",
     0,
     {{{256, 40, 40, 1, FLRQ_BF16}, 256 * 40, 0}, {{8192, 136, 136, 1, FLRQ_BF16}, 8192 * 136, 0}}},
};
enum { PLAIN_CLASSES = sizeof plain_classes / sizeof *plain_classes };

static flrq_status measure_plain(bench *b, const plain_class *k) {
    op_case cases[2];
    char shapes[2][64];
    flrq_cost_point sizes[2];
    for (int p = 0; p < 2; p++) {
        const int64_t *d = k->point[p].d;
        snprintf(shapes[p], sizeof shapes[p], "%lld, %lld, %lld", (long long)d[0], (long long)d[1], (long long)d[2]);
        cases[p] = (op_case){k->op, shapes[p], {0}, run_of(k->op), OP_BENCH | k->fast};
        memcpy(cases[p].d, d, sizeof k->point[p].d);
        if (strcmp(k->op, "attention") == 0) cases[p].d[5] = 1; /* spread of the scores */
        sizes[p] = (flrq_cost_point){k->point[p].elements, k->point[p].flops, 0, p ? 1 : small_weight};
    }
    return fit_class(b, k->id, cases, sizes, 2);
}

/* Elements alone, and of a matrix. */
static flrq_status measure_nonfinite(bench *b) {
    const op_matrix small = {SMALL, SMALL, .dense = "BF16"}, large = {b->large, b->large, .dense = "BF16"};
    const op_case cases[2] = {
        {"count_nonfinite", "bf16 small", {0}, run_of("count_nonfinite"), OP_BENCH, &small},
        {"count_nonfinite", "bf16 large", {0}, run_of("count_nonfinite"), OP_BENCH, &large},
    };
    flrq_cost_point sizes[2] = {{(double)SMALL * SMALL, 0, 0, small_weight}, {(double)(b->large * b->large), 0, 0, 1}};
    return fit_class(b, FLRQ_COST_NONFINITE, cases, sizes, 2);
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Writes and flushes, then reads what the page cache was told to forget. */
static flrq_status time_file(flrq_profile *out, int fd, const char *path, char *piece) {
    double t = flrq_seconds();
    for (uint64_t at = 0; at < FILE_BYTES; at += PIECE_BYTES)
        FLRQ_TRY(flrq_file_pwrite(fd, path, piece, PIECE_BYTES, at));
    if (fsync(fd) != 0) return flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be flushed", path);
    out->write = FILE_BYTES / (flrq_seconds() - t);
    (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    t = flrq_seconds();
    for (uint64_t at = 0; at < FILE_BYTES; at += PIECE_BYTES)
        FLRQ_TRY(flrq_file_pread(fd, path, piece, PIECE_BYTES, at));
    out->read = FILE_BYTES / (flrq_seconds() - t);
    return FLRQ_OK;
}

static flrq_status measure_files(flrq_profile *out, const char *dir) {
    char *path = flrq_path_join(dir, "flrq-bench-XXXXXX"), *piece = malloc(PIECE_BYTES);
    flrq_status status = FLRQ_OK;
    int fd = -1;
    if (!path || !piece) FLRQ_GOTO(flrq_fail_memory(PIECE_BYTES, "the file bench"));
    memset(piece, 1, PIECE_BYTES);
    fd = mkstemp(path);
    if (fd < 0) FLRQ_GOTO(flrq_fail_errno(FLRQ_ERR_IO, "%s: cannot be created; --scratch DIR is wanted", path));
    status = time_file(out, fd, path, piece);
    unlink(path);
out:
    if (fd >= 0) close(fd);
    free(piece);
    free(path);
    return status;
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

flrq_status flrq_profile_measure(flrq_profile *out, flrq_backend *be, const flrq_bench_limits *limits,
                                 const flrq_config *config, flrq_reporter *reporter, json_t *rows) {
    flrq_device_info device;
    time_t now = time(NULL);
    struct tm day;
    memset(out, 0, sizeof *out);
    FLRQ_TRY(be->info(be, &device));
    snprintf(out->backend, sizeof out->backend, "%.*s", (int)strcspn(be->name, ":"), be->name);
    snprintf(out->name, sizeof out->name, "%s", device.name);
    snprintf(out->version, sizeof out->version, "%s", FLRQ_VERSION_STRING);
    strftime(out->date, sizeof out->date, "%Y-%m-%d", gmtime_r(&now, &day));
    out->measured = 1;
    out->threads = device.threads;
    out->separate = out->fast = device.separate_memory != 0;
    out->memory = (double)device.total_bytes;
    out->copy = limits->copy, out->upload = limits->upload, out->download = limits->download;
    bench b = {.be = be,
               .limits = limits,
               .seconds = config->seconds,
               .large = device.separate_memory ? LARGE_SEPARATE : LARGE,
               .tokens = device.separate_memory ? 2048 : 512,
               .reporter = reporter,
               .profile = out,
               .rows = rows};
    for (int i = 0; i < MATRIX_CLASSES; i++) FLRQ_TRY(measure_matrix(&b, &matrix_classes[i]));
    for (int i = 0; i < PLAIN_CLASSES; i++) FLRQ_TRY(measure_plain(&b, &plain_classes[i]));
    FLRQ_TRY(measure_nonfinite(&b));
    double noise = exp(b.noise / (double)json_array_size(rows));
    if (noise > 1.1)
        snprintf(out->note, sizeof out->note,
                 "measured while the machine was not quiet: medians were %.2f times the tenth percentiles, which count",
                 noise);
    return config->scratch ? measure_files(out, config->scratch) : FLRQ_OK;
}
