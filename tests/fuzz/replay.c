/* replay.c - runs one fuzz target over the files of a folder, without a fuzzer: every seed and every past crash, in
 * every build.
 *
 *   replay CORPUS_FOLDER
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/file.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

int main(int argc, char **argv) {
    struct dirent **entries;
    int replayed = 0, count = argc == 2 ? scandir(argv[1], &entries, NULL, alphasort) : -1;
    if (count < 0) {
        fprintf(stderr, "usage: replay CORPUS_FOLDER\n");
        return 2;
    }
    for (int i = 0; i < count; i++) {
        char *path = flrq_path_join(argv[1], entries[i]->d_name), *data;
        size_t bytes;
        if (path && entries[i]->d_name[0] != '.') {
            printf("%s\n", path);
            fflush(stdout); /* the last name printed is the one that crashed */
            if (flrq_file_read(path, 1 << 24, &data, &bytes) != FLRQ_OK) {
                fprintf(stderr, "%s\n", flrq_last_error());
                return 1;
            }
            LLVMFuzzerTestOneInput((const uint8_t *)data, bytes);
            free(data);
            replayed++;
        }
        free(path);
        free(entries[i]);
    }
    free(entries);
    if (replayed == 0) {
        fprintf(stderr, "%s: no inputs\n", argv[1]);
        return 1;
    }
    printf("%d inputs\n", replayed);
    return 0;
}
