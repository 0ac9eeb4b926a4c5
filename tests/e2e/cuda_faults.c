/* cuda_faults.c - every allocation and every library call of a small run on the simulated GPU fails once.
 *
 *   cuda_faults MODEL WORK [STEP]       MODEL: a tiny folder; WORK: an empty folder
 *
 * For each kind of call the run is repeated with the n-th one failing, n = 1, 1 + STEP, ... until a run gets through
 * without meeting it. Each run must either finish (a smaller batch, another try) or fail with a text; it must leave no
 * device memory, no page-locked memory and no handle behind; and the run that follows on the same folder, undisturbed,
 * must end with the bytes of a run that was never disturbed.
 */
#include <dirent.h>
#include <dlfcn.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "flrq.h"

/* Kinds of calls, as in the simulator's cuda_runtime_api.h. */
enum { ALLOC = 1, LIBRARY = 2, LAUNCH = 4, COPY = 8, CREATE = 16 };

static void (*fail_at)(long n, int mask);
static long (*calls)(int mask);
static size_t (*live_bytes)(void);
static long (*live_objects)(void);

static int failures;

static void check(int truth, const char *kind, long n, const char *what) {
    if (truth) return;
    failures++;
    printf("FAILED: %s call %ld: %s; last error: %s\n", kind, n, what, flrq_last_error());
}

static void must(int truth, const char *what) {
    if (truth) return;
    fprintf(stderr, "cuda_faults: %s: %s\n", what, flrq_last_error());
    exit(2);
}

static char tokens[4096]; /* path of the calibration */

/* Two segments of 24 tokens: enough to run every op. */
static void write_tokens(const char *work) {
    enum { SEGMENTS = 2, LENGTH = 24, HEADER = 118 };
    char header[HEADER + 1];
    int32_t ids[SEGMENTS * LENGTH];
    int used = snprintf(header, sizeof header, "{'descr': '<i4', 'fortran_order': False, 'shape': (%d, %d), }",
                        SEGMENTS, LENGTH);
    memset(header + used, ' ', (size_t)(HEADER - used));
    header[HEADER - 1] = '\n';
    for (int i = 0; i < SEGMENTS * LENGTH; i++) ids[i] = i * 7 % 61;
    snprintf(tokens, sizeof tokens, "%s/tokens.npy", work);
    FILE *file = fopen(tokens, "wb");
    must(file && fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, file) == 10 && fwrite(header, 1, HEADER, file) == HEADER &&
             fwrite(ids, 1, sizeof ids, file) == sizeof ids && fclose(file) == 0,
         tokens);
}

static flrq_status run(const char *model, const char *out) {
    const char *const settings[][2] = {{"model", model},         {"out", out},
                                       {"device", "cudasim"},    {"bits", "4"},
                                       {"group", "32"},          {"calib-tokens", tokens},
                                       {"rank-policy", "fixed"}, {"rank", "3"},
                                       {"epochs", "1"},          {"error-sketch", "16"},
                                       {"power-iterations", "1"}};
    flrq_params *params;
    must(flrq_params_new(&params, "quantize") == FLRQ_OK, "options");
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++)
        must(flrq_params_set(params, settings[i][0], settings[i][1]) == FLRQ_OK, settings[i][0]);
    flrq_status status = flrq_run(params, NULL, NULL, NULL);
    flrq_params_free(params);
    return status;
}

static uint64_t sum_of_files;

/* Adds up the hashes of the checkpoint's files: reports hold times. */
static int hash_file(const char *path, const struct stat *info, int type, struct FTW *at) {
    if (type != FTW_F || !strstr(path, ".safetensors")) return 0;
    char *bytes = malloc((size_t)info->st_size + 1);
    FILE *file = fopen(path, "rb");
    must(file && bytes && fread(bytes, 1, (size_t)info->st_size, file) == (size_t)info->st_size, path);
    sum_of_files += XXH64(bytes, (size_t)info->st_size, XXH64(path + at->base, strlen(path + at->base), 0));
    fclose(file);
    free(bytes);
    return 0;
}

static uint64_t hash_of(const char *dir) {
    sum_of_files = 0;
    must(nftw(dir, hash_file, 16, FTW_PHYS) == 0, dir);
    return sum_of_files;
}

static int remove_one(const char *path, const struct stat *info, int type, struct FTW *at) {
    return remove(path);
}

static void remove_folder(const char *dir) {
    nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static void disturb(const char *model, const char *out, const char *kind, int mask, long step, uint64_t reference) {
    long tried = 0, refused = 0;
    for (long n = 1;; n += step, tried++) {
        remove_folder(out);
        fail_at(n, mask);
        flrq_status status = run(model, out);
        long met = calls(mask);
        fail_at(0, mask);
        refused += status != FLRQ_OK;
        check(status == FLRQ_OK || flrq_last_error()[0], kind, n, "failed without a text");
        check(live_bytes() == 0, kind, n, "memory was left behind");
        check(live_objects() == 0, kind, n, "handles were left behind");
        if (status != FLRQ_OK) check(run(model, out) == FLRQ_OK, kind, n, "the next run does not finish");
        check(hash_of(out) == reference, kind, n, "the bytes differ from an undisturbed run");
        if (met < n || failures > 10) break;
    }
    printf("%s: %ld runs with a failing call, %ld of them refused\n", kind, tried, refused);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: cuda_faults MODEL WORK [STEP]\n");
        return 2;
    }
    const char *model = argv[1];
    long step = argc > 3 ? atol(argv[3]) : 1;
    char out[4096], plugin[4096 + 32];
    snprintf(out, sizeof out, "%s/out", argv[2]);
    write_tokens(argv[2]);
    must(run(model, out) == FLRQ_OK, "an undisturbed run");
    uint64_t reference = hash_of(out);
    /* The plugin is loaded now; its simulator takes orders. */
    snprintf(plugin, sizeof plugin, "%s/libflrq_cudasim.so", getenv("FLRQ_PLUGINS") ? getenv("FLRQ_PLUGINS") : ".");
    void *simulator = dlopen(plugin, RTLD_NOW | RTLD_NOLOAD);
    must(simulator != NULL, "FLRQ_PLUGINS must name the folder of libflrq_cudasim.so");
    *(void **)&fail_at = dlsym(simulator, "cudasim_fail_at");
    *(void **)&calls = dlsym(simulator, "cudasim_calls");
    *(void **)&live_bytes = dlsym(simulator, "cudasim_live_bytes");
    *(void **)&live_objects = dlsym(simulator, "cudasim_live_objects");
    must(fail_at && calls && live_bytes && live_objects, "the simulator's entries");
    check(live_bytes() == 0 && live_objects() == 0, "no", 0, "an undisturbed run leaves something behind");
    disturb(model, out, "allocation", ALLOC | CREATE, step, reference);
    disturb(model, out, "library", LIBRARY, step, reference);
    disturb(model, out, "copy", COPY, 16 * step, reference);
    disturb(model, out, "launch", LAUNCH, 16 * step, reference);
    printf("%d failed\n", failures);
    return failures != 0;
}
