#!/usr/bin/env python3
"""check_fatbin.py LIBRARY ARCH... - the device code that a shared object carries, read without CUDA's tools.

Walks the .nv_fatbin section: containers (magic 0xBA55ED50: version, header size, size) of entries (kind 1 PTX, 2 machine
code; architecture at byte 28). Every kernel file must hold machine code for every ARCH and PTX of the first one."""
import struct
import sys


def section(path, wanted):
    """Bytes of a section of a 64-bit little-endian ELF file."""
    data = open(path, "rb").read()
    offset, = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", data, offset + i * size) for i in range(count)]
    table = headers[names][4]
    for name, _, _, _, start, length in headers:
        if data[table + name:data.index(b"\0", table + name)] == wanted:
            return data[start:start + length]
    return b""


def containers(data):
    """For every container the set of (kind, architecture)."""
    at = 0
    while at + 16 <= len(data):
        magic, _, header, size = struct.unpack_from("<IHHQ", data, at)
        if magic != 0xBA55ED50:
            at += 8
            continue
        entry, end, found = at + header, at + header + size, set()
        while entry < end:
            kind, _, skip, length = struct.unpack_from("<HHIQ", data, entry)
            arch, = struct.unpack_from("<I", data, entry + 28)
            found.add(({1: "ptx", 2: "sm"}.get(kind, "kind%d_" % kind), arch))
            entry += skip + length
        yield found
        at = (end + 7) // 8 * 8


def main():
    wanted = {("sm", int(a)) for a in sys.argv[2:]} | {("ptx", int(sys.argv[2]))}
    found = list(containers(section(sys.argv[1], b".nv_fatbin")))
    print("%s: %d containers of device code" % (sys.argv[1], len(found)))
    bad = not found
    for i, have in enumerate(found):
        if wanted - have:
            print("container %d lacks %s" % (i, " ".join("%s_%d" % x for x in sorted(wanted - have))))
            bad = True
    return bad


sys.exit(main())
