/* message.c - one-line messages on stderr and the rules of streams: terminal or log, colored or plain, JSON or text.
 * Also the allocators of the program, which end it when memory is out.
 */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli.h"

static void *out_of_memory(void) {
    fputs("flrq: error: out of memory\n", stderr);
    exit(flrq_exit_code(FLRQ_ERR_MEMORY));
}

void *cli_resize(void *memory, size_t bytes) {
    void *grown = realloc(memory, bytes ? bytes : 1);
    return grown ? grown : out_of_memory();
}

char *cli_copy(const char *text) {
    return cli_printf("%s", text);
}

static char *format_text(const char *format, va_list args) {
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0) out_of_memory();
    return text;
}

char *cli_printf(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = format_text(format, args);
    va_end(args);
    return text;
}

char *cli_clean(char *text) {
    for (unsigned char *c = (unsigned char *)text; *c; c++) {
        if (*c < 0x20 || *c == 0x7f) *c = '?';
        /* U+0080 to U+009F are control characters too: in UTF-8 two bytes, C2 80 to C2 9F. */
        if (*c == 0xc2 && c[1] >= 0x80 && c[1] <= 0x9f) c[0] = c[1] = '?';
    }
    return text;
}

/* The rank that a launcher gave this task, -1 where none did. */
static long launched_rank(void) {
    static const char *const names[] = {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"};
    const char *rank = getenv("SLURM_STEP_NUM_TASKS") ? getenv("SLURM_PROCID") : NULL;
    for (size_t i = 0; !rank && i < sizeof names / sizeof names[0]; i++) rank = getenv(names[i]);
    return rank && *rank ? strtol(rank, NULL, 10) : -1;
}

int cli_is_launched(void) {
    return launched_rank() >= 0;
}

int cli_is_follower(void) {
    return launched_rank() > 0;
}

static char log_device[64];

/* What a line of a job's log is about: the job and the node, both "" outside of a job. */
static void log_place(char job[32], char node[64]) {
    const char *number = getenv("SLURM_JOB_ID"), *name = getenv("SLURMD_NODENAME");
    job[0] = node[0] = '\0';
    if (!number || !*number) return;
    snprintf(job, 32, "%s", number);
    if (name)
        snprintf(node, 64, "%s", name);
    else if (gethostname(node, 63) != 0)
        node[0] = '\0';
    node[63] = '\0';
}

const char *cli_log_prefix(void) {
    static char prefix[192];
    char job[32], node[64];
    log_place(job, node);
    prefix[0] = '\0';
    if (*job && !cli_terminal(stderr))
        snprintf(prefix, sizeof prefix, "[%s%s%s%s%s] ", job, *node ? " " : "", node, *log_device ? " " : "",
                 log_device);
    return cli_clean(prefix);
}

void cli_log_device(const char *device) {
    if (device) snprintf(log_device, sizeof log_device, "%s", device);
}

int cli_terminal(FILE *stream) {
    const char *kind = getenv("TERM");
    return isatty(fileno(stream)) && kind && *kind && strcmp(kind, "dumb") != 0;
}

int cli_colored(const cli_request *request, FILE *stream) {
    if (request->color != CLI_COLOR_AUTO) return request->color == CLI_COLOR_ALWAYS;
    const char *refused = getenv("NO_COLOR");
    return cli_terminal(stream) && !(refused && *refused);
}

json_t *cli_json_text(const char *text) {
    json_t *string = json_string(text);
    if (string || !text) return string ? string : json_null();
    char *plain = cli_copy(text);
    for (unsigned char *c = (unsigned char *)plain; *c; c++)
        if (*c >= 0x80) *c = '?';
    string = json_string(plain);
    free(plain);
    return string;
}

void cli_json_line(FILE *out, json_t *object) {
    char job[32], node[64];
    log_place(job, node);
    if (*job) json_object_set_new(object, "job", cli_json_text(job));
    if (*node) json_object_set_new(object, "node", cli_json_text(node));
    if (*job && *log_device) json_object_set_new(object, "device", cli_json_text(log_device));
    char *text = json_dumps(object, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(9));
    json_decref(object);
    if (!text) out_of_memory();
    fprintf(out, "%s\n", text);
    free(text);
}

int cli_fail(const cli_request *request, flrq_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = format_text(format, args);
    va_end(args);
    fflush(stdout);
    if (!*text) { /* said by another worker */
        free(text);
        return flrq_exit_code(status);
    }
    if (request->json) {
        cli_json_line(stderr, json_pack("{s:s, s:s, s:o}", "event", "error", "status", flrq_status_name(status),
                                        "message", cli_json_text(text)));
    } else if (status == FLRQ_STOPPED) {
        fprintf(stderr, "%sflrq: %s\n", cli_log_prefix(), cli_clean(text)); /* a stop on request is no error */
    } else {
        int colored = cli_colored(request, stderr);
        fprintf(stderr, "%sflrq: %serror:%s %s\n", cli_log_prefix(), colored ? "\033[1;31m" : "",
                colored ? "\033[0m" : "", cli_clean(text));
    }
    free(text);
    return flrq_exit_code(status);
}
