#!/usr/bin/env python3
"""Training tokens/s of PyTorch on GPT-2 in fp32 on the CPU: the figure elaswave is measured against.

Metric: tokens of one optimizer step (micro_batches x micro_batch x context) divided by the median wall time of a
step, after warm-up. A step is: micro_batches x (forward, loss, backward), clip by global norm, AdamW, zero the
gradients. Tokens are random and fresh for each step.

The comparison has to be fair to PyTorch, so every setting that could help is tried and the fastest is kept:
  attention   sdpa (F.scaled_dot_product_attention: the flash kernel of the CPU backend) or plain (matmul, softmax)
  compile     eager or torch.compile (needs a C++ compiler)
  malloc      default, or keep: glibc told to keep freed memory (default malloc returns the 200 MB logits to the
              kernel and faults the pages in again in every micro-batch) and to ask for huge pages
  vocab       as published (50257) or padded to a multiple of 64, which elaswave also does inside
The optimizer is the fused AdamW where this PyTorch has it for the CPU. Needs `import torch` and nothing else:
  python3 -m venv /some/where && /some/where/bin/pip install torch numpy
  /some/where/bin/python scripts/bench_pytorch.py --threads 2
Prints one JSON object on the last line of stdout; progress goes to stderr.
"""
import argparse
import json
import os
import statistics
import subprocess
import sys
import time

PRESETS = {  # name: layers, heads, hidden
    "gpt2-124m": (12, 12, 768),
    "gpt2-355m": (24, 16, 1024),
    "small": (4, 4, 256),  # to try the script itself in seconds
}
MALLOC_KEEP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="gpt2-124m")
    parser.add_argument("--micro_batch", type=int, default=4, help="samples a forward pass sees")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--micro_batches", type=int, default=4, help="accumulated before one optimizer step")
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock counts")
    parser.add_argument("--variant", default="auto",
                        help="auto, or attention,compile,malloc,vocab such as sdpa,eager,keep,padded")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def build_model(torch, options, attention, vocab):
    """GPT-2 as published: learned positions, pre-norm, tied head, biases, tanh GELU, no dropout."""
    import torch.nn.functional as functional
    from torch import nn

    layers, heads, hidden = PRESETS[options.preset]
    context = options.context

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.ln_1, self.ln_2 = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
            self.qkv, self.attn_proj = nn.Linear(hidden, 3 * hidden), nn.Linear(hidden, hidden)
            self.fc, self.mlp_proj = nn.Linear(hidden, 4 * hidden), nn.Linear(4 * hidden, hidden)

        def attend(self, q, k, v):
            if attention == "sdpa":
                return functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            scores = q @ k.transpose(-2, -1) * (q.size(-1) ** -0.5)
            mask = torch.ones(q.size(-2), q.size(-2), dtype=torch.bool).triu(1)
            return functional.softmax(scores.masked_fill(mask, float("-inf")), dim=-1) @ v

        def forward(self, x):
            batch, length, _ = x.shape
            q, k, v = self.qkv(self.ln_1(x)).split(hidden, dim=2)
            q, k, v = (t.view(batch, length, heads, hidden // heads).transpose(1, 2) for t in (q, k, v))
            y = self.attend(q, k, v).transpose(1, 2).reshape(batch, length, hidden)
            x = x + self.attn_proj(y)
            return x + self.mlp_proj(functional.gelu(self.fc(self.ln_2(x)), approximate="tanh"))

    class Gpt(nn.Module):
        def __init__(self):
            super().__init__()
            self.wte, self.wpe = nn.Embedding(vocab, hidden), nn.Embedding(context, hidden)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.ln_f = nn.LayerNorm(hidden)
            for parameter in self.parameters():
                if parameter.dim() == 2:
                    nn.init.normal_(parameter, std=0.02)

        def forward(self, tokens, targets):
            x = self.wte(tokens) + self.wpe(torch.arange(context))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.view(-1, vocab), targets.view(-1))

    return Gpt()


def make_optimizer(torch, model):
    groups = [{"params": [p for p in model.parameters() if p.dim() == 2], "weight_decay": 0.1},
              {"params": [p for p in model.parameters() if p.dim() != 2], "weight_decay": 0.0}]
    settings = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8}
    try:
        return torch.optim.AdamW(groups, fused=True, **settings), "fused"
    except RuntimeError:
        return torch.optim.AdamW(groups, foreach=True, **settings), "foreach"


def measure(options):
    """Runs one variant in this process; returns the JSON-ready result."""
    import torch

    attention, compiled, _, padding = options.variant.split(",")
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    vocab = (options.vocab + 63) // 64 * 64 if padding == "padded" else options.vocab
    model = build_model(torch, options, attention, vocab)
    optimizer, optimizer_kind = make_optimizer(torch, model)
    run = torch.compile(model) if compiled == "compile" else model
    shape = (options.micro_batches, options.micro_batch, options.context + 1)
    seconds, loss_value = [], 0.0
    for step in range(options.warmup + options.steps):
        tokens = torch.randint(0, options.vocab, shape)
        begin = time.perf_counter()
        total = 0.0
        for micro in tokens:
            loss = run(micro[:, :-1].contiguous(), micro[:, 1:].contiguous()) / options.micro_batches
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        elapsed = time.perf_counter() - begin
        loss_value = total
        if step >= options.warmup:
            seconds.append(elapsed)
        print(f"  {options.variant} step {step}: {elapsed * 1e3:.0f} ms", file=sys.stderr, flush=True)
    tokens_per_step = options.micro_batches * options.micro_batch * options.context
    median = statistics.median(seconds)
    return {
        "program": "pytorch", "version": torch.__version__, "variant": options.variant,
        "optimizer": optimizer_kind, "preset": options.preset, "micro_batch": options.micro_batch,
        "context": options.context, "micro_batches": options.micro_batches, "threads": options.threads,
        "steps": options.steps, "ms_median": round(median * 1e3, 2), "ms_min": round(min(seconds) * 1e3, 2),
        "ms_max": round(max(seconds) * 1e3, 2), "ms_steps": [round(value * 1e3, 2) for value in seconds],
        "tokens_per_s": round(tokens_per_step / median, 1),
        "tokens_per_s_best": round(tokens_per_step / min(seconds), 1), "loss": round(loss_value, 4),
    }


def in_subprocess(options, variant, warmup, steps):
    """malloc settings are read at process start, so each variant gets a process of its own."""
    malloc = variant.split(",")[2]
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    if malloc == "keep":
        environment.update(MALLOC_KEEP)
    command = [sys.executable, os.path.abspath(__file__), "--worker", "--variant", variant]
    for name in ("preset", "micro_batch", "context", "micro_batches", "vocab", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--warmup", str(warmup), "--steps", str(steps)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def choose_variant(options):
    """Greedy over one setting at a time from the default corner: the settings hardly interact."""
    choices = [("sdpa", "plain"), ("eager", "compile"), ("default", "keep"), ("published", "padded")]
    best = [choice[0] for choice in choices]
    tried = {}

    def rate(parts):
        name = ",".join(parts)
        if name not in tried:
            result = in_subprocess(options, name, warmup=1, steps=3)
            tried[name] = result["tokens_per_s_best"] if result else 0.0
            print(f"{name}: {tried[name]} tokens/s", file=sys.stderr, flush=True)
        return tried[name]

    for index in (2, 0, 1, 3):
        for value in choices[index]:
            candidate = best[:index] + [value] + best[index + 1:]
            if rate(candidate) > rate(best):
                best = candidate
    return ",".join(best), tried


def main():
    options = parse_arguments()
    if options.worker:
        print(json.dumps(measure(options)))
        return 0
    variant, tried = options.variant, {}
    if variant == "auto":
        variant, tried = choose_variant(options)
    elif len(variant.split(",")) != 4:
        print("bench_pytorch: --variant takes four comma separated parts, see --help", file=sys.stderr)
        return 2
    result = in_subprocess(options, variant, options.warmup, options.steps)
    if result is None:
        print("bench_pytorch: the measurement failed; is torch installed for this python?", file=sys.stderr)
        return 1
    if tried:
        result["tried_tokens_per_s"] = tried
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
