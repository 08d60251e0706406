#!/usr/bin/env python3
"""index.h5 as h5py users see it. Usage: checkpoint_index_h5py.py CHECKPOINT_SAMPLE

CHECKPOINT_SAMPLE DIR writes the checkpoint of tests/unit/checkpoint_sample.h: element e of tensor t and kind k is
100000 k + 1000 t + e."""

import os
import subprocess
import sys
import tempfile

import h5py
import numpy

TENSORS = {
    "transformer.wte.weight": (37, 6),
    "transformer.h.0.ln_1.weight": (7,),
    "transformer.h.0.attn.c_attn.weight": (6, 18),
    "transformer.ln_f.bias": (3,),
}
KINDS = ["model", "optimizer/exp_avg", "optimizer/exp_avg_sq"]


def expect(condition, message):
    if not condition:
        raise SystemExit(f"FAILED: {message}")


def check_tensors(file):
    for k, kind in enumerate(KINDS):
        expect(list(file[kind]) == list(TENSORS), f"{kind} lists {list(file[kind])}")
        for t, (name, shape) in enumerate(TENSORS.items()):
            dataset = file[kind][name]
            expect(dataset.shape == shape and dataset.dtype == numpy.dtype("<f4"), f"{kind} {name}: {dataset}")
            wanted = (100000 * k + 1000 * t + numpy.arange(numpy.prod(shape))).reshape(shape).astype("<f4")
            expect(numpy.array_equal(dataset[:], wanted), f"{kind} {name} has other values")
            expect(numpy.array_equal(dataset[1:3], wanted[1:3]), f"{kind} {name}[1:3] has other values")
            if len(shape) == 2:
                expect(numpy.array_equal(dataset[:, 1], wanted[:, 1]), f"{kind} {name}[:, 1] has other values")


def check_attributes(file):
    wanted = {"format": "elaswave-checkpoint", "format_version": 1, "run": "0123abcd", "writer": "elaswave 0.1.0 ü",
              "created": "2026-11-21T10:00:00Z", "step": 12, "generation": 3}
    expect(dict(file.attrs) == wanted, f"root has {dict(file.attrs)}")
    expect(list(file.attrs) == list(wanted), f"root lists {list(file.attrs)}")
    expect(all(type(file.attrs[key]) is str for key in ("format", "run", "writer", "created")), "texts are not str")
    wanted = {"step": 12, "updates": 11, "samples": 3072, "tokens": 3 << 40, "loss": 3.25}
    expect(dict(file["trainer"].attrs) == wanted, f"/trainer has {dict(file['trainer'].attrs)}")
    config = [(f"section.key{i}", str(i)) for i in range(20, 0, -1)]
    expect(list(file["config"].attrs.items()) == config, f"/config has {list(file['config'].attrs.items())}")
    facts = [("tokenizer", "bytes"), ("data", "crc32c:1"), ("empty", "")]
    expect(list(file["facts"].attrs.items()) == facts, f"/facts has {list(file['facts'].attrs.items())}")
    # The root by its path: asked through the file object, h5py 3.7 does not see that its order is kept.
    expect(list(file["/"]) == ["model", "optimizer", "trainer", "config", "facts"], f"root lists {list(file['/'])}")


def check(directory):
    with h5py.File(os.path.join(directory, "index.h5"), "r") as file:
        check_tensors(file)
        check_attributes(file)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        first, second = os.path.join(scratch, "first"), os.path.join(scratch, "second")
        os.mkdir(first)
        subprocess.run([os.path.abspath(sys.argv[1]), first], check=True, timeout=60)
        os.chdir("/")
        check(first)
        os.chdir(scratch)
        check("first")
        os.rename(first, second)
        check(second)
        os.chdir(second)
        check(".")
        with h5py.File("shards/w00001.h5", "r") as shard:  # a shard by itself is a plain file, too
            expect(shard["master"][0] == 16, "the shard has other values")
        os.remove("shards/w00000.h5")
        with h5py.File("index.h5", "r") as file:
            values = file["model/transformer.wte.weight"][:].reshape(-1)
        expect(numpy.isnan(values[:16]).all() and values[16] == 16, "a missing shard is not seen as NaN")


main()
