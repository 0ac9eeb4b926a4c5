/* ranks.c - see ranks.h. */
#include "pipeline/ranks.h"

#include <stdlib.h>

#include "io/file.h"

enum { MAX_REPORT = 1 << 30 };

static int64_t whole(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_integer(value) ? (int64_t)json_integer_value(value) : -1;
}

/* The matrices by name. New reference; NULL on out of memory. */
static json_t *by_name(const json_t *matrices) {
    json_t *map = json_object(), *matrix;
    size_t i;
    json_array_foreach(matrices, i, matrix) {
        const char *name = json_string_value(json_object_get(matrix, "name"));
        if (!name || json_object_set(map, name, matrix) == 0) continue;
        json_decref(map);
        return NULL;
    }
    return map;
}

static flrq_status rank_of(int64_t *rank, const char *path, const json_t *matrix, const flrq_linear *l) {
    if (!matrix)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s has no matrix %s; --ranks-from wants a run of the same model", path,
                         l->module);
    int64_t rows = whole(matrix, "rows"), cols = whole(matrix, "cols"), most = l->rows < l->cols ? l->rows : l->cols;
    *rank = whole(matrix, "rank");
    if (rows != l->rows || cols != l->cols)
        return flrq_fail(FLRQ_ERR_SHAPE, "%s: matrix %s is %lldx%lld there and %lldx%lld in the model", path, l->module,
                         (long long)rows, (long long)cols, (long long)l->rows, (long long)l->cols);
    if (*rank < 0 || *rank > most)
        return flrq_fail(FLRQ_ERR_FORMAT, "%s: matrix %s has no rank from 0 to %lld", path, l->module, (long long)most);
    return FLRQ_OK;
}

flrq_status flrq_ranks_read(int64_t **out, const char *path, const flrq_model *model) {
    json_t *report, *map = NULL;
    flrq_status status = FLRQ_OK;
    *out = NULL;
    FLRQ_TRY(flrq_json_read(path, MAX_REPORT, &report));
    const json_t *matrices = json_object_get(report, "matrices");
    int64_t *ranks = calloc((size_t)model->n_linears + 1, sizeof *ranks);
    if (!json_is_array(matrices))
        FLRQ_GOTO(flrq_fail(FLRQ_ERR_FORMAT, "%s has no list of matrices; is it the report.json of a run?", path));
    if (!ranks || !(map = by_name(matrices))) FLRQ_GOTO(flrq_fail_memory(0, "ranks"));
    for (int64_t i = 0; i < model->n_linears; i++)
        FLRQ_GOTO(rank_of(&ranks[i], path, json_object_get(map, model->linears[i].module), &model->linears[i]));
    *out = ranks;
    ranks = NULL;
out:
    free(ranks);
    json_decref(map);
    json_decref(report);
    return status;
}
