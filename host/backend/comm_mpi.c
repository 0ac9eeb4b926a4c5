/* comm_mpi.c - joins the workers that an MPI launcher has started, by the plugin of the MPI that was asked for.
 *
 * The library itself knows nothing of MPI: mpi_plugin.c does. Here is the search for it, and the check that launcher
 * and MPI understand each other, for an MPI that does not find its launcher starts as a group of one without a word,
 * and every process would quantize the whole model.
 */
#include "backend/comm.h"
#include "backend/plugin.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct mpi_kind {
    const char *name, *title, *mpirun, *srun;
    const char *signs[4]; /* environment variables by which this MPI finds its launcher */
} mpi_kind;

static const mpi_kind kinds[] = {
    {"openmpi", "Open MPI", "mpirun", "srun --mpi=pmix", {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", NULL}},
    {"mpich", "MPICH", "mpiexec", "srun --mpi=pmi2", {"PMI_RANK", "PMI_FD", "PMIX_RANK", NULL}},
};

static const mpi_kind *kind_of(const char *name) {
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (strcmp(name, kinds[i].name) == 0) return &kinds[i];
    return NULL;
}

/* Workers that the launcher started as one group: of the innermost launcher that says so, else 1. */
static long launched_workers(void) {
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS"};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const char *text = getenv(sizes[i]);
        if (text && text[0]) return strtol(text, NULL, 10);
    }
    return 1;
}

static int is_launched_by(const mpi_kind *kind) {
    for (const char *const *sign = kind->signs; *sign; sign++)
        if (getenv(*sign)) return 1;
    return 0;
}

static flrq_status wrong_launcher(const mpi_kind *kind, long workers) {
    return flrq_fail(FLRQ_ERR_USAGE,
                     "%ld workers were started, but by a launcher that %s does not know: start them by its own %s, or "
                     "in a Slurm job by %s",
                     workers, kind->title, kind->mpirun, kind->srun);
}

static flrq_status find_plugin(const mpi_kind *kind, flrq_plugin_mpi_fn *join) {
    char file[64], why[1024];
    snprintf(file, sizeof file, "libflrq_%s.so", kind->name);
    void *library = flrq_plugin_load(file, 1, why, sizeof why);
    if (!library && why[0])
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: the plugin does not load: %s", kind->title, why);
    if (!library)
        return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: this installation has no %s; build it where %s is installed",
                         kind->title, file, kind->title);
    *(void **)join = dlsym(library, FLRQ_PLUGIN_MPI);
    if (!*join) return flrq_fail(FLRQ_ERR_UNSUPPORTED, "%s: %s is not a plugin of flrq", kind->title, file);
    return FLRQ_OK;
}

flrq_status flrq_comm_mpi(flrq_comm **out, const char *mpi, double timeout) {
    const mpi_kind *kind = kind_of(mpi);
    if (!kind) return flrq_fail(FLRQ_ERR_USAGE, "unknown MPI \"%s\"; known: openmpi, mpich", mpi);
    long workers = launched_workers();
    if (workers > 1 && !is_launched_by(kind)) return wrong_launcher(kind, workers);
    flrq_plugin_mpi_fn join;
    FLRQ_TRY(find_plugin(kind, &join));
    flrq_comm *comm = calloc(1, sizeof *comm);
    if (!comm) return flrq_fail_memory(sizeof *comm, "a communicator");
    comm->timeout = timeout;
    flrq_status status = join(comm, sizeof *comm, flrq_error_text);
    if (status != FLRQ_OK) {
        free(comm);
        return status;
    }
    if (comm->size != workers && workers > 1) {
        flrq_comm_close(comm);
        return wrong_launcher(kind, workers);
    }
    *out = comm;
    return FLRQ_OK;
}
