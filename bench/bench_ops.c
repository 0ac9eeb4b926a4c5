/* bench_ops.c - times the OP_BENCH cases of the op tables on one backend.
 *
 *     bench_ops [--device cpu] [--threads N] [--seconds S] [--only TEXT] [--csv]
 *
 * Every op states the bytes and flops that nobody can avoid (op_cost). The two limits they are held against are
 * measured in the same run on the same backend: copy bandwidth (fp32 materialize, read + write) and the sgemm rate
 * (2048^3). "floor" is the time the slower of the two limits allows, as a fraction of the median. A refusal of an op is
 * printed, not hidden.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cases/opcase.h"

static const op_table *const tables[] = {&ops_matrix, &ops_small, &ops_quant, &ops_forward};

static const op_matrix copy_matrix = {.rows = 8192, .cols = 4096, .dense = "F32"};

static void run_copy(op_run *r, const op_case *c) {
    flrq_operand a = op_operand(r, &copy_matrix);
    float *out = op_out(r, "copy", OP_F32, a.rows * a.cols, OP_EXACT, 0);
    op_cost(r, 8.0 * (double)(a.rows * a.cols), 0);
    OP_CALL(r, materialize, out, &a);
}

static void run_sgemm(op_run *r, const op_case *c) {
    int64_t n = c->d[0];
    float *a = op_normal(r, "A", n * n, 1), *b = op_normal(r, "B", n * n, 1);
    float *out = op_out(r, "C", OP_F32, n * n, OP_ANY, 0);
    op_cost(r, 12.0 * (double)(n * n), 2.0 * (double)(n * n) * (double)n);
    OP_CALL(r, gemm, out, a, b, n, n, n, 1, 0);
}

static const op_case copy_case = {"copy", "8192x4096", {0}, run_copy, OP_BENCH};
static const op_case sgemm_case = {"sgemm", "2048x2048x2048", {2048}, run_sgemm, OP_BENCH};

typedef struct options {
    const char *device, *only;
    int threads, csv;
    double seconds;
} options;

static int usage(void) {
    fprintf(stderr, "usage: bench_ops [--device NAME] [--threads N] [--seconds S] [--only TEXT] [--csv]\n");
    return 2;
}

static int parse(options *o, int argc, char **argv) {
    *o = (options){.device = "cpu", .only = "", .seconds = 0.5};
    for (int i = 1; i < argc; i++) {
        if (strcmp(argv[i], "--csv") == 0) {
            o->csv = 1;
            continue;
        }
        if (i + 1 == argc) return usage();
        const char *name = argv[i++], *value = argv[i];
        if (strcmp(name, "--device") == 0)
            o->device = value;
        else if (strcmp(name, "--only") == 0)
            o->only = value;
        else if (strcmp(name, "--threads") == 0)
            o->threads = atoi(value);
        else if (strcmp(name, "--seconds") == 0)
            o->seconds = atof(value);
        else
            return usage();
    }
    return 0;
}

/* Fraction of `time` that the slower limit would need. */
static double floor_fraction(const op_timing *t, double bandwidth, double rate) {
    double memory = t->bytes / bandwidth, compute = t->flops / rate;
    return (memory > compute ? memory : compute) / t->median;
}

static void print_case(const options *o, const op_case *c, const op_timing *t, double bandwidth, double rate) {
    if (!t->supported || t->status != FLRQ_OK) {
        const char *why = t->supported ? flrq_status_name(t->status) : "not supported";
        printf(o->csv ? "%s,\"%s\",%s\n" : "%-16s %-28s %s\n", c->op, c->shape, why);
        return;
    }
    const char *format = o->csv ? "%s,\"%s\",%.6f,%.6f,%.3f,%.4f,%.3f,%.4f,%.4f,%d\n"
                                : "%-16s %-28s %9.3f ms %9.3f ms %8.2f GB/s %4.0f%% %8.2f GF/s %4.0f%% %5.0f%% %5d\n";
    double scale = o->csv ? 1 : 100, gbs = t->bytes / t->median, gfs = t->flops / t->median;
    printf(format, c->op, c->shape, 1e3 * t->median, 1e3 * t->best, 1e-9 * gbs, scale * gbs / bandwidth, 1e-9 * gfs,
           scale * gfs / rate, scale * floor_fraction(t, bandwidth, rate), t->samples);
    fflush(stdout);
}

int main(int argc, char **argv) {
    options o;
    if (parse(&o, argc, argv) != 0) return 2;
    flrq_backend *be;
    flrq_device_info info;
    if (flrq_backend_open(&be, o.device, o.threads) != FLRQ_OK || be->info(be, &info) != FLRQ_OK) {
        fprintf(stderr, "bench_ops: %s\n", flrq_last_error());
        return 1;
    }
    op_timing copy = op_case_time(&copy_case, be, o.seconds), sgemm = op_case_time(&sgemm_case, be, o.seconds);
    if (!(copy.median > 0) || !(sgemm.median > 0)) {
        fprintf(stderr, "bench_ops: the limits could not be measured: %s\n", flrq_last_error());
        flrq_backend_close(be);
        return 1;
    }
    double bandwidth = copy.bytes / copy.median, rate = sgemm.flops / sgemm.median;
    printf("# %s: %s\n# limits: copy %.2f GB/s, sgemm %.1f GFLOP/s\n", be->name, info.name, 1e-9 * bandwidth,
           1e-9 * rate);
    printf(o.csv ? "op,shape,median_ms,best_ms,gb_s,of_copy,gflop_s,of_sgemm,floor,repeats\n"
                 : "# op, shape, median, best, bytes of copy, flops of sgemm, floor, repeats\n");
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (size_t i = 0; i < tables[t]->count; i++) {
            const op_case *c = &tables[t]->cases[i];
            char name[256];
            snprintf(name, sizeof name, "%s %s", c->op, c->shape);
            if (c->use != OP_BENCH || !strstr(name, o.only)) continue;
            op_timing timing = op_case_time(c, be, o.seconds);
            print_case(&o, c, &timing, bandwidth, rate);
        }
    flrq_backend_close(be);
    return 0;
}
