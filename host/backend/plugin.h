/* plugin.h - how the library and a backend plugin meet.
 *
 * A plugin is a shared object with two exported functions, flrq_plugin_open() and flrq_plugin_count(). It carries its own copy of core/error.c,
 * whose text it redirects to the library's, so that flrq_last_error() speaks for both. ABI: FLRQ_BACKEND_ABI.
 */
#ifndef FLRQ_BACKEND_PLUGIN_H
#define FLRQ_BACKEND_PLUGIN_H

#include "flrq_backend.h"

/** Fills the table `be` (zeroed, be->abi set by the caller and checked here) for device number `device`. `error_text`
 *  returns the library's thread-local error buffer. A failure says in one line why the device is not available. */
typedef flrq_status (*flrq_plugin_open_fn)(flrq_backend *be, int device, char *(*error_text)(void));

/** *count: devices that flrq_plugin_open() can open, numbered from 0; a failure says why there are none. */
typedef flrq_status (*flrq_plugin_count_fn)(int *count, char *(*error_text)(void));

#define FLRQ_PLUGIN_OPEN "flrq_plugin_open"
#define FLRQ_PLUGIN_COUNT "flrq_plugin_count"

#endif
