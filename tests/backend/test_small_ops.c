/* test_small_ops.c - small dense ops and calibration sums: the op cases on every face, known answers of the reference, and failure
 * paths. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "backend/opcase.h"

extern const op_table ops_small;

static void op_cases(void **state) {
    assert_int_equal(op_table_test(&ops_small, "cpu"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(op_cases),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
