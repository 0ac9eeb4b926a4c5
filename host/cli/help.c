/* help.c - what --help prints, from the option tables alone: a new option of the library appears here by itself.
 *
 * 100 columns, whatever the terminal: the text is read in logs and mails too.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum { WIDTH = 100, OPTION_INDENT = 2, TEXT_INDENT = 30 };

const char *const cli_exit_codes[][2] = {
    {"0", "done"},
    {"1", "failed, or compare found a difference"},
    {"2", "wrong usage: unknown option, value out of bounds"},
    {"3", "finished, but missed the quality gate"},
    {"75", "stopped by a signal or a time limit in a resumable state: run the same command again"},
    {NULL, NULL},
};

/* Prints words wrapped to WIDTH; the cursor stands at `column`, further lines begin at `indent`. Ends the line. */
static void print_wrapped(FILE *out, const char *text, int column, int indent) {
    int fresh = 1; /* nothing printed on this line since the indent */
    while (*text) {
        text += strspn(text, " ");
        int length = (int)strcspn(text, " ");
        if (length == 0) break;
        if (!fresh && column + 1 + length > WIDTH) {
            fprintf(out, "\n%*s", indent, "");
            column = indent;
            fresh = 1;
        }
        fprintf(out, "%s%.*s", fresh ? "" : " ", length, text);
        column += length + !fresh;
        fresh = 0;
        text += length;
    }
    fputc('\n', out);
}

/* "a|b|c" as "a, b or c", to free(). */
static char *join_choices(const char *choices) {
    char *list = cli_copy("");
    while (*choices) {
        int length = (int)strcspn(choices, "|");
        int last = choices[length] == '\0';
        char *longer = cli_printf("%s%s%.*s", list, !*list ? "" : last ? " or " : ", ", length, choices);
        free(list);
        list = longer;
        choices += length + !last;
    }
    return list;
}

/* Beyond this a bound is the range of the type, not a rule worth printing. */
static int is_bound(double bound) {
    return fabs(bound) < 9e18;
}

char *cli_help_limits(const flrq_option *option) {
    char *range = cli_copy("");
    if (option->kind == FLRQ_OPTION_CHOICE && option->choices) {
        free(range);
        range = join_choices(option->choices);
    } else if (option->kind == FLRQ_OPTION_INT || option->kind == FLRQ_OPTION_REAL) {
        cli_text min = cli_number(option->min), max = cli_number(option->max);
        free(range);
        if (is_bound(option->min) && is_bound(option->max))
            range = cli_printf("%s to %s", min.text, max.text);
        else if (is_bound(option->min))
            range = cli_printf("%s or more", min.text);
        else if (is_bound(option->max))
            range = cli_printf("%s or less", max.text);
        else
            range = cli_copy("any number");
    }
    const char *normal = option->default_text;
    if (option->kind == FLRQ_OPTION_FLAG) normal = normal && strcmp(normal, "true") == 0 ? "on" : NULL;
    const char *tail = option->required ? "required" : normal && *normal ? "default " : NULL;
    char *limits = cli_printf("%s%s%s%s", range, *range && tail ? "; " : "", tail ? tail : "",
                              tail && !option->required ? normal : "");
    free(range);
    return limits;
}

char *cli_help_word(const flrq_option *option) {
    const char *argument = option->argument ? option->argument : "VALUE";
    if (option->positional) return cli_copy(argument);
    if (strcmp(option->name, "out") == 0) return cli_printf("-o %s", argument);
    return cli_printf("--%s %s", option->name, argument);
}

char *cli_help_label(const flrq_option *option) {
    const char *argument = option->argument ? option->argument : "VALUE";
    if (option->kind == FLRQ_OPTION_FLAG)
        return cli_printf("%s--%s%s", strcmp(option->name, "help") == 0 ? "-h, " : "",
                          option->default_text && strcmp(option->default_text, "true") == 0 ? "[no-]" : "",
                          option->name);
    if (option->positional) return cli_printf("%s, --%s %s", argument, option->name, argument);
    return cli_printf("%s--%s %s", strcmp(option->name, "out") == 0 ? "-o, " : "", option->name, argument);
}

static void print_option(FILE *out, const flrq_option *option) {
    char *label = cli_help_label(option), *limits = cli_help_limits(option);
    char *text = *limits ? cli_printf("%s (%s)", option->help ? option->help : "", limits)
                         : cli_copy(option->help ? option->help : "");
    fprintf(out, "%*s%s", OPTION_INDENT, "", label);
    int column = OPTION_INDENT + (int)strlen(label);
    if (column + 2 > TEXT_INDENT) {
        fputc('\n', out);
        column = 0;
    }
    fprintf(out, "%*s", TEXT_INDENT - column, "");
    print_wrapped(out, text, TEXT_INDENT, TEXT_INDENT);
    free(text);
    free(limits);
    free(label);
}

/* Options in table order, with a heading wherever the section changes. */
static void print_options(FILE *out, const flrq_option *const *options, size_t count) {
    const char *section = "";
    for (size_t i = 0; i < count; i++) {
        const char *present = options[i]->section ? options[i]->section : "options";
        if (strcmp(present, section) != 0) fprintf(out, "\n%s:\n", present);
        section = present;
        print_option(out, options[i]);
    }
}

/* What belongs in the usage line: positional words first, then -o and what is required. */
static int in_usage(const flrq_option *option, int positional) {
    if (positional) return option->positional;
    return !option->positional && (option->required || strcmp(option->name, "out") == 0);
}

char *cli_help_usage(const char *command) {
    size_t count = 0;
    const flrq_option *const *options = flrq_command_options(command, &count);
    char *usage = cli_printf("flrq %s", cli_command_spelling(command).text);
    for (int positional = 1; positional >= 0; positional--) {
        for (size_t i = 0; i < count; i++) {
            if (!in_usage(options[i], positional)) continue;
            char *word = cli_help_word(options[i]);
            char *longer = cli_printf(options[i]->required ? "%s %s" : "%s [%s]", usage, word);
            free(word);
            free(usage);
            usage = longer;
        }
    }
    const char *carried = cli_command_find(command)->carries;
    char *inner = carried ? cli_help_usage(carried) : NULL;
    char *whole = cli_printf("%s [options]%s%s", usage, inner ? " -- " : "", inner ? inner + strlen("flrq ") : "");
    free(inner);
    free(usage);
    return whole;
}

void cli_help_command(const char *command, FILE *out) {
    size_t count = 0;
    char *usage = cli_help_usage(command);
    fputs("usage: ", out);
    print_wrapped(out, usage, 7, 7 + 4);
    free(usage);
    const char *help = flrq_command_help(command);
    if (help) {
        fputc('\n', out);
        print_wrapped(out, help, 0, 0);
    }
    const flrq_option *const *options = flrq_command_options(command, &count);
    print_options(out, options, count);
    options = cli_options(&count);
    print_options(out, options, count);
}

void cli_help_brief(FILE *out) {
    fputs("usage: flrq COMMAND [options]\ncommands: ", out);
    char *list = cli_copy("");
    for (const char *const *name = flrq_commands(); *name; name++) {
        char *longer = cli_printf("%s%s%s", list, *list ? ", " : "", cli_command_spelling(*name).text);
        free(list);
        list = longer;
    }
    print_wrapped(out, list, 10, 10);
    free(list);
    fputs("flrq --help says more, flrq COMMAND --help lists the options of a command.\n", out);
}

void cli_help_program(FILE *out) {
    size_t count;
    fputs(
        "usage: flrq COMMAND [options]\n\nLow-rank plus integer quantization of large language models.\n\ncommands:\n",
        out);
    for (const char *const *name = flrq_commands(); *name; name++) {
        const char *help = flrq_command_help(*name);
        int used = fprintf(out, "  %-16s", cli_command_spelling(*name).text);
        print_wrapped(out, help ? help : "", used, used);
    }
    fprintf(out, "  %-16sthis text; help COMMAND, or COMMAND --help, lists options; help --man: manual page\n", "help");
    const flrq_option *const *options = cli_options(&count);
    print_options(out, options, count);
    fputs("\nexit codes:\n", out);
    for (size_t i = 0; cli_exit_codes[i][0]; i++)
        fprintf(out, "  %-4s%s\n", cli_exit_codes[i][0], cli_exit_codes[i][1]);
}
