/* man.c - the manual page flrq(1), written in roff from the same tables as --help, so that it cannot fall behind them.
 * The build runs `flrq help --man`; nothing in the page depends on the machine or the day.
 */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

/* Text of a line: backslashes and leading control characters lose their meaning, dashes stay ASCII so that an option
 * can be copied from the page. */
static void put(FILE *out, const char *text) {
    for (const char *c = text; *c; c++) {
        if (c == text && (*c == '.' || *c == '\'')) fputs("\\&", out);
        if (*c == '\\')
            fputs("\\e", out);
        else if (*c == '-')
            fputs("\\-", out);
        else
            fputc(*c, out);
    }
}

static void put_line(FILE *out, const char *text) {
    put(out, text);
    fputc('\n', out);
}

static void put_heading(FILE *out, const char *request, const char *text) {
    fprintf(out, ".%s \"", request);
    put(out, text);
    fputs("\"\n", out);
}

static void put_option(FILE *out, const flrq_option *option) {
    char *label = cli_help_label(option), *limits = cli_help_limits(option);
    fputs(".TP\n.B ", out);
    put_line(out, label);
    put_line(out, option->help ? option->help : "");
    if (*limits) {
        fputs("(", out);
        put(out, limits);
        fputs(")\n", out);
    }
    free(limits);
    free(label);
}

/* Name of an earlier command that has the very same option, NULL when this is its first appearance. */
static const char *described_at(const flrq_option *option, const char *command) {
    for (const char *const *earlier = flrq_commands(); *earlier && strcmp(*earlier, command) != 0; earlier++) {
        size_t count = 0;
        const flrq_option *const *options = flrq_command_options(*earlier, &count);
        for (size_t i = 0; i < count; i++)
            if (options[i] == option) return *earlier;
    }
    return NULL;
}

/* The options that `command` shares with the earlier command `other`, in one paragraph. */
static void put_shared(FILE *out, const char *command, const char *other) {
    size_t count = 0, listed = 0;
    const flrq_option *const *options = flrq_command_options(command, &count);
    for (size_t i = 0; i < count; i++) {
        const char *first = described_at(options[i], command);
        if (!first || strcmp(first, other) != 0) continue;
        if (listed++) {
            fputs(",\n", out);
        } else {
            fputs(".PP\nAs for\n.BR \"flrq ", out);
            put(out, cli_command_spelling(other).text);
            fputs("\" :\n", out);
        }
        fputs("\\fB\\-\\-", out);
        put(out, options[i]->name);
        fputs("\\fR", out);
    }
    if (listed) fputs(".\n", out);
}

static void put_command(FILE *out, const char *command) {
    size_t count = 0;
    char *usage = cli_help_usage(command);
    put_heading(out, "SS", usage);
    free(usage);
    put_line(out, flrq_command_help(command));
    const flrq_option *const *options = flrq_command_options(command, &count);
    for (size_t i = 0; i < count; i++)
        if (!described_at(options[i], command)) put_option(out, options[i]);
    for (const char *const *other = flrq_commands(); *other && strcmp(*other, command) != 0; other++)
        put_shared(out, command, *other);
}

static void put_examples(FILE *out) {
    fputs(".SH EXAMPLES\n", out);
    for (const char *const *name = flrq_commands(); *name; name++) {
        const char *line = cli_command_find(*name)->examples;
        while (line && *line) {
            int length = (int)strcspn(line, "\n");
            char *one = cli_printf("%.*s", length, line);
            fputs(".PP\n.EX\n", out);
            put_line(out, one);
            fputs(".EE\n", out);
            free(one);
            line += length + (line[length] == '\n');
        }
    }
}

void cli_help_man(FILE *out) {
    static const char *const environment[][2] = {
        {"FLRQ_ISA",
         "Instruction set of the CPU kernels: generic, avx2 or avx512. Unset: the best one the processor has."},
        {"OMP_NUM_THREADS",
         "Number of threads, where no option says otherwise. It changes the speed, never a byte of the output."},
        {"NO_COLOR", "When set and not empty, messages are not colored unless --color always is given."},
        {"TERM", "When unset or dumb, progress is written as lines instead of one line rewritten in place."},
    };
    size_t count;
    fprintf(out, ".TH FLRQ 1 \"\" \"flrq %s\" \"User Commands\"\n", flrq_version());
    fputs(".SH NAME\nflrq \\- low\\-rank plus integer quantization of large language models\n", out);
    fputs(".SH SYNOPSIS\n.B flrq\n.I COMMAND\n.RI [ options ]\n", out);
    fputs(".SH DESCRIPTION\n", out);
    put_line(
        out,
        "flrq reads a Hugging Face checkpoint, approximates every linear weight by integers in groups plus a low-rank "
        "product with a rank of its own, and writes a checkpoint that existing engines load.");
    fputs(".PP\n", out);
    put_line(out,
             "Options follow the command, as --name value or --name=value. A flag is turned on by --name and off by "
             "--no-name. Options that are shown with a bare argument (MODEL) may be given without their name, in the "
             "order of the usage line; -- ends the options. A --preset is applied before all other options, wherever "
             "it stands. The result goes to standard output, everything else to standard error.");
    fputs(".PP\n", out);
    put_line(out,
             "SIGINT or SIGTERM ends a quantization after the present unit of work with a state that the same command "
             "resumes; a second signal ends it at once.");
    fputs(".SH COMMANDS\n", out);
    for (const char *const *name = flrq_commands(); *name; name++) put_command(out, *name);
    fputs(".SH OPTIONS OF EVERY COMMAND\n", out);
    const flrq_option *const *options = cli_options(&count);
    for (size_t i = 0; i < count; i++) put_option(out, options[i]);
    fputs(".SH EXIT STATUS\n", out);
    for (size_t i = 0; cli_exit_codes[i][0]; i++) {
        fprintf(out, ".TP\n.B %s\n", cli_exit_codes[i][0]);
        put_line(out, cli_exit_codes[i][1]);
    }
    fputs(".SH ENVIRONMENT\n", out);
    for (size_t i = 0; i < sizeof environment / sizeof environment[0]; i++) {
        fprintf(out, ".TP\n.B %s\n", environment[i][0]);
        put_line(out, environment[i][1]);
    }
    put_examples(out);
}
