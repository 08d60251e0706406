#!/usr/bin/env python3
"""Benchmarks of failures, redundancy and lost ranks on emulated compute: ratios and medians, never pass or fail.

  scripts/bench_recovery.py phases      [--ranks 8,16,32,96] [--kills 5]   kill -9 of a random rank, phases of the recovery
  scripts/bench_recovery.py redundancy  [--rounds 5] [--steps 12] [--compute real]   copies and agents while nothing fails
  scripts/bench_recovery.py losses      [--losses 3] [--steps 6]           tokens/s after each loss against what is left
  scripts/bench_recovery.py slowed      [--steps 12]                       one rank at half speed, shares fixed or following

Real processes, MPI, agents and recovery; the compute of every layer is a sleep (tests/bench/emulated_ops.cpp), because
ranks share the cores of one machine. Needs the target emulated_elaswave. Linux, standard library only."""

import argparse
import array
import contextlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VOCAB = 257
TINY = {"model.heads": 2, "model.hidden": 32, "model.context": 16, "model.vocab": VOCAB}


def machine():
    load = os.getloadavg()
    return f"{os.cpu_count()} cores, load {load[0]:.1f} before this line, seed {OPTIONS.seed}"


class Run:
    """One `elaswave launch` in a directory of its own; ended when the block ends."""

    def __init__(self, ranks, options, layer_us):
        self.directory = tempfile.mkdtemp(prefix="bench-", dir=WORK)
        arguments = [OPTIONS.elaswave, "launch", "-n", str(ranks), "--", "train"]
        fixed = {"data.train": TOKENS, "data.format": "nanogpt", "log.dir": self.directory,
                 "checkpoint.last": "false", "device.threads": 1, "train.steps": 1_000_000, "log.level": "error"}
        arguments += [f"--{key}={value}" for key, value in {**fixed, **options}.items()]
        self.output = open(os.path.join(self.directory, "output"), "w")
        self.process = subprocess.Popen(arguments, stdout=self.output, stderr=subprocess.STDOUT,
                                        env={**os.environ, "EMULATED_LAYER_US": str(layer_us)})

    def lines(self, name):
        """Of a file that is being written: a torn last line is left out."""
        try:
            with open(os.path.join(self.directory, name)) as file:
                return [json.loads(line) for line in file.read().split("\n")[:-1]]
        except OSError:
            return []

    def events(self, kind):
        return [event for event in self.lines("events.jsonl") if event["event"] == kind]

    def wait(self, what, ready, limit_s=120):
        deadline = time.monotonic() + limit_s
        while True:
            found = ready()
            if found:
                return found
            if self.process.poll() is not None or time.monotonic() > deadline:
                with open(os.path.join(self.directory, "output")) as file:
                    sys.stderr.write("".join(file.readlines()[-20:]))
                raise SystemExit(f"bench: no {what}; exit code of the run so far: {self.process.poll()}")
            time.sleep(0.01)

    def wait_steps(self, count, limit_s=180):
        """Until `count` more steps stand in metrics.jsonl than now."""
        goal = len(self.lines("metrics.jsonl")) + count
        return self.wait(f"step {goal}", lambda: len(self.lines("metrics.jsonl")) >= goal, limit_s)

    def pids(self):
        return {place["rank"]: place["pid"] for place in self.events("start")[-1]["ranks"]}

    def kill(self, rank):
        """kill -9; the event of the recovery, with the time of the kill."""
        before = len(self.events("recovery"))
        now = time.monotonic_ns()
        os.kill(self.pids()[rank], signal.SIGKILL)
        event = self.wait("recovery", lambda: self.events("recovery")[before:])[0]
        self.wait("redundancy", lambda: [e for e in self.events("redundancy") if e["generation"] >= event["generation"]])
        return {**event, "killed_ns": now}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.send_signal(signal.SIGTERM)  # an orderly stop after the step under way
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            for pid in self.pids().values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.kill()
            self.process.wait()
        self.output.close()
        if not OPTIONS.keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def tokens_file(path, count):
    """Random bytes as token ids, two bytes each, without a header."""
    with open(path, "wb") as file:
        array.array("H", random.Random(1).choices(range(256), k=count)).tofile(file)


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


PHASES = ("agree", "abort", "choose", "plan", "promote", "gate", "first_step")
STAGES = {8: 2, 16: 4, 32: 4, 96: 8}


def phases():
    print(f"Recovery from kill -9 of a random rank, ms, median (worst); {machine()}")
    print("detect: kill -> the reporter's agent doubts the rank; ready: agree .. gate; step: median of the healthy run")
    names = ("detect", *PHASES, "ready", "total")
    print("| ranks | data x pipeline | kills | step | " + " | ".join(names) + " |")
    print("|" + "---|" * (len(names) + 4))
    for ranks in OPTIONS.ranks:
        stages = STAGES.get(ranks, 2)
        replicas = ranks // stages
        options = {**TINY, "model.layers": 8, "train.micro_batch": 1, "train.global_batch": 4 * replicas,
                   "parallel.pp": stages}
        rows, steps = [], []
        while len(rows) < OPTIONS.kills:
            # Starting many processes takes longer than many recoveries: large runs lose several ranks in turn.
            in_one_run = OPTIONS.kills if ranks >= 64 else 1
            with Run(ranks, options, OPTIONS.layer_us) as run:
                run.wait_steps(6)
                steps += [line["ms"] for line in run.lines("metrics.jsonl")[2:]]
                for victim in random.sample(range(ranks), in_one_run):
                    run.wait_steps(2)
                    time.sleep(random.random() * steps[-1] / 1e3)
                    event = run.kill(victim)
                    row = {name: event["phases_us"][name] / 1e3 for name in PHASES}
                    began_ns = event["at_ns"] - event["total_us"] * 1000
                    row["detect"] = (began_ns - event["killed_ns"]) / 1e6
                    row["ready"] = sum(row[name] for name in PHASES if name != "first_step")
                    row["total"] = row["detect"] + event["total_us"] / 1e3
                    rows.append(row)
                    if OPTIONS.verbose:
                        print(ranks, victim, event["response"], {k: round(v, 1) for k, v in row.items()}, file=sys.stderr)
        cells = [f"{statistics.median(row[name] for row in rows):.1f} ({max(row[name] for row in rows):.1f})"
                 for name in names]
        print(f"| {ranks} | {replicas} x {stages} | {len(rows)} | {statistics.median(steps):.0f} | "
              + " | ".join(cells) + " |", flush=True)


def cpu_ms(pids):
    """User and system time of processes."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            total += sum(int(word) for word in file.read().rsplit(")", 1)[1].split()[11:13])
    return total * 1e3 / os.sysconf("SC_CLK_TCK")


def measured(run, count):
    """ms of each of `count` further steps, the first left out: it may hold what was going on."""
    first = len(run.lines("metrics.jsonl")) + 1
    run.wait_steps(count + 1, 400)
    return [line["ms"] for line in run.lines("metrics.jsonl")[first:first + count]]


def measure_costs(run):
    """Median ms of a step; processor ms of a rank and step; the fastest step."""
    run.wait_steps(2, 400)
    pids = run.pids().values()
    before, first = cpu_ms(pids), len(run.lines("metrics.jsonl"))
    times = measured(run, OPTIONS.steps)
    used, last = cpu_ms(pids), len(run.lines("metrics.jsonl"))
    return statistics.median(times), (used - before) / len(pids) / (last - first), min(times)


def redundancy():
    """A B C A B C ...: the machine's changes hit all alike."""
    real = OPTIONS.compute == "real"
    ranks, tokens = OPTIONS.redundancy_ranks, 64 if real else 16
    options = {"model.layers": 4, "model.heads": 4, "model.hidden": 256, "model.context": tokens, "model.vocab": 4096,
               "train.micro_batch": 1, "train.global_batch": OPTIONS.global_batch}
    variants = {"elastic.enabled=false": {"elastic.enabled": "false"},
                "elastic.copies=0": {"elastic.copies": 0},
                "elastic.copies=1": {"elastic.copies": 1}}
    print(f"Cost of redundancy while healthy: data {ranks}, 4 layers of 256 (4.2 M parameters), {OPTIONS.global_batch} "
          f"micro-batches, {'real compute' if real else f'a layer {OPTIONS.layer_us / 1e3:g} ms forward'}, "
          f"{OPTIONS.rounds} rounds of {OPTIONS.steps} steps; {machine()}")
    found = {name: [] for name in variants}
    for _ in range(OPTIONS.rounds):
        for name, extra in variants.items():
            with Run(ranks, {**options, **extra}, 0 if real else OPTIONS.layer_us) as run:
                found[name].append(measure_costs(run))
                if OPTIONS.verbose:
                    print(name, found[name][-1], file=sys.stderr)
    base = found["elastic.enabled=false"]
    print("Ratios are to enabled=false: of medians in the same round, and of the fastest step of all rounds, which other "
          "work on the machine disturbs least")
    print("| variant | ms a step, median of rounds (range) | ratio (range) | fastest step | ratio | "
          "processor ms of a rank and step | more than enabled=false in the same round |")
    print("|---|---|---|---|---|---|---|")
    fastest = {name: min(value[2] for value in values) for name, values in found.items()}
    for name, values in found.items():
        ratios = [value[0] / other[0] for value, other in zip(values, base)]
        more = [value[1] - other[1] for value, other in zip(values, base)]
        print(f"| {name} | {spread([value[0] for value in values])} | {statistics.median(ratios):.3f} "
              f"({min(ratios):.3f}-{max(ratios):.3f}) | {fastest[name]:.1f} | "
              f"{fastest[name] / fastest['elastic.enabled=false']:.3f} | {spread([value[1] for value in values])} | {spread(more)} |")


def losses():
    ranks, stages = 8, 2
    replicas = ranks // stages
    options = {**TINY, "model.layers": 8, "train.micro_batch": 1, "train.global_batch": OPTIONS.global_batch,
               "parallel.pp": stages}
    print(f"Tokens/s after losses: {ranks} ranks, {replicas} x {stages}, {OPTIONS.global_batch} micro-batches, "
          f"a layer {OPTIONS.layer_us / 1e3:g} ms forward; {machine()}")
    print("capacity: ranks left / ranks; whole replicas: what is left when a failed rank's pipeline is dropped;")
    print("rerouted: what the schedule can reach with layers where they are, the micro-batches of the stage that lost most "
          "dealt to those left, and the pipeline's fill")
    print("| lost | response | ms a step (range) | tokens/s against healthy | of the fastest steps | capacity | "
          "whole replicas | rerouted | fastest / rerouted |")
    print("|---|---|---|---|---|---|---|---|---|")
    with Run(ranks, options, OPTIONS.layer_us) as run:
        run.wait_steps(2)
        healthy, best, dead, response = None, None, [], "none"
        for victim in [None, *(OPTIONS.victims or random.sample(range(ranks), OPTIONS.losses))]:
            if victim is not None:
                response = run.kill(victim)["response"]
                dead.append(victim)
            times = measured(run, OPTIONS.steps)
            now = statistics.median(times)
            healthy, best = healthy or now, best or min(times)
            fastest = best / min(times)
            # Rank r sits in replica r % replicas of stage r // replicas.
            broken = len({rank % replicas for rank in dead})
            fewest = min(replicas - sum(rank // replicas == stage for rank in dead) for stage in range(stages))
            share = OPTIONS.global_batch // replicas
            rerouted = (share + stages - 1) / (-(-OPTIONS.global_batch // fewest) + stages - 1)
            print(f"| {dead or 'none'} | {response} | {spread(times)} | {healthy / now:.3f} | {fastest:.3f} | "
                  f"{(ranks - len(dead)) / ranks:.3f} | {(replicas - broken) / replicas:.3f} | {rerouted:.3f} | "
                  f"{fastest / rerouted:.3f} |", flush=True)


def fair_steps(replicas, micro_batches, factor):
    """The longest replica of a stage, in micro-batches of a fast rank, when one of its ranks takes `factor` times as long."""
    return min(max(-(-(micro_batches - slow) // (replicas - 1)), slow * factor) for slow in range(micro_batches + 1))


def slowed():
    """From step 6 on one rank takes twice as long; measured from the 10th step after that on."""
    began, settled, factor, victim = 6, 10, 2, 1
    print(f"One rank takes {factor} times as long: ms a step from the {settled}th step of that on; a layer "
          f"{OPTIONS.layer_us / 1e3:g} ms forward, {OPTIONS.global_batch} micro-batches; {machine()}")
    print("optimum: the healthy step x what integer shares of the slow stage can reach for these speeds, the pipeline's fill "
          "included; fixed: elastic.rebalance=false")
    print("| data x pipeline | healthy | fixed | following | optimum | fixed / optimum | following / optimum (range) | "
          "steps until within 1.1 |")
    print("|---|---|---|---|---|---|---|---|")
    for replicas, stages in ((4, 1), (4, 2), (2, 4)):
        options = {**TINY, "model.layers": 8, "train.micro_batch": 1, "train.global_batch": OPTIONS.global_batch,
                   "parallel.pp": stages, "chaos.slow": f"rank={victim},step={began},factor={factor}"}
        found, healthy = {}, []
        for follow in ("false", "true"):
            with Run(replicas * stages, {**options, "elastic.rebalance": follow}, OPTIONS.layer_us) as run:
                run.wait_steps(began + settled - 1 + OPTIONS.steps, 600)
                times = [line["ms"] for line in run.lines("metrics.jsonl")]
                healthy += times[1:began - 1]
                found[follow] = times[began - 1:]
        share = OPTIONS.global_batch // replicas
        reach = (fair_steps(replicas, OPTIONS.global_batch, factor) + stages - 1) / (share + stages - 1)
        optimum = statistics.median(healthy) * reach
        fixed, follows = (statistics.median(found[key][settled:]) for key in ("false", "true"))
        ratios = sorted(ms / optimum for ms in found["true"][settled:])
        within = next((i for i, ms in enumerate(found["true"]) if ms <= 1.1 * optimum), None)
        print(f"| {replicas} x {stages} | {statistics.median(healthy):.0f} | {fixed:.0f} | {follows:.0f} | {optimum:.0f} | "
              f"{fixed / optimum:.2f} | {follows / optimum:.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) | {within} |", flush=True)
        if OPTIONS.verbose:
            print([round(ms / optimum, 2) for ms in found["true"]], file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phases", "redundancy", "losses", "slowed"))
    parser.add_argument("--elaswave", default=os.path.join(ROOT, "build/tests/bench/emulated/elaswave"))
    parser.add_argument("--ranks", type=lambda text: [int(word) for word in text.split(",")], default=[8, 16, 32, 96])
    parser.add_argument("--kills", type=int, default=5, help="for each number of ranks")
    parser.add_argument("--layer_us", type=int, default=2000, help="of a layer's forward; backward takes twice that")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=12, help="measured steps of a run or after a loss")
    parser.add_argument("--losses", type=int, default=3)
    parser.add_argument("--global_batch", type=int, default=32)
    parser.add_argument("--redundancy_ranks", type=int, default=4)
    parser.add_argument("--compute", choices=("emulated", "real"), default="emulated", help="of `redundancy`")
    parser.add_argument("--victims", type=lambda text: [int(word) for word in text.split(",")],
                        help="of `losses`, in this order; otherwise at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the runs' directories")
    parser.add_argument("--verbose", action="store_true", help="every sample on stderr")
    global OPTIONS, WORK, TOKENS
    OPTIONS = parser.parse_args()
    random.seed(OPTIONS.seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that runs end with the script
    WORK = tempfile.mkdtemp(prefix="bench-recovery-")
    TOKENS = os.path.join(WORK, "tokens.bin")
    tokens_file(TOKENS, 200_000)
    try:
        {"phases": phases, "redundancy": redundancy, "losses": losses, "slowed": slowed}[OPTIONS.what]()
    finally:
        if not OPTIONS.keep:
            shutil.rmtree(WORK, ignore_errors=True)


if __name__ == "__main__":
    main()
