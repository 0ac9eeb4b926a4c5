/* opcase.c - the harness behind opcase.h: buffers with guards, faces of a backend, comparison, timing.
 *
 * Everything a run function creates is kept in creation order, so that the n-th buffer of two runs of one case is the
 * same quantity; that is how outputs of two faces are matched. Exits (this is a test program) when host memory runs
 * out.
 */
#include "backend/opcase.h"

#include <math.h>
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
    MAX_FACES = 8,
    MAX_TIMES = 1000,
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
    char *initial;    /* host copy of the contents before the op */
    char *result;     /* host copy after the run (outputs) */
} buffer;

/* What a run function did on one face. */
typedef struct op_state {
    const op_case *c;
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
    /* Calls of the present OP_CALL. */
    double started, budget, spent, times[MAX_TIMES];
    int times_n;
} op_state;

static void *must(void *memory) {
    if (memory) return memory;
    fprintf(stderr, "opcase: out of host memory\n");
    exit(2);
}

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
    if (status != FLRQ_OK) fail(s, "%s: %s", flrq_status_name(status), flrq_last_error());
}

/* ---- buffers ----------------------------------------------------------------------------------------------------- */

static size_t type_bytes(op_type type) {
    static const size_t bytes[] = {4, 8, 1, 2, 4, 8};
    return bytes[type];
}

static void write_all(op_run *r, const buffer *b) {
    op_state *s = r->state;
    size_t total = b->offset + b->bytes + GUARD_BYTES;
    char *image = must(malloc(total));
    memset(image, GUARD_VALUE, total);
    memcpy(image + b->offset, b->initial, b->bytes);
    if (b->on_host)
        memcpy(b->allocation, image, total);
    else
        check(s, r->be->upload(r->be, b->allocation, image, total));
    free(image);
}

static void *add_buffer(op_run *r, const char *name, op_type type, const void *host, size_t bytes, bool output,
                        bool on_host, op_compare how, double tolerance) {
    op_state *s = r->state;
    if (s->buffers_n == MAX_BUFFERS) {
        fprintf(stderr, "opcase: more than %d buffers in %s %s\n", MAX_BUFFERS, s->c->op, s->c->shape);
        exit(2);
    }
    buffer *b = &s->buffers[s->buffers_n++];
    snprintf(b->name, sizeof b->name, "%s", name);
    b->type = type;
    b->bytes = bytes;
    b->count = (int64_t)(bytes / type_bytes(type));
    /* Host results are caller's variables: they keep the alignment of their type. */
    b->offset = GUARD_BYTES + (on_host ? 0 : s->misalign * type_bytes(type));
    b->how = how;
    b->tolerance = tolerance;
    b->output = output;
    b->on_host = on_host;
    b->initial = must(malloc(bytes + 1));
    if (host)
        memcpy(b->initial, host, bytes);
    else
        memset(b->initial, 0xFF, bytes);
    size_t total = b->offset + bytes + GUARD_BYTES;
    if (on_host) {
        b->allocation = must(malloc(total));
    } else {
        void *memory = NULL;
        flrq_status status = r->be->alloc(r->be, &memory, total, name);
        if (status != FLRQ_OK) {
            fprintf(stderr, "opcase: %s\n", flrq_last_error());
            exit(2);
        }
        b->allocation = memory;
    }
    write_all(r, b);
    return b->allocation + b->offset;
}

void *op_in(op_run *r, const char *name, op_type type, const void *host, int64_t count) {
    return add_buffer(r, name, type, host, (size_t)count * type_bytes(type), false, false, OP_ANY, 0);
}

void *op_temp(op_run *r, size_t bytes) {
    op_state *s = r->state;
    if (s->temps_n == MAX_TEMPS) must(NULL);
    return s->temps[s->temps_n++] = must(calloc(1, bytes + 1));
}

void op_random(op_run *r, float *host, int64_t count, float scale, uint64_t stream) {
    char name[256];
    snprintf(name, sizeof name, "%s %s", r->state->c->op, r->state->c->shape);
    flrq_philox_normal(host, flrq_philox_key(SEED, name), stream, 0, (uint64_t)count);
    for (int64_t i = 0; i < count; i++) host[i] *= scale;
}

float *op_normal(op_run *r, const char *name, int64_t count, float scale) {
    float *host = must(malloc((size_t)count * sizeof *host + 1));
    op_random(r, host, count, scale, (uint64_t)r->state->buffers_n);
    float *d = add_buffer(r, name, OP_F32, host, (size_t)count * sizeof *host, false, false, OP_ANY, 0);
    free(host);
    return d;
}

void *op_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance) {
    return add_buffer(r, name, type, NULL, (size_t)count * type_bytes(type), true, false, how, tolerance);
}

void *op_inout(op_run *r, const char *name, op_type type, const void *host, int64_t count, op_compare how,
               double tolerance) {
    return add_buffer(r, name, type, host, (size_t)count * type_bytes(type), true, false, how, tolerance);
}

void *op_host_out(op_run *r, const char *name, op_type type, int64_t count, op_compare how, double tolerance) {
    return add_buffer(r, name, type, NULL, (size_t)count * type_bytes(type), true, true, how, tolerance);
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
    if (!flrq_dtype_parse(m->dense, dtype)) must(NULL);
    int64_t ld = m->cols + m->ld_extra, count = m->rows * ld;
    float *values = must(malloc((size_t)count * sizeof *values + 1));
    op_random(r, values, count, 1.0f, 1000);
    size_t bytes = (size_t)flrq_dtype_bits(*dtype) / 8;
    char *stored = must(calloc((size_t)count + 1, bytes));
    for (int64_t i = 0; i < m->rows; i++)
        for (int64_t j = 0; j < ld; j++) /* the padding is NaN: reading it would show */
            flrq_store(stored, *dtype, i * ld + j, j < m->cols ? values[i * ld + j] : NAN);
    const void *d = op_in(r, "dense", *dtype == FLRQ_F32 ? OP_F32 : OP_U16, stored, count);
    free(stored);
    free(values);
    return d;
}

static const flrq_codes *codes_part(op_run *r, const op_matrix *m) {
    op_state *s = r->state;
    flrq_codes *codes = &s->codes[s->codes_n++];
    int64_t group = m->group ? m->group : m->cols, groups = (m->cols + group - 1) / group;
    int64_t count = m->rows * m->cols, scales = m->rows * groups;
    *codes = (flrq_codes){.rows = m->rows,
                          .cols = m->cols,
                          .group = group,
                          .n_groups = groups,
                          .bits = m->bits,
                          .symmetric = !m->asymmetric};
    uint64_t key = flrq_philox_key(SEED, s->c->shape);
    uint8_t *code = must(malloc((size_t)count + 1)), *zero = must(malloc((size_t)scales + 1));
    float *scale = must(malloc((size_t)scales * sizeof *scale + 1));
    for (int64_t i = 0; i < count; i++)
        code[i] = (uint8_t)flrq_philox_below(key, 2000, (uint64_t)i, (uint64_t)1 << m->bits);
    op_random(r, scale, scales, 0.25f, 1001);
    for (int64_t i = 0; i < scales; i++) {
        zero[i] = (uint8_t)flrq_philox_below(key, 2001, (uint64_t)i, (uint64_t)1 << m->bits);
        scale[i] = flrq_round_scale(ldexpf(scale[i] < 0 ? scale[i] - 1 : scale[i] + 1, 1 - m->bits));
    }
    codes->code = op_in(r, "codes", OP_U8, code, count);
    codes->scale = op_in(r, "scales", OP_F32, scale, scales);
    codes->zero = m->asymmetric ? op_in(r, "zeros", OP_U8, zero, scales) : NULL;
    free(code);
    free(zero);
    free(scale);
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
        float *scale = must(malloc((size_t)m->cols * sizeof *scale + 1));
        op_random(r, scale, m->cols, 1.0f, 1002);
        for (int64_t j = 0; j < m->cols; j++) scale[j] = exp2f(fmaxf(-2, fminf(1.99f, scale[j])));
        a.d_col_scale = op_in(r, "column scale", OP_F32, scale, m->cols);
        free(scale);
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

bool op_next(op_run *r, bool supported) {
    op_state *s = r->state;
    if (!supported) s->supported = false;
    if (!supported || s->failed) return false;
    if (!s->in_call) {
        s->times_n = 0;
        s->spent = 0;
        s->in_call = true;
    } else if (!s->bench || s->times_n == MAX_TIMES || (s->times_n > 3 && s->spent > s->budget)) {
        s->in_call = false;
        return false;
    }
    if (s->bench) {
        for (int i = 0; i < s->buffers_n; i++)
            if (s->buffers[i].output) write_all(r, &s->buffers[i]);
        check(s, r->be->sync(r->be));
        s->started = now();
    }
    return true;
}

void op_done(op_run *r, flrq_status status) {
    op_state *s = r->state;
    check(s, status);
    s->status = status;
    s->called = true;
    if (s->bench) {
        check(s, r->be->sync(r->be));
        s->times[s->times_n] = now() - s->started;
        s->spent += s->times[s->times_n];
    }
    s->times_n++;
}

/* Fetches outputs, checks guards and that inputs are untouched. */
static void collect(op_run *r) {
    op_state *s = r->state;
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        buffer *b = &s->buffers[i];
        size_t total = b->offset + b->bytes + GUARD_BYTES;
        char *image = must(malloc(total));
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
        b->result = must(malloc(b->bytes + 1));
        memcpy(b->result, image + b->offset, b->bytes);
        free(image);
    }
}

static op_state *run_once(const op_case *c, flrq_backend *be, size_t misalign) {
    op_state *s = must(calloc(1, sizeof *s));
    op_run r = {be, s};
    s->c = c;
    s->supported = true;
    s->misalign = misalign;
    c->run(&r, c);
    if (s->supported && !s->called) fail(s, "the run function called no op");
    if (s->supported && !s->failed) collect(&r);
    for (int i = 0; i < s->buffers_n; i++) {
        buffer *b = &s->buffers[i];
        if (b->on_host)
            free(b->allocation);
        else
            be->release(be, b->allocation);
        b->allocation = NULL;
    }
    for (int i = 0; i < s->temps_n; i++) free(s->temps[i]);
    s->temps_n = 0;
    return s;
}

static void state_free(op_state *s) {
    if (!s) return;
    for (int i = 0; i < s->buffers_n; i++) {
        free(s->buffers[i].initial);
        free(s->buffers[i].result);
    }
    free(s);
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

static void compare(op_state *s, const op_state *ref) {
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        const buffer *got = &s->buffers[i], *want = &ref->buffers[i];
        if (!got->output) continue;
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

static void same_bytes(op_state *s, const op_state *first) {
    for (int i = 0; i < s->buffers_n && !s->failed; i++) {
        const buffer *got = &s->buffers[i], *want = &first->buffers[i];
        if (got->output && memcmp(got->result, want->result, got->bytes) != 0)
            fail(s, "%s: other bytes than on the first face", got->name);
    }
}

/* ---- faces of a backend ------------------------------------------------------------------------------------------ */

typedef struct face {
    char name[64];
    flrq_backend *be;
    size_t misalign;
    bool same; /* bytes must equal those of face 0 */
} face;

static flrq_backend *open_or_exit(const char *backend, int threads) {
    flrq_backend *be;
    if (flrq_backend_open(&be, backend, threads) != FLRQ_OK) {
        fprintf(stderr, "opcase: %s\n", flrq_last_error());
        exit(2);
    }
    return be;
}

static int add_face(face *faces, int count, const char *backend, int threads, size_t misalign, bool same) {
    face *f = &faces[count];
    f->be = open_or_exit(backend, threads);
    f->misalign = misalign;
    f->same = same;
    flrq_device_info info = {0};
    f->be->info(f->be, &info);
    snprintf(f->name, sizeof f->name, "%s %.20s %d threads%s", backend, info.instruction_set, info.threads,
             misalign ? " misaligned" : "");
    return count + 1;
}

static int open_faces(face *faces, const char *backend) {
    int count = add_face(faces, 0, backend, 2, 0, false);
    count = add_face(faces, count, backend, 1, 0, true);
    if (strcmp(backend, "cpu") == 0) count = add_face(faces, count, backend, 5, 0, true);
    count = add_face(faces, count, backend, 2, 1, false);
    if (strcmp(backend, "cpu") != 0) return count;
    flrq_device_info native = {0};
    faces[0].be->info(faces[0].be, &native);
    const char *user = getenv("FLRQ_ISA");
    char *keep = user ? must(strdup(user)) : NULL;
    static const char *const isas[] = {"avx2", "generic"};
    for (int i = strcmp(native.instruction_set, "avx512") == 0 ? 0 : 1; i < 2; i++) {
        if (strcmp(native.instruction_set, isas[i]) == 0) break;
        setenv("FLRQ_ISA", isas[i], 1);
        count = add_face(faces, count, backend, 2, 0, false);
    }
    if (keep)
        setenv("FLRQ_ISA", keep, 1);
    else
        unsetenv("FLRQ_ISA");
    free(keep);
    return count;
}

/* Runs one case everywhere. Returns false when it failed; prints one line, and one more for a failure. */
static bool test_case(const op_case *c, const face *faces, int count, flrq_backend *reference) {
    op_state *ref = run_once(c, reference, 0), *first = NULL;
    double worst = -1, value = 0, tolerance = 0;
    char quantity[64] = "", where[64] = "", text[2048] = "";
    bool supported = ref->supported && count > 0;
    if (ref->failed) snprintf(text, sizeof text, "cpu-ref: %s", ref->text);
    for (int i = 0; i < count && supported && !text[0]; i++) {
        op_state *s = run_once(c, faces[i].be, faces[i].misalign);
        if (s->supported && !s->failed) compare(s, ref);
        if (s->supported && !s->failed && first && faces[i].same) same_bytes(s, first);
        if (s->failed) snprintf(text, sizeof text, "%s: %s", faces[i].name, s->text);
        if (s->worst > worst && s->worst_name[0]) {
            worst = s->worst, value = s->worst_value, tolerance = s->worst_tolerance;
            memcpy(quantity, s->worst_name, sizeof quantity);
            snprintf(where, sizeof where, "%.63s", faces[i].name);
        }
        supported = s->supported;
        if (i == 0)
            first = s;
        else
            state_free(s);
    }
    if (text[0])
        printf("FAIL  %s %s\n      %s\n      replay: FLRQ_TEST_OPS=\"%s %s\"\n", c->op, c->shape, text, c->op,
               c->shape);
    else if (!supported)
        printf("none  %s %s: not supported\n", c->op, c->shape);
    else if (tolerance > 0)
        printf("ok    %s %s: %s %.2e of %.2e, %.0f%% (%s)\n", c->op, c->shape, quantity, value, tolerance, 100 * worst,
               where);
    else
        printf("ok    %s %s: exact\n", c->op, c->shape);
    state_free(first);
    state_free(ref);
    return !text[0];
}

int op_table_test(const op_table *table, const char *backend) {
    face faces[MAX_FACES];
    int count = open_faces(faces, backend), failures = 0, ran = 0;
    flrq_backend *reference = open_or_exit("cpu-ref", 1);
    const char *filter = getenv("FLRQ_TEST_OPS");
    for (size_t i = 0; i < table->count; i++) {
        const op_case *c = &table->cases[i];
        char name[256];
        snprintf(name, sizeof name, "%s %s", c->op, c->shape);
        if (c->use != OP_TEST || (filter && !strstr(name, filter))) continue;
        failures += !test_case(c, faces, count, reference);
        ran++;
    }
    printf("%s on %s: %d cases, %d failed\n", table->name, backend, ran, failures);
    for (int i = 0; i < count; i++) flrq_backend_close(faces[i].be);
    flrq_backend_close(reference);
    return failures;
}

/* ---- timing ------------------------------------------------------------------------------------------------------ */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

op_timing op_case_time(const op_case *c, flrq_backend *be, double seconds) {
    op_state *s = must(calloc(1, sizeof *s));
    op_run r = {be, s};
    s->c = c;
    s->supported = s->bench = true;
    s->budget = seconds;
    c->run(&r, c);
    op_timing t = {.supported = s->supported, .status = s->status, .bytes = s->bytes, .flops = s->flops};
    if (s->supported && !s->failed && s->times_n > 1) {
        t.repeats = s->times_n - 1; /* the first call warms up */
        qsort(s->times + 1, (size_t)t.repeats, sizeof *s->times, by_value);
        t.best = s->times[1];
        t.median = s->times[1 + t.repeats / 2];
    }
    for (int i = 0; i < s->buffers_n; i++) {
        if (s->buffers[i].on_host)
            free(s->buffers[i].allocation);
        else
            be->release(be, s->buffers[i].allocation);
    }
    for (int i = 0; i < s->temps_n; i++) free(s->temps[i]);
    state_free(s);
    return t;
}
