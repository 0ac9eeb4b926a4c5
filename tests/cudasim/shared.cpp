/* shared.cpp - see shared.h. */
#include "shared.h"
#include "internal.h"

#include <elf.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <vector>

namespace cudasim {
namespace {

constexpr size_t PAGE = 4096, FENCE = 128, GUARD = 1 << 20;
/* Room for the largest block and a fence below it, between two inaccessible regions. */
constexpr size_t ROOM = (SHARED_MAX + FENCE + PAGE - 1) / PAGE * PAGE;

unsigned char *region, *dynamic;
size_t dynamic_bytes;

} // namespace

/* Its address less its offset in the symbol table is where this thread's variables of this file begin. */
thread_local char tls_anchor = 1;

namespace {

struct Range {
    size_t offset, bytes;
};

#ifndef CUDASIM_ASAN
/* File that this code was loaded from. */
std::string own_file() {
    uintptr_t here = (uintptr_t)&own_file;
    std::string path;
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[4352], name[4097];
    while (maps && path.empty() && fgets(line, sizeof line, maps)) {
        unsigned long low, high;
        if (sscanf(line, "%lx-%lx %*s %*s %*s %*s %4096s", &low, &high, name) == 3 && here >= low && here < high)
            path = name;
    }
    if (maps) fclose(maps);
    return path;
}

/* The thread-local variables of functions in the symbol table: names that begin with _ZZ, the simulator's own excepted.
 */
std::vector<Range> read_ranges(const unsigned char *file, size_t size) {
    std::vector<Range> ranges;
    const Elf64_Ehdr *head = reinterpret_cast<const Elf64_Ehdr *>(file);
    if (size < sizeof *head || memcmp(head->e_ident, ELFMAG, SELFMAG) || head->e_ident[EI_CLASS] != ELFCLASS64 ||
        head->e_shoff + (size_t)head->e_shnum * sizeof(Elf64_Shdr) > size)
        return ranges;
    const Elf64_Shdr *sections = reinterpret_cast<const Elf64_Shdr *>(file + head->e_shoff);
    for (int i = 0; i < head->e_shnum; i++) {
        const Elf64_Shdr &table = sections[i];
        if (table.sh_type != SHT_SYMTAB || table.sh_link >= head->e_shnum) continue;
        const Elf64_Shdr &names = sections[table.sh_link];
        if (table.sh_offset + table.sh_size > size || names.sh_offset + names.sh_size > size) continue;
        const Elf64_Sym *symbols = reinterpret_cast<const Elf64_Sym *>(file + table.sh_offset);
        const char *text = reinterpret_cast<const char *>(file + names.sh_offset);
        size_t anchor = SIZE_MAX;
        for (size_t s = 0; s < table.sh_size / sizeof *symbols; s++) {
            const char *name = text + symbols[s].st_name;
            if (ELF64_ST_TYPE(symbols[s].st_info) != STT_TLS || symbols[s].st_shndx == SHN_UNDEF) continue;
            if (!strcmp(name, "_ZN7cudasim10tls_anchorE")) anchor = symbols[s].st_value;
            if (!strncmp(name, "_ZZ", 3) && strncmp(name, "_ZZN7cudasim", 12))
                ranges.push_back(Range{symbols[s].st_value, symbols[s].st_size});
        }
        if (anchor == SIZE_MAX) ranges.clear();
        for (Range &r : ranges) r.offset -= anchor; /* relative to the anchor, modulo 2^64 */
    }
    /* One symbol may have several names. */
    auto before = [](Range a, Range b) { return (ptrdiff_t)a.offset < (ptrdiff_t)b.offset; };
    auto same = [](Range a, Range b) { return a.offset == b.offset; };
    std::sort(ranges.begin(), ranges.end(), before);
    ranges.erase(std::unique(ranges.begin(), ranges.end(), same), ranges.end());
    return ranges;
}
#endif

/* Static shared memory as distances from the anchor; empty if the file has no symbol table. */
const std::vector<Range> &static_ranges() {
    static const std::vector<Range> *ranges = [] {
        auto *r = new std::vector<Range>;
#ifndef CUDASIM_ASAN
        int fd = open(own_file().c_str(), O_RDONLY | O_CLOEXEC);
        struct stat st;
        if (fd >= 0 && !fstat(fd, &st) && st.st_size > 0) {
            void *p = mmap(nullptr, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
            if (p != MAP_FAILED) {
                *r = read_ranges(static_cast<unsigned char *>(p), (size_t)st.st_size);
                munmap(p, (size_t)st.st_size);
            }
        }
        if (fd >= 0) close(fd);
#endif
        return r;
    }();
    return *ranges;
}

} // namespace

unsigned char *shared_begin(size_t bytes) {
    if (!region) {
        void *p = mmap(nullptr, ROOM + 2 * GUARD, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) fail("no memory for a block's shared memory");
        region = static_cast<unsigned char *>(p);
        if (mprotect(region + GUARD, ROOM, PROT_READ | PROT_WRITE)) fail("no memory for a block's shared memory");
    }
    unsigned char *end = region + GUARD + ROOM;
    dynamic_bytes = bytes;
    dynamic = end - (bytes + FENCE - 1) / FENCE * FENCE;
#ifdef CUDASIM_ASAN
    __asan_unpoison_memory_region(region + GUARD, ROOM);
    __asan_poison_memory_region(region + GUARD, (size_t)(dynamic - region) - GUARD);
    __asan_poison_memory_region(dynamic + bytes, (size_t)(end - dynamic) - bytes);
#else
    memset(dynamic - FENCE, 0xff, FENCE);
    memset(dynamic + bytes, 0xff, (size_t)(end - dynamic) - bytes);
#endif
    return dynamic;
}

void shared_fill() {
    if (dynamic_bytes) memset(dynamic, 0xff, dynamic_bytes);
    unsigned char *anchor = reinterpret_cast<unsigned char *>(&tls_anchor);
    for (const Range &r : static_ranges()) memset(anchor + (ptrdiff_t)r.offset, 0xff, r.bytes);
}

void shared_check() {
#ifndef CUDASIM_ASAN
    const unsigned char *end = region + GUARD + ROOM;
    for (const unsigned char *p = dynamic - FENCE; p < end; p++) {
        if (p == dynamic) p += dynamic_bytes;
        if (p < end && *p != 0xff)
            fail("out of bounds: byte %td of %zu bytes of dynamic shared memory was written", p - dynamic,
                 dynamic_bytes);
    }
#endif
}

bool shared_is_guard(const void *address) {
    const unsigned char *p = static_cast<const unsigned char *>(address);
    return region && p >= region && p < region + ROOM + 2 * GUARD && (p < region + GUARD || p >= region + GUARD + ROOM);
}

} // namespace cudasim
