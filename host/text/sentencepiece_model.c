/* sentencepiece_model.c - tokenizer.model: sentencepiece for the text, tokenizer_config.json for what goes around it.
 *
 * The text is sentencepiece's business alone: "<s>" written in a text stays text, as in sentencepiece. Beginning and
 * end of sentence are added as the reference's Llama tokenizer does: bos unless add_bos_token is false, eos only when
 * add_eos_token is true.
 */
#include "text/tokenizer_impl.h"

#include <stdlib.h>
#include <string.h>
#include "io/file.h"
#include "text/model_config.h"
#include "text/unicode.h"

enum { MODEL_BYTES_MAX = 256 << 20 };

/* Tokenizers that add bos by default. Others must say. */
static bool adds_bos(const char *class) {
    static const char *const classes[] = {"LlamaTokenizer",         "LlamaTokenizerFast", "CodeLlamaTokenizer",
                                          "CodeLlamaTokenizerFast", "GemmaTokenizer",     "GemmaTokenizerFast"};
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++)
        if (strcmp(class, classes[i]) == 0) return true;
    return false;
}

/* Appends the id of the special token that `flag` asks for. */
static flrq_status add_special(const flrq_tokenizer *t, const json_t *config, const char *path, const char *model_path,
                               const char *flag, bool fallback, const char *key, const char *fallback_text,
                               flrq_ids *items) {
    bool wanted;
    const char *text;
    char quoted[64];
    FLRQ_TRY(flrq_tokenizer_config_flag(config, path, flag, fallback, &wanted));
    FLRQ_TRY(flrq_tokenizer_config_token(config, path, key, fallback_text, &text));
    if (!wanted) return FLRQ_OK;
    int id = flrq_sentencepiece_find(t->sentencepiece, text);
    if (id < 0)
        return flrq_fail(FLRQ_ERR_FORMAT, "file %s: no piece \"%s\", which %s of file %s asks for", model_path,
                         flrq_text_quote(quoted, text), flag, path);
    return flrq_ids_push(items, id);
}

flrq_status flrq_sentencepiece_tokenizer_open(flrq_tokenizer **out, const char *dir) {
    flrq_status status = FLRQ_OK;
    json_t *config = NULL;
    char *config_path = NULL, *model = NULL, *path = flrq_path_join(dir, "tokenizer.model"), quoted[64];
    size_t bytes;
    flrq_tokenizer *t = calloc(1, sizeof *t);
    *out = NULL;
    if (!t || !path) {
        status = flrq_fail_memory(sizeof *t, dir);
        goto out;
    }
    FLRQ_GOTO(flrq_file_read(path, MODEL_BYTES_MAX, &model, &bytes));
    FLRQ_GOTO(flrq_sentencepiece_new(&t->sentencepiece, path, model, bytes));
    t->kind = "tokenizer.model (sentencepiece)";
    t->vocab = flrq_sentencepiece_size(t->sentencepiece);
    FLRQ_GOTO(flrq_tokenizer_config_read(&config, &config_path, dir));
    const char *class = json_string_value(json_object_get(config, "tokenizer_class"));
    bool by_default = !class || adds_bos(class);
    if (!by_default && !json_is_boolean(json_object_get(config, "add_bos_token"))) {
        status = flrq_fail(FLRQ_ERR_UNSUPPORTED,
                           "file %s: whether %s starts with a bos token is not known; set \"add_bos_token\" there",
                           config_path, flrq_text_quote(quoted, class));
        goto out;
    }
    flrq_ids *items = &t->template;
    t->has_template = true;
    FLRQ_GOTO(add_special(t, config, config_path, path, "add_bos_token", by_default, "bos_token", "<s>", items));
    FLRQ_GOTO(flrq_ids_push(items, FLRQ_TEMPLATE_SEQUENCE));
    FLRQ_GOTO(add_special(t, config, config_path, path, "add_eos_token", false, "eos_token", "</s>", items));
    *out = t;
    t = NULL;
out:
    flrq_tokenizer_close(t);
    json_decref(config);
    free(config_path);
    free(model);
    free(path);
    return status;
}
