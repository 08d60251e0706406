"""The scripts that judge the product are judged here, each against a slow and obvious second implementation."""
import collections
import json
import math
import pathlib
import subprocess
import sys
import tempfile
import unittest

import h5py
import numpy as np

SCRIPTS = pathlib.Path(__file__).resolve().parents[2] / "scripts"
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KINDS = ("master", "moment1", "moment2")


def run(script, *arguments):
    command = [sys.executable, str(SCRIPTS / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def mix64(x):
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ x >> 27) * 0x94D049BB133111EB & MASK
    return x ^ x >> 31


def combine64(a, b):
    return mix64(((a ^ b) + GOLDEN) & MASK)


def hash_text(text):
    data, value = text.encode(), 0
    while len(data) >= 8:
        value, data = combine64(value, int.from_bytes(data[:8], "little")), data[8:]
    return combine64(combine64(value, int.from_bytes(data, "little")), len(text.encode()))


def naive_digest(state, block_elems):
    total, blocks = 0, 0
    for kind_number, kind in enumerate(KINDS):
        for name, values in state[kind].items():
            words = values.view(np.uint32).ravel().tolist()
            for block, begin in enumerate(range(0, len(words), block_elems)):
                key = combine64(combine64(hash_text(name), kind_number), block)
                inner = 0
                for j, word in enumerate(words[begin:begin + block_elems]):
                    inner += mix64(mix64((key + j * GOLDEN) & MASK) ^ word)
                total += mix64(inner & MASK ^ key)
                blocks += 1
    return combine64(total & MASK, blocks), blocks


class StateDigest(unittest.TestCase):
    block_elems = 16

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.dump = pathlib.Path(self.folder.name) / "state.h5"
        draw = np.random.default_rng(5)
        shapes = {"wte.weight": (7, 9), "h.0.ln_1.weight": (16,), "ln_f.bias": (5,)}
        self.state = {kind: {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
                      for kind in KINDS}
        self.digest, blocks = naive_digest(self.state, self.block_elems)
        with h5py.File(self.dump, "w") as file:
            for kind, tensors in self.state.items():
                for name, values in tensors.items():
                    file.create_dataset(f"{kind}/{name}", data=values)
            file.attrs["step"] = np.int64(3)
            file.attrs["block_elems"] = np.int64(self.block_elems)
            file.attrs["block_count"] = np.int64(blocks)
            file.attrs["state_digest"] = np.bytes_(f"{self.digest:016x}")

    def test_agrees_with_the_definition(self):
        done = run("state_digest.py", self.dump)
        self.assertEqual((done.returncode, done.stdout), (0, f"{self.digest:016x}\n"), done.stderr)

    def test_agrees_with_the_program(self):
        # From io/base/hash.h, compiled: ties this file's mix64 to the product's.
        self.assertEqual(mix64(1), 0x5692161D100B05E5)
        self.assertEqual(combine64(1, 2), 0x1D0B14E4DB018FED)
        self.assertEqual(hash_text("h.0.attn.c_attn.weight"), 0x53531FDB37641D95)

    def test_flipped_bits_are_seen(self):
        seen = {self.digest}
        for kind in KINDS:
            for name, element, bit in (("wte.weight", 62, 31), ("h.0.ln_1.weight", 0, 0), ("ln_f.bias", 4, 17)):
                done = run("state_digest.py", self.dump, "--flip", f"{kind}:{name}:{element}:{bit}")
                self.assertEqual(done.returncode, 1, done.stderr)
                digest = int(done.stdout, 16)
                self.assertNotIn(digest, seen)
                seen.add(digest)

    def test_wrong_count_is_seen(self):
        with h5py.File(self.dump, "r+") as file:
            file.attrs["block_count"] = np.int64(1)
        self.assertEqual(run("state_digest.py", self.dump).returncode, 1)

    def test_bad_input_is_named(self):
        for flip in ("master:wte.weight:63:0", "master:wte.weight:0:32", "weights:wte.weight:0:0", "master:none:0:0"):
            self.assertEqual(run("state_digest.py", self.dump, "--flip", flip).returncode, 2, flip)
        (pathlib.Path(self.folder.name) / "text").write_text("no state")
        self.assertEqual(run("state_digest.py", pathlib.Path(self.folder.name) / "text").returncode, 3)


class NaiveNgram:
    """Witten-Bell and modified Kneser-Ney with dictionaries, one token at a time."""

    vocab = 257

    def __init__(self, train, order):
        self.order = order
        self.raw = [self.followers(train, n) for n in range(order + 1)]
        self.kn = [self.continuation(self.raw[n + 1]) for n in range(order)] + [self.raw[order]]
        self.discounts = [self.estimate(table) for table in self.kn]

    @staticmethod
    def followers(tokens, n):
        table = collections.defaultdict(collections.Counter)
        for i in range(n, len(tokens)):
            table[tuple(tokens[i - n:i])][tokens[i]] += 1
        return table

    @staticmethod
    def continuation(longer):
        table = collections.defaultdict(collections.Counter)
        for context, counts in longer.items():
            for token in counts:
                table[context[1:]][token] += 1
        return table

    @staticmethod
    def estimate(table):
        histogram = collections.Counter(count for counts in table.values() for count in counts.values())
        n1, n2, n3, n4 = (histogram[i] for i in (1, 2, 3, 4))
        if 0 in (n1, n2, n3):
            return [0.5] * 3
        y = n1 / (n1 + 2 * n2)
        return [min(max(d, 0), i) for i, d in
                enumerate((1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3), start=1)]

    def witten_bell(self, token, context, n):
        if n < 0:
            return 1 / self.vocab
        counts = self.raw[n].get(context[len(context) - n:], {})
        lower = self.witten_bell(token, context, n - 1)
        if not counts:
            return lower
        return (counts.get(token, 0) + len(counts) * lower) / (sum(counts.values()) + len(counts))

    def kneser_ney(self, token, context, n):
        if n < 0:
            return 1 / self.vocab
        counts = self.kn[n].get(context[len(context) - n:], {})
        lower = self.kneser_ney(token, context, n - 1)
        if not counts:
            return lower
        freed = sum(self.discounts[n][min(count, 3) - 1] for count in counts.values())
        own = counts.get(token, 0)
        own -= self.discounts[n][min(own, 3) - 1] if own else 0
        return (own + freed * lower) / sum(counts.values())


class Ngram(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.text = pathlib.Path(self.folder.name) / "text"
        draw = np.random.default_rng(11)
        words = ["lo", "and", "behold", "the", "rain", "in", "Spain"]
        self.text.write_bytes(" ".join(draw.choice(words, 400)).encode())
        tokens = list(self.text.read_bytes()) + [256]
        held_out = math.floor(len(tokens) * 0.05)
        self.train, self.val = tokens[:-held_out], tokens[-held_out:]

    def check(self, output):
        rows = [line.split() for line in output.splitlines()[2:-1]]
        joined, scores = self.train[-3:] + self.val, []
        for order in range(4):
            model = NaiveNgram(self.train, order)
            for method, printed in ((model.witten_bell, rows[order][1]), (model.kneser_ney, rows[order][2])):
                nats = [-math.log(method(joined[i], tuple(joined[i - order:i]), order)) for i in range(3, len(joined))]
                scores.append(sum(nats) / len(nats))
                self.assertAlmostEqual(scores[-1], float(printed), places=5)
                context = tuple(joined[3 - order:3])
                self.assertAlmostEqual(sum(method(t, context, order) for t in range(257)), 1.0, places=9)
        self.assertIn(f"nats={min(scores):.6f}", output.splitlines()[-1])

    def test_text(self):
        output = pathlib.Path(self.folder.name) / "scores.json"
        done = run("ngram.py", "--text", self.text, "--json", output)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check(done.stdout)
        best = json.loads(output.read_text())["best"]
        self.assertIn(f"best order={best['order']} smoothing={best['smoothing']} nats={best['loss']:.6f}", done.stdout)

    def test_token_files(self):
        paths = []
        for name, tokens in (("train", self.train), ("val", self.val)):
            header = b"EWTOKENS" + np.array([1, 4096], "<u4").tobytes() + np.array([257, len(tokens), 0], "<i8").tobytes()
            header += np.array([2, 8], "<u4").tobytes() + b"bytes-v1"
            paths.append(pathlib.Path(self.folder.name) / name)
            paths[-1].write_bytes(header.ljust(4096, b"\0") + np.array(tokens, "<u2").tobytes())
        done = run("ngram.py", "--train", paths[0], "--val", paths[1])
        self.assertEqual(done.returncode, 0, done.stderr)
        self.check(done.stdout)

    def test_bad_input_is_named(self):
        self.assertEqual(run("ngram.py").returncode, 2)
        self.assertEqual(run("ngram.py", "--text", self.text, "--val_fraction", "1").returncode, 2)
        self.assertEqual(run("ngram.py", "--train", self.text, "--val", self.text).returncode, 3)


if __name__ == "__main__":
    unittest.main()
