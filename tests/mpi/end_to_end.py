#!/usr/bin/env python3
"""The product from outside: real processes, real MPI, files and exit codes. Python's standard library only.

Usage: end_to_end.py BINARY SOURCE_DIR CASE [CASE ...]     (no CASE: lists them)
Every process is started with a timeout and ended by its own id."""

import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time

TIMEOUT_S = 120
PROSE = ("It was a bright cold day in April, and the clocks were striking thirteen. " * 40 +
         "The quick brown fox jumps over the lazy dog while five wizards boxed. " * 40)


# configs/tiny.toml: 8 blocks of 12 C^2 + 13 C, 257 + 63 rows of embedding, the final norm; C = 64.
PARAMETERS = 8 * (12 * 64 * 64 + 13 * 64) + (257 + 63) * 64 + 2 * 64


class Failure(Exception):
    pass


def expect(condition, message):
    if not condition:
        raise Failure(message)


def descendants(pid):
    """All processes below `pid`, from /proc."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                children.setdefault(int(file.read().rsplit(")", 1)[1].split()[1]), []).append(int(name))
    found, queue = [], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return found


def wait_gone(pids):
    """Until they no longer run (killed ones may stay as zombies of others)."""
    deadline = time.monotonic() + TIMEOUT_S
    for pid in pids:
        while time.monotonic() < deadline:
            try:
                with open(f"/proc/{pid}/stat") as file:
                    if file.read().rsplit(")", 1)[1].split()[0] == "Z":
                        break
            except OSError:
                break
            time.sleep(0.005)


class Bench:
    """A scratch folder with a token file, and ways to run the binary in it."""

    def __init__(self, binary, source, folder):
        self.binary, self.source, self.folder = binary, source, folder
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith(("ELASWAVE_", "OMPI_", "PMIX_"))}

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def run(self, arguments, code=0, prefix=(), timeout_s=TIMEOUT_S):
        command = [*prefix, self.binary, *arguments]
        done = subprocess.run(command, cwd=self.folder, env=self.environment, timeout=timeout_s, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        if done.returncode != code:
            raise Failure(f"{' '.join(command)}\n  exit code {done.returncode}, expected {code}\n--- stdout\n"
                          f"{done.stdout[-3000:]}\n--- stderr\n{done.stderr[-3000:]}")
        return done

    @contextlib.contextmanager
    def start(self, arguments):
        """A process to send signals to; killed if it is still there at the end."""
        process = subprocess.Popen([self.binary, *arguments], cwd=self.folder, env=self.environment, text=True,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.communicate()

    def wait_for_step(self, name, process):
        """Returns when the run has committed a step, so that the next one is under way."""
        file, deadline = self.path(name, "metrics.jsonl"), time.monotonic() + TIMEOUT_S
        while not (os.path.exists(file) and os.path.getsize(file)):
            if process.poll() is not None:
                out, err = process.communicate()
                raise Failure(f"ended with {process.returncode} before its first step\n{out[-800:]}\n{err[-2000:]}")
            expect(time.monotonic() < deadline, "no step was committed")
            time.sleep(0.02)

    def wait_for(self, condition, process):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            expect(process.poll() is None, f"ended with {process.returncode} too early")
            expect(time.monotonic() < deadline, "waited in vain")
            time.sleep(0.02)

    def prepare(self):
        with open(self.path("prose.txt"), "w") as file:
            file.write(PROSE)
        self.run(["data", "prepare", "--input", "prose.txt", "--output", "train.tok"])

    def train_arguments(self, name, *more, steps=4):
        return ["train", "--config", os.path.join(self.source, "configs", "tiny.toml"), "--data.train=train.tok",
                f"--train.steps={steps}", "--train.seed=7", "--log.digest_every=1", f"--log.dir={self.path(name)}",
                "--comm.timeout_ms=60000", *more]

    def metrics(self, name):
        with open(self.path(name, "metrics.jsonl")) as file:
            return [json.loads(line) for line in file]

    def trace(self, name):
        """What must be equal in every undisturbed run of one recipe."""
        keys = ("step", "loss", "grad_norm", "lr", "tokens", "samples", "sample_hash", "digest")
        return [{key: line[key] for key in keys} for line in self.metrics(name)]


def case_ranks(bench):
    """One digest for 1, 2, 3, 5 and 8 ranks, with and without a launcher, every step compared."""
    bench.prepare()
    bench.run(bench.train_arguments("solo"))
    expected = bench.trace("solo")
    expect(len(expected) == 4 and all(line["digest"] for line in expected), f"metrics of the solo run: {expected}")
    expect(len({line["digest"] for line in expected}) == 4, "a step changed nothing")
    proof = bench.run(["data", "verify", "train.tok", "--seed", "7", "--context", "63", "--global_batch", "20",
                       "--last_step", "4"])
    for line in expected:
        expect(f"{line['sample_hash']}" in proof.stdout, f"step {line['step']} did not train on its pure sample set")
    for ranks in (1, 2, 3, 5, 8):
        done = bench.run(["launch", "-n", str(ranks), "--", *bench.train_arguments(f"ranks{ranks}", "--device.threads=1")])
        expect(bench.trace(f"ranks{ranks}") == expected, f"{ranks} ranks differ from one process")
        last = done.stdout.strip().splitlines()[-1]
        match = re.fullmatch(r"done step=4 loss=(\d+\.\d{6}) digest=([0-9a-f]{16})", last)
        expect(match, f"last line of stdout is {last!r}")
        expect(match.group(2) == expected[-1]["digest"], "the done line's digest is not the last step's")
        total = re.search(r"all ranks: (\d+) micro-batches computed, (\d+) optimizer bytes owned", done.stdout)
        expect(total and int(total.group(1)) == 4 * 10, f"micro-batches computed: {total and total.group(1)}")
        expect(int(total.group(2)) == 12 * PARAMETERS, f"optimizer bytes owned: {total.group(2)}")
    for threads in (2, 3):
        bench.run(["launch", "-n", "2", "--", *bench.train_arguments(f"threads{threads}", f"--device.threads={threads}")])
        expect(bench.trace(f"threads{threads}") == expected, f"{threads} threads differ")
    print("campaign: mpirun ranks 1 2 3 5 8 and threads 1 2 3: 8 runs, one digest per step")


def case_mpirun(bench):
    """Plain mpirun works and says what it will do when a rank dies."""
    bench.prepare()
    bench.run(bench.train_arguments("solo"))
    done = bench.run(bench.train_arguments("plain"), prefix=[
        "mpirun", "--allow-run-as-root", "--oversubscribe", "--mca", "mpi_yield_when_idle", "1", "-n", "2"])
    expect(bench.trace("plain") == bench.trace("solo"), "plain mpirun differs")
    expect("rank dies" in done.stdout + done.stderr, "nothing said of what the launcher does when a rank dies")


def case_isa(bench):
    """AVX2 forced on one rank of two is refused, named, with exit code 2."""
    bench.prepare()
    mpirun = ["mpirun", "--allow-run-as-root", "--oversubscribe", "-n", "1"]
    arguments = bench.train_arguments("mixed")
    done = bench.run([*arguments, ":", "-n", "1", bench.binary, *arguments, "--device.isa=avx2"], code=2, prefix=mpirun)
    expect("avx2" in done.stderr and "rank 1" in done.stderr and "fix:" in done.stderr, done.stderr)


def case_digest(bench):
    """A Python script recomputes the state digest from a dump; any flipped bit changes it."""
    bench.prepare()
    bench.run(["launch", "-n", "3", "--", *bench.train_arguments("dump", "--train.dump_state=state.h5")])
    script = [os.path.join(bench.source, "scripts", "state_digest.py"), bench.path("state.h5")]
    python = "/usr/bin/python3"  # the one that Debian's h5py belongs to

    def digest(*more):
        return subprocess.run([python, *script, *more], timeout=TIMEOUT_S, text=True, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE)

    plain = digest()
    expect(plain.returncode == 0, plain.stdout + plain.stderr)
    expected = bench.metrics("dump")[-1]["digest"]
    expect(expected in plain.stdout, f"script says {plain.stdout!r}, the run {expected}")
    flips = ["master:wte.weight:0:0", "master:h.3.mlp.c_fc.weight:777:31", "moment1:wpe.weight:5:12",
             "moment2:ln_f.bias:63:22", "master:h.7.ln_2.bias:1:1"]
    for flip in flips:
        flipped = digest("--flip", flip)
        expect(flipped.returncode == 1 and expected not in flipped.stdout.splitlines()[0],
               f"flip {flip} was not seen: {flipped.stdout}")


def case_errors(bench):
    """Bad input gets a clear error of four lines and its own exit code."""
    bench.prepare()
    with open(bench.path("empty.tok"), "w"):
        pass
    with open(bench.path("foreign.tok"), "wb") as file:
        file.write(b"PK\x03\x04" * 4096)
    with open(bench.path("train.tok"), "rb") as whole, open(bench.path("short.tok"), "wb") as short:
        short.write(whole.read()[:5000])
    base = bench.train_arguments("errors")
    without_data = [argument for argument in base if not argument.startswith("--data.train")]
    cases = [
        (2, []), (2, ["trian"]), (2, [*base, "--train.stepz=3"]), (2, [*base, "--train.steps=many"]),
        (2, [*base, "--train.micro_batch=3"]), (2, [*base, "--model.heads=5"]), (2, [*base, "--train.lr_schedule=cosin"]),
        (2, [*base, "--device.isa=neon"]), (2, without_data), (2, [*base, "--train.lr=1e-3", "--train.lr=2e-3"]),
        (3, [*without_data, "--data.train=missing.tok"]), (3, [*without_data, "--data.train=empty.tok"]),
        (3, [*without_data, "--data.train=foreign.tok"]), (3, [*without_data, "--data.train=short.tok"]),
        (3, [*base, "--model.vocab=64"]), (3, [*base, "--model.context=8000"]),
    ]
    for code, arguments in cases:
        done = bench.run(arguments, code=code)
        expect("terminate called" not in done.stderr and "Assertion" not in done.stderr, done.stderr)
        if arguments and arguments[0] == "train":
            for word in ("error: ", "where: ", "why: ", "fix: "):
                expect(word in done.stderr, f"{arguments[-1]}: no '{word}' line in {done.stderr!r}")
        expect(not os.path.exists(bench.path("errors", "metrics.jsonl")), f"{arguments}: a run directory was touched")
    with open(bench.path("typo.toml"), "w") as file:
        file.write("[train]\nsteps = 4\nmicro_bacth = 2\n")
    with open(bench.path("twice.toml"), "w") as file:
        file.write("[train]\nsteps = 4\nsteps = 5\n")
    texts = [
        ([*base, "--train.stepz=3"], "train.steps"), ([*base, "--train.global_batch=7"], "6 or 8"),
        ([*base, "--model.hidden=66"], "64 or 68"), ([*base, "--train.lr_schedule=cosin"], "cosine"),
        ([*base, "--config", "typo.toml"], "typo.toml:3"), ([*base, "--config", "typo.toml"], "train.micro_batch"),
        ([*base, "--config", "twice.toml"], "twice.toml:3"), (["trian"], "train"),
    ]
    for arguments, text in texts:
        done = bench.run(arguments, code=2)
        expect(text in done.stderr, f"{arguments[-1]}: no {text!r} in {done.stderr!r}")
    # The same through the launcher: one exit code, no hang.
    for code, more in ((2, "--train.stepz=3"), (3, "--data.train=missing.tok")):
        bench.run(["launch", "-n", "3", "--", *(base if code == 2 else without_data), more], code=code)
    path, bench.environment["PATH"] = bench.environment["PATH"], bench.folder  # no mpirun there
    done = bench.run(["launch", "-n", "2", "--", *base], code=6)
    bench.environment["PATH"] = path
    expect("mpirun" in done.stderr and "fix: " in done.stderr, done.stderr)
    print(f"campaign: {len(cases) + len(texts) + 3} kinds of bad input, each with its exit code")


def case_stop(bench):
    """train.stop_at ends a run in good order with exit code 75."""
    bench.prepare()
    done = bench.run(["launch", "-n", "2", "--", *bench.train_arguments("stop", "--train.stop_at=2")], code=75)
    expect(done.stdout.strip().splitlines()[-1].startswith("stopped step=2 "), done.stdout[-300:])
    bench.run(bench.train_arguments("whole"))
    expect(bench.trace("stop") == bench.trace("whole")[:2], "a stopped run computed other steps")


def case_signals(bench):
    """TERM and USR1 in the middle of a step end the run with 75 and leave its heap whole."""
    bench.prepare()
    launch = ["launch", "-n", "2", "--"]
    # Long steps: many signals fall into one. Once a run is asked, further USR1 change nothing; a second TERM would.
    for number, (prefix, name, count) in enumerate((
            ([], "USR1", 200), (launch, "USR1", 200), (launch, "TERM", 1), (launch, "USR1", 200))):
        folder = f"signals{number}"
        arguments = bench.train_arguments(folder, "--device.threads=1", "--train.global_batch=100", steps=1000)
        with bench.start([*prefix, *arguments]) as process:
            bench.wait_for_step(folder, process)
            for _ in range(count):  # some come while the launcher ends
                process.send_signal(getattr(signal, f"SIG{name}"))
                time.sleep(0.002)
            out, err = process.communicate(timeout=TIMEOUT_S)
        context = (f"{name} x {count}, {' '.join(prefix) or 'no launcher'}: exit code {process.returncode}\n"
                   f"{out[-800:]}\n{err[-3000:]}")
        expect(process.returncode == 75, context)
        expect(out.strip().splitlines()[-1].startswith("stopped step="), context)
        expect(not re.search(r"corrupted|free\(\)|malloc|munmap|double|Signal:|error:", err), context)


def case_resume(bench):
    """Stopped and resumed on other ranks, threads and intervals: each step once, with the straight run's digest."""
    bench.prepare()
    bench.run(bench.train_arguments("straight", "--train.decay_steps=6", steps=6))
    expected = bench.trace("straight")
    legs = 0
    for name, first, then in (("a", (2, 3, 2), (5, 6, 4)), ("b", (3, 1, 1), (1, 6, 0)), ("c", (1, 5, 2), (4, 6, 3))):
        for ranks, stop, every in (first, then):
            arguments = bench.train_arguments(name, "--train.decay_steps=6", f"--train.stop_at={stop if stop < 6 else 0}",
                                              f"--checkpoint.every={every}", f"--device.threads={1 + ranks % 2}", steps=6)
            done = bench.run(["launch", "-n", str(ranks), "--", *arguments], code=75 if stop < 6 else 0)
            expect(bench.trace(name) == expected[:stop], f"{name}: other steps up to {stop} on {ranks} ranks")
            legs += 1
    # Run again: nothing is left to do, and the done line is the same.
    again = bench.run(["launch", "-n", "2", "--", *bench.train_arguments("c", "--train.decay_steps=6", steps=6)])
    expect(again.stdout.splitlines()[-1] == done.stdout.splitlines()[-1], again.stdout[-300:])
    expect(bench.trace("c") == expected, "a finished run changed its metrics")
    print(f"campaign: {legs} legs of resumed runs on 1 to 5 processes, one digest per step")


# (config, ranks, tp, pp, chunks, schedule, recompute): every value of every key at least once, even and uneven stages,
# tensor degrees in groups of their own.
LAYOUTS = [
    ("tiny", 2, 1, 2, 1, "gpipe", "none"), ("tiny", 2, 1, 2, 1, "1f1b", "selective"),
    ("tiny", 2, 1, 2, 2, "zbv", "full"), ("tiny", 2, 1, 2, 2, "interleaved", "none"),
    ("tiny", 3, 1, 2, 1, "auto", "none"), ("tiny", 3, 1, 3, 1, "zb-h1", "full"),
    ("tiny", 3, 1, 3, 3, "auto", "selective"), ("tiny", 4, 1, 2, 1, "1f1b", "full"),
    ("tiny", 4, 1, 4, 1, "zb-h1", "none"), ("tiny", 4, 1, 4, 2, "zbv", "selective"),
    ("tiny", 4, 1, 1, 1, "1f1b", "full"), ("tiny", 5, 1, 2, 2, "auto", "none"),
    ("tiny", 5, 1, 4, 1, "auto", "full"), ("tiny", 6, 1, 3, 1, "gpipe", "selective"),
    ("tiny", 7, 1, 3, 1, "auto", "none"), ("tiny", 8, 1, 4, 1, "1f1b", "none"),
    ("tiny", 8, 1, 8, 1, "zb-h1", "selective"), ("tiny", 8, 1, 2, 2, "zbv", "none"),
    ("deep", 8, 1, 8, 3, "interleaved", "none"), ("deep", 8, 1, 4, 2, "interleaved", "full"),
    ("deep", 2, 1, 2, 3, "interleaved", "selective"),
    ("tiny", 2, 2, 1, 1, "auto", "none"), ("tiny", 4, 2, 2, 1, "1f1b", "selective"),
    ("tiny", 6, 2, 2, 1, "auto", "full"), ("tiny", 8, 2, 2, 2, "zbv", "none"),
    ("tiny", 4, 4, 1, 1, "auto", "none"), ("tiny", 8, 4, 2, 1, "zb-h1", "full"),
]


# (4 L + 2) sqrt(4 C) 2^-24 of configs/tiny.toml, a step: tests/README.md, "Across tensor degrees".
DEGREE_TOLERANCE = (4 * 8 + 2) * 16 * 2.0**-24


def case_layouts(bench):
    """Data x tensor x pipeline layouts under mpirun: one digest, every step, within each model and tensor degree."""
    bench.prepare()
    expected, values = {}, set()
    for number, (config, ranks, tp, pp, chunks, schedule, recompute) in enumerate(LAYOUTS):
        name = f"layout{number}"
        arguments = bench.train_arguments(name, "--device.threads=1", f"--parallel.tp={tp}", f"--parallel.pp={pp}",
                                          f"--parallel.chunks={chunks}", f"--parallel.schedule={schedule}",
                                          f"--train.recompute={recompute}", "--checkpoint.last=false", steps=2)
        arguments[2] = os.path.join(bench.source, "configs", f"{config}.toml")
        bench.run(["launch", "-n", str(ranks), "--", *arguments])
        trace = bench.trace(name)
        if tp == 1 and config not in expected:
            solo = bench.train_arguments(f"solo-{config}", steps=2)
            solo[2] = arguments[2]
            bench.run(solo)
            expected[config, 1] = expected[config] = bench.trace(f"solo-{config}")
        reference = expected.setdefault((config, tp), trace)
        expect(len(trace) == 2 and trace == reference, f"layout {LAYOUTS[number]} differs")
        for line, first in zip(trace, expected[config]):
            expect(abs(line["loss"] / first["loss"] - 1) < DEGREE_TOLERANCE * line["step"], f"loss of {LAYOUTS[number]}")
        values.update([("tp", tp), ("pp", pp), ("chunks", chunks), ("schedule", schedule), ("recompute", recompute)])
    for key, wanted in (("chunks", (1, 2, 3)), ("recompute", ("none", "selective", "full")), ("tp", (1, 2, 4)),
                        ("schedule", ("auto", "gpipe", "1f1b", "interleaved", "zb-h1", "zbv"))):
        expect(all((key, value) in values for value in wanted), f"not all values of {key} were run")
    print(f"campaign: {len(LAYOUTS)} layouts under mpirun on 2 to 8 ranks, one digest per step in each tensor degree")


def case_layout_changes(bench):
    """A checkpoint goes on under any other layout, tensor degree included; within one degree with the same bits."""
    bench.prepare()
    bench.run(bench.train_arguments("straight", "--train.decay_steps=6", steps=6))
    expected = bench.trace("straight")

    def leg(name, stop, ranks, tp, pp, *more):
        return bench.run(["launch", "-n", str(ranks), "--", *bench.train_arguments(
            name, "--train.decay_steps=6", f"--train.stop_at={stop if stop < 6 else 0}", f"--parallel.tp={tp}",
            f"--parallel.pp={pp}", "--device.threads=1", *more, steps=6)], code=75 if stop < 6 else 0)

    leg("a", 2, 4, 1, 2)
    leg("a", 4, 3, 1, 3, "--parallel.schedule=zb-h1")
    leg("a", 5, 5, 1, 2, "--train.recompute=full")
    leg("a", 6, 2, 1, 1)
    expect(bench.trace("a") == expected, "layouts changed on the way differ from the straight run")
    # Across degrees the state is carried over bit for bit (the digest is checked when it is loaded); what is trained
    # from there on has other bits and the same losses to rounding.
    for name, first, then in (("b", (2, 2, 1), (8, 4, 2)), ("c", (4, 4, 1), (2, 1, 2)), ("d", (3, 1, 3), (4, 2, 2))):
        leg(name, 3, *first)
        done = leg(name, 6, *then)
        expect("tensor_degree" in done.stdout + done.stderr, f"{name}: nothing said of the other tensor degree")
        for line, straight in zip(bench.trace(name), expected):
            expect(abs(line["loss"] / straight["loss"] - 1) < DEGREE_TOLERANCE * line["step"], f"{name}: step {line['step']}")
    print("campaign: 4 layouts in a row with the straight run's bits, 3 changes of the tensor degree")


def case_precision(bench):
    """bf16 under mpirun: one digest for all layouts; what it leaves can be exported, generated from and gone on with in f32."""
    bench.prepare()
    bf16 = ("--train.precision=bf16", "--train.decay_steps=6")
    bench.run(bench.train_arguments("straight", *bf16, steps=6))
    expected = bench.trace("straight")

    def leg(name, stop, ranks, *more, steps=6):
        return bench.run(["launch", "-n", str(ranks), "--", *bench.train_arguments(
            name, f"--train.stop_at={stop if stop < steps else 0}", "--device.threads=1", *more, steps=steps)],
            code=75 if stop < steps else 0)

    leg("run", 2, 4, *bf16, "--parallel.pp=2", "--parallel.chunks=2", "--parallel.schedule=zbv")
    leg("run", 4, 3, *bf16, "--train.recompute=selective")
    done = leg("run", 6, 3, *bf16, "--parallel.pp=3", "--train.recompute=full")
    expect(bench.trace("run") == expected, "layouts changed on the way differ from the straight run")
    expect("train.precision" not in done.stdout + done.stderr, "a change of precision is told of where there was none")
    sliced = [leg(name, 6, ranks, *bf16, "--parallel.tp=2", f"--parallel.pp={ranks // 2}") and bench.trace(name)
              for name, ranks in (("two", 2), ("four", 4))]
    expect(sliced[0] == sliced[1], "two layouts of slices differ")
    bench.run(bench.train_arguments("f32", "--train.decay_steps=6", steps=6))
    for line, slices, exact in zip(expected, sliced[0], bench.trace("f32")):
        expect(len({line["digest"], slices["digest"], exact["digest"]}) == 3, f"step {line['step']}: digests are equal")
        # As across degrees, but storage is rounded to 2^-9 of itself; sums, the square root there, are not.
        for other in (line, slices):
            expect(abs(other["loss"] / exact["loss"] - 1) < (4 * 8 + 2) * 2.0**-9 * line["step"], f"loss of step {line['step']}")

    generate = [bench.binary, "generate", "--checkpoint", bench.path("run"), "--prompt=The ", "--max_tokens=20"]
    texts = [subprocess.run(generate, cwd=bench.folder, env=bench.environment, timeout=TIMEOUT_S, check=True,
                            stdout=subprocess.PIPE).stdout for _ in range(2)]
    expect(len(texts[0]) >= 20 and texts[0] == texts[1], f"generated {texts}")
    bench.run(["checkpoint", "export", bench.path("run"), "--output", bench.path("exported")])
    expect(os.path.getsize(bench.path("exported", "model.safetensors")) > 4 * 400_000, "weights are not exported as f32")
    changed = leg("run", 8, 2, "--train.decay_steps=6", steps=8)
    expect("train.precision" in changed.stdout + changed.stderr, "nothing is said of the other precision")
    expect(bench.trace("run")[:6] == expected and len(bench.trace("run")) == 8, "the run did not go on in f32")


def case_hang(bench):
    """Without agents a rank stopped for good is named by the others, with step and action, within the deadline; exit code 6."""
    bench.prepare()
    timeout_s = 4
    arguments = bench.train_arguments("hang", "--device.threads=1", "--parallel.pp=2", "--train.global_batch=100",
                                      "--elastic.enabled=false", steps=5000)
    arguments[arguments.index("--comm.timeout_ms=60000")] = f"--comm.timeout_ms={timeout_s * 1000}"
    with bench.start(["launch", "-n", "4", "--", *arguments]) as process:
        bench.wait_for_step("hang", process)
        ranks = {}
        for pid in descendants(process.pid):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                for word in file.read().split(b"\0"):
                    if word.startswith(b"OMPI_COMM_WORLD_RANK="):
                        ranks[int(word.split(b"=")[1])] = pid
        victim = ranks[2]
        os.kill(victim, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            out, err = process.communicate(timeout=TIMEOUT_S)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        took = time.monotonic() - stopped
    context = f"exit code {process.returncode} after {took:.1f} s\n{err[-4000:]}"
    expect(process.returncode == 6, context)
    expect(took < 5 * timeout_s, context)
    named = re.findall(r"rank 2 has not been heard of", err)
    expect(len(named) >= 1, context)
    expect(re.search(r"step \d+, (\d+[FBIWR]\d+|[a-z]+)", err), context)


def case_kill(bench):
    """SIGKILL of all processes at any moment, checkpoints every step: the run goes on where it was."""
    bench.prepare()
    arguments = ["--train.decay_steps=40", "--checkpoint.every=1", "--checkpoint.keep=2"]
    bench.run(bench.train_arguments("straight", *arguments, steps=40))
    expected = bench.trace("straight")
    random.seed(5)
    kills, started = 0, False
    for attempt in range(200):
        command = bench.train_arguments("killed", *arguments, steps=40)
        ranks = 1 + attempt % 3
        if ranks > 1:
            command = ["launch", "-n", str(ranks), "--", *command]
        with bench.start(command) as process:
            before = os.path.getsize(bench.path("killed", "metrics.jsonl")) if started else 0
            deadline = time.monotonic() + TIMEOUT_S
            file = bench.path("killed", "metrics.jsonl")
            # Some progress, then a random moment: or fast machines and slow ones test different things.
            while process.poll() is None and (not os.path.exists(file) or os.path.getsize(file) <= before):
                expect(time.monotonic() < deadline, "no step was committed")
                time.sleep(0.002)
            time.sleep(random.random() * 0.15)
            victims = [process.pid, *descendants(process.pid)]
            if process.poll() is None:
                for pid in victims:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                kills += 1
            process.wait(timeout=TIMEOUT_S)
            wait_gone(victims)
            started = True
            if process.returncode == 0:
                break
    expect(process.returncode == 0, f"never finished; exit code {process.returncode}")
    expect(kills >= 2, f"only {kills} kills")
    expect(bench.trace("killed") == expected, "a run that was killed again and again computed other steps")
    print(f"campaign: {kills} SIGKILLs of whole jobs, every step's digest as without them")


def case_checkpoint_stop(bench):
    """TERM during a long validation leaves a checkpoint behind, and nothing is lost or computed twice."""
    bench.prepare()
    with open(bench.path("long.txt"), "w") as file:
        file.write(PROSE * 200)
    bench.run(["data", "prepare", "--input", "long.txt", "--output", "long.tok"])
    more = ["--data.val=long.tok", "--train.val_every=1", "--train.val_batches=100000", "--train.micro_batch=1",
            "--train.global_batch=20", "--train.val_last=false", "--train.decay_steps=4", "--device.threads=1"]
    quick = [argument.replace("val_every=1", "val_every=0") for argument in more]
    bench.run(bench.train_arguments("straight", *quick))
    arguments = bench.train_arguments("stopped", *more)
    with bench.start(["launch", "-n", "2", "--", *arguments]) as process:
        # A step is computed in milliseconds; validating takes all the time after it.
        bench.wait_for(lambda: os.path.exists(bench.path("stopped", "config.toml")), process)
        time.sleep(1.0)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=TIMEOUT_S)
    expect(process.returncode == 75, f"exit code {process.returncode}\n{out[-800:]}\n{err[-2000:]}")
    expect("val_loss" not in bench.metrics("stopped")[-1], "the validation was not broken off")
    stopped_at = int(re.search(r"stopped step=(\d+)", out).group(1))
    expect(os.path.isdir(bench.path("stopped", "checkpoints", f"step-{stopped_at:012d}")), "no checkpoint was left")
    bench.run(["launch", "-n", "3", "--", *bench.train_arguments("stopped", *quick)])
    expect(bench.trace("stopped") == bench.trace("straight"), "the resumed run differs")


def flip_byte(path, at=None):
    with open(path, "r+b") as file:
        size = os.path.getsize(path)
        at = size // 2 if at is None else at
        file.seek(at)
        byte = file.read(1)[0]
        file.seek(at)
        file.write(bytes([byte ^ 0x10]))


def case_checkpoint_damage(bench):
    """A damaged checkpoint is named, set aside and not used; without a sound one the run does not start over."""
    bench.prepare()
    arguments = bench.train_arguments("run", "--train.decay_steps=6", "--checkpoint.every=2", steps=6)
    bench.run(bench.train_arguments("straight", "--train.decay_steps=6", steps=6))
    bench.run(["launch", "-n", "2", "--", *arguments, "--train.stop_at=4"], code=75)
    checkpoints = bench.path("run", "checkpoints")

    def step(number):
        return os.path.join(checkpoints, f"step-{number:012d}")

    found = sorted(name for name in os.listdir(checkpoints) if name.startswith("step-"))
    expect(len(found) == 2, f"checkpoints: {found}")
    flip_byte(os.path.join(step(4), "shards", "w00001.h5"))
    verified = bench.run(["checkpoint", "verify", step(4)], code=9)
    expect("w00001.h5" in verified.stdout + verified.stderr, verified.stdout)
    done = bench.run(["launch", "-n", "3", "--", *arguments])
    expect("step-000000000004 " in done.stderr + " " and ".bad-step-000000000004-1" in done.stderr, done.stderr)
    expect(bench.trace("run") == bench.trace("straight"), "the run went on wrongly")
    expect(os.path.isdir(os.path.join(checkpoints, ".bad-step-000000000004-1")), "the damaged one is gone")
    # The index is derived: damage is told, the state is whole.
    flip_byte(os.path.join(step(6), "index.h5"), 100)
    done = bench.run(arguments)
    expect("reindex" in done.stderr, done.stderr)
    bench.run(["checkpoint", "verify", step(6)], code=9)
    bench.run(["checkpoint", "reindex", step(6)])
    bench.run(["checkpoint", "verify", step(6)])
    # Nothing sound is left.
    for name in os.listdir(checkpoints):
        if name.startswith("step-"):
            flip_byte(os.path.join(checkpoints, name, "MANIFEST.json"))
    for _ in range(2):  # and still not at the second try, when all have been renamed
        done = bench.run(["launch", "-n", "2", "--", *arguments], code=9)
        expect("--train.fresh" in done.stderr, done.stderr)
    bench.run(["launch", "-n", "2", "--", *arguments, "--train.fresh"])
    expect(os.path.isdir(checkpoints + ".1"), "what was there before is gone")
    expect(bench.trace("run") == bench.trace("straight"), "the fresh run differs")


def case_checkpoint_changes(bench):
    """What a resumed run may change, in three classes, each shown."""
    bench.prepare()
    arguments = bench.train_arguments("run", "--train.decay_steps=6", steps=3)
    bench.run(arguments)
    longer = bench.train_arguments("run", "--train.decay_steps=6")
    for key, value, now in (("train.seed", "8", "7 -> 8"), ("model.dropout", "0.5", "model.dropout"),
                            ("numerics.mode", "fast", '"exact" -> "fast"')):
        changed = [word for word in longer if not word.startswith(f"--{key}")]
        done = bench.run([*changed, f"--{key}={value}"], code=2)
        expect("refuse" in done.stderr and now in done.stderr and "fix: " in done.stderr, done.stderr)
    with open(bench.path("other.txt"), "w") as file:
        file.write(PROSE[1:])
    bench.run(["data", "prepare", "--input", "other.txt", "--output", "other.tok"])
    other = [word for word in longer if not word.startswith("--data.train")]
    done = bench.run([*other, "--data.train=other.tok"], code=2)
    expect("refuse  data: " in done.stderr, done.stderr)
    os.rename(bench.path("train.tok"), bench.path("moved.tok"))  # the same tokens under another name
    done = bench.run([*other, "--data.train=moved.tok", "--train.lr=0.01", "--checkpoint.keep=9"])
    expect("warn    train.lr: " in done.stderr and "free    checkpoint.keep: 3 -> 9" in done.stderr, done.stderr)
    expect([line["step"] for line in bench.metrics("run")] == [1, 2, 3, 4], "steps of the resumed run")
    bench.run([*longer, "--checkpoint.every=2", "--log.dir="], code=2)  # twice the key
    done = bench.run([word for word in longer if not word.startswith("--log.dir")] + ["--checkpoint.every=2"], code=2)
    expect("log.dir" in done.stderr, done.stderr)


def case_checkpoint_failure(bench):
    """A disk that takes no checkpoint does not stop training; exit code 8 tells."""
    bench.prepare()
    bench.run(bench.train_arguments("straight"))
    limited = ["bash", "-c", 'ulimit -f 64; exec "$0" "$@"']  # no file above 64 KiB
    done = bench.run(bench.train_arguments("full", "--checkpoint.every=2"), code=8, prefix=limited)
    expect("NOT on disk" in done.stdout and "done step=4" in done.stdout, done.stdout[-500:])
    expect(bench.trace("full") == bench.trace("straight"), "the run differs")
    left = [name for name in os.listdir(bench.path("full", "checkpoints")) if name != ".session"]
    expect(left == [], f"left behind: {left}")
    bench.run(bench.train_arguments("full", "--checkpoint.every=2"))
    expect(bench.trace("full") == bench.trace("straight"), "the run after it differs")


def case_checkpoint_directory(bench):
    """One run a directory; links are followed; train.fresh is said once; nothing starts over by itself."""
    bench.prepare()
    arguments = bench.train_arguments("run", "--train.decay_steps=6", steps=4)
    bench.run([*arguments, "--train.fresh"])
    expected = bench.trace("run")
    longer = bench.train_arguments("run", "--train.decay_steps=6", steps=6)
    # A running one keeps others out.
    slow = bench.train_arguments("busy", "--train.global_batch=1000", steps=1000)
    with bench.start(slow) as process:
        bench.wait_for(lambda: os.path.exists(bench.path("busy", "config.toml")), process)
        for more in ([], ["--train.fresh"]):
            done = bench.run([*bench.train_arguments("busy"), *more], code=2)
            expect("another run" in done.stderr, done.stderr)
    # Moved to another disk and linked back.
    home = bench.path("run", "checkpoints", "step-000000000004")
    os.rename(home, bench.path("elsewhere"))
    os.symlink(bench.path("elsewhere"), home)
    with open(bench.path("run", "config.toml")) as file:
        expect("fresh = true" not in file.read(), "train.fresh would be said again")
    done = bench.run(longer)
    expect("going on after step 4" in done.stdout, done.stdout[:1500])
    expect(bench.trace("run")[:4] == expected, "the resumed run differs")
    # All gone but for LATEST: somebody deleted them, or the disk is not mounted.
    for name in os.listdir(bench.path("run", "checkpoints")):
        if name.startswith("step-"):
            os.rename(bench.path("run", "checkpoints", name), bench.path(name))
    done = bench.run(longer, code=9)
    expect("LATEST" in done.stderr and "--train.fresh" in done.stderr, done.stderr)


def case_checkpoint_h5py(bench):
    """h5py reads every logical tensor of index.h5 as the state dump has it, also from a moved directory."""
    bench.prepare()
    bench.run(["launch", "-n", "3", "--", *bench.train_arguments("run", "--train.dump_state=state.h5")])
    os.rename(bench.path("run", "checkpoints", "step-000000000004"), bench.path("elsewhere"))
    script = """
import h5py, numpy, sys
index, dump = h5py.File(sys.argv[1], "r"), h5py.File(sys.argv[2], "r")
groups = {"model": "master", "optimizer/exp_avg": "moment1", "optimizer/exp_avg_sq": "moment2"}
count = 0
for group, kind in groups.items():
    assert list(index[group]) and set(index[group]) == set(dump[kind]), (list(index[group]), list(dump[kind]))
    for name in index[group]:
        a, b = index[group][name][...], dump[kind][name][...]
        assert a.shape == b.shape and a.dtype == numpy.float32, (name, a.shape, b.shape)
        assert a.tobytes() == b.tobytes(), name
        count += 1
print(count)
"""
    done = subprocess.run(["/usr/bin/python3", "-c", script, bench.path("elsewhere", "index.h5"), bench.path("state.h5")],
                          cwd="/", timeout=TIMEOUT_S, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(done.returncode == 0, done.stderr)
    expect(int(done.stdout) == 3 * (2 + 8 * 12 + 2), f"{done.stdout} tensors")
    # The state digest out of the checkpoint, by other code than ours.
    script = [os.path.join(bench.source, "scripts", "state_digest.py"), bench.path("elsewhere")]
    expected = bench.metrics("run")[-1]["digest"]
    for more, code in (([], 0), (["--flip", "moment2:wte.weight:16400:3"], 1)):
        done = subprocess.run(["/usr/bin/python3", *script, *more], cwd="/", timeout=TIMEOUT_S, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        expect(done.returncode == code, f"{done.stdout}{done.stderr}")
        expect((done.stdout.strip() == expected) == (code == 0), f"script says {done.stdout!r}, the run {expected}")


CASES = {name[5:]: function for name, function in globals().items() if name.startswith("case_")}


def main():
    if len(sys.argv) < 4:
        print("\n".join(CASES))
        return 2
    binary, source = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    for name in sys.argv[3:]:
        with tempfile.TemporaryDirectory(prefix="elaswave-e2e-") as folder:
            try:
                CASES[name](Bench(binary, source, folder))
            except (Failure, subprocess.TimeoutExpired) as problem:
                print(f"{name}: FAILED\n{problem}")
                return 1
        print(f"{name}: passed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
