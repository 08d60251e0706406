#!/usr/bin/python3
"""The best byte-level n-gram of order 0 to 3 as the mark a trained model has to beat, in nats per token.

    scripts/ngram.py --train TRAIN.tok --val VAL.tok           token files of `elaswave data prepare`
    scripts/ngram.py --text FILE... [--val_fraction 0.05]      plain text, split as `data prepare --val_fraction` does

Order n predicts a token from the n before it. Each order is fitted on the training part alone, smoothed in two ways,
Witten-Bell (Witten and Bell 1991) and interpolated modified Kneser-Ney (Chen and Goodman 1999), and the better of the
two ON THE HELD-OUT PART counts: the choice favours the n-gram. Every held-out token is scored, the first ones with the
end of the training part as context. Prints a table; the last line is `best order=3 smoothing=... nats=1.234567`.
--json FILE also writes {"best": {"order", "smoothing", "loss"}, "scores": [the same for each]}.
Needs numpy. Exit codes: 2 usage, 3 data.
"""
import argparse
import json
import math
import sys

import numpy as np

VOCAB = 257  # bytes and the end of a document
END_OF_DOCUMENT = 256
MAX_ORDER = 3
MAGIC = b"EWTOKENS"


def fail(code, *lines):
    for line in lines:
        print(f"ngram: {line}", file=sys.stderr)
    sys.exit(code)


class Grams:
    """Distinct k-grams with counts, sorted, and per context (the k-gram without its last token): the total, and how
    many of its grams occur once, twice and more often."""

    def __init__(self, codes, counts):
        self.codes, self.counts = codes, counts
        contexts = codes // VOCAB
        starts = np.flatnonzero(np.concatenate(([True], contexts[1:] != contexts[:-1])))
        self.contexts = contexts[starts]
        self.totals = np.add.reduceat(counts, starts)
        self.kinds = [np.add.reduceat((counts == times).astype(np.int64), starts) for times in (1, 2)]
        self.kinds.append(np.add.reduceat((counts >= 3).astype(np.int64), starts))

    @staticmethod
    def count(codes):
        return Grams(*np.unique(codes, return_counts=True))

    def continuation(self, length):
        """Grams one token shorter (without the oldest), each counted once for every distinct token before it."""
        return Grams.count(self.codes % VOCAB**length)

    def gram_counts(self, codes):
        return lookup(self.codes, codes, self.counts)

    def context_values(self, codes, values):
        return lookup(self.contexts, codes // VOCAB, values)

    def discounts(self):
        """Chen and Goodman 1999, equation 26; half a count where the data are too few to estimate them. Never 0 for
        single occurrences: every context leaves some mass to the unseen."""
        n1, n2, n3, n4 = (int(np.count_nonzero(self.counts == times)) for times in (1, 2, 3, 4))
        if 0 in (n1, n2, n3):
            return [0.5, 0.5, 0.5]
        y = n1 / (n1 + 2 * n2)
        raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        return [min(max(discount, 0.0), float(times)) for times, discount in enumerate(raw, start=1)]


def lookup(keys, wanted, values):
    """values[i] where keys[i] == wanted, 0 where there is none."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0).astype(np.float64)


def gram_codes(tokens, length):
    """Code of the `length` tokens ending at each position from length - 1 on; the last token counts least."""
    codes = np.zeros(len(tokens) - length + 1, dtype=np.int64)
    for offset in range(length):
        codes = codes * VOCAB + tokens[offset:offset + len(codes)]
    return codes


def witten_bell(grams, order, codes_of):
    """Probability of each held-out token: c(hw) + T(h) P_lower over c(h) + T(h), T = distinct followers."""
    probability = np.full(len(codes_of[1]), 1.0 / VOCAB)
    for length in range(1, order + 2):
        table, codes = grams[length], codes_of[length]
        followers = table.context_values(codes, sum(table.kinds))
        total = table.context_values(codes, table.totals) + followers
        seen = total > 0
        mixed = table.gram_counts(codes) + followers * probability
        probability = np.where(seen, mixed / np.where(seen, total, 1.0), probability)
    return probability


def kneser_ney(grams, order, codes_of):
    """Interpolated modified Kneser-Ney: raw counts at the highest order, continuation counts below."""
    tables = {order + 1: grams[order + 1]}
    for length in range(order, 0, -1):
        tables[length] = grams[length + 1].continuation(length)
    probability = np.full(len(codes_of[1]), 1.0 / VOCAB)
    for length in range(1, order + 2):
        table, codes = tables[length], codes_of[length]
        discounts = table.discounts()
        counts = table.gram_counts(codes)
        discounted = counts - np.select([counts == 1, counts == 2, counts >= 3], discounts, 0.0)
        freed = sum(discount * table.context_values(codes, kind) for discount, kind in zip(discounts, table.kinds))
        total = table.context_values(codes, table.totals)
        seen = total > 0
        mixed = (discounted + freed * probability) / np.where(seen, total, 1.0)
        probability = np.where(seen, mixed, probability)
    return probability


def read_tokens(path):
    """A token file of ours (io/data/README.md): magic, then numbers in a header of 4096 bytes, then the tokens."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        fail(3, f"{path} cannot be read", f"why: {error.strerror}")
    if len(data) < 48 or data[:8] != MAGIC:
        fail(3, f"{path} is not a token file", "why: its first eight bytes are not EWTOKENS")
    header_bytes, count, token_bytes = (int.from_bytes(data[at:at + size], "little")
                                        for at, size in ((12, 4), (24, 8), (40, 4)))
    kind = {1: "<u1", 2: "<u2", 4: "<i4"}.get(token_bytes)
    if kind is None or len(data) != header_bytes + count * token_bytes:
        fail(3, f"{path} is damaged", f"why: {len(data)} bytes for {count} tokens of {token_bytes} bytes")
    tokens = np.frombuffer(data, kind, count, header_bytes)
    if tokens.size and tokens.max() >= VOCAB:
        fail(3, f"{path} holds token {tokens.max()}", f"why: this is a byte-level tool, ids are below {VOCAB}")
    return tokens.astype(np.int64)


def read_text(paths, val_fraction):
    """Each file is one document of bytes followed by its end mark; the last floor(count * fraction) are held out."""
    documents = []
    for path in paths:
        try:
            documents.append(np.fromfile(path, dtype=np.uint8).astype(np.int64))
        except OSError as error:
            fail(3, f"{path} cannot be read", f"why: {error.strerror}")
        documents.append(np.array([END_OF_DOCUMENT]))
    tokens = np.concatenate(documents)
    held_out = math.floor(len(tokens) * val_fraction)
    return tokens[:len(tokens) - held_out], tokens[len(tokens) - held_out:]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", metavar="FILE")
    parser.add_argument("--val", nargs="+", metavar="FILE")
    parser.add_argument("--text", nargs="+", metavar="FILE")
    parser.add_argument("--val_fraction", type=float, default=0.05)
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    if bool(options.text) == bool(options.train) or bool(options.train) != bool(options.val):
        fail(2, "give either --train and --val, or --text")
    if not 0 < options.val_fraction < 1:
        fail(2, f"--val_fraction {options.val_fraction}", "why: it lies between 0 and 1")
    return options


def main():
    options = parse_arguments()
    if options.text:
        train, val = read_text(options.text, options.val_fraction)
    else:
        train, val = (np.concatenate([read_tokens(path) for path in paths]) for paths in (options.train, options.val))
    if len(train) <= MAX_ORDER or len(val) == 0:
        fail(3, f"{len(train)} training and {len(val)} held-out tokens are too few")
    grams = {length: Grams.count(gram_codes(train, length)) for length in range(1, MAX_ORDER + 2)}
    joined = np.concatenate((train[-MAX_ORDER:], val))
    codes_of = {length: gram_codes(joined, length)[MAX_ORDER + 1 - length:] for length in range(1, MAX_ORDER + 2)}

    print(f"n-grams fitted on {len(train)} tokens, scored on {len(val)} held-out tokens, nats per token")
    print("order  witten-bell  kneser-ney")
    scores = []
    for order in range(MAX_ORDER + 1):
        row = [(-np.log(method(grams, order, codes_of)).mean(), order, name)
               for name, method in (("witten_bell", witten_bell), ("kneser_ney", kneser_ney))]
        print(f"{order:5d}  {row[0][0]:11.6f}  {row[1][0]:10.6f}")
        scores += row
    nats, order, name = min(scores)
    if options.json:
        records = [{"order": order, "smoothing": name, "loss": float(loss)} for loss, order, name in sorted(scores)]
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"best": records[0], "scores": records}, file, indent=1)
    print(f"best order={order} smoothing={name} nats={nats:.6f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
