/* compare_reports.c - whether two runs that wrote the same bytes also report the same.
 *
 *   compare_reports A B [KEY...]      A, B: output folders
 *
 * Every key of report.json must be in both with the same value, but for the values of the keys below and of those
 * given: times, memory, where the folder is, and how many threads and workers there were. A key is a path, "[]" is any
 * element of an array: "blocks[].seconds". Prints every other difference; exits with 1 when there is one.
 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

static const char *const may_differ[] = {"out",
                                         "planned_bytes",
                                         "planned_device_bytes",
                                         "peak_rss_bytes",
                                         "seconds",
                                         "block_seconds",
                                         "phases.open",
                                         "phases.calibrate",
                                         "phases.quantize",
                                         "phases.write",
                                         "phases.forward",
                                         "phases.verify",
                                         "blocks[].seconds",
                                         "matrices[].seconds",
                                         "device.name",
                                         "device.threads",
                                         "device.workers",
                                         "device.joined_by",
                                         "arguments.out",
                                         "arguments.threads",
                                         "arguments.workers"};

static char *const *also;
static int n_also, differences;

static int excused(const char *key) {
    for (size_t i = 0; i < sizeof may_differ / sizeof *may_differ; i++)
        if (strcmp(key, may_differ[i]) == 0) return 1;
    for (int i = 0; i < n_also; i++)
        if (strcmp(key, also[i]) == 0) return 1;
    return 0;
}

static void show(const char *key, const char *what) {
    printf("%s: %s\n", key, what);
    differences++;
}

static void compare(const char *key, const json_t *a, const json_t *b) {
    char path[512];
    const char *name;
    json_t *value;
    if (json_typeof(a) != json_typeof(b)) {
        if (!excused(key)) show(key, "of another type");
    } else if (json_is_object(a)) {
        json_object_foreach((json_t *)a, name, value) {
            snprintf(path, sizeof path, "%s%s%s", key, *key ? "." : "", name);
            const json_t *other = json_object_get(b, name);
            if (other)
                compare(path, value, other);
            else
                show(path, "only in the first");
        }
        json_object_foreach((json_t *)b, name, value) {
            snprintf(path, sizeof path, "%s%s%s", key, *key ? "." : "", name);
            if (!json_object_get(a, name)) show(path, "only in the second");
        }
    } else if (json_is_array(a) && !excused(key)) {
        if (json_array_size(a) != json_array_size(b)) show(key, "of another length");
        snprintf(path, sizeof path, "%s[]", key);
        for (size_t i = 0; i < json_array_size(a) && i < json_array_size(b); i++)
            compare(path, json_array_get(a, i), json_array_get(b, i));
    } else if (!json_equal(a, b) && !excused(key)) {
        show(key, "of another value");
    }
}

static json_t *read_report(const char *folder) {
    char path[4096];
    json_error_t error;
    snprintf(path, sizeof path, "%s/report.json", folder);
    json_t *report = json_load_file(path, 0, &error);
    if (!report) fprintf(stderr, "compare_reports: %s: %s\n", path, error.text);
    return report;
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: compare_reports A B [KEY...]\n");
        return 2;
    }
    also = argv + 3, n_also = argc - 3;
    json_t *a = read_report(argv[1]), *b = read_report(argv[2]);
    if (!a || !b) return 2;
    compare("", a, b);
    json_decref(a);
    json_decref(b);
    return differences != 0;
}
