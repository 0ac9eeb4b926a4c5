/* args.c - turns the words after the command into option texts, by the library's table and the program's own short one.
 *
 * Accepted: --name value, --name=value, --flag, --no-flag, -o DIR or -oDIR for --out, -h, positional options in table
 * order (those not given by name), "--" before words that begin with a dash. Values are not judged here: the library
 * does, with both bounds in its text. Names are never abbreviated, so that a new option cannot change what an old
 * script means.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

static const flrq_option own_json = {
    .name = "json",
    .kind = FLRQ_OPTION_FLAG,
    .section = "output of the program",
    .help = "Print the result alone as one JSON object on stdout; events and errors as JSON lines on stderr."};
static const flrq_option own_quiet = {.name = "quiet",
                                      .kind = FLRQ_OPTION_FLAG,
                                      .section = "output of the program",
                                      .help = "No progress, notes or tables: only errors and one final line."};
static const flrq_option own_color = {
    .name = "color",
    .kind = FLRQ_OPTION_CHOICE,
    .section = "output of the program",
    .argument = "WHEN",
    .default_text = "auto",
    .choices = "auto|always|never",
    .help = "Color the labels of messages; auto does on a terminal unless NO_COLOR is set."};
static const flrq_option own_help = {.name = "help",
                                     .kind = FLRQ_OPTION_FLAG,
                                     .section = "output of the program",
                                     .help = "Show the options of the command, with bounds and defaults."};
static const flrq_option own_version = {.name = "version",
                                        .kind = FLRQ_OPTION_FLAG,
                                        .section = "output of the program",
                                        .help = "Show the version; stands alone."};

const flrq_option *const *cli_options(size_t *count) {
    static const flrq_option *const own[] = {&own_json, &own_quiet, &own_color, &own_help, &own_version};
    *count = sizeof own / sizeof own[0];
    return own;
}

static const flrq_option *find_in(const flrq_option *const *options, size_t count, const char *name) {
    for (size_t i = 0; options && i < count; i++)
        if (strcmp(options[i]->name, name) == 0) return options[i];
    return NULL;
}

const flrq_option *cli_option_find(const char *command, const char *name) {
    size_t count = 0;
    const flrq_option *const *own = cli_options(&count);
    const flrq_option *option = find_in(own, count, name);
    if (option || !command) return option;
    const flrq_option *const *options = flrq_command_options(command, &count);
    return find_in(options, count, name);
}

static int is_own(const flrq_option *option) {
    return cli_option_find(NULL, option->name) == option;
}

int cli_args_contain(int argc, char **argv, const char *option, const char *brief) {
    for (int i = 0; i < argc && strcmp(argv[i], "--") != 0; i++)
        if (strcmp(argv[i], option) == 0 || (brief && strcmp(argv[i], brief) == 0)) return 1;
    return 0;
}

/* ---- the nearest name -----------------------------------------------------------------------------------------------
 */

enum { LONGEST_NAME = 40 };

/* Edits (insert, delete, replace, swap of neighbours) that turn a into b. */
static size_t edit_distance(const char *a, const char *b) {
    size_t n = strlen(a), m = strlen(b), d[LONGEST_NAME + 1][LONGEST_NAME + 1];
    if (n > LONGEST_NAME || m > LONGEST_NAME) return LONGEST_NAME;
    for (size_t j = 0; j <= m; j++) d[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        d[i][0] = i;
        for (size_t j = 1; j <= m; j++) {
            size_t best = d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (d[i - 1][j] + 1 < best) best = d[i - 1][j] + 1;
            if (d[i][j - 1] + 1 < best) best = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < best)
                best = d[i - 2][j - 2] + 1;
            d[i][j] = best;
        }
    }
    return d[n][m];
}

const char *cli_nearest(const char *typed, const char *const *names, size_t count) {
    const char *nearest = NULL;
    size_t length = strlen(typed), best = length < 6 ? 2 : 3; /* more edits than this is another word */
    if (length < 2) return NULL;
    for (size_t i = 0; i < count; i++) {
        /* The beginning of a name counts as one edit: people shorten. */
        size_t distance = strncmp(names[i], typed, length) == 0 ? 1 : edit_distance(typed, names[i]);
        if (distance <= best && (!nearest || distance < best) && distance < length) {
            nearest = names[i];
            best = distance;
        }
    }
    return nearest;
}

static const char *nearest_option(const char *command, const char *typed) {
    size_t own_count, count = 0;
    const flrq_option *const *own = cli_options(&own_count);
    const flrq_option *const *options = flrq_command_options(command, &count);
    const char **names = cli_resize(NULL, (count + own_count) * sizeof *names);
    for (size_t i = 0; i < count; i++) names[i] = options[i]->name;
    for (size_t i = 0; i < own_count; i++) names[count + i] = own[i]->name;
    const char *nearest = cli_nearest(typed, names, count + own_count);
    free(names);
    return nearest;
}

/* Reports an option this command does not have: the nearest one it has, else the command that has it. */
static int unknown_option(const cli_request *request, const char *word, const char *name) {
    cli_text spelling = cli_command_spelling(request->command);
    const char *nearest = nearest_option(request->command, name);
    if (nearest)
        return cli_fail(request, FLRQ_ERR_USAGE, "%s: unknown option %s; did you mean --%s?", spelling.text, word,
                        nearest);
    for (const char *const *other = flrq_commands(); *other; other++)
        if (cli_option_find(*other, name))
            return cli_fail(request, FLRQ_ERR_USAGE, "%s: unknown option %s; it belongs to flrq %s", spelling.text,
                            word, cli_command_spelling(*other).text);
    return cli_fail(request, FLRQ_ERR_USAGE, "%s: unknown option %s; flrq %s --help lists the options", spelling.text,
                    word, spelling.text);
}

/* ---- the words ------------------------------------------------------------------------------------------------------
 */

/* What the words say, before anything is set: values by option, in order, and the positional words. */
typedef struct words {
    struct {
        const flrq_option *option;
        const char *value;
    } * given;
    size_t given_count;
    const char **loose;
    size_t loose_count;
} words;

int cli_option_apply(cli_request *request, const flrq_option *option, const char *value) {
    int on = !value || strcmp(value, "true") == 0;
    if (option->kind == FLRQ_OPTION_FLAG && !on && strcmp(value, "false") != 0)
        return cli_fail(request, FLRQ_ERR_USAGE, "option --%s takes true or false, not \"%s\"", option->name, value);
    if (option == &own_json) {
        request->json = on;
    } else if (option == &own_quiet) {
        request->quiet = on;
    } else if (option == &own_help) {
        request->help = on;
    } else if (option == &own_color) {
        static const char *const names[] = {"auto", "always", "never"};
        for (int i = 0; value && i < 3; i++) {
            if (strcmp(value, names[i]) != 0) continue;
            request->color = (cli_color)i;
            return 0;
        }
        return cli_fail(request, FLRQ_ERR_USAGE, "option --color takes auto, always or never, not \"%s\"",
                        value ? value : "");
    } else {
        return cli_fail(request, FLRQ_ERR_USAGE, "option --%s stands alone: flrq --%s", option->name, option->name);
    }
    return 0;
}

static int give(cli_request *request, words *list, const flrq_option *option, const char *value) {
    if (is_own(option)) return cli_option_apply(request, option, value);
    list->given[list->given_count].option = option;
    list->given[list->given_count++].value = value;
    return 0;
}

/* Takes the value of `option` from behind '=' or from the next word. Returns 0 or an exit code. */
static int take_value(const cli_request *request, const flrq_option *option, const char *word, const char *attached,
                      int argc, char **argv, int *i, const char **value) {
    const char *argument = option->argument ? option->argument : "VALUE";
    *value = attached;
    if (attached) return 0;
    if (*i + 1 >= argc)
        return cli_fail(request, FLRQ_ERR_USAGE, "%s: option %s needs a value: %s",
                        cli_command_spelling(request->command).text, word, argument);
    *value = argv[++*i];
    if (strncmp(*value, "--", 2) == 0)
        return cli_fail(request, FLRQ_ERR_USAGE,
                        "%s: option %s needs a value (%s) but %s follows; if that is the value, write %s=%s",
                        cli_command_spelling(request->command).text, word, argument, *value, word, *value);
    return 0;
}

/* One word that begins with "--". */
static int long_option(cli_request *request, words *list, int argc, char **argv, int *i) {
    const char *word = argv[*i];
    cli_text spelling = cli_command_spelling(request->command);
    char *name = cli_copy(word + 2);
    char *attached = strchr(name, '=');
    if (attached) *attached = '\0';
    const char *value = attached ? strchr(word, '=') + 1 : NULL; /* in argv, which outlives the list */
    const flrq_option *option = cli_option_find(request->command, name);
    int code = 0;
    if (option && option->kind == FLRQ_OPTION_FLAG) {
        code = give(request, list, option, value ? value : "true");
    } else if (option) {
        char *plain = cli_printf("--%s", name);
        code = take_value(request, option, plain, value, argc, argv, i, &value);
        free(plain);
        if (!code) code = give(request, list, option, value);
    } else if (strncmp(name, "no-", 3) == 0 && (option = cli_option_find(request->command, name + 3))) {
        if (option->kind != FLRQ_OPTION_FLAG)
            code = cli_fail(request, FLRQ_ERR_USAGE, "%s: option --%s takes a value and has no --no- form",
                            spelling.text, option->name);
        else if (value)
            code = cli_fail(request, FLRQ_ERR_USAGE, "%s: option --%s takes no value", spelling.text, name);
        else
            code = give(request, list, option, "false");
    } else {
        code = unknown_option(request, word, name);
    }
    free(name);
    return code;
}

/* One word that begins with a single dash. */
static int short_option(cli_request *request, words *list, int argc, char **argv, int *i) {
    const char *word = argv[*i], *value;
    const flrq_option *out = word[1] == 'o' ? cli_option_find(request->command, "out") : NULL;
    if (!out) return unknown_option(request, word, word + 1);
    int code = take_value(request, out, "-o", word[2] ? word + 2 : NULL, argc, argv, i, &value);
    return code ? code : give(request, list, out, value);
}

static int split(cli_request *request, words *list, int argc, char **argv) {
    int code = 0, only_loose = 0;
    for (int i = 0; i < argc && !code; i++) {
        const char *word = argv[i];
        if (only_loose || word[0] != '-' || word[1] == '\0')
            list->loose[list->loose_count++] = word;
        else if (strcmp(word, "--") == 0)
            only_loose = 1;
        else if (word[1] == '-')
            code = long_option(request, list, argc, argv, &i);
        else
            code = short_option(request, list, argc, argv, &i);
    }
    return code;
}

static int set(const cli_request *request, const flrq_option *option, const char *value) {
    flrq_status status = flrq_params_set(request->params, option->name, value);
    return status == FLRQ_OK ? 0 : cli_fail(request, status, "%s", flrq_last_error());
}

static int is_given(const words *list, const flrq_option *option) {
    for (size_t i = 0; i < list->given_count; i++)
        if (list->given[i].option == option) return 1;
    return 0;
}

/* The preset goes first: it is a set of defaults, whatever its place on the line. */
static int apply_given(const cli_request *request, const words *list) {
    int code = 0;
    for (int presets = 1; presets >= 0; presets--)
        for (size_t i = 0; i < list->given_count && !code; i++)
            if ((strcmp(list->given[i].option->name, "preset") == 0) == presets)
                code = set(request, list->given[i].option, list->given[i].value);
    return code;
}

static int apply_loose(const cli_request *request, const words *list) {
    size_t count, used = 0;
    const flrq_option *const *options = flrq_command_options(request->command, &count);
    for (size_t i = 0; i < count && used < list->loose_count; i++) {
        if (!options[i]->positional || is_given(list, options[i])) continue;
        int code = set(request, options[i], list->loose[used++]);
        if (code) return code;
    }
    if (used == list->loose_count) return 0;
    char *usage = cli_help_usage(request->command);
    int code = cli_fail(request, FLRQ_ERR_USAGE, "%s: one argument too many: \"%s\"; usage: %s",
                        cli_command_spelling(request->command).text, list->loose[used], usage);
    free(usage);
    return code;
}

static int check_required(const cli_request *request) {
    size_t count;
    const flrq_option *const *options = flrq_command_options(request->command, &count);
    for (size_t i = 0; i < count; i++) {
        if (!options[i]->required || flrq_params_get(request->params, options[i]->name)) continue;
        char *usage = cli_help_usage(request->command), *word = cli_help_word(options[i]);
        int code = cli_fail(request, FLRQ_ERR_USAGE, "%s: %s is missing; usage: %s",
                            cli_command_spelling(request->command).text, word, usage);
        free(word);
        free(usage);
        return code;
    }
    return 0;
}

int cli_args_parse(cli_request *request, int argc, char **argv) {
    words list = {0};
    list.given = cli_resize(NULL, (size_t)argc * sizeof *list.given);
    list.loose = cli_resize(NULL, (size_t)argc * sizeof *list.loose);
    int code = split(request, &list, argc, argv);
    if (!code) code = apply_given(request, &list);
    if (!code) code = apply_loose(request, &list);
    if (!code) code = check_required(request);
    free(list.given);
    free(list.loose);
    return code;
}
