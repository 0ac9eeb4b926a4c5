/* fake_flrq.c - a stand-in for libflrq, so that the program can be tested without models and without time passing.
 *
 * Implements the part of flrq.h that the program uses: a small option table with every kind of option, canned events
 * and canned results. What a job does is chosen by its first positional value ("gate", "endless", ...: see
 * `scenarios`); any other value succeeds. Numbers are fixed, so that stdout and stderr can be compared as text.
 */
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "flrq.h"

/* ---- status ---------------------------------------------------------------------------------------------------------
 */

static char error_text[512];

static flrq_status fail(flrq_status status, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(error_text, sizeof error_text, format, args);
    va_end(args);
    return status;
}

const char *flrq_version(void) {
    return "0.0.0";
}

const char *flrq_last_error(void) {
    return error_text;
}

const char *flrq_status_name(flrq_status status) {
    static const char *const names[] = {"ok",     "usage",       "io",   "format",  "shape",   "numeric",
                                        "memory", "unsupported", "busy", "quality", "stopped", "internal"};
    return names[status];
}

int flrq_exit_code(flrq_status status) {
    switch (status) {
    case FLRQ_OK:
        return 0;
    case FLRQ_ERR_USAGE:
        return 2;
    case FLRQ_ERR_QUALITY:
        return 3;
    case FLRQ_STOPPED:
        return 75;
    default:
        return 1;
    }
}

void flrq_free(void *memory) {
    free(memory);
}

static volatile sig_atomic_t stop_requested;

void flrq_request_stop(void) {
    stop_requested = 1;
}

/* ---- options --------------------------------------------------------------------------------------------------------
 */

static const flrq_option
    model = {"model", FLRQ_OPTION_TEXT, "arguments", "MODEL", NULL, 0, 0, NULL, "Model folder.", 1, 1},
    first = {"a", FLRQ_OPTION_TEXT, "arguments", "A", NULL, 0, 0, NULL, "First folder.", 1, 1},
    second = {"b", FLRQ_OPTION_TEXT, "arguments", "B", NULL, 0, 0, NULL, "Second folder.", 1, 1},
    out = {"out", FLRQ_OPTION_TEXT, "arguments", "OUT", NULL, 0, 0, NULL, "Output folder.", 0, 1},
    preset = {"preset",
              FLRQ_OPTION_CHOICE,
              "scheme",
              "NAME",
              "default",
              0,
              0,
              "default|paper",
              "Sets bits too: paper means 3.",
              0,
              0},
    bits = {"bits", FLRQ_OPTION_INT, "scheme", "N", "4", 2, 8, NULL, "Bits of a code.", 0, 0},
    sym = {"sym",
           FLRQ_OPTION_FLAG,
           "scheme",
           NULL,
           "true",
           0,
           1,
           NULL,
           "Symmetric codes; this sentence is long on purpose, so that the help has a reason to wrap it at its right "
           "margin and to indent what follows.",
           0,
           0},
    tolerance = {"tolerance", FLRQ_OPTION_REAL, "low rank", "X", "0.001", 0, 1, NULL, "Stop below this.", 0, 0},
    rank = {"max-rank", FLRQ_OPTION_INT, "low rank", "N", NULL, 0, INFINITY, NULL, "Largest rank.", 0, 0},
    label = {"a-very-long-name-for-an-option",
             FLRQ_OPTION_TEXT,
             "low rank",
             "TEXT",
             NULL,
             0,
             0,
             NULL,
             "Its text goes below.",
             0,
             0},
    text = {"text", FLRQ_OPTION_TEXT, "input", "FILE", NULL, 0, 0, NULL, "Text file.", 0, 0},
    check = {"check", FLRQ_OPTION_FLAG, "input", NULL, "false", 0, 1, NULL, "Check twice.", 0, 0},
    nodes = {"nodes", FLRQ_OPTION_INT, "job", "N", "1", 1, 4, NULL, "Nodes of the job.", 0, 0},
    print = {"print", FLRQ_OPTION_FLAG, "job", NULL, "false", 0, 1, NULL, "Print the script.", 0, 0},
    title = {"name", FLRQ_OPTION_TEXT, "bench", "NAME", NULL, 0, 0, NULL, "Beginning of the names.", 0, 0};

enum { MOST_OPTIONS = 10, COMMANDS = 14 };
static const char *const names[COMMANDS + 1] = {
    "quantize",  "plan",           "eval",        "inspect", "compare",       "devices", "tokenize", "bench-sketch",
    "bench-ops", "bench-quantize", "bench-later", "submit",  "bench-methods", "report",  NULL};
static const char *const helps[COMMANDS] = {"Quantize a model.",
                                            "Say what quantize would need.",
                                            "Measure perplexity.",
                                            "Show a checkpoint.",
                                            "Compare two.",
                                            "List the devices.",
                                            "Write token ids.",
                                            "Time the sketches.",
                                            "Time the ops.",
                                            "Time a whole run.",
                                            "A command that the program has no table for.",
                                            "Submit a run.",
                                            "Compare methods.",
                                            "Make a page."};
static const flrq_option *const options[COMMANDS][MOST_OPTIONS] = {
    {&model, &out, &preset, &bits, &sym, &tolerance, &rank, &label},
    {&model, &preset, &bits, &sym, &tolerance, &rank, &label},
    {&model, &text, &check},
    {&model},
    {&first, &second},
    {NULL},
    {&model, &out, &text},
    {&bits, &title},
    {&title},
    {&title},
    {NULL},
    {&nodes, &print},
    {&model, &title},
    {&model},
};

struct flrq_params {
    int command;
    char *values[MOST_OPTIONS];
    struct flrq_params *job;
};

const char *const *flrq_commands(void) {
    return names;
}

static int index_of(const char *command) {
    for (int i = 0; i < COMMANDS; i++)
        if (strcmp(names[i], command) == 0) return i;
    return -1;
}

const char *flrq_command_help(const char *command) {
    int i = index_of(command);
    return i < 0 ? NULL : helps[i];
}

const flrq_option *const *flrq_command_options(const char *command, size_t *count) {
    int i = index_of(command);
    if (i < 0) return NULL;
    for (*count = 0; *count < MOST_OPTIONS && options[i][*count];) ++*count;
    return options[i];
}

static int slot(const flrq_params *params, const char *name) {
    for (int i = 0; i < MOST_OPTIONS && options[params->command][i]; i++)
        if (strcmp(options[params->command][i]->name, name) == 0) return i;
    return -1;
}

flrq_status flrq_params_new(flrq_params **created, const char *command) {
    *created = calloc(1, sizeof **created);
    (*created)->command = index_of(command);
    for (int i = 0; i < MOST_OPTIONS && options[(*created)->command][i]; i++) {
        const char *value = options[(*created)->command][i]->default_text;
        if (value) (*created)->values[i] = strdup(value);
    }
    return FLRQ_OK;
}

void flrq_params_free(flrq_params *params) {
    if (params) flrq_params_free(params->job);
    for (int i = 0; params && i < MOST_OPTIONS; i++) free(params->values[i]);
    free(params);
}

flrq_status flrq_params_set(flrq_params *params, const char *name, const char *value) {
    int i = slot(params, name);
    if (i < 0) return fail(FLRQ_ERR_USAGE, "%s has no option --%s", names[params->command], name);
    const flrq_option *option = options[params->command][i];
    char *end;
    double number = strtod(value, &end);
    if ((option->kind == FLRQ_OPTION_INT || option->kind == FLRQ_OPTION_REAL) &&
        (end == value || *end || !(number >= option->min && number <= option->max)))
        return fail(FLRQ_ERR_USAGE, "--%s takes a number from %g to %g, not \"%s\"", name, option->min, option->max,
                    value);
    if (option->kind == FLRQ_OPTION_FLAG && strcmp(value, "true") != 0 && strcmp(value, "false") != 0)
        return fail(FLRQ_ERR_USAGE, "--%s takes true or false, not \"%s\"", name, value);
    free(params->values[i]);
    params->values[i] = strdup(value);
    if (option == &preset && strcmp(value, "paper") == 0) return flrq_params_set(params, "bits", "3");
    return FLRQ_OK;
}

const char *flrq_params_get(const flrq_params *params, const char *name) {
    int i = slot(params, name);
    return i < 0 ? NULL : params->values[i];
}

flrq_status flrq_params_set_job(flrq_params *params, flrq_params *job) {
    params->job = job;
    return FLRQ_OK;
}

/* ---- events ---------------------------------------------------------------------------------------------------------
 */

typedef struct listener {
    flrq_event_fn fn;
    void *user;
} listener;

static void notice(const listener *to, const char *what) {
    flrq_event event = {.size = sizeof event, .kind = FLRQ_EVENT_NOTICE, .text = what, .eta_seconds = -1};
    to->fn(to->user, &event);
}

static void progress(const listener *to, int block, const char *phase, int done, double elapsed) {
    flrq_event event = {.size = sizeof event,
                        .kind = FLRQ_EVENT_PROGRESS,
                        .phase = phase,
                        .block = block,
                        .blocks = 32,
                        .done = done,
                        .total = 7,
                        .items_per_second = done ? 3.1 : 0,
                        .elapsed_seconds = elapsed,
                        .eta_seconds = block > 1 ? 520 : -1,
                        .rss_bytes = 3.2e9};
    to->fn(to->user, &event);
}

static void block_done(const listener *to, int block, double elapsed) {
    flrq_event event = {.size = sizeof event,
                        .device = "cuda:0",
                        .kind = FLRQ_EVENT_BLOCK,
                        .text = "rank 12.3  error 0.03",
                        .phase = "quantize",
                        .block = block,
                        .blocks = 32,
                        .elapsed_seconds = elapsed,
                        .eta_seconds = 4000.0 / block,
                        .rss_bytes = 3.2e9};
    to->fn(to->user, &event);
}

static void pause_milliseconds(int milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000l};
    while (nanosleep(&time, &time) != 0) {
    }
}

/* Three blocks; with a pause, slow enough for a terminal to show several lines. */
static void run_blocks(const listener *to, int pause) {
    for (int block = 1; block <= 3; block++) {
        progress(to, block, "calibrate", 0, 100 * block);
        for (int done = 0; done <= 7 && !stop_requested; done++) {
            pause_milliseconds(pause);
            progress(to, block, "quantize", done, 100 * block + 5 + 0.5 * done);
        }
        if (block == 2) notice(to, "tensor x: fell back to SVD");
        if (block == 3) notice(to, "tensor x: fell back to SVD");
        block_done(to, block, 100 * block + 50);
    }
}

/* Events until somebody asks to stop; the bound only keeps a failing test from hanging. */
static void wait_for_stop(const listener *to) {
    for (int i = 0; i < 2000 && !stop_requested; i++) {
        progress(to, 4, "forward", 1, 400);
        pause_milliseconds(10);
    }
}

/* ---- results --------------------------------------------------------------------------------------------------------
 */

static const char quantize_result[] =
    "{\"out\":\"OUT\",\"model\":\"MODEL\",\"family\":\"llama\",\"method\":\"flrq\",\"preset\":\"default\",\"bits\":4,"
    "\"group\":128,\"symmetric\":true,\"weights\":6476005376,\"bits_per_weight\":4.2531,"
    "\"bits_breakdown\":{\"codes\":4.0,\"scales\":0.125,\"zeros\":0.0,\"lowrank\":0.1281},\"average_rank\":12.34,"
    "\"max_rank\":64,\"error\":0.04123,\"error_nearest\":0.06334,\"seconds\":751.4,"
    "\"phases\":{\"open\":0.012,\"calibrate\":301.5,\"quantize\":400.25,\"write\":20.0,\"forward\":25.0,\"verify\":4.6}"
    ","
    "\"blocks\":[{\"block\":1,\"seconds\":3.14,\"bits_per_weight\":4.2,\"rank_min\":0,\"rank_mean\":10.5,\"rank_max\":"
    "31,"
    "\"error\":0.0312,\"error_nearest\":0.05,\"worst\":\"model.layers.0.mlp.down_proj\",\"worst_error\":0.0512},"
    "{\"block\":2,\"seconds\":12.0,\"bits_per_weight\":4.31,\"rank_min\":4,\"rank_mean\":14.0,\"rank_max\":64,"
    "\"error\":1.25e-05,\"error_nearest\":null,\"worst\":\"model.layers.1.self_attn.q_proj\",\"worst_error\":0.07}],"
    "\"worst\":[{\"name\":\"model.layers.1.self_attn.q_proj\",\"rows\":4096,\"cols\":11008,\"rank\":64,\"error\":0.07,"
    "\"error_nearest\":0.21}],\"resumed_blocks\":1,\"peak_rss_bytes\":3214567890,\"planned_bytes\":3000000000,"
    "\"output_bytes\":3912345678,\"dropped\":[{\"name\":\"model.rotary.inv_freq\",\"reason\":\"recomputed\"}],"
    "\"tied\":[{\"name\":\"lm_head.weight\",\"reason\":\"tied to "
    "model.embed_tokens.weight\"},\"other\"],\"copied_count\":66,"
    "\"notices\":[\"tensor x: fell back to SVD\",\"context shortened to 512\"],\"report\":\"OUT/report.json\"}";

static const char plan_result[] =
    "{\"model\":\"MODEL\",\"out\":null,\"family\":\"llama\",\"blocks\":2,\"linears\":4,\"weights\":4194304,"
    "\"scheme\":{\"bits\":4,\"group\":128,\"symmetric\":true},\"rank_cap_max\":64,\"bits_per_weight_min\":4.125,"
    "\"bits_per_weight_max\":4.9,\"memory\":[{\"name\":\"program and libraries\",\"bytes\":20971520},"
    "{\"name\":\"calibration activations\",\"bytes\":1073741824}],\"host_bytes\":1094713344,\"output_bytes\":999960,"
    "\"scratch_bytes\":1073741824,\"disk_free_bytes\":999999999999,\"flops\":1.5e12,"
    "\"time\":{\"seconds_total\":125.5,\"phases\":{\"open\":5,\"read\":0,\"calibrate\":80.5,\"quantize\":40,\"gather\":"
    "0},"
    "\"hidden\":{\"open\":0,\"read\":6.8,\"calibrate\":0,\"quantize\":0,\"gather\":0},\"profile\":\"Some GPU\","
    "\"profile_date\":\"2026-01-02\",\"profile_note\":\"not quiet\",\"measured\":false,\"workers\":16,\"nodes\":2,"
    "\"bytes\":{\"link\":2e11,\"network\":1e11,\"read\":3e11,\"written\":0},\"rates\":{\"link_bytes_s\":4.5e11,"
    "\"network_bytes_s\":25e9,\"read_bytes_s\":2e9,\"write_bytes_s\":1e9},"
    "\"assumptions\":{\"rank_of_bound\":0.25,\"epochs\":5}},\"tensors\":["
    "{\"name\":\"model.layers.0.q_proj\",\"rows\":1024,\"cols\":1024,\"groups\":8,\"tail\":0,\"rank_cap\":64},"
    "{\"name\":\"model.layers.0.k_proj\",\"rows\":256,\"cols\":1024,\"groups\":8,\"tail\":0,\"rank_cap\":32},"
    "{\"name\":\"model.layers.1.q_proj\",\"rows\":1024,\"cols\":1024,\"groups\":8,\"tail\":0,\"rank_cap\":64},"
    "{\"name\":\"model.layers.1.k_proj\",\"rows\":512,\"cols\":1024,\"groups\":8,\"tail\":0,\"rank_cap\":32}],"
    "\"notices\":[]}";

static const char eval_result[] =
    "{\"model\":\"OUT\",\"perplexity\":12.34567,\"nll\":2.513302,\"tokens\":100000,\"scored\":99951,\"context\":2048,"
    "\"windows\":49,\"seconds\":12.5,\"lowrank\":true,\"quantized\":true,\"against\":{\"model\":\"MODEL\","
    "\"perplexity\":12.1,\"kl_mean\":0.0123,\"kl_max\":2.5,\"top1_agreement\":0.9432}}";

static const char inspect_result[] =
    "{\"path\":\"MODEL\",\"kind\":\"quantized\",\"family\":\"llama\",\"parameters\":1234567,\"files\":2,\"bytes\":"
    "2469134,"
    "\"config\":{\"hidden_size\":64,\"rope_theta\":10000.0,\"eps\":1e-05,\"tied\":true,\"scaling\":null},"
    "\"quantization\":{\"format\":\"pack-quantized\",\"bits\":4},\"tensors\":["
    "{\"name\":\"embed.weight\",\"dtype\":\"BF16\",\"shape\":[1000,64],\"bytes\":128000,\"role\":\"embedding\","
    "\"file\":\"a\"},"
    "{\"name\":\"h.0.w\",\"dtype\":\"I32\",\"shape\":[64,8],\"bytes\":2048,\"role\":\"codes\",\"file\":\"a\"},"
    "{\"name\":\"h.1.w\",\"dtype\":\"I32\",\"shape\":[64,8],\"bytes\":2048,\"role\":\"codes\",\"file\":\"b\"},"
    "{\"name\":\"h.0.lora_A\",\"dtype\":\"F16\",\"shape\":[3,64],\"bytes\":384,\"role\":\"low rank R\",\"file\":\"c\"},"
    "{\"name\":\"h.1.lora_A\",\"dtype\":\"F16\",\"shape\":[5,64],\"bytes\":640,\"role\":\"low rank R\",\"file\":\"c\"},"
    "{\"name\":\"h.2.lora_A\",\"dtype\":\"F16\",\"shape\":[64],\"bytes\":128,\"role\":\"low rank R\",\"file\":\"c\"},"
    "{\"name\":\"h.0.scale\",\"dtype\":\"BF16\",\"shape\":[],\"bytes\":2,\"role\":\"scale\",\"file\":\"a\"}]}";

static const char compare_result[] =
    "{\"a\":\"A\",\"b\":\"B\",\"identical\":false,\"equal\":10,\"different\":2,\"only_a\":1,\"only_b\":0,\"tensors\":["
    "{\"name\":\"same\",\"status\":\"equal\",\"max_abs\":0,\"relative\":0},"
    "{\"name\":\"near\",\"status\":\"different\",\"max_abs\":0.001,\"relative\":1e-06},"
    "{\"name\":\"far\",\"status\":\"different\",\"max_abs\":2.5,\"relative\":0.5},"
    "{\"name\":\"alone\",\"status\":\"only_a\",\"max_abs\":0,\"relative\":0},"
    "{\"name\":\"odd\",\"status\":\"shape\",\"max_abs\":-1,\"relative\":-1},"
    "{\"name\":\"bytes\",\"status\":\"different\",\"max_abs\":-1,\"relative\":-1}]}";

static const char devices_result[] =
    "{\"devices\":[{\"name\":\"cpu\",\"available\":true,\"detail\":\"avx512, OpenBLAS\",\"reason\":null,"
    "\"memory_bytes\":16000000000,\"free_bytes\":8123456789,\"threads\":2},"
    "{\"name\":\"cuda\",\"available\":false,\"detail\":null,\"reason\":\"this build has no CUDA backend\"}]}";

static const char bench_sketch_result[] =
    "{\"device\":\"cpu\",\"machine\":\"Some CPU\",\"threads\":2,\"precision\":\"full\",\"libraries\":\"Some "
    "BLAS\",\"date\":\"2026-01-31\",\"matrices\":[{\"matrix\":\"power+columns "
    "4096x4096\"},{\"matrix\":\"a\\u001b[31m\"}],"
    "\"rows\":[{\"matrix\":\"power+columns 4096x4096\",\"rows\":4096,\"cols\":4096,\"spectrum\":\"power\",\"rank\":32,"
    "\"method\":\"block\",\"routine\":\"flrq block sketch\",\"status\":\"ok\",\"seconds\":0.1234,\"seconds_p10\":0.12,"
    "\"seconds_p90\":0.13,\"runs\":5,\"residual\":100.5,\"norm\":4000,\"optimum\":100.4,\"excess\":0.000996,"
    "\"speedup_over_r1\":12.3,\"speedup_over_svd\":234.5},"
    "{\"matrix\":\"power+columns 4096x4096\",\"rows\":4096,\"cols\":4096,\"rank\":32,\"method\":\"svd\",\"routine\":"
    "\"LAPACK gesdd\",\"status\":\"ok\",\"seconds\":28.9,\"residual\":100.4,\"optimum\":100.4,\"excess\":-1e-7},"
    "{\"matrix\":\"power+columns 4096x4096\",\"rows\":4096,\"cols\":4096,\"rank\":64,\"method\":\"block\",\"routine\":"
    "\"flrq block sketch\",\"status\":\"ok\",\"seconds\":0.25,\"runs\":5},"
    "{\"matrix\":\"a\\u001b[31m\",\"rows\":64,\"cols\":64,\"rank\":32,\"method\":\"svdj\",\"status\":\"not on this "
    "device\"}],\"ranks\":["
    "{\"matrix\":\"power+columns "
    "4096x4096\",\"method\":\"block\",\"bits\":4,\"rank_r1flr\":40,\"rank_best\":12,\"cap\":"
    "64,\"cap_from\":\"ranks\",\"capped\":false,\"reference\":\"svd\",\"agrees\":true,\"curve_difference\":0.0123,"
    "\"amax_0\":32.5,\"amax_r1flr\":20.25},"
    "{\"matrix\":\"power+columns "
    "4096x4096\",\"method\":\"r1\",\"bits\":4,\"rank_r1flr\":38,\"rank_best\":12,\"cap\":64,"
    "\"cap_from\":\"ranks\",\"capped\":false,\"reference\":\"svd\",\"agrees\":false,\"curve_difference\":0.3,\"amax_"
    "0\":"
    "32.5,\"amax_r1flr\":20.5},"
    "{\"matrix\":\"power+columns "
    "4096x4096\",\"method\":\"svd\",\"bits\":4,\"rank_r1flr\":40,\"rank_best\":12,\"cap\":64,"
    "\"cap_from\":\"ranks\",\"capped\":false,\"reference\":\"svd\",\"amax_0\":32.5,\"amax_r1flr\":20.25},"
    "{\"matrix\":\"a\\u001b[31m\",\"method\":\"block\",\"bits\":4,\"rank_r1flr\":64,\"rank_best\":12,\"cap\":64,"
    "\"cap_from\":\"size\",\"capped\":true,\"reference\":\"block\"},"
    "{\"matrix\":\"a\\u001b[31m\",\"method\":\"rsvd\",\"bits\":4,\"rank_r1flr\":51,\"rank_best\":1,\"cap\":51,"
    "\"cap_from\":\"rank-extra\",\"capped\":true,\"reference\":\"block\"}],"
    "\"amax\":[],\"agreement\":[{\"method\":\"block\",\"matrices\":2,\"agree\":2,\"differ\":[]},{\"method\":\"r1\","
    "\"matrices\":2,\"agree\":0,\"differ\":[\"power+columns 4096x4096\",\"a\\u001b[31m\"]}]}";

static const char bench_ops_result[] =
    "{\"device\":\"cuda\",\"machine\":\"Some "
    "GPU\",\"threads\":16,\"limits\":{\"copy_gb_s\":3012.3,\"upload_gb_s\":50.1,"
    "\"download_gb_s\":0,\"full_gflop_s\":51234.5,\"fast_gflop_s\":801234.5},\"rows\":["
    "{\"op\":\"linear\",\"shape\":\"bf16 4096x4096, 2048 tokens, fast\",\"precision\":\"fast\",\"status\":\"ok\","
    "\"seconds\":0.0001234,\"seconds_p10\":0.00012,\"seconds_p90\":0.00013,\"samples\":100,\"batch\":8,\"gb_s\":812.5,"
    "\"of_copy\":0.27,\"gflop_s\":556000,\"of_matrix\":0.695,\"of_floor\":0.695},"
    "{\"op\":\"rsvd\",\"shape\":\"1024x1024\",\"precision\":\"full\",\"status\":\"not on this device\"}]}";

/* One run, with a phase that has a floor and one that has none; and several, one of which failed. */
#define BENCH_MACHINE "\"device\":\"cuda\",\"machine\":\"Some GPU\",\"threads\":16,\"precision\":\"fast\","
#define BENCH_ROWS                                                                                                     \
    "{\"shape\":\"llama2-7b\",\"phase\":\"open\",\"status\":\"ok\",\"seconds\":0.5,\"share\":0.142857,\"floor\":null," \
    "\"seconds_model\":0.5,\"share_model\":0.0204,\"floor_model\":null},"                                              \
    "{\"shape\":\"llama2-7b\",\"phase\":\"calibrate\",\"status\":\"ok\",\"seconds\":3,\"share\":0.857143,\"floor\":"   \
    "1.75,\"seconds_model\":24,\"share_model\":0.9796,\"floor_model\":14},"                                            \
    "{\"shape\":\"llama2-7b\",\"phase\":\"total\",\"status\":\"ok\",\"seconds\":3.5,\"share\":1,\"floor\":1.75,"       \
    "\"seconds_model\":24.5,\"share_model\":1,\"floor_model\":14}"
#define BENCH_RUN                                                                                                      \
    "\"shape\":\"llama2-7b\",\"blocks\":4,\"model_blocks\":32,\"weights\":809500672,\"model_weights\":6476005376,"     \
    "\"tokens\":262144,\"generate_seconds\":3.25,\"limits\":{\"read_gb_s\":6.5},\"seconds\":3.5,\"seconds_model\":"    \
    "24.5,\"floor_seconds\":1.75,\"floor_seconds_model\":14,\"over_floor\":2,\"over_floor_model\":1.75,\"plan\":"      \
    "{\"host_bytes\":1500000000,\"device\":{\"bytes\":14900000000,\"limit\":80000000000,\"batch\":2048}},"             \
    "\"plan_24gb\":{\"error\":\"25.1 GB wanted, 24 GB there\"},\"quantize\":{\"peak_rss_bytes\":1400000000,"           \
    "\"bits_per_weight\":4.25,\"average_rank\":12.5}"
static const char bench_quantize_result[] =
    "{" BENCH_MACHINE BENCH_RUN ",\"rows\":[" BENCH_ROWS "],\"runs\":[{" BENCH_RUN "}]}";
static const char bench_quantize_several[] =
    "{" BENCH_MACHINE "\"limits\":{\"copy_gb_s\":3012.3},\"rows\":[" BENCH_ROWS
    ",{\"shape\":\"opt-66b\",\"phase\":null,\"status\":\"/scratch: 20.0 GB are free\"}],\"runs\":[{" BENCH_RUN
    "},{\"shape\":\"opt-66b\",\"error\":\"/scratch: 20.0 GB are free\"}]}";

static const char bench_methods_result[] =
    "{\"command\":\"flrq bench methods "
    "MODEL\",\"version\":\"0.1.0\",\"date\":\"2026-01-02\",\"device\":\"cuda\",\"machine\":"
    "\"Some "
    "GPU\",\"libraries\":\"\",\"threads\":16,\"model\":\"MODEL\",\"group\":128,\"source_perplexity\":5.4721,\"scored\":"
    "341469,\"context\":2048,\"rows\":["
    "{\"bits\":4,\"kind\":\"flrq\",\"method\":\"flrq\",\"group\":128,\"status\":\"ok\",\"bits_per_weight\":4.2312,"
    "\"rank_mean\":"
    "21.9,\"rank_max\":128,\"perplexity\":5.5512,\"perplexity_change\":0.01446,\"kl_mean\":0.01234,\"top1_agreement\":"
    "0.951,"
    "\"seconds\":58.1,\"seconds_p10\":57,\"seconds_p90\":59,\"runs\":3,\"equal_kl\":0.0151,\"equal_ratio\":0.8172,"
    "\"equal_from_bits\":4.125,\"equal_to_bits\":4.25},"
    "{\"bits\":4,\"kind\":\"exact\",\"method\":\"flrq (exact SVD)\",\"group\":128,\"status\":\"svd: 8.1 GB wanted, 2 "
    "GB there\"},"
    "{\"bits\":3,\"kind\":\"flrq\",\"method\":\"flrq\",\"group\":128,\"status\":\"ok\",\"bits_per_weight\":3.2,\"rank_"
    "mean\":15.2,"
    "\"rank_max\":100,\"perplexity\":5.9,\"perplexity_change\":0.0782,\"kl_mean\":0.0712,\"top1_agreement\":0.9,"
    "\"seconds\":60,"
    "\"equal_kl\":0.07,\"equal_ratio\":1.017,\"equal_from_bits\":3.125,\"equal_to_bits\":3.25}]}";

static const char submit_result[] =
    "{\"out\":\"/data/OUT\",\"nodes\":2,\"workers\":16,\"gpus_per_node\":8,\"signal_seconds\":60,\"partition\":\"gpu\","
    "\"limit_seconds\":14400,\"memory_mib\":95000,\"host_bytes\":9876543210,\"device\":{\"separate\":true,\"bytes\":"
    "31234567890},\"time\":{\"seconds_total\":3723},\"job\":1234567,\"path\":\"/data/OUT/slurm/job.sbatch\",\"log\":"
    "\"/data/OUT/slurm/job-1234567.log\",\"notices\":[]}";

/* A result whose texts try to drive the terminal: escape, newline, C1 control. */
static const char hostile_result[] = "{\"path\":\"a\\u001b[31mb\",\"kind\":\"x\\ny\",\"tensors\":[{\"name\":"
                                     "\"t\\u009b2J\\u007f\",\"dtype\":\"F\\r32\"}]}";

static const char *result_of(const char *command) {
    static const char *const results[COMMANDS] = {
        quantize_result,
        plan_result,
        eval_result,
        inspect_result,
        compare_result,
        devices_result,
        "{\"tokens\":12345,\"out\":\"ids.npy\",\"tokenizer\":\"tokenizer.json\"}",
        bench_sketch_result,
        bench_ops_result,
        bench_quantize_result,
        "{\"ops\":[{\"name\":\"rms_norm\",\"seconds\":0.5}]}",
        submit_result,
        bench_methods_result,
        "{\"report\":\"OUT/report.json\",\"page\":\"OUT/report.html\",\"bytes\":123456,\"matrices\":28,\"blocks\":4}"};
    return results[index_of(command)];
}

flrq_status flrq_run(const flrq_params *params, flrq_event_fn on_event, void *user, char **result) {
    const listener to = {on_event, user};
    const char *command = names[params->command];
    const char *scenario = flrq_params_get(params, "model");
    if (params->job) scenario = flrq_params_get(params->job, "model");
    if (!scenario) scenario = flrq_params_get(params, "a");
    if (!scenario) scenario = flrq_params_get(params, "name");
    if (!scenario) scenario = "";
    const char *answer = result_of(command);
    if (strcmp(scenario, "echo") == 0) {
        /* What arrived: every option as it would be used. */
        char line[512] = "";
        for (int i = 0; i < MOST_OPTIONS && options[params->command][i]; i++)
            snprintf(line + strlen(line), sizeof line - strlen(line), " %s=%s", options[params->command][i]->name,
                     params->values[i] ? params->values[i] : "-");
        if (params->job)
            snprintf(line + strlen(line), sizeof line - strlen(line), "; the job: out=%s bits=%s",
                     flrq_params_get(params->job, "out"), flrq_params_get(params->job, "bits"));
        return fail(FLRQ_ERR_UNSUPPORTED, "echo%s", line);
    }
    if (strcmp(scenario, "missing") == 0) return fail(FLRQ_ERR_IO, "missing/config.json: No such file or directory");
    if (strcmp(scenario, "hostile-error") == 0) return fail(FLRQ_ERR_FORMAT, "file \033[31mx\n: tensor \xff\r bad");
    if (strcmp(scenario, "stopped") == 0) return fail(FLRQ_STOPPED, "stopped after block 2 of 32");
    if (strcmp(scenario, "no-result") == 0) return FLRQ_OK;
    /* A worker that is not the first: no event, and nothing or an empty object. */
    if (strcmp(scenario, "follower-failed") == 0) return fail(FLRQ_ERR_PEER, "%s", "");
    if (strcmp(scenario, "follower") == 0) {
        *result = strdup("{}");
        return FLRQ_OK;
    }
    if (params->job && strcmp(flrq_params_get(params, "print"), "true") == 0)
        answer = "{\"script\":\"#!/bin/bash\\nrun\\n\"}";
    if (strcmp(scenario, "several") == 0) answer = bench_quantize_several;
    if (strcmp(scenario, "sparse") == 0) answer = "{}";
    if (strcmp(scenario, "odd-types") == 0)
        answer = "{\"perplexity\":\"x\",\"blocks\":{},\"worst\":[1],\"phases\":[],\"tensors\":[null,{\"shape\":3}],"
                 "\"devices\":7,"
                 "\"rows\":[[]],\"runs\":[1,[]],\"notices\":[1],\"dropped\":[0],\"tied\":[2],\"memory\":\"m\","
                 "\"scheme\":[],\"config\":[]}";
    if (strcmp(scenario, "hostile") == 0) answer = hostile_result;
    if (strcmp(scenario, "same") == 0) answer = "{\"a\":\"A\",\"b\":\"A\",\"identical\":true,\"equal\":13}";
    if (strcmp(command, "quantize") == 0) run_blocks(&to, strcmp(scenario, "slow") == 0 ? 60 : 0);
    if (strcmp(scenario, "endless") == 0) {
        wait_for_stop(&to);
        if (stop_requested) return fail(FLRQ_STOPPED, "stopped after block 4 of 32");
    }
    /* Takes notice of the request, says so, and does not stop: only a second signal ends it. */
    if (strcmp(scenario, "deaf") == 0) {
        wait_for_stop(&to);
        pause_milliseconds(20000);
    }
    *result = strdup(answer);
    return strcmp(scenario, "gate") == 0 ? fail(FLRQ_ERR_QUALITY, "error 0.07 of h.0.w is above --max-error 0.05")
                                         : FLRQ_OK;
}
