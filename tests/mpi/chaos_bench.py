"""Jobs under fault for chaos_test.py: what a run says of itself, what every case demands of it, what kills hit."""

import collections
import contextlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

from end_to_end import TIMEOUT_S, Bench, Failure, expect, wait_gone

# A model so small that a run of 8 processes on one core spends its time in the protocol. What else configs/tiny.toml turns on
# (dropout, decay, clip, warm-up) stays on.
SMALL = ["--model.layers=4", "--model.hidden=16", "--model.heads=4", "--model.context=15", "--train.micro_batch=1",
         "--train.global_batch=8", "--device.threads=1", "--log.every=1000", "--checkpoint.last=false"]
# As long as it takes: such a run is asked to stop.
ENDLESS = 1_000_000
# What a kill can hit. Everything a rank does belongs to one of them.
PHASES = ["forward", "backward", "reduce", "log", "commit", "apply", "gather", "recovery"]
# The points of a step and of a recovery at which ranks kill themselves, with the phase that they belong to.
STEP_POINTS = {"step_begin": "forward", "before_forward": "forward", "after_forward": "forward", "after_backward": "backward",
               "before_reduce": "reduce", "after_reduce": "reduce", "after_log": "log", "before_commit": "commit",
               "after_commit": "commit", "during_apply": "apply", "after_apply": "apply", "before_gather": "gather",
               "after_gather": "gather", "send_chunk": "forward", "receive_chunk": "forward"}
RECOVERY_POINTS = ["recover_begin", "recover_inventory", "recover_planned", "recover_moved", "recover_gate", "recover_done",
                   "fill"]
POINT_PHASES = STEP_POINTS | {point: "recovery" for point in RECOVERY_POINTS}


def started(pid):
    """When a process was started, in ticks since boot; None when it runs no more. With the pid, one process and no other."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


class Run:
    """One job under test, with what it says of itself."""

    def __init__(self, bench, name, process):
        self.bench, self.name, self.process = bench, name, process
        self.killed, self.fenced, self.alive_since = {}, set(), {}

    def lines(self, file):
        try:
            with open(self.bench.path(self.name, file)) as text:
                return [json.loads(line) for line in text.read().split("\n")[:-1]]
        except OSError:
            return []

    def events(self, kind):
        return [event for event in self.lines("events.jsonl") if event["event"] == kind]

    def size(self):
        return os.path.getsize(self.bench.path(self.name, "metrics.jsonl"))

    def step(self):
        lines = self.lines("metrics.jsonl")
        return lines[-1]["step"] if lines else 0

    def wait(self, condition, what):
        deadline = time.monotonic() + TIMEOUT_S
        while not condition():
            if self.process.poll() is not None:
                out, err = self.process.communicate()
                raise Failure(f"{self.name}: ended with {self.process.returncode} before {what}\n{out[-800:]}\n{err[-4000:]}")
            expect(time.monotonic() < deadline, f"{self.name}: waited in vain for {what}")
            time.sleep(0.005)

    def begin(self, step):
        """Waits for a step; then the processes are known, and none may be replaced."""
        self.wait(lambda: self.step() >= step, f"step {step}")
        starts = self.events("start")
        expect(len(starts) == 1, f"{self.name}: {len(starts)} starts")
        self.pids = {place["rank"]: place["pid"] for place in starts[0]["ranks"]}
        self.alive_since = {rank: started(pid) for rank, pid in self.pids.items()}

    def kill(self, rank):
        expect(started(self.pids[rank]) == self.alive_since[rank] is not None, f"rank {rank} was gone before it was killed")
        os.kill(self.pids[rank], signal.SIGKILL)
        self.killed[rank] = self.step()

    def wait_over(self, *ranks):
        """Until the loss of these ranks is overcome and the copies are there again."""
        def over():
            events = self.lines("events.jsonl")  # once: more may be written meanwhile
            recoveries = [event for event in events if event["event"] == "recovery"]
            lost = {rank for event in recoveries for rank in event["lost"]}
            return set(ranks) <= lost and any(event["event"] == "redundancy" and
                                              event["generation"] >= recoveries[-1]["generation"] for event in events)
        self.wait(over, f"the recovery from the loss of {ranks}")

    def survivors(self):
        return set(self.pids) - set(self.killed) - self.fenced

    def check_survivors(self):
        """While it runs: the dead are dead, the others are the processes that began."""
        wait_gone([self.pids[rank] for rank in self.killed])
        for rank in self.survivors():
            expect(started(self.pids[rank]) == self.alive_since[rank], f"{self.name}: rank {rank} is another process or gone")

    def check_steps(self, last, context):
        """Every step stands there once, as an undisturbed run has it."""
        trace = self.bench.trace(self.name)
        expect([line["step"] for line in trace] == list(range(1, last + 1)), f"{self.name}: steps {[l['step'] for l in trace]}")
        for line, good in zip(trace, self.bench.good(last)):
            expect(line == good, f"{self.name}: step {line['step']} differs:\n{line}\n{good}\n{context}")

    def one_by_one(self, left, seed):
        out = self.bench.script("one_by_one", "--dir", self.bench.path(self.name), "--left", left, "--seed", seed)
        self.killed = {int(rank): None for rank in re.findall(r"SIGKILL rank=(\d+)", out)}

    def stop(self, **expected):
        self.process.send_signal(signal.SIGUSR1)
        return self.finish(code=75, **expected)

    def finish(self, code=0, expect_recovery=True):
        """Runs to the end. One start, survivors with their processes, victims dead of a signal, every step once, each with the
        digest of an undisturbed run, generations that grow."""
        out, err = self.process.communicate(timeout=TIMEOUT_S)
        context = f"{self.name}: exit code {self.process.returncode}\n--- stdout\n{out[-2000:]}\n--- stderr\n{err[-4000:]}"
        expect(self.process.returncode == code, context)
        last = self.step()
        expect(re.fullmatch(rf"(done|stopped) step={last} loss=\S+ digest=[0-9a-f]{{16}}", out.strip().splitlines()[-1]), context)
        self.check_steps(last, context)
        if expect_recovery:
            recoveries = self.events("recovery")
            generations = [event["generation"] for event in recoveries]
            expect(generations and generations == sorted(set(generations)), f"{context}\ngenerations {generations}")
            expect(max(generations) <= max(line["generation"] for line in self.lines("metrics.jsonl")), context)
            lost = {rank for event in recoveries for rank in event["lost"]}
            expect(set(self.killed) | self.fenced <= lost, f"{context}\nlost {lost}, killed {self.killed}")
        expect(len(self.events("start")) == 1 and len(self.events("end")) == 1, context)
        for rank, step in self.killed.items():
            expect(step is None or last > step, f"{self.name}: rank {rank} was killed after step {step}, the last one\n{context}")
        expect("PMIX ERROR" not in err, f"mpirun's noise is shown: {context}")
        for rank in self.killed:  # the launcher sees who left without a word, as only a signal makes a process do
            expect(re.search(rf"ranks? (\d+, )*{rank}(, \d+)* ended without a word", err), context)
        return out, err


class ChaosBench(Bench):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.random = random.Random(5)
        self.shape, self.references = [], {}
        self.prepare()

    def set_shape(self, *arguments):
        self.shape = list(arguments)

    def good(self, steps):
        """The first steps of an undisturbed run of one process (of one tensor-parallel group, when there is one)."""
        recipe = tuple(word for word in self.shape if word.startswith(("--parallel.tp=", "--train.precision=")))
        ranks = max([int(word.split("=")[1]) for word in recipe if word.startswith("--parallel.tp=")], default=1)
        known = self.references.get(recipe, [])
        if len(known) < steps:
            # More than asked for, so that the next longer run does not need another one.
            name, steps_made = f"good{len(self.references)}.{steps}", steps + min(steps, 500)
            command = self.train_arguments(name, *SMALL, *recipe, steps=steps_made)
            # Steps take milliseconds, on busy cores some tens of them.
            self.run(command if ranks == 1 else ["launch", "-n", str(ranks), "--", *command], timeout_s=TIMEOUT_S + steps_made / 5)
            known = self.references[recipe] = self.trace(name)
        return known[:steps]

    @contextlib.contextmanager
    def job(self, name, ranks, *more, steps=ENDLESS):
        command = ["launch", "-n", str(ranks), "--", *self.train_arguments(name, *SMALL, *self.shape, *more, steps=steps)]
        with self.start(command) as process:
            yield Run(self, name, process)

    def script(self, name, *arguments):
        done = subprocess.run([sys.executable, "-B", os.path.join(self.source, "scripts", "chaos", name), *map(str, arguments)],
                              timeout=TIMEOUT_S, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        expect(done.returncode == 0, f"{name}: {done.stdout}{done.stderr}")
        return done.stdout

    def moment(self):
        """Somewhere in a step, or between two."""
        time.sleep(self.random.uniform(0, 0.05))


class Tally:
    """What kills hit: those from outside as the survivors tell it (what the reporter was doing when it left the step), those at
    points as the victims do."""

    def __init__(self):
        self.outside, self.within, self.responses = collections.Counter(), collections.Counter(), collections.Counter()

    def add(self, run, err=""):
        points = re.findall(r"chaos\.kill=.*: rank \d+ at (\w+)", err)
        self.within.update(POINT_PHASES[point] for point in points)
        for event in run.events("recovery"):
            self.responses[event["response"]] += 1
            if not points:
                self.outside[event["interrupted"]] += 1
                self.outside["recovery"] += event["attempts"] - 1

    def text(self):
        rows = [f"{phase} {self.outside[phase]}+{self.within[phase]}" for phase in PHASES]
        others = [f"{word} {count}" for word, count in sorted(self.outside.items()) if word not in PHASES and count]
        responses = ", ".join(f"{count} x {word}" for word, count in sorted(self.responses.items()))
        return f"{', '.join(rows + others)} (from outside + at points of the protocol); {responses}"
