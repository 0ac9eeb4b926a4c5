/* bench_matrices.c - see bench_matrices.h.
 *
 * The numbers of a spectrum must not change: results of years are compared by its name.
 */
#include "pipeline/bench_matrices.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "core/philox.h"
#include "pipeline/bench.h"
#include "text/regex.h"
#include "text/unicode.h"

enum { OUTLIER_EVERY = 512, SPIKE_EVERY = 1 << 17, MAX_SIDE = 1 << 20, PIECE_BYTES = 4 << 20 };
enum { STREAM_NOISE = 0, STREAM_LEFT = 1, STREAM_RIGHT = 2, STREAM_SPIKES = 3 };
static const float outlier_scale = 8, spike_scale = 64;

const char *const flrq_bench_spectrum_names[FLRQ_BENCH_SPECTRA] = {"power", "flat", "fast", "step"};
const char *const flrq_bench_outlier_names[FLRQ_BENCH_OUTLIERS] = {"columns", "rows", "spikes", "none"};

/* ---- generated --------------------------------------------------------------------------------------------------- */

static const struct {
    int64_t terms;
    float noise;
} spectra[FLRQ_BENCH_SPECTRA] = {{192, 1}, {0, 1}, {192, 0.01f}, {64, 1}};

static float strength(flrq_bench_spectrum spectrum, int64_t i) {
    switch (spectrum) {
    case FLRQ_BENCH_SPECTRUM_POWER:
        return 0.4f * powf((float)(i + 1), -0.7f);
    case FLRQ_BENCH_SPECTRUM_FAST:
        return exp2f(-(float)i / 8);
    default:
        return 0.125f;
    }
}

flrq_status flrq_bench_matrix(flrq_backend *be, float *d_a, int64_t m, int64_t n, flrq_bench_spectrum spectrum,
                              uint64_t key) {
    int64_t terms = spectra[spectrum].terms;
    FLRQ_TRY(be->normal(be, d_a, key, STREAM_NOISE, 0, m * n));
    if (terms == 0) return FLRQ_OK;
    flrq_status status = FLRQ_OK;
    float *d_u = NULL, *d_v = NULL, *v = malloc((size_t)(n * terms) * sizeof *v);
    if (!v) return flrq_fail_memory((size_t)(n * terms) * sizeof *v, "the matrix");
    FLRQ_GOTO(be->alloc(be, (void **)&d_u, (size_t)(m * terms) * sizeof *d_u, "structure"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_v, (size_t)(n * terms) * sizeof *d_v, "structure"));
    FLRQ_GOTO(be->normal(be, d_u, key, STREAM_LEFT, 0, m * terms));
    flrq_philox_normal(v, key, STREAM_RIGHT, 0, (uint64_t)(n * terms));
    for (int64_t i = 0; i < terms; i++) {
        float s = strength(spectrum, i);
        for (int64_t j = 0; j < n; j++) v[i * n + j] *= s;
    }
    FLRQ_GOTO(be->upload(be, d_v, v, (size_t)(n * terms) * sizeof *v));
    FLRQ_GOTO(be->gemm(be, d_a, d_u, d_v, m, n, terms, 1, spectra[spectrum].noise));
    FLRQ_GOTO(be->sync(be));
out:
    be->release(be, d_v);
    be->release(be, d_u);
    free(v);
    return status;
}

static int is_outlier(int64_t index) {
    return index % OUTLIER_EVERY == OUTLIER_EVERY / 2;
}

/* Places of the spikes: one in each of `count` runs of nearly equal length. */
typedef struct spikes {
    int64_t size, count, next; /* elements, spikes, the first one not yet reached */
    uint64_t key;
} spikes;

static int64_t spike_at(const spikes *s, int64_t i) {
    int64_t first = i * (s->size / s->count), last = i + 1 < s->count ? first + s->size / s->count : s->size;
    return first + (int64_t)flrq_philox_below(s->key, STREAM_SPIKES, (uint64_t)i, (uint64_t)(last - first));
}

/* Rows and spikes that stand out, in `count` values from element `first` (a whole number of rows) on. */
static void add_outliers(float *values, int64_t first, int64_t count, const flrq_bench_source *source, spikes *s,
                         float spike) {
    if (source->outliers == FLRQ_BENCH_OUTLIERS_ROWS)
        for (int64_t i = 0; i < count; i++)
            if (is_outlier((first + i) / source->cols)) values[i] *= outlier_scale;
    if (source->outliers != FLRQ_BENCH_OUTLIERS_SPIKES) return;
    for (; s->next < s->count && spike_at(s, s->next) < first + count; s->next++) {
        int64_t i = spike_at(s, s->next) - first;
        values[i] = copysignf(spike, values[i]);
    }
}

static flrq_status generate(flrq_bench_loaded *out, flrq_backend *be, const flrq_bench_source *source, uint64_t seed) {
    int64_t m = source->rows, n = source->cols, rows_at_once = PIECE_BYTES / (4 * n) + 1;
    uint64_t key = flrq_philox_key(seed, "bench matrix");
    size_t most = (size_t)(rows_at_once * n);
    spikes s = {m * n, m * n > SPIKE_EVERY ? m * n / SPIKE_EVERY : 1, 0, key};
    double squares = 0;
    float *d_full = NULL, *full = malloc(most * sizeof *full);
    uint16_t *rounded = malloc(most * sizeof *rounded);
    flrq_status status = FLRQ_OK;
    if (!full || !rounded) FLRQ_GOTO(flrq_fail_memory(most * sizeof *full, "the matrix"));
    FLRQ_GOTO(be->alloc(be, (void **)&d_full, (size_t)(m * n) * sizeof *d_full, "the matrix in fp32"));
    FLRQ_GOTO(be->alloc(be, &out->d_dense, (size_t)(m * n) * sizeof *rounded, "the matrix"));
    FLRQ_GOTO(flrq_bench_matrix(be, d_full, m, n, source->spectrum, key));
    flrq_operand a = {.rows = m, .cols = n, .d_dense = d_full, .ld_dense = n, .dense_dtype = FLRQ_F32};
    FLRQ_GOTO(be->sum_squares(be, &squares, &a));
    float spike = spike_scale * (float)sqrt(squares / (double)(m * n));
    for (int64_t i = 0; i < m; i += rows_at_once) {
        int64_t count = (m - i < rows_at_once ? m - i : rows_at_once) * n;
        FLRQ_GOTO(be->download(be, full, d_full + i * n, (size_t)count * sizeof *full));
        add_outliers(full, i * n, count, source, &s, spike);
        for (int64_t k = 0; k < count; k++) flrq_store(rounded, FLRQ_BF16, k, full[k]);
        FLRQ_GOTO(be->upload(be, (uint16_t *)out->d_dense + i * n, rounded, (size_t)count * sizeof *rounded));
    }
out:
    be->release(be, d_full);
    free(rounded);
    free(full);
    return status;
}

/* ---- read -------------------------------------------------------------------------------------------------------- */

static flrq_status read_tensor(flrq_bench_loaded *out, flrq_backend *be, const flrq_checkpoint *checkpoint,
                               const flrq_tensor *tensor) {
    void *piece = malloc(PIECE_BYTES);
    flrq_status status = FLRQ_OK;
    if (!piece) return flrq_fail_memory(PIECE_BYTES, "a piece of a tensor");
    FLRQ_GOTO(be->alloc(be, &out->d_dense, tensor->bytes, tensor->name));
    for (uint64_t at = 0; at < tensor->bytes; at += PIECE_BYTES) {
        uint64_t bytes = tensor->bytes - at < PIECE_BYTES ? tensor->bytes - at : PIECE_BYTES;
        FLRQ_GOTO(flrq_checkpoint_read(checkpoint, tensor, piece, at, bytes));
        FLRQ_GOTO(be->upload(be, (char *)out->d_dense + at, piece, bytes));
    }
    flrq_checkpoint_drop(checkpoint, tensor);
out:
    free(piece);
    return status;
}

flrq_status flrq_bench_source_load(flrq_bench_loaded *out, flrq_backend *be, const flrq_bench_sources *sources,
                                   const flrq_bench_source *source, uint64_t seed) {
    int64_t m = source->rows, n = source->cols, count = 0, first = 0;
    flrq_status status = FLRQ_OK;
    *out = (flrq_bench_loaded){.scale = malloc((size_t)n * sizeof *out->scale)};
    if (!out->scale) FLRQ_GOTO(flrq_fail_memory((size_t)n * sizeof *out->scale, "the column scale"));
    if (source->tensor)
        FLRQ_GOTO(read_tensor(out, be, sources->model->checkpoint, source->tensor));
    else
        FLRQ_GOTO(generate(out, be, source, seed));
    int columns = !source->tensor && source->outliers == FLRQ_BENCH_OUTLIERS_COLUMNS;
    for (int64_t j = 0; j < n; j++) out->scale[j] = columns && is_outlier(j) ? outlier_scale : 1;
    FLRQ_GOTO(be->alloc(be, (void **)&out->d_scale, (size_t)n * sizeof *out->scale, "the column scale"));
    FLRQ_GOTO(be->upload(be, out->d_scale, out->scale, (size_t)n * sizeof *out->scale));
    out->a = (flrq_operand){.rows = m,
                            .cols = n,
                            .d_dense = out->d_dense,
                            .ld_dense = n,
                            .dense_dtype = source->tensor ? source->tensor->dtype : FLRQ_BF16,
                            .d_col_scale = out->d_scale};
    FLRQ_GOTO(be->count_nonfinite(be, &count, &first, &out->a));
    if (count > 0)
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_NUMERIC,
                            "tensor %s: element (%lld, %lld) is NaN or infinite, %lld of %lld are: no sketch or SVD "
                            "of it means anything",
                            source->name, (long long)(first / n), (long long)(first % n), (long long)count,
                            (long long)(m * n)));
out:
    if (status != FLRQ_OK) flrq_bench_source_unload(out, be);
    return status;
}

void flrq_bench_source_unload(flrq_bench_loaded *loaded, flrq_backend *be) {
    be->release(be, loaded->d_scale);
    be->release(be, loaded->d_dense);
    free(loaded->scale);
    *loaded = (flrq_bench_loaded){.d_dense = NULL};
}

/* ---- which ------------------------------------------------------------------------------------------------------- */

static flrq_status add(flrq_bench_sources *to, const flrq_bench_source *source, char *name) {
    flrq_bench_source *list = name ? realloc(to->list, (to->count + 1) * sizeof *list) : NULL;
    if (!list) {
        free(name);
        return flrq_fail_memory((to->count + 1) * sizeof *list, "a list of matrices");
    }
    to->list = list;
    list[to->count] = *source;
    list[to->count++].name = name;
    return FLRQ_OK;
}

static flrq_status generated_sources(flrq_bench_sources *out, const flrq_config *c) {
    int spectrum[FLRQ_BENCH_SPECTRA], outliers[FLRQ_BENCH_OUTLIERS], spectra_count, outlier_count;
    FLRQ_TRY(flrq_bench_choices("spectra", c->spectra, flrq_bench_spectrum_names, FLRQ_BENCH_SPECTRA, spectrum,
                                &spectra_count));
    FLRQ_TRY(flrq_bench_choices("outliers", c->outliers, flrq_bench_outlier_names, FLRQ_BENCH_OUTLIERS, outliers,
                                &outlier_count));
    for (const char *p = c->shapes;; p++) {
        flrq_bench_source source = {.rows = 0};
        long long m, n;
        int used = 0;
        if (strspn(p, "0123456789") == 0 || sscanf(p, "%lldx%lld%n", &m, &n, &used) != 2 || m < 1 || n < 1 ||
            m > MAX_SIDE || n > MAX_SIDE || (p[used] && p[used] != ','))
            return flrq_fail(FLRQ_ERR_USAGE, "--shapes takes ROWSxCOLS of 1 to %d with commas, not \"%s\"", MAX_SIDE,
                             c->shapes);
        for (size_t i = 0; i < out->count; i++)
            if (out->list[i].rows == m && out->list[i].cols == n)
                return flrq_fail(FLRQ_ERR_USAGE, "--shapes names %lldx%lld twice", m, n);
        source.rows = m, source.cols = n;
        for (int s = 0; s < spectra_count; s++)
            for (int o = 0; o < outlier_count; o++) {
                char *name = NULL;
                source.spectrum = (flrq_bench_spectrum)spectrum[s];
                source.outliers = (flrq_bench_outliers)outliers[o];
                if (asprintf(&name, "%s+%s %lldx%lld", flrq_bench_spectrum_names[spectrum[s]],
                             flrq_bench_outlier_names[outliers[o]], m, n) < 0)
                    name = NULL;
                FLRQ_TRY(add(out, &source, name));
            }
        p += used;
        if (!*p) return FLRQ_OK;
    }
}

/* The pattern of --tensor; NULL without one. */
static flrq_status compile_pattern(flrq_regex **out, const char *pattern) {
    *out = NULL;
    if (!pattern) return FLRQ_OK;
    if (flrq_utf8_check(pattern, strlen(pattern)) != strlen(pattern))
        return flrq_fail(FLRQ_ERR_USAGE, "--tensor: the pattern is not UTF-8");
    flrq_status status = flrq_regex_compile(out, "--tensor", FLRQ_REGEX_RUBY, pattern, strlen(pattern));
    return status == FLRQ_OK || status == FLRQ_ERR_MEMORY ? status : FLRQ_ERR_USAGE;
}

static flrq_status matches(bool *found, const flrq_regex *regex, flrq_matcher *matcher, const char *name) {
    flrq_search search = {.regex = regex, .text = name, .bytes = strlen(name)};
    return flrq_search_next(&search, matcher, found);
}

/* Nothing was chosen: says what the pattern met instead, or what names there are. */
static flrq_status nothing_chosen(const flrq_model *model, const flrq_config *c, const flrq_regex *regex,
                                  flrq_matcher *matcher) {
    const flrq_checkpoint *all = model->checkpoint;
    char names[512] = "";
    int64_t weights = 0;
    if (model->quantized)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "%s is quantized: its weights are packed codes; --model takes the folder they came from",
                         c->model);
    for (int64_t i = 0; regex && i < all->n_tensors; i++) {
        const flrq_tensor *t = &all->tensors[i];
        bool found;
        FLRQ_TRY(matches(&found, regex, matcher, t->name));
        if (found)
            return flrq_fail(FLRQ_ERR_USAGE,
                             "--tensor \"%s\" matches no weight matrix of a linear layer; %s (%s, %d dimension%s) is "
                             "none",
                             c->tensor, t->name, flrq_dtype_name(t->dtype), t->dims, t->dims == 1 ? "" : "s");
    }
    for (int64_t i = 0; i < model->n_linears; i++) {
        const flrq_tensor *t = model->linears[i].weight;
        size_t used = strlen(names);
        if (t && weights++ < 3) snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", t->name);
    }
    return flrq_fail(FLRQ_ERR_USAGE, "--tensor \"%s\" matches none of the %lld weight matrices of %s: %s%s", c->tensor,
                     (long long)weights, c->model, names, weights > 3 ? ", ..." : "");
}

static flrq_status checkpoint_sources(flrq_bench_sources *out, const flrq_config *c) {
    flrq_regex *regex = NULL;
    flrq_matcher *matcher = NULL;
    flrq_status status = FLRQ_OK;
    FLRQ_GOTO(compile_pattern(&regex, c->tensor));
    FLRQ_GOTO(flrq_matcher_new(&matcher));
    FLRQ_GOTO(flrq_model_open(&out->model, c->model, FLRQ_MODEL_ALLOW_UNKNOWN | FLRQ_MODEL_NO_ADAPTER));
    for (int64_t i = 0; i < out->model->n_linears; i++) {
        const flrq_linear *l = &out->model->linears[i];
        bool found = l->block == 0;
        if (!l->weight) continue;
        if (regex) FLRQ_GOTO(matches(&found, regex, matcher, l->weight->name));
        flrq_bench_source source = {.rows = l->rows, .cols = l->cols, .tensor = l->weight};
        if (found) FLRQ_GOTO(add(out, &source, strdup(l->weight->name)));
    }
    if (out->count == 0) status = nothing_chosen(out->model, c, regex, matcher);
out:
    flrq_matcher_free(matcher);
    flrq_regex_free(regex);
    return status;
}

flrq_status flrq_bench_sources_open(flrq_bench_sources *out, const flrq_params *params) {
    static const char *const of_generated[] = {"shapes", "spectra", "outliers"};
    const flrq_config *c = &params->config;
    *out = (flrq_bench_sources){0};
    if (!c->model && c->tensor)
        return flrq_fail(FLRQ_ERR_USAGE, "--tensor names weights of a checkpoint: --model DIR says which");
    for (size_t i = 0; c->model && i < sizeof of_generated / sizeof *of_generated; i++)
        if (flrq_params_given(params, of_generated[i]))
            return flrq_fail(FLRQ_ERR_USAGE, "--%s describes generated matrices; with --model, --tensor says which",
                             of_generated[i]);
    flrq_status status = c->model ? checkpoint_sources(out, c) : generated_sources(out, c);
    if (status != FLRQ_OK) flrq_bench_sources_close(out);
    return status;
}

void flrq_bench_sources_close(flrq_bench_sources *sources) {
    for (size_t i = 0; i < sources->count; i++) free(sources->list[i].name);
    free(sources->list);
    flrq_model_close(sources->model);
    *sources = (flrq_bench_sources){0};
}
