/* check.h - checks for the simulator's test programs: a failed one is printed with its place, and the program's status
 * says so at the end. */
#ifndef CUDASIM_CHECK_H
#define CUDASIM_CHECK_H

#include <stdio.h>

static int check_failures;

#define CHECK(condition, ...)                                                                                          \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            check_failures++;                                                                                          \
            printf("%s:%d: %s: ", __FILE__, __LINE__, #condition);                                                     \
            printf(__VA_ARGS__);                                                                                       \
            printf("\n");                                                                                              \
        }                                                                                                              \
    } while (0)
#define CHECK_OK(call) CHECK((call) == 0, "failed")

static inline int check_done(const char *what) {
    printf("%s: %d failures\n", what, check_failures);
    return check_failures != 0;
}

#endif
