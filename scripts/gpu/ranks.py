#!/usr/bin/env python3
"""Ranks that share one GPU, one of which is killed from outside (kill -9): every step and the last digest are those of one rank
that nobody disturbed.

    ranks.py [--device cuda|cpu] [--size full|small]"""
import os
import signal
import subprocess
import sys
import tempfile
import time

import common

SIZES = {
    "full": {"model": {**common.MODELS["gpt2-124m"], "layers": 4, "context": 256}, "micro_batch": 4, "steps": 24, "kill_at": 8,
             "flags": ["--train.precision=bf16"]},
    "small": {"model": common.MODELS["small"], "micro_batch": 2, "steps": 24, "kill_at": 8, "flags": []},
}
MICRO_BATCHES = 8
RANKS = (2, 4)
LIMIT_S = 140  # of one run
# What must not depend on ranks, nor on losing one.
EQUAL = ("loss", "grad_norm", "lr", "tokens", "samples", "sample_hash", "digest")


def job(log_dir, flags, ranks):
    command = [common.require("elaswave"), "launch", "-n", str(ranks), "--", "train", f"--log.dir={log_dir}", "--log.console=plain",
               *flags]
    common.say("+ " + " ".join(command[1:]))
    with open(log_dir + ".log", "wb") as log:
        return subprocess.Popen(command, env=common.environment(), stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def pids(log_dir):
    """Rank -> process id, once the run has told them."""
    for event in common.json_lines(os.path.join(log_dir, "events.jsonl")):
        if event["event"] == "start":
            return {rank["rank"]: rank["pid"] for rank in event["ranks"]}
    return {}


def kill_one(process, log_dir, victim, at_step, deadline):
    """SIGKILL to one rank of the job once that step is done."""
    while process.poll() is None and time.monotonic() < deadline:
        steps = common.json_lines(os.path.join(log_dir, "metrics.jsonl"))
        if steps and steps[-1]["step"] >= at_step:
            os.kill(pids(log_dir)[victim], signal.SIGKILL)
            return steps[-1]["step"]
        time.sleep(0.005)
    raise RuntimeError("the run ended, or took too long, before a rank could be killed: see " + log_dir + ".log")


def differences(steps, expected):
    """Text on the first difference; None when there is none."""
    if [line["step"] for line in steps] != [line["step"] for line in expected]:
        return f"steps {[line['step'] for line in steps]}"
    for line, other in zip(steps, expected):
        for key in EQUAL:
            if line.get(key) != other.get(key) or key not in other:
                return f"step {line['step']}: {key} is {line.get(key)} and not {other.get(key)}"
    return None


def disturbed(folder, flags, ranks, victim, kill_at):
    """Steps of a run that loses a rank, and what it told of the recovery."""
    log_dir = os.path.join(folder, f"ranks{ranks}_lost{victim}")
    deadline = time.monotonic() + LIMIT_S
    process = job(log_dir, flags, ranks)
    try:
        after = kill_one(process, log_dir, victim, kill_at, deadline)
        code = process.wait(max(1, deadline - time.monotonic()))
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
    recoveries = [event for event in common.json_lines(os.path.join(log_dir, "events.jsonl")) if event["event"] == "recovery"]
    if code != 0 or not recoveries:
        with open(log_dir + ".log", encoding="utf-8", errors="replace") as log:
            common.say(log.read()[-3000:])
        raise RuntimeError(f"exit code {code}, {len(recoveries)} recoveries")
    return common.json_lines(os.path.join(log_dir, "metrics.jsonl")), after, recoveries[0]


def main():
    options = common.arguments(__doc__)
    size = SIZES[options.size]
    model, told, right = size["model"], [], True
    with tempfile.TemporaryDirectory(prefix="elaswave-ranks-") as folder:
        tokens = os.path.join(folder, "tokens.bin")
        batch = MICRO_BATCHES * size["micro_batch"]
        common.write_tokens(tokens, 4 * batch * model["context"] + 1, model["vocab"])
        flags = [*common.model_flags(model), *common.data_flags(tokens), f"--train.micro_batch={size['micro_batch']}",
                 f"--train.global_batch={batch}", f"--train.steps={size['steps']}", "--log.digest_every=1",
                 "--checkpoint.last=false", f"--device.kind={options.device}", *size["flags"]]
        alone = os.path.join(folder, "one")
        last = common.digest(common.train(alone, flags, limit_s=LIMIT_S))
        expected = common.json_lines(os.path.join(alone, "metrics.jsonl"))
        for ranks in RANKS:
            for victim in (0, ranks - 1):  # the reporter, and one that is not
                steps, after, recovery = disturbed(folder, flags, ranks, victim, size["kill_at"])
                wrong = differences(steps, expected)
                right = right and wrong is None
                told.append(f"{ranks} ranks, rank {victim} killed after step {after}, recovered in "
                            f"{recovery['total_us'] / 1e3:.0f} ms: {wrong or 'same'}")
                common.say(told[-1])
    return common.finish({"digest": last, "figures": f"digest {last}; " + "; ".join(told)}, right)


if __name__ == "__main__":
    sys.exit(main())
