#!/usr/bin/env python3
"""Computes the committed reference values of a small GPT-2 with PyTorch (see README.md for format and formulas).

    python3 -m venv /some/where && /some/where/bin/pip install torch numpy
    /some/where/bin/python tests/reference/pytorch/make_reference.py [OUTPUT]

Needs torch and numpy alone; shares no code with the product: the model, the loss, the clip and AdamW are written out
here. Every quantity is computed in float64 (the judge) and in float32 by several equivalent orders of evaluation; the
largest float32 error over those orders is stored as the yardstick for the product's own error.
"""
import pathlib
import sys

import numpy as np
import torch
import torch.nn.functional as functional

LAYERS, HEADS, HIDDEN, CONTEXT, VOCAB = 2, 3, 48, 29, 131
SAMPLES, MICRO_BATCH, STEPS = 6, 2, 20
LR, BETA1, BETA2, EPSILON, WEIGHT_DECAY, CLIP = 1e-3, 0.9, 0.95, 1e-8, 0.1, 1.0
TOKEN_STREAM = 1000
MASK32 = 0xFFFFFFFF

# (micro-batch size, attention): orders of evaluation that are equal in exact arithmetic. The first is the baseline
# whose float32 values are stored.
VARIANTS = [(MICRO_BATCH, "plain"), (MICRO_BATCH, "sdpa"), (SAMPLES, "plain"), (1, "sdpa")]


def mixed(stream, index):
    """32 well mixed bits; murmur3's finalizer (Appleby, public domain) on unsigned 32-bit integers."""
    x = (np.asarray(index, dtype=np.uint64) + np.uint64(stream * 0x9E3779B9 & MASK32)) & np.uint64(MASK32)
    x ^= x >> np.uint64(16)
    x = x * np.uint64(0x85EBCA6B) & np.uint64(MASK32)
    x ^= x >> np.uint64(13)
    x = x * np.uint64(0xC2B2AE35) & np.uint64(MASK32)
    return x ^ (x >> np.uint64(16))


def tensor_list():
    """(name, shape) in the order that numbers the tensors."""
    c = HIDDEN
    tensors = [("wte.weight", (VOCAB, c)), ("wpe.weight", (CONTEXT, c))]
    for layer in range(LAYERS):
        tensors += [(f"h.{layer}.{part}", shape) for part, shape in (
            ("ln_1.weight", (c,)), ("ln_1.bias", (c,)),
            ("attn.c_attn.weight", (c, 3 * c)), ("attn.c_attn.bias", (3 * c,)),
            ("attn.c_proj.weight", (c, c)), ("attn.c_proj.bias", (c,)),
            ("ln_2.weight", (c,)), ("ln_2.bias", (c,)),
            ("mlp.c_fc.weight", (c, 4 * c)), ("mlp.c_fc.bias", (4 * c,)),
            ("mlp.c_proj.weight", (4 * c, c)), ("mlp.c_proj.bias", (c,)))]
    return tensors + [("ln_f.weight", (c,)), ("ln_f.bias", (c,))]


def initial_weights():
    """Every step is exact in float32: 20 random bits, a power of two, and 1 added where ulp(1) divides the grid."""
    weights = {}
    for number, (name, shape) in enumerate(tensor_list()):
        count = int(np.prod(shape))
        fraction = (mixed(number, np.arange(count)) >> np.uint64(12)).astype(np.float64) * 2.0**-20 - 0.5
        if len(shape) == 2:
            values = fraction * 0.25
        elif name.split(".")[-2].startswith("ln_") and name.endswith("weight"):
            values = 1.0 + fraction * 0.25
        else:
            values = fraction * 0.0625
        weights[name] = values.astype(np.float32).reshape(shape)
        assert np.array_equal(weights[name].astype(np.float64).ravel(), values)
    return weights


def tokens_of_step(step):
    """[SAMPLES, CONTEXT + 1] token ids of step 1, 2, ...; the product of two uniforms makes small ids frequent."""
    index = (step * SAMPLES + np.arange(SAMPLES)[:, None]) * (CONTEXT + 1) + np.arange(CONTEXT + 1)[None, :]
    bits = mixed(TOKEN_STREAM, index)
    return (bits % np.uint64(VOCAB) * ((bits >> np.uint64(12)) % np.uint64(VOCAB)) // np.uint64(VOCAB)).astype(np.int64)


def attend(q, k, v, attention):
    if attention == "sdpa":
        return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    scores = q @ k.transpose(-2, -1) * (HIDDEN // HEADS) ** -0.5
    future = torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1)
    return functional.softmax(scores.masked_fill(future, float("-inf")), dim=-1) @ v


def logits_of(weights, tokens, attention):
    """GPT-2 as published: learned positions, pre-norm, tied head, biases, tanh GELU. tokens [B, T] -> [B, T, V]."""
    x = functional.embedding(tokens, weights["wte.weight"]) + weights["wpe.weight"]
    batch = tokens.shape[0]

    def norm(x, name):
        return functional.layer_norm(x, (HIDDEN,), weights[name + ".weight"], weights[name + ".bias"], 1e-5)

    def linear(x, name):
        return x @ weights[name + ".weight"] + weights[name + ".bias"]

    for layer in range(LAYERS):
        h = f"h.{layer}."
        qkv = linear(norm(x, h + "ln_1"), h + "attn.c_attn").split(HIDDEN, dim=2)
        q, k, v = (t.view(batch, CONTEXT, HEADS, HIDDEN // HEADS).transpose(1, 2) for t in qkv)
        y = attend(q, k, v, attention).transpose(1, 2).reshape(batch, CONTEXT, HIDDEN)
        x = x + linear(y, h + "attn.c_proj")
        y = functional.gelu(linear(norm(x, h + "ln_2"), h + "mlp.c_fc"), approximate="tanh")
        x = x + linear(y, h + "mlp.c_proj")
    return norm(x, "ln_f") @ weights["wte.weight"].T


def adamw(weight, gradient, state, step, decay):
    """Loshchilov and Hutter 2019, algorithm 2, decoupled decay scaled by the learning rate (as torch.optim.AdamW)."""
    moment1, moment2 = state
    weight.mul_(1 - LR * decay)
    moment1.mul_(BETA1).add_(gradient, alpha=1 - BETA1)
    moment2.mul_(BETA2).addcmul_(gradient, gradient, value=1 - BETA2)
    denominator = (moment2.sqrt() / (1 - BETA2**step) ** 0.5).add_(EPSILON)
    weight.addcdiv_(moment1, denominator, value=-LR / (1 - BETA1**step))


def gradients_of_step(weights, step, micro_batch, attention):
    """Mean over all tokens of the global batch, as the mean over micro-batches of their means."""
    tokens = torch.from_numpy(tokens_of_step(step))
    parts = SAMPLES // micro_batch
    for weight in weights.values():
        weight.grad = None
    logits, token_loss = [], []
    for part in tokens.split(micro_batch):
        out = logits_of(weights, part[:, :-1], attention)
        loss = functional.cross_entropy(out.reshape(-1, VOCAB), part[:, 1:].reshape(-1), reduction="none")
        (loss.mean() / parts).backward()
        logits.append(out.detach())
        token_loss.append(loss.detach().view(-1, CONTEXT))
    return torch.cat(logits), torch.cat(token_loss)


def run(dtype, micro_batch, attention):
    """All quantities of one evaluation order as {name: float64 array holding dtype's values}."""
    weights = {name: torch.from_numpy(value).to(dtype).requires_grad_() for name, value in initial_weights().items()}
    state = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
    out, curves = {}, {"curve/loss": [], "curve/grad_norm": []}
    for step in range(1, STEPS + 1):
        logits, token_loss = gradients_of_step(weights, step, micro_batch, attention)
        gradients = {name: weight.grad for name, weight in weights.items()}
        if step == 1:
            out = {"logits": logits, "token_loss": token_loss, "loss": token_loss.mean().reshape(1)}
            out |= {"grad/" + name: gradient.clone() for name, gradient in gradients.items()}
        squares = {name: gradient.double().square().sum().item() for name, gradient in gradients.items()}
        norm = sum(squares.values()) ** 0.5
        curves["curve/loss"].append(token_loss.double().mean().item())
        curves["curve/grad_norm"].append(norm)
        for name, square in squares.items():
            curves.setdefault("curve/grad_norm/" + name, []).append(square**0.5)
        clip = min(1.0, CLIP / norm)
        with torch.no_grad():
            for name, weight in weights.items():
                adamw(weight, gradients[name] * clip, state[name], step, WEIGHT_DECAY if weight.dim() == 2 else 0.0)
    out = {name: value.detach().double().numpy() for name, value in out.items()}
    return out | {name: np.array(values) for name, values in curves.items()}


def errors(name, value, truth):
    """Relative errors: of the whole quantity by its 2-norm; of a curve at each step, the worst so far."""
    if name.startswith("curve/"):
        return np.maximum.accumulate(np.abs(value - truth) / np.abs(truth))
    return np.array([np.linalg.norm(value - truth) / np.linalg.norm(truth)])


class Writer:
    """A text index (one line an entry) followed by the little-endian values it points into."""

    def __init__(self):
        self.lines, self.payload = [], bytearray()

    def config(self, name, value):
        self.lines.append(f"config {name} {value}")

    def array(self, kind, name, value):
        data = np.ascontiguousarray(value, dtype="<f4" if kind in ("weight", "f32") else "<f8")
        shape = "x".join(str(size) for size in data.shape)
        self.lines.append(f"{kind} {name} {shape} {len(self.payload)}")
        self.payload += data.tobytes()

    def save(self, path):
        text = "elaswave reference 1\n" + "\n".join(self.lines) + "\nend\n"
        path.write_bytes(text.encode() + b"\n" * (-len(text) % 8) + self.payload)


def main():
    default = pathlib.Path(__file__).with_name("gpt2_small.ref")
    output = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else default
    torch.set_num_threads(1)
    torch.manual_seed(0)
    truth = run(torch.float64, MICRO_BATCH, "plain")
    singles = [run(torch.float32, size, attention) for size, attention in VARIANTS]

    writer = Writer()
    for name, value in (("torch", torch.__version__), ("layers", LAYERS), ("heads", HEADS), ("hidden", HIDDEN),
                        ("context", CONTEXT), ("vocab", VOCAB), ("samples", SAMPLES), ("micro_batch", MICRO_BATCH),
                        ("steps", STEPS), ("lr", LR), ("beta1", BETA1), ("beta2", BETA2), ("epsilon", EPSILON),
                        ("weight_decay", WEIGHT_DECAY), ("clip", CLIP)):
        writer.config(name, value)
    for name, value in initial_weights().items():
        writer.array("weight", name, value)
    for name, value in truth.items():
        writer.array("f32", name, singles[0][name])
        writer.array("f64", name, value)
        writer.array("f32_error", name, np.max([errors(name, single[name], value) for single in singles], axis=0))
    writer.save(output)
    report(output, truth, singles)


def report(output, truth, singles):
    print(f"{output}: {output.stat().st_size} bytes, torch {torch.__version__}")
    for name in truth:
        spread = [errors(name, single[name], truth[name])[-1] for single in singles]
        if not name.startswith("curve/grad_norm/"):
            print(f"  {name:32s} float32 errors " + " ".join(f"{error:.1e}" for error in spread))
    print("  loss", np.array2string(truth["curve/loss"], precision=4))
    print("  norm", np.array2string(truth["curve/grad_norm"], precision=4))


if __name__ == "__main__":
    main()
