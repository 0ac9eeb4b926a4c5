/*
 * nccl.cpp - NCCL on simulated devices: communicators of threads and of processes on one host.
 *
 * A call is an operation of its stream: it moves bytes when the stream runs, and again later when another worker has
 * not come so far (enqueue_trials). Operations of one communicator run in the order of the calls, whatever their
 * streams. What a device would answer with a hang or with wrong bytes is reported: workers whose calls differ in kind,
 * order or size, buffers that overlap or lie on another device, a call before the one before it has been accepted. As
 * with the real one, a worker that dies is an error that ncclCommGetAsyncError finds, and the operations that wait for
 * it end with ncclCommAbort and not before.
 *
 * With blocking = 0 a call often answers ncclInProgress and is put on its stream by the ncclCommGetAsyncError that
 * reports it accepted, so that a caller who does not ask finds out.
 */
#include "internal.h"
#include "nccl.h"
#include "wire.h"

#include <stdarg.h>
#include <stdio.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

using namespace cudasim;

namespace {

constexpr char ID_PREFIX[] = "/flrq-cudasim-";
enum Kind : uint32_t { ALL_GATHER = 1, BROADCAST, PIECE };

/* Before the bytes of every transfer. */
struct Message {
    uint32_t kind, root;
    uint64_t call, bytes;
};

/* What a communicator and its queued operations share. */
struct Core {
    Wire wire;
    int rank, size, device;
    std::atomic<bool> aborted{false};
    uint64_t issued = 0;               /* operations put on a stream */
    std::atomic<uint64_t> executed{0}; /* of them */
    uint64_t collectives = 0;          /* calls so far that all workers make */
    Core(const std::string &name, int rank, int size, int device)
        : wire(name, rank, size), rank(rank), size(size), device(device) {}
};

/* The user's view of one call. */
struct Call {
    Kind kind;
    const void *send;
    void *receive;
    size_t bytes;
    int peer; /* root, or the other worker; of a piece: send or receive is null */
};

struct Transfer {
    Message message;
    size_t head_done, done;
    unsigned char *data;
};

/* A worker's own part, where it is not in place. */
struct Copy {
    void *to;
    const void *from;
    size_t bytes;
};

/* The calls of one group on one communicator. */
struct Operation {
    std::shared_ptr<Core> core;
    cudaStream_t stream;
    std::vector<Call> calls;
    uint64_t number, collective; /* in the order of operations; of collective operations */
    bool is_collective, posted, met;
    Sign sign;
    std::vector<std::deque<Transfer>> out, in; /* by worker */
    std::vector<Copy> own;
    time_t waiting_since;
    bool trial();
    bool meet();
    bool move();
    void expect(int from, const Transfer &t, const Message &got) const;
    bool hold(const char *what, int peer);
};

enum class State { joining, ready, finalizing, finalized };

} // namespace

struct ncclComm {
    std::shared_ptr<Core> core;
    State state;
    bool blocking;
    ncclResult_t error; /* of the communicator: stays */
    std::shared_ptr<Operation> pending;
    Random dice;
    std::string text;
    double looked; /* when the others were last looked after */
};

namespace {

thread_local int group_depth;
thread_local std::vector<std::pair<ncclComm_t, std::shared_ptr<Operation>>> group;
thread_local std::string thread_text;

double seconds() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

ncclResult_t refuse(ncclComm_t comm, ncclResult_t result, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
ncclResult_t refuse(ncclComm_t comm, ncclResult_t result, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    (comm ? comm->text : thread_text) = text;
    return result;
}

/* The beginning of every call that can fail. */
ncclResult_t begin(ncclComm_t comm) {
    device_count();
    if (device_fault() != cudaSuccess) return refuse(comm, ncclUnhandledCudaError, "the device has failed");
    if (injected(CUDASIM_LIB)) return refuse(comm, ncclSystemError, "failure injected");
    return ncclSuccess;
}

size_t size_of(ncclDataType_t type) {
    static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2};
    if ((int)type < 0 || (size_t)type >= sizeof sizes / sizeof *sizes) fail("NCCL: data type %d", (int)type);
    return sizes[type];
}

std::string describe(const Call &c) {
    char text[80];
    snprintf(text, sizeof text, c.kind == ALL_GATHER ? "AllGather of %zu bytes" : "Broadcast of %zu bytes from %d",
             c.bytes, c.peer);
    return text;
}

/* ---- operations -------------------------------------------------------------------------------------------------- */

/* Not yet. Reports a wait that no program means. */
bool Operation::hold(const char *what, int peer) {
    static const long limit = env_number("FLRQ_CUDASIM_NCCL_SECONDS", 600, 1, 1000000);
    time_t now = time(nullptr);
    if (!waiting_since) waiting_since = now;
    if (now - waiting_since > limit)
        fail("NCCL: rank %d has waited %ld s in operation %llu for %s rank %d, which has made %llu collective calls",
             core->rank, limit, (unsigned long long)number, what, peer, (unsigned long long)core->wire.calls(peer));
    return false;
}

/* Meets all others in a collective call and compares. */
bool Operation::meet() {
    Wire &wire = core->wire;
    if (!posted) wire.post(collective, sign);
    posted = true;
    for (int r = 0; r < core->size; r++) {
        const Sign *other = wire.posted(r, collective);
        if (!other && wire.place(r) == Wire::left)
            fail("NCCL: rank %d is in collective call %llu (%s), rank %d has left after %llu", core->rank,
                 (unsigned long long)collective, sign.text, r, (unsigned long long)wire.calls(r));
        if (!other) return hold("a collective call of", r);
        if (other->hash != sign.hash)
            fail("NCCL: collective call %llu is %s on rank %d and %s on rank %d", (unsigned long long)collective,
                 sign.text, core->rank, other->text, r);
    }
    return met = true;
}

void Operation::expect(int from, const Transfer &t, const Message &got) const {
    const Message &want = t.message;
    if (got.kind == want.kind && got.bytes == want.bytes && got.call == want.call && got.root == want.root) return;
    fail("NCCL: rank %d wants %s of %llu bytes from rank %d (call %llu), which sends %s of %llu bytes (call %llu)",
         core->rank, want.kind == PIECE ? "a piece" : "a part", (unsigned long long)want.bytes, from,
         (unsigned long long)want.call, got.kind == PIECE ? "a piece" : "a part", (unsigned long long)got.bytes,
         (unsigned long long)got.call);
}

/* Moves what can be moved; true: all is. */
bool Operation::move() {
    Wire &wire = core->wire;
    Window window; /* opened when there is something to move: it costs more than a look */
    bool all = true;
    if (!own.empty()) window.open(core->device);
    for (const Copy &c : own) memcpy(c.to, c.from, c.bytes);
    own.clear();
    for (int r = 0; r < core->size; r++) {
        auto &to = out[(size_t)r], &from = in[(size_t)r];
        bool moves = (!to.empty() && wire.room(r)) || (!from.empty() && wire.unread(r));
        if (moves) window.open(core->device);
        while (moves && !to.empty()) { /* bytes that come after the look wait for the next one */
            Transfer &t = to.front();
            unsigned char *head = reinterpret_cast<unsigned char *>(&t.message);
            if (t.head_done < sizeof t.message)
                t.head_done += wire.put(r, head + t.head_done, sizeof t.message - t.head_done);
            if (t.head_done == sizeof t.message) t.done += wire.put(r, t.data + t.done, t.message.bytes - t.done);
            if (t.head_done < sizeof t.message || t.done < t.message.bytes) break;
            to.pop_front();
        }
        while (moves && !from.empty()) {
            Transfer &t = from.front();
            if (!t.head_done) {
                Message got;
                if (wire.unread(r) < sizeof got) break;
                t.head_done = wire.get(r, &got, sizeof got);
                expect(r, t, got);
            }
            t.done += wire.get(r, t.data + t.done, t.message.bytes - t.done);
            if (t.done < t.message.bytes) break;
            from.pop_front();
        }
        if (!from.empty() && wire.place(r) == Wire::left && !wire.unread(r))
            fail("NCCL: rank %d waits for %llu bytes from rank %d, which has left", core->rank,
                 (unsigned long long)from.front().message.bytes, r);
        if (!to.empty() || !from.empty()) all = hold(to.empty() ? "bytes from" : "room at", r);
    }
    return all;
}

/* Runs as work of the stream: true when done. */
bool Operation::trial() {
    if (core->aborted) return true;
    if (core->executed != number) return false; /* the one before is on another stream */
    if (is_collective && !met && !meet()) return false;
    if (!move()) return false;
    core->executed++;
    return true;
}

void add_transfer(std::deque<Transfer> &list, Kind kind, int root, uint64_t call, size_t bytes, const void *data) {
    if (bytes == 0) return;
    Message m = {kind, (uint32_t)root, call, bytes};
    list.push_back(Transfer{m, 0, 0, static_cast<unsigned char *>(const_cast<void *>(data))});
}

/* Becomes transfers and goes to its stream. */
void issue(const std::shared_ptr<Operation> &op) {
    Core &core = *op->core;
    size_t size = (size_t)core.size, me = (size_t)core.rank;
    op->out.resize(size);
    op->in.resize(size);
    op->number = core.issued++;
    uint64_t hash = 1469598103934665603ull;
    auto mix = [&hash](uint64_t v) { hash = (hash ^ v) * 1099511628211ull ^ hash >> 29; };
    std::string text;
    size_t collectives = 0;
    for (const Call &c : op->calls) {
        op->is_collective |= c.kind != PIECE;
        collectives += c.kind != PIECE;
    }
    uint64_t call = op->collective = core.collectives;
    if (op->is_collective) core.collectives++;
    for (const Call &c : op->calls) {
        const unsigned char *send = static_cast<const unsigned char *>(c.send);
        unsigned char *receive = static_cast<unsigned char *>(c.receive);
        if (c.kind == PIECE) {
            if (send)
                add_transfer(op->out[(size_t)c.peer], PIECE, 0, 0, c.bytes, send);
            else
                add_transfer(op->in[(size_t)c.peer], PIECE, 0, 0, c.bytes, receive);
            continue;
        }
        mix(c.kind), mix(c.bytes), mix((uint64_t)c.peer);
        if (text.empty())
            text = describe(c) + (collectives > 1 ? " and " + std::to_string(collectives - 1) + " more" : "");
        for (size_t r = 0; r < size; r++) {
            bool sends = c.kind == ALL_GATHER || (size_t)c.peer == me;
            bool receives = c.kind == ALL_GATHER || (size_t)c.peer == r;
            unsigned char *place = c.kind == ALL_GATHER ? receive + r * c.bytes : receive;
            if (r == me && sends && send != place && c.bytes) op->own.push_back(Copy{place, send, c.bytes});
            if (r == me) continue;
            if (sends) add_transfer(op->out[r], c.kind, c.peer, call, c.bytes, send);
            if (receives) add_transfer(op->in[r], c.kind, c.peer, call, c.bytes, place);
        }
    }
    op->sign.hash = hash;
    snprintf(op->sign.text, sizeof op->sign.text, "%s", text.c_str());
    enqueue_trials(op->stream, [op] { return op->trial(); });
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

/* The end of a call or a group on one communicator. */
ncclResult_t accept(ncclComm_t comm, std::shared_ptr<Operation> op) {
    if (comm->blocking || comm->dice.below(4) == 0) {
        issue(op);
        return ncclSuccess;
    }
    comm->pending = std::move(op);
    return ncclInProgress;
}

void check_overlap(const Call &c, int rank, int size) {
    const unsigned char *send = static_cast<const unsigned char *>(c.send);
    const unsigned char *receive = static_cast<const unsigned char *>(c.receive);
    size_t all = c.kind == ALL_GATHER ? c.bytes * (size_t)size : c.bytes;
    const unsigned char *own = c.kind == ALL_GATHER ? receive + (size_t)rank * c.bytes : receive;
    if (c.bytes && send != own && send < receive + all && receive < send + c.bytes)
        fail("NCCL: rank %d: %s sends from %p, which overlaps what it receives to %p and is not its own part", rank,
             describe(c).c_str(), c.send, c.receive);
}

ncclResult_t add_call(ncclComm_t comm, const Call &c, cudaStream_t stream, const char *what) {
    if (!comm) return refuse(comm, ncclInvalidArgument, "%s: no communicator", what);
    ncclResult_t result = begin(comm);
    if (result != ncclSuccess) return result;
    if (comm->error != ncclSuccess) return comm->error;
    if (comm->state != State::ready || comm->pending)
        fail("%s: rank %d of the communicator is still busy with the call before: ask ncclCommGetAsyncError", what,
             comm->core->rank);
    Core &core = *comm->core;
    if (c.peer < 0 || c.peer >= core.size) return refuse(comm, ncclInvalidArgument, "%s: rank %d", what, c.peer);
    int device = stream_device(stream, what);
    if (device != core.device)
        fail("%s: the stream is of device %d, the communicator of %d", what, device, core.device);
    bool sends = c.send && (c.kind != BROADCAST || c.peer == core.rank);
    for (const void *p : {sends ? c.send : nullptr, static_cast<const void *>(c.receive)}) {
        size_t bytes = c.kind == ALL_GATHER && p == c.receive ? c.bytes * (size_t)core.size : c.bytes;
        int at = p ? require_device(p, bytes, what) : -1;
        if (at >= 0 && at != core.device)
            fail("%s: memory %p is on device %d, the communicator on %d", what, p, at, core.device);
    }
    if (c.kind == ALL_GATHER || (c.kind == BROADCAST && c.peer == core.rank)) check_overlap(c, core.rank, core.size);
    std::shared_ptr<Operation> op;
    for (auto &g : group)
        if (g.first == comm) op = g.second;
    if (op && op->stream != stream) fail("%s: a group with two streams of one communicator is not simulated", what);
    if (!op) {
        op = std::make_shared<Operation>(
            Operation{comm->core, stream, {}, 0, 0, false, false, false, {}, {}, {}, {}, 0});
        if (group_depth) group.push_back({comm, op});
    }
    op->calls.push_back(c);
    return group_depth ? ncclSuccess : accept(comm, op);
}

/* Goes on with what the communicator does in the background. */
void advance(ncclComm_t comm) {
    Core &core = *comm->core;
    if (comm->error == ncclSuccess && device_fault() != cudaSuccess)
        comm->error = refuse(comm, ncclUnhandledCudaError, "the device has failed");
    if (comm->error != ncclSuccess) return;
    if (comm->state == State::joining) {
        Wire::State now = core.wire.join();
        if (now == Wire::joined) comm->state = State::ready;
        if (now == Wire::taken) fail("NCCL: two workers of one communicator are rank %d", core.rank);
        if (now == Wire::other_size) fail("NCCL: rank %d has %d workers, others another number", core.rank, core.size);
        if (now == Wire::no_room) comm->error = refuse(comm, ncclSystemError, "no room in /dev/shm");
    } else if (comm->pending) {
        issue(comm->pending);
        comm->pending = nullptr;
    } else if (comm->state == State::finalizing) {
        progress();
        if (core.executed == core.issued) comm->state = State::finalized;
    }
    constexpr double LOOK = 0.02; /* seconds between two looks at the other processes */
    double now = seconds();
    if (comm->error != ncclSuccess || comm->state == State::finalized || now - comm->looked < LOOK) return;
    comm->looked = now;
    int lost = core.wire.lost();
    if (lost >= 0) comm->error = refuse(comm, ncclRemoteError, "rank %d closed the connection", lost);
}

/* Waits for a communicator in the blocking calls. */
ncclResult_t settle(ncclComm_t comm, State wanted) {
    while (comm->error == ncclSuccess && comm->state != wanted) {
        advance(comm);
        usleep(50);
    }
    return comm->error;
}

/* A device goes on while its host waits for something else, such as a message of MPI, and other processes depend on it:
 * with FLRQ_CUDASIM_BACKGROUND=1 a thread runs what is queued while there are communicators, slowly, so that most of it
 * is still done when the host asks. */
void run_by_itself(int communicators_more) {
    constexpr useconds_t PERIOD = 1000;
    constexpr int STEPS = 16;
    static std::mutex mutex;
    static int communicators;
    static std::atomic<bool> needed{false};
    static std::thread *thread;
    if (!env_number("FLRQ_CUDASIM_BACKGROUND", 0, 0, 1)) return;
    std::lock_guard<std::mutex> lock(mutex);
    communicators += communicators_more;
    if (communicators && !thread) {
        needed = true;
        thread = new std::thread([] {
            for (; needed; usleep(PERIOD))
                for (int i = 0; i < STEPS; i++) progress();
        });
    } else if (!communicators && thread) {
        needed = false;
        thread->join();
        delete thread;
        thread = nullptr;
    }
}

void free_comm(ncclComm_t comm, Wire::Place how) {
    {
        std::lock_guard<std::recursive_mutex> run(executor()); /* no operation is in the middle of its bytes */
        comm->core->aborted = true;
        comm->core->wire.leave(how);
    }
    run_by_itself(-1);
    delete comm;
    live_handles--;
}

} // namespace

extern "C" {

ncclResult_t ncclGetVersion(int *version) {
    *version = NCCL_VERSION_CODE;
    return ncclSuccess;
}

const char *ncclGetErrorString(ncclResult_t result) {
    static const char *const texts[] = {"no error",
                                        "unhandled cuda error",
                                        "unhandled system error",
                                        "internal error",
                                        "invalid argument",
                                        "invalid usage",
                                        "remote process exited or there was a network error",
                                        "in progress"};
    return (size_t)result < sizeof texts / sizeof *texts ? texts[result] : "unknown result code";
}

const char *ncclGetLastError(ncclComm_t comm) {
    return (comm ? comm->text : thread_text).c_str();
}

ncclResult_t ncclGetUniqueId(ncclUniqueId *id) {
    ncclResult_t result = begin(nullptr);
    uint64_t number;
    if (result != ncclSuccess) return result;
    if (getrandom(&number, sizeof number, 0) != sizeof number) return refuse(nullptr, ncclSystemError, "no randomness");
    memset(id, 0, sizeof *id);
    snprintf(id->internal, sizeof id->internal, "%s%d-%016llx", ID_PREFIX, (int)getpid(), (unsigned long long)number);
    return ncclSuccess;
}

ncclResult_t ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
    *comm = nullptr;
    ncclResult_t result = begin(nullptr);
    if (result != ncclSuccess) return result;
    if (config && config->magic != 0xcafebeef) return refuse(nullptr, ncclInvalidArgument, "configuration not set");
    if (nranks < 1 || nranks > WIRE_MAX_RANKS || rank < 0 || rank >= nranks)
        return refuse(nullptr, ncclInvalidArgument, "rank %d of %d", rank, nranks);
    id.internal[sizeof id.internal - 1] = 0;
    if (strncmp(id.internal, ID_PREFIX, sizeof ID_PREFIX - 1))
        return refuse(nullptr, ncclInvalidArgument, "an id that ncclGetUniqueId did not make");
    if (current_device() >= device_count()) return refuse(nullptr, ncclUnhandledCudaError, "no device");
    auto core = std::make_shared<Core>(id.internal, rank, nranks, current_device());
    bool blocking = !config || config->blocking != 0;
    *comm = new ncclComm{core, State::joining, blocking, ncclSuccess, nullptr, Random((uint64_t)rank), "", 0};
    live_handles++;
    run_by_itself(1);
    advance(*comm);
    return blocking ? settle(*comm, State::ready) : ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *error) {
    if (!comm) return refuse(comm, ncclInvalidArgument, "ncclCommGetAsyncError: no communicator");
    advance(comm);
    bool busy = comm->state == State::joining || comm->state == State::finalizing || comm->pending;
    *error = comm->error != ncclSuccess ? comm->error : busy ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    if (!comm) return refuse(comm, ncclInvalidArgument, "ncclCommFinalize: no communicator");
    if (comm->error != ncclSuccess) return comm->error;
    if (comm->state != State::ready || comm->pending) fail("ncclCommFinalize of a communicator that is busy");
    comm->state = State::finalizing;
    return comm->blocking ? settle(comm, State::finalized) : ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    if (!comm) return ncclSuccess;
    if (comm->state == State::joining || comm->error != ncclSuccess)
        fail("ncclCommDestroy of a communicator that is not whole: ncclCommAbort");
    if (comm->state == State::ready) ncclCommFinalize(comm);
    ncclResult_t result = settle(comm, State::finalized);
    Core &core = *comm->core;
    for (int r = 0; result == ncclSuccess && r < core.size; r++)
        if (core.wire.unread(r))
            fail("NCCL: rank %d leaves with %zu bytes from rank %d that it has not received", core.rank,
                 core.wire.unread(r), r);
    free_comm(comm, Wire::left);
    return result;
}

ncclResult_t ncclCommAbort(ncclComm_t comm) {
    if (comm) free_comm(comm, Wire::aborted);
    return ncclSuccess;
}

ncclResult_t ncclGroupStart(void) {
    ncclResult_t result = begin(nullptr);
    if (result == ncclSuccess) group_depth++;
    return result;
}

ncclResult_t ncclGroupEnd(void) {
    if (!group_depth) return refuse(nullptr, ncclInvalidUsage, "ncclGroupEnd without ncclGroupStart");
    if (--group_depth) return ncclSuccess;
    auto calls = std::move(group);
    group.clear();
    ncclResult_t result = begin(nullptr);
    for (auto &g : calls) {
        if (result != ncclSuccess && result != ncclInProgress) break;
        ncclResult_t one = accept(g.first, g.second);
        if (one != ncclSuccess) result = one;
    }
    return result;
}

ncclResult_t ncclAllGather(const void *send, void *receive, size_t count, ncclDataType_t type, ncclComm_t comm,
                           cudaStream_t stream) {
    return add_call(comm, Call{ALL_GATHER, send, receive, count * size_of(type), 0}, stream, "ncclAllGather");
}

ncclResult_t ncclBroadcast(const void *send, void *receive, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
    return add_call(comm, Call{BROADCAST, send, receive, count * size_of(type), root}, stream, "ncclBroadcast");
}

ncclResult_t ncclSend(const void *send, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return add_call(comm, Call{PIECE, send, nullptr, count * size_of(type), peer}, stream, "ncclSend");
}

ncclResult_t ncclRecv(void *receive, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return add_call(comm, Call{PIECE, nullptr, receive, count * size_of(type), peer}, stream, "ncclRecv");
}

} // extern "C"
