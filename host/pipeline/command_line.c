/* command_line.c - see command_line.h. */
#include "pipeline/command_line.h"

#include <stdlib.h>
#include <string.h>

bool flrq_word_is_plain(const char *word) {
    static const char safe[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-./=+:,@%";
    return *word && word[strspn(word, safe)] == '\0';
}

void flrq_put_word(FILE *out, const char *word) {
    if (flrq_word_is_plain(word)) {
        fputs(word, out);
        return;
    }
    fputc('\'', out);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc(*word, out);
    fputc('\'', out);
}

static const flrq_option *option_of(const char *command, const char *name) {
    size_t count;
    const flrq_option *const *options = flrq_command_options(command, &count);
    for (size_t i = 0; options && i < count; i++)
        if (strcmp(options[i]->name, name) == 0) return options[i];
    return NULL;
}

json_t *flrq_option_words(const char *command, const char *name, const char *value) {
    const flrq_option *option = option_of(command, name);
    if (option && option->kind == FLRQ_OPTION_FLAG)
        return json_pack("[o]", json_sprintf("--%s%s", strcmp(value, "true") == 0 ? "" : "no-", name));
    if (value[0] == '-') return json_pack("[o]", json_sprintf("--%s=%s", name, value));
    if (option && option->positional) return json_pack("[s]", value);
    if (strcmp(name, "out") == 0) return json_pack("[s, s]", "-o", value);
    return json_pack("[o, s]", json_sprintf("--%s", name), value);
}

char *flrq_params_command_line(const flrq_params *params) {
    const char *command = flrq_commands()[params->command], *dash = strchr(command, '-');
    char *text = NULL;
    size_t bytes, i, k;
    json_t *changed = flrq_params_changed(params), *pair, *word;
    if (!changed) return NULL;
    FILE *out = open_memstream(&text, &bytes);
    if (!out) {
        json_decref(changed);
        return NULL;
    }
    fputs("flrq ", out);
    if (dash)
        fprintf(out, "%.*s %s", (int)(dash - command), command, dash + 1); /* the first dash is a space to users */
    else
        fputs(command, out);
    json_array_foreach(changed, i, pair) {
        json_t *words = flrq_option_words(command, json_string_value(json_array_get(pair, 0)),
                                          json_string_value(json_array_get(pair, 1)));
        json_array_foreach(words, k, word) {
            fputc(' ', out);
            flrq_put_word(out, json_string_value(word));
        }
        json_decref(words);
    }
    json_decref(changed);
    if (fclose(out) == 0) return text;
    free(text);
    return NULL;
}
