"""What the scripts of this folder share: where programs and CUDA libraries are, runs of elaswave, models, random tokens.

Python's standard library only. Programs are looked for in ELASWAVE_BIN (directories, `:` between them), in the bundle or the
build trees that this folder belongs to."""
import argparse
import array
import functools
import glob
import json
import os
import pathlib
import random
import re
import shutil
import statistics
import subprocess
import sys
import sysconfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Below each: where the build puts programs.
BUILDS = ("build/cuda-release", "build")
FOLDERS = ("", "tests/gpu", "tests/reference", "tests/unit", "tests/bench")
SKIPPED = 77  # exit code of what cannot run here

# layers, heads, hidden, context, vocabulary; elaswave's presets have the same.
MODELS = {
    "gpt2-124m": {"preset": "gpt2-124m", "layers": 12, "heads": 12, "hidden": 768, "context": 1024, "vocab": 50257},
    "gpt2-1.5b": {"preset": "gpt2-1.5b", "layers": 48, "heads": 25, "hidden": 1600, "context": 1024, "vocab": 50257},
    # No dimension divides by what kernels like.
    "odd": {"preset": "tiny", "layers": 3, "heads": 5, "hidden": 85, "context": 61, "vocab": 997},
    # To try the scripts themselves in seconds.
    "small": {"preset": "tiny", "layers": 2, "heads": 4, "hidden": 64, "context": 64, "vocab": 512},
}


def arguments(description, **more):
    """The options that every script of a stage has, and `more`: name = default, a tuple of choices, or a type."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=("full", "small"), default="full", help="small: to try the script itself")
    parser.add_argument("--results", default=".", help="where results of stages are")
    for name, value in more.items():
        if isinstance(value, tuple):
            parser.add_argument(f"--{name}", choices=value, default=value[0])
        else:
            parser.add_argument(f"--{name}", type=type(value), default=value)
    return parser.parse_args()


def say(text):
    print(text, file=sys.stderr, flush=True)


def finish(result, right=True):
    """The result as the last line of stdout; the exit code."""
    print(json.dumps(result), flush=True)
    return 0 if right else 1


def program(name):
    """The path of one of our programs, or of the toolkit's; None when it is nowhere."""
    folders = [folder for folder in os.environ.get("ELASWAVE_BIN", "").split(":") if folder]
    folders += [ROOT / "bin"] + [ROOT / build / folder for build in BUILDS for folder in FOLDERS]
    for folder in folders:
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/local/cuda/bin")


def require(name):
    path = program(name)
    if path is None:
        say(f"there is no program {name}: build it, or name its folder in ELASWAVE_BIN")
        sys.exit(SKIPPED)
    return path


@functools.cache
def cuda_path():
    """Folders with CUDA libraries: what ELASWAVE_CUDA_PATH says, else those of the toolkit and of pip's packages."""
    if os.environ.get("ELASWAVE_CUDA_PATH"):
        return os.environ["ELASWAVE_CUDA_PATH"]
    places = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *(p for p in sys.path if "-packages" in p)}
    found = [folder for place in sorted(places) for folder in sorted(glob.glob(f"{place}/nvidia/*/lib"))]
    found += ["/usr/local/cuda/lib64"]
    return ":".join(folder for folder in found if glob.glob(f"{folder}/lib*.so*"))


def environment(**more):
    """Bundles read the variable. Not LD_LIBRARY_PATH: PyTorch has libraries of its own and must not get others."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_"))}
    return {**kept, "ELASWAVE_CUDA_PATH": cuda_path(), **more}


def parameters(model):
    """Elements of all tensors: the tied embedding once, positions, blocks, final norm."""
    hidden = model["hidden"]
    return (model["layers"] * (12 * hidden * hidden + 13 * hidden) + (model["vocab"] + model["context"]) * hidden +
            2 * hidden)


def flops_per_token(model):
    """6 N + 12 L C T: forward and backward of the products with N weights, and of attention as if it had no mask."""
    return 6 * parameters(model) + 12 * model["layers"] * model["hidden"] * model["context"]


def mfu(model, tokens_per_s, peak_tflops):
    return tokens_per_s * flops_per_token(model) / (peak_tflops * 1e12)


def write_tokens(path, count, vocab, seed=1):
    """Uniform random ids, two bytes each, no header."""
    numbers = random.Random(seed)
    with open(path, "wb") as file:
        array.array("H", (numbers.randrange(vocab) for _ in range(count))).tofile(file)


def model_flags(model):
    return [f"--model.preset={model['preset']}", "--model.dropout=0",
            *(f"--model.{key}={model[key]}" for key in ("layers", "heads", "hidden", "context", "vocab"))]


def data_flags(path):
    return [f"--data.train={path}", "--data.format=nanogpt", "--data.dtype=u16"]


def train(log_dir, flags, ranks=1, limit_s=450):
    """Runs `elaswave train` to its end; its output. Raises on any other end."""
    command = [require("elaswave")] + (["launch", "-n", str(ranks), "--"] if ranks > 1 else [])
    command += ["train", f"--log.dir={log_dir}", "--log.console=plain", *flags]
    say("+ " + " ".join(command[1:]))
    done = subprocess.run(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          stdin=subprocess.DEVNULL, timeout=limit_s, check=False)
    if done.returncode != 0:
        say(done.stdout[-4000:])
        raise RuntimeError(f"elaswave ended with {done.returncode}")
    return done.stdout


def digest(output):
    """That of the last line of a run."""
    found = re.search(r"^done step=\d+ loss=\S+ digest=([0-9a-f]{16})$", output, re.MULTILINE)
    if not found:
        raise RuntimeError("the run did not get to its end:\n" + output[-2000:])
    return found.group(1)


def json_lines(path):
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file.read().split("\n")[:-1]]
    except OSError:
        return []


def step_ms(log_dir):
    return [line["ms"] for line in json_lines(os.path.join(log_dir, "metrics.jsonl"))]


def speed_of(model, tokens_per_step, times_ms, peak_tflops):
    median = statistics.median(times_ms)
    tokens_per_s = tokens_per_step / median * 1e3
    return {"tokens_per_s": round(tokens_per_s, 1), "ms": round(median, 3), "ms_min": round(min(times_ms), 3),
            "ms_max": round(max(times_ms), 3), "steps": len(times_ms), "mfu": round(mfu(model, tokens_per_s, peak_tflops), 4)}


def speed_text(speed):
    return (f"{speed['tokens_per_s']:,.0f} tokens/s, MFU {100 * speed['mfu']:.1f} %, {speed['ms']:.1f} ms a step "
            f"({speed['ms_min']:.1f} to {speed['ms_max']:.1f})")
