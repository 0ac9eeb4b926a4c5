/* model_config.h - tokenizer_config.json, for the tokenizer files that leave special tokens to it. */
#ifndef FLRQ_TEXT_MODEL_CONFIG_H
#define FLRQ_TEXT_MODEL_CONFIG_H

#include <stdbool.h>
#include <jansson.h>
#include "core/error.h"

/** tokenizer_config.json of a folder with the entries of special_tokens_map.json in place of its own, as the reference
 * merges them. A missing file is an empty one. *path (free()) names the folder's tokenizer_config.json for messages.
 * *out: json_decref(). */
flrq_status flrq_tokenizer_config_read(json_t **out, char **path, const char *dir);

/** A flag; missing or null: `fallback`. */
flrq_status flrq_tokenizer_config_flag(const json_t *config, const char *path, const char *key, bool fallback,
                                       bool *out);

/** Text of a special token, given as a string or as an object with "content"; missing or null: `fallback` (may be
 * NULL). Borrowed from config. */
flrq_status flrq_tokenizer_config_token(const json_t *config, const char *path, const char *key, const char *fallback,
                                        const char **out);

#endif
