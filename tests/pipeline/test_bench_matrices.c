/* test_bench_matrices.c - generated matrices are what their names say: the bytes of older results, energy and decay of
 * each spectrum, the number and place of outliers, the same from the same seed whatever the threads.
 */
#include <xxhash.h>

#include "model/logits.h"
#include "pipeline/bench_matrices.h"

/* The matrix of these options as fp32, column scale applied (free()). */
static float *matrix_of(const char *device, int threads, const char *shape, const char *spectrum, const char *outliers,
                        uint64_t seed) {
    flrq_params *params;
    flrq_bench_sources sources;
    flrq_bench_loaded loaded;
    flrq_backend *be;
    MUST(flrq_backend_open(&be, device, threads));
    MUST(flrq_params_new(&params, "bench-sketch"));
    MUST(flrq_params_set(params, "shapes", shape));
    MUST(flrq_params_set(params, "spectra", spectrum));
    MUST(flrq_params_set(params, "outliers", outliers));
    MUST(flrq_bench_sources_open(&sources, params));
    assert_int_equal(sources.count, 1);
    MUST(flrq_bench_source_load(&loaded, be, &sources, &sources.list[0], seed));
    size_t bytes = (size_t)(loaded.a.rows * loaded.a.cols) * sizeof(float);
    float *d_a = backend_memory(be, bytes), *a = malloc(bytes);
    MUST(be->materialize(be, d_a, &loaded.a));
    MUST(be->download(be, a, d_a, bytes));
    be->release(be, d_a);
    flrq_bench_source_unload(&loaded, be);
    flrq_bench_sources_close(&sources);
    flrq_params_free(params);
    flrq_backend_close(be);
    return a;
}

/* Recorded from the program when power+columns was the only matrix; by the reference, whose sums no instruction set
 * changes. */
static void test_same_as_ever(void **state) {
    float *a = matrix_of("cpu-ref", 1, "96x640", "power", "columns", 0);
    assert_true(XXH64(a, 96 * 640 * sizeof *a, 0) == 0x2a464cd748c00180ull);
    free(a);
}

static void test_reproducible(void **state) {
    enum { M = 700, N = 1100, BYTES = M * N * sizeof(float) };
    for (int s = 0; s < FLRQ_BENCH_SPECTRA; s++)
        for (int o = 0; o < FLRQ_BENCH_OUTLIERS; o++) {
            const char *spectrum = flrq_bench_spectrum_names[s], *outliers = flrq_bench_outlier_names[o];
            float *one = matrix_of("cpu", 1, "700x1100", spectrum, outliers, 5),
                  *two = matrix_of("cpu", 2, "700x1100", spectrum, outliers, 5),
                  *other = matrix_of("cpu", 2, "700x1100", spectrum, outliers, 6);
            assert_memory_equal(one, two, BYTES);
            assert_memory_not_equal(one, other, BYTES);
            free(one);
            free(two);
            free(other);
        }
}

static void test_outliers(void **state) {
    enum { M = 800, N = 1100, RUN = 1 << 17, SPIKES = M * N / RUN };
    float *none = matrix_of("cpu", 2, "800x1100", "power", "none", 1);
    float *columns = matrix_of("cpu", 2, "800x1100", "power", "columns", 1);
    float *rows = matrix_of("cpu", 2, "800x1100", "power", "rows", 1);
    float *spikes = matrix_of("cpu", 2, "800x1100", "power", "spikes", 1);
    double squares = 0;
    int found = 0, run = -1;
    for (int i = 0; i < M * N; i++) squares += (double)none[i] * none[i];
    double spike = 64 * sqrt(squares / (M * N));
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            float x = none[i * N + j];
            /* Rounding to bf16 and a factor of 8 change places without a trace. */
            assert_true(columns[i * N + j] == (j == 256 || j == 768 ? 8 * x : x));
            assert_true(rows[i * N + j] == (i == 256 || i == 768 ? 8 * x : x));
            if (spikes[i * N + j] == x) continue;
            /* The root mean square is of the values before bf16, half an ulp (2^-9) of each; the spike's own rounding
             * is as much again. */
            assert_true(fabs(fabs(spikes[i * N + j]) / spike - 1) <= 2.0 / 512);
            assert_true(!signbit(spikes[i * N + j]) == !signbit(x));
            int here = (i * N + j) / (M * N / SPIKES); /* one in each run */
            assert_int_equal(here < SPIKES ? here : SPIKES - 1, ++run);
            found++;
        }
    assert_int_equal(found, SPIKES);
    free(none);
    free(columns);
    free(rows);
    free(spikes);
    /* A small matrix has one spike. */
    none = matrix_of("cpu", 2, "3x5", "flat", "none", 1);
    spikes = matrix_of("cpu", 2, "3x5", "flat", "spikes", 1);
    found = 0;
    for (int i = 0; i < 15; i++) found += none[i] != spikes[i];
    assert_int_equal(found, 1);
    free(none);
    free(spikes);
}

/* Energy and decay. |G|^2 / mn is 1 with a standard deviation of sqrt(2 / mn) = 0.2 %; |u|^2 |v|^2 / mn of one term is
 * 1 with one of sqrt(2/m + 2/n) = 8 %, and a sum of terms of energies e_i with one of 8 % sqrt(sum e_i^2) / sum e_i,
 * the most for fast: 2.4 %. 10 % is four of them. */
static void test_spectra(void **state) {
    enum { M = 512, N = 768 };
    double energy[FLRQ_BENCH_SPECTRA] = {1, 1, 1e-4, 1 + 64 / 64.0};
    for (int i = 0; i < 192; i++) {
        energy[FLRQ_BENCH_SPECTRUM_POWER] += 0.16 * pow(i + 1, -1.4);
        energy[FLRQ_BENCH_SPECTRUM_FAST] += exp2(-i / 4.0);
    }
    for (int s = 0; s < FLRQ_BENCH_SPECTRA; s++) {
        flrq_backend *be = backend_opens("cpu");
        float *a = matrix_of("cpu", 2, "512x768", flrq_bench_spectrum_names[s], "none", 3), sigma[M];
        double squares = 0;
        for (int i = 0; i < M * N; i++) squares += (double)a[i] * a[i];
        if (!(fabs(squares / (M * N) / energy[s] - 1) <= 0.1))
            fail_msg("%s: energy %g, want %g", flrq_bench_spectrum_names[s], squares / (M * N), energy[s]);
        float *u = malloc(M * M * sizeof *u), *vt = malloc(M * N * sizeof *vt);
        MUST(be->svd(be, FLRQ_SVD_DEFAULT, a, M, N, u, sigma, vt));
        /* Noise alone ends at sqrt(m) + sqrt(n) (Marchenko and Pastur), 1 % of fluctuation is generous. */
        double edge = sqrt(M) + sqrt(N), unit = sqrt((double)M * N);
        if (s == FLRQ_BENCH_SPECTRUM_FLAT) assert_true(sigma[0] <= 1.01 * edge && sigma[0] >= 0.97 * edge);
        /* The strongest term: 8 % of a standard deviation, the noise adds in quadrature. */
        if (s == FLRQ_BENCH_SPECTRUM_POWER) assert_true(sigma[0] >= 0.4 * unit * 0.7 && sigma[0] <= 0.4 * unit * 1.5);
        /* Eight octaves in 64 terms; neighbours mix by less than one octave. */
        if (s == FLRQ_BENCH_SPECTRUM_FAST) assert_true(sigma[0] / sigma[64] >= 128 && sigma[0] / sigma[64] <= 512);
        /* 64 beside each other above the floor: the 64th is within a small factor of the first. */
        if (s == FLRQ_BENCH_SPECTRUM_STEP) assert_true(sigma[0] / sigma[63] <= 4 && sigma[0] >= 2 * edge);
        free(vt);
        free(u);
        free(a);
        flrq_backend_close(be);
    }
}

static void test_lists(void **state) {
    flrq_params *params;
    flrq_bench_sources sources;
    MUST(flrq_params_new(&params, "bench-sketch"));
    MUST(flrq_params_set(params, "shapes", "3x5,5x3"));
    MUST(flrq_params_set(params, "spectra", "step,flat"));
    MUST(flrq_params_set(params, "outliers", "none,spikes,rows"));
    MUST(flrq_bench_sources_open(&sources, params));
    assert_int_equal(sources.count, 12);
    assert_string_equal(sources.list[0].name, "step+none 3x5");
    assert_string_equal(sources.list[5].name, "flat+rows 3x5");
    assert_string_equal(sources.list[7].name, "step+spikes 5x3");
    flrq_bench_sources_close(&sources);
    flrq_params_free(params);
    static const char *const wrong[][3] = {/* option, value, what the text must name */
                                           {"shapes", "", "ROWSxCOLS"},
                                           {"shapes", "64by64", "64by64"},
                                           {"shapes", "0x64", "0x64"},
                                           {"shapes", "-1x64", "-1x64"},
                                           {"shapes", " 1x64", "ROWSxCOLS"},
                                           {"shapes", "64x1048577", "1048576"},
                                           {"shapes", "64x64,", "64x64,"},
                                           {"shapes", "64x64,64x64", "64x64 twice"},
                                           {"spectra", "power,llm", "power, flat, fast, step"},
                                           {"spectra", "", "power, flat, fast, step"},
                                           {"spectra", "power,,flat", "power, flat, fast, step"},
                                           {"spectra", "step,power,step", "step twice"},
                                           {"outliers", "column", "columns, rows, spikes, none"},
                                           {"outliers", "none,none", "none twice"},
                                           {"tensor", "q_proj", "--model"}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        MUST(flrq_params_new(&params, "bench-sketch"));
        MUST(flrq_params_set(params, wrong[i][0], wrong[i][1]));
        flrq_status status = flrq_bench_sources_open(&sources, params);
        if (status != FLRQ_ERR_USAGE) fail_msg("--%s \"%s\": %s", wrong[i][0], wrong[i][1], flrq_status_name(status));
        if (!strstr(flrq_last_error(), wrong[i][2]) || !strstr(flrq_last_error(), wrong[i][0]))
            fail_msg("--%s \"%s\": %s", wrong[i][0], wrong[i][1], flrq_last_error());
        assert_int_equal(sources.count, 0);
        flrq_params_free(params);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_as_ever), cmocka_unit_test(test_reproducible), cmocka_unit_test(test_outliers),
        cmocka_unit_test(test_spectra),      cmocka_unit_test(test_lists),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
