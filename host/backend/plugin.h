/* plugin.h - how the library and its plugins meet.
 *
 * A plugin is a shared object with few exported functions: flrq_plugin_open() and flrq_plugin_count() of a backend,
 * flrq_plugin_mpi() of an MPI. It carries its own copy of core/error.c, whose text it redirects to the library's, so
 * that flrq_last_error() speaks for both. ABI: FLRQ_BACKEND_ABI; of the MPI plugins, the size of flrq_comm.
 */
#ifndef FLRQ_BACKEND_PLUGIN_H
#define FLRQ_BACKEND_PLUGIN_H

#include "flrq_backend.h"

/** Fills the table `be` (zeroed, be->abi set by the caller and checked here) for device number `device`. `error_text`
 *  returns the library's thread-local error buffer. A failure says in one line why the device is not available. */
typedef flrq_status (*flrq_plugin_open_fn)(flrq_backend *be, int device, char *(*error_text)(void));

/** *count: devices that flrq_plugin_open() can open, numbered from 0; a failure says why there are none. */
typedef flrq_status (*flrq_plugin_count_fn)(int *count, char *(*error_text)(void));

/** Starts MPI and fills `comm` (zeroed, but for its timeout; allocated by malloc, freed by its close()), whose size in
 *  the library is comm_bytes. */
struct flrq_comm;
typedef flrq_status (*flrq_plugin_mpi_fn)(struct flrq_comm *comm, size_t comm_bytes, char *(*error_text)(void));

#define FLRQ_PLUGIN_OPEN  "flrq_plugin_open"
#define FLRQ_PLUGIN_COUNT "flrq_plugin_count"
#define FLRQ_PLUGIN_MPI   "flrq_plugin_mpi"

/** Loads the plugin `file` from the folder that FLRQ_PLUGINS names, or, without that, from beside this library (or the
 *  program that holds it) or ../lib of that. Returns NULL where there is none, with an empty text in `why`, or where it
 *  does not load, with the reason. A plugin stays loaded: CUDA and MPI do not survive being unloaded. global: what is
 *  loaded later finds the symbols of the plugin's libraries, as MPI's own components must. */
void *flrq_plugin_load(const char *file, int global, char *why, size_t why_size);

#endif
