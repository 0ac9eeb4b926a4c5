/* options.c - the option table and its text interface. */
#include "pipeline/options.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Commands in the order of flrq_commands(); bit i of an option's mask is command i. */
enum {
    QUANTIZE = 1,
    PLAN = 2,
    EVAL = 4,
    INSPECT = 8,
    COMPARE = 16,
    DEVICES = 32,
    TOKENIZE = 64,
    BENCH_SKETCH = 128,
    BENCH_OPS = 256,
    BENCH_QUANTIZE = 512,
    BENCH_METHODS = 1024,
    REPORT = 2048,
    SUBMIT = 4096,
    SCHEME = QUANTIZE | PLAN | BENCH_QUANTIZE, /* a bench of methods chooses these itself */
    FITTING = SCHEME | BENCH_METHODS,
    BENCHES = BENCH_SKETCH | BENCH_OPS | BENCH_QUANTIZE | BENCH_METHODS
};
static const char *const command_names[] = {"quantize",      "plan",     "eval",         "inspect",   "compare",
                                            "devices",       "tokenize", "bench-sketch", "bench-ops", "bench-quantize",
                                            "bench-methods", "report",   "submit",       NULL};
static const char *const command_help[] = {
    "Quantize a Hugging Face model folder: W ~ Wq + L R per linear layer.",
    "Print what quantize would need and do, from headers alone: memory, disk, ranks, bits.",
    "Perplexity of a source or quantized folder, measured by the program itself.",
    "Show what a checkpoint holds.",
    "Compare two checkpoints tensor by tensor, dequantized.",
    "List backends and devices, and why one is not available.",
    "Write the token ids of a text, as the model's tokenizer gives them.",
    "Time and residual of the low-rank sketches against the exact and randomised SVD of the device's library.",
    "Time of every op of a backend against the copy bandwidth and the matrix rate measured in the same run.",
    "Time of a whole quantize run on a generated model of a known shape, against its floor.",
    "Quality, size and time of quantization methods on one model: each quantized, then judged against the source.",
    "Turn the report.json of a quantize run into one HTML page with figures and tables.",
    "Submit a quantize run to Slurm as a batch job that stops in time, is queued again and continues until it is done.",
};

const char *const *flrq_commands(void) {
    return command_names;
}

static int command_index(const char *command) {
    for (int i = 0; command && command_names[i]; i++)
        if (strcmp(command_names[i], command) == 0) return i;
    return -1;
}

const char *flrq_command_help(const char *command) {
    int i = command_index(command);
    return i < 0 ? NULL : command_help[i];
}

typedef struct entry {
    flrq_option option;
    size_t offset;
    unsigned commands;
    int bytes; /* 1: can change a byte of the output, part of the fingerprint */
} entry;

#define AT(field) offsetof(flrq_config, field)
#define FLAG(n, sec, def, f, cmd, by, h)                                                                               \
    { {n, FLRQ_OPTION_FLAG, sec, NULL, def, 0, 1, NULL, h, 0, 0}, AT(f), cmd, by }
#define INT(n, sec, def, lo, hi, f, cmd, by, h)                                                                        \
    { {n, FLRQ_OPTION_INT, sec, "N", def, lo, hi, NULL, h, 0, 0}, AT(f), cmd, by }
#define REAL(n, sec, def, lo, hi, f, cmd, by, h)                                                                       \
    { {n, FLRQ_OPTION_REAL, sec, "X", def, lo, hi, NULL, h, 0, 0}, AT(f), cmd, by }
#define TEXT(n, sec, arg, def, f, cmd, by, h)                                                                          \
    { {n, FLRQ_OPTION_TEXT, sec, arg, def, 0, 0, NULL, h, 0, 0}, AT(f), cmd, by }
#define POS(n, arg, f, cmd, h)                                                                                         \
    { {n, FLRQ_OPTION_TEXT, "arguments", arg, NULL, 0, 0, NULL, h, 1, 1}, AT(f), cmd, 0 }
#define CHOICE(n, sec, def, ch, f, cmd, by, h)                                                                         \
    { {n, FLRQ_OPTION_CHOICE, sec, "NAME", def, 0, 0, ch, h, 0, 0}, AT(f), cmd, by }

static const entry table[] = {
    POS("model", "MODEL", model, QUANTIZE | PLAN | EVAL | INSPECT | TOKENIZE | BENCH_METHODS,
        "Model folder: config.json, safetensors (single or sharded), tokenizer."),
    POS("a", "A", a, COMPARE, "First checkpoint folder."),
    POS("b", "B", b, COMPARE, "Second checkpoint folder."),
    TEXT("out", "arguments", "OUT", NULL, out, QUANTIZE | PLAN | TOKENIZE, 0,
         "Output folder (must not exist, or hold a run with the same settings); for tokenize the .npy file."),
    POS("run", "OUT", model, REPORT, "Folder of a quantize run, or its report.json."),
    TEXT("out", "arguments", "FILE", NULL, out, REPORT, 0, "The page; without it OUT/report.html."),

    CHOICE("preset", "scheme", "default", "default|paper", preset, SCHEME, 1,
           "Sets several options at once. paper: the choices of the FLRQ paper (alpha metric, greedy r1flr rule, "
           "one-by-one sketch, mirrored grid, unweighted clip grid). Other options override it."),
    CHOICE("method", "scheme", "flrq", "flrq|lqer|rtn", method, SCHEME, 1,
           "flrq: alternate low rank and quantization. lqer: quantize, then a fixed rank on the scaled error. rtn: "
           "round to nearest, no low rank."),
    INT("bits", "scheme", "4", 2, 8, bits, SCHEME | BENCH_SKETCH, 1, "Bits of a code: 2, 3, 4 or 8."),
    TEXT("bits", "scheme", "LIST", "4,3,2", bit_list, BENCH_METHODS, 0, "Bits of a code, with commas: 2, 3, 4 or 8."),
    INT("group", "scheme", "128", 0, 1048576, group, FITTING, 1, "Columns that share a scale; 0 = per output channel."),
    FLAG("sym", "scheme", "true", symmetric, FITTING, 1,
         "Symmetric codes without stored zero points; --no-sym stores one per group (4 and 8 bits)."),
    CHOICE("grid", "scheme", "full", "full|mirror", grid, FITTING, 1,
           "Symmetric levels: all 2^bits, or the 2^bits-1 that mirror around zero."),

    CHOICE("clip", "clip", "auto", "auto|none|grid|fast", clip, FITTING, 1,
           "Search of the clip ratio per group. auto: fast for flrq, none for lqer and rtn."),
    INT("clip-steps", "clip", "20", 1, 1000, clip_steps, FITTING, 1, "Ratios of the grid search."),
    REAL("clip-min", "clip", "0.4", 0.01, 1, clip_min, FITTING, 1, "Smallest clip ratio."),
    CHOICE("clip-mode", "clip", "clamp", "clamp|zero", clip_mode, FITTING, 1,
           "Weights beyond the range go to its end, or to zero (the paper's text)."),
    CHOICE("clip-weights", "clip", "h", "h|plain", clip_weights, FITTING, 1,
           "Weight the squared error by h_j = E[x_j^2] of the calibration, or not."),
    FLAG("signed-scale", "clip", "true", signed_scale, FITTING, 1,
         "Let a symmetric scale be negative, so that the extra level of the full grid serves the longer tail."),

    CHOICE("sketch", "low rank", "block", "block|r1|svd", sketch, SCHEME, 1,
           "How the low-rank part is found: block power iteration, the paper's one vector at a time, or an exact SVD."),
    INT("power-iterations", "low rank", "2", 0, 10, power_iterations, FITTING | BENCH_SKETCH, 1,
        "Power iterations of the sketch."),
    INT("oversample", "low rank", "8", 0, 64, oversample, FITTING | BENCH_SKETCH, 1,
        "Extra columns of the block sketch."),
    CHOICE("rank-policy", "low rank", "error", "r1flr|r1flr-best|energy|fixed|error", rank_policy, FITTING, 1,
           "r1flr: the paper's greedy amax rule. r1flr-best: the best point of the whole amax curve. energy: the rank "
           "whose drop in error is worth the most above its bits. "
           "fixed: --rank. error: like energy, with the error measured by quantizing at ranks tried."),
    INT("rank", "low rank", "32", 0, 1024, rank, FITTING, 1, "Rank of the fixed policy and of lqer."),
    TEXT("ranks-from", "low rank", "FILE", NULL, ranks_from, QUANTIZE | PLAN, 0,
         "Give every matrix the rank that it has in this report.json of another run of the model; no rule chooses."),
    INT("max-rank", "low rank", "128", 0, 1024, max_rank, FITTING, 1,
        "Upper bound of the ranks that a rule chooses, not of --rank (serving engines size their buffers by the "
        "largest)."),
    INT("rank-multiple", "low rank", "1", 1, 64, rank_multiple, FITTING, 1,
        "Ranks that a rule chooses are multiples of this."),
    REAL("rank-extra", "low rank", "0.2", 0, 4, rank_extra, FITTING | BENCH_SKETCH, 1,
         "Most memory the low rank may add, as a fraction of the codes (x of the paper)."),
    REAL("rank-flat", "low rank", "0", 0, 1, rank_flat, FITTING | BENCH_SKETCH, 1,
         "r1flr stops when amax fell by less than this fraction over the last 4 ranks (t of the paper); 0 = off."),
    CHOICE("metric", "low rank", "rms", "none|alpha|rms", metric, FITTING, 1,
           "Column scaling of the low-rank fit: none, the paper's alpha (Eq. 11), or rms = sqrt(E[x^2])."),
    REAL("alpha-power", "low rank", "2.5", 0, 10, alpha_power, FITTING, 1, "Exponent of the alpha metric."),

    INT("epochs", "alternation", "-1", -1, 1000, epochs, SCHEME, 1,
        "Rounds of fit and quantize after the first; -1 = auto: 5 at 3 bits and more (1 with --preset paper), 20 at "
        "2."),
    REAL("blc-tol", "alternation", "0.001", 0, 1, blc_tol, FITTING, 1,
         "Stop when the best error improved by less than this fraction in 3 rounds."),
    CHOICE("start", "alternation", "weight", "weight|error", start, FITTING, 1,
           "The first low rank is fitted to W (paper) or to the error of W quantized alone."),
    INT("error-sketch", "alternation", "256", 8, 4096, error_sketch, FITTING, 1,
        "Columns of the activation sketch S in the error |(W - What) S|."),

    TEXT("calib", "calibration", "FILE", NULL, calib, QUANTIZE | PLAN | BENCH_METHODS, 0,
         "Text file to calibrate on, or none: weights only."),
    TEXT("calib-tokens", "calibration", "FILE", NULL, calib_tokens, QUANTIZE | PLAN | BENCH_METHODS, 0,
         "Token ids instead of text: .npy or .safetensors [segments, tokens], used as given."),
    INT("calib-samples", "calibration", "128", 1, 65536, calib_samples, FITTING, 1, "Segments drawn from the text."),
    INT("calib-len", "calibration", "2048", 2, 1048576, calib_len, FITTING, 1,
        "Tokens per segment; shortened to the model's context."),
    TEXT("doc-sep", "calibration", "TEXT", NULL, doc_sep, QUANTIZE | PLAN | EVAL | TOKENIZE | BENCH_METHODS, 1,
         "The text holds documents between this separator (\\n = one per line), each with its own special tokens."),
    INT("seed", "calibration", "0", 0, 9007199254740991.0, seed, FITTING | BENCH_SKETCH, 1,
        "Seed of all random numbers."),

    INT("nodes", "job", "1", 1, 4096, batch.nodes, SUBMIT, 0, "Nodes of the job."),
    INT("gpus-per-node", "job", "0", 0, 64, batch.gpus_per_node, SUBMIT, 0,
        "GPUs on each node, with a worker for each; 0 = a job on CPUs."),
    INT("tasks-per-node", "job", "1", 1, 1024, batch.tasks_per_node, SUBMIT, 0,
        "Workers on each node of a job on CPUs; joined by MPI."),
    INT("cpus-per-task", "job", "0", 0, 4096, batch.cpus_per_task, SUBMIT, 0,
        "CPU threads of each worker; 0 = what the partition gives."),
    TEXT(
        "mem", "job", "SIZE", "auto", batch.mem, SUBMIT, 0,
        "Memory of a node as Slurm takes it (64G; 0 is all of it). auto: what the plan needs and a quarter more. none: "
        "the partition's default."),
    TEXT("time", "job", "TIME", NULL, batch.time, SUBMIT, 0,
         "Time limit as Slurm takes it: minutes, hours:minutes:seconds, days-hours. A run that needs more is queued "
         "again. Without it the partition's default."),
    TEXT("partition", "job", "NAME", NULL, batch.partition, SUBMIT, 0, "Partition; without it the default one."),
    TEXT("account", "job", "NAME", NULL, batch.account, SUBMIT, 0, "Account to charge."),
    TEXT("qos", "job", "NAME", NULL, batch.qos, SUBMIT, 0, "Quality of service."),
    TEXT("constraint", "job", "TEXT", NULL, batch.constraint, SUBMIT, 0, "Features that the nodes must have."),
    TEXT("job-name", "job", "NAME", "flrq", batch.name, SUBMIT, 0, "Name of the job."),
    INT("signal-seconds", "job", "0", 0, 65535, batch.signal_seconds, SUBMIT, 0,
        "Seconds before the limit at which Slurm asks the workers to stop, should a block take longer than the last "
        "ones; 0 = 60, less in short jobs."),
    TEXT("mpi", "job", "TYPE", "auto", batch.mpi, SUBMIT, 0,
         "How srun joins the workers of a job on CPUs (srun --mpi=list): pmix for Open MPI, pmi2 for MPICH. auto: by "
         "the --mpi of quantize, else pmix where srun has it."),
    TEXT("setup", "job", "FILE", NULL, batch.setup, SUBMIT, 0,
         "Shell lines for the beginning of the script: further #SBATCH lines, then module load and the like."),
    TEXT("container", "job", "IMAGE", NULL, batch.container, SUBMIT, 0,
         "Apptainer image in which the workers run; it holds flrq. The folders of the run are bound into it."),
    TEXT("program", "job", "PATH", NULL, batch.program, SUBMIT, 0,
         "The flrq that the workers run; without it this one, in a container the one on its PATH."),
    FLAG("print", "job", "false", batch.print, SUBMIT, 0, "Print the script and submit nothing; needs no Slurm."),

    TEXT("text", "input", "FILE", NULL, text, EVAL | TOKENIZE | BENCH_METHODS, 0,
         "Text file; for bench methods the one that perplexity is measured on."),
    TEXT("tokens", "input", "FILE", NULL, tokens, EVAL | BENCH_METHODS, 0,
         "Token ids: .npy or .safetensors, read as one stream in row order."),
    INT("ctx", "input", "2048", 2, 1048576, ctx, EVAL | BENCH_METHODS, 0,
        "Tokens per window (windows do not overlap); shortened to the model's context."),
    TEXT("against", "input", "DIR", NULL, against, EVAL, 0,
         "Reference folder: adds mean KL divergence and top-1 agreement."),
    FLAG("lowrank", "input", "true", lowrank, EVAL | COMPARE, 0,
         "Apply the low-rank adapter of a quantized folder; --no-lowrank leaves it out."),
    TEXT("dump-logits", "input", "FILE", NULL, dump_logits, EVAL, 0,
         "Write fp32 logits [windows, ctx, vocab] as .npy."),
    FLAG("special", "input", "true", special, TOKENIZE, 0, "Add the special tokens; --no-special leaves them out."),

    TEXT("model", "bench", "DIR", NULL, model, BENCH_SKETCH | BENCH_QUANTIZE, 0,
         "Model folder to take the weights from instead of generating them."),
    TEXT("tensor", "bench", "REGEX", NULL, tensor, BENCH_SKETCH, 0,
         "Which weight matrices of --model: those whose name matches; without it those of block 0."),
    TEXT("shapes", "bench", "LIST", "4096x4096,11008x4096,28672x8192", shapes, BENCH_SKETCH, 0,
         "Generated matrices: ROWSxCOLS with commas."),
    TEXT("spectra", "bench", "LIST", "power", spectra, BENCH_SKETCH, 0,
         "Their singular values, with commas: power (a power law on a floor of noise, as in trained layers), flat "
         "(noise alone), fast (halved every 8th), step (64 equal ones on noise)."),
    TEXT("outliers", "bench", "LIST", "columns", outliers, BENCH_SKETCH, 0,
         "Their outliers, with commas: columns (every 512th 8 times larger), rows (the same of rows), spikes (single "
         "entries, one in 2^17, 64 times larger), none."),
    TEXT("ranks", "bench", "LIST", "32,64,128", ranks, BENCH_SKETCH, 0, "Comma-separated ranks."),
    TEXT("methods", "bench", "LIST", "block,r1,rsvd,svd,svdj", methods, BENCH_SKETCH, 0,
         "Comma-separated: block and r1 (flrq's), rsvd (the device library's randomised SVD; on a CPU the textbook's, "
         "by "
         "OpenBLAS), svd (its exact one), svdj (by Jacobi rotations)."),
    TEXT("methods", "bench", "LIST", "all", methods, BENCH_METHODS, 0,
         "With commas: flrq, r1 and exact (flrq with these sketches), paper (its preset), epochs (1 to 20 rounds), svd "
         "and lqer (with flrq's ranks), clip and rtn (no low rank; also in halves and quarters of --group); or all."),
    INT("repeats", "bench", "5", 1, 1000, repeats, BENCH_SKETCH, 0, "Timed repetitions after one warm-up."),
    INT("repeats", "bench", "1", 1, 1000, repeats, BENCH_METHODS, 0,
        "Runs of each method; the time is their median, the rest is the same in all."),
    FLAG("full", "bench", "false", full, BENCH_SKETCH | BENCH_OPS, 0,
         "Also cases of many minutes or gigabytes: exact SVDs and one-by-one sketches of large matrices, layers of 70B "
         "models."),
    TEXT("dump", "bench", "DIR", NULL, dump, BENCH_SKETCH, 0,
         "Write the matrices as .npy, for the same test in other programs."),
    TEXT("only", "bench", "TEXT", NULL, only, BENCH_OPS, 0, "Only cases whose \"op shape\" contains this."),
    REAL("seconds", "bench", "0.5", 0.001, 600, seconds, BENCH_OPS, 0, "Time given to a case."),
    TEXT("shape", "bench", "LIST", "llama2-7b", shape, BENCH_QUANTIZE, 0,
         "Models whose shapes the generated checkpoints have, with commas: llama2-7b, -13b, -70b, llama3-8b, -70b, "
         "opt-1.3b, -2.7b, -6.7b, -13b, -30b, -66b, qwen2.5-72b, or all of them; tiny, tiny-opt, tiny-qwen2."),
    INT("blocks", "bench", "0", 0, 1000, blocks, BENCH_QUANTIZE, 0,
        "Blocks to generate and run, the rest extrapolated; 0 = all of the model."),
    TEXT("scratch", "bench", "DIR", NULL, scratch, BENCH_QUANTIZE | BENCH_OPS | BENCH_METHODS, 0,
         "Folder for temporary files: of quantize and methods checkpoints and results (without it under $TMPDIR or "
         "/tmp), "
         "for ops with --profile the file whose reading and writing is timed."),
    FLAG("keep", "bench", "false", keep, BENCH_QUANTIZE | BENCH_METHODS, 0, "Leave the temporary files."),
    FLAG("plan-only", "bench", "false", plan_only, BENCH_QUANTIZE, 0,
         "Print what plan predicts for the device and for a card of 24 GB; quantize nothing."),
    TEXT("out", "bench", "DIR", NULL, out, BENCHES, 0,
         "Folder for the results: tables as CSV, everything with command, versions and date as JSON, figures as SVG. "
         "Files of the same names are replaced."),
    TEXT("name", "bench", "NAME", NULL, name, BENCHES, 0,
         "What the names of these files begin with; without it sketch, ops, quantize or methods."),

    TEXT(
        "device", "run", "NAME", "auto", device, QUANTIZE | PLAN | EVAL | COMPARE | BENCHES, 0,
        "Backend: auto (a GPU if there is one, else cpu), cpu, cpu-ref (slow scalar reference), cuda or cuda:N (device "
        "N), cudasim (the CUDA backend executed on the CPU, where built)."),
    INT("threads", "run", "0", 0, 4096, threads, QUANTIZE | PLAN | EVAL | COMPARE | BENCHES, 0,
        "CPU threads; 0 = all this process may use. Does not change the bytes written."),
    CHOICE(
        "precision", "run", "auto", "auto|full|fast", precision, FITTING | EVAL | BENCH_SKETCH, 1,
        "Matrix products of the block forwards, the activation sketches, the power iterations and the measured errors: "
        "fp32 (full), or what the device is fastest at, with fp32 sums. auto: fast on GPUs. The CPU is always full."),
    CHOICE("overlap", "run", "auto", "auto|on|off", overlap, FITTING, 0,
           "Read the next block and write the last one while the present one is computed; a second block is then in "
           "memory. auto: on GPUs. Does not change the bytes written."),
    REAL("device-memory", "run", "0", 0, 1e6, device_memory, FITTING, 0,
         "GB of a GPU's memory to plan for; 0 = what is free on it."),
    INT("workers", "run", "0", 0, 4096, workers, QUANTIZE | PLAN, 0,
        "Workers that share every matrix, each with a device of its own; 0 = all GPUs of this machine, one on a CPU. "
        "Processes started by srun or mpirun are the workers themselves. Does not change the bytes written."),
    CHOICE(
        "mpi", "run", "auto", "auto|off|openmpi|mpich", mpi, QUANTIZE, 0,
        "MPI that joins the processes of srun or mpirun. auto: what the launcher's environment names; GPUs need none."),
    REAL("peer-timeout", "run", "600", 1, 1e6, peer_timeout, QUANTIZE, 0,
         "Seconds to wait for another worker before the run stops and names it."),
    TEXT("profile", "run", "FILE", NULL, profile, PLAN | BENCH_OPS | SUBMIT, 0,
         "Device profile: bench ops measures what quantize calls on this device and writes it, plan predicts the time "
         "of a run from it, submit compares that with --time."),
    INT("nodes", "run", "1", 1, 4096, nodes, PLAN, 0,
        "Nodes over which --workers are spread evenly, for the time that plan predicts."),
    REAL("link", "run", "0", 0, 1e6, link, PLAN, 0,
         "GB/s that one device receives from the others of its node; 0 = what the profile says, else 25 (PCIe)."),
    REAL("network", "run", "0", 0, 1e6, network, PLAN, 0,
         "GB/s that one node receives from the others; 0 = what the profile says, else 25 (200 Gb/s)."),
    REAL("read", "run", "0", 0, 1e6, read, PLAN, 0,
         "GB/s at which all workers together read files; 0 = what the profile says, else 2."),
    REAL("write", "run", "0", 0, 1e6, write, PLAN, 0,
         "GB/s at which all workers together write files; 0 = what the profile says, else 1."),
    REAL("expected-rank", "run", "0.25", 0, 1, expected_rank, PLAN, 0,
         "Mean rank that the time is predicted for, as a fraction of the rank bound; only the run finds it out."),
    CHOICE("resume", "run", "auto", "auto|required|never", resume, QUANTIZE, 0,
           "Continue an interrupted run in OUT, insist on one, or refuse an existing OUT."),
    CHOICE("nonfinite", "run", "refuse", "refuse|zero", nonfinite, QUANTIZE, 1,
           "NaN or infinite weights: refuse, or replace by zero and say so."),
    REAL("max-error", "run", "0", 0, 1e9, max_error, QUANTIZE, 0,
         "Quality gate: exit 3 when a matrix' relative output error is above this; 0 = off."),
};
enum { OPTIONS = sizeof table / sizeof *table };
_Static_assert(OPTIONS <= 64 * FLRQ_GIVEN_WORDS, "flrq_params.given has one bit per option");

const flrq_option *const *flrq_command_options(const char *command, size_t *count) {
    static const flrq_option *lists[sizeof command_help / sizeof *command_help][OPTIONS];
    int index = command_index(command);
    if (index < 0) return NULL;
    size_t n = 0;
    for (int i = 0; i < OPTIONS; i++)
        if (table[i].commands >> index & 1) lists[index][n++] = &table[i].option;
    *count = n;
    return lists[index];
}

static const entry *find(const flrq_params *params, const char *name) {
    for (int i = 0; name && i < OPTIONS; i++)
        if (table[i].commands >> params->command & 1 && strcmp(table[i].option.name, name) == 0) return &table[i];
    return NULL;
}

static void mark_given(flrq_params *params, const entry *e) {
    params->given[(e - table) / 64] |= 1ull << ((e - table) % 64);
}

static void *field(flrq_params *params, const entry *e) {
    return (char *)&params->config + e->offset;
}

static int choice_index(const char *choices, const char *value) {
    size_t length = strlen(value);
    int index = 0;
    for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL, index++)
        if (strcspn(p, "|") == length && strncmp(p, value, length) == 0) return index;
    return -1;
}

/* Decimal digits alone, as --help shows them: strtod would also take spaces, hexadecimal and the names of infinity. */
static int is_number(const char *value) {
    return *value && strspn(value, "0123456789.eE+-") == strlen(value);
}

static const char *choice_name(const char *choices, int index, char *buffer, size_t bytes) {
    const char *p = choices;
    while (index-- > 0) p = strchr(p, '|') + 1;
    snprintf(buffer, bytes, "%.*s", (int)strcspn(p, "|"), p);
    return buffer;
}

static flrq_status set_value(flrq_params *params, const entry *e, const char *value) {
    const flrq_option *o = &e->option;
    void *to = field(params, e);
    char *end;
    if (!value) return flrq_fail(FLRQ_ERR_USAGE, "--%s needs a value", o->name);
    errno = 0;
    switch (o->kind) {
    case FLRQ_OPTION_FLAG:
        if (strcmp(value, "true") == 0 || strcmp(value, "1") == 0)
            *(int *)to = 1;
        else if (strcmp(value, "false") == 0 || strcmp(value, "0") == 0)
            *(int *)to = 0;
        else
            return flrq_fail(FLRQ_ERR_USAGE, "--%s takes true or false, not \"%s\"", o->name, value);
        return FLRQ_OK;
    case FLRQ_OPTION_INT: {
        long long v = strtoll(value, &end, 10);
        if (!is_number(value) || *end || errno || (double)v < o->min || (double)v > o->max)
            return flrq_fail(FLRQ_ERR_USAGE, "--%s takes a whole number from %.0f to %.0f, not \"%s\"", o->name, o->min,
                             o->max, value);
        *(int64_t *)to = v;
        return FLRQ_OK;
    }
    case FLRQ_OPTION_REAL: {
        double v = strtod(value, &end);
        if (!is_number(value) || *end || errno || !(v >= o->min && v <= o->max))
            return flrq_fail(FLRQ_ERR_USAGE, "--%s takes a number from %g to %g, not \"%s\"", o->name, o->min, o->max,
                             value);
        *(double *)to = v;
        return FLRQ_OK;
    }
    case FLRQ_OPTION_TEXT: {
        char *copy = strdup(value);
        if (!copy) return flrq_fail_memory(strlen(value) + 1, o->name);
        free(*(char **)to);
        *(char **)to = copy;
        return FLRQ_OK;
    }
    case FLRQ_OPTION_CHOICE: {
        int index = choice_index(o->choices, value);
        if (index < 0) return flrq_fail(FLRQ_ERR_USAGE, "--%s takes one of %s, not \"%s\"", o->name, o->choices, value);
        *(int *)to = index;
        return FLRQ_OK;
    }
    }
    return flrq_fail(FLRQ_ERR_INTERNAL, "option %s has no kind", o->name);
}

/* What the paper does (methods.md section 1), as far as it is defined there; also where the defaults say the same now.
 */
static const char *const paper[][2] = {
    {"metric", "alpha"}, {"alpha-power", "2.5"},    {"rank-policy", "r1flr"},  {"rank-extra", "0.2"},
    {"sketch", "r1"},    {"power-iterations", "2"}, {"grid", "mirror"},        {"clip-weights", "plain"},
    {"clip", "grid"},    {"clip-mode", "clamp"},    {"signed-scale", "false"}, {"start", "weight"},
};

/* The options of the preset, to the paper's choices or back to the defaults. */
static flrq_status apply_preset(flrq_params *params) {
    for (size_t i = 0; i < sizeof paper / sizeof *paper; i++) {
        const entry *e = find(params, paper[i][0]);
        int is_paper = params->config.preset == PRESET_PAPER;
        FLRQ_TRY(set_value(params, e, is_paper ? paper[i][1] : e->option.default_text));
        mark_given(params, e);
    }
    return FLRQ_OK;
}

flrq_status flrq_params_new(flrq_params **out, const char *command) {
    *out = NULL;
    int index = command_index(command);
    if (index < 0) return flrq_fail(FLRQ_ERR_USAGE, "unknown command \"%s\"", command);
    flrq_params *params = calloc(1, sizeof *params);
    if (!params) return flrq_fail_memory(sizeof *params, "job settings");
    params->command = index;
    /* Options of other commands first: where two share a field, the command's own default wins. */
    for (unsigned own = 0; own <= 1; own++)
        for (int i = 0; i < OPTIONS; i++) {
            if (!table[i].option.default_text || (table[i].commands >> index & 1) != own) continue;
            flrq_status status = set_value(params, &table[i], table[i].option.default_text);
            if (status != FLRQ_OK) {
                flrq_params_free(params);
                return status;
            }
        }
    *out = params;
    return FLRQ_OK;
}

void flrq_params_free(flrq_params *params) {
    if (!params) return;
    flrq_params_free(params->job);
    for (int i = 0; i < OPTIONS; i++) {
        if (table[i].option.kind != FLRQ_OPTION_TEXT) continue;
        char **text = field(params, &table[i]); /* which several options may share */
        free(*text);
        *text = NULL;
    }
    free(params->text);
    free(params);
}

flrq_status flrq_params_set(flrq_params *params, const char *name, const char *value) {
    const entry *e = find(params, name);
    if (!e) return flrq_fail(FLRQ_ERR_USAGE, "%s has no option --%s", command_names[params->command], name);
    FLRQ_TRY(set_value(params, e, value));
    mark_given(params, e);
    return strcmp(name, "preset") == 0 ? apply_preset(params) : FLRQ_OK;
}

flrq_status flrq_params_set_int(flrq_params *params, const char *name, int64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%lld", (long long)value);
    return flrq_params_set(params, name, text);
}

const char *flrq_params_get(const flrq_params *params, const char *name) {
    const entry *e = find(params, name);
    flrq_params *p = (flrq_params *)params; /* the text buffer is a cache */
    if (!e) return NULL;
    if (!p->text && !(p->text = malloc(64))) return NULL;
    switch (e->option.kind) {
    case FLRQ_OPTION_FLAG:
        return *(int *)field(p, e) ? "true" : "false";
    case FLRQ_OPTION_INT:
        snprintf(p->text, 64, "%lld", (long long)*(int64_t *)field(p, e));
        return p->text;
    case FLRQ_OPTION_REAL:
        for (int digits = 6; digits <= 17; digits++) { /* the shortest text that reads back as the same number */
            snprintf(p->text, 64, "%.*g", digits, *(double *)field(p, e));
            if (strtod(p->text, NULL) == *(double *)field(p, e)) break;
        }
        return p->text;
    case FLRQ_OPTION_TEXT:
        return *(char **)field(p, e);
    case FLRQ_OPTION_CHOICE:
        return choice_name(e->option.choices, *(int *)field(p, e), p->text, 64);
    }
    return NULL;
}

int flrq_params_given(const flrq_params *params, const char *name) {
    const entry *e = find(params, name);
    return e && params->given[(e - table) / 64] >> ((e - table) % 64) & 1;
}

flrq_status flrq_params_set_job(flrq_params *params, flrq_params *job) {
    if (1u << params->command != SUBMIT || 1u << job->command != QUANTIZE) {
        const char *outer = command_names[params->command], *inner = command_names[job->command];
        flrq_params_free(job);
        return flrq_fail(FLRQ_ERR_USAGE, "%s cannot run %s; a batch job runs quantize", outer, inner);
    }
    flrq_params_free(params->job);
    params->job = job;
    return FLRQ_OK;
}

json_t *flrq_params_changed(const flrq_params *params) {
    flrq_params *fresh;
    json_t *words;
    size_t count;
    const flrq_option *const *options = flrq_command_options(command_names[params->command], &count);
    if (flrq_params_new(&fresh, command_names[params->command]) != FLRQ_OK) return NULL;
    words = json_array();
    /* What a preset sets follows from it alone. */
    const char *preset = flrq_params_get(params, "preset");
    if (preset) (void)flrq_params_set(fresh, "preset", preset);
    for (size_t i = 0; i < count; i++) {
        const flrq_option *o = options[i];
        const char *value = flrq_params_get(params, o->name), *normal = flrq_params_get(fresh, o->name);
        int is_preset = strcmp(o->name, "preset") == 0;
        if (!value || (normal && strcmp(value, normal) == 0 && !is_preset)) continue;
        if (is_preset && strcmp(value, o->default_text) == 0) continue;
        if (json_array_append_new(words, json_pack("[s, s]", o->name, value)) == 0) continue;
        flrq_params_free(fresh);
        json_decref(words);
        return NULL;
    }
    flrq_params_free(fresh);
    return words;
}

json_t *flrq_params_json(const flrq_params *params, int bytes_only) {
    json_t *object = json_object();
    for (int i = 0; i < OPTIONS; i++) {
        const entry *e = &table[i];
        if (!(e->commands >> params->command & 1) || (bytes_only && !e->bytes)) continue;
        const void *from = field((flrq_params *)params, e);
        json_t *value = NULL;
        char name[64];
        switch (e->option.kind) {
        case FLRQ_OPTION_FLAG:
            value = json_boolean(*(const int *)from);
            break;
        case FLRQ_OPTION_INT:
            value = json_integer(*(const int64_t *)from);
            break;
        case FLRQ_OPTION_REAL:
            value = json_real(*(const double *)from);
            break;
        case FLRQ_OPTION_TEXT:
            value = *(char *const *)from ? json_string(*(char *const *)from) : json_null();
            break;
        case FLRQ_OPTION_CHOICE:
            value = json_string(choice_name(e->option.choices, *(const int *)from, name, sizeof name));
            break;
        }
        json_object_set_new(object, e->option.name, value);
    }
    return object;
}

flrq_status flrq_params_check_bits(const flrq_params *params) {
    int64_t bits = params->config.bits;
    if (bits == 2 || bits == 3 || bits == 4 || bits == 8) return FLRQ_OK;
    return flrq_fail(FLRQ_ERR_USAGE, "--bits takes 2, 3, 4 or 8, not %lld", (long long)bits);
}

flrq_status flrq_params_check(const flrq_params *params) {
    const flrq_config *c = &params->config;
    for (int i = 0; i < OPTIONS; i++) {
        const entry *e = &table[i];
        if (e->commands >> params->command & 1 && e->option.required && !*(char **)field((flrq_params *)params, e))
            return flrq_fail(FLRQ_ERR_USAGE, "%s needs %s", command_names[params->command], e->option.argument);
    }
    unsigned command = 1u << params->command;
    if (command & FITTING) {
        if (command & SCHEME) FLRQ_TRY(flrq_params_check_bits(params));
        if (command == QUANTIZE && !c->out) return flrq_fail(FLRQ_ERR_USAGE, "quantize needs -o OUT");
        if (c->ranks_from && c->method == METHOD_RTN)
            return flrq_fail(FLRQ_ERR_USAGE, "--ranks-from gives ranks, and --method rtn has no low rank");
        if (!c->symmetric && c->bits < 4)
            return flrq_fail(FLRQ_ERR_USAGE,
                             "--no-sym needs 4 or 8 bits: engines read no zero points at %lld bits; use --sym",
                             (long long)c->bits);
        if (c->calib && c->calib_tokens)
            return flrq_fail(FLRQ_ERR_USAGE, "--calib and --calib-tokens exclude each other");
        if (command != BENCH_QUANTIZE && !c->calib && !c->calib_tokens)
            return flrq_fail(FLRQ_ERR_USAGE, "calibration text wanted: --calib FILE, --calib-tokens FILE, or --calib "
                                             "none for weights only");
    }
    if (command == SUBMIT) {
        if (!params->job)
            return flrq_fail(FLRQ_ERR_USAGE, "submit needs the run: submit [options] -- quantize MODEL -o OUT ...");
        FLRQ_TRY(flrq_params_check(params->job));
    }
    if ((command == EVAL || command == BENCH_METHODS) && !c->text == !c->tokens)
        return flrq_fail(FLRQ_ERR_USAGE, "%s needs one of --text FILE and --tokens FILE",
                         command_names[params->command]);
    if (command == TOKENIZE && !c->text) return flrq_fail(FLRQ_ERR_USAGE, "tokenize needs --text FILE");
    return FLRQ_OK;
}
