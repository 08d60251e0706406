#!/usr/bin/env python3
"""The same step again and again, on several starts of the program: one digest. Half of each start's repeats run beside a stream
that copies and a second process on the same device; memory moves every few repeats. Then the positive control: a sum made by
atomics in the place of one gradient's must be noticed.

    repeat.py [--device cuda|cpu] [--size full|small] [--starts 3]

1,000 repeats in all, on GPT-2 124M in bf16 (tests/gpu/step_repeat.cpp has the options)."""
import re
import subprocess
import sys

import common

SIZES = {
    "full": {"model": ["--preset", "gpt2-124m", "--micro_batch", "8", "--storage", "bf16", "--threads", "4"], "repeats": 1000,
             "move": 20, "control": 50},
    "small": {"model": ["--layers", "2", "--context", "32", "--vocab", "200", "--dropout", "0.1"], "repeats": 30, "move": 3,
              "control": 6},
}


def start(words):
    """What one start says, as a dictionary; raises when it says that something is wrong."""
    common.say("+ " + " ".join(words[1:]))
    done = subprocess.run(words, env=common.environment(), stdout=subprocess.PIPE, text=True, check=False,
                          stdin=subprocess.DEVNULL)
    common.say(done.stdout.strip())
    if done.returncode == common.SKIPPED:
        sys.exit(common.SKIPPED)
    said = {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S+))', done.stdout)}
    if done.returncode not in (0, 1) or "digests" not in said:
        raise RuntimeError(f"step_repeat ended with {done.returncode}")
    return {**said, "right": done.returncode == 0}


def main():
    options = common.arguments(__doc__, starts=3)
    size = SIZES[options.size]
    words = [common.require("step_repeat"), "--device", options.device, *size["model"], "--move", str(size["move"])]
    each = -(-size["repeats"] // options.starts)
    starts = [start([*words, "--repeats", str(each), "--beside", "both"]) for _ in range(options.starts)]
    control = start([*words, "--repeats", str(size["control"]), "--control", "yes"])
    digests = {run["digest"] for run in starts}
    counted = sum(int(run["repeats"]) for run in starts)
    right = len(digests) == 1 and all(run["right"] for run in starts) and control["right"]
    result = {
        "starts": starts, "control": control, "repeats": counted,
        "figures": f"{'right' if right else 'WRONG'}: {counted} repeats on {options.starts} starts, "
                   f"{sum(int(run['beside']) for run in starts)} of them beside copies and a second process, memory at "
                   f"{sum(int(run['places']) for run in starts)} places: digests {', '.join(sorted(digests))}; loss "
                   f"{starts[0]['loss']}, {starts[0]['ms']} ms; atomics: {control['digests']} digests in "
                   f"{control['repeats']} repeats",
    }
    return common.finish(result, right)


if __name__ == "__main__":
    sys.exit(main())
