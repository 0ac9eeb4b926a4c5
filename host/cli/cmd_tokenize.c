/* cmd_tokenize.c - shows the result of `flrq tokenize`: one line says it all.
 */
#include <stdlib.h>

#include "cli.h"

void cli_tokenize_show(const json_t *result, FILE *out) {
    const char *path = cli_string(result, "out"), *tokenizer = cli_string(result, "tokenizer");
    char *line = cli_printf("%s tokens%s%s%s%s%s", cli_count(cli_real(result, "tokens")).text, path ? " in " : "",
                            path ? path : "", tokenizer ? " (" : "", tokenizer ? tokenizer : "", tokenizer ? ")" : "");
    fprintf(out, "%s\n", cli_clean(line));
    free(line);
}
