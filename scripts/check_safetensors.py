#!/usr/bin/python3
"""Checks safetensors files strictly against the format, sharing no code with the program that writes them.

    scripts/check_safetensors.py FILE... [--against FILE.h5] [--prefix PREFIX]
    scripts/check_safetensors.py --self-test    plants one offence of each rule and demands that it is seen

Format (github.com/huggingface/safetensors, README.md and tensor.rs): u64 little-endian N; N bytes of JSON that begin with
'{' and may end in spaces; the numbers. Rules: N at most 100,000,000; no key twice; every entry has dtype, shape and
data_offsets and nothing else; sizes as shape and dtype say; sorted by offset the tensors leave no gap, begin at 0 and end
with the file; __metadata__ maps strings to strings. Writers' conventions, demanded as well: N % 8 == 0; __metadata__ has
"format": "pt"; tensors lie by descending alignment, then by name.

Prints one line a file. With --against, every array must equal the dataset /model/<name without PREFIX> of an HDF5 file (an
exported one or a checkpoint's index.h5), bit for bit, and none may be missing. When the `safetensors` package can be
imported, it must read the same. Exit code 0: all is right; 1: a file offends; 2: usage.
"""
import argparse
import json
import math
import pathlib
import struct
import sys
import tempfile

import numpy as np

HEADER_LIMIT_BYTES = 100_000_000
DTYPES = {"F64": "<f8", "I64": "<i8", "U64": "<u8", "F32": "<f4", "I32": "<i4", "U32": "<u4", "F16": "<f2", "I16": "<i2",
          "U16": "<u2", "BF16": "<u2", "I8": "<i1", "U8": "<u1", "BOOL": "<u1"}


class Offence(Exception):
    pass


def demand(condition, what):
    if not condition:
        raise Offence(what)


def without_twins(pairs):
    keys = [key for key, _ in pairs]
    demand(len(set(keys)) == len(keys), f"a key twice among {sorted(keys)}")
    return dict(pairs)


def is_size(value):
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def parse_header(data):
    """(entries, metadata, first byte of the numbers)"""
    demand(len(data) >= 8, "shorter than its length field")
    length = struct.unpack("<Q", data[:8])[0]
    demand(length <= HEADER_LIMIT_BYTES, f"a header of {length} bytes")
    demand(8 + length <= len(data), f"a header of {length} bytes in a file of {len(data)}")
    demand(length % 8 == 0, f"a header of {length} bytes, not a multiple of 8")
    text = data[8:8 + length]
    demand(text[:1] == b"{", "the header does not begin with {")
    try:
        header = json.loads(text.decode("utf-8").rstrip(" "), object_pairs_hook=without_twins)
    except ValueError as problem:
        raise Offence(f"the header is no JSON: {problem}") from problem
    demand(text.rstrip(b" ").endswith(b"}"), "the header is padded with something else than spaces")
    metadata = header.pop("__metadata__", None)
    demand(isinstance(metadata, dict), "no __metadata__")
    demand(all(isinstance(value, str) for value in metadata.values()), "__metadata__ holds more than strings")
    demand(metadata.get("format") == "pt", "__metadata__ lacks format: pt")
    return header, metadata, 8 + length


def check_entry(name, entry):
    demand(isinstance(entry, dict) and set(entry) == {"dtype", "shape", "data_offsets"}, f"{name}: fields {entry}")
    demand(entry["dtype"] in DTYPES, f"{name}: dtype {entry['dtype']}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    demand(isinstance(shape, list) and all(map(is_size, shape)), f"{name}: shape {shape}")
    demand(isinstance(offsets, list) and len(offsets) == 2 and all(map(is_size, offsets)), f"{name}: offsets {offsets}")
    size = math.prod(shape) * np.dtype(DTYPES[entry["dtype"]]).itemsize
    demand(offsets[1] - offsets[0] == size, f"{name}: {offsets[1] - offsets[0]} bytes, its shape needs {size}")


def load(path):
    """name -> array. Raises Offence."""
    data = pathlib.Path(path).read_bytes()
    header, _, begin = parse_header(data)
    for name, entry in header.items():
        check_entry(name, entry)
    order = sorted(header, key=lambda name: (header[name]["data_offsets"], name))
    end = 0
    for name in order:
        demand(header[name]["data_offsets"][0] == end, f"{name} begins at {header[name]['data_offsets'][0]}, not at {end}")
        end = header[name]["data_offsets"][1]
    demand(begin + end == len(data), f"{len(data)} bytes, the header speaks of {begin + end}")
    wanted = sorted(header, key=lambda name: (-np.dtype(DTYPES[header[name]["dtype"]]).itemsize, name.encode()))
    demand(all(header[a]["data_offsets"] <= header[b]["data_offsets"] for a, b in zip(wanted, wanted[1:])),
           "tensors do not lie by alignment and name")
    return {name: np.frombuffer(data, DTYPES[header[name]["dtype"]], offset=begin + header[name]["data_offsets"][0],
                                count=math.prod(header[name]["shape"])).reshape(header[name]["shape"]) for name in wanted}


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_with_package(path, arrays):
    """Whether the package was there."""
    try:
        from safetensors.numpy import load_file
    except ImportError:
        return False
    try:
        theirs = load_file(path)
    except Exception as problem:  # whatever it says, the file does not load
        raise Offence(f"the safetensors package refuses it: {problem}") from problem
    demand(theirs.keys() == arrays.keys(), "the safetensors package sees other names")
    for name, values in arrays.items():
        demand(same_bits(theirs[name], values), f"the safetensors package reads other numbers in {name}")
    return True


def check_against(arrays, path, prefix):
    import h5py
    with h5py.File(path, "r") as file:
        model = file["model"]
        demand({prefix + name for name in model} == arrays.keys(), f"{path} holds other names")
        for name in model:
            demand(same_bits(model[name][()], arrays[prefix + name]), f"{name} differs from {path}")


def check(path, against, prefix):
    arrays = load(path)
    package = check_with_package(path, arrays)
    if against:
        check_against(arrays, against, prefix)
    elems = sum(values.size for values in arrays.values())
    print(f"{path}: {len(arrays)} tensors, {elems} elements"
          + (", the safetensors package agrees" if package else "")
          + (f", equal to {against}" if against else ""))


def file_of(header, numbers, length=None):
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text) if length is None else length) + text + numbers


def self_test():
    meta = '"__metadata__":{"format":"pt"}'
    one = '"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}'
    two = '"b":{"dtype":"F32","shape":[],"data_offsets":[8,12]}'
    good = "{%s,%s,%s}" % (meta, one, two)
    numbers = bytes(range(12))
    offences = {
        "empty file": b"",
        "length beyond the file": file_of(good, numbers, length=1 << 20),
        "length beyond the limit": file_of(good, numbers, length=HEADER_LIMIT_BYTES + 8),
        "length not a multiple of 8": struct.pack("<Q", len(good)) + good.encode() + numbers if len(good) % 8 else
                                      struct.pack("<Q", len(good) + 1) + good.encode() + b" " + numbers,
        "space in front": file_of(" " + good, numbers),
        "line end as padding": file_of(good + "\n" * (-len(good) % 8 or 8), numbers),
        "no JSON": file_of(good[:-1], numbers),
        "key twice": file_of("{%s,%s,%s,%s}" % (meta, one, two, two), numbers),
        "no metadata": file_of("{%s,%s}" % (one, two), numbers),
        "other format": file_of(good.replace('"pt"', '"np"'), numbers),
        "number in metadata": file_of(good.replace('"pt"', '"pt","step":3'), numbers),
        "unknown field": file_of(good.replace('"shape":[2]', '"shape":[2],"x":1'), numbers),
        "unknown dtype": file_of(good.replace("F32", "F31"), numbers),
        "negative dim": file_of(good.replace("[2]", "[-2,-1]"), numbers),
        "size unlike shape": file_of(good.replace("[2]", "[3]"), numbers),
        "gap": file_of(good.replace("[8,12]", "[12,16]"), numbers + bytes(4)),
        "overlap": file_of(good.replace("[8,12]", "[4,8]"), numbers[:8]),
        "begins late": file_of("{%s,%s}" % (meta, one.replace("[0,8]", "[4,12]")), numbers),
        "byte too many": file_of(good, numbers + b"\0"),
        "byte too few": file_of(good, numbers[:-1]),
        "other order": file_of("{%s,%s,%s}" % (meta, one.replace('"a"', '"c"'), two), numbers),
    }
    failures = 0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "file.safetensors"
        path.write_bytes(file_of(good, numbers))
        check(path, None, "")
        for rule, content in offences.items():
            path.write_bytes(content)
            try:
                load(path)
                print(f"not seen: {rule}")
                failures += 1
            except Offence:
                pass
    print(f"campaign: {len(offences)} planted offences, {failures} not seen")
    return 1 if failures else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--against", metavar="FILE.h5")
    parser.add_argument("--prefix", default="transformer.")
    parser.add_argument("--self-test", action="store_true")
    arguments = parser.parse_args()
    if arguments.self_test:
        return self_test()
    if not arguments.files:
        parser.error("no file given")
    code = 0
    for path in arguments.files:
        try:
            check(path, arguments.against, arguments.prefix)
        except Offence as offence:
            print(f"{path}: {offence}")
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
