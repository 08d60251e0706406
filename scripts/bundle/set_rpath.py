#!/usr/bin/env python3
"""Makes ELF files of a bundle find their libraries there and nowhere else. Python's standard library only.

Usage: set_rpath.py RPATH FILE...   writes RPATH over the search path that the linker left in each executable
       set_rpath.py '' FILE...      takes the search path of each library out of use

The executable gets a DT_RPATH, not the DT_RUNPATH of today's linkers: only the former also holds for the libraries that its
libraries and plugins need (ld.so(8)), and only as long as none of these has a DT_RUNPATH of its own. Nothing moves in the
file: the new text must fit into the old one."""

import struct
import sys

PT_LOAD, PT_DYNAMIC = 1, 2
DT_NULL, DT_STRTAB, DT_RPATH, DT_RUNPATH = 0, 5, 15, 29
DT_UNUSED = 0x6000000D  # DT_LOOS, the first of the range for operating systems: ld.so skips what it does not know


def programs(data):
    """The program headers of a 64-bit little-endian ELF file as (type, offset, address, file size)."""
    if data[:6] != b"\x7fELF\x02\x01":
        raise ValueError("not a 64-bit little-endian ELF file")
    table, = struct.unpack_from("<Q", data, 32)
    size, count = struct.unpack_from("<HH", data, 54)
    for index in range(count):
        kind, _, offset, address, _, length = struct.unpack_from("<IIQQQQ", data, table + index * size)
        yield kind, offset, address, length


def dynamic_entries(data):
    """(offset in the file, tag, value) of the dynamic section."""
    for kind, offset, _, length in programs(data):
        if kind != PT_DYNAMIC:
            continue
        for at in range(offset, offset + length, 16):
            tag, value = struct.unpack_from("<QQ", data, at)
            if tag == DT_NULL:
                return
            yield at, tag, value


def file_offset(data, address):
    for kind, offset, start, length in programs(data):
        if kind == PT_LOAD and start <= address < start + length:
            return offset + address - start
    raise ValueError("the string table lies in no segment")


def rewrite(data, rpath):
    """`data` with the new search path, or without one when `rpath` is empty."""
    entries = list(dynamic_entries(data))
    paths = [(at, value) for at, tag, value in entries if tag in (DT_RPATH, DT_RUNPATH)]
    if not rpath:
        for at, _ in paths:
            struct.pack_into("<Q", data, at, DT_UNUSED)
        return
    if len(paths) != 1:
        raise ValueError(f"has {len(paths)} search paths, needs one to write over")
    at, value = paths[0]
    strings = file_offset(data, next(value for _, tag, value in entries if tag == DT_STRTAB))
    start = strings + value
    old = data[start:data.index(0, start)]
    new = rpath.encode()
    if len(new) > len(old):
        raise ValueError(f"its search path '{old.decode()}' is too short for '{rpath}'")
    # What follows the new end stays: other names may be tails of the old text.
    data[start:start + len(new) + 1] = new + b"\0"
    struct.pack_into("<Q", data, at, DT_RPATH)


def main(arguments):
    if len(arguments) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    for name in arguments[1:]:
        with open(name, "r+b") as file:
            data = bytearray(file.read())
            try:
                rewrite(data, arguments[0])
            except (ValueError, StopIteration, struct.error, IndexError) as error:
                print(f"{name}: {error}", file=sys.stderr)
                return 1
            file.seek(0)
            file.write(data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
