/* result.c - reads result objects. Fields may be absent: a newer or older library, a command that had nothing to say.
 */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

double cli_real(const json_t *object, const char *key) {
    const json_t *value = json_object_get(object, key);
    return json_is_number(value) ? json_number_value(value) : NAN;
}

const char *cli_string(const json_t *object, const char *key) {
    return json_string_value(json_object_get(object, key));
}

/* A value as text to free(): texts bare, all else as compact JSON. */
static char *value_text(const json_t *value) {
    if (json_is_string(value)) return cli_copy(json_string_value(value));
    if (json_is_real(value)) return cli_copy(cli_number(json_real_value(value)).text);
    return json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY | JSON_PRESERVE_ORDER);
}

void cli_facts_object(cli_table *facts, const json_t *object) {
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)object, key, value) {
        char *text = value_text(value);
        char *label = cli_printf("  %s", key);
        cli_fact(facts, label, "%s", text ? text : "?");
        free(label);
        free(text);
    }
}

char *cli_members(const json_t *object) {
    const char *key;
    json_t *value;
    char *list = cli_copy("");
    json_object_foreach((json_t *)object, key, value) {
        char *text = value_text(value);
        char *longer = cli_printf("%s%s%s %s", list, *list ? ", " : "", key, text ? text : "?");
        free(text);
        free(list);
        list = longer;
    }
    return list;
}

/* ---- names of tensors -----------------------------------------------------------------------------------------------
 */

/* Length of the run of digits at `part` when it fills a whole dotted component, else 0. */
static size_t number_component(const char *part) {
    size_t digits = strspn(part, "0123456789");
    return part[digits] == '.' || part[digits] == '\0' ? digits : 0;
}

const char *cli_name_tail(const char *name) {
    for (const char *part = name; *part;) {
        size_t digits = number_component(part);
        if (digits && part[digits] == '.') return part + digits + 1;
        const char *dot = strchr(part, '.');
        if (!dot) break;
        part = dot + 1;
    }
    return name;
}

/* The name with '*' for every component that is a number. */
static char *name_pattern(const char *name) {
    char *pattern = cli_copy(name), *to = pattern;
    for (const char *from = name; *from;) {
        size_t digits = number_component(from);
        if (digits) {
            *to++ = '*';
            from += digits;
        }
        while (*from && *from != '.') *to++ = *from++;
        if (*from == '.') *to++ = *from++;
    }
    *to = '\0';
    return pattern;
}

/* What entries of one group have in common: pattern, number of dimensions and the fields of `keys`. */
static char *group_key(const json_t *tensor, const char *pattern, const char *const *keys) {
    char *key = cli_printf("%s\n%zu", pattern, json_array_size(json_object_get(tensor, "shape")));
    for (; *keys; keys++) {
        char *text = value_text(json_object_get(tensor, *keys));
        char *longer = cli_printf("%s\n%s", key, text ? text : "");
        free(text);
        free(key);
        key = longer;
    }
    return key;
}

/* Forgets the extents in which `shape` is not that of the group. Both have the same number of dimensions. */
static void merge_shape(cli_group *group, const json_t *shape) {
    for (size_t i = 0; i < json_array_size(group->shape); i++)
        if (!json_equal(json_array_get(group->shape, i), json_array_get(shape, i)))
            json_array_set_new(group->shape, i, json_null());
}

size_t cli_groups_new(cli_group **out, const json_t *tensors, const char *const *keys) {
    size_t count = 0, i;
    cli_group *groups = cli_resize(NULL, json_array_size(tensors) * sizeof *groups);
    json_t *known = json_object(), *tensor; /* group_key -> index: checkpoints have tens of thousands of tensors */
    json_array_foreach(tensors, i, tensor) {
        const char *name = cli_string(tensor, "name");
        char *pattern = name_pattern(name ? name : "?"), *key = group_key(tensor, pattern, keys);
        const json_t *index = json_object_get(known, key);
        cli_group *group = &groups[index ? (size_t)json_integer_value(index) : count];
        if (!index) {
            *group = (cli_group){.name = cli_copy(name ? name : "?"),
                                 .first = tensor,
                                 .shape = json_copy(json_object_get(tensor, "shape"))};
            json_object_set_new_nocheck(known, key, json_integer((json_int_t)count++));
        } else if (group->count == 1) {
            free(group->name);
            group->name = cli_copy(pattern);
        }
        merge_shape(group, json_object_get(tensor, "shape"));
        double bytes = cli_real(tensor, "bytes");
        group->bytes += isnan(bytes) ? 0 : bytes;
        group->count++;
        free(key);
        free(pattern);
    }
    json_decref(known);
    *out = groups;
    return count;
}

void cli_groups_free(cli_group *groups, size_t count) {
    for (size_t i = 0; i < count; i++) {
        json_decref(groups[i].shape);
        free(groups[i].name);
    }
    free(groups);
}
