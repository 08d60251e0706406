#!/usr/bin/env python3
"""Loads an exported folder (model.safetensors, config.json) with Hugging Face's transformers and compares logits.

    python3 -m venv ENV && ENV/bin/pip install torch transformers safetensors numpy
    ENV/bin/python tests/reference/transformers_check.py FOLDER --tokens '3,1,4;1,5,9' --logits FILE --shape 2x3x131

FILE holds our logits after every token as little-endian f32 [sample, position, vocab], nothing else; --tokens are the ids,
samples apart by ';'. The judge is the loaded model in float64. Accepted, as in pytorch/README.md, section Tolerance:

    ||ours - judge|| <= (2 * e + 4 * 2^-24) * ||judge||

where e is the largest relative error, in the 2-norm, of the loaded model itself in float32 over orders of evaluation that
are equal in exact arithmetic (plain and fused attention; samples together and one by one). Every tensor of the model must
come from the file and every tensor of the file must be used; lm_head is tied. Exit code 0: agrees; 1: does not; 2: usage.
"""
import argparse
import pathlib
import sys

import numpy as np
import torch
import transformers

ROUNDINGS = 4 * 2.0**-24  # see pytorch/README.md
ATTENTIONS = ("eager", "sdpa")


def load(folder, attention):
    model, info = transformers.GPT2LMHeadModel.from_pretrained(folder, attn_implementation=attention,
                                                               output_loading_info=True, dtype=torch.float32)
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = set(map(str, info[kind])) - {"lm_head.weight"}
        if names:
            sys.exit(f"{folder}: {kind} {sorted(names)}")
    if model.lm_head.weight.data_ptr() != model.transformer.wte.weight.data_ptr():
        sys.exit(f"{folder}: the head is not tied to the embedding")
    return model.eval()


@torch.no_grad()
def logits_of(model, tokens, together):
    parts = [tokens] if together else [row[None] for row in tokens]
    return np.concatenate([model(part, use_cache=False).logits.double().numpy() for part in parts])


def relative_error(values, judge):
    return np.linalg.norm((values - judge).ravel()) / np.linalg.norm(judge.ravel())


def parse():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    parser.add_argument("--tokens", required=True)
    parser.add_argument("--logits", required=True)
    parser.add_argument("--shape", required=True, help="SAMPLESxPOSITIONSxVOCAB")
    arguments = parser.parse_args()
    arguments.shape = tuple(int(dim) for dim in arguments.shape.split("x"))
    rows = [[int(token) for token in row.split(",")] for row in arguments.tokens.split(";")]
    if len({len(row) for row in rows}) != 1 or arguments.shape[:2] != (len(rows), len(rows[0])):
        parser.error(f"{len(rows)} rows of tokens do not fit the shape {arguments.shape}")
    arguments.tokens = torch.tensor(rows)
    return arguments


def main():
    arguments = parse()
    text = pathlib.Path(arguments.logits).read_bytes()
    if len(text) != 4 * np.prod(arguments.shape):
        print(f"{arguments.logits}: {len(text)} bytes are not {arguments.shape} f32")
        return 2
    ours = np.frombuffer(text, "<f4").reshape(arguments.shape).astype(np.float64)
    judge = logits_of(load(arguments.folder, "eager").double(), arguments.tokens, True)
    if judge.shape != ours.shape:
        print(f"the loaded model gives {judge.shape}, not {ours.shape}")
        return 1
    theirs = max(relative_error(logits_of(load(arguments.folder, attention), arguments.tokens, together), judge)
                 for attention in ATTENTIONS for together in (True, False))
    error, limit = relative_error(ours, judge), 2 * theirs + ROUNDINGS
    agrees = bool(error <= limit)  # a NaN does not
    print(f"transformers {transformers.__version__}, torch {torch.__version__}: our error {error:.3g}, limit {limit:.3g}, "
          f"transformers' own in float32 {theirs:.3g}: {'agrees' if agrees else 'DIFFERS'}")
    return 0 if agrees else 1


if __name__ == "__main__":
    sys.exit(main())
