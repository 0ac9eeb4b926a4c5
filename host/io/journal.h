/* journal.h - append-only record of what a run has committed: one JSON object a line, each with a checksum.
 *
 * Line = compact JSON object + '\t' + 16 hex digits of XXH3-64 of the JSON text + '\n', flushed with fsync before the
 * call returns. A torn last line (power loss, full disk) is ignored and cut off on reopening; a bad line before the
 * last is FLRQ_ERR_FORMAT.
 */
#ifndef FLRQ_IO_JOURNAL_H
#define FLRQ_IO_JOURNAL_H

#include <jansson.h>
#include "core/error.h"

typedef struct flrq_journal flrq_journal;

/** Opens or creates. *records (json array, json_decref()) receives the valid records, in order. */
flrq_status flrq_journal_open(flrq_journal **out, const char *path, json_t **records);
flrq_status flrq_journal_append(flrq_journal *journal, const json_t *record);
void flrq_journal_close(flrq_journal *journal); /* NULL is fine */

#endif
