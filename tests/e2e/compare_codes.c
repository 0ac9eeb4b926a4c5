/* compare_codes.c - two quantized folders of one source, integer by integer: equal, or different for a reason?
 *
 *   compare_codes SOURCE A B
 *
 * Two backends may round an activation or a factor differently in the last bit, and an integer at the boundary between
 * two roundings then falls to the other side. For each code that differs this program recomputes both: code = nearest
 * integer of (W - L R) / scale + zero with each folder's own factors and scale, in double. It is explained when each
 * folder's integer is the nearest one to its own residual (or the end of the range). Scales that differ are counted by
 * groups; they are explained when both folders' errors of the group, unweighted, are within 10 % of each other (the
 * search weighs its errors, so they need not be equal), and the codes under them by the same rule as all. Prints the
 * counts as JSON and fails when anything is unexplained.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/dtype.h"
#include "core/error.h"
#include "model/model.h"
#include "quant/fit.h"

typedef struct side {
    flrq_model *model;
    flrq_codes codes;
    float *l, *r;
    int64_t rank;
} side;

typedef struct counts {
    int64_t codes, codes_differ, codes_unexplained, groups, scales_differ, scales_unexplained, ranks_differ;
} counts;

static void must(flrq_status status, const char *what) {
    if (status == FLRQ_OK) return;
    fprintf(stderr, "compare_codes: %s: %s\n", what, flrq_last_error());
    exit(2);
}

static void load(side *s, flrq_backend *be, const flrq_linear *l) {
    flrq_extent extent = {l->rows, l->cols, l->rows * l->cols};
    int64_t rank = l->lora_a ? l->lora_a->shape[0] : 0;
    must(flrq_codes_alloc(&s->codes, be, &s->model->scheme, extent), l->module);
    must(be->alloc(be, (void **)&s->l, (size_t)(l->rows * rank) * sizeof(float), "L"), l->module);
    must(be->alloc(be, (void **)&s->r, (size_t)(l->cols * rank) * sizeof(float), "R"), l->module);
    must(flrq_linear_load_packed(s->model, be, l, &s->codes, s->l, s->r, &s->rank), l->module);
}

static void unload(side *s, flrq_backend *be) {
    be->release(be, s->r);
    be->release(be, s->l);
    flrq_codes_release(&s->codes, be);
}

static double residual(const side *s, double w, int64_t i, int64_t j) {
    for (int64_t k = 0; k < s->rank; k++) w -= (double)s->l[i * s->rank + k] * (double)s->r[k * s->codes.cols + j];
    return w;
}

static double zero_of(const flrq_codes *c, int64_t cell) {
    return c->zero ? (double)c->zero[cell] : (double)(1 << (c->bits - 1));
}

/* Whether a folder's code is the rounding of its own residual; products of fp32 sums leave it 1e-4 of a step away. */
static int is_rounding(const side *s, double w, int64_t i, int64_t j) {
    const flrq_codes *c = &s->codes;
    int64_t cell = i * c->n_groups + j / c->group;
    double exact = residual(s, w, i, j) / (double)c->scale[cell] + zero_of(c, cell),
           last = (double)((1 << c->bits) - 1);
    double code = (double)c->code[i * c->cols + j];
    return fabs(fmin(fmax(exact, 0), last) - code) <= 0.5 + 1e-4 * (1 + fabs(exact));
}

static double group_error(const side *s, const float *w, int64_t i, int64_t g) {
    const flrq_codes *c = &s->codes;
    int64_t cell = i * c->n_groups + g, end = (g + 1) * c->group < c->cols ? (g + 1) * c->group : c->cols;
    double sum = 0;
    for (int64_t j = g * c->group; j < end; j++) {
        double e = residual(s, (double)w[i * c->cols + j], i, j) -
                   (double)c->scale[cell] * ((double)c->code[i * c->cols + j] - zero_of(c, cell));
        sum += e * e;
    }
    return sqrt(sum);
}

static void compare(counts *n, const side *a, const side *b, const float *w) {
    const flrq_codes *c = &a->codes;
    n->ranks_differ += a->rank != b->rank;
    for (int64_t i = 0; i < c->rows; i++) {
        for (int64_t g = 0; g < c->n_groups; g++, n->groups++) {
            if (a->codes.scale[i * c->n_groups + g] == b->codes.scale[i * c->n_groups + g]) continue;
            double x = group_error(a, w, i, g), y = group_error(b, w, i, g);
            n->scales_differ++;
            n->scales_unexplained += !(fabs(x - y) <= 0.1 * fmax(x, y));
        }
        for (int64_t j = 0; j < c->cols; j++, n->codes++) {
            if (a->codes.code[i * c->cols + j] == b->codes.code[i * c->cols + j]) continue;
            double value = (double)w[i * c->cols + j];
            n->codes_differ++;
            n->codes_unexplained += !is_rounding(a, value, i, j) || !is_rounding(b, value, i, j);
        }
    }
}

/* The source weight in fp32. */
static float *read_weight(const flrq_model *model, const flrq_tensor *t) {
    int64_t count = t->shape[0] * t->shape[1];
    void *raw = malloc((size_t)t->bytes);
    float *w = malloc((size_t)count * sizeof *w);
    if (!raw || !w) must(flrq_fail_memory((size_t)count * sizeof *w, "a weight"), t->name);
    must(flrq_checkpoint_read(model->checkpoint, t, raw, 0, t->bytes), t->name);
    for (int64_t i = 0; i < count; i++) w[i] = flrq_load(raw, t->dtype, i);
    free(raw);
    return w;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: compare_codes SOURCE A B\n");
        return 2;
    }
    flrq_backend *be;
    flrq_model *source;
    side a = {0}, b = {0};
    counts n = {0};
    must(flrq_backend_open(&be, "cpu", 1), "cpu");
    must(flrq_model_open(&source, argv[1], 0), argv[1]);
    must(flrq_model_open(&a.model, argv[2], 0), argv[2]);
    must(flrq_model_open(&b.model, argv[3], 0), argv[3]);
    for (int64_t i = 0; i < source->n_linears; i++) {
        float *w = read_weight(source, source->linears[i].weight);
        load(&a, be, &a.model->linears[i]);
        load(&b, be, &b.model->linears[i]);
        compare(&n, &a, &b, w);
        unload(&a, be);
        unload(&b, be);
        free(w);
    }
    printf("{\"codes\":%lld,\"codes_differ\":%lld,\"codes_unexplained\":%lld,\"groups\":%lld,\"scales_differ\":%lld,"
           "\"scales_unexplained\":%lld,\"ranks_differ\":%lld}\n",
           (long long)n.codes, (long long)n.codes_differ, (long long)n.codes_unexplained, (long long)n.groups,
           (long long)n.scales_differ, (long long)n.scales_unexplained, (long long)n.ranks_differ);
    flrq_model_close(b.model);
    flrq_model_close(a.model);
    flrq_model_close(source);
    flrq_backend_close(be);
    return n.codes_unexplained || n.scales_unexplained;
}
