/*
 * blocks.cpp - execution of a grid: blocks one after another, the threads of a block as fibers, barriers and warp
 * operations.
 *
 * A thread runs until it must wait; then the next ready one is switched to. A thread that never waits runs as a plain
 * call on a fiber that the next thread reuses. The order in which threads and blocks are taken is a parameter
 * (FLRQ_CUDASIM_ORDER): correct kernels give the same result in every order. A warp operation is computed for all lanes
 * by the lane that arrives last, so that no lane can overwrite what another has yet to read.
 */
#include "fibers.h"
#include "internal.h"
#include "shared.h"

#include <immintrin.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <numeric>
#include <vector>

namespace cudasim {

ThreadView *self;
uint3 block_index;
dim3 block_size, grid_size;
unsigned char *dynamic_shared;

namespace {

constexpr unsigned MAX_THREADS = 1024, LANES = 32, MAX_WARPS = MAX_THREADS / LANES, FULL = 0xffffffffu;

enum Op { OP_SHUFFLE, OP_BALLOT, OP_FOLD, OP_MATCH, OP_SYNCWARP, OP_MMA, OP_LDMATRIX };
const char *const op_names[] = {"__shfl_sync", "a vote",   "__reduce_sync", "__match_any_sync",
                                "__syncwarp",  "flrq_mma", "flrq_ldmatrix"};

/* Lanes that have arrived at one warp operation and wait for the others of its mask. */
struct Meeting {
    unsigned mask, arrived;
    Op op;
    int line;
};

/* A warp's operands and results, by lane. */
struct Warp {
    unsigned exited; /* lanes that have returned or do not exist */
    int n_meetings;
    Meeting meetings[LANES];
    uint64_t value[LANES], result[LANES];
    uint8_t source[LANES];
    alignas(32) uint32_t a[4][LANES], b[2][LANES]; /* mma fragments; ldmatrix: a is one row per lane as [lane][4] */
    alignas(32) float d[4][LANES];
    uint32_t row[LANES][4], quad[LANES][4];
};

/* A started asynchronous copy: what was read, to be stored by the wait that covers it. */
struct Copy {
    unsigned char *to;
    unsigned bytes, group;
    unsigned char data[16];
};

struct Thread : ThreadView {
    unsigned number, lane;
    Warp *warp;
    Fiber *fiber;   /* null: not started, or returned */
    const char *at; /* what it waits in, for messages */
    int line;
    unsigned group; /* number of committed copy groups */
    std::vector<Copy> copies;
};

struct Barrier {
    unsigned count, phase;
    const char *file;
    int line;
    Reduce kind;
    uint16_t waiting[MAX_THREADS];
    int result[2]; /* of the even and of the odd phases: no thread can be two phases ahead of another */
};

Thread threads[MAX_THREADS];
Warp warps[MAX_WARPS];
Barrier bar;
const Launch *launch_now;
unsigned n_threads, n_live;

/* Ready threads: a ring that no thread is in twice. */
uint16_t ready[2 * MAX_THREADS];
unsigned ready_head, ready_tail;

enum class Order { forward, reverse, random } order;
Random random_order(1);

Thread *current() {
    return static_cast<Thread *>(self);
}

void push_ready(unsigned number) {
    ready[ready_tail++ % (2 * MAX_THREADS)] = (uint16_t)number;
}

Thread *take_ready() {
    if (ready_head == ready_tail) return nullptr;
    uint16_t &first = ready[ready_head % (2 * MAX_THREADS)];
    if (order == Order::random)
        std::swap(first, ready[(ready_head + random_order.below(ready_tail - ready_head)) % (2 * MAX_THREADS)]);
    ready_head++;
    return &threads[first];
}

[[noreturn]] void deadlock() {
    std::string text = "deadlock, " + std::to_string(n_live) + " threads wait for each other:";
    int shown = 0;
    for (unsigned i = 0; i < n_threads && shown < 4; i++) {
        const Thread &t = threads[i], &p = threads[i ? i - 1 : 0];
        if (i && t.at == p.at && t.line == p.line) continue;
        text += " thread " + std::to_string(i) + "... " + (t.at ? t.at : "returned");
        if (t.at) text += " at line " + std::to_string(t.line);
        shown++;
    }
    fail("%s", text.c_str());
}

/* Continues with another ready thread; returns when this one is continued. */
void wait_here() {
    Thread *me = current(), *next = take_ready();
    if (!next) deadlock();
    if (next == me) return;
    self = next;
    fiber_switch(next->fiber ? next->fiber : fiber_take());
}

void returned(Thread *me) {
    if (!me->copies.empty()) fail("the kernel ended with flrq_cp_async copies that nothing waited for");
    if (bar.count) fail("thread returned while %u threads wait in __syncthreads at line %d", bar.count, bar.line);
    Warp &w = *me->warp;
    w.exited |= 1u << me->lane;
    for (int k = 0; k < w.n_meetings; k++)
        if (w.meetings[k].mask >> me->lane & 1)
            fail("thread returned while lanes %08x of its warp wait for it in %s at line %d", w.meetings[k].arrived,
                 op_names[w.meetings[k].op], w.meetings[k].line);
    me->fiber = nullptr;
    me->at = nullptr;
    n_live--;
}

/* Every fiber's life: run the thread that `self` names, then another. */
void run_threads() {
    fiber_entered();
    for (;;) {
        Thread *me = current();
        Fiber *here = running_fiber;
        me->fiber = here;
        launch_now->run(launch_now->call.get());
        returned(me);
        Thread *next = take_ready();
        if (!next && n_live) deadlock();
        self = next;
        if (next && !next->fiber) continue;
        fiber_give_back(here);
        fiber_switch(next ? next->fiber : fiber_host());
    }
}

void release_barrier() {
    if (n_live != n_threads)
        fail("__syncthreads at line %d after %u threads of the block have returned", bar.line, n_threads - n_live);
    for (unsigned i = 0; i < bar.count; i++) push_ready(bar.waiting[i]);
    bar.count = 0;
    bar.phase++;
}

/* Arrives at a warp operation. True: this lane is the last, it must compute the results and then call part(). False: it
 * has waited and the results are there. */
bool meet(Op op, unsigned mask, int line) {
    Thread *me = current();
    Warp &w = *me->warp;
    unsigned bit = 1u << me->lane;
    if (!(mask & bit)) fail("%s at line %d: lane %u is not in its own mask %08x", op_names[op], line, me->lane, mask);
    if (mask & w.exited)
        fail("%s at line %d: mask %08x names lanes %08x, which have returned or do not exist", op_names[op], line, mask,
             mask & w.exited);
    Meeting *m = nullptr;
    for (int k = 0; k < w.n_meetings; k++) {
        Meeting &other = w.meetings[k];
        if (other.mask == mask && other.op == op && other.line == line) {
            m = &other;
        } else if ((other.mask & bit) && (mask & other.arrived)) {
            fail("divergent warp: lane %u is in %s at line %d (mask %08x), lanes %08x wait for it in %s at line %d "
                 "(mask %08x)",
                 me->lane, op_names[op], line, mask, other.arrived, op_names[other.op], other.line, other.mask);
        }
    }
    if (!m) {
        m = &w.meetings[w.n_meetings++];
        *m = Meeting{mask, 0, op, line};
    }
    m->arrived |= bit;
    if (m->arrived == mask) {
        *m = w.meetings[--w.n_meetings];
        return true;
    }
    me->at = op_names[op];
    me->line = line;
    wait_here();
    return false;
}

/* The last lane lets the others go on. Outside the forward order they may overtake it. */
void part(unsigned mask) {
    Thread *me = current();
    unsigned first = me->number - me->lane;
    for (unsigned left = mask & ~(1u << me->lane); left; left &= left - 1)
        push_ready(first + (unsigned)__builtin_ctz(left));
    if (order != Order::forward) {
        push_ready(me->number);
        wait_here();
    }
}

/* One value per lane in, the same word for every lane of the mask out. */
template <class Compute> unsigned uniform(Op op, unsigned mask, uint64_t bits, int line, Compute compute) {
    Thread *me = current();
    Warp &w = *me->warp;
    w.value[me->lane] = bits;
    if (meet(op, mask, line)) {
        unsigned r = compute(w);
        for (unsigned left = mask; left; left &= left - 1) w.result[__builtin_ctz(left)] = r;
        part(mask);
    }
    return (unsigned)w.result[me->lane];
}

/* Eight 16-bit elements as floats. */
__m256 widen(const uint32_t *words, bool bf16) {
    __m128i v = _mm_loadu_si128(reinterpret_cast<const __m128i *>(words));
    if (!bf16) return _mm256_cvtph_ps(v);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(v), 16));
}

/* PTX fragment layout, with lane = 4 * row + quad: word r of `a` holds A[row + 8 * (r % 2)][2 * quad + 8 * (r / 2)
 * ..+1], word r of `b` holds B[2 * quad + 8 * r ..+1][row], and d[r] is D[row + 8 * (r / 2)][2 * quad + r % 2]. So four
 * lanes' words of one register are eight consecutive elements of a row of A or of a column of B. */
void multiply(Warp &w, bool bf16) {
    alignas(32) float a[16][16], columns[8][16], b[16][8], d[16][8];
    for (int row = 0; row < 8; row++) {
        for (int r = 0; r < 4; r++) _mm256_store_ps(&a[row + 8 * (r % 2)][8 * (r / 2)], widen(&w.a[r][4 * row], bf16));
        for (int r = 0; r < 2; r++) _mm256_store_ps(&columns[row][8 * r], widen(&w.b[r][4 * row], bf16));
        for (int quad = 0; quad < 4; quad++)
            for (int r = 0; r < 4; r++) d[row + 8 * (r / 2)][2 * quad + r % 2] = w.d[r][4 * row + quad];
    }
    for (int k = 0; k < 16; k++)
        for (int n = 0; n < 8; n++) b[k][n] = columns[n][k];
    for (int row = 0; row < 16; row++) {
        __m256 sum = _mm256_load_ps(d[row]);
        for (int k = 0; k < 16; k++) sum = _mm256_fmadd_ps(_mm256_set1_ps(a[row][k]), _mm256_load_ps(b[k]), sum);
        _mm256_store_ps(d[row], sum);
    }
    for (int lane = 0; lane < 32; lane++)
        for (int r = 0; r < 4; r++) w.d[r][lane] = d[lane / 4 + 8 * (r / 2)][2 * (lane % 4) + r % 2];
}

/* Lane l of the result has, of each matrix, elements 2 * (l % 4) and the next of row l / 4; transposed: of column l
 * / 4. */
void distribute(Warp &w, bool transposed) {
    for (int lane = 0; lane < 32; lane++) {
        int row = lane / 4, pair = lane % 4;
        for (int m = 0; m < 4; m++) {
            if (!transposed) {
                w.quad[lane][m] = w.row[8 * m + row][pair];
            } else {
                uint16_t low, high;
                memcpy(&low, reinterpret_cast<unsigned char *>(w.row[8 * m + 2 * pair]) + 2 * row, 2);
                memcpy(&high, reinterpret_cast<unsigned char *>(w.row[8 * m + 2 * pair + 1]) + 2 * row, 2);
                w.quad[lane][m] = (uint32_t)high << 16 | low;
            }
        }
    }
}

/* FLRQ_CUDASIM_ORDER = forward | reverse | random | random:SEED. */
void read_order() {
    const char *text = getenv("FLRQ_CUDASIM_ORDER");
    if (!text || !*text || !strcmp(text, "forward")) return;
    if (!strcmp(text, "reverse")) {
        order = Order::reverse;
    } else if (!strncmp(text, "random", 6) && (!text[6] || text[6] == ':')) {
        order = Order::random;
        if (text[6]) random_order = Random(strtoull(text + 7, nullptr, 10));
    } else {
        fail("FLRQ_CUDASIM_ORDER=%s: want forward, reverse, random or random:SEED", text);
    }
}

void run_block() {
    shared_fill();
    for (unsigned w = 0; w * LANES < n_threads; w++) {
        unsigned lanes = n_threads - w * LANES;
        warps[w].exited = lanes >= LANES ? 0 : FULL << lanes;
        warps[w].n_meetings = 0;
    }
    bar.count = 0;
    ready_head = 0;
    ready_tail = n_threads;
    for (unsigned i = 0; i < n_threads; i++) ready[i] = (uint16_t)(order == Order::reverse ? n_threads - 1 - i : i);
    n_live = n_threads;
    self = take_ready();
    fiber_switch(fiber_take());
    self = nullptr;
    shared_check();
}

} // namespace

void run_grid(const Launch &launch) {
    static std::once_flag once;
    std::call_once(once, read_order);
    launch_now = &launch;
    block_size = launch.block;
    grid_size = launch.grid;
    dynamic_shared = shared_begin(launch.dynamic_smem);
    n_threads = launch.block.x * launch.block.y * launch.block.z;
    for (unsigned i = 0; i < n_threads; i++) {
        Thread &t = threads[i];
        t.index = uint3{i % block_size.x, i / block_size.x % block_size.y, i / block_size.x / block_size.y};
        t.number = i;
        t.lane = i % LANES;
        t.warp = &warps[i / LANES];
    }
    fibers_begin(run_threads);
    uint64_t blocks = (uint64_t)grid_size.x * grid_size.y * grid_size.z, step = 1, at = 0;
    if (order == Order::reverse) {
        step = at = blocks - 1;
    } else if (order == Order::random && blocks > 1) { /* a stride prime to the number visits every block once */
        do step = 1 + random_order.next() % blocks;
        while (std::gcd(step, blocks) != 1);
        at = random_order.next() % blocks;
    }
    for (uint64_t done = 0; done < blocks; done++, at = (at + step) % blocks) {
        block_index = uint3{(unsigned)(at % grid_size.x), (unsigned)(at / grid_size.x % grid_size.y),
                            (unsigned)(at / grid_size.x / grid_size.y)};
        run_block();
    }
    launch_now = nullptr;
}

const char *running_kernel() {
    return launch_now ? launch_now->name : nullptr;
}

const char *guard_name(const void *address) {
    if (shared_is_guard(address)) return "out of bounds: access beside the block's dynamic shared memory";
    if (fiber_is_guard(address)) return "stack overflow in a thread";
    return nullptr;
}

std::string running_thread() {
    if (!launch_now || !self) return "";
    char text[512];
    snprintf(text, sizeof text, "kernel %s, block (%u,%u,%u), thread (%u,%u,%u): ", launch_now->name, block_index.x,
             block_index.y, block_index.z, self->index.x, self->index.y, self->index.z);
    return text;
}

/* --- the device language --- */

int barrier(Reduce kind, int predicate, const char *file, int line) {
    Thread *me = current();
    unsigned slot = bar.phase & 1;
    if (!bar.count) {
        bar.file = file;
        bar.line = line;
        bar.kind = kind;
        bar.result[slot] = kind == Reduce::all;
    } else if (bar.line != line || bar.kind != kind || (bar.file != file && strcmp(bar.file, file))) {
        fail("divergent __syncthreads: this thread is at %s:%d, %u others wait at %s:%d", file, line, bar.count,
             bar.file, bar.line);
    }
    int &r = bar.result[slot];
    if (kind == Reduce::any) r |= predicate != 0;
    if (kind == Reduce::all) r &= predicate != 0;
    if (kind == Reduce::count) r += predicate != 0;
    me->at = "__syncthreads";
    me->line = line;
    bar.waiting[bar.count++] = (uint16_t)me->number;
    if (bar.count == n_live) release_barrier();
    wait_here();
    return bar.result[slot];
}

uint64_t shuffle(Shuffle kind, unsigned mask, uint64_t bits, int arg, int width, int line) {
    Thread *me = current();
    Warp &w = *me->warp;
    int lane = (int)me->lane, first = lane & ~(width - 1), last = first + width - 1, from = lane;
    if (width < 1 || width > 32 || (width & (width - 1))) fail("__shfl_sync at line %d: width %d", line, width);
    switch (kind) {
    case Shuffle::up:
        from = lane - arg < first ? lane : lane - arg;
        break;
    case Shuffle::down:
        from = lane + arg > last ? lane : lane + arg;
        break;
    case Shuffle::butterfly:
        from = (lane ^ arg) > last ? lane : lane ^ arg;
        break;
    case Shuffle::index:
        from = first + (arg & (width - 1));
        break;
    }
    if (!(mask >> from & 1))
        fail("__shfl_sync at line %d: lane %d reads lane %d, which is not in mask %08x", line, lane, from, mask);
    w.value[lane] = bits;
    w.source[lane] = (uint8_t)from;
    if (meet(OP_SHUFFLE, mask, line)) {
        if (mask == FULL)
            for (unsigned l = 0; l < LANES; l++) w.result[l] = w.value[w.source[l]];
        else
            for (unsigned left = mask; left; left &= left - 1) {
                int l = __builtin_ctz(left);
                w.result[l] = w.value[w.source[l]];
            }
        part(mask);
    }
    return w.result[lane];
}

unsigned ballot(unsigned mask, int predicate, int line) {
    return uniform(OP_BALLOT, mask, predicate != 0, line, [mask](const Warp &w) {
        unsigned r = 0;
        for (unsigned left = mask; left; left &= left - 1)
            r |= (unsigned)w.value[__builtin_ctz(left)] << __builtin_ctz(left);
        return r;
    });
}

unsigned fold(Fold kind, unsigned mask, unsigned value, int line) {
    return uniform(OP_FOLD, mask, value, line, [mask, kind](const Warp &w) {
        unsigned r = (unsigned)w.value[__builtin_ctz(mask)];
        for (unsigned left = mask & (mask - 1); left; left &= left - 1) {
            unsigned v = (unsigned)w.value[__builtin_ctz(left)];
            switch (kind) {
            case Fold::max_signed:
                r = (unsigned)std::max((int)r, (int)v);
                break;
            case Fold::min_signed:
                r = (unsigned)std::min((int)r, (int)v);
                break;
            case Fold::max_unsigned:
                r = std::max(r, v);
                break;
            case Fold::min_unsigned:
                r = std::min(r, v);
                break;
            case Fold::add:
                r += v;
                break;
            case Fold::bit_and:
                r &= v;
                break;
            case Fold::bit_or:
                r |= v;
                break;
            case Fold::bit_xor:
                r ^= v;
                break;
            }
        }
        return r;
    });
}

unsigned match_any(unsigned mask, uint64_t bits, int line) {
    Thread *me = current();
    Warp &w = *me->warp;
    w.value[me->lane] = bits;
    if (meet(OP_MATCH, mask, line)) {
        for (unsigned l = 0; l < LANES; l++) {
            unsigned r = 0;
            for (unsigned left = mask; left; left &= left - 1)
                if (w.value[__builtin_ctz(left)] == w.value[l]) r |= left & -left;
            if (mask >> l & 1) w.result[l] = r;
        }
        part(mask);
    }
    return (unsigned)w.result[me->lane];
}

void warp_barrier(unsigned mask, int line) {
    if (meet(OP_SYNCWARP, mask, line)) part(mask);
}

void mma_16816(bool bf16, float d[4], const uint32_t a[4], const uint32_t b[2], int line) {
    Thread *me = current();
    Warp &w = *me->warp;
    unsigned lane = me->lane;
    for (int r = 0; r < 4; r++) {
        w.a[r][lane] = a[r];
        w.d[r][lane] = d[r];
    }
    w.b[0][lane] = b[0];
    w.b[1][lane] = b[1];
    if (meet(OP_MMA, FULL, line)) {
        multiply(w, bf16);
        part(FULL);
    }
    for (int r = 0; r < 4; r++) d[r] = w.d[r][lane];
}

void ldmatrix_x4(uint32_t r[4], const void *row, bool transposed, int line) {
    Thread *me = current();
    Warp &w = *me->warp;
    if ((uintptr_t)row % 16) fail("flrq_ldmatrix at line %d: address %p is not 16-byte aligned", line, row);
    if (in_arena(row)) fail("flrq_ldmatrix at line %d: address %p is global, not shared memory", line, row);
    memcpy(w.row[me->lane], row, 16);
    if (meet(OP_LDMATRIX, FULL, line)) {
        distribute(w, transposed);
        part(FULL);
    }
    memcpy(r, w.quad[me->lane], 16);
}

void copy_async(void *shared, const void *global, unsigned bytes) {
    Thread *me = current();
    if (((uintptr_t)shared | (uintptr_t)global) % bytes)
        fail("flrq_cp_async: addresses %p, %p are not %u-byte aligned", shared, global, bytes);
    if (in_arena(shared)) fail("flrq_cp_async: destination %p is global, not shared memory", shared);
    if (!in_arena(global)) fail("flrq_cp_async: source %p is not global memory", global);
    Copy c{static_cast<unsigned char *>(shared), bytes, me->group, {}};
    memcpy(c.data, global, bytes);
    memset(shared, 0xff, bytes);
    me->copies.push_back(c);
}

void copy_commit() {
    current()->group++;
}

void copy_wait(unsigned groups_left) {
    Thread *me = current();
    size_t done = 0;
    while (done < me->copies.size() && me->copies[done].group + groups_left < me->group) {
        memcpy(me->copies[done].to, me->copies[done].data, me->copies[done].bytes);
        done++;
    }
    me->copies.erase(me->copies.begin(), me->copies.begin() + (ptrdiff_t)done);
}

void device_trap(const char *what, const char *file, int line) {
    fail("%s at %s:%d", what, file, line);
}

} // namespace cudasim
