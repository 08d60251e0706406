#!/usr/bin/env python3
"""Training tokens/s of elaswave, and MFU.

Metric: tokens of an optimizer step / median wall time of a step (metrics.jsonl), the first steps left out. MFU: tokens/s x
(6 N + 12 L C T) / peak, N = all parameters, the tied embedding once; peak is the GPU's dense bf16 figure (H200: 989 TFLOP/s).

    speed.py --model gpt2-124m|gpt2-1.5b [--compare none|exact|redundancy] [--device cuda|cpu] [--size full|small]
        [--peak_tflops 989]

--compare exact: exact against fast sums; redundancy: two ranks on one device with a copy of all state and agents, without copies,
and without agents. Variants alternate (A B A B ...), so that a change of the host hits all."""
import os
import sys
import tempfile

import common

# Samples of a micro-batch, micro-batches of a step, both also PyTorch's; measured steps, steps before.
BATCHES = {"gpt2-124m": (32, 4, 16, 4), "gpt2-1.5b": (8, 4, 8, 3), "small": (4, 2, 4, 2)}
VARIANTS = {
    "none": {"": []},
    "exact": {"exact": ["--numerics.mode=exact"], "fast": ["--numerics.mode=fast"]},
    "redundancy": {"copies": ["--elastic.copies=1"], "no copies": ["--elastic.copies=0"], "no agents": ["--elastic.enabled=false"]},
}
ROUNDS = {"none": 1, "exact": 2, "redundancy": 1}


def main():
    options = common.arguments(__doc__, model=("gpt2-124m", "gpt2-1.5b"), compare=tuple(VARIANTS), peak_tflops=989.0)
    name = "small" if options.size == "small" else options.model
    model = common.MODELS[name]
    micro_batch, micro_batches, measured, warmup = BATCHES[name]
    ranks = 2 if options.compare == "redundancy" else 1
    steps, batch = warmup + measured, micro_batch * micro_batches
    times = {variant: [] for variant in VARIANTS[options.compare]}
    with tempfile.TemporaryDirectory(prefix="elaswave-speed-") as folder:
        tokens = os.path.join(folder, "tokens.bin")
        common.write_tokens(tokens, 2 * batch * model["context"] + 1, model["vocab"])
        flags = [*common.model_flags(model), *common.data_flags(tokens), f"--train.micro_batch={micro_batch}",
                 f"--train.global_batch={batch}", f"--train.steps={steps}", "--checkpoint.last=false", "--train.lr=1e-4",
                 "--train.lr_schedule=constant", "--train.warmup_steps=0", f"--device.kind={options.device}",
                 *([] if options.size == "small" else ["--train.precision=bf16"])]
        for round_number in range(ROUNDS[options.compare]):
            for variant, more in VARIANTS[options.compare].items():
                log_dir = os.path.join(folder, f"{variant}{round_number}")
                common.train(log_dir, [*flags, *more], ranks=ranks)
                times[variant] += common.step_ms(log_dir)[warmup:]
    tokens_per_step = batch * model["context"]
    result = {"program": "elaswave", "model": options.model, "small": options.size == "small", "ranks": ranks,
              "micro_batch": micro_batch, "micro_batches": micro_batches, "context": model["context"], "variants": {}}
    for variant, values in times.items():
        result["variants"][variant] = common.speed_of(model, tokens_per_step, values, options.peak_tflops)
    shown = [f"{variant}: {common.speed_text(speed)}".lstrip(": ") for variant, speed in result["variants"].items()]
    first, *others = result["variants"]
    for variant in others:
        ratio = result["variants"][first]["ms"] / result["variants"][variant]["ms"]
        shown.append(f"time of {first} / {variant}: {ratio:.4f}")
    result["figures"] = "; ".join(shown)
    return common.finish(result)


if __name__ == "__main__":
    sys.exit(main())
