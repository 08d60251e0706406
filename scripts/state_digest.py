#!/usr/bin/python3
"""Recomputes state_digest from a state dump (HDF5) or a checkpoint, sharing no code with the program that wrote it.

    scripts/state_digest.py DUMP.h5 | RUN/checkpoints/step-... [--flip KIND:NAME:ELEMENT:BIT]

The dump holds /master/<name>, /moment1/<name>, /moment2/<name> (f32, canonical shape) and the root attributes step,
block_elems, block_count and state_digest (16 hex digits). Of a checkpoint the tensors are read through index.h5, and the
digest it should have is the manifest's (there when it was computed at that step). Definition, all in unsigned 64-bit arithmetic:

    mix64, combine64, hash_text   as in io/base/hash.h
    kind k                        0 master, 1 moment1, 2 moment2
    block b of a tensor           elements [b * block_elems, (b + 1) * block_elems) of the flattened tensor
    key        = combine64(combine64(hash_text(name), k), b)
    inner      = sum over j of mix64(mix64(key + j * golden) ^ w_j)      w_j: the 32 bits of element j of the block
    block hash = mix64(inner ^ key)
    digest     = combine64(sum of all block hashes, number of blocks)

Prints the digest. Exit code 0: equal to the attribute; 1: different, or a block count that differs; 2: usage;
3: not a state dump. --flip changes one bit of one element in memory first (to show that every bit counts), for
example --flip master:h.0.ln_1.weight:17:31.
"""
import argparse
import json
import os
import sys

import h5py
import numpy as np

GOLDEN = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
KINDS = ("master", "moment1", "moment2")
DUMP_GROUPS = dict(zip(KINDS, KINDS))
CHECKPOINT_GROUPS = dict(zip(KINDS, ("model", "optimizer/exp_avg", "optimizer/exp_avg_sq")))
BLOCK_ELEMS = 16384  # part of the definition; a dump says so itself
CHUNK_ELEMS = 1 << 17  # temporaries of this many words stay in the cache


def mix64(x):
    x ^= x >> 30
    x = x * 0xBF58476D1CE4E5B9 & MASK
    x ^= x >> 27
    x = x * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def combine64(value, other):
    return mix64(((value ^ other) + GOLDEN) & MASK)


def hash_text(text):
    data = text.encode()
    value = 0
    whole = len(data) // 8 * 8
    for i in range(0, whole, 8):
        value = combine64(value, int.from_bytes(data[i:i + 8], "little"))
    return combine64(combine64(value, int.from_bytes(data[whole:], "little")), len(data))


def mix64_in_place(x, spare):
    """mix64 of a whole uint64 array; numpy's unsigned arithmetic wraps like C's."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, None)):
        np.right_shift(x, np.uint64(shift), out=spare)
        np.bitwise_xor(x, spare, out=x)
        if factor is not None:
            np.multiply(x, np.uint64(factor), out=x)


class TensorHasher:
    """Adds up block hashes; holds the scratch arrays so that large tensors allocate nothing."""

    def __init__(self, block_elems):
        self.block_elems = block_elems
        self.blocks_at_once = max(1, CHUNK_ELEMS // block_elems)
        self.offsets = np.arange(block_elems, dtype=np.uint64) * np.uint64(GOLDEN)
        shape = (self.blocks_at_once, block_elems)
        self.values, self.spare = np.empty(shape, np.uint64), np.empty(shape, np.uint64)
        self.total, self.blocks = 0, 0

    def add_rows(self, prefix, first_block, words):
        """words: [blocks, elems of each], uint32."""
        rows, cols = words.shape
        keys = [combine64(prefix, first_block + row) for row in range(rows)]
        values, spare = self.values[:rows, :cols], self.spare[:rows, :cols]
        np.add(np.array(keys, np.uint64)[:, None], self.offsets[None, :cols], out=values)
        mix64_in_place(values, spare)
        np.bitwise_xor(values, words, out=values)
        mix64_in_place(values, spare)
        for key, inner in zip(keys, values.sum(axis=1, dtype=np.uint64).tolist()):
            self.total = (self.total + mix64(inner ^ key)) & MASK
        self.blocks += rows

    def add_tensor(self, name, kind, words):
        prefix = combine64(hash_text(name), kind)
        whole = len(words) // self.block_elems
        for block in range(0, whole, self.blocks_at_once):
            end = min(block + self.blocks_at_once, whole)
            rows = words[block * self.block_elems:end * self.block_elems].reshape(end - block, self.block_elems)
            self.add_rows(prefix, block, rows)
        if whole * self.block_elems < len(words):
            self.add_rows(prefix, whole, words[whole * self.block_elems:][None, :])

    def digest(self):
        return combine64(self.total, self.blocks)


def fail(code, *lines):
    for line in lines:
        print(f"state_digest: {line}", file=sys.stderr)
    sys.exit(code)


def parse_flip(text):
    # Tensor names hold dots but no colons.
    parts = text.split(":")
    if len(parts) != 4 or parts[0] not in KINDS or not parts[2].isdigit() or not parts[3].isdigit():
        fail(2, f"--flip {text}", "why: it takes KIND:NAME:ELEMENT:BIT with KIND one of " + ", ".join(KINDS))
    return parts[0], parts[1], int(parts[2]), int(parts[3])


def flip_bit(words, flip, path):
    _, name, element, bit = flip
    if element >= len(words) or bit >= 32:
        fail(2, f"{path}: {name} has {len(words)} elements of 32 bits", f"why: element {element}, bit {bit} was asked")
    words[element] ^= np.uint32(1 << bit)


def read_attributes(file, path):
    missing = [name for name in ("block_elems", "block_count", "state_digest") if name not in file.attrs]
    missing += [kind for kind in KINDS if kind not in file]
    if missing:
        fail(3, f"{path} is not a state dump", "why: it has no " + ", ".join(missing))
    recorded = file.attrs["state_digest"]
    recorded = recorded.decode() if isinstance(recorded, bytes) else str(recorded)
    block_elems = int(file.attrs["block_elems"])
    if block_elems <= 0:
        fail(3, f"{path} is not a state dump", f"why: block_elems is {block_elems}")
    return block_elems, int(file.attrs["block_count"]), recorded.strip("\0 ").lower()


def read_manifest(path):
    with open(os.path.join(path, "MANIFEST.json"), encoding="utf-8") as file:
        recorded = json.load(file)["state_digest"]
    if recorded is None:
        fail(3, f"{path} does not say its digest", "why: it was not computed at that step (log.digest_every)")
    return recorded


def tensor_names(file, path, groups):
    names = {kind: sorted(file[groups[kind]].keys()) for kind in KINDS}
    if not names["master"] or any(names[kind] != names["master"] for kind in KINDS):
        fail(3, f"{path}: the tensors of master, moment1 and moment2 are not the same")
    return names["master"]


def digest_of(file, path, groups, block_elems, flip):
    hasher, flipped = TensorHasher(block_elems), False
    for kind_number, kind in enumerate(KINDS):
        for name in tensor_names(file, path, groups):
            dataset = file[groups[kind]][name]
            if dataset.dtype != np.dtype("<f4"):
                fail(3, f"{path}: /{kind}/{name} is {dataset.dtype}, not little-endian f32")
            words = np.ascontiguousarray(dataset[()]).reshape(-1).view(np.uint32)
            if flip and flip[:2] == (kind, name):
                flip_bit(words, flip, path)
                flipped = True
            hasher.add_tensor(name, kind_number, words)
    if flip and not flipped:
        fail(2, f"{path} has no tensor /{flip[0]}/{flip[1]}")
    return hasher


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dump")
    parser.add_argument("--flip", metavar="KIND:NAME:ELEMENT:BIT")
    options = parser.parse_args()
    flip = parse_flip(options.flip) if options.flip else None
    try:
        if os.path.isdir(options.dump):
            recorded, block_count = read_manifest(options.dump), None
            with h5py.File(os.path.join(options.dump, "index.h5"), "r") as file:
                hasher = digest_of(file, options.dump, CHECKPOINT_GROUPS, BLOCK_ELEMS, flip)
        else:
            with h5py.File(options.dump, "r") as file:
                block_elems, block_count, recorded = read_attributes(file, options.dump)
                hasher = digest_of(file, options.dump, DUMP_GROUPS, block_elems, flip)
    except OSError as error:
        fail(3, f"{options.dump} cannot be read", f"why: {error}")
    digest = f"{hasher.digest():016x}"
    print(digest)
    if block_count is not None and hasher.blocks != block_count:
        fail(1, f"{hasher.blocks} blocks in the data, {block_count} in the attribute")
    if digest != recorded:
        fail(1, f"the attribute says {recorded}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
