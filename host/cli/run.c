/* run.c - one job from parsed options to exit code: signals, progress, result, error.
 */
#include <stdlib.h>

#include "cli.h"

static const char *stop_message(const cli_progress *progress) {
    static char text[256];
    if (cli_is_follower()) return "";
    switch (progress->mode) {
    case CLI_PROGRESS_LOG:
        snprintf(text, sizeof text, "%snote: stopping after the present unit%s\n", cli_log_prefix(),
                 cli_is_launched() ? "" : "; again to abort"); /* the launcher's user is not here */
        return text;
    case CLI_PROGRESS_LIVE:
        return "\r\033[Knote: stopping after the present unit; again to abort\n";
    case CLI_PROGRESS_JSON:
        return "{\"event\":\"notice\",\"text\":\"stopping after the present unit; again to abort\"}\n";
    case CLI_PROGRESS_NONE:
        break;
    }
    return "";
}

/* Shows the result object; *code is the exit code that its content asks for. Returns 0 when it is no object. */
static int show_result(const cli_request *request, const cli_command *command, cli_progress *progress, const char *text,
                       int *code) {
    json_error_t fault;
    json_t *result = text ? json_loads(text, 0, &fault) : NULL;
    if (!json_is_object(result) || (cli_is_follower() && json_object_size(result) == 0)) {
        json_decref(result);
        return cli_is_follower(); /* the result is the first worker's */
    }
    if (!request->json) {
        size_t i;
        json_t *note;
        json_array_foreach(json_object_get(result, "notices"), i, note)
            cli_progress_note(progress, json_string_value(note));
    }
    if (request->json)
        printf("%s\n", text);
    else if (request->quiet)
        command->summary(result, stdout);
    else
        command->show(result, stdout);
    *code = command->exit_code ? command->exit_code(result) : 0;
    json_decref(result);
    return 1;
}

int cli_run(cli_request *request) {
    const cli_command *command = cli_command_find(request->command);
    cli_progress progress;
    char *text = NULL;
    int code = 0;
    cli_progress_begin(&progress, request);
    if (command->stoppable) cli_signals_install(stop_message(&progress));
    flrq_status status = flrq_run(request->params, cli_progress_event, &progress, &text);
    if (command->stoppable) cli_signals_restore();
    cli_progress_clear(&progress);
    /* A run that missed its quality gate has finished and has a result; the error line follows it. */
    if (status == FLRQ_OK || status == FLRQ_ERR_QUALITY) {
        if (!show_result(request, command, &progress, text, &code) && status == FLRQ_OK)
            code = cli_fail(request, FLRQ_ERR_INTERNAL, "the library returned no result object");
    }
    if (status == FLRQ_STOPPED && cli_is_follower())
        code = flrq_exit_code(status); /* all workers stop together: the first says so */
    else if (status == FLRQ_STOPPED)
        code = cli_fail(request, status, "%s%s%s", flrq_last_error(), command->stopped ? "; " : "",
                        command->stopped ? command->stopped : "");
    else if (status != FLRQ_OK)
        code = cli_fail(request, status, "%s", flrq_last_error());
    cli_progress_end(&progress);
    flrq_free(text);
    return code;
}
