/* main.c - entry of the program: the streams, the words before the command, the dispatch, the last check of stdout.
 *
 * Exit codes are those of flrq_exit_code(). A result that could not be written to stdout is a failure (1) even when the
 * job went well, because a script that reads it must not go on. A reader that closed stderr or stdout early never kills
 * a long job: SIGPIPE is ignored and the failed write is noticed at the end. So is SIGXFSZ: a limit of file sizes is
 * reported like a full disk.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

/* A program started with a standard stream closed would get that descriptor for the first file it opens, and print into
 * a checkpoint. The null device in the wrong direction keeps the number taken and still makes every use of it fail. */
static void reserve_standard_streams(void) {
    static const int modes[3] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int fd = 0; fd < 3; fd++)
        if (fcntl(fd, F_GETFD) == -1 && errno == EBADF && open("/dev/null", modes[fd]) != fd) _exit(1);
}

/* Empties stdout; a job that failed keeps its own exit code. */
static int finish(const cli_request *request, int code) {
    errno = 0;
    int broken = fflush(stdout) != 0;
    int reason = errno;
    if (!broken && !ferror(stdout)) return code;
    if (reason != EPIPE)
        cli_fail(request, FLRQ_ERR_IO, "standard output: cannot write the result%s%s", reason ? ": " : "",
                 reason ? strerror(reason) : "");
    return code ? code : 1;
}

static const char *nearest_command(const char *typed) {
    size_t count = 0;
    const char *const *names = flrq_commands();
    while (names[count]) count++;
    return cli_nearest(typed, names, count);
}

static int unknown_command(const cli_request *request, const char *typed) {
    char *known = NULL;
    size_t length = strlen(typed);
    for (const char *const *name = flrq_commands(); *name; name++) {
        if (strncmp(*name, typed, length) != 0 || (*name)[length] != '-') continue;
        char *longer = cli_printf("%s%s%s", known ? known : "", known ? ", " : "", cli_command_spelling(*name).text);
        free(known);
        known = longer;
    }
    int code;
    const char *nearest = nearest_command(typed);
    if (known)
        code = cli_fail(request, FLRQ_ERR_USAGE, "\"%s\" is the first word of a command: %s", typed, known);
    else if (nearest)
        code = cli_fail(request, FLRQ_ERR_USAGE, "unknown command \"%s\"; did you mean \"%s\"?", typed,
                        cli_command_spelling(nearest).text);
    else
        code = cli_fail(request, FLRQ_ERR_USAGE, "unknown command \"%s\"; flrq --help lists the commands", typed);
    free(known);
    return code;
}

/* flrq help [--man | COMMAND] */
static int help(cli_request *request, int argc, char **argv) {
    if (argc == 0) {
        cli_help_program(stdout);
        return 0;
    }
    if (strcmp(argv[0], "--man") == 0) {
        cli_help_man(stdout);
        return 0;
    }
    if (cli_command_match(&request->command, argc, argv) == 0) return unknown_command(request, argv[0]);
    cli_help_command(request->command, stdout);
    return 0;
}

/* The words after a command's name, into the params of the request. */
static int parse(cli_request *request, int argc, char **argv) {
    flrq_status status = flrq_params_new(&request->params, request->command);
    if (status != FLRQ_OK) return cli_fail(request, status, "%s", flrq_last_error());
    return cli_args_parse(request, argc, argv);
}

/* The command that another one carries, from the word after -- on. Options of the program mean the whole. */
static int parse_carried(cli_request *request, const char *carried, int argc, char **argv) {
    cli_request job = {.json = request->json, .quiet = request->quiet, .color = request->color};
    if (cli_command_match(&job.command, argc, argv) == 0 || strcmp(job.command, carried) != 0) {
        char *usage = cli_help_usage(request->command);
        int code = cli_fail(request, FLRQ_ERR_USAGE, "%s: %s wanted after --%s%s%s; usage: %s", request->command,
                            carried, argc ? ", not \"" : "", argc ? argv[0] : "", argc ? "\"" : "", usage);
        free(usage);
        return code;
    }
    if (cli_args_contain(argc - 1, argv + 1, "--help", "-h")) {
        cli_help_command(job.command, stdout);
        request->help = 1;
        return 0;
    }
    int code = parse(&job, argc - 1, argv + 1);
    request->json = job.json, request->quiet = job.quiet, request->color = job.color;
    if (code) {
        flrq_params_free(job.params);
        return code;
    }
    flrq_status status = flrq_params_set_job(request->params, job.params);
    return status == FLRQ_OK ? 0 : cli_fail(request, status, "%s", flrq_last_error());
}

static int run_command(cli_request *request, int argc, char **argv) {
    int used = cli_command_match(&request->command, argc, argv);
    if (used == 0) return unknown_command(request, argv[0]);
    argc -= used, argv += used;
    request->help = request->help || cli_args_contain(argc, argv, "--help", "-h");
    if (request->help) {
        cli_help_command(request->command, stdout);
        return 0;
    }
    const char *carried = cli_command_find(request->command)->carries;
    int end = argc;
    if (carried)
        for (end = 0; end < argc && strcmp(argv[end], "--") != 0;) end++;
    int code = parse(request, end, argv);
    if (!code && carried) {
        int first = end < argc ? end + 1 : end;
        code = parse_carried(request, carried, argc - first, argv + first);
        if (request->help) return code;
    }
    return code ? code : cli_run(request);
}

/* The program's own options may stand before the command. Returns the index of the command word; *code is set, with
 * -1 for "go on". */
static int leading_options(cli_request *request, int argc, char **argv, int *code) {
    int i = 1;
    for (*code = -1; *code == -1 && i < argc && argv[i][0] == '-'; i++) {
        const char *word = strcmp(argv[i], "-h") == 0 ? "--help" : argv[i];
        char *name = cli_copy(strncmp(word, "--", 2) == 0 ? word + 2 : word);
        char *value = strchr(name, '=');
        if (value) *value++ = '\0';
        const flrq_option *option = cli_option_find(NULL, name);
        if (!option || strncmp(word, "--", 2) != 0) {
            *code = cli_fail(request, FLRQ_ERR_USAGE,
                             "unknown option %s before the command; options of a command follow it", argv[i]);
        } else if (strcmp(name, "version") == 0) {
            printf("flrq %s\n", flrq_version());
            *code = 0;
        } else {
            if (!value && option->kind != FLRQ_OPTION_FLAG && i + 1 < argc) value = argv[++i];
            int failed = cli_option_apply(request, option, value);
            if (failed) *code = failed;
        }
        free(name);
    }
    return i;
}

int main(int argc, char **argv) {
    reserve_standard_streams();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    cli_request request = {0};
    request.json = cli_args_contain(argc - 1, argv + 1, "--json", NULL);
    int code;
    int first = leading_options(&request, argc, argv, &code);
    if (code == -1) {
        if (first < argc && strcmp(argv[first], "help") == 0) {
            code = help(&request, argc - first - 1, argv + first + 1);
        } else if (first < argc) {
            code = run_command(&request, argc - first, argv + first);
        } else if (request.help) {
            cli_help_program(stdout);
            code = 0;
        } else if (request.json) {
            code = cli_fail(&request, FLRQ_ERR_USAGE, "no command; flrq --help lists the commands");
        } else {
            cli_help_brief(stderr);
            code = flrq_exit_code(FLRQ_ERR_USAGE);
        }
    }
    code = finish(&request, code);
    flrq_params_free(request.params);
    return code;
}
