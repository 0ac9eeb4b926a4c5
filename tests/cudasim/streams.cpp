/*
 * streams.cpp - streams, events, copies and launches: work that is queued now and runs later.
 *
 * Nothing runs before a call that waits or asks. Then one stream after another is taken at random
 * (FLRQ_CUDASIM_SEED) among those whose next item has nothing left to wait for, until what is waited for has happened:
 * an order that a device could have chosen, and often one that it would seldom choose. Dependencies are pairs (stream,
 * number of items done); they are fixed when an item is queued, so that a wait cannot be circular. Work that needs
 * another worker says so by returning false; when nothing else is left to run, the executor is given up for a moment,
 * so that the other worker, a thread of this process or another process, can do its part.
 */
#include "internal.h"
#include "shared.h"

#include <time.h>
#include <unistd.h>
#include <algorithm>
#include <deque>
#include <map>
#include <vector>

using namespace cudasim;

namespace {

struct Item;
using StreamRef = std::shared_ptr<CUstream_st>;
struct Dependency {
    StreamRef stream;
    uint64_t count;
};
struct Item {
    std::function<bool()> work; /* false: not yet, try again; empty: only waits */
    std::vector<Dependency> after;
    bool opens; /* runs under a Window of the stream's device */
};

} // namespace

struct CUstream_st {
    int device;
    bool blocking; /* ordered with the default stream */
    std::deque<Item> items;
    uint64_t queued, done;
};

struct CUevent_st {
    bool timed;
    Dependency at;              /* stream null: never recorded */
    std::shared_ptr<double> ms; /* when it happened */
};

namespace {

std::mutex queue_mutex;                       /* for everything below; never held while work runs */
std::vector<StreamRef> streams;               /* alive */
std::map<int, StreamRef> default_streams;     /* by device, also in `streams` */
std::weak_ptr<CUstream_st> last_stream;       /* that work was taken from */
std::vector<cudaEvent_t> events;              /* alive */
std::map<const void *, size_t> shared_limits; /* by kernel: cudaFuncSetAttribute */
thread_local int thread_device;

Random &schedule() {
    static Random random((uint64_t)env_number("FLRQ_CUDASIM_SEED", 1, 0, 1L << 40));
    return random;
}

/* Under queue_mutex. */
StreamRef default_stream(int device) {
    StreamRef &s = default_streams[device];
    if (!s) {
        s = std::make_shared<CUstream_st>(CUstream_st{device, true, {}, 0, 0});
        streams.push_back(s);
    }
    return s;
}

/* Under queue_mutex. */
StreamRef resolve(cudaStream_t stream, const char *what) {
    if (!stream) return default_stream(thread_device);
    for (const StreamRef &s : streams)
        if (s.get() == stream) return s;
    fail("%s: stream %p does not exist (destroyed?)", what, static_cast<void *>(stream));
}

CUevent_st *require_event(cudaEvent_t event, const char *what) {
    std::lock_guard<std::mutex> lock(queue_mutex);
    if (std::find(events.begin(), events.end(), event) == events.end())
        fail("%s: event %p does not exist (destroyed?)", what, static_cast<void *>(event));
    return event;
}

bool happened(const Dependency &d) {
    return !d.stream || d.stream->done >= d.count;
}

/* Appends; the default stream waits for all blocking streams of its device and they for it. Under queue_mutex. */
Dependency append(const StreamRef &s, Item item) {
    if (s->blocking) {
        StreamRef main = default_stream(s->device);
        for (const StreamRef &other : streams) {
            bool ordered = s == main ? other->blocking && other->device == s->device : other == main;
            if (other != s && ordered && other->done < other->queued)
                item.after.push_back(Dependency{other, other->queued});
        }
    }
    s->items.push_back(std::move(item));
    return Dependency{s, ++s->queued};
}

/* Runs one item that may run now; false: there is none. `held`: streams whose next item has to wait for another worker,
 * which are left out and added to. Under executor(). */
bool step(Window &window, std::vector<StreamRef> &held) {
    StreamRef s;
    Item item;
    {
        std::lock_guard<std::mutex> lock(queue_mutex);
        std::vector<StreamRef> ready;
        for (const StreamRef &c : streams) {
            if (c->items.empty() || std::find(held.begin(), held.end(), c) != held.end()) continue;
            auto &after = c->items.front().after;
            if (std::all_of(after.begin(), after.end(), happened)) ready.push_back(c);
        }
        if (ready.empty()) return false;
        /* Staying with one stream for a while makes the extreme orders likely: there are the missing dependencies. */
        auto again = std::find(ready.begin(), ready.end(), last_stream.lock());
        s = again != ready.end() && schedule().below(4) ? *again : ready[schedule().below((unsigned)ready.size())];
        last_stream = s;
        item = std::move(s->items.front());
        s->items.pop_front();
    }
    bool done = true;
    if (item.work && device_fault() == cudaSuccess) {
        if (item.opens) window.open(s->device);
        int before = thread_device;
        thread_device = s->device;
        done = item.work();
        thread_device = before;
    }
    std::lock_guard<std::mutex> lock(queue_mutex);
    if (done) {
        s->done++;
    } else {
        s->items.push_front(std::move(item));
        held.push_back(s);
    }
    return true;
}

/* Runs what can run until `enough`; false: the rest waits for other workers. */
template <class Predicate> bool run_until(Predicate enough) {
    std::lock_guard<std::recursive_mutex> run(executor());
    Window window;
    std::vector<StreamRef> held;
    for (;;) {
        {
            std::lock_guard<std::mutex> lock(queue_mutex);
            if (enough()) return true;
        }
        if (step(window, held)) continue;
        if (held.empty()) fail("internal error: queued work waits for nothing that can happen");
        return false;
    }
}

/* The caller does not hold executor(): what is waited for may be another thread's to run. */
template <class Predicate> void drain(Predicate enough) {
    constexpr useconds_t SHORT = 20, LONG = 500; /* between two trials */
    for (useconds_t pause = SHORT; !run_until(enough); pause = std::min(2 * pause, LONG)) usleep(pause);
}

double now_ms() {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

/* First use of the simulator, and the fault that answers every call after it. */
cudaError_t enter() {
    device_count();
    return device_fault();
}

enum class Place { pageable, pinned, device };

/* Where [ptr, ptr + bytes) lies; reports a range that leaves its allocation. */
Place locate(const void *ptr, size_t bytes, const char *what) {
    if (in_arena(ptr)) {
        require_device(ptr, bytes, what);
        return Place::device;
    }
    if (!ptr) fail("%s: null pointer", what);
    Allocation a;
    if (!find_pinned(ptr, &a)) return Place::pageable;
    if (bytes > a.bytes - (size_t)(static_cast<const unsigned char *>(ptr) - a.begin))
        fail("%s: %zu bytes from %p leave its pinned allocation of %zu bytes", what, bytes, ptr, a.bytes);
    return Place::pinned;
}

void open_for(Window &window, const void *ptr) {
    Allocation a;
    int device;
    if (find_device(ptr, &a, &device, false)) window.open(device);
}

/* `height` rows of `width` bytes. */
struct Rows {
    unsigned char *base;
    size_t pitch;
};
void copy_rows(Rows to, Rows from, size_t width, size_t height) {
    for (size_t i = 0; i < height; i++) memmove(to.base + i * to.pitch, from.base + i * from.pitch, width);
}

cudaError_t copy(const char *what, Rows to, Rows from, size_t width, size_t height, cudaMemcpyKind kind,
                 cudaStream_t stream, bool wait) {
    if (enter() != cudaSuccess) return device_fault();
    if (to.pitch < width || from.pitch < width) return remember(cudaErrorInvalidPitchValue);
    if (injected(CUDASIM_COPY)) return remember(cudaErrorInvalidValue);
    if (width && height) {
        Place source = locate(from.base, from.pitch * (height - 1) + width, what);
        Place target = locate(to.base, to.pitch * (height - 1) + width, what);
        bool from_device = source == Place::device, to_device = target == Place::device;
        int actual = (from_device ? 2 : 0) + (to_device ? 1 : 0); /* the values of cudaMemcpyKind */
        if (kind != cudaMemcpyDefault && (int)kind != actual)
            fail("%s: direction %d given, but source and destination make it %d (1: to the device, 2: from it)", what,
                 (int)kind, actual);
        std::shared_ptr<std::vector<unsigned char>> staged;
        if (source == Place::pageable) {
            staged = std::make_shared<std::vector<unsigned char>>(width * height);
            copy_rows(Rows{staged->data(), width}, from, width, height);
            from = Rows{staged->data(), width};
        }
        enqueue(stream, [=] {
            Window others; /* the memory need not be of the stream's device */
            for (const void *p : {to.base, from.base}) open_for(others, p);
            (void)staged, copy_rows(to, from, width, height);
        });
        wait = wait || target == Place::pageable;
    }
    return wait ? cudaStreamSynchronize(stream) : cudaSuccess;
}

cudaError_t fill(const char *what, void *ptr, int value, size_t bytes, cudaStream_t stream) {
    if (enter() != cudaSuccess) return device_fault();
    if (injected(CUDASIM_COPY)) return remember(cudaErrorInvalidValue);
    require_device(ptr, bytes, what);
    if (bytes)
        enqueue(stream, [=] {
            Window other;
            open_for(other, ptr);
            memset(ptr, value, bytes);
        });
    return cudaSuccess;
}

cudaError_t valid_launch(const Launch &l) {
    uint64_t threads = (uint64_t)l.block.x * l.block.y * l.block.z;
    if (threads < 1 || threads > 1024 || l.block.x > 1024 || l.block.y > 1024 || l.block.z > 64 || !l.grid.x ||
        !l.grid.y || !l.grid.z || l.grid.x > 0x7fffffffu || l.grid.y > 65535 || l.grid.z > 65535)
        return cudaErrorInvalidConfiguration;
    std::lock_guard<std::mutex> lock(queue_mutex);
    auto it = shared_limits.find(l.function);
    return l.dynamic_smem > (it == shared_limits.end() ? SHARED_DEFAULT : it->second) ? cudaErrorInvalidValue
                                                                                      : cudaSuccess;
}

} // namespace

namespace cudasim {

int current_device() {
    return thread_device;
}

void enqueue(cudaStream_t stream, std::function<void()> work) {
    std::lock_guard<std::mutex> lock(queue_mutex);
    append(resolve(stream, "queued work"), Item{[work = std::move(work)] { return work(), true; }, {}, true});
}

void enqueue_trials(cudaStream_t stream, std::function<bool()> work) {
    std::lock_guard<std::mutex> lock(queue_mutex);
    append(resolve(stream, "queued work"), Item{std::move(work), {}, false});
}

/* A random amount: what a question about the state may find. */
void progress() {
    std::unique_lock<std::recursive_mutex> run(executor(), std::try_to_lock);
    if (!run) return;
    Window window;
    std::vector<StreamRef> held;
    for (unsigned n = 1 + schedule().below(3); n && step(window, held); n--) {
    }
}

int stream_device(cudaStream_t stream, const char *what) {
    std::lock_guard<std::mutex> lock(queue_mutex);
    return resolve(stream, what)->device;
}

void drain_device(int device) {
    drain([device] {
        return std::all_of(streams.begin(), streams.end(),
                           [device](const StreamRef &s) { return s->device != device || s->done == s->queued; });
    });
}

void drop_all_work() {
    std::lock_guard<std::recursive_mutex> run(executor());
    std::lock_guard<std::mutex> lock(queue_mutex);
    for (const StreamRef &s : streams) {
        s->items.clear();
        s->done = s->queued;
    }
}

void check_argument(Launch &l, cudaStream_t stream, int position, const void *bytes, size_t size) {
    device_count();
    for (size_t i = 0; i + 8 <= size; i += 8) {
        uint64_t word;
        memcpy(&word, static_cast<const unsigned char *>(bytes) + i, 8);
        const void *p = reinterpret_cast<const void *>(word);
        Allocation a;
        int device;
        if (in_arena(p)) {
            if (!find_device(p, &a, &device, true))
                fail("kernel %s: argument %d holds device address %p, which is in no live allocation", l.name, position,
                     p);
            if (device != stream_device(stream, l.name))
                fail("kernel %s: argument %d is memory of device %d, the stream is of device %d", l.name, position,
                     device, stream_device(stream, l.name));
            l.pointers.push_back(p);
        } else if (word >> 32 >= 1 && word >> 32 <= 0x7fff && is_host_memory(p)) {
            fail("kernel %s: argument %d holds %p, an address of %s", l.name, position, p,
                 find_pinned(p, &a) ? "pinned host memory" : "host memory");
        }
    }
}

void submit(Launch &&launch, cudaStream_t stream) {
    if (enter() != cudaSuccess) return;
    cudaError_t status = valid_launch(launch);
    if (status != cudaSuccess) {
        remember(status);
        return;
    }
    if (injected(CUDASIM_LAUNCH)) {
        enqueue(stream, [] { set_device_fault(cudaErrorLaunchFailure); });
        return;
    }
    auto shared = std::make_shared<Launch>(std::move(launch));
    enqueue(stream, [shared] {
        run_grid(*shared);
        for (const void *p : shared->pointers) check_fences(p, (std::string("kernel ") + shared->name).c_str());
    });
}

} // namespace cudasim

extern "C" {

cudaError_t cudaGetDeviceCount(int *count) {
    *count = device_count();
    return *count ? cudaSuccess : remember(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
    if (device < 0 || device >= device_count()) return remember(cudaErrorInvalidDevice);
    thread_device = device;
    return device_fault();
}

cudaError_t cudaGetDevice(int *device) {
    *device = thread_device;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void) {
    if (enter() != cudaSuccess) return device_fault();
    drain_device(thread_device);
    return device_fault();
}

cudaError_t cudaDeviceReset(void) {
    drop_all_work();
    cudasim_fail_at(0, CUDASIM_ALL);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width,
                              size_t height, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy("cudaMemcpy2DAsync", Rows{static_cast<unsigned char *>(dst), dst_pitch},
                Rows{static_cast<unsigned char *>(const_cast<void *>(src)), src_pitch}, width, height, kind, stream,
                false);
}

cudaError_t cudaMemcpy2D(void *dst, size_t dst_pitch, const void *src, size_t src_pitch, size_t width, size_t height,
                         enum cudaMemcpyKind kind) {
    return copy("cudaMemcpy2D", Rows{static_cast<unsigned char *>(dst), dst_pitch},
                Rows{static_cast<unsigned char *>(const_cast<void *>(src)), src_pitch}, width, height, kind, nullptr,
                true);
}

cudaError_t cudaMemcpyAsync(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    return copy("cudaMemcpyAsync", Rows{static_cast<unsigned char *>(dst), bytes},
                Rows{static_cast<unsigned char *>(const_cast<void *>(src)), bytes}, bytes, 1, kind, stream, false);
}

cudaError_t cudaMemcpy(void *dst, const void *src, size_t bytes, enum cudaMemcpyKind kind) {
    return copy("cudaMemcpy", Rows{static_cast<unsigned char *>(dst), bytes},
                Rows{static_cast<unsigned char *>(const_cast<void *>(src)), bytes}, bytes, 1, kind, nullptr, true);
}

cudaError_t cudaMemsetAsync(void *ptr, int value, size_t bytes, cudaStream_t stream) {
    return fill("cudaMemsetAsync", ptr, value, bytes, stream);
}

cudaError_t cudaMemset(void *ptr, int value, size_t bytes) {
    return fill("cudaMemset", ptr, value, bytes, nullptr);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    *stream = nullptr;
    if (enter() != cudaSuccess) return device_fault();
    if (!device_count()) return remember(cudaErrorNoDevice);
    if (flags & ~(unsigned)cudaStreamNonBlocking) return remember(cudaErrorInvalidValue);
    if (injected(CUDASIM_CREATE)) return remember(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> lock(queue_mutex);
    bool blocking = !(flags & cudaStreamNonBlocking);
    streams.push_back(std::make_shared<CUstream_st>(CUstream_st{thread_device, blocking, {}, 0, 0}));
    *stream = streams.back().get();
    live_handles++;
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t *stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (enter() != cudaSuccess) return device_fault();
    Dependency all;
    {
        std::lock_guard<std::mutex> lock(queue_mutex);
        all.stream = resolve(stream, "cudaStreamSynchronize");
        all.count = all.stream->queued;
    }
    drain([=] { return happened(all); });
    return device_fault();
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    if (enter() != cudaSuccess) return device_fault();
    progress();
    std::lock_guard<std::mutex> lock(queue_mutex);
    StreamRef s = resolve(stream, "cudaStreamQuery");
    if (device_fault() != cudaSuccess) return device_fault();
    return s->done == s->queued ? cudaSuccess : cudaErrorNotReady;
}

/* Finishes the stream's work first: a device may, and nothing here then refers to a stream that is gone. */
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    if (!stream) return remember(cudaErrorInvalidResourceHandle);
    StreamRef s;
    {
        std::lock_guard<std::mutex> lock(queue_mutex);
        s = resolve(stream, "cudaStreamDestroy");
    }
    drain([=] { return s->done == s->queued; });
    std::lock_guard<std::mutex> lock(queue_mutex);
    streams.erase(std::find(streams.begin(), streams.end(), s));
    live_handles--;
    return device_fault();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned int) {
    if (enter() != cudaSuccess) return device_fault();
    CUevent_st *e = require_event(event, "cudaStreamWaitEvent");
    std::lock_guard<std::mutex> lock(queue_mutex);
    StreamRef s = resolve(stream, "cudaStreamWaitEvent");
    if (e->at.stream) append(s, Item{nullptr, {e->at}, false});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    *event = nullptr;
    if (enter() != cudaSuccess) return device_fault();
    if (!device_count()) return remember(cudaErrorNoDevice);
    if (injected(CUDASIM_CREATE)) return remember(cudaErrorMemoryAllocation);
    std::lock_guard<std::mutex> lock(queue_mutex);
    *event = new CUevent_st{!(flags & cudaEventDisableTiming), {}, nullptr};
    events.push_back(*event);
    live_handles++;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t *event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (enter() != cudaSuccess) return device_fault();
    CUevent_st *e = require_event(event, "cudaEventRecord");
    std::lock_guard<std::mutex> lock(queue_mutex);
    StreamRef s = resolve(stream, "cudaEventRecord");
    auto ms = std::make_shared<double>(0);
    e->ms = ms;
    e->at =
        append(s, Item{e->timed ? std::function<bool()>([ms] { return *ms = now_ms(), true; }) : nullptr, {}, false});
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (enter() != cudaSuccess) return device_fault();
    Dependency at = require_event(event, "cudaEventSynchronize")->at;
    drain([=] { return happened(at); });
    return device_fault();
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (enter() != cudaSuccess) return device_fault();
    CUevent_st *e = require_event(event, "cudaEventQuery");
    progress();
    if (device_fault() != cudaSuccess) return device_fault();
    std::lock_guard<std::mutex> lock(queue_mutex);
    return happened(e->at) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end) {
    if (enter() != cudaSuccess) return device_fault();
    CUevent_st *a = require_event(start, "cudaEventElapsedTime"), *b = require_event(end, "cudaEventElapsedTime");
    std::lock_guard<std::mutex> lock(queue_mutex);
    if (!a->timed || !b->timed || !a->at.stream || !b->at.stream) return remember(cudaErrorInvalidResourceHandle);
    if (!happened(a->at) || !happened(b->at)) return cudaErrorNotReady;
    *ms = (float)(*b->ms - *a->ms);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    CUevent_st *e = require_event(event, "cudaEventDestroy");
    std::lock_guard<std::mutex> lock(queue_mutex);
    events.erase(std::find(events.begin(), events.end(), event));
    delete e;
    live_handles--;
    return device_fault();
}

cudaError_t cudaFuncSetAttribute(const void *func, enum cudaFuncAttribute attr, int value) {
    if (enter() != cudaSuccess) return device_fault();
    if (attr == cudaFuncAttributePreferredSharedMemoryCarveout) return cudaSuccess;
    if (attr != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 || (size_t)value > SHARED_MAX)
        return remember(cudaErrorInvalidValue);
    std::lock_guard<std::mutex> lock(queue_mutex);
    shared_limits[func] = std::max((size_t)value, SHARED_DEFAULT);
    return cudaSuccess;
}

} // extern "C"
