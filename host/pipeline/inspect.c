/* inspect.c - what a checkpoint holds, how two of them differ, and which devices there are. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/dtype.h"
#include "io/npy.h"
#include "pipeline/job.h"
#include "text/corpus.h"

static const char *base_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static json_t *tensor_entry(const flrq_checkpoint *checkpoint, const flrq_tensor *t, const char *role) {
    json_t *shape = json_array();
    for (int i = 0; i < t->dims; i++) json_array_append_new(shape, json_integer(t->shape[i]));
    return json_pack("{s:s, s:s, s:o, s:I, s:s, s:s}", "name", t->name, "dtype", flrq_dtype_name(t->dtype), "shape",
                     shape, "bytes", (json_int_t)t->bytes, "role", role, "file", base_name(checkpoint->files[t->file]));
}

static void add_part(json_t *list, const flrq_checkpoint *checkpoint, const flrq_tensor *t, const char *role) {
    if (t) json_array_append_new(list, tensor_entry(checkpoint, t, role));
}

flrq_status flrq_job_inspect(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    flrq_model *m;
    FLRQ_TRY(flrq_model_open(&m, params->config.model, FLRQ_MODEL_ALLOW_UNKNOWN));
    json_t *tensors = json_array();
    json_int_t parameters = 0, bytes = 0;
    for (int64_t i = 0; i < m->n_linears; i++) {
        const flrq_linear *l = &m->linears[i];
        parameters += l->rows * l->cols;
        add_part(tensors, m->checkpoint, l->weight, "linear");
        add_part(tensors, m->checkpoint, l->packed, "linear codes");
        add_part(tensors, m->checkpoint, l->scale, "linear scales");
        add_part(tensors, m->checkpoint, l->zero, "linear zeros");
        add_part(tensors, m->adapter, l->lora_a, "low rank R");
        add_part(tensors, m->adapter, l->lora_b, "low rank L");
    }
    for (int64_t i = 0; i < m->n_others; i++) {
        static const char *const roles[] = {"other", "tied", "dropped"};
        parameters += m->others[i].fate == FLRQ_FATE_COPY ? flrq_tensor_count(m->others[i].tensor) : 0;
        json_array_append_new(tensors, tensor_entry(m->checkpoint, m->others[i].tensor, roles[m->others[i].fate]));
    }
    for (int64_t i = 0; i < m->checkpoint->n_tensors; i++) bytes += (json_int_t)m->checkpoint->tensors[i].bytes;
    json_t *scheme = json_null();
    if (m->quantized)
        scheme = json_pack("{s:i, s:I, s:b, s:b}", "bits", m->scheme.bits, "group", (json_int_t)m->scheme.group,
                           "symmetric", m->scheme.symmetric, "lowrank", m->adapter != NULL);
    *result =
        json_pack("{s:s, s:s, s:s, s:b, s:I, s:i, s:I, s:{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b}, s:o, s:o}",
                  "path", m->dir, "kind", m->quantized ? "quantized" : "source", "family", m->family_name,
                  "known_family", m->family != NULL, "parameters", parameters, "files", m->checkpoint->n_files, "bytes",
                  bytes, "config", "layers", (json_int_t)m->layers, "hidden", (json_int_t)m->hidden, "ffn",
                  (json_int_t)m->ffn, "heads", (json_int_t)m->heads, "kv_heads", (json_int_t)m->kv_heads, "head_dim",
                  (json_int_t)m->head_dim, "vocab", (json_int_t)m->vocab, "context", (json_int_t)m->max_positions,
                  "tied", m->tied, "quantization", scheme, "tensors", tensors);
    flrq_model_close(m);
    return *result ? FLRQ_OK : flrq_fail_memory(0, "the listing");
}

/* ---- compare
 * --------------------------------------------------------------------------------------------------------------- */

/* A model whose linear layers are brought to fp32 one at a time, whatever their storage. */
typedef struct side {
    flrq_model *model;
    flrq_codes codes;
    float *d_l, *d_r, *values;
    void *raw;
} side;

static flrq_status open_side(side *s, flrq_backend *be, const char *dir, int lowrank) {
    FLRQ_TRY(flrq_model_open(&s->model, dir, FLRQ_MODEL_ALLOW_UNKNOWN | (lowrank ? 0 : FLRQ_MODEL_NO_ADAPTER)));
    flrq_extent extent = {1, 1, 1};
    int64_t rank = 0;
    for (int64_t i = 0; i < s->model->n_linears; i++) {
        const flrq_linear *l = &s->model->linears[i];
        if (l->rows > extent.rows) extent.rows = l->rows;
        if (l->cols > extent.cols) extent.cols = l->cols;
        if (l->rows * l->cols > extent.count) extent.count = l->rows * l->cols;
        if (l->lora_a && l->lora_a->shape[0] > rank) rank = l->lora_a->shape[0];
    }
    size_t count = (size_t)extent.count;
    s->values = malloc(count * sizeof(float));
    s->raw = malloc(count * sizeof(float));
    if (!s->values || !s->raw) return flrq_fail_memory(count * sizeof(float), "a dequantized weight");
    if (!s->model->quantized) return FLRQ_OK;
    FLRQ_TRY(flrq_codes_alloc(&s->codes, be, &s->model->scheme, extent));
    FLRQ_TRY(be->alloc(be, (void **)&s->d_l, (size_t)((rank + 1) * extent.rows) * sizeof(float), "the left factor"));
    return be->alloc(be, (void **)&s->d_r, (size_t)((rank + 1) * extent.cols) * sizeof(float), "the right factor");
}

static void close_side(side *s, flrq_backend *be) {
    be->release(be, s->d_r);
    be->release(be, s->d_l);
    flrq_codes_release(&s->codes, be);
    free(s->raw);
    free(s->values);
    flrq_model_close(s->model);
}

static flrq_status load_linear(side *s, flrq_backend *be, const flrq_linear *l) {
    if (l->weight) {
        FLRQ_TRY(flrq_checkpoint_read(s->model->checkpoint, l->weight, s->raw, 0, l->weight->bytes));
        for (int64_t i = 0; i < l->rows * l->cols; i++) s->values[i] = flrq_load(s->raw, l->weight->dtype, i);
        return FLRQ_OK;
    }
    flrq_operand a = {.rows = l->rows,
                      .cols = l->cols,
                      .codes = &s->codes,
                      .codes_sign = 1,
                      .d_l = s->d_l,
                      .d_r = s->d_r,
                      .lr_sign = 1};
    FLRQ_TRY(flrq_linear_load_packed(s->model, be, l, &s->codes, s->d_l, s->d_r, &a.rank));
    void *d_out;
    size_t bytes = (size_t)(l->rows * l->cols) * sizeof(float);
    FLRQ_TRY(be->alloc(be, &d_out, bytes, "a dequantized weight"));
    flrq_status status = be->materialize(be, d_out, &a);
    if (status == FLRQ_OK) status = be->download(be, s->values, d_out, bytes);
    be->release(be, d_out);
    return status;
}

static flrq_status load_other(side *s, const flrq_tensor *t, char **out) {
    *out = malloc(t->bytes + 1);
    if (!*out) return flrq_fail_memory(t->bytes, t->name);
    return flrq_checkpoint_read(s->model->checkpoint, t, *out, 0, t->bytes);
}

static void add_row(json_t *rows, const char *name, const char *status, double max_abs, double relative) {
    json_array_append_new(rows, json_pack("{s:s, s:s, s:f, s:f}", "name", name, "status", status, "max_abs", max_abs,
                                          "relative", relative));
}

/* Bitwise equality first (a NaN equals itself), then the largest and the relative difference. */
static void compare_values(json_t *rows, const char *name, const float *a, const float *b, int64_t count, int *equal) {
    if (memcmp(a, b, (size_t)count * sizeof *a) == 0) {
        *equal = 1;
        add_row(rows, name, "equal", 0, 0);
        return;
    }
    double largest = 0, difference = 0, norm = 0;
    for (int64_t i = 0; i < count; i++) {
        double d = fabs((double)a[i] - (double)b[i]);
        if (!(d <= largest)) largest = d;
        difference += d * d;
        norm += (double)a[i] * a[i];
    }
    *equal = 0;
    double relative = norm > 0 ? sqrt(difference / norm) : difference > 0 ? 1 : 0;
    add_row(rows, name, "different", isfinite(largest) ? largest : -1, isfinite(relative) ? relative : -1);
}

static const flrq_linear *find_linear(const flrq_model *m, const char *module) {
    for (int64_t i = 0; i < m->n_linears; i++)
        if (strcmp(m->linears[i].module, module) == 0) return &m->linears[i];
    return NULL;
}

static const flrq_other *find_other(const flrq_model *m, const char *name) {
    for (int64_t i = 0; i < m->n_others; i++)
        if (strcmp(m->others[i].name, name) == 0) return &m->others[i];
    return NULL;
}

typedef struct counts {
    json_int_t equal, different, only_a, only_b;
} counts;

static flrq_status compare_linears(side *a, side *b, flrq_backend *be, json_t *rows, counts *n) {
    for (int64_t i = 0; i < a->model->n_linears; i++) {
        const flrq_linear *la = &a->model->linears[i], *lb = find_linear(b->model, la->module);
        if (!lb) {
            add_row(rows, la->module, "only_a", 0, 0), n->only_a++;
            continue;
        }
        if (la->rows != lb->rows || la->cols != lb->cols) {
            add_row(rows, la->module, "shape", -1, -1), n->different++;
            continue;
        }
        int equal;
        FLRQ_TRY(load_linear(a, be, la));
        FLRQ_TRY(load_linear(b, be, lb));
        compare_values(rows, la->module, a->values, b->values, la->rows * la->cols, &equal);
        *(equal ? &n->equal : &n->different) += 1;
    }
    for (int64_t i = 0; i < b->model->n_linears; i++)
        if (!find_linear(a->model, b->model->linears[i].module))
            add_row(rows, b->model->linears[i].module, "only_b", 0, 0), n->only_b++;
    return FLRQ_OK;
}

static flrq_status compare_others(side *a, side *b, json_t *rows, counts *n) {
    flrq_status status = FLRQ_OK;
    for (int64_t i = 0; i < a->model->n_others && status == FLRQ_OK; i++) {
        const flrq_other *oa = &a->model->others[i], *ob = find_other(b->model, oa->name);
        if (!ob) {
            add_row(rows, oa->name, "only_a", 0, 0), n->only_a++;
            continue;
        }
        const flrq_tensor *ta = oa->tensor, *tb = ob->tensor;
        int64_t count = flrq_tensor_count(ta);
        int floats = flrq_dtype_is_float(ta->dtype) && flrq_dtype_is_float(tb->dtype), equal = 0;
        if (count != flrq_tensor_count(tb) || (!floats && ta->dtype != tb->dtype)) {
            add_row(rows, oa->name, "shape", -1, -1), n->different++;
            continue;
        }
        char *ra = NULL, *rb = NULL;
        status = load_other(a, ta, &ra);
        if (status == FLRQ_OK) status = load_other(b, tb, &rb);
        float *fa = floats ? malloc((size_t)(count + 1) * sizeof *fa) : NULL;
        float *fb = floats ? malloc((size_t)(count + 1) * sizeof *fb) : NULL;
        if (floats && (!fa || !fb)) status = flrq_fail_memory((size_t)count * sizeof *fa, oa->name);
        if (status == FLRQ_OK && floats) {
            for (int64_t k = 0; k < count; k++)
                fa[k] = flrq_load(ra, ta->dtype, k), fb[k] = flrq_load(rb, tb->dtype, k);
            compare_values(rows, oa->name, fa, fb, count, &equal);
        } else if (status == FLRQ_OK) {
            equal = memcmp(ra, rb, ta->bytes) == 0;
            add_row(rows, oa->name, equal ? "equal" : "different", equal ? 0 : -1, equal ? 0 : -1);
        }
        *(equal ? &n->equal : &n->different) += 1;
        free(fb);
        free(fa);
        free(rb);
        free(ra);
    }
    for (int64_t i = 0; i < b->model->n_others; i++)
        if (!find_other(a->model, b->model->others[i].name))
            add_row(rows, b->model->others[i].name, "only_b", 0, 0), n->only_b++;
    return status;
}

flrq_status flrq_job_compare(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    side a = {0}, b = {0};
    counts n = {0};
    flrq_backend *be;
    flrq_status status = FLRQ_OK;
    json_t *rows = json_array();
    FLRQ_TRY(flrq_backend_open(&be, c->device, (int)c->threads));
    FLRQ_GOTO(open_side(&a, be, c->a, c->lowrank));
    FLRQ_GOTO(open_side(&b, be, c->b, c->lowrank));
    FLRQ_GOTO(compare_linears(&a, &b, be, rows, &n));
    FLRQ_GOTO(compare_others(&a, &b, rows, &n));
    *result = json_pack("{s:s, s:s, s:b, s:I, s:I, s:I, s:I, s:O}", "a", c->a, "b", c->b, "identical",
                        n.different + n.only_a + n.only_b == 0, "equal", n.equal, "different", n.different, "only_a",
                        n.only_a, "only_b", n.only_b, "tensors", rows);
out:
    close_side(&b, be);
    close_side(&a, be);
    flrq_backend_close(be);
    json_decref(rows);
    return status;
}

/* ---- devices, tokenize
 * ------------------------------------------------------------------------------------------------------- */

/* Appends the backend `name` to the list; a failure to open is its own row when `absent` rows are wanted. Returns
 * whether it opened. */
static int list_device(json_t *devices, const char *name, int absent) {
    flrq_backend *be;
    flrq_device_info info;
    flrq_status status = flrq_backend_open(&be, name, 0);
    if (status == FLRQ_OK) status = be->info(be, &info);
    if (status == FLRQ_OK)
        json_array_append_new(devices,
                              json_pack("{s:s, s:b, s:s, s:n, s:I, s:I, s:i}", "name", name, "available", 1, "detail",
                                        info.name, "reason", "memory_bytes", (json_int_t)info.total_bytes, "free_bytes",
                                        (json_int_t)info.free_bytes, "threads", info.threads));
    else if (absent)
        json_array_append_new(devices, json_pack("{s:s, s:b, s:n, s:s}", "name", name, "available", 0, "detail",
                                                 "reason", flrq_last_error()));
    flrq_backend_close(be);
    return status == FLRQ_OK;
}

flrq_status flrq_job_devices(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    json_t *devices = json_array();
    char name[32] = "cuda:0";
    list_device(devices, "cpu", 1);
    list_device(devices, "cpu-ref", 1);
    if (!list_device(devices, name, 0))
        list_device(devices, "cuda", 1);
    else
        for (int i = 1; snprintf(name, sizeof name, "cuda:%d", i) > 0 && list_device(devices, name, 0); i++) continue;
    list_device(devices, "cudasim", 0); /* for developers: named only where it was built */
    *result = json_pack("{s:o}", "devices", devices);
    return FLRQ_OK;
}

flrq_status flrq_job_tokenize(const flrq_params *params, flrq_reporter *reporter, json_t **result) {
    const flrq_config *c = &params->config;
    flrq_tokenizer *tokenizer = NULL;
    flrq_status status = FLRQ_OK;
    char *text = NULL;
    size_t bytes;
    int32_t *ids = NULL;
    int64_t count;
    FLRQ_TRY(flrq_tokenizer_open(&tokenizer, c->model));
    if (c->special && c->doc_sep)
        FLRQ_GOTO(flrq_corpus_read(tokenizer, c->text, c->doc_sep, &ids, &count));
    else {
        FLRQ_GOTO(flrq_file_read(c->text, (size_t)1 << 34, &text, &bytes));
        FLRQ_GOTO(flrq_tokenizer_encode(tokenizer, text, bytes, c->special, &ids, &count));
    }
    if (c->out) FLRQ_GOTO(flrq_npy_write(c->out, "<i4", sizeof *ids, 1, &count, ids));
    *result = json_pack("{s:I, s:s?, s:s, s:I}", "tokens", (json_int_t)count, "out", c->out, "tokenizer",
                        flrq_tokenizer_kind(tokenizer), "vocab", (json_int_t)flrq_tokenizer_vocab(tokenizer));
out:
    free(ids);
    free(text);
    flrq_tokenizer_close(tokenizer);
    return status;
}
