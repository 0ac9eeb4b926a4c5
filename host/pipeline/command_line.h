/* command_line.h - jobs as lines for a shell: what a batch script runs, and what a result says it was made by. */
#ifndef FLRQ_PIPELINE_COMMAND_LINE_H
#define FLRQ_PIPELINE_COMMAND_LINE_H

#include <stdbool.h>
#include <stdio.h>
#include "pipeline/options.h"

/** True for a word that a shell, and sbatch, take as it is. */
bool flrq_word_is_plain(const char *word);

/** A word for the shell: quoted where it must be. */
void flrq_put_word(FILE *out, const char *word);

/** An option and its value as the words of a command line: ["--bits", "3"], ["--no-sym"], ["-o", "OUT"], or the value
 *  alone of a positional one. `command` knows the option. New reference. */
json_t *flrq_option_words(const char *command, const char *name, const char *value);

/** "flrq bench sketch --ranks 32": the command with every option that differs from its default. free(); NULL on out of
 *  memory or when a value is not UTF-8. */
char *flrq_params_command_line(const flrq_params *params);

#endif
