/* registry.c - opens a backend by name: the CPU's own two faces, or a plugin found beside the library. */
#include "backend/cpu.h"
#include "backend/plugin.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static flrq_status open_cpu(flrq_backend *be, int threads, int reference) {
    be->name = reference ? "cpu-ref" : "cpu";
    FLRQ_TRY(cpu_state_new(be, threads));
    cpu_register_memory(be);
    if (reference) {
        ref_register_matrix(be);
        ref_register_quant(be);
        ref_register_small(be);
        ref_register_forward(be);
    } else {
        cpu_register_matrix(be);
        cpu_register_quant(be);
        cpu_register_small(be);
        cpu_register_forward(be);
    }
    return FLRQ_OK;
}

/* ---- plugins ----------------------------------------------------------------------------------------------------- */

/* dlopen() of a file in the folder `dir`, which need not end with '/'; NULL when it is not there or does not load. */
static void *load_from(const char *dir, const char *file, int scope, char *why, size_t why_size) {
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/%s", dir, file);
    if (length < 0 || (size_t)length >= sizeof path || access(path, F_OK) != 0) return NULL;
    void *library = dlopen(path, RTLD_NOW | scope);
    if (!library) snprintf(why, why_size, "%s", dlerror());
    return library;
}

void *flrq_plugin_load(const char *file, int global, char *why, size_t why_size) {
    int scope = global ? RTLD_GLOBAL : RTLD_LOCAL;
    why[0] = 0;
    const char *dir = getenv("FLRQ_PLUGINS");
    if (dir && dir[0]) return load_from(dir, file, scope, why, why_size);
    Dl_info self;
    char here[PATH_MAX];
    const void *address = (const void *)&flrq_plugin_load;
    if (!dladdr(address, &self) || !self.dli_fname || !realpath(self.dli_fname, here)) return NULL;
    *strrchr(here, '/') = 0; /* realpath() is absolute */
    void *library = load_from(here, file, scope, why, why_size);
    if (library || why[0]) return library;
    char beside[PATH_MAX + 8];
    snprintf(beside, sizeof beside, "%s/../lib", here);
    return load_from(beside, file, scope, why, why_size);
}

/* A function of the plugin of a kind of device. */
static flrq_status find_in_plugin(void **out, const char *kind, const char *symbol) {
    char file[64], why[1024];
    snprintf(file, sizeof file, "libflrq_%s.so", kind);
    void *library = flrq_plugin_load(file, 0, why, sizeof why);
    if (!library && why[0])
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device %s: the plugin does not load: %s", kind, why);
    if (!library)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED,
                         "device %s: this installation has no %s; build it where the CUDA toolkit is, or use --device "
                         "cpu",
                         kind, file);
    *out = dlsym(library, symbol);
    if (!*out) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "device %s: %s is not a plugin of flrq", kind, file);
    return FLRQ_OK;
}

static flrq_status open_plugin(flrq_backend *be, const char *kind, int device) {
    flrq_plugin_open_fn open;
    FLRQ_TRY(find_in_plugin((void **)&open, kind, FLRQ_PLUGIN_OPEN));
    return open(be, device, flrq_error_text);
}

/* "cuda", "cuda:3", "cudasim", ...: true when `name` is `kind` with an optional device number. */
static int names_device(const char *name, const char *kind, int *device) {
    size_t length = strlen(kind);
    *device = 0;
    if (strncmp(name, kind, length) != 0) return 0;
    if (!name[length]) return 1;
    char *end;
    long number = name[length] == ':' ? strtol(name + length + 1, &end, 10) : -1;
    if (number < 0 || number > 1023 || end == name + length + 1 || *end) return 0;
    *device = (int)number;
    return 1;
}

/* Whether there is a driver at all. Without it "auto" need not load CUDA's libraries, 200 MB of memory, to hear no. */
static int has_driver(void) {
    return dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL) != NULL; /* stays loaded, as the plugin would keep it */
}

static flrq_status open_named(flrq_backend *be, const char *name, int threads) {
    int device;
    if (strcmp(name, "cpu") == 0) return open_cpu(be, threads, 0);
    if (strcmp(name, "cpu-ref") == 0) return open_cpu(be, threads, 1);
    if (names_device(name, "cuda", &device)) return open_plugin(be, "cuda", device);
    if (names_device(name, "cudasim", &device)) return open_plugin(be, "cudasim", device);
    if (strcmp(name, "auto") == 0) {
        if (has_driver() && open_plugin(be, "cuda", 0) == FLRQ_OK) return FLRQ_OK;
        return open_cpu(be, threads, 0);
    }
    return flrq_fail(FLRQ_ERR_USAGE, "unknown device \"%s\"; known: auto, cpu, cpu-ref, cuda, cuda:N", name);
}

flrq_status flrq_backend_devices(const char *name, char kind[16], int *count) {
    int device;
    snprintf(kind, 16, "%s", name);
    *count = 0;
    int is_auto = strcmp(name, "auto") == 0;
    if (is_auto || strcmp(name, "cuda") == 0) snprintf(kind, 16, "cuda");
    if (is_auto && !has_driver()) snprintf(kind, 16, "cpu");
    if (strchr(name, ':') || !(names_device(kind, "cuda", &device) || names_device(kind, "cudasim", &device)))
        return FLRQ_OK;
    flrq_plugin_count_fn count_devices;
    flrq_status status = find_in_plugin((void **)&count_devices, kind, FLRQ_PLUGIN_COUNT);
    if (status == FLRQ_OK) status = count_devices(count, flrq_error_text);
    if (status == FLRQ_OK || !is_auto) return status;
    snprintf(kind, 16, "cpu");
    return FLRQ_OK;
}

flrq_status flrq_backend_open(flrq_backend **out, const char *name, int threads) {
    *out = NULL;
    flrq_backend *be = calloc(1, sizeof *be);
    if (!be) return flrq_fail_memory(sizeof *be, "a backend table");
    be->abi = FLRQ_BACKEND_ABI;
    flrq_status status = open_named(be, name, threads);
    if (status != FLRQ_OK) {
        free(be);
        return status;
    }
    *out = be;
    return FLRQ_OK;
}

void flrq_backend_close(flrq_backend *be) {
    if (!be) return;
    be->close(be);
    free(be);
}
