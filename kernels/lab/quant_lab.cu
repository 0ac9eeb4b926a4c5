/* quant_lab.cu - variants of the clip search by fits, for symmetric groups of 128 fp32 weights at 4 bits; a program.
 *
 *   nvcc -O3 -std=c++17 -fmad=false -arch=native -I. -Iinclude -Ihost -Ikernels kernels/lab/quant_lab.cu kernels/quant.cu \
 *        kernels/quant_long.cu -Lbuild -lflrq -o quant_lab && LD_LIBRARY_PATH=build ./quant_lab [rows] [columns]
 *
 * Every variant must give the bytes of the scalar reference, then it is timed. What is known about them is in
 * README.md.
 *
 *   1  a warp a group: lane = (trials t, t + 4, ...; columns p, p + 8, ...), the 16 columns of a lane in registers
 *   2  a team of eight lanes a group, columns in shared memory, eight trials a lane: the library's kernel
 */
#include "kernels/quant_team.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { GROUP = 128, COLUMNS = GROUP / TEAM, WARPS = 8, REPEATS = 20 };

/* ---- variant 1 -------------------------------------------------------------------------------------------------- */

__device__ static float subset_sum(float x) {
    for (int half = TEAM / 2; half > 0; half /= 2) x += __shfl_xor_sync(0xffffffffu, x, half);
    return x;
}

/* B and C of the trials of this lane's subset, the best of all 8 in every lane. */
__device__ static best_fit best_of_eight(const float (&w)[COLUMNS], const float (&h)[COLUMNS], const float (&inv)[2],
                                         float above, float below) {
    const int subset = (int)threadIdx.x % 32 / TEAM;
    float b[2] = {}, c[2] = {};
    FLRQ_UNROLL
    for (int i = 0; i < COLUMNS; i++) fit_column<2>(b, c, inv, w[i], h[i], above, below);
    best_fit best = {0, 0, 0, 0};
    FLRQ_UNROLL
    for (int n = 0; n < 2; n++) {
        const float sum_b = subset_sum(b[n]), sum_c = subset_sum(c[n]), gain = quant_gain(sum_b, sum_c);
        if (gain > best.gain) best.gain = gain, best.b = sum_b, best.c = sum_c, best.trial = subset + 4 * n;
    }
    for (int half = TEAM; half < 32; half *= 2) {
        best_fit other;
        other.gain = __shfl_xor_sync(0xffffffffu, best.gain, half);
        other.b = __shfl_xor_sync(0xffffffffu, best.b, half);
        other.c = __shfl_xor_sync(0xffffffffu, best.c, half);
        other.trial = __shfl_xor_sync(0xffffffffu, best.trial, half);
        if (other.gain > best.gain || (other.gain == best.gain && other.trial < best.trial)) best = other;
    }
    return best;
}

__global__ void __launch_bounds__(WARPS * 32, 2)
    warp_a_group(uint8_t *code, float *scale, const float *all_w, const float *all_h, int64_t groups, int64_t in_row,
                 quant_levels levels, quant_plan plan) {
    const int64_t index = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int subset = (int)threadIdx.x % 32 / TEAM;
    if (index >= groups) return;
    const float *from_w = all_w + index * GROUP + team_lane(), *from_h = all_h + index % in_row * GROUP + team_lane();
    float w[COLUMNS], h[COLUMNS], most = 0, norms[2] = {}, masses[2] = {};
    FLRQ_UNROLL
    for (int i = 0; i < COLUMNS; i++) {
        w[i] = from_w[i * TEAM];
        h[i] = from_h[i * TEAM];
        most = fmaxf(most, fabsf(w[i]));
        norms[i % 2] = fmaf(h[i] * w[i], w[i], norms[i % 2]);
        masses[i % 2] += h[i];
    }
    const quant_range r = quant_range_of(&levels, 0, team_max(most));
    const float norm = subset_sum(norms[0] + norms[1]), mass = subset_sum(masses[0] + masses[1]);
    const float step = quant_first_step(&plan, r, norm / mass);
    const float above = QUANT_MAGIC + levels.up, below = QUANT_MAGIC - levels.down;
    float inv[2];
    FLRQ_UNROLL
    for (int n = 0; n < 2; n++) inv[n] = quant_first_inv(&plan, r, step, subset + 4 * n);
    const best_fit first = best_of_eight(w, h, inv, above, below);
    const float second = quant_second_step(&plan, step, first.trial);
    FLRQ_UNROLL
    for (int n = 0; n < 2; n++) inv[n] = quant_second_inv(&plan, first.c / first.b, second, subset + 4 * n);
    const best_fit last = best_of_eight(w, h, inv, above, below);
    /* Subset s compares candidate s % 2: each half of the warp does the same work. */
    quant_candidate c = quant_at_ratio(&levels, r, 1, 1);
    const quant_candidate found = quant_at_fit(&levels, r, last.b / last.c, levels.middle);
    trials<1> t;
    set_trial(t, 0, subset % 2 ? found : c);
    float even[1] = {}, odd[1] = {};
    FLRQ_UNROLL
    for (int i = 0; i < COLUMNS; i += 2) {
        error_column<1, false>(even, t, w[i], h[i]);
        error_column<1, false>(odd, t, w[i + 1], h[i + 1]);
    }
    const float error = subset_sum(even[0] + odd[0]);
    const float of_nearest = __shfl_sync(0xffffffffu, error, 0), of_found = __shfl_sync(0xffffffffu, error, TEAM);
    if (first.gain > 0 && last.gain > 0 && of_found < of_nearest) c = found;
    FLRQ_UNROLL
    for (int i = 0; i < COLUMNS; i++)
        if (i / 4 == subset) {
            bool within;
            const float q = integer_of<false>(w[i], c.inv, QUANT_MAGIC + c.down, QUANT_MAGIC + c.up, 0, 0, &within);
            code[index * GROUP + team_lane() + i * TEAM] = (uint8_t)__float_as_uint(q + c.zero);
        }
    if (threadIdx.x % 32 == 0) scale[index] = c.scale;
}

/* ---- the program ------------------------------------------------------------------------------------------------ */

static void check(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return;
    fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
    exit(1);
}

struct lab {
    int64_t rows, cols;
    float *w, *h, *scale;
    uint8_t *code;
    cudaStream_t stream;
};

static void run(const lab &l, int variant) {
    const flrq_scheme scheme = {4, 1, FLRQ_GRID_FULL, 0, GROUP};
    const flrq_clip clip = {FLRQ_CLIP_FAST, FLRQ_CLIP_CLAMP, 1, 1, 0};
    const int64_t in_row = l.cols / GROUP, groups = l.rows * in_row;
    if (variant == 1) {
        FLRQ_LAUNCH(warp_a_group, (unsigned)((groups + WARPS - 1) / WARPS), WARPS * 32, 0, l.stream, l.code, l.scale,
                    l.w, l.h, groups, in_row, quant_levels_of(&scheme), quant_plan_of(4, GROUP, false));
        check(cudaGetLastError(), "launch");
        return;
    }
    flrq_quantize_job job;
    memset(&job, 0, sizeof job);
    job.a.rows = l.rows, job.a.cols = job.a.ld = l.cols;
    job.a.dense = l.w, job.a.dtype = FLRQ_F32;
    job.h = l.h, job.code = l.code, job.scale = l.scale;
    job.group = GROUP, job.n_groups = in_row;
    job.scheme = scheme, job.clip = clip;
    check(flrq_launch_clip_quantize(&job, l.stream), "launch");
}

int main(int argc, char **argv) {
    lab l;
    l.rows = argc > 1 ? atoll(argv[1]) : 4096;
    l.cols = argc > 2 ? atoll(argv[2]) / GROUP * GROUP : 4096;
    const size_t n = (size_t)(l.rows * l.cols), groups = n / GROUP;
    if (l.rows < 1 || l.cols < GROUP) return fprintf(stderr, "at least 1 row of %d columns\n", GROUP), 1;
    float *w = (float *)malloc(n * sizeof *w), *h = (float *)malloc((size_t)l.cols * sizeof *h);
    float *scale = (float *)malloc(2 * groups * sizeof *scale);
    uint8_t *code = (uint8_t *)malloc(2 * n);
    if (!w || !h || !scale || !code) return fprintf(stderr, "out of memory\n"), 1;
    srand(1);
    for (size_t i = 0; i < n; i++) { /* a sum of uniform numbers, near enough to normal */
        w[i] = 0;
        for (int k = 0; k < 4; k++) w[i] += (float)rand() / (float)RAND_MAX - 0.5f;
    }
    for (int64_t j = 0; j < l.cols; j++) h[j] = j % 37 ? 1.0f + (float)(j % 5) : 100.0f;

    flrq_backend *ref;
    flrq_scheme scheme = {4, 1, FLRQ_GRID_FULL, 0, GROUP};
    flrq_clip clip = {FLRQ_CLIP_FAST, FLRQ_CLIP_CLAMP, 1, 1, 0};
    flrq_codes out = {l.rows, l.cols, GROUP, l.cols / GROUP, 4, 1, code, scale, NULL};
    flrq_operand a;
    memset(&a, 0, sizeof a);
    a.rows = l.rows, a.cols = a.ld_dense = l.cols, a.d_dense = w, a.dense_dtype = FLRQ_F32;
    if (flrq_backend_open(&ref, "cpu", 0) != FLRQ_OK ||
        ref->clip_quantize(ref, &out, &a, h, &scheme, &clip, NULL) != FLRQ_OK)
        return fprintf(stderr, "%s\n", flrq_last_error()), 1;
    flrq_backend_close(ref);

    check(cudaStreamCreate(&l.stream), "stream");
    check(cudaMalloc((void **)&l.w, n * sizeof *w), "memory");
    check(cudaMalloc((void **)&l.h, (size_t)l.cols * sizeof *h), "memory");
    check(cudaMalloc((void **)&l.scale, groups * sizeof *scale), "memory");
    check(cudaMalloc((void **)&l.code, n), "memory");
    check(cudaMemcpy(l.w, w, n * sizeof *w, cudaMemcpyHostToDevice), "copy");
    check(cudaMemcpy(l.h, h, (size_t)l.cols * sizeof *h, cudaMemcpyHostToDevice), "copy");
    cudaEvent_t begin, end;
    check(cudaEventCreate(&begin), "event");
    check(cudaEventCreate(&end), "event");
    int wrong = 0;
    for (int variant = 1; variant <= 2; variant++) {
        check(cudaMemsetAsync(l.code, 0xff, n, l.stream), "memset");
        run(l, variant);
        check(cudaStreamSynchronize(l.stream), "run");
        check(cudaMemcpy(code + n, l.code, n, cudaMemcpyDeviceToHost), "copy");
        check(cudaMemcpy(scale + groups, l.scale, groups * sizeof *scale, cudaMemcpyDeviceToHost), "copy");
        const bool same = !memcmp(code, code + n, n) && !memcmp(scale, scale + groups, groups * sizeof *scale);
        wrong += !same;
        float best = 1e30f;
        for (int k = 0; k < REPEATS; k++) {
            float ms;
            check(cudaEventRecord(begin, l.stream), "event");
            run(l, variant);
            check(cudaEventRecord(end, l.stream), "event");
            check(cudaEventSynchronize(end), "run");
            check(cudaEventElapsedTime(&ms, begin, end), "event");
            best = ms < best ? ms : best;
        }
        printf("variant %d: %s, %.1f us, %.1f weights per ns\n", variant, same ? "same bytes" : "OTHER BYTES",
               1e3 * (double)best, (double)n / (1e6 * (double)best));
    }
    check(cudaFree(l.w), "free");
    check(cudaFree(l.h), "free");
    check(cudaFree(l.scale), "free");
    check(cudaFree(l.code), "free");
    check(cudaEventDestroy(begin), "event");
    check(cudaEventDestroy(end), "event");
    check(cudaStreamDestroy(l.stream), "stream");
    free(w), free(h), free(scale), free(code);
    return wrong;
}
