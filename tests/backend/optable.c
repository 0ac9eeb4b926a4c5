/* optable.c - faces of a backend, and the loop over a table; the judgement is the library's (cases/opcase.h).
 *
 * Must not print more than a line for a case that passes.
 */
#include "backend/optable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_FACES = 8 };

typedef struct face {
    char name[64];
    flrq_backend *be;
    size_t misalign;
    bool same;     /* bytes must equal those of face 0 */
    bool borrowed; /* the backend belongs to another face */
} face;

const char *op_test_device(void) {
    const char *device = getenv("FLRQ_TEST_DEVICE");
    return device && *device ? device : "cpu";
}

static flrq_backend *open_or_exit(const char *backend, int threads) {
    flrq_backend *be;
    if (flrq_backend_open(&be, backend, threads) != FLRQ_OK) {
        fprintf(stderr, "optable: %s: %s\n", backend, flrq_last_error());
        exit(2);
    }
    return be;
}

static int add_face(face *faces, int count, const char *backend, int threads, size_t misalign, bool same) {
    face *f = &faces[count];
    *f = (face){.be = open_or_exit(backend, threads), .misalign = misalign, .same = same};
    flrq_device_info info = {0};
    f->be->info(f->be, &info);
    snprintf(f->name, sizeof f->name, "%s %.20s %d threads%s", backend, info.instruction_set, info.threads,
             misalign ? " misaligned" : "");
    return count + 1;
}

static int cpu_faces(face *faces) {
    int count = add_face(faces, 0, "cpu", 2, 0, false);
#ifndef __SANITIZE_ADDRESS__ /* where everything takes ten times as long one other number of threads is enough */
    count = add_face(faces, count, "cpu", 1, 0, true);
#endif
    count = add_face(faces, count, "cpu", 5, 0, true);
    count = add_face(faces, count, "cpu", 2, 1, false);
    flrq_device_info native = {0};
    faces[0].be->info(faces[0].be, &native);
    const char *user = getenv("FLRQ_ISA");
    char *keep = user ? strdup(user) : NULL;
    static const char *const isas[] = {"avx2", "generic"};
    for (int i = strcmp(native.instruction_set, "avx512") == 0 ? 0 : 1; i < 2; i++) {
        if (strcmp(native.instruction_set, isas[i]) == 0) break;
        setenv("FLRQ_ISA", isas[i], 1);
        count = add_face(faces, count, "cpu", 2, 0, false);
    }
    if (keep)
        setenv("FLRQ_ISA", keep, 1);
    else
        unsetenv("FLRQ_ISA");
    free(keep);
    return count;
}

/* One backend, as an owner of device memory would have it. */
static int device_faces(face *faces, const char *backend) {
    add_face(faces, 0, backend, 0, 0, false);
    snprintf(faces[0].name, sizeof faces[0].name, "%.40s", backend);
    faces[1] = faces[2] = faces[0];
    faces[1].borrowed = faces[2].borrowed = true;
    faces[1].same = true;
    snprintf(faces[1].name, sizeof faces[1].name, "%.40s again", backend);
    faces[2].misalign = 1;
    snprintf(faces[2].name, sizeof faces[2].name, "%.40s misaligned", backend);
    return 3;
}

static op_state *run(const op_case *c, flrq_backend *be, size_t misalign) {
    op_state *s = op_case_run(c, be, misalign);
    if (s) return s;
    fprintf(stderr, "optable: out of host memory\n");
    exit(2);
}

/* Runs one case everywhere. Returns false when it failed; prints one line, and more for a failure. */
static bool test_case(const op_case *c, const face *faces, int count, flrq_backend *reference) {
    op_state *ref = run(c, reference, 0), *first = NULL;
    op_verdict v = op_case_verdict(ref);
    double worst = -1, value = 0, tolerance = 0;
    char quantity[64] = "", where[64] = "", text[2048] = "";
    bool supported = v.supported && count > 0;
    if (v.failed) snprintf(text, sizeof text, "cpu-ref: %s", v.text);
    for (int i = 0; i < count && supported && !text[0]; i++) {
        op_state *s = run(c, faces[i].be, faces[i].misalign);
        op_case_compare(s, ref);
        if (first && faces[i].same) op_case_same(s, first);
        v = op_case_verdict(s);
        if (v.failed) snprintf(text, sizeof text, "%s: %s", faces[i].name, v.text);
        if (v.used > worst && v.quantity[0]) {
            worst = v.used, value = v.value, tolerance = v.tolerance;
            snprintf(quantity, sizeof quantity, "%.63s", v.quantity);
            snprintf(where, sizeof where, "%.63s", faces[i].name);
        }
        supported = v.supported;
        if (i == 0)
            first = s;
        else
            op_state_free(s);
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
    op_state_free(first);
    op_state_free(ref);
    return !text[0];
}

int op_table_test(const op_table *table, const char *backend) {
    face faces[MAX_FACES];
    int count = strcmp(backend, "cpu") == 0 ? cpu_faces(faces) : device_faces(faces, backend);
    int failures = 0, ran = 0;
    flrq_backend *reference = open_or_exit("cpu-ref", 1);
    const char *filter = getenv("FLRQ_TEST_OPS");
    for (size_t i = 0; i < table->count; i++) {
        const op_case *c = &table->cases[i];
        char name[256];
        snprintf(name, sizeof name, "%s %s", c->op, c->shape);
        if (c->use & OP_BENCH || (filter && !strstr(name, filter))) continue;
        failures += !test_case(c, faces, count, reference);
        ran++;
    }
    printf("%s on %s: %d cases, %d failed\n", table->name, backend, ran, failures);
    for (int i = 0; i < count; i++)
        if (!faces[i].borrowed) flrq_backend_close(faces[i].be);
    flrq_backend_close(reference);
    return failures;
}
