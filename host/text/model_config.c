/* model_config.c - see model_config.h. */
#include "text/model_config.h"

#include <stdlib.h>
#include <string.h>
#include "io/file.h"

enum { CONFIG_BYTES_MAX = 64 << 20 };

/* A JSON object from `dir`; a missing file gives an empty one. */
static flrq_status read_object(json_t **out, const char *path) {
    *out = NULL;
    if (flrq_path_exists(path))
        FLRQ_TRY(flrq_json_read(path, CONFIG_BYTES_MAX, out));
    else
        *out = json_object();
    if (!*out) return flrq_fail_memory(64, path);
    if (json_is_object(*out)) return FLRQ_OK;
    json_decref(*out);
    *out = NULL;
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: not a JSON object", path);
}

flrq_status flrq_tokenizer_config_read(json_t **out, char **path, const char *dir) {
    flrq_status status = FLRQ_OK;
    json_t *map = NULL;
    char *map_path = flrq_path_join(dir, "special_tokens_map.json");
    *out = NULL;
    *path = flrq_path_join(dir, "tokenizer_config.json");
    if (!*path || !map_path) {
        status = flrq_fail_memory(strlen(dir), dir);
        goto out;
    }
    FLRQ_GOTO(read_object(out, *path));
    FLRQ_GOTO(read_object(&map, map_path));
    if (json_object_update(*out, map) != 0) status = flrq_fail_memory(64, map_path);
out:
    json_decref(map);
    free(map_path);
    if (status != FLRQ_OK) {
        json_decref(*out);
        free(*path);
        *out = NULL;
        *path = NULL;
    }
    return status;
}

flrq_status flrq_tokenizer_config_flag(const json_t *config, const char *path, const char *key, bool fallback,
                                       bool *out) {
    const json_t *value = json_object_get(config, key);
    *out = fallback;
    if (!value || json_is_null(value)) return FLRQ_OK;
    if (!json_is_boolean(value)) return flrq_fail(FLRQ_ERR_FORMAT, "file %s: \"%s\" is not true or false", path, key);
    *out = json_is_true(value);
    return FLRQ_OK;
}

flrq_status flrq_tokenizer_config_token(const json_t *config, const char *path, const char *key, const char *fallback,
                                        const char **out) {
    const json_t *value = json_object_get(config, key);
    *out = fallback;
    if (!value || json_is_null(value)) return FLRQ_OK;
    *out = json_string_value(json_is_object(value) ? json_object_get(value, "content") : value);
    if (*out) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_FORMAT, "file %s: \"%s\" is neither a text nor an object with a \"content\"", path, key);
}
