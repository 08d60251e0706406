#!/usr/bin/env python3
"""Training tokens/s of PyTorch on GPT-2, in fp32 on the CPU or in bf16 on a GPU: the figure elaswave is measured against.

Metric: tokens of one optimizer step (micro_batches x micro_batch x context) divided by the median wall time of a
step, after warm-up. A step is: micro_batches x (forward, loss, backward), clip by global norm, AdamW, zero the
gradients. Tokens are random and fresh for each step. With --peak_tflops also MFU: tokens/s x (6 N + 12 L C T) / peak,
N = all parameters as published, the tied embedding once.

The comparison has to be fair to PyTorch, so every setting that could help is tried and the fastest is kept. On the CPU:
  attention   sdpa (F.scaled_dot_product_attention: the flash kernel of the CPU backend) or plain (matmul, softmax)
  compile     eager or torch.compile (needs a C++ compiler)
  malloc      default, or keep: glibc told to keep freed memory (default malloc returns the 200 MB logits to the
              kernel and faults the pages in again in every micro-batch) and to ask for huge pages
  vocab       as published (50257) or padded to a multiple of 64, which elaswave also does inside
On a GPU (--device cuda):
  attention   flash or cudnn, the backends of F.scaled_dot_product_attention
  compile     compile, graphs (torch.compile with CUDA graphs) or eager
  numbers     autocast (bf16 where PyTorch holds it for safe, fp32 weights) or master (bf16 weights, gradients and
              activations, fp32 master weights for the update: what elaswave does)
  vocab       padded to a multiple of 128 (50304) or as published
The optimizer is the fused AdamW where this PyTorch has it. Needs `import torch` and nothing else:
  python3 -m venv /some/where && /some/where/bin/pip install torch numpy
  /some/where/bin/python scripts/bench_pytorch.py --threads 2
Prints one JSON object on the last line of stdout; progress goes to stderr.
"""
import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time

PRESETS = {  # name: layers, heads, hidden
    "gpt2-124m": (12, 12, 768),
    "gpt2-355m": (24, 16, 1024),
    "gpt2-1.5b": (48, 25, 1600),
    "small": (4, 4, 256),  # to try the script itself in seconds
}
# Settings in the order of a variant's parts; the first of each is where the search begins.
CHOICES = {
    "cpu": {"attention": ("sdpa", "plain"), "compile": ("eager", "compile"), "malloc": ("default", "keep"),
            "vocab": ("published", "padded")},
    "cuda": {"attention": ("flash", "cudnn"), "compile": ("compile", "graphs", "eager"), "numbers": ("autocast", "master"),
             "vocab": ("padded", "published")},
}
# What changes most is settled first.
SEARCH_ORDER = {"cpu": (2, 0, 1, 3), "cuda": (2, 0, 1, 3)}
VOCAB_MULTIPLE = {"cpu": 64, "cuda": 128}
MALLOC_KEEP = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 40),
    "MALLOC_TOP_PAD_": str(64 << 20),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=CHOICES, default="cpu")
    parser.add_argument("--preset", choices=PRESETS, default="gpt2-124m")
    parser.add_argument("--micro_batch", type=int, default=4, help="samples a forward pass sees")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--micro_batches", type=int, default=4, help="accumulated before one optimizer step")
    parser.add_argument("--vocab", type=int, default=50257)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6, help="measured steps")
    parser.add_argument("--warmup", type=int, default=2, help="steps before the clock counts")
    parser.add_argument("--variant", default="auto",
                        help="auto, or attention,compile,malloc,vocab such as sdpa,eager,keep,padded; on a GPU "
                        "attention,compile,numbers,vocab such as flash,compile,autocast,padded")
    parser.add_argument("--try_s", type=float, default=1e6, help="no further setting is tried after so many seconds")
    parser.add_argument("--limit_s", type=float, default=1e6, help="of one variant; one that takes longer is not used")
    parser.add_argument("--peak_tflops", type=float, default=0, help="of the device, for MFU")
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
            if attention != "plain":
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
            x = self.wte(tokens) + self.wpe(torch.arange(context, device=tokens.device))
            for block in self.blocks:
                x = block(x)
            logits = functional.linear(self.ln_f(x), self.wte.weight)
            return functional.cross_entropy(logits.view(-1, vocab).float(), targets.view(-1))

    return Gpt()


class Update:
    """Clip by global norm and AdamW; with bf16 weights on fp32 copies of them."""

    def __init__(self, torch, model, masters):
        self.torch = torch
        self.parameters = list(model.parameters())
        self.updated = self.parameters
        if masters:
            self.updated = [parameter.detach().float().requires_grad_() for parameter in self.parameters]
            for master in self.updated:
                master.grad = torch.zeros_like(master)
        groups = [{"params": [p for p in self.updated if p.dim() == 2], "weight_decay": 0.1},
                  {"params": [p for p in self.updated if p.dim() != 2], "weight_decay": 0.0}]
        settings = {"lr": 1e-4, "betas": (0.9, 0.95), "eps": 1e-8}
        try:
            self.optimizer, self.kind = torch.optim.AdamW(groups, fused=True, **settings), "fused"
        except RuntimeError:
            self.optimizer, self.kind = torch.optim.AdamW(groups, foreach=True, **settings), "foreach"
        # Freed gradients cost nothing on a GPU, whose allocator keeps them; on a CPU they would be faulted in again.
        self.free_gradients = self.parameters[0].is_cuda

    def step(self):
        """The gradient norm before clipping."""
        torch, masters = self.torch, self.updated is not self.parameters
        if masters:
            torch._foreach_copy_([p.grad for p in self.updated], [p.grad for p in self.parameters])
        norm = torch.nn.utils.clip_grad_norm_(self.updated, 1.0, foreach=True)
        self.optimizer.step()
        if masters:
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, self.updated)
        for parameter in self.parameters:
            if self.free_gradients:
                parameter.grad = None
            else:
                parameter.grad.zero_()
        return norm


def choose_attention(torch, attention):
    """One backend and no other: PyTorch would fall back without a word."""
    cuda = torch.backends.cuda
    cuda.enable_flash_sdp(attention == "flash")
    cuda.enable_cudnn_sdp(attention == "cudnn")
    cuda.enable_mem_efficient_sdp(False)
    cuda.enable_math_sdp(False)


def prepare(torch, options):
    """(what computes a loss, its parameters' update, the context that a forward pass runs in)."""
    attention, compiled, numbers, padding = options.variant.split(",")
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    multiple = VOCAB_MULTIPLE[options.device]
    vocab = (options.vocab + multiple - 1) // multiple * multiple if padding == "padded" else options.vocab
    model = build_model(torch, options, attention, vocab).to(options.device)
    context = contextlib.nullcontext
    if options.device == "cuda":
        choose_attention(torch, attention)
        torch.set_float32_matmul_precision("high")
    masters = numbers == "master"
    if numbers == "autocast":
        context = lambda: torch.autocast(options.device, dtype=torch.bfloat16)  # noqa: E731
    update = Update(torch, model, masters)  # the masters are not rounded
    if masters:
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.data = parameter.data.bfloat16()
    run = {"eager": lambda: model, "compile": lambda: torch.compile(model),
           "graphs": lambda: torch.compile(model, mode="reduce-overhead")}[compiled]()
    return run, update, context


def train_step(torch, options, run, update, context, tokens):
    """The mean loss. Waits for the device."""
    total = torch.zeros((), device=options.device)
    for micro in tokens.to(options.device, non_blocking=True):
        if options.device == "cuda":
            torch.compiler.cudagraph_mark_step_begin()
        with context():
            loss = run(micro[:, :-1].contiguous(), micro[:, 1:].contiguous()) / options.micro_batches
        loss.backward()
        total = total + loss.detach()
    update.step()
    return float(total)


def measure(options):
    """Runs one variant in this process; returns the JSON-ready result."""
    import torch

    run, update, context = prepare(torch, options)
    shape = (options.micro_batches, options.micro_batch, options.context + 1)
    seconds, loss_value = [], 0.0
    for step in range(options.warmup + options.steps):
        tokens = torch.randint(0, options.vocab, shape)
        if options.device == "cuda":
            tokens = tokens.pin_memory()
            torch.cuda.synchronize()
        begin = time.perf_counter()
        loss_value = train_step(torch, options, run, update, context, tokens)
        if options.device == "cuda":
            torch.cuda.synchronize()
        elapsed = time.perf_counter() - begin
        if step >= options.warmup:
            seconds.append(elapsed)
        print(f"  {options.variant} step {step}: {elapsed * 1e3:.1f} ms", file=sys.stderr, flush=True)
    tokens_per_step = options.micro_batches * options.micro_batch * options.context
    median = statistics.median(seconds)
    result = {
        "program": "pytorch", "version": torch.__version__, "device": options.device, "variant": options.variant,
        "optimizer": update.kind, "preset": options.preset, "micro_batch": options.micro_batch,
        "context": options.context, "micro_batches": options.micro_batches, "threads": options.threads,
        "steps": options.steps, "ms_median": round(median * 1e3, 2), "ms_min": round(min(seconds) * 1e3, 2),
        "ms_max": round(max(seconds) * 1e3, 2), "ms_steps": [round(value * 1e3, 2) for value in seconds],
        "tokens_per_s": round(tokens_per_step / median, 1),
        "tokens_per_s_best": round(tokens_per_step / min(seconds), 1), "loss": round(loss_value, 4),
    }
    if options.peak_tflops > 0:
        result["mfu"] = round(tokens_per_step / median * flops_per_token(options) / (options.peak_tflops * 1e12), 4)
    return result


def flops_per_token(options):
    """6 N + 12 L C T."""
    layers, _, hidden = PRESETS[options.preset]
    parameters = layers * (12 * hidden * hidden + 13 * hidden) + (options.vocab + options.context) * hidden + 2 * hidden
    return 6 * parameters + 12 * layers * hidden * options.context


def in_subprocess(options, variant, warmup, steps):
    """malloc settings are read at process start, so each variant gets a process of its own."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(options.threads), MKL_NUM_THREADS=str(options.threads))
    if variant.split(",")[2] == "keep":
        environment.update(MALLOC_KEEP)
    command = [sys.executable, os.path.abspath(__file__), "--worker", "--variant", variant]
    for name in ("device", "preset", "micro_batch", "context", "micro_batches", "vocab", "threads", "peak_tflops"):
        command += [f"--{name}", str(getattr(options, name))]
    command += ["--warmup", str(warmup), "--steps", str(steps)]
    try:
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False, timeout=options.limit_s)
    except subprocess.TimeoutExpired:
        return None
    if done.returncode != 0:
        return None
    return json.loads(done.stdout.splitlines()[-1])


def choose_variant(options):
    """Greedy over one setting at a time from the default corner: the settings hardly interact."""
    choices = list(CHOICES[options.device].values())
    best = [choice[0] for choice in choices]
    tried, begin = {}, time.monotonic()

    def rate(parts):
        name = ",".join(parts)
        if name not in tried:
            result = in_subprocess(options, name, warmup=1, steps=3)
            tried[name] = result["tokens_per_s_best"] if result else 0.0
            print(f"{name}: {tried[name]} tokens/s", file=sys.stderr, flush=True)
        return tried[name]

    for index in SEARCH_ORDER[options.device]:
        for value in choices[index]:
            candidate = best[:index] + [value] + best[index + 1:]
            if time.monotonic() - begin < options.try_s and rate(candidate) > rate(best):
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
