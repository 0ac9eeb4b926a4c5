/* test_nccl.cu - the simulator's NCCL: the right bytes between threads and between processes; different calls, dead
 * workers and misuse are found. Cases that abort run in processes of their own, whose standard error is read. */
#include "check.h"
#include "nccl.h"

#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr int DEVICES = 8;

#define MUST(call)                                                                                                     \
    do {                                                                                                               \
        int result_ = (int)(call);                                                                                     \
        if (result_) {                                                                                                 \
            printf("%s:%d: %s: %d\n", __FILE__, __LINE__, #call, result_);                                             \
            fflush(stdout);                                                                                            \
            _exit(3);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* Until the communicator has taken what was called. */
ncclResult_t settle(ncclComm_t comm, ncclResult_t result) {
    while (result == ncclInProgress) {
        usleep(20);
        MUST(ncclCommGetAsyncError(comm, &result));
    }
    return result;
}

ncclComm_t join(const ncclUniqueId &id, int rank, int size, int blocking) {
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = blocking;
    MUST(cudaSetDevice(rank % DEVICES));
    MUST(settle(comm, ncclCommInitRankConfig(&comm, size, id, rank, &config)));
    return comm;
}

void leave(ncclComm_t comm) {
    MUST(settle(comm, ncclCommFinalize(comm)));
    MUST(ncclCommDestroy(comm));
}

/* Byte i of what worker r gives in round n. */
unsigned char byte_of(int r, int n, size_t i) {
    return (unsigned char)(r * 37 + n * 101 + (int)(i % 251) + (int)(i / 65536));
}

struct Memory {
    unsigned char *d;
    size_t bytes;
    explicit Memory(size_t bytes) : d(nullptr), bytes(bytes) { MUST(cudaMalloc(&d, bytes + 1)); }
    ~Memory() { MUST(cudaFree(d)); }
    void set(size_t at, int r, int n, size_t count, cudaStream_t stream) {
        std::vector<unsigned char> host(count + 1);
        for (size_t i = 0; i < count; i++) host[i] = byte_of(r, n, i);
        if (count) MUST(cudaMemcpyAsync(d + at, host.data(), count, cudaMemcpyHostToDevice, stream));
    }
    void compare(size_t at, int r, int n, size_t count, cudaStream_t stream, const char *what) {
        std::vector<unsigned char> host(count + 1);
        if (count) MUST(cudaMemcpyAsync(host.data(), d + at, count, cudaMemcpyDeviceToHost, stream));
        size_t wrong = 0;
        for (size_t i = 0; i < count; i++) wrong += host[i] != byte_of(r, n, i);
        CHECK(wrong == 0, "%s: %zu of %zu bytes of worker %d differ in round %d", what, wrong, count, r, n);
    }
};

void gather(ncclComm_t comm, int rank, int size, size_t count, int round, bool in_place, cudaStream_t stream) {
    Memory all(count * (size_t)size), part(count);
    unsigned char *own = in_place ? all.d + (size_t)rank * count : part.d;
    (in_place ? all : part).set(in_place ? (size_t)rank * count : 0, rank, round, count, stream);
    MUST(settle(comm, ncclAllGather(own, all.d, count, ncclInt8, comm, stream)));
    for (int r = 0; r < size; r++) all.compare((size_t)r * count, r, round, count, stream, "AllGather");
}

/* Parts of different sizes, some empty, as one group. */
void broadcasts(ncclComm_t comm, int rank, int size, int round, cudaStream_t stream) {
    std::vector<size_t> first(1);
    for (int r = 0; r < size; r++) first.push_back(first.back() + (size_t)(r % 3 ? r * 12345 : 0));
    Memory all(first.back());
    auto count = [&](int r) { return first[(size_t)r + 1] - first[(size_t)r]; };
    all.set(first[(size_t)rank], rank, round, count(rank), stream);
    MUST(ncclGroupStart());
    for (int r = 0; r < size; r++)
        if (count(r)) {
            unsigned char *at = all.d + first[(size_t)r];
            ncclResult_t result = ncclBroadcast(at, at, count(r), ncclUint8, r, comm, stream);
            CHECK(result == ncclSuccess, "%d", (int)result);
        }
    MUST(settle(comm, ncclGroupEnd()));
    for (int r = 0; r < size; r++) all.compare(first[(size_t)r], r, round, count(r), stream, "Broadcast");
}

/* To the next worker, two pieces of different sizes, and one to itself. */
void pieces(ncclComm_t comm, int rank, int size, int round, cudaStream_t stream) {
    constexpr size_t A = 700000, B = 33, C = 4096;
    int next = (rank + 1) % size, before = (rank + size - 1) % size;
    Memory from(A + B + C), to(A + B + C);
    from.set(0, rank, round, A, stream), from.set(A, rank, round + 1, B, stream);
    from.set(A + B, rank, round + 2, C, stream);
    MUST(ncclGroupStart());
    MUST(ncclRecv(to.d, A, ncclInt8, before, comm, stream));
    MUST(ncclRecv(to.d + A, B, ncclInt8, before, comm, stream));
    MUST(ncclSend(from.d, A, ncclInt8, next, comm, stream));
    MUST(ncclSend(from.d + A, B, ncclInt8, next, comm, stream));
    MUST(ncclSend(from.d + A + B, C, ncclInt8, rank, comm, stream));
    MUST(ncclRecv(to.d + A + B, C, ncclInt8, rank, comm, stream));
    MUST(settle(comm, ncclGroupEnd()));
    to.compare(0, before, round, A, stream, "Recv"), to.compare(A, before, round + 1, B, stream, "Recv");
    to.compare(A + B, rank, round + 2, C, stream, "Recv of its own");
}

/* Two streams: the gather on the second starts when the first has written and is read after an event. */
void beside(ncclComm_t comm, int rank, int size, int round) {
    constexpr size_t COUNT = 100000;
    cudaStream_t ops, link;
    cudaEvent_t written, arrived;
    MUST(cudaStreamCreateWithFlags(&ops, cudaStreamNonBlocking));
    MUST(cudaStreamCreateWithFlags(&link, cudaStreamNonBlocking));
    MUST(cudaEventCreateWithFlags(&written, cudaEventDisableTiming));
    MUST(cudaEventCreateWithFlags(&arrived, cudaEventDisableTiming));
    {
        Memory all(COUNT * (size_t)size), second(COUNT * (size_t)size);
        all.set((size_t)rank * COUNT, rank, round, COUNT, ops);
        second.set((size_t)rank * COUNT, rank, round + 1, COUNT, ops);
        MUST(cudaEventRecord(written, ops));
        MUST(cudaStreamWaitEvent(link, written, 0));
        MUST(settle(comm, ncclAllGather(all.d + (size_t)rank * COUNT, all.d, COUNT, ncclInt8, comm, link)));
        MUST(settle(comm, ncclAllGather(second.d + (size_t)rank * COUNT, second.d, COUNT, ncclInt8, comm, ops)));
        for (int r = 0; r < size; r++) second.compare((size_t)r * COUNT, r, round + 1, COUNT, ops, "on the first");
        MUST(cudaEventRecord(arrived, link));
        MUST(cudaStreamWaitEvent(ops, arrived, 0));
        for (int r = 0; r < size; r++) all.compare((size_t)r * COUNT, r, round, COUNT, ops, "beside");
    }
    MUST(cudaEventDestroy(written));
    MUST(cudaEventDestroy(arrived));
    MUST(cudaStreamDestroy(ops));
    MUST(cudaStreamDestroy(link));
}

void worker(const ncclUniqueId &id, int rank, int size, int blocking) {
    ncclComm_t comm = join(id, rank, size, blocking);
    const size_t counts[] = {0, 1, 4097, 1500000};
    for (int i = 0; i < 4; i++) gather(comm, rank, size, counts[i], i, i % 2, nullptr);
    broadcasts(comm, rank, size, 10, nullptr);
    pieces(comm, rank, size, 20, nullptr);
    beside(comm, rank, size, 30);
    broadcasts(comm, rank, size, 40, nullptr);
    leave(comm);
}

void between_threads() {
    for (int size : {1, 2, 3, 8}) {
        ncclUniqueId id;
        MUST(ncclGetUniqueId(&id));
        std::vector<std::thread> threads;
        for (int r = 0; r < size; r++) threads.emplace_back([=] { worker(id, r, size, size % 2); });
        for (auto &t : threads) t.join();
    }
    CHECK(cudasim_live_objects() == 0, "%ld objects are left", cudasim_live_objects());
}

/* ---- processes --------------------------------------------------------------------------------------------------- */

struct Ended {
    int status;
    std::string text; /* of standard error */
};

/* Runs body(rank) in `size` processes of their own. */
std::vector<Ended> fork_all(int size, const std::function<void(int)> &body) {
    std::vector<Ended> ended((size_t)size);
    std::vector<pid_t> pids;
    std::vector<int> pipes;
    fflush(stdout);
    for (int r = 0; r < size; r++) {
        int ends[2];
        MUST(pipe(ends));
        pid_t pid = fork();
        if (pid == 0) {
            dup2(ends[1], 2);
            close(ends[0]), close(ends[1]);
            body(r);
            fflush(stdout);
            exit(check_failures != 0);
        }
        close(ends[1]);
        pids.push_back(pid), pipes.push_back(ends[0]);
    }
    for (size_t r = 0; r < pids.size(); r++) {
        char text[512];
        for (ssize_t n; (n = read(pipes[r], text, sizeof text)) > 0;) ended[r].text.append(text, (size_t)n);
        close(pipes[r]);
        waitpid(pids[r], &ended[r].status, 0);
    }
    return ended;
}

/* One id for processes that are not born yet: the parent must not have used the simulator. */
ncclUniqueId fresh_id() {
    static int number;
    ncclUniqueId id;
    memset(&id, 0, sizeof id);
    snprintf(id.internal, sizeof id.internal, "/flrq-cudasim-%d-test%d", (int)getpid(), number++);
    return id;
}

void between_processes() {
    for (int size : {2, 3}) {
        ncclUniqueId id = fresh_id();
        auto ended = fork_all(size, [=](int r) { worker(id, r, size, 0); });
        for (auto &e : ended) CHECK(e.status == 0, "status %x: %s", (unsigned)e.status, e.text.c_str());
        CHECK(shm_open(id.internal, O_RDWR, 0600) < 0, "the shared memory has kept its name");
    }
}

/* Both workers wait a while, so that a report of one does not depend on the end of the other. */
void finds(const char *what, const std::function<void(ncclComm_t, int)> &body) {
    ncclUniqueId id = fresh_id();
    auto ended = fork_all(2, [&](int r) {
        ncclComm_t comm = join(id, r, 2, 1);
        body(comm, r);
        cudaDeviceSynchronize();
        _exit(0);
    });
    bool found = false;
    for (auto &e : ended) found |= WIFSIGNALED(e.status) && strstr(e.text.c_str(), what);
    CHECK(found, "not found: %s; said: %s%s", what, ended[0].text.c_str(), ended[1].text.c_str());
}

unsigned char *memory(size_t bytes) {
    unsigned char *d;
    MUST(cudaMalloc(&d, bytes));
    return d;
}

void misuse() {
    setenv("FLRQ_CUDASIM_NCCL_SECONDS", "2", 1);
    finds("collective call 0 is AllGather of 100 bytes on rank", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        ncclAllGather(d + 100 * r, d, r ? 100 : 96, ncclInt8, comm, nullptr);
    });
    finds("Broadcast of 10 bytes from 1 on rank", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        ncclBroadcast(d, d, 10, ncclInt8, 1 - r, comm, nullptr);
    });
    finds("Broadcast of 10 bytes from 0 and 1 more on rank", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        ncclGroupStart();
        ncclBroadcast(d, d, 10, ncclInt8, 0, comm, nullptr);
        if (r) ncclBroadcast(d, d, 10, ncclInt8, 1, comm, nullptr);
        ncclGroupEnd();
    });
    finds("wants a piece of 16 bytes from rank 1 (call 0), which sends a piece of 8 bytes", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        if (r) ncclSend(d, 8, ncclInt8, 0, comm, nullptr);
        if (!r) ncclRecv(d, 16, ncclInt8, 1, comm, nullptr);
        cudaDeviceSynchronize();
        sleep(1);
    });
    finds("leaves with 32 bytes from rank 1 that it has not received", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        if (r) ncclSend(d, 8, ncclInt8, 0, comm, nullptr);
        cudaDeviceSynchronize();
        sleep(1);
        if (!r) ncclCommDestroy(comm);
    });
    finds("rank 1 has left after 0", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        if (r) ncclCommDestroy(comm);
        if (!r) ncclAllGather(d, d, 8, ncclInt8, comm, nullptr);
    });
    finds("waits for 8 bytes from rank 1, which has left", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        if (r) ncclCommDestroy(comm);
        if (!r) ncclRecv(d, 8, ncclInt8, 1, comm, nullptr);
    });
    finds("has waited 2 s in operation 0", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(1000);
        if (!r) ncclRecv(d, 8, ncclInt8, 1, comm, nullptr);
        if (r) sleep(5);
    });
    finds("which overlaps what it receives", [](ncclComm_t comm, int) {
        unsigned char *d = memory(1000);
        ncclAllGather(d + 50, d, 100, ncclInt8, comm, nullptr);
    });
    finds("its allocation of 100 bytes", [](ncclComm_t comm, int r) {
        unsigned char *d = memory(100);
        ncclAllGather(d + 100 * r, d, 100, ncclInt8, comm, nullptr);
    });
    finds("host memory, not device memory", [](ncclComm_t comm, int) {
        static unsigned char host[100];
        ncclBroadcast(host, host, 100, ncclInt8, 0, comm, nullptr);
    });
    finds("is on device 5, the communicator on", [](ncclComm_t comm, int) {
        MUST(cudaSetDevice(5));
        unsigned char *d = memory(100);
        cudaStream_t mine;
        MUST(cudaSetDevice(0));
        MUST(cudaStreamCreate(&mine));
        ncclBroadcast(d, d, 100, ncclInt8, 0, comm, mine);
    });
}

/* A call that nobody asked about has not been accepted. */
void unasked() {
    ncclUniqueId id = fresh_id();
    auto ended = fork_all(1, [&](int r) {
        ncclComm_t comm = join(id, r, 1, 0);
        unsigned char *d = memory(100);
        for (int i = 0; i < 100; i++) ncclBroadcast(d, d, 100, ncclInt8, 0, comm, nullptr);
        _exit(0);
    });
    CHECK(strstr(ended[0].text.c_str(), "still busy with the call before"), "%s", ended[0].text.c_str());
}

void killed() {
    for (int when = 0; when < 3; when++) {
        ncclUniqueId id = fresh_id();
        auto ended = fork_all(3, [=](int r) {
            ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
            config.blocking = 0;
            if (r == 1 && when == 0) { /* dies with one missing */
                ncclComm_t comm;
                MUST(cudaSetDevice(1));
                ncclResult_t busy = ncclCommInitRankConfig(&comm, 3, id, 1, &config);
                for (int i = 0; i < 100 && busy == ncclInProgress;
                     i++, usleep(1000)) /* so that it is seen to be there */
                    MUST(ncclCommGetAsyncError(comm, &busy));
                kill(getpid(), SIGKILL);
            }
            if (r == 2 && when == 0) _exit(0); /* never comes */
            ncclComm_t comm;
            MUST(cudaSetDevice(r));
            ncclResult_t result = settle(comm, ncclCommInitRankConfig(&comm, 3, id, r, &config));
            unsigned char *d = nullptr;
            if (when && (result == ncclSuccess || r == 1)) { /* else it was dead before this worker had joined */
                CHECK(result == ncclSuccess, "%d", (int)result);
                d = memory(300000);
                if (r == 1 && when == 1) kill(getpid(), SIGKILL); /* before its call */
                result = settle(comm, ncclAllGather(d + 100000 * r, d, 100000, ncclInt8, comm, nullptr));
                if (r == 1) kill(getpid(), SIGKILL); /* after it, before its stream has run */
                while (cudaStreamQuery(nullptr) == cudaErrorNotReady && result == ncclSuccess)
                    MUST(ncclCommGetAsyncError(comm, &result));
            }
            CHECK(result == ncclRemoteError, "rank %d, case %d: %d", r, when, (int)result);
            CHECK(strstr(ncclGetLastError(comm), "rank 1") || when > 0, "%s", ncclGetLastError(comm));
            MUST(ncclCommAbort(comm));
            MUST(cudaFree(d)); /* ends: the operation does not wait any more */
        });
        for (size_t r = 0; r < 3; r += 2)
            CHECK(ended[r].status == 0, "rank %zu, case %d: status %x: %s", r, when, (unsigned)ended[r].status,
                  ended[r].text.c_str());
    }
}

void refusals() {
    ncclUniqueId id;
    ncclComm_t comm;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    MUST(ncclGetUniqueId(&id));
    CHECK(ncclCommInitRankConfig(&comm, 2, id, 2, &config) == ncclInvalidArgument && !comm, "rank 2 of 2");
    memset(&id, 'x', sizeof id);
    CHECK(ncclCommInitRankConfig(&comm, 1, id, 0, &config) == ncclInvalidArgument && !comm, "an id of nobody");
    CHECK(ncclGroupEnd() == ncclInvalidUsage, "no group");
    MUST(ncclGetUniqueId(&id));
    /* Every call that can fail does when told to, and nothing stays behind. */
    for (long n = 1;; n++) {
        cudasim_fail_at(n, CUDASIM_LIB);
        unsigned char *d = nullptr;
        ncclResult_t result = ncclGetUniqueId(&id);
        if (result == ncclSuccess) result = ncclCommInitRankConfig(&comm, 1, id, 0, &config);
        if (result == ncclSuccess) {
            MUST(cudaMalloc(&d, 100));
            result = ncclGroupStart();
            if (result == ncclSuccess) {
                result = ncclBroadcast(d, d, 100, ncclInt8, 0, comm, nullptr);
                ncclResult_t end = ncclGroupEnd();
                if (result == ncclSuccess) result = end;
            }
            ncclCommAbort(comm);
        }
        MUST(cudaFree(d));
        if (result == ncclSuccess) {
            CHECK(n == 6, "%ld calls", n);
            break;
        }
        CHECK(result == ncclSystemError, "call %ld: %d", n, (int)result);
    }
    cudasim_fail_at(0, 0);
    CHECK(cudasim_live_objects() == 0, "%ld objects are left", cudasim_live_objects());
}

} // namespace

int main() {
    setenv("FLRQ_CUDASIM_DEVICES", "8", 1);
    setenv("FLRQ_CUDASIM_MEMORY", "67108864", 1);
    between_processes();
    killed();
    misuse();
    unasked();
    between_threads();
    refusals();
    return check_done("nccl");
}
