#!/usr/bin/env python3
"""Shows that a run that lost ranks computed what it would have computed anyway.

    scripts/same_steps.py DISTURBED UNDISTURBED      two run directories (log.dir); UNDISTURBED may be a part of the steps

Every step of DISTURBED must be there exactly once. Every step of UNDISTURBED must be equal in both: samples, loss, gradient norm,
and the digest of all weights and moments where both have one; at least one such digest must be of a step after the first loss
and before it. Exit code 1 when not."""
import json
import os
import sys

EQUAL = ("loss", "grad_norm", "lr", "tokens", "samples", "sample_hash", "digest")


def lines(directory, name):
    with open(os.path.join(directory, name)) as file:
        return [json.loads(line) for line in file]


def check(disturbed, undisturbed):
    run, again = lines(disturbed, "metrics.jsonl"), lines(undisturbed, "metrics.jsonl")
    recoveries = [event for event in lines(disturbed, "events.jsonl") if event["event"] == "recovery"]
    if not recoveries or any(event["event"] == "recovery" for event in lines(undisturbed, "events.jsonl")):
        return "no rank was lost in the one, or one was in the other"
    for event in recoveries:
        ranks = ", ".join(map(str, event["lost"]))
        print(f"rank {ranks} was lost after step {event['step']} (the others were at: {event['interrupted']}); generation "
              f"{event['generation']}: {len(event['members'])} ranks went on after {event['total_us'] / 1e3:.0f} ms")
    if [line["step"] for line in run] != list(range(run[0]["step"], run[-1]["step"] + 1)):
        return "steps are missing, or there are some twice"
    print(f"steps {run[0]['step']} to {run[-1]['step']}: each there once")
    by_step, digests = {line["step"]: line for line in run}, []
    for line in again:
        other = by_step.get(line["step"], {})
        for key in EQUAL:
            if key == "digest" and not (line.get(key) and other.get(key)):
                continue
            if line.get(key) is None or line[key] != other.get(key):
                return f"step {line['step']}: {key} is {other.get(key)} and {line.get(key)}"
            if key == "digest":
                digests.append(line["step"])
    lost = recoveries[0]["step"]
    if not [step for step in digests if step <= lost] or not [step for step in digests if step > lost]:
        return f"no digests on both sides of the loss: steps {digests}"
    print(f"steps {again[0]['step']} to {again[-1]['step']} with nobody lost: samples, loss and gradient norm of each the same, "
          f"digest of weights and moments the same after steps {', '.join(map(str, digests))}")
    return None


def main():
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    trouble = check(sys.argv[1], sys.argv[2])
    print(f"NOT the same: {trouble}" if trouble else "the loss of a rank changed nothing")
    return 1 if trouble else 0


if __name__ == "__main__":
    sys.exit(main())
