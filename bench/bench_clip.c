/* bench_clip.c - clip_quantize against its floors: how fast, how many trials, how good.
 *
 *     bench_clip [--device cpu] [--threads N] [--seconds S] [--rows N] [--csv]
 *
 * Two floors bound the op, both measured in the same run with the same threads: the bytes that must move (fp32 weights
 * read once, codes and scales written once) at the bandwidth of a copy of the same matrix, and the vector
 * instructions that its trials need at the rate at which this CPU retires fused multiply-adds. Counted per 16 lanes,
 * loads and stores aside: 6 per fit (multiply-add, minimum, subtraction, product with h, two sums; 5 without h), 7 per
 * true error (6 without h), 12 to write codes and count clipped weights, 6 to measure a group, 2 to prepare one.
 * "memory" and "ops" are the floors as fractions of the best time; the larger one says what limits.
 *
 * "grid" is the total weighted error over that of a grid of 100 ratios (down to 0.2, 0.3, 0.4, 0.8 at 2, 3, 4, 8 bits),
 * "nearest" over that of round to nearest, both on the first 512 rows. Weights: normal with a scale per row; h:
 * log-normal with 2 % of the channels x100.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "backend/cpu.h"
#include "backend/cpu_kernels.h"
#include "backend/quant_search.h"
#include "core/parallel.h"
#include "core/philox.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

typedef struct options {
    const char *device;
    int threads, csv;
    double seconds;
    int64_t rows; /* 0: both shapes */
} options;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void check(flrq_status status) {
    if (status == FLRQ_OK) return;
    fprintf(stderr, "bench_clip: %s\n", flrq_last_error());
    exit(1);
}

static void *must(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "bench_clip: out of memory\n");
    exit(1);
}

/* ---- the rate of vector instructions ------------------------------------------------------------------------ */

enum { CHAINS = 12, TURNS = 1 << 18 };

static volatile float sink;

#if defined(__x86_64__)
__attribute__((target("avx512f"))) static void turn_avx512(void) {
    __m512 a[CHAINS], b = _mm512_set1_ps(0.999f);
    for (int k = 0; k < CHAINS; k++) a[k] = _mm512_set1_ps((float)k);
    for (int i = 0; i < TURNS; i++)
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) a[k] = _mm512_fmadd_ps(a[k], b, b);
    for (int k = 1; k < CHAINS; k++) a[0] = _mm512_add_ps(a[0], a[k]);
    sink = _mm512_cvtss_f32(a[0]);
}

__attribute__((target("avx2,fma"))) static void turn_avx2(void) {
    __m256 a[CHAINS], b = _mm256_set1_ps(0.999f);
    for (int k = 0; k < CHAINS; k++) a[k] = _mm256_set1_ps((float)k);
    for (int i = 0; i < TURNS; i++)
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) a[k] = _mm256_fmadd_ps(a[k], b, b);
    for (int k = 1; k < CHAINS; k++) a[0] = _mm256_add_ps(a[0], a[k]);
    sink = _mm256_cvtss_f32(a[0]);
}
#endif

static void turn_generic(void) {
    float a[CHAINS];
    for (int k = 0; k < CHAINS; k++) a[k] = (float)k;
    for (int i = 0; i < TURNS; i++)
#pragma GCC unroll 12
        for (int k = 0; k < CHAINS; k++) a[k] = a[k] * 0.999f + 0.999f;
    for (int k = 1; k < CHAINS; k++) a[0] += a[k];
    sink = a[0];
}

typedef struct turner {
    void (*turn)(void);
    int lanes;
} turner;

static void turn_task(void *arg, int64_t index, int thread) {
    ((const turner *)arg)->turn();
}

/* Lanes of arithmetic per second of all threads together. */
static double lane_rate(const char *isa, int threads) {
    turner t = {turn_generic, 1};
#if defined(__x86_64__)
    if (strcmp(isa, "avx512") == 0) t = (turner){turn_avx512, 16};
    if (strcmp(isa, "avx2") == 0) t = (turner){turn_avx2, 8};
#endif
    double best = INFINITY;
    for (int repeat = 0; repeat < 20; repeat++) {
        double start = now();
        flrq_parallel_for(threads, threads, turn_task, &t);
        double seconds = now() - start;
        best = seconds < best ? seconds : best;
    }
    return (double)t.lanes * CHAINS * TURNS * threads / best;
}

/* ---- timing ------------------------------------------------------------------------------------------------- */

typedef struct job {
    flrq_backend *be;
    flrq_operand a;
    float *copy; /* copies instead of quantizing when not NULL */
    const float *h;
    flrq_codes codes;
    flrq_scheme scheme;
    flrq_clip clip;
    flrq_clip_stats stats;
} job;

static void once(job *j) {
    if (j->copy)
        check(j->be->materialize(j->be, j->copy, &j->a));
    else
        check(j->be->clip_quantize(j->be, &j->codes, &j->a, j->h, &j->scheme, &j->clip, &j->stats));
}

/* The shortest of the repetitions: other work on the machine only adds. */
static double best_seconds(job *j, double seconds) {
    double best = INFINITY, start = now();
    once(j);
    for (int count = 0; count < 3 || now() - start < seconds; count++) {
        double t = now();
        once(j);
        t = now() - t;
        best = t < best ? t : best;
    }
    return best;
}

/* Trials of a group and vector instructions per weight and 16 lanes. */
static double instructions(const job *j, int *trials) {
    bool weighted = j->h != NULL;
    quant_plan plan = quant_plan_of(j->scheme.bits, j->codes.group, false);
    int fit = weighted ? 6 : 5, error = weighted ? 7 : 6, signs = 1 + quant_signed(&j->scheme, &j->clip);
    if (j->clip.search == FLRQ_CLIP_FAST && plan.second > 0) {
        int fits = plan.first * quant_variants(&j->scheme, &j->clip) + plan.second;
        *trials = fits + 2;
        return fit * fits + error + 12 + 6 + 2;
    }
    int ratios = j->clip.search == FLRQ_CLIP_NONE ? 0 : j->clip.search == FLRQ_CLIP_GRID ? j->clip.steps : plan.first;
    *trials = 1 + ratios * signs;
    return (ratios > 0 ? error * *trials : 0) + 12 + 6;
}

static float lowest_ratio(int bits) {
    return bits == 2 ? 0.2f : bits == 3 ? 0.3f : bits == 4 ? 0.4f : 0.8f;
}

/* Errors of the grid and of round to nearest on the first rows, relative to those of the job. */
static void compare(job j, double *grid, double *nearest) {
    int64_t rows = j.a.rows < 512 ? j.a.rows : 512;
    j.a.rows = j.codes.rows = rows;
    once(&j);
    double error = j.stats.weighted_error;
    j.clip = (flrq_clip){FLRQ_CLIP_GRID, FLRQ_CLIP_CLAMP, 100, lowest_ratio(j.scheme.bits), 0};
    once(&j);
    *grid = error / j.stats.weighted_error;
    j.clip.search = FLRQ_CLIP_NONE;
    once(&j);
    *nearest = error / j.stats.weighted_error;
}

static void report(const options *o, job *j, const char *name, double bandwidth, double lanes, int threads) {
    int trials;
    double weights = (double)j->a.rows * (double)j->a.cols, grid, nearest;
    double bytes = 5 * weights + 4 * (double)j->codes.rows * (double)j->codes.n_groups;
    double ops = instructions(j, &trials) * weights / lanes, seconds = best_seconds(j, o->seconds);
    compare(*j, &grid, &nearest);
    printf(
        o->csv
            ? "%lldx%lld,%s,%d,%.4f,%.2f,%.3f,%.3f,%d,%.5f,%.5f\n"
            : "%5lldx%-5lld %-22s %2d threads  %7.3f ns/weight  %6.2f GB/s  memory %5.1f %%  ops %5.1f %%  %3d trials"
              "  grid %.4f  nearest %.4f\n",
        (long long)j->a.rows, (long long)j->a.cols, name, threads, 1e9 * seconds / weights, 1e-9 * bytes / seconds,
        (o->csv ? 1 : 100) * bytes / bandwidth / seconds, (o->csv ? 1 : 100) * ops / seconds, trials, grid, nearest);
    fflush(stdout);
}

/* ---- program ------------------------------------------------------------------------------------------------ */

static int usage(void) {
    fprintf(stderr, "usage: bench_clip [--device NAME] [--threads N] [--seconds S] [--rows N] [--csv]\n");
    return 2;
}

static int parse(options *o, int argc, char **argv) {
    *o = (options){.device = "cpu", .seconds = 1};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--csv") == 0) {
            o->csv = 1;
            continue;
        }
        if (i + 1 == argc) return usage();
        const char *name = argv[i++], *value = argv[i];
        if (strcmp(name, "--device") == 0)
            o->device = value;
        else if (strcmp(name, "--threads") == 0)
            o->threads = atoi(value);
        else if (strcmp(name, "--seconds") == 0)
            o->seconds = atof(value);
        else if (strcmp(name, "--rows") == 0)
            o->rows = atoll(value);
        else
            return usage();
    }
    return 0;
}

static void run_shape(const options *o, flrq_backend *be, int64_t rows, int64_t cols, double lanes, int threads) {
    size_t n = (size_t)rows * (size_t)cols;
    float *w = must(aligned_alloc(64, n * sizeof *w)), *copy = must(aligned_alloc(64, n * sizeof *copy));
    float *h = must(aligned_alloc(64, (size_t)cols * sizeof *h)), *scale = must(malloc(n / 32 * sizeof *scale));
    uint8_t *code = must(aligned_alloc(64, n)), *zero = must(malloc(n / 32));
    flrq_philox_normal(w, 1, 0, 0, n);
    flrq_philox_normal(h, 1, 1, 0, (uint64_t)cols);
    for (int64_t j = 0; j < cols; j++) h[j] = expf(0.7f * h[j]) * (j % 50 == 17 ? 100 : 1);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++) w[i * cols + j] *= 0.02f * (1 + (float)(i % 7) / 7);

    job j = {.be = be};
    j.a = (flrq_operand){.rows = rows, .cols = cols, .d_dense = w, .ld_dense = cols, .dense_dtype = FLRQ_F32};
    j.copy = copy;
    double bandwidth = 8 * (double)n / best_seconds(&j, o->seconds);
    j.copy = NULL;
    if (!o->csv)
        printf("%lldx%lld: copy %.2f GB/s, %.1f G lanes/s\n", (long long)rows, (long long)cols, 1e-9 * bandwidth,
               1e-9 * lanes);
    static const struct {
        const char *name;
        int symmetric, search, signed_scale, weighted;
        int64_t group;
    } kinds[] = {{"symmetric", 1, FLRQ_CLIP_FAST, 0, 1, 128},    {"symmetric, no h", 1, FLRQ_CLIP_FAST, 0, 0, 128},
                 {"asymmetric", 0, FLRQ_CLIP_FAST, 0, 1, 128},   {"signed", 1, FLRQ_CLIP_FAST, 1, 1, 128},
                 {"symmetric g32", 1, FLRQ_CLIP_FAST, 0, 1, 32}, {"per channel", 1, FLRQ_CLIP_FAST, 0, 1, 0},
                 {"grid of 100", 1, FLRQ_CLIP_GRID, 0, 1, 128},  {"nearest", 1, FLRQ_CLIP_NONE, 0, 1, 128}};
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++)
        for (int bits = 2; bits <= 8; bits += bits == 4 ? 4 : 1) {
            char name[64];
            int64_t group = kinds[k].group ? kinds[k].group : cols;
            snprintf(name, sizeof name, "%d bit %s", bits, kinds[k].name);
            j.h = kinds[k].weighted ? h : NULL;
            j.scheme = (flrq_scheme){bits, kinds[k].symmetric, FLRQ_GRID_FULL, 0, kinds[k].group};
            j.clip = (flrq_clip){(flrq_clip_search)kinds[k].search, FLRQ_CLIP_CLAMP, 100, lowest_ratio(bits),
                                 kinds[k].signed_scale};
            j.codes = (flrq_codes){rows,
                                   cols,
                                   group,
                                   (cols + group - 1) / group,
                                   bits,
                                   kinds[k].symmetric,
                                   code,
                                   scale,
                                   kinds[k].symmetric ? NULL : zero};
            report(o, &j, name, bandwidth, lanes, threads);
        }
    free(w);
    free(copy);
    free(h);
    free(scale);
    free(code);
    free(zero);
}

int main(int argc, char **argv) {
    options o;
    flrq_backend *be;
    flrq_device_info info;
    if (parse(&o, argc, argv)) return 2;
    check(flrq_backend_open(&be, o.device, o.threads));
    check(be->info(be, &info));
    double lanes = lane_rate(info.instruction_set, info.threads);
    if (o.csv)
        printf("shape,case,threads,ns_per_weight,gb_per_s,memory_floor,ops_floor,trials,error_over_grid,error_over_"
               "nearest\n");
    else
        printf("%s, %s\n", info.name, info.instruction_set);
    if (o.rows > 0) {
        run_shape(&o, be, o.rows, 4096, lanes, info.threads);
    } else {
        run_shape(&o, be, 4096, 4096, lanes, info.threads);
        run_shape(&o, be, 11008, 4096, lanes, info.threads);
    }
    flrq_backend_close(be);
    return 0;
}
