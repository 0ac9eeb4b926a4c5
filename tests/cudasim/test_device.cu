/*
 * test_device.cu - the device language computes what CUDA defines: built-in variables, warp operations, matrix
 * fragments, conversions, atomics, random numbers. Run in several thread orders.
 */
#include "check.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"
#include "cuda_runtime.h"
#include "curand_kernel.h"

#include <math.h>
#include <stdlib.h>
#include <algorithm>
#include <vector>

extern "C" {
#include "core/philox.h"
}

static uint64_t random_state = 1;
static uint32_t random_word() {
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (uint32_t)(random_state >> 32);
}
static float random_float() {
    return (float)(int32_t)random_word() * 0x1p-31f;
}

template <class T> static T *upload(const std::vector<T> &host) {
    T *d;
    CHECK_OK(cudaMalloc(&d, host.size() * sizeof(T)));
    CHECK_OK(cudaMemcpy(d, host.data(), host.size() * sizeof(T), cudaMemcpyHostToDevice));
    return d;
}
/* Downloads and frees. */
template <class T> static std::vector<T> take(T *d, size_t n) {
    std::vector<T> host(n);
    CHECK_OK(cudaMemcpy(host.data(), d, n * sizeof(T), cudaMemcpyDeviceToHost));
    CHECK_OK(cudaFree(d));
    return host;
}

/* --- built-in variables: every thread of a 3-D grid writes its own cell once --- */

__global__ void k_indices(unsigned *count) {
    unsigned x = blockIdx.x * blockDim.x + threadIdx.x, y = blockIdx.y * blockDim.y + threadIdx.y;
    unsigned z = blockIdx.z * blockDim.z + threadIdx.z;
    count[(z * gridDim.y * blockDim.y + y) * gridDim.x * blockDim.x + x] += 1;
}
static void test_indices() {
    dim3 grid(3, 2, 5), block(7, 4, 3);
    unsigned n = 3 * 2 * 5 * 7 * 4 * 3;
    unsigned *d = upload(std::vector<unsigned>(n));
    FLRQ_LAUNCH(k_indices, grid, block, 0, 0, d);
    for (unsigned c : take(d, n)) CHECK(c == 1, "%u", c);
}

/* --- warp operations against their definition; lanes of mask, of 32 and of fewer --- */

struct WarpResults {
    float up[64], down[64], xor4[64], index[64];
    double wide[64];
    unsigned ballot[64], match[64], sum[64], umax[64];
    int any[64], all[64], imin[64];
    int count[64], some[64], every[64];
};
__global__ void k_warp(WarpResults *r, const int *value) {
    int i = (int)threadIdx.x, v = value[i];
    unsigned all = 0xffffffffu;
    r->up[i] = __shfl_up_sync(all, (float)v, 3);
    r->down[i] = __shfl_down_sync(all, (float)v, 5, 16);
    r->xor4[i] = __shfl_xor_sync(all, (float)v, 4, 8);
    r->index[i] = __shfl_sync(all, (float)v, i + 9, 8);
    r->wide[i] = __shfl_sync(all, v + 0.5, 31);
    r->ballot[i] = __ballot_sync(all, v & 1);
    r->match[i] = __match_any_sync(all, v % 4);
    r->sum[i] = __reduce_add_sync(all, (unsigned)v);
    r->umax[i] = __reduce_max_sync(all, (unsigned)v);
    r->imin[i] = __reduce_min_sync(all, v);
    r->any[i] = __any_sync(all, v == value[7]);
    r->all[i] = __all_sync(all, v < 1000);
    r->count[i] = __syncthreads_count(v & 1);
    r->some[i] = __syncthreads_or(v == value[40]);
    r->every[i] = __syncthreads_and(v != value[40]);
}
static void test_warp() {
    std::vector<int> v(64);
    for (int &x : v) x = (int)(random_word() % 2000) - 1000;
    v[3] = 1999;
    WarpResults *d;
    CHECK_OK(cudaMalloc(&d, sizeof *d));
    int *values = upload(v);
    FLRQ_LAUNCH(k_warp, 1, 64, 0, 0, d, values);
    WarpResults r = take(d, 1)[0];
    CHECK_OK(cudaFree(values));
    int odd = 0;
    for (int x : v) odd += x & 1;
    for (int i = 0; i < 64; i++) {
        int w = i & 32, lane = i & 31;
        const int *u = &v[(size_t)w];
        CHECK(r.up[i] == (float)(lane < 3 ? u[lane] : u[lane - 3]), "%d", i);
        CHECK(r.down[i] == (float)(lane % 16 + 5 > 15 ? u[lane] : u[lane + 5]), "%d", i);
        CHECK(r.xor4[i] == (float)u[lane ^ 4], "%d", i);
        CHECK(r.index[i] == (float)u[(lane & ~7) + (i + 9) % 8], "%d", i);
        CHECK(r.wide[i] == u[31] + 0.5, "%d", i);
        unsigned ballot = 0, match = 0, sum = 0, umax = 0;
        int imin = u[0], any = 0, all = 1;
        for (int l = 0; l < 32; l++) {
            ballot |= (unsigned)(u[l] & 1) << l;
            match |= (unsigned)(u[l] % 4 == u[lane] % 4) << l;
            sum += (unsigned)u[l];
            umax = std::max(umax, (unsigned)u[l]);
            imin = std::min(imin, u[l]);
            any |= u[l] == v[7];
            all &= u[l] < 1000;
        }
        CHECK(r.ballot[i] == ballot && r.match[i] == match && r.sum[i] == sum, "%d", i);
        CHECK(r.umax[i] == umax && r.imin[i] == imin, "%d", i);
        CHECK(!r.any[i] == !any && !r.all[i] == !all, "%d", i);
        CHECK(r.count[i] == odd && r.some[i] && !r.every[i], "%d", i);
    }
}

/* Lanes that have returned are left out of a mask, and two halves of a warp may be in different operations. */
__global__ void k_halves(int *out) {
    int i = (int)threadIdx.x;
    if (i >= 24) return;
    if (i < 8) {
        out[i] = __shfl_sync(0x000000ffu, i, 7 - i);
    } else {
        int v = __shfl_xor_sync(0x00ffff00u, i, 1);
        __syncwarp(0x00ffff00u);
        out[i] = __shfl_xor_sync(0x00ffff00u, v, 2);
    }
}
static void test_halves() {
    int *d = upload(std::vector<int>(24));
    FLRQ_LAUNCH(k_halves, 1, 32, 0, 0, d);
    std::vector<int> r = take(d, 24);
    for (int i = 0; i < 24; i++) CHECK(r[(size_t)i] == (i < 8 ? 7 - i : (i ^ 1) ^ 2), "%d: %d", i, r[(size_t)i]);
}

/* --- matrix fragments: a tile product with operands from ldmatrix, against loops --- */

/* D [16, 8] = A [16, 16] B [16, 8] + D by one warp. A is row-major. B comes either as B^T [8, 16] (plain ldmatrix) or
 * as B [16, 8] (transposed ldmatrix). */
template <bool BF16> __global__ void k_mma(float *d, const uint16_t *a, const uint16_t *b, bool transposed) {
    __shared__ __align__(16) uint16_t sa[16][16], sb[16][16];
    unsigned lane = threadIdx.x, row = lane / 4, quad = lane % 4;
    for (unsigned i = lane; i < 256; i += 32) {
        sa[i / 16][i % 16] = a[i];
        sb[i / 16][i % 16] = 0;
    }
    __syncwarp();
    for (unsigned i = lane; i < 128; i += 32) {
        if (transposed) {
            sb[i / 8][i % 8] = b[i]; /* 16 rows of 8, at distance 16 */
        } else {
            sb[i / 16][i % 16] = b[i]; /* 8 rows of 16 */
        }
    }
    __syncwarp();
    uint32_t fa[4], fb[4];
    flrq_ldmatrix_x4(fa, &sa[lane % 16][lane / 16 * 8]);
    if (transposed) {
        flrq_ldmatrix_x4_trans(fb, &sb[lane % 16][lane / 16 * 8]);
    } else {
        flrq_ldmatrix_x4(fb, &sb[lane % 8 + lane / 16 * 8][lane / 8 % 2 * 8]);
    }
    float acc[4];
    for (unsigned r = 0; r < 4; r++) acc[r] = d[(row + r / 2 * 8) * 8 + 2 * quad + r % 2];
    if (BF16) {
        flrq_mma_bf16_16816(acc, fa, fb);
    } else {
        flrq_mma_f16_16816(acc, fa, fb);
    }
    for (unsigned r = 0; r < 4; r++) d[(row + r / 2 * 8) * 8 + 2 * quad + r % 2] = acc[r];
}
template <bool BF16> static void test_mma(bool transposed) {
    std::vector<uint16_t> a(256), b(128);
    std::vector<float> fa(256), fb(128), c(128);
    auto make = [](std::vector<uint16_t> &bits, std::vector<float> &value) {
        for (size_t i = 0; i < bits.size(); i++) {
            float v = random_float();
            bits[i] = BF16 ? __float2bfloat16_rn(v).bits : __float2half_rn(v).bits;
            value[i] = BF16 ? __bfloat162float(__ushort_as_bfloat16(bits[i])) : __half2float(__ushort_as_half(bits[i]));
        }
    };
    make(a, fa);
    make(b, fb);
    for (float &v : c) v = random_float();
    float *d = upload(c);
    uint16_t *da = upload(a), *db = upload(b);
    FLRQ_LAUNCH((k_mma<BF16>), 1, 32, 0, 0, d, da, db, transposed);
    std::vector<float> r = take(d, 128);
    CHECK_OK(cudaFree(da));
    CHECK_OK(cudaFree(db));
    for (size_t i = 0; i < 16; i++)
        for (size_t j = 0; j < 8; j++) {
            double sum = c[i * 8 + j];
            for (size_t k = 0; k < 16; k++) sum += (double)fa[i * 16 + k] * fb[transposed ? k * 8 + j : j * 16 + k];
            /* 16 sums of at most 17 in magnitude, each rounded to fp32 */
            CHECK(fabs(sum - r[i * 8 + j]) <= 16 * 17 * 0x1p-24, "%zu %zu: %g %g", i, j, sum, r[i * 8 + j]);
        }
}

/* --- conversions: all 16-bit patterns by their definition, and rounding to the nearest of them --- */

/* Magnitude of a finite 16-bit float with `mantissa` stored bits; the infinity after the largest counts as the number
 * that would follow, which is what rounding goes by. */
static double magnitude(unsigned bits, int mantissa, int bias) {
    int exponent = (int)(bits & 0x7fff) >> mantissa, fraction = (int)bits & ((1 << mantissa) - 1);
    return exponent ? ldexp((1 << mantissa) + fraction, exponent - bias - mantissa)
                    : ldexp(fraction, 1 - bias - mantissa);
}

/* `bits` is the nearest to f, and of two nearest the even one. */
static bool is_nearest(float f, unsigned bits, int mantissa, int bias) {
    double error = fabs(magnitude(bits, mantissa, bias) - fabs((double)f));
    bool good = (bits >> 15 != 0) == (signbit(f) != 0);
    for (unsigned other : {(bits & 0x7fff) - 1, (bits & 0x7fff) + 1}) {
        if (other > (unsigned)(2 * bias + 1) << mantissa) continue; /* below zero, above infinity: no neighbour */
        double theirs = fabs(magnitude(other, mantissa, bias) - fabs((double)f));
        good = good && (error < theirs || (error == theirs && !(bits & 1)));
    }
    return good;
}

static void test_half() {
    for (unsigned i = 0; i < 65536; i++) {
        uint16_t bits = (uint16_t)i;
        float half = __half2float(__ushort_as_half(bits)), brain = __bfloat162float(__ushort_as_bfloat16(bits));
        bool half_nan = (bits & 0x7fff) > 0x7c00, brain_nan = (bits & 0x7fff) > 0x7f80;
        if ((bits & 0x7fff) < 0x7c00) CHECK(fabs((double)half) == magnitude(bits, 10, 15), "%04x", bits);
        if ((bits & 0x7fff) == 0x7c00) CHECK(isinf(half), "%04x", bits);
        CHECK(half_nan == (half != half) && brain_nan == (brain != brain), "%04x", bits);
        CHECK(__float_as_uint(brain) == i << 16, "%04x", bits);
        CHECK(__float2half_rn(half).bits == (half_nan ? 0x7fff : bits), "%04x", bits);
        CHECK(__float2bfloat16_rn(brain).bits == (brain_nan ? 0x7fff : bits), "%04x", bits);
    }
    for (int i = 0; i < 200000; i++) {
        /* magnitudes from below the smallest half to its overflow; every other one a tie or near one */
        float f = ldexpf(random_float(), (int)(random_word() % 46) - 28);
        if (i & 1) f = __uint_as_float((__float_as_uint(f) & 0xffffe000u) + (random_word() % 3 - 1 + 0x1000u));
        CHECK(is_nearest(f, __float2half_rn(f).bits, 10, 15), "%a", f);
        if (i & 1) f = __uint_as_float((__float_as_uint(f) & 0xffff0000u) + (random_word() % 3 - 1 + 0x8000u));
        CHECK(is_nearest(f, __float2bfloat16_rn(f).bits, 7, 127), "%a", f);
    }
    CHECK(__float2half_rn(65519.0f).bits == 0x7bff && __float2half_rn(65520.0f).bits == 0x7c00, "overflow of half");
    CHECK(__float2bfloat16_rn(3.4e38f).bits == 0x7f80, "overflow rounds to infinity");
    __half h = __half(1.5f) * __half(2.0f) + __half(0.25f);
    CHECK((float)h == 3.25f, "%f", (float)h);
    float2 pair = __bfloat1622float2(__floats2bfloat162_rn(1.0f, -2.0f));
    CHECK(pair.x == 1.0f && pair.y == -2.0f, "x is the low half");
}

static void test_integers() {
    CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rn(-2.5f) == -2, "ties to even");
    CHECK(__float2int_rn(3e9f) == INT_MAX && __float2int_rn(-3e9f) == INT_MIN && __float2int_rn(NAN) == 0, "saturate");
    CHECK(__float2uint_rn(-1.0f) == 0 && __float2uint_rn(1e10f) == UINT_MAX, "saturate");
    CHECK(__float2int_rz(-2.9f) == -2 && __float2int_rd(-2.1f) == -3 && __float2int_ru(2.1f) == 3, "directions");
    CHECK(__brev(1) == 0x80000000u && __brev(0x12345678u) == 0x1e6a2c48u, "%x", __brev(0x12345678u));
    CHECK(__clz(0) == 32 && __clz(1) == 31 && __ffs(0) == 0 && __ffs(8) == 4 && __popc(0xff) == 8, "bits");
    CHECK(__umulhi(0xffffffffu, 0xffffffffu) == 0xfffffffeu && __mul64hi(-1, 1) == -1, "high products");
    CHECK(__byte_perm(0x33221100, 0x77665544, 0x7531) == 0x77553311, "%x", __byte_perm(0x33221100, 0x77665544, 0x7531));
    CHECK(__byte_perm(0x80, 0, 0x8008) == 0xff8080ffu, "%x", __byte_perm(0x80, 0, 0x8008));
    CHECK(__funnelshift_l(0x80000000u, 1, 1) == 3 && __funnelshift_r(0, 1, 1) == 0x80000000u, "funnel");
    CHECK(__dp4a(0x01020304, 0x7f7f7f7f, 1) == 1 + 127 * 10, "dp4a");
    CHECK(min(2, 3u) == 2u && max(-1.0f, NAN) == -1.0f && max(1, 2.5) == 2.5, "min and max");
}

/* --- atomics: every thread adds, the result is exact --- */

__global__ void k_atomics(unsigned *u, int *i, float *f, double *d, unsigned long long *l) {
    unsigned t = blockIdx.x * blockDim.x + threadIdx.x;
    atomicAdd(&u[0], t);
    atomicMax(&u[1], t);
    atomicMin(&u[2], t);
    atomicOr(&u[3], 1u << (t % 32));
    atomicCAS(&u[4], t, t + 1); /* one thread at least finds its own number */
    atomicAdd(i, -(int)t);
    atomicMin(&i[1], 5 - (int)t);
    atomicAdd(f, 1.0f);
    atomicAdd(d, 0.5);
    atomicAdd(l, 1ull << 32);
    atomicMin(&l[1], (unsigned long long)t << 33);
}
static void test_atomics() {
    unsigned *u = upload(std::vector<unsigned>{0, 0, UINT_MAX, 0, 0});
    int *i = upload(std::vector<int>{0, 0});
    float *f = upload(std::vector<float>{0});
    double *d = upload(std::vector<double>{0});
    unsigned long long *l = upload(std::vector<unsigned long long>{0, ~0ull});
    FLRQ_LAUNCH(k_atomics, 3, 100, 0, 0, u, i, f, d, l);
    std::vector<unsigned> gu = take(u, 5);
    std::vector<int> gi = take(i, 2);
    std::vector<unsigned long long> gl = take(l, 2);
    CHECK(gu[0] == 44850 && gu[1] == 299 && gu[2] == 0 && gu[3] == UINT_MAX && gu[4] > 0, "%u %u", gu[0], gu[4]);
    CHECK(gi[0] == -44850 && gi[1] == 5 - 299, "%d %d", gi[0], gi[1]);
    CHECK(take(f, 1)[0] == 300.0f && take(d, 1)[0] == 150.0, "sums");
    CHECK(gl[0] == 300ull << 32 && gl[1] == 0, "%llu", gl[0]);
}

/* --- asynchronous copies in two stages --- */

__global__ void k_pipeline(float *out, const float *in, int tiles) {
    __shared__ __align__(16) float stage[2][128];
    int i = (int)threadIdx.x;
    flrq_cp_async16(&stage[0][4 * i], in + 4 * i);
    flrq_cp_async_commit();
    float sum = 0.0f;
    for (int t = 0; t < tiles; t++) {
        if (t + 1 < tiles) flrq_cp_async16(&stage[(t + 1) % 2][4 * i], in + 128 * (t + 1) + 4 * i);
        flrq_cp_async_commit();
        flrq_cp_async_wait<1>();
        __syncthreads();
        for (int k = 0; k < 4; k++) sum += stage[t % 2][(4 * i + k + 17) % 128];
        __syncthreads();
    }
    out[i] = sum;
}
static void test_pipeline() {
    const int tiles = 5;
    std::vector<float> in(128 * tiles);
    for (size_t i = 0; i < in.size(); i++) in[i] = (float)(i % 97);
    float *d = upload(in), *out = upload(std::vector<float>(32));
    FLRQ_LAUNCH(k_pipeline, 1, 32, 0, 0, out, d, tiles);
    std::vector<float> r = take(out, 32);
    CHECK_OK(cudaFree(d));
    for (int i = 0; i < 32; i++) {
        float sum = 0.0f;
        for (int t = 0; t < tiles; t++)
            for (int k = 0; k < 4; k++) sum += in[(size_t)(128 * t + (4 * i + k + 17) % 128)];
        CHECK(r[(size_t)i] == sum, "%d: %f %f", i, r[(size_t)i], sum);
    }
}

/* --- cuRAND's Philox has the bits of the host's --- */

static void test_philox() {
    for (uint64_t seed : {0ull, 1ull, 0x123456789abcdefull})
        for (uint64_t stream : {0ull, 7ull, 0xffffffff00000001ull})
            for (uint64_t offset : {0ull, 1ull, 6ull, 0x3fffffffcull, 0x400000003ull}) {
                curandStatePhilox4_32_10_t s, single;
                curand_init(seed, stream, offset, &s);
                curand_init(seed, stream, offset, &single);
                for (uint64_t i = offset; i < offset + 12; i += 4) {
                    uint4 got = curand4(&s);
                    uint32_t word[4] = {got.x, got.y, got.z, got.w};
                    for (uint64_t k = 0; k < 4; k++) {
                        uint32_t block[4];
                        flrq_philox(block, seed, stream, (i + k) / 4);
                        CHECK(word[k] == block[(i + k) % 4], "offset %llu", (unsigned long long)(i + k));
                        CHECK(curand(&single) == block[(i + k) % 4], "offset %llu", (unsigned long long)(i + k));
                    }
                }
            }
}

int main() {
    test_indices();
    test_warp();
    test_halves();
    for (int i = 0; i < 4; i++) {
        test_mma<true>(i & 1);
        test_mma<false>(i & 1);
    }
    test_half();
    test_integers();
    test_atomics();
    test_pipeline();
    test_philox();
    return check_done("device language");
}
