/* profile.c - the file of a profile, and the fit of its numbers: see profile.h.
 *
 * The keys of the file are in the tables below, once for reading and writing. A file is refused as a whole: a
 * prediction from half a profile would look like one from a whole.
 */
#include "pipeline/profile.h"

#include <float.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "io/file.h"

static const char format_name[] = "flrq device profile";
enum { VERSION = 1, MAX_FILE = 1 << 20, MAX_POINTS = 8 };

static const char *const names[FLRQ_COSTS] = {
    [FLRQ_COST_MUL] = "mul",
    [FLRQ_COST_MUL_CODES] = "mul_codes",
    [FLRQ_COST_MUL_T] = "mul_t",
    [FLRQ_COST_MUL_T_CODES] = "mul_t_codes",
    [FLRQ_COST_MUL_T_FULL] = "mul_t_full",
    [FLRQ_COST_MUL_T_CODES_FULL] = "mul_t_codes_full",
    [FLRQ_COST_ERROR] = "error",
    [FLRQ_COST_ERROR_CODES] = "error_codes",
    [FLRQ_COST_NORM] = "norm",
    [FLRQ_COST_CURVE] = "amax_curve",
    [FLRQ_COST_CLIP_NONE] = "clip_none",
    [FLRQ_COST_CLIP_GRID] = "clip_grid",
    [FLRQ_COST_CLIP_FAST2] = "clip_fast2",
    [FLRQ_COST_CLIP_FAST3] = "clip_fast3",
    [FLRQ_COST_CLIP_FAST4] = "clip_fast4",
    [FLRQ_COST_CLIP_FAST8] = "clip_fast8",
    [FLRQ_COST_NONFINITE] = "count_nonfinite",
    [FLRQ_COST_PACK] = "pack",
    [FLRQ_COST_UNPACK] = "unpack",
    [FLRQ_COST_ROUND_BF16] = "materialize_bf16",
    [FLRQ_COST_LINEAR] = "linear",
    [FLRQ_COST_LINEAR_CODES] = "linear_codes",
    [FLRQ_COST_ATTENTION] = "attention",
    [FLRQ_COST_NORM_ROWS] = "norm_rows",
    [FLRQ_COST_ROPE] = "rope",
    [FLRQ_COST_ADD] = "add",
    [FLRQ_COST_ACTIVATION] = "activation",
    [FLRQ_COST_INPUT_STATS] = "input_stats",
    [FLRQ_COST_INPUT_SKETCH] = "input_sketch",
    [FLRQ_COST_NORMAL] = "normal",
    [FLRQ_COST_GRAM] = "gram",
    [FLRQ_COST_CHOLESKY] = "cholesky",
    [FLRQ_COST_SOLVE] = "solve_right",
    [FLRQ_COST_EIGH] = "eigh",
    [FLRQ_COST_GEMM] = "gemm",
    [FLRQ_COST_COLUMN_AMAX] = "column_amax",
    [FLRQ_COST_ROUND_FACTOR] = "round_factor",
};

const char *flrq_cost_name(flrq_cost cost) {
    return names[cost];
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* A JSON object of the file and where it is in it, for messages: "ops.mul.". */
typedef struct place {
    const char *path, *where;
    const json_t *object;
} place;

static flrq_status wrong(const place *p, const char *key, const char *wanted) {
    return flrq_fail(FLRQ_ERR_FORMAT, "%s: %s%s must be %s; make the profile anew with flrq bench ops --profile FILE",
                     p->path, p->where, key, wanted);
}

static flrq_status get_text(const place *p, const char *key, int required, char *to, size_t bytes) {
    const json_t *v = json_object_get(p->object, key);
    if (!v && !required) return FLRQ_OK;
    const char *text = json_string_value(v);
    if (!text || (required && !*text) || strlen(text) >= bytes) return wrong(p, key, "a text");
    memcpy(to, text, strlen(text) + 1);
    return FLRQ_OK;
}

static flrq_status get_number(const place *p, const char *key, double least, double *to) {
    const json_t *v = json_object_get(p->object, key);
    double number = json_number_value(v);
    if (!json_is_number(v) || !isfinite(number) || number < least)
        return wrong(p, key, least > 0 ? "a number above 0" : "a number of 0 or more");
    *to = number;
    return FLRQ_OK;
}

/* Seconds for one of a rate that may be null: then 0. */
static flrq_status get_inverse(const place *p, const char *key, double *to) {
    double rate = 0;
    const json_t *v = json_object_get(p->object, key);
    *to = 0;
    if (json_is_null(v)) return FLRQ_OK;
    if (!v) return wrong(p, key, "a rate or null");
    FLRQ_TRY(get_number(p, key, DBL_MIN, &rate));
    *to = 1 / rate;
    return FLRQ_OK;
}

static flrq_status get_object(const place *p, const char *key, const char *where, place *to) {
    *to = (place){p->path, where, json_object_get(p->object, key)};
    return json_is_object(to->object) ? FLRQ_OK : wrong(p, key, "an object");
}

static flrq_status get_device(const place *root, flrq_profile *out) {
    place p;
    char precision[8];
    double threads = 0;
    FLRQ_TRY(get_object(root, "device", "device.", &p));
    FLRQ_TRY(get_text(&p, "backend", 1, out->backend, sizeof out->backend));
    FLRQ_TRY(get_text(&p, "name", 1, out->name, sizeof out->name));
    FLRQ_TRY(get_text(&p, "precision", 1, precision, sizeof precision));
    FLRQ_TRY(get_number(&p, "threads", 0, &threads));
    FLRQ_TRY(get_number(&p, "memory_bytes", 0, &out->memory));
    const json_t *separate = json_object_get(p.object, "separate_memory");
    if (!json_is_boolean(separate)) return wrong(&p, "separate_memory", "true or false");
    if (threads < 1 || threads > 4096 || threads != floor(threads))
        return wrong(&p, "threads", "a whole number from 1 to 4096");
    out->fast = strcmp(precision, "fast") == 0;
    if (!out->fast && strcmp(precision, "full") != 0) return wrong(&p, "precision", "\"full\" or \"fast\"");
    out->threads = (int)threads;
    out->separate = json_is_true(separate);
    return FLRQ_OK;
}

static flrq_status get_ops(const place *root, flrq_profile *out) {
    place ops, p;
    const char *key;
    json_t *value;
    FLRQ_TRY(get_object(root, "ops", "ops.", &ops));
    json_object_foreach((json_t *)ops.object, key, value) {
        int known = 0;
        for (int i = 0; i < FLRQ_COSTS; i++) known |= strcmp(names[i], key) == 0;
        if (!known) return wrong(&ops, key, "absent: no class of ops of this version has that name");
    }
    for (int i = 0; i < FLRQ_COSTS; i++) {
        char where[64];
        if (json_is_null(json_object_get(ops.object, names[i]))) {
            out->op[i].call = -1;
            continue;
        }
        snprintf(where, sizeof where, "ops.%s.", names[i]);
        FLRQ_TRY(get_object(&ops, names[i], where, &p));
        FLRQ_TRY(get_number(&p, "call_seconds", 0, &out->op[i].call));
        FLRQ_TRY(get_inverse(&p, "elements_s", &out->op[i].element));
        FLRQ_TRY(get_inverse(&p, "flops_s", &out->op[i].flop));
    }
    return FLRQ_OK;
}

static flrq_status get_link(const place *links, const char *key, const char *where, flrq_link_cost *out) {
    place p;
    if (!json_object_get(links->object, key)) return FLRQ_OK;
    FLRQ_TRY(get_object(links, key, where, &p));
    FLRQ_TRY(get_number(&p, "bytes_s", DBL_MIN, &out->bytes));
    return get_number(&p, "call_seconds", 0, &out->call);
}

static flrq_status get_rates(const place *root, flrq_profile *out) {
    place p;
    FLRQ_TRY(get_number(root, "copy_bytes_s", DBL_MIN, &out->copy));
    FLRQ_TRY(get_number(root, "upload_bytes_s", DBL_MIN, &out->upload));
    FLRQ_TRY(get_number(root, "download_bytes_s", DBL_MIN, &out->download));
    if (json_object_get(root->object, "files")) {
        FLRQ_TRY(get_object(root, "files", "files.", &p));
        FLRQ_TRY(get_number(&p, "read_bytes_s", DBL_MIN, &out->read));
        FLRQ_TRY(get_number(&p, "write_bytes_s", DBL_MIN, &out->write));
    }
    if (!json_object_get(root->object, "links")) return FLRQ_OK;
    FLRQ_TRY(get_object(root, "links", "links.", &p));
    FLRQ_TRY(get_link(&p, "node", "links.node.", &out->node_link));
    return get_link(&p, "network", "links.network.", &out->network);
}

static flrq_status get_profile(const place *root, flrq_profile *out) {
    char source[16];
    double version = 0;
    const char *format = json_string_value(json_object_get(root->object, "format"));
    if (!format || strcmp(format, format_name) != 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s is no device profile: \"format\" must be \"%s\"", root->path,
                         format_name);
    FLRQ_TRY(get_number(root, "version", 0, &version));
    if (version != VERSION)
        return flrq_fail(FLRQ_ERR_FORMAT,
                         "%s: a profile of version %g, this program reads %d; make it anew with flrq bench ops "
                         "--profile FILE",
                         root->path, version, VERSION);
    FLRQ_TRY(get_text(root, "source", 1, source, sizeof source));
    out->measured = strcmp(source, "measured") == 0;
    if (!out->measured && strcmp(source, "data sheet") != 0)
        return wrong(root, "source", "\"measured\" or \"data sheet\"");
    FLRQ_TRY(get_text(root, "date", 1, out->date, sizeof out->date));
    FLRQ_TRY(get_text(root, "flrq", 1, out->version, sizeof out->version));
    FLRQ_TRY(get_text(root, "note", 0, out->note, sizeof out->note));
    FLRQ_TRY(get_device(root, out));
    FLRQ_TRY(get_ops(root, out));
    return get_rates(root, out);
}

flrq_status flrq_profile_load(flrq_profile *out, const char *path) {
    json_t *root;
    memset(out, 0, sizeof *out);
    FLRQ_TRY(flrq_json_read(path, MAX_FILE, &root));
    flrq_status status = get_profile(&(place){path, "", root}, out);
    json_decref(root);
    return status;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static json_t *rate_of(double seconds) {
    return seconds > 0 ? json_real(1 / seconds) : json_null();
}

static json_t *link_of(const flrq_link_cost *link) {
    return json_pack("{s:f, s:f}", "bytes_s", link->bytes, "call_seconds", link->call);
}

flrq_status flrq_profile_save(const flrq_profile *p, const char *path) {
    json_t *ops = json_object(), *links = json_object(), *root;
    for (int i = 0; i < FLRQ_COSTS; i++) {
        const flrq_op_cost *c = &p->op[i];
        json_object_set_new(ops, names[i],
                            c->call < 0 ? json_null()
                                        : json_pack("{s:f, s:o, s:o}", "call_seconds", c->call, "elements_s",
                                                    rate_of(c->element), "flops_s", rate_of(c->flop)));
    }
    root =
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:{s:s, s:s, s:i, s:b, s:f, s:s}, s:o, s:f, s:f, s:f}", "format",
                  format_name, "version", VERSION, "source", p->measured ? "measured" : "data sheet", "date", p->date,
                  "flrq", p->version, "device", "backend", p->backend, "name", p->name, "threads", p->threads,
                  "separate_memory", p->separate, "memory_bytes", p->memory, "precision", p->fast ? "fast" : "full",
                  "ops", ops, "copy_bytes_s", p->copy, "upload_bytes_s", p->upload, "download_bytes_s", p->download);
    if (*p->note) json_object_set_new(root, "note", json_string(p->note));
    if (p->read > 0)
        json_object_set_new(root, "files", json_pack("{s:f, s:f}", "read_bytes_s", p->read, "write_bytes_s", p->write));
    if (p->node_link.bytes > 0) json_object_set_new(links, "node", link_of(&p->node_link));
    if (p->network.bytes > 0) json_object_set_new(links, "network", link_of(&p->network));
    if (json_object_size(links)) json_object_set(root, "links", links);
    flrq_status status = root ? flrq_json_write(path, root) : flrq_fail_memory(0, "a profile");
    json_decref(links);
    json_decref(root);
    return status;
}

/* ---- the fit ----------------------------------------------------------------------------------------------------- */

enum { PARTS = 3 }; /* call, element, flop */

/* Solves a x = b, symmetric and positive definite, of `n` unknowns. False when the points do not tell them apart. */
static int solve(double a[PARTS][PARTS], double *b, int n) {
    for (int k = 0; k < n; k++) {
        double diagonal = a[k][k];
        for (int i = k + 1; i < n; i++) {
            double factor = a[i][k] / diagonal, before = a[i][i];
            for (int j = k; j < n; j++) a[i][j] -= factor * a[k][j];
            b[i] -= factor * b[k];
            if (!(a[i][i] > 1e-12 * before)) return 0;
        }
    }
    for (int k = n - 1; k >= 0; k--) {
        for (int j = k + 1; j < n; j++) b[k] -= a[k][j] * b[j];
        b[k] /= a[k][k];
    }
    return 1;
}

/* Weighted squares of the relative errors of the best fit with the parts in `set`; infinite when one of them would be
 * negative. */
static double fit_parts(const double (*x)[PARTS], const double *weight, int count, unsigned set, double *out) {
    double a[PARTS][PARTS] = {{0}}, b[PARTS] = {0}, error = 0;
    int part[PARTS], n = 0;
    for (int k = 0; k < PARTS; k++)
        if (set >> k & 1) part[n++] = k;
    for (int p = 0; p < count; p++)
        for (int i = 0; i < n; i++) {
            b[i] += weight[p] * x[p][part[i]];
            for (int j = 0; j < n; j++) a[i][j] += weight[p] * x[p][part[i]] * x[p][part[j]];
        }
    for (int i = 0; i < n; i++)
        if (!(a[i][i] > 0)) return INFINITY; /* no point has that unit */
    if (!solve(a, b, n)) return INFINITY;
    memset(out, 0, PARTS * sizeof *out);
    for (int i = 0; i < n; i++)
        if (b[i] < 0)
            return INFINITY;
        else
            out[part[i]] = b[i];
    for (int p = 0; p < count; p++) {
        double seen = 0;
        for (int k = 0; k < PARTS; k++) seen += x[p][k] * out[k];
        error += weight[p] * (seen - 1) * (seen - 1);
    }
    return error;
}

flrq_op_cost flrq_cost_fit(const flrq_cost_point *points, int count) {
    double x[MAX_POINTS][PARTS], weight[MAX_POINTS], best[PARTS] = {0}, least = INFINITY;
    if (count > MAX_POINTS) count = MAX_POINTS;
    for (int p = 0; p < count; p++) {
        weight[p] = points[p].weight;
        x[p][0] = 1 / points[p].seconds;
        x[p][1] = points[p].elements / points[p].seconds;
        x[p][2] = points[p].flops / points[p].seconds;
    }
    for (unsigned set = 1; set < 1u << PARTS; set++) {
        double parts[PARTS], error = fit_parts(x, weight, count, set, parts);
        if (error < least - 1e-12) { /* one part less where it changes nothing */
            least = error;
            memcpy(best, parts, sizeof best);
        }
    }
    return (flrq_op_cost){best[0], best[1], best[2]};
}
