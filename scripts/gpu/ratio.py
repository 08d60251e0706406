#!/usr/bin/env python3
"""elaswave beside PyTorch, from what the stages speed-* and pytorch-* left in DIR.

    ratio.py DIR"""
import os
import sys

import common


def said_by(results, stage):
    """What the newest right run of the stage said; None when there is none."""
    found = [record for record in common.json_lines(os.path.join(results, "results.jsonl"))
             if record["stage"] == stage and record["verdict"] == "right"]
    return found[-1]["said"] if found else None


def rows(results):
    for model in ("124m", "1.5b"):
        ours, theirs = said_by(results, f"speed-{model}"), said_by(results, f"pytorch-{model}")
        if ours is None or theirs is None:
            continue
        speed = ours["variants"][""]
        if any(ours[key] != theirs[key] for key in ("micro_batch", "micro_batches", "context")):
            raise ValueError(f"{model}: the two did not run the same batch")
        yield {"model": model, "batch": f"{ours['micro_batches']} x {ours['micro_batch']} x {ours['context']}",
               "elaswave": speed["tokens_per_s"], "elaswave_mfu": speed["mfu"], "pytorch": theirs["tokens_per_s"],
               "pytorch_mfu": theirs["mfu"], "ratio": round(speed["tokens_per_s"] / theirs["tokens_per_s"], 4)}


def main():
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    found = list(rows(sys.argv[1]))
    table = ["| model | micro-batches x samples x tokens | elaswave tokens/s | MFU | PyTorch tokens/s | MFU | ratio |",
             "|---|---|---|---|---|---|---|"]
    table += [f"| {row['model']} | {row['batch']} | {row['elaswave']:,.0f} | {100 * row['elaswave_mfu']:.1f} % | "
              f"{row['pytorch']:,.0f} | {100 * row['pytorch_mfu']:.1f} % | {row['ratio']:.3f} |" for row in found]
    figures = "; ".join(f"{row['model']}: {row['elaswave']:,.0f} : {row['pytorch']:,.0f} tokens/s = {row['ratio']:.3f}"
                        for row in found)
    return common.finish({"rows": found, "table": "\n".join(table), "figures": figures}, bool(found))


if __name__ == "__main__":
    sys.exit(main())
