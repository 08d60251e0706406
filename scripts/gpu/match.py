#!/usr/bin/env python3
"""Training steps of elaswave against PyTorch's, from the same weights on the same samples.

    match.py --model odd|gpt2-124m [--device cuda|cpu] [--size full|small] [--steps 3]

elaswave trains on --device in f32 and bf16, and on the CPU in f32 (odd: in bf16 too); PyTorch (matching.py) does the same steps in
f64, the judge, and in f32 and bf16, the plain versions of the same precision. ELASWAVE_TORCH_PYTHON names a Python that has torch,
when this one has not.

The token file holds one global batch and no more, so every step trains on all of it, in whatever order. Initial weights are those
of a checkpoint after one step with a learning rate of 1e-30, which changes no number.

Tolerances, for each step. With l the losses of single tokens and g the gradient, all relative to the judge:
  loss       |loss - loss64| <= 2 rms(l - l64): a mean of errors is at most their rms, which for the plain version is what its
             roundings do to a token; and tests hold kernels to twice the error of a plain version
  grad norm  ||g| - |g64|| <= 2 |g - g64|: the triangle inequality, and the same factor
PyTorch's errors are those of its own trajectory, so what steps add up is in them."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import common

SIZES = {"gpt2-124m": (2, 2), "odd": (3, 4), "small": (2, 2)}  # samples of a micro-batch, micro-batches
UPDATE = {"lr": 6e-4, "beta1": 0.9, "beta2": 0.95, "epsilon": 1e-8, "weight_decay": 0.1, "clip": 1.0}
LIMIT_S = 200


def initial_weights(folder, flags):
    """The safetensors file of what a run with these flags begins with."""
    run = os.path.join(folder, "initial")
    common.train(run, [*flags, "--device.kind=cpu", "--train.steps=1", "--train.lr=1e-30", "--train.min_lr=0"], limit_s=LIMIT_S)
    words = [common.require("elaswave"), "checkpoint", "export", run, "--output", os.path.join(folder, "weights")]
    subprocess.run(words, env=common.environment(), stdout=sys.stderr, check=True, timeout=LIMIT_S)
    return os.path.join(folder, "weights", "model.safetensors")


def run_elaswave(folder, flags, device, precision, steps):
    """[(loss, gradient norm)] of each step."""
    run = os.path.join(folder, f"{device}_{precision}")
    flags = [*flags, f"--device.kind={device}", f"--train.steps={steps}", f"--train.lr={UPDATE['lr']}", "--checkpoint.last=false",
             *([f"--train.precision={precision}"] if precision != "f32" else [])]
    common.train(run, flags, limit_s=LIMIT_S)
    return [(line["loss"], line["grad_norm"]) for line in common.json_lines(os.path.join(run, "metrics.jsonl"))]


def run_pytorch(recipe):
    python = os.environ.get("ELASWAVE_TORCH_PYTHON", sys.executable)
    if subprocess.run([python, "-c", "import torch"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        return None
    script = pathlib.Path(__file__).resolve().parent / "matching.py"
    done = subprocess.run([python, str(script)], input=json.dumps(recipe), stdout=subprocess.PIPE, text=True, check=True,
                          timeout=2 * LIMIT_S)
    return json.loads(done.stdout.splitlines()[-1])


def compare(name, steps, torch, precision):
    """(is it within the tolerances?, text)"""
    right, worst = len(steps) == len(torch["f64"]), {"loss": 0.0, "norm": 0.0}
    for (loss, norm), judge, plain in zip(steps, torch["f64"], torch[precision]):
        errors = {"loss": abs(loss - judge["loss"]) / (2 * plain["loss_rms"]),
                  "norm": abs(norm - judge["norm"]) / (2 * plain["gradient_error"])}
        for key, error in errors.items():
            right = right and error <= 1  # false for NaN
            worst[key] = max(worst[key], error)
    return right, f"{name}: error over tolerance {worst['loss']:.3f} (loss), {worst['norm']:.3f} (norm)"


def main():
    options = common.arguments(__doc__, model=("odd", "gpt2-124m"), steps=3)
    name = "small" if options.size == "small" and options.model != "odd" else options.model
    model = common.MODELS[name]
    micro_batch, micro_batches = SIZES[name]
    batch = micro_batch * micro_batches
    devices = list(dict.fromkeys([options.device, "cpu"]))
    runs = [(device, "f32") for device in devices]
    if options.size == "full":  # large products in bf16 take a CPU too long
        runs += [(device, "bf16") for device in devices if device == options.device or name == "odd"]
    with tempfile.TemporaryDirectory(prefix="elaswave-match-") as folder:
        tokens = os.path.join(folder, "tokens.bin")
        common.write_tokens(tokens, batch * model["context"] + 1, model["vocab"])
        flags = [*common.model_flags(model), *common.data_flags(tokens), f"--train.micro_batch={micro_batch}",
                 f"--train.global_batch={batch}", "--train.lr_schedule=constant", "--train.warmup_steps=0",
                 *(f"--train.{key}={UPDATE[key]}" for key in ("beta1", "beta2", "epsilon", "weight_decay", "clip"))]
        weights = initial_weights(folder, flags)
        torch = run_pytorch({"weights": weights, "tokens": tokens, "model": model, "micro_batch": micro_batch,
                             "steps": options.steps, "update": UPDATE, "device": options.device,
                             "precisions": sorted({precision for _, precision in runs})})
        if torch is None:
            common.say("no torch here")
            return common.SKIPPED
        results, right, texts = {}, True, []
        for device, precision in runs:
            results[f"{device}_{precision}"] = run_elaswave(folder, flags, device, precision, options.steps)
            within, text = compare(f"{device} {precision}", results[f"{device}_{precision}"], torch, precision)
            right = right and within
            texts.append(text)
    losses = ", ".join(f"{step['loss']:.6f}" for step in torch["f64"])
    return common.finish({"elaswave": results, "pytorch": torch,
                          "figures": f"{'right' if right else 'WRONG'}; losses in f64 {losses}; " + "; ".join(texts)}, right)


if __name__ == "__main__":
    sys.exit(main())
