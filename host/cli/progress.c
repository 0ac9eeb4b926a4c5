/* progress.c - events of a running job on stderr: one live line on a terminal, one line per block in a log, JSON lines
 * for programs. Display only: it measures nothing, all numbers come with the event.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

/* Seconds between two lines. A line that tells of a new phase or block may come one interval early, so that a long
 * first item is not shown under the name of the phase before; even so a terminal is rewritten at most ten times a
 * second. */
static const double live_interval = 0.125, json_interval = 1.0;

enum { LINE_BYTES = 512 };

static double monotonic_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static int terminal_width(void) {
    struct winsize size;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

void cli_progress_begin(cli_progress *progress, const cli_request *request) {
    memset(progress, 0, sizeof *progress);
    progress->request = request;
    progress->notes = json_object();
    progress->due = -INFINITY;
    if (request->json)
        progress->mode = request->quiet ? CLI_PROGRESS_NONE : CLI_PROGRESS_JSON;
    else if (request->quiet)
        progress->mode = CLI_PROGRESS_NONE;
    else
        progress->mode = cli_terminal(stderr) ? CLI_PROGRESS_LIVE : CLI_PROGRESS_LOG;
}

void cli_progress_clear(cli_progress *progress) {
    if (progress->line_shown) fputs("\r\033[K", stderr);
    progress->line_shown = 0;
}

void cli_progress_end(cli_progress *progress) {
    cli_progress_clear(progress);
    json_decref(progress->notes);
    progress->notes = NULL;
}

void cli_progress_note(cli_progress *progress, const char *text) {
    if (progress->mode == CLI_PROGRESS_NONE || !text || json_object_get(progress->notes, text)) return;
    json_object_set_new_nocheck(progress->notes, text, json_true());
    if (progress->mode == CLI_PROGRESS_JSON) {
        cli_json_line(stderr, json_pack("{s:s, s:o}", "event", "notice", "text", cli_json_text(text)));
        return;
    }
    cli_progress_clear(progress);
    int colored = cli_colored(progress->request, stderr);
    char *clean = cli_clean(cli_copy(text));
    fprintf(stderr, "%s%snote:%s %s\n", cli_log_prefix(), colored ? "\033[1;33m" : "", colored ? "\033[0m" : "", clean);
    free(clean);
}

/* ---- the text of a line ---------------------------------------------------------------------------------------------
 */

/* Adds "  <part>" to a line of LINE_BYTES; what does not fit is dropped. */
static void append(char *line, const char *part) {
    size_t used = strlen(line);
    snprintf(line + used, LINE_BYTES - used, "%s%s", used ? "  " : "", part);
}

static const char *phase_items(const char *phase) {
    static const char *const items[][2] = {{"quantize", "matrices"}, {"calibrate", "segments"}, {"forward", "segments"},
                                           {"eval", "windows"},      {"verify", "tensors"},     {"score", "tokens"}};
    for (size_t i = 0; i < sizeof items / sizeof items[0]; i++)
        if (strcmp(items[i][0], phase) == 0) return items[i][1];
    return "";
}

static void append_block(char *line, const flrq_event *event) {
    char part[64];
    if (event->blocks <= 0) return;
    snprintf(part, sizeof part, "block %lld/%lld", (long long)event->block, (long long)event->blocks);
    append(line, part);
}

static void append_clock(char *line, const char *label, double seconds) {
    char part[96];
    if (!(seconds >= 0)) return;
    snprintf(part, sizeof part, "%s %s", label, cli_clock(seconds).text);
    append(line, part);
}

static void append_memory(char *line, double bytes) {
    char part[96];
    if (!(bytes > 0)) return;
    snprintf(part, sizeof part, "mem %s", cli_bytes(bytes).text);
    append(line, part);
}

static void live_line(char *line, const flrq_event *event) {
    char part[160];
    line[0] = '\0';
    append_block(line, event);
    const char *phase = event->phase ? event->phase : "";
    if (*phase) append(line, phase);
    if (event->total > 0) {
        const char *items = phase_items(phase);
        snprintf(part, sizeof part, "%s%s%s/%s", items, *items ? " " : "", cli_count((double)event->done).text,
                 cli_count((double)event->total).text);
        append(line, part);
    }
    if (event->items_per_second > 0) {
        snprintf(part, sizeof part, "%.*f/s", event->items_per_second < 9.95 ? 1 : 0, event->items_per_second);
        append(line, part);
    }
    append_clock(line, "elapsed", event->elapsed_seconds);
    append_clock(line, "ETA", event->eta_seconds);
    append_memory(line, event->rss_bytes);
    cli_clean(line);
}

/* ---- the three displays ---------------------------------------------------------------------------------------------
 */

/* Whether a line may be shown at `now`; `early` seconds are granted to one with a new phase or block. */
static int is_due(cli_progress *progress, const flrq_event *event, double now, double interval, double early) {
    char phase[sizeof progress->last_phase];
    snprintf(phase, sizeof phase, "%s", event->phase ? event->phase : "");
    int moved = event->block != progress->last_block || strcmp(phase, progress->last_phase) != 0;
    if (now < progress->due - (moved ? early : 0)) return 0;
    progress->due = fmin(fmax(progress->due, now) + interval, now + 2 * interval);
    progress->last_block = event->block;
    memcpy(progress->last_phase, phase, sizeof phase);
    return 1;
}

static void show_live(cli_progress *progress, const flrq_event *event) {
    if (!is_due(progress, event, monotonic_seconds(), live_interval, live_interval)) return;
    char line[LINE_BYTES];
    live_line(line, event);
    /* The last column stays free: a character there makes some terminals wrap. */
    int width = terminal_width() - 1;
    fprintf(stderr, "\r%.*s\033[K", width, line);
    progress->line_shown = 1;
}

static void show_log(const flrq_event *event) {
    if (event->kind != FLRQ_EVENT_BLOCK) return;
    char line[LINE_BYTES] = "";
    time_t now = time(NULL);
    struct tm local;
    if (localtime_r(&now, &local)) strftime(line, sizeof line, "%H:%M:%S", &local);
    append_block(line, event);
    if (event->text) append(line, event->text);
    append_clock(line, "elapsed", event->elapsed_seconds);
    append_clock(line, "ETA", event->eta_seconds);
    append_memory(line, event->rss_bytes);
    fprintf(stderr, "%s%s\n", cli_log_prefix(), cli_clean(line));
}

static void show_json(cli_progress *progress, const flrq_event *event) {
    /* Every phase of every block, else one a second by the job's own clock: the same run gives the same lines. */
    if (event->kind == FLRQ_EVENT_PROGRESS && !is_due(progress, event, event->elapsed_seconds, json_interval, INFINITY))
        return;
    json_t *object = json_pack("{s:s}", "event", event->kind == FLRQ_EVENT_BLOCK ? "block" : "progress");
    if (event->text) json_object_set_new(object, "text", cli_json_text(event->text));
    if (event->phase) json_object_set_new(object, "phase", cli_json_text(event->phase));
    json_object_set_new(object, "block", json_integer(event->block));
    json_object_set_new(object, "blocks", json_integer(event->blocks));
    json_object_set_new(object, "done", json_integer(event->done));
    json_object_set_new(object, "total", json_integer(event->total));
    json_object_set_new(object, "items_per_second", json_real(event->items_per_second));
    json_object_set_new(object, "elapsed_seconds", json_real(event->elapsed_seconds));
    json_object_set_new(object, "eta_seconds", event->eta_seconds >= 0 ? json_real(event->eta_seconds) : json_null());
    json_object_set_new(object, "rss_bytes", json_integer((json_int_t)event->rss_bytes));
    cli_json_line(stderr, object);
}

void cli_progress_event(void *user, const flrq_event *event) {
    cli_progress *progress = user;
    cli_log_device(event->device);
    if (event->kind == FLRQ_EVENT_NOTICE) {
        cli_progress_note(progress, event->text);
        return;
    }
    switch (progress->mode) {
    case CLI_PROGRESS_NONE:
        break;
    case CLI_PROGRESS_LOG:
        show_log(event);
        break;
    case CLI_PROGRESS_LIVE:
        show_live(progress, event);
        break;
    case CLI_PROGRESS_JSON:
        show_json(progress, event);
        break;
    }
}
