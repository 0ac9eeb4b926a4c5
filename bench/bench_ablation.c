/* bench_ablation.c - what each choice of the method costs or gains, one changed option at a time.
 *
 * usage: bench_ablation layers [BITS...]                      generated layers with outliers
 *        bench_ablation model MODEL CALIB EVAL OUT [BITS...]  a real model: perplexity (documents are lines)
 *
 * Prints CSV: bits, variant, total bits/weight, mean rank, relative output error, perplexity, seconds. `score` is
 * log2(error) + bits/weight (lower is better): one more bit halves the error of a uniform quantizer, so rows of
 * different size compare.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/philox.h"
#include "flrq.h"

typedef struct variant {
    const char *name;
    const char *options[12]; /* name, value, ... */
} variant;

static const variant variants[] = {
    {"default", {NULL}},
    {"nearest (rtn)", {"method", "rtn"}},
    {"clip only (no low rank)", {"rank-policy", "fixed", "rank", "0"}},
    {"preset paper", {"preset", "paper"}},
    {"clip none", {"clip", "none"}},
    {"clip grid 20", {"clip", "grid"}},
    {"clip grid 100", {"clip", "grid", "clip-steps", "100"}},
    {"clip weights plain", {"clip-weights", "plain"}},
    {"clip mode zero", {"clip-mode", "zero", "clip", "grid"}},
    {"grid mirror", {"grid", "mirror", "signed-scale", "false"}},
    {"scale positive", {"signed-scale", "false"}},
    {"metric none", {"metric", "none"}},
    {"metric alpha 2.5", {"metric", "alpha"}},
    {"metric alpha 1", {"metric", "alpha", "alpha-power", "1"}},
    {"rank r1flr", {"rank-policy", "r1flr"}},
    {"rank r1flr-best", {"rank-policy", "r1flr-best"}},
    {"rank energy", {"rank-policy", "energy"}},
    {"rank error", {"rank-policy", "error"}},
    {"rank fixed 4", {"rank-policy", "fixed", "rank", "4"}},
    {"rank fixed 16", {"rank-policy", "fixed", "rank", "16"}},
    {"start weight", {"start", "weight"}},
    {"start error", {"start", "error"}},
    {"start error + fixed 4", {"start", "error", "rank-policy", "fixed", "rank", "4"}},
    {"epochs 1", {"epochs", "1"}},
    {"epochs 5", {"epochs", "5"}},
    {"epochs 20", {"epochs", "20"}},
    {"epochs 5 + fixed 4", {"epochs", "5", "rank-policy", "fixed", "rank", "4"}},
    {"sketch r1", {"sketch", "r1"}},
    {"sketch svd", {"sketch", "svd"}},
    {"power iterations 1", {"power-iterations", "1"}},
    {"lqer rank 4", {"method", "lqer", "rank", "4"}},
    {"group 64 + clip only", {"group", "64", "rank-policy", "fixed", "rank", "0"}},
    {"group 32 + clip only", {"group", "32", "rank-policy", "fixed", "rank", "0"}},
};
enum { VARIANTS = sizeof variants / sizeof *variants };

static void fail(const char *what) {
    fprintf(stderr, "%s: %s\n", what, flrq_last_error());
    exit(1);
}

static flrq_params *params_for(const variant *v, const char *bits) {
    flrq_params *params;
    if (flrq_params_new(&params, "quantize") != FLRQ_OK) fail(v->name);
    if (flrq_params_set(params, "bits", bits) != FLRQ_OK) fail(v->name);
    for (int i = 0; v->options[i]; i += 2)
        if (flrq_params_set(params, v->options[i], v->options[i + 1]) != FLRQ_OK) fail(v->name);
    return params;
}

/* ---- generated layers
 * ---------------------------------------------------------------------------------------------------- */

/* m x n, power-law spectrum on a noise floor, 4 outlier columns x 4; inputs correlated through n/4 latent factors, 1 %
 * of the channels 15 times larger: the layer of methods.md section 5. */
enum { ROWS = 1024, COLS = 1024, LATENT = 256, TOKENS = 2048, SKETCH = 256, LAYERS = 2 };

typedef struct layer {
    float *w, *h, *a, *s;
} layer;

static layer make_layer(uint64_t seed) {
    layer l = {malloc(sizeof(float) * ROWS * COLS), calloc(COLS, sizeof(float)), calloc(COLS, sizeof(float)),
               calloc((size_t)COLS * SKETCH, sizeof(float))};
    uint64_t key = flrq_philox_key(seed, "ablation layer");
    float *u = malloc(sizeof(float) * ROWS * 64), *v = malloc(sizeof(float) * COLS * 64);
    flrq_philox_normal(l.w, key, 0, 0, (uint64_t)ROWS * COLS);
    flrq_philox_normal(u, key, 1, 0, ROWS * 64);
    flrq_philox_normal(v, key, 2, 0, COLS * 64);
    for (int i = 0; i < ROWS; i++)
        for (int k = 0; k < 64; k++) {
            float f = u[i * 64 + k] * 0.5f * powf((float)(k + 1), -0.7f);
            for (int j = 0; j < COLS; j++) l.w[i * COLS + j] += f * v[j * 64 + k];
        }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COLS; j++) l.w[i * COLS + j] *= (j % 256 == 17 ? 4.0f : 1.0f) * 0.02f;
    float *mix = malloc(sizeof(float) * LATENT * COLS), *z = malloc(sizeof(float) * LATENT),
          *x = malloc(sizeof(float) * COLS);
    float *g = malloc(sizeof(float) * SKETCH);
    flrq_philox_normal(mix, key, 3, 0, LATENT * COLS);
    for (int t = 0; t < TOKENS; t++) {
        double mean = 0;
        flrq_philox_normal(z, key, 4, (uint64_t)t * LATENT, LATENT);
        flrq_philox_normal(x, key, 5, (uint64_t)t * COLS, COLS);
        flrq_philox_normal(g, key, 6, (uint64_t)t * SKETCH, SKETCH);
        for (int k = 0; k < LATENT; k++)
            for (int j = 0; j < COLS; j++) x[j] += z[k] * mix[k * COLS + j] / 16;
        for (int j = 0; j < COLS; j++) x[j] *= j % 100 == 33 ? 15.0f : 1.0f;
        for (int j = 0; j < COLS; j++) mean += fabsf(x[j]) / COLS;
        for (int j = 0; j < COLS; j++) {
            l.h[j] += x[j] * x[j] / TOKENS;
            l.a[j] += (float)(fabsf(x[j]) / mean / TOKENS);
            for (int k = 0; k < SKETCH; k++) l.s[j * SKETCH + k] += x[j] * g[k];
        }
    }
    free(g), free(x), free(z), free(mix), free(v), free(u);
    return l;
}

static void run_layers(int count, char **bits) {
    layer layers[LAYERS];
    for (int i = 0; i < LAYERS; i++) layers[i] = make_layer((uint64_t)i + 1);
    for (int b = 0; b < count; b++)
        for (int v = 0; v < VARIANTS; v++) {
            double error = 0, total = 0, rank = 0, seconds = 0;
            for (int i = 0; i < LAYERS; i++) {
                flrq_params *params = params_for(&variants[v], bits[b]);
                flrq_calibration c = FLRQ_CALIBRATION_INIT;
                c.mean_square = layers[i].h, c.mean_abs = layers[i].a, c.sketch = layers[i].s, c.sketch_cols = SKETCH;
                flrq_matrix *m;
                if (flrq_quantize_matrix(&m, params, "layer", layers[i].w, ROWS, COLS, &c) != FLRQ_OK)
                    fail(variants[v].name);
                error += log2(m->error) / LAYERS, total += m->bits_per_weight / LAYERS;
                rank += (double)m->rank / LAYERS, seconds += m->seconds;
                flrq_matrix_free(m);
                flrq_params_free(params);
            }
            printf("%s,%s,%.4f,%.1f,%.5f,,%.3f,%.2f\n", bits[b], variants[v].name, total, rank, exp2(error),
                   error + total, seconds);
            fflush(stdout);
        }
}

/* ---- a model
 * ----------------------------------------------------------------------------------------------------------------- */

static double field(const char *text, const char *key) {
    json_t *object = json_loads(text, 0, NULL);
    double value = json_number_value(json_object_get(object, key));
    json_decref(object);
    return value;
}

static void run_model(const char *model, const char *calib, const char *eval, const char *out, int count, char **bits) {
    for (int b = 0; b < count; b++)
        for (int v = 0; v < VARIANTS; v++) {
            char command[4096], *result = NULL, *score = NULL;
            snprintf(command, sizeof command, "rm -rf -- '%s'", out);
            if (system(command) != 0) exit(1);
            flrq_params *params = params_for(&variants[v], bits[b]), *ask;
            const char *set[][2] = {{"model", model},   {"out", out},         {"calib", calib},
                                    {"doc-sep", "\\n"}, {"calib-len", "256"}, {"calib-samples", "64"}};
            for (size_t i = 0; i < sizeof set / sizeof *set; i++)
                if (flrq_params_set(params, set[i][0], set[i][1]) != FLRQ_OK) fail(variants[v].name);
            if (flrq_run(params, NULL, NULL, &result) != FLRQ_OK) fail(variants[v].name);
            if (flrq_params_new(&ask, "eval") != FLRQ_OK || flrq_params_set(ask, "model", out) != FLRQ_OK ||
                flrq_params_set(ask, "text", eval) != FLRQ_OK || flrq_params_set(ask, "doc-sep", "\\n") != FLRQ_OK ||
                flrq_params_set(ask, "ctx", "256") != FLRQ_OK || flrq_run(ask, NULL, NULL, &score) != FLRQ_OK)
                fail(variants[v].name);
            double error = field(result, "error"), total = field(result, "bits_per_weight");
            printf("%s,%s,%.4f,%.2f,%.5f,%.4f,%.3f,%.2f\n", bits[b], variants[v].name, total,
                   field(result, "average_rank"), error, field(score, "perplexity"), log2(error) + total,
                   field(result, "seconds"));
            fflush(stdout);
            flrq_free(score);
            flrq_free(result);
            flrq_params_free(ask);
            flrq_params_free(params);
        }
}

int main(int argc, char **argv) {
    static char *all[] = {"4", "3", "2"};
    int layers = argc >= 2 && strcmp(argv[1], "layers") == 0, model = argc >= 6 && strcmp(argv[1], "model") == 0;
    if (!layers && !model) {
        fprintf(stderr, "usage: bench_ablation layers [BITS...] | model MODEL CALIB EVAL OUT [BITS...]\n");
        return 2;
    }
    int first = layers ? 2 : 6, count = argc > first ? argc - first : 3;
    char **bits = argc > first ? argv + first : all;
    printf("bits,variant,bits_per_weight,rank,error,perplexity,score,seconds\n");
    if (layers)
        run_layers(count, bits);
    else
        run_model(argv[2], argv[3], argv[4], argv[5], count, bits);
    return 0;
}
