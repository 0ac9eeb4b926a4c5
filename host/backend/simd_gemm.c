/* simd_gemm.c - matrix products on one thread: single precision, and the Gram matrix in double; compiled once per
 * instruction set (see simd.h).
 *
 * Why not BLAS: a BLAS picks its kernels by CPU model at load time, and one that is older than the CPU falls back to
 * SSE3, five times slower than the machine, with bits that depend on the library. Here an element of C is always the
 * same sum: blocks of KC terms in order, within a block one fused multiply-add after another. It depends on the
 * instruction set and on k only, not on where the element lies in C, so any tiling of rows and columns gives the same
 * bytes.
 *
 * The micro-kernel keeps MR rows x NV vectors of C in registers. B is packed into panels of NV vectors, padded with
 * zeros. A is read in place when its rows run along k, else packed into blocks of MR rows.
 */
#include "backend/simd.h"
#include "backend/cpu_kernels.h"

#if defined(CPU_ISA_avx512)
enum { MR = 8, NV = 3, IN_PLACE = 1 }; /* 24 of 32 registers hold C */
#elif defined(CPU_ISA_avx2)
enum { MR = 4, NV = 3, IN_PLACE = 1 }; /* 12 of 16 */
#else
enum { MR = 4, NV = 1, IN_PLACE = 0 }; /* a compiler vectorises the micro-kernel only for packed rows */
#endif

enum {
    KC = 256,                 /* terms of one block: a panel of B is 48 KiB with AVX-512 */
    MC = 256,                 /* rows of A that are packed at a time */
    PANEL = NV * V,           /* columns of a panel of B */
    NC = 512 / PANEL * PANEL, /* columns of B that are packed at a time */
    SKEW = 16                 /* floats between packed blocks of A: else all blocks share a few cache sets */
};
_Static_assert((KC * MR + SKEW) * (MC / MR) + KC * NC <= CPU_GEMM_WORK, "work of the matrix product");

static inline int64_t min64(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* How a block of C is finished: c = alpha acc + beta c, where beta = 0 does not read c. */
typedef struct finish {
    float alpha, beta;
    float *c;
    int64_t ld_c;
    int64_t rows, cols; /* of the block, <= MR and <= nv * V */
} finish;

/* acc [MR, nv vectors] = sum over k of a(i, p) b(p, :); a(i, p) = a[i * row_step + p * k_step]. */
static inline __attribute__((always_inline)) void micro(const int nv, int64_t k, const float *a, int64_t row_step,
                                                        int64_t k_step, const float *b, const finish *f) {
    vf acc[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) acc[i][v] = v_set(0);
    for (int64_t p = 0; p < k; p++, a += k_step, b += nv * V) {
        vf row[NV];
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) row[v] = v_load(b + v * V);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            vf x = v_set(a[i * row_step]);
#pragma GCC unroll 3
            for (int v = 0; v < nv; v++) acc[i][v] = v_fma(x, row[v], acc[i][v]);
        }
    }
    vf alpha = v_set(f->alpha), beta = v_set(f->beta);
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++) {
        if (i >= f->rows) break;
#pragma GCC unroll 3
        for (int v = 0; v < nv; v++) {
            float *c = f->c + i * f->ld_c + v * V;
            int count = (int)min64(V, f->cols - v * V);
            vf old = f->beta == 0 ? v_set(0) : v_mul(beta, v_load_n(c, count));
            v_store_n(c, v_fma(alpha, acc[i][v], old), count);
        }
    }
}

static void block(int64_t k, const float *a, int64_t row_step, int64_t k_step, const float *b, const finish *f) {
    switch ((f->cols + V - 1) / V) {
    case 1:
        micro(1, k, a, row_step, k_step, b, f);
        break;
#if !defined(CPU_ISA_generic)
    case 2:
        micro(2, k, a, row_step, k_step, b, f);
        break;
    default:
        micro(3, k, a, row_step, k_step, b, f);
        break;
#endif
    }
}

/* packed [ceil(n / PANEL)][k][width], width = vectors of the panel: b(p, j) = b[p * k_step + j * col_step], 0 beyond n.
 */
static void pack_b(float *packed, int64_t k, int64_t n, const float *b, int64_t k_step, int64_t col_step) {
    for (int64_t j0 = 0; j0 < n; j0 += PANEL) {
        int64_t cols = min64(PANEL, n - j0), width = (cols + V - 1) / V * V;
        const float *from = b + j0 * col_step;
        if (col_step == 1) {
            for (int64_t p = 0; p < k; p++, packed += width) {
                int64_t j = 0;
                for (; j + V <= cols; j += V) v_store(packed + j, v_load(from + p * k_step + j));
                if (j < cols) v_store(packed + j, v_load_n(from + p * k_step + j, (int)(cols - j)));
            }
            continue;
        }
        /* Columns run along k: V x V elements are read along k and turned over in registers. */
        for (int64_t p = 0; p < k; p += V) {
            int terms = (int)min64(V, k - p);
            for (int64_t j = 0; j < width; j += V) {
                vf tile[V];
#pragma GCC unroll 16
                for (int i = 0; i < V; i++)
                    tile[i] = j + i < cols ? v_load_n(from + p + (j + i) * col_step, terms) : v_set(0);
                v_transpose(tile);
                for (int i = 0; i < terms; i++) v_store(packed + (p + i) * width + j, tile[i]);
            }
        }
        packed += k * width;
    }
}

/* packed [ceil(m / MR)][k * MR + SKEW], each block [k][MR]: a(i, p) = a[i * row_step + p * k_step], 0 beyond m. */
static void pack_a(float *packed, int64_t m, int64_t k, const float *a, int64_t row_step, int64_t k_step) {
    for (int64_t p = 0; p < k; p++) {
        /* Each row is on another page, where no hardware prefetcher follows. */
        for (int64_t i = 0; row_step == 1 && p + 8 < k && i < m; i += 16) __builtin_prefetch(a + i + (p + 8) * k_step);
        for (int64_t i0 = 0; i0 < m; i0 += MR) {
            float *to = packed + i0 / MR * (k * MR + SKEW) + p * MR;
            const float *from = a + i0 * row_step + p * k_step;
            int64_t rows = min64(MR, m - i0);
            if (rows == MR && row_step == 1) {
                memcpy(to, from, MR * sizeof *to);
                continue;
            }
            for (int64_t i = 0; i < MR; i++) to[i] = i < rows ? from[i * row_step] : 0;
        }
    }
}

static void gemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha, const float *a, int64_t ld_a,
                 const float *b, int64_t ld_b, float beta, float *c, int64_t ld_c, float *work) {
    int64_t a_row = trans_a ? 1 : ld_a, a_k = trans_a ? ld_a : 1, b_k = trans_b ? 1 : ld_b, b_col = trans_b ? ld_b : 1;
    float *packed_a = work, *packed_b = work + (KC * MR + SKEW) * (MC / MR);
    if (k == 0 || alpha == 0) {
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < n; j++) c[i * ld_c + j] = beta == 0 ? 0 : beta * c[i * ld_c + j];
        return;
    }
    for (int64_t n0 = 0; n0 < n; n0 += NC)
        for (int64_t k0 = 0; k0 < k; k0 += KC) {
            int64_t nc = min64(NC, n - n0), kc = min64(KC, k - k0);
            pack_b(packed_b, kc, nc, b + k0 * b_k + n0 * b_col, b_k, b_col);
            for (int64_t m0 = 0; m0 < m; m0 += MC) {
                int64_t mc = min64(MC, m - m0), whole = IN_PLACE && !trans_a ? mc / MR * MR : 0;
                const float *rows = a + m0 * a_row + k0 * a_k;
                /* Rows along k are read in place, but for a last block with fewer than MR of them. */
                if (whole < mc) pack_a(packed_a, mc - whole, kc, rows + whole * a_row, a_row, a_k);
                for (int64_t j0 = 0; j0 < nc; j0 += PANEL)
                    for (int64_t i0 = 0; i0 < mc; i0 += MR) {
                        finish f = {alpha, k0 == 0 ? beta : 1, c + (m0 + i0) * ld_c + n0 + j0,
                                    ld_c,  min64(MR, mc - i0), min64(PANEL, nc - j0)};
                        if (i0 < whole)
                            block(kc, rows + i0 * a_row, a_row, a_k, packed_b + j0 * kc, &f);
                        else
                            block(kc, packed_a + (i0 - whole) / MR * (kc * MR + SKEW), 1, MR, packed_b + j0 * kc, &f);
                    }
            }
        }
}

/* ---- Gram matrix in double -----------------------------------------------------------------------------------------
 */

enum { VD = V / 2, GRAM_COLS = NV * VD };
_Static_assert(GRAM_COLS % MR == 0 && (int)GRAM_COLS <= (int)CPU_GRAM_PAD, "blocks of the Gram matrix");

/* g [MR, GRAM_COLS] += sum over k of y(k, i..) y(k, j..); elements with i > j or beyond b are left alone. */
static void gram_block(double *g, const double *y, int64_t rows, int64_t ld, int64_t i0, int64_t j0, int64_t b) {
    vd acc[MR][NV];
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int v = 0; v < NV; v++) acc[i][v] = d_set(0);
    for (int64_t k = 0; k < rows; k++) {
        const double *left = y + k * ld + i0, *right = y + k * ld + j0;
        vd row[NV];
#pragma GCC unroll 3
        for (int v = 0; v < NV; v++) row[v] = d_load(right + v * VD);
#pragma GCC unroll 8
        for (int i = 0; i < MR; i++) {
            vd x = d_set(left[i]);
#pragma GCC unroll 3
            for (int v = 0; v < NV; v++) acc[i][v] = d_fma(x, row[v], acc[i][v]);
        }
    }
    double sums[MR][GRAM_COLS];
#pragma GCC unroll 8
    for (int i = 0; i < MR; i++)
#pragma GCC unroll 3
        for (int v = 0; v < NV; v++) d_store(&sums[i][v * VD], acc[i][v]);
    for (int64_t i = i0; i < min64(i0 + MR, b); i++)
        for (int64_t j = j0 > i ? j0 : i; j < min64(j0 + GRAM_COLS, b); j++) g[i * b + j] += sums[i - i0][j - j0];
}

static void gram(double *g, const float *y, int64_t rows, int64_t b, double *work) {
    int64_t ld = (b + GRAM_COLS - 1) / GRAM_COLS * GRAM_COLS;
    for (int64_t k = 0; k < rows; k++)
        for (int64_t j = 0; j < ld; j++) work[k * ld + j] = j < b ? (double)y[k * b + j] : 0;
    for (int64_t i = 0; i < b; i += MR)
        for (int64_t j = i / GRAM_COLS * GRAM_COLS; j < b; j += GRAM_COLS) gram_block(g, work, rows, ld, i, j, b);
}

void SIMD_NAME(simd_gemm)(struct cpu_kernels *k) {
    k->gemm = gemm;
    k->gram = gram;
}
