#!/usr/bin/env python3
"""Training tokens/s of PyTorch on the model and batch of speed.py, by scripts/bench_pytorch.py.

    pytorch_speed.py --model gpt2-124m|gpt2-1.5b [--variant auto] [--device cuda|cpu] [--size full|small] [--results DIR]

--variant auto: for 124M the settings are searched; for 1.5B, whose compilation takes minutes, those are taken that were best for
124M (results.jsonl in DIR). ELASWAVE_TORCH_PYTHON names a Python that has torch, when this one has not."""
import json
import os
import pathlib
import subprocess
import sys

import common
import speed

# Parts of a variant when nothing was searched.
USUAL = {"cuda": "flash,compile,autocast,padded", "cpu": "sdpa,eager,default,padded"}
# Small: on cores that others use too, threads that wait for each other take seconds a step.
THREADS = {"full": 8, "small": 1}


def best_of_search(results):
    found = [record for record in common.json_lines(os.path.join(results, "results.jsonl"))
             if record["stage"] == "pytorch-124m" and record["verdict"] == "right"]
    return found[-1]["said"]["variant"] if found else None


def main():
    options = common.arguments(__doc__, model=("gpt2-124m", "gpt2-1.5b"), variant="auto", peak_tflops=989.0)
    small = options.size == "small"
    name = "small" if small else options.model
    model = common.MODELS[name]
    micro_batch, micro_batches, measured, warmup = speed.BATCHES[name]
    variant = options.variant
    if variant == "auto" and (small or options.model != "gpt2-124m"):
        variant = best_of_search(options.results) or USUAL[options.device]
    words = [os.environ.get("ELASWAVE_TORCH_PYTHON", sys.executable),
             str(pathlib.Path(__file__).resolve().parents[1] / "bench_pytorch.py"), "--device", options.device,
             "--preset", name, "--context", str(model["context"]), "--vocab", str(model["vocab"]),
             "--micro_batch", str(micro_batch), "--micro_batches", str(micro_batches), "--steps", str(measured),
             "--warmup", str(warmup), "--variant", variant, "--threads", str(THREADS[options.size]),
             "--peak_tflops", str(options.peak_tflops), "--try_s", "230", "--limit_s", "110" if variant == "auto" else "460"]
    common.say("+ " + " ".join(words[1:]))
    if subprocess.run([words[0], "-c", "import torch"], stderr=subprocess.DEVNULL, check=False).returncode != 0:
        common.say("no torch here")
        return common.SKIPPED
    done = subprocess.run(words, stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode != 0:
        common.say(done.stdout)
        return 1
    result = json.loads(done.stdout.splitlines()[-1])
    shown = common.speed_of(model, micro_batch * micro_batches * model["context"], result["ms_steps"], options.peak_tflops)
    result["figures"] = f"{result['version']} {result['variant']}, {result['optimizer']} AdamW: {common.speed_text(shown)}"
    if result.get("tried_tokens_per_s"):
        result["figures"] += "; tried: " + ", ".join(f"{key} {value:,.0f}" for key, value in result["tried_tokens_per_s"].items())
    return common.finish(result)


if __name__ == "__main__":
    sys.exit(main())
