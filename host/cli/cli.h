/* cli.h - what the files of the program `flrq` share. Private to host/cli.
 *
 * The program is a thin face of libflrq: it turns argv into option texts for the library's own table, runs the job,
 * shows its events on stderr and its result object on stdout. It includes flrq.h only, knows no option of the library
 * by name except where it renders text, and computes nothing about models. Results go to stdout; everything else to
 * stderr.
 */
#ifndef FLRQ_CLI_H
#define FLRQ_CLI_H

#include <jansson.h>
#include <stdio.h>

#include "flrq.h"

/* ---- the invocation -----------------------------------------------------------------------------------------------
 */

typedef enum cli_color { CLI_COLOR_AUTO = 0, CLI_COLOR_ALWAYS = 1, CLI_COLOR_NEVER = 2 } cli_color;

/** One command line, parsed. `params` is owned by the request. */
typedef struct cli_request {
    const char *command; /* the library's name ("bench-sketch"); NULL until it is known */
    flrq_params *params;
    int json;  /* result object alone on stdout, events and errors as JSON lines on stderr */
    int quiet; /* no progress, no notes: errors and one final line */
    int help;  /* show the help of `command` instead of running it */
    cli_color color;
} cli_request;

/** What a command looks like here. The library knows how to run it, this table how to show it. */
typedef struct cli_command {
    const char *name;                                 /* the library's name */
    void (*show)(const json_t *result, FILE *out);    /* the whole result as tables */
    void (*summary)(const json_t *result, FILE *out); /* one line, for --quiet */
    int (*exit_code)(const json_t *result);           /* NULL: 0 when the job succeeded */
    int stoppable;        /* a first SIGINT or SIGTERM ends it at the next safe point instead of killing it */
    const char *stopped;  /* what to do after such a stop */
    const char *carries;  /* another command that follows after --, with options of its own; NULL: none */
    const char *examples; /* lines of the man page, each a whole command line; NULL: none */
} cli_command;

/** Entry of a command; commands without one of their own (newer library) are shown as indented JSON. Never NULL. */
const cli_command *cli_command_find(const char *name);

/** How the user spells a command: the first dash of the library's name is a space ("bench sketch"). */
typedef struct cli_text {
    char text[64];
} cli_text;
cli_text cli_command_spelling(const char *name);

/** Finds the command that argv[0] (or argv[0] and argv[1]) names. Returns the number of words used, 0 if none fits;
 *  *name is then NULL. */
int cli_command_match(const char **name, int argc, char **argv);

void cli_quantize_show(const json_t *result, FILE *out);
void cli_quantize_summary(const json_t *result, FILE *out);
void cli_eval_show(const json_t *result, FILE *out);
void cli_eval_summary(const json_t *result, FILE *out);
void cli_submit_show(const json_t *result, FILE *out);
void cli_submit_summary(const json_t *result, FILE *out);
void cli_plan_show(const json_t *result, FILE *out);
void cli_plan_summary(const json_t *result, FILE *out);
void cli_inspect_show(const json_t *result, FILE *out);
void cli_inspect_summary(const json_t *result, FILE *out);
void cli_compare_show(const json_t *result, FILE *out);
void cli_compare_summary(const json_t *result, FILE *out);
int cli_compare_exit_code(const json_t *result);
void cli_devices_show(const json_t *result, FILE *out);
void cli_devices_summary(const json_t *result, FILE *out);
void cli_tokenize_show(const json_t *result, FILE *out);
void cli_report_show(const json_t *result, FILE *out);
void cli_report_summary(const json_t *result, FILE *out);
void cli_bench_methods_show(const json_t *result, FILE *out);
void cli_bench_methods_summary(const json_t *result, FILE *out);
void cli_bench_sketch_show(const json_t *result, FILE *out);
void cli_bench_ops_show(const json_t *result, FILE *out);
void cli_bench_rows_summary(const json_t *result, FILE *out);
void cli_bench_quantize_show(const json_t *result, FILE *out);
void cli_bench_quantize_summary(const json_t *result, FILE *out);

/* ---- arguments ----------------------------------------------------------------------------------------------------
 */

/** Options of the program itself, in the form of the library's table (args.c). */
const flrq_option *const *cli_options(size_t *count);

/** Option `name` (without dashes) of `command`, or of the program; NULL if unknown. `command` may be NULL. */
const flrq_option *cli_option_find(const char *command, const char *name);

/** Sets one of the program's own options. Returns 0, or the exit code after an error was printed. */
int cli_option_apply(cli_request *request, const flrq_option *option, const char *value);

/** Parses what follows the command into request->params, --preset first, so that an option given by itself wins over a
 *  preset wherever it stands. Returns 0, or the exit code after an error was printed. */
int cli_args_parse(cli_request *request, int argc, char **argv);

/** 1 when one of the arguments before "--" equals `option` or, if not NULL, `brief`. Lets --json shape the message
 * about an error that stands before it, and --help win over errors. */
int cli_args_contain(int argc, char **argv, const char *option, const char *brief);

/** Nearest of `count` names to a mistyped one; NULL when none is near enough to be meant. */
const char *cli_nearest(const char *typed, const char *const *names, size_t count);

/* ---- help ---------------------------------------------------------------------------------------------------------
 */

void cli_help_program(FILE *out);
void cli_help_command(const char *command, FILE *out);

/** The few lines that follow a missing command. */
void cli_help_brief(FILE *out);

/** "flrq quantize MODEL -o DIR [options]". Returns a text to free(). */
char *cli_help_usage(const char *command);

/** What an option accepts and what it is when unset: "1 to 64; default 8". "" when there is nothing to say. */
char *cli_help_limits(const flrq_option *option);

/** How an option is written on a command line: "MODEL", "-o OUT", "--bits N". Returns a text to free(). */
char *cli_help_word(const flrq_option *option);

/** The same with all its spellings: "MODEL, --model MODEL", "-o, --out OUT", "--[no-]sym". Returns a text to free(). */
char *cli_help_label(const flrq_option *option);

/** Manual page flrq(1) in roff, generated from the option tables. */
void cli_help_man(FILE *out);

/** Exit codes as the table of the man page and of --help: pairs code, meaning, NULL-terminated. */
extern const char *const cli_exit_codes[][2];

/* ---- running ------------------------------------------------------------------------------------------------------
 */

/** Runs the job of the request, shows progress and result. Returns the exit code. */
int cli_run(cli_request *request);

/** SIGINT, SIGTERM, SIGUSR1 and SIGUSR2: the first asks the job to stop and writes `message` (must stay, may be ""),
 * the next one takes its default action; of a launcher's tasks, which may get the same request several times, only one
 * that comes 2 s later. Signals that were ignored at start stay ignored. */
void cli_signals_install(const char *message);

/** Puts back what cli_signals_install() found. */
void cli_signals_restore(void);

/** How events appear on stderr. */
typedef enum cli_progress_mode {
    CLI_PROGRESS_NONE = 0, /* --quiet */
    CLI_PROGRESS_LOG = 1,  /* notes, and one line per block */
    CLI_PROGRESS_LIVE = 2, /* notes, and one line rewritten in place */
    CLI_PROGRESS_JSON = 3  /* JSON lines */
} cli_progress_mode;

/** State of the display of one job. */
typedef struct cli_progress {
    const cli_request *request;
    cli_progress_mode mode;
    json_t *notes;      /* texts already shown: a note appears once */
    int line_shown;     /* a live line stands on the terminal */
    double due;         /* when the next line may follow, on the clock of the mode */
    int64_t last_block; /* block and phase of the last line */
    char last_phase[32];
} cli_progress;

void cli_progress_begin(cli_progress *progress, const cli_request *request);

/** flrq_event_fn; `user` is the cli_progress. */
void cli_progress_event(void *user, const flrq_event *event);

/** Shows a note once: repeated texts, live or in the result's "notices", are dropped. */
void cli_progress_note(cli_progress *progress, const char *text);

/** Removes the live line. */
void cli_progress_clear(cli_progress *progress);

/** The same, and frees what begin made. */
void cli_progress_end(cli_progress *progress);

/* ---- messages -----------------------------------------------------------------------------------------------------
 */

/** True in a task of a launcher (srun, mpirun) that is not its first: that one speaks for all. */
int cli_is_follower(void);

/** True in any task of a launcher. */
int cli_is_launched(void);

/** "[1234 n0 cuda:0] " in a job of Slurm whose stderr is a log: job, node, and the device once an event has named it.
 * "" elsewhere. Valid until cli_log_device(). */
const char *cli_log_prefix(void);

/** Notes the device that an event names; NULL is fine. */
void cli_log_device(const char *device);

/** Prints one error line, plain or as a JSON event, and returns the exit code of the status. */
int cli_fail(const cli_request *request, flrq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/** 1 when `stream` gets colors: --color, NO_COLOR, a terminal that is not dumb. */
int cli_colored(const cli_request *request, FILE *stream);

/** 1 when `stream` is a terminal that can rewrite a line. */
int cli_terminal(FILE *stream);

/** Replaces control characters by '?', in place: names in hostile files must not drive the terminal. Returns text. */
char *cli_clean(char *text);

/** A JSON text; bytes that are not ASCII become '?' when the whole is not UTF-8 (file names need not be). NULL: JSON
 * null. */
json_t *cli_json_text(const char *text);

/** One compact JSON object per line; takes over `object`. In a job of Slurm it gets "job", "node" and "device". */
void cli_json_line(FILE *out, json_t *object);

/** malloc/realloc and strdup that end the program with a line on stderr when memory is out. */
void *cli_resize(void *memory, size_t bytes);
char *cli_copy(const char *text);

/** printf into a new text to free(). */
char *cli_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* ---- numbers and tables -------------------------------------------------------------------------------------------
 */

/* Numbers as people read them; NaN (an absent field) is "?". */
cli_text cli_bytes(double bytes);                        /* "3.2 GB", powers of 1000 */
cli_text cli_count(double count);                        /* "6,738,415,616" */
cli_text cli_plural(double count, const char *singular); /* "1 block", "32 blocks" */
cli_text cli_clock(double seconds);                      /* "2:31", "1:02:31" */
cli_text cli_duration(double seconds);                   /* "12 ms", "0.42 s", "12.3 s", then as cli_clock */
cli_text cli_fixed(double value, int decimals);          /* "4.2531" */
cli_text cli_significant(double value);                  /* four digits: "0.03124" */
cli_text cli_number(double value);                       /* bounds and settings: "0.001", "4096" */

/* Fields of a result object. */
double cli_real(const json_t *object, const char *key);        /* NaN when absent or not a number */
const char *cli_string(const json_t *object, const char *key); /* NULL when absent or not a text */

/** Column of a table: 'l' or 'r' aligned. */
typedef struct cli_column {
    const char *title;
    char align;
} cli_column;

/** Cells are added in reading order; the table is printed and freed in one go. A column whose cells are all empty is
 * left out, an empty cell in another column is "-". Columns without any title make a list without a heading line. */
typedef struct cli_table cli_table;
cli_table *cli_table_new(const cli_column *columns, size_t count);
void cli_cell(cli_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Cells from a field of an object; empty when the field is absent. */
void cli_cell_text(cli_table *table, const json_t *object, const char *key);
void cli_cell_count(cli_table *table, const json_t *object, const char *key);
void cli_cell_bytes(cli_table *table, const json_t *object, const char *key);
void cli_cell_fixed(cli_table *table, const json_t *object, const char *key, int decimals);
void cli_cell_significant(cli_table *table, const json_t *object, const char *key);

/** Prints and frees. `title` (may be NULL) stands above. Returns 0 when there was nothing to show and nothing was
 * printed. */
int cli_table_print(cli_table *table, const char *title, FILE *out);

/** A list of "label  value" lines, printed with cli_table_print(). */
cli_table *cli_facts_new(void);
void cli_fact(cli_table *facts, const char *label, const char *format, ...) __attribute__((format(printf, 3, 4)));

/** Every member of an object as one indented fact; nested values as compact JSON. */
void cli_facts_object(cli_table *facts, const json_t *object);

/** "key value, key value" of an object's members, to free(). */
char *cli_members(const json_t *object);

/** Tensors of the repeating blocks in one line: entries whose names agree but for numbers between dots, and which agree
 *  in every field of `keys` (NULL-terminated), form a group. Order of first appearance. */
typedef struct cli_group {
    char *name;          /* "model.layers.*.mlp.up_proj"; the whole name when the group has one entry */
    const json_t *first; /* borrowed from the result */
    json_t *shape;       /* extents, null where the members differ (ranks do); NULL when they have no "shape" */
    size_t count;
    double bytes; /* sum of "bytes", 0 when absent */
} cli_group;
size_t cli_groups_new(cli_group **out, const json_t *tensors, const char *const *keys);
void cli_groups_free(cli_group *groups, size_t count);

/** The part of a tensor's name after its block number ("mlp.up_proj"), or the whole name. */
const char *cli_name_tail(const char *name);

#endif
