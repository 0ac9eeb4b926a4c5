/* opcase.c - the harness behind opcase.h: buffers with guards, one run of a case, comparison, timing.
 *
 * Everything a run function creates is kept in creation order, so that the n-th buffer of two runs of one case is the
 * same quantity; that is how outputs of two faces are matched. A run that cannot go on (no memory, too many buffers)
 * is left by longjmp to run_guarded(), which releases what the run had made: run functions need no failure paths.
 */
#include "cases/opcase.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/dtype.h"
#include "core/error.h"
#include "core/philox.h"

enum {
    GUARD_BYTES = 128,
    GUARD_VALUE = 0xA5,
    MAX_BUFFERS = 64,
    MAX_TEMPS = 64,
    MAX_TIMES = 1000,
    MAX_BATCH = 64,
    BENCH_TILE = 1 << 20, /* values that a bench repeats */
    SEED = 20240229
};

typedef struct buffer {
    char name[32];
    op_type type;
    int64_t count;
    size_t bytes, offset; /* of the data inside the allocation */
    op_compare how;
    double tolerance;
    bool output, on_host;
    char *allocation; /* backend memory, or host memory */
    char *initial;    /* host copy of the contents before the op; not in a bench */
    char *pristine;   /* backend copy of the same, for a bench's in-place op */
    char *result;     /* host copy after the run (outputs) */
} buffer;

/* What a run function did on one face. */
struct op_state {
    const op_case *c;
    jmp_buf give_up; /* valid inside run_guarded() */
    bool bench, supported, called, failed, in_call;
    size_t misalign; /* elements */
    buffer buffers[MAX_BUFFERS];
    int buffers_n;
    void *temps[MAX_TEMPS];
    int temps_n;
    flrq_codes codes[4]; /* structs on the host behind operands */
    int codes_n;
    flrq_status status;
    char text[512];                             /* first failure */
    double worst, worst_value, worst_tolerance; /* fraction of the tolerance used */
    char worst_name[64];
    double bytes, flops;
    /* Samples of the present OP_CALL; sample 0 warms up. */
    double started, budget, spent, times[MAX_TIMES];
    int times_n, batch, calls; /* calls of the present sample */
};

static const double batch_seconds = 1e-3;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void fail(op_state *s, const char *format, ...) {
    if (s->failed) return;
    va_list args;
    va_start(args, format);
    vsnprintf(s->text, sizeof s->text, format, args);
    va_end(args);
    s->failed = true;
}

static void check(op_state *s, flrq_status status) {
    if (status == FLRQ_OK) return;
    if (!s->failed) s->status = status;
    fail(s, "%s: %s", flrq_status_name(status), flrq_last_error());
}

/* Memory, or the end of the run. */
static void *must(op_state *s, void *memory, size_t bytes, const char *what) {
    if (memory) return memory;
    check(s, flrq_fail_memory(bytes, what));
    longjmp(s->give_up, 1);
}

static void *host_memory(op_state *s, size_t bytes, const char *what) {
    return must(s, malloc(bytes + 1), bytes, what);
}

double op_fast_error(const op_case *c, double roundings) {
    return c->use & OP_FAST ? OP_EPS_BF16 * sqrt(roundings / 3) : 0;
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static size_t type_bytes(op_type type) {
    static const size_t bytes[] = {4, 8, 1, 2, 4, 8};
    return bytes[type];
}

/* Fills a buffer and its guards. The image passes through a copy in host memory, which a bench drops again. */
static void write_all(op_run *r, const buffer *b, const void *host) {
    op_state *s = r->state;
    size_t total = b->offset + b->bytes + GUARD_BYTES;
    char *image = b->on_host ? b->allocation : host_memory(s, total, b->name);
    memset(image, GUARD_VALUE, total);
    if (host)
        memcpy(image + b->offset, host, b->bytes);
    else
        memset(image + b->offset, 0xFF, b->bytes);
    if (b->on_host) return;
    check(s, r->be->upload(r->be, b->allocation, image, total));
    free(image);
}

static char *backend_memory(op_run *r, size_t bytes, const char *what) {
    void *memory = NULL;
    flrq_status status = r->be->alloc(r->be, &memory, bytes, what);
    if (status == FLRQ_OK) return memory;
    check(r->state, status);
    longjmp(r->state->give_up, 1);
}

static void *add_buffer(op_run *r, const char *name, op_type type, const void *host, int64_t count, bool output,
                        bool on_host, op_compare how, double tolerance) {
    op_state *s = r->state;
    if (s->buffers_n == MAX_BUFFERS) {
        check(s, flrq_fail(FLRQ_ERR_INTERNAL, "more than %d buffers in a case", MAX_BUFFERS));
        longjmp(s->give_up, 1);
    }
    buffer *b = &s->buffers[s->buffers_n++];
    snprintf(b->name, sizeof b->name, "%s", name);
    b->type = type;
    b->bytes = (size_t)count * type_bytes(type);
    b->count = count;
    /* Host results are caller's variables: they keep the alignment of their type. */
    b->offset = GUARD_BYTES + (on_host ? 0 : s->misalign * type_bytes(type));
    b->how = how;
    b->tolerance = tolerance;
    b->output = output;
    b->on_host = on_host;
    size_t total = b->offset + b->bytes + GUARD_BYTES;
    b->allocation = on_host ? host_memory(s, total, name) : backend_memory(r, total, name);
    write_all(r, b, host);
    if (s->bench && output && host && !on_host) {
        b->pristine = backend_memory(r, total, name);
        check(s, r->be->copy(r->be, b->pristine, b->allocation, total));
    }
    if (!s->bench && !output) {
        b->initial = host_memory(s, b->bytes, name);
        memcpy(b->initial, host, b->bytes);
    }
    return b->allocation + b->offset;
}

void *op_in(op_run *r, const char *name, op_type type, const void *host, int64_t count) {
    return add_buffer(r, name, type, host, count, false, false, OP_ANY, 0);
}

void *op_temp(op_run *r, size_t bytes) {
    op_state *s = r->state;
    if (s->temps_n == MAX_TEMPS) {
        check(s, flrq_fail(FLRQ_ERR_INTERNAL, "more than %d temporaries in a case", MAX_TEMPS));
        longjmp(s->give_up, 1);
    }
    s->temps[s->temps_n] = must(s, calloc(1, bytes + 1), bytes, "a temporary of an op case");
    return s->temps[s->temps_n++];
}

/* Frees the newest temporary early. */
static void drop_temp(op_run *r, void *memory) {
    op_state *s = r->state;
    if (s->temps_n > 0 && s->temps[s->temps_n - 1] == memory) free(s->temps[--s->temps_n]);
}

void op_random(op_run *r, float *host, int64_t count, float scale, uint64_t stream) {
    char name[256];
    snprintf(name, sizeof name, "%s %s", r->state->c->op, r->state->c->shape);
    int64_t fresh = r->state->bench && count > BENCH_TILE ? BENCH_TILE : count;
    flrq_philox_normal(host, flrq_philox_key(SEED, name), stream, 0, (uint64_t)fresh);
    for (int64_t i = 0; i < fresh; i++) host[i] *= scale;
    for (int64_t i = fresh; i < count; i += fresh)
        memcpy(host + i, host, (size_t)(count - i < fresh ? count - i : fresh) * sizeof *host);
}

float *op_normal(op_run *r, const char *name, int64_t count, float scale) {
    float *host = op_temp(r, (size_t)count * sizeof *host);
    op_random(r, host, count, scale, (uint64_t)r->state->buffers_n);
    float *d = op_in(r, name, OP_F32, host, count);
    drop_temp(r, host);
    return d;
}

void *op_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance) {
    return add_buffer(r, name, type, NULL, count, true, false, how, tolerance);
}

void *op_scratch(op_run *r, op_type type, int64_t count) {
    return op_out(r, "scratch", type, count, OP_IGNORE, 0);
}

void *op_inout(op_run *r, const char *name, op_type type, const void *host, int64_t count, op_compare how,
               double tolerance) {
    return add_buffer(r, name, type, host, count, true, false, how, tolerance);
}

void *op_host_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance) {
    return add_buffer(r, name, type, NULL, count, true, true, how, tolerance);
}

void op_get(op_run *r, void *host, const void *d_from, size_t bytes) {
    check(r->state, r->be->download(r->be, host, d_from, bytes));
}

void op_cost(op_run *r, double bytes, double flops) {
    r->state->bytes = bytes;
    r->state->flops = flops;
}

bool op_ok(const op_run *r) {
    return !r->state->bench && r->state->called && !r->state->failed;
}

static void note_error(op_state *s, const char *what, double value, double tolerance) {
    double used = tolerance > 0 ? value / tolerance : value > 0 ? INFINITY : 0;
    if (used > s->worst || s->worst_name[0] == 0) {
        s->worst = used;
        s->worst_value = value;
        s->worst_tolerance = tolerance;
        snprintf(s->worst_name, sizeof s->worst_name, "%s", what);
    }
    if (!(value <= tolerance))
        fail(s, "%s: error %.3g, tolerance %.3g (%.0f%% of it)", what, value, tolerance, 100 * used);
}

void op_expect(op_run *r, const char *what, double value, double tolerance) {
    if (op_ok(r)) note_error(r->state, what, value, tolerance);
}

/* ---- operands ---------------------------------------------------------------------------------------------------- */

static const void *dense_part(op_run *r, const op_matrix *m, flrq_dtype *dtype) {
    if (!flrq_dtype_parse(m->dense, dtype)) {
        check(r->state, flrq_fail(FLRQ_ERR_INTERNAL, "no type \"%s\" of a dense part", m->dense));
        longjmp(r->state->give_up, 1);
    }
    int64_t ld = m->cols + m->ld_extra, count = m->rows * ld;
    size_t bytes = (size_t)flrq_dtype_bits(*dtype) / 8;
    float *values = op_temp(r, (size_t)count * sizeof *values);
    op_random(r, values, count, 1.0f, 1000);
    char *stored = *dtype == FLRQ_F32 && !m->ld_extra ? (char *)values : op_temp(r, (size_t)count * bytes);
    for (int64_t i = 0; i < m->rows && (void *)stored != values; i++)
        for (int64_t j = 0; j < ld; j++) /* the padding is NaN: reading it would show */
            flrq_store(stored, *dtype, i * ld + j, j < m->cols ? values[i * ld + j] : NAN);
    const void *d = op_in(r, "dense", *dtype == FLRQ_F32 ? OP_F32 : OP_U16, stored, count);
    drop_temp(r, stored);
    if ((void *)stored != values) drop_temp(r, values);
    return d;
}

static const flrq_codes *codes_part(op_run *r, const op_matrix *m) {
    op_state *s = r->state;
    flrq_codes *codes = &s->codes[s->codes_n++];
    int64_t group = m->group ? m->group : m->cols, groups = (m->cols + group - 1) / group;
    int64_t count = m->rows * m->cols, scales = m->rows * groups;
    int64_t fresh = s->bench && count > BENCH_TILE ? BENCH_TILE : count;
    *codes = (flrq_codes){.rows = m->rows,
                          .cols = m->cols,
                          .group = group,
                          .n_groups = groups,
                          .bits = m->bits,
                          .symmetric = !m->asymmetric};
    uint64_t key = flrq_philox_key(SEED, s->c->shape);
    float *scale = op_temp(r, (size_t)scales * sizeof *scale);
    uint8_t *zero = op_temp(r, (size_t)scales), *code = op_temp(r, (size_t)count);
    for (int64_t i = 0; i < fresh; i++)
        code[i] = (uint8_t)flrq_philox_below(key, 2000, (uint64_t)i, (uint64_t)1 << m->bits);
    for (int64_t i = fresh; i < count; i += fresh)
        memcpy(code + i, code, (size_t)(count - i < fresh ? count - i : fresh));
    op_random(r, scale, scales, 0.25f, 1001);
    for (int64_t i = 0; i < scales; i++) {
        zero[i] = (uint8_t)flrq_philox_below(key, 2001, (uint64_t)i, (uint64_t)1 << m->bits);
        scale[i] = flrq_round_scale(ldexpf(scale[i] < 0 ? scale[i] - 1 : scale[i] + 1, 1 - m->bits));
    }
    codes->code = op_in(r, "codes", OP_U8, code, count);
    codes->scale = op_in(r, "scales", OP_F32, scale, scales);
    codes->zero = m->asymmetric ? op_in(r, "zeros", OP_U8, zero, scales) : NULL;
    drop_temp(r, code);
    drop_temp(r, zero);
    drop_temp(r, scale);
    return codes;
}

flrq_operand op_operand(op_run *r, const op_matrix *m) {
    flrq_operand a = {.rows = m->rows,
                      .cols = m->cols,
                      .ld_dense = m->cols + m->ld_extra,
                      .rank = m->rank,
                      .codes_sign = m->codes_sign != 0 ? m->codes_sign : 1,
                      .lr_sign = m->lr_sign != 0 ? m->lr_sign : 1};
    if (m->dense) a.d_dense = dense_part(r, m, &a.dense_dtype);
    if (m->bits) a.codes = codes_part(r, m);
    if (m->rank > 0) {
        a.d_l = op_normal(r, "L", m->rows * m->rank, 1.0f);
        a.d_r = op_normal(r, "R", m->rank * m->cols, 0.1f);
    }
    if (m->col_scale) {
        float *scale = op_temp(r, (size_t)m->cols * sizeof *scale);
        op_random(r, scale, m->cols, 1.0f, 1002);
        for (int64_t j = 0; j < m->cols; j++) scale[j] = exp2f(fmaxf(-2, fminf(1.99f, scale[j])));
        a.d_col_scale = op_in(r, "column scale", OP_F32, scale, m->cols);
        drop_temp(r, scale);
    }
    return a;
}

double op_operand_bytes(const op_matrix *m) {
    flrq_dtype dtype = FLRQ_F32;
    double elements = (double)m->rows * (double)m->cols, bytes = 0;
    if (m->dense && flrq_dtype_parse(m->dense, &dtype)) bytes += elements * flrq_dtype_bits(dtype) / 8;
    if (m->bits) bytes += elements * (1 + (m->asymmetric ? 5.0 : 4.0) / (double)(m->group ? m->group : m->cols));
    return bytes + 4.0 * (double)m->rank * (double)(m->rows + m->cols) + (m->col_scale ? 4.0 * (double)m->cols : 0);
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static bool writes_over_inputs(const op_state *s) {
    for (int i = 0; i < s->buffers_n; i++)
        if (s->buffers[i].pristine) return true;
    return false;
}

/* The end of sampling, and after the first sample the size of the others. */
static bool sampled_enough(op_state *s) {
    if (s->times_n == 2 && s->batch == 1 && !writes_over_inputs(s)) {
        double wanted = batch_seconds / fmax(s->times[1], 1e-9);
        s->batch = wanted > MAX_BATCH ? MAX_BATCH : wanted > 1 ? (int)wanted : 1;
        if (s->batch > 1) s->times_n = 1;
    }
    return s->times_n == MAX_TIMES || (s->times_n > 3 && s->spent > s->budget) ||
           (s->times_n > 1 && s->spent > 5 * s->budget);
}

bool op_next(op_run *r, bool supported) {
    op_state *s = r->state;
    if (!supported) s->supported = false;
    if (!supported || s->failed) return false;
    if (!s->in_call) {
        s->times_n = s->calls = 0;
        s->batch = 1;
        s->spent = 0;
        s->in_call = true;
    } else if (s->calls == 0 && (!s->bench || sampled_enough(s))) {
        s->in_call = false;
        return false;
    }
    if (s->bench && s->calls == 0) {
        for (int i = 0; i < s->buffers_n; i++) {
            const buffer *b = &s->buffers[i];
            if (b->pristine)
                check(s, r->be->copy(r->be, b->allocation, b->pristine, b->offset + b->bytes + GUARD_BYTES));
        }
        check(s, r->be->sync(r->be));
        s->started = now();
    }
    return true;
}

void op_done(op_run *r, flrq_status status) {
    op_state *s = r->state;
    check(s, status);
    s->called = true;
    if (!s->bench) return;
    if (++s->calls < s->batch && !s->failed) return;
    check(s, r->be->sync(r->be));
    double seconds = now() - s->started;
    s->spent += seconds;
    s->times[s->times_n++] = seconds / s->calls;
    s->calls = 0;
}

/* Fetches outputs, checks guards and that inputs are untouched. */
static void collect(op_run *r) {
    op_state *s = r->state;
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        buffer *b = &s->buffers[i];
        size_t total = b->offset + b->bytes + GUARD_BYTES;
        char *image = op_temp(r, total);
        if (b->on_host)
            memcpy(image, b->allocation, total);
        else
            check(s, r->be->download(r->be, image, b->allocation, total));
        for (size_t k = 0; k < total && !s->failed; k++) {
            bool inside = k >= b->offset && k < b->offset + b->bytes;
            if (!inside && (unsigned char)image[k] != GUARD_VALUE)
                fail(s, "%s: byte %td outside the buffer of %zu bytes was written", b->name,
                     (ptrdiff_t)k - (ptrdiff_t)b->offset, b->bytes);
        }
        if (!b->output && !s->failed && memcmp(image + b->offset, b->initial, b->bytes) != 0)
            fail(s, "%s: an input was changed", b->name);
        b->result = host_memory(s, b->bytes, b->name);
        memcpy(b->result, image + b->offset, b->bytes);
        drop_temp(r, image);
    }
}

/* Runs the case and takes away what it made in the backend's memory. */
static void run_guarded(op_run *r) {
    op_state *s = r->state;
    flrq_set_precision(r->be, s->c->use & OP_FAST ? FLRQ_PRECISION_FAST : FLRQ_PRECISION_FULL);
    if (setjmp(s->give_up) == 0) {
        s->c->run(r, s->c);
        if (s->supported && !s->called) fail(s, "the run function called no op");
        if (s->supported && !s->failed && !s->bench) collect(r);
    }
    flrq_set_precision(r->be, FLRQ_PRECISION_FULL);
    for (int i = 0; i < s->buffers_n; i++) {
        buffer *b = &s->buffers[i];
        if (b->on_host)
            free(b->allocation);
        else
            r->be->release(r->be, b->allocation);
        r->be->release(r->be, b->pristine);
        b->allocation = b->pristine = NULL;
    }
    while (s->temps_n > 0) free(s->temps[--s->temps_n]);
}

op_state *op_case_run(const op_case *c, flrq_backend *be, size_t misalign) {
    op_state *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    op_run r = {be, s};
    s->c = c;
    s->supported = true;
    s->misalign = misalign;
    run_guarded(&r);
    return s;
}

void op_state_free(op_state *s) {
    if (!s) return;
    for (int i = 0; i < s->buffers_n; i++) {
        free(s->buffers[i].initial);
        free(s->buffers[i].result);
    }
    free(s);
}

op_verdict op_case_verdict(const op_state *s) {
    return (op_verdict){.supported = s->supported,
                        .failed = s->failed,
                        .text = s->text,
                        .quantity = s->worst_name,
                        .used = s->worst,
                        .value = s->worst_value,
                        .tolerance = s->worst_tolerance};
}

/* ---- comparison -------------------------------------------------------------------------------------------------- */

static double value_at(const buffer *b, int64_t i) {
    switch (b->type) {
    case OP_F32:
        return ((const float *)b->result)[i];
    case OP_F64:
        return ((const double *)b->result)[i];
    case OP_U8:
        return ((const uint8_t *)b->result)[i];
    case OP_U16:
        return ((const uint16_t *)b->result)[i];
    case OP_I32:
        return ((const int32_t *)b->result)[i];
    default:
        return (double)((const int64_t *)b->result)[i];
    }
}

static bool all_finite(op_state *s, const buffer *b, const char *whose) {
    if (b->type != OP_F32 && b->type != OP_F64) return true;
    for (int64_t i = 0; i < b->count; i++)
        if (!isfinite(value_at(b, i))) {
            fail(s, "%s: element %lld of %lld %s is %g", b->name, (long long)i, (long long)b->count, whose,
                 value_at(b, i));
            return false;
        }
    return true;
}

static double distance(const buffer *got, const buffer *ref) {
    double error2 = 0, norm2 = 0, error_max = 0, norm_max = 0, each = 0;
    for (int64_t i = 0; i < ref->count; i++) {
        double v = value_at(ref, i), e = fabs(value_at(got, i) - v);
        error2 += e * e;
        norm2 += v * v;
        error_max = fmax(error_max, e);
        norm_max = fmax(norm_max, fabs(v));
        if (e > 0) each = fmax(each, v != 0 ? e / fabs(v) : INFINITY);
    }
    double error = ref->how == OP_NORM ? sqrt(error2) : error_max, norm = ref->how == OP_NORM ? sqrt(norm2) : norm_max;
    if (ref->how == OP_EACH) return each;
    return error == 0 ? 0 : norm > 0 ? error / norm : INFINITY;
}

void op_case_compare(op_state *s, const op_state *ref) {
    if (!s->supported) return;
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        const buffer *got = &s->buffers[i], *want = &ref->buffers[i];
        if (!got->output || got->how == OP_IGNORE) continue;
        if (s->buffers_n != ref->buffers_n || got->bytes != want->bytes || got->type != want->type) {
            fail(s, "%s: the run function made other buffers for the reference", got->name);
            return;
        }
        if (!all_finite(s, want, "of the reference") || !all_finite(s, got, "of the result")) return;
        if (want->how == OP_ANY) continue;
        if (want->how != OP_EXACT) {
            note_error(s, got->name, distance(got, want), want->tolerance);
            continue;
        }
        size_t width = type_bytes(got->type);
        for (int64_t k = 0; k < want->count && !s->failed; k++)
            if (memcmp(got->result + (size_t)k * width, want->result + (size_t)k * width, width) != 0)
                fail(s, "%s: element %lld is %.9g, must be %.9g exactly", got->name, (long long)k, value_at(got, k),
                     value_at(want, k));
        note_error(s, got->name, 0, 0);
    }
}

void op_case_same(op_state *s, const op_state *first) {
    if (!s->supported) return;
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        const buffer *got = &s->buffers[i], *want = &first->buffers[i];
        if (got->output && got->how != OP_IGNORE && memcmp(got->result, want->result, got->bytes) != 0)
            fail(s, "%s: other bytes than on the first face", got->name);
    }
}

/* ---- timing ------------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

op_timing op_case_time(const op_case *c, flrq_backend *be, double seconds) {
    op_timing t = {.supported = true, .status = FLRQ_ERR_MEMORY, .text = "out of host memory"};
    op_state *s = calloc(1, sizeof *s);
    if (!s) return t;
    op_run r = {be, s};
    s->c = c;
    s->supported = s->bench = true;
    s->budget = seconds;
    run_guarded(&r);
    t = (op_timing){.supported = s->supported,
                    .status = s->failed && s->status == FLRQ_OK ? FLRQ_ERR_INTERNAL : s->status,
                    .bytes = s->bytes,
                    .flops = s->flops,
                    .batch = s->batch};
    memcpy(t.text, s->text, sizeof t.text);
    if (s->supported && !s->failed && s->times_n > 1) {
        t.samples = s->times_n - 1; /* the first call warms up */
        double *times = s->times + 1;
        qsort(times, (size_t)t.samples, sizeof *times, by_value);
        t.best = times[0];
        t.p10 = times[t.samples / 10];
        t.median = times[t.samples / 2];
        t.p90 = times[t.samples - 1 - t.samples / 10];
    }
    op_state_free(s);
    return t;
}
