#!/usr/bin/env bash
# Training tokens/s of elaswave and PyTorch side by side: GPT-2 124M, fp32, the same shape and threads, alternating
# (A B A B ...) so that a change of the machine hits both. Metric: tokens of an optimizer step / median ms of a step over
# all rounds, the first steps of each run left out; `ratio` is elaswave / PyTorch. Run it on a quiet machine.
#   scripts/bench_compare.sh --python VENV/bin/python [options] [-- extra elaswave flags]
#     --elaswave FILE       build/elaswave
#     --threads N           2
#     --micro_batches N     4      micro-batches of an optimizer step
#     --rounds N            3      runs of each program
#     --steps N             5      measured steps of a run
#     --warmup N            2      steps before them
#     --variant V           auto   PyTorch settings, see bench_pytorch.py; auto tries them all first
# PyTorch is never part of set-up: python3 -m venv VENV && VENV/bin/pip install torch numpy
set -euo pipefail
cd "$(dirname "$0")/.."

elaswave=build/elaswave python='' threads=2 micro_batches=4 rounds=3 steps=5 warmup=2 variant=auto
micro_batch=4 context=256
usage() {
  sed -n '2,/^set -euo/p' "$0" | sed '$d; s/^# \{0,1\}//' >&2
  exit 2
}
while [ $# -gt 0 ] && [ "$1" != -- ]; do
  [ $# -ge 2 ] || usage
  case $1 in
    --elaswave) elaswave=$2 ;;
    --python) python=$2 ;;
    --threads) threads=$2 ;;
    --micro_batches) micro_batches=$2 ;;
    --rounds) rounds=$2 ;;
    --steps) steps=$2 ;;
    --warmup) warmup=$2 ;;
    --variant) variant=$2 ;;
    *) usage ;;
  esac
  shift 2
done
[ $# -eq 0 ] || shift
extra=("$@")
[ -n "$python" ] || usage
[ -x "$elaswave" ] || { echo "bench: $elaswave is not there; build it first" >&2; exit 2; }
"$python" -c 'import torch' || { echo "bench: $python cannot import torch" >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
total_steps=$((warmup + steps))

# Uniform random ids: two bytes each, no header, as nanoGPT writes them.
python3 - "$work/random.bin" $((total_steps * micro_batches * micro_batch * (context + 1) + context + 1)) <<'PYTHON'
import array
import random
import sys

random.seed(1)
with open(sys.argv[1], "wb") as file:
    array.array("H", (random.randrange(50257) for _ in range(int(sys.argv[2])))).tofile(file)
PYTHON

run_elaswave() {
  "$elaswave" train --model.preset=gpt2-124m --model.context=$context --model.dropout=0 \
    --data.train="$work/random.bin" --data.format=nanogpt --data.dtype=u16 \
    --train.micro_batch=$micro_batch --train.global_batch=$((micro_batch * micro_batches)) \
    --train.steps=$total_steps --train.lr=1e-4 --train.lr_schedule=constant --train.warmup_steps=0 \
    --device.threads="$threads" --log.dir="$work/elaswave$1" "${extra[@]}" >"$work/elaswave$1.log" 2>&1 || {
    echo "bench: elaswave failed:" >&2
    tail -n 20 "$work/elaswave$1.log" >&2
    exit 1
  }
}
run_pytorch() {
  "$python" scripts/bench_pytorch.py --threads "$threads" --micro_batch $micro_batch --context $context \
    --micro_batches "$micro_batches" --steps "$steps" --warmup "$warmup" --variant "$variant" \
    >"$work/pytorch$1.json" 2>"$work/pytorch$1.log" || {
    echo "bench: PyTorch failed:" >&2
    tail -n 20 "$work/pytorch$1.log" >&2
    exit 1
  }
}

if [ "$variant" = auto ]; then
  echo "bench: trying PyTorch's settings" >&2
  run_pytorch 0
  variant=$(python3 -c 'import json, sys; print(json.loads(open(sys.argv[1]).read().splitlines()[-1])["variant"])' \
    "$work/pytorch0.json")
  echo "bench: PyTorch runs best as $variant" >&2
fi
for ((round = 1; round <= rounds; round++)); do
  echo "bench: round $round of $rounds" >&2
  run_elaswave "$round"
  run_pytorch "$round"
done

python3 - "$work" "$rounds" "$warmup" $((micro_batches * micro_batch * context)) "$threads" <<'PYTHON'
import json
import statistics
import sys

folder, rounds, warmup, tokens, threads = sys.argv[1], *map(int, sys.argv[2:6])
ours, theirs, version = [], [], ""
print(f"GPT-2 124M fp32, {tokens} tokens a step, {threads} threads")
print("round   elaswave ms    pytorch ms    ratio")
for number in range(1, rounds + 1):
    with open(f"{folder}/elaswave{number}/metrics.jsonl", encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    times = [record["ms"] for record in records if "ms" in record and "loss" in record][warmup:]
    with open(f"{folder}/pytorch{number}.json", encoding="utf-8") as file:
        other = json.loads(file.read().splitlines()[-1])
    mine, yours = statistics.median(times), other["ms_median"]
    print(f"{number:5d}   {mine:11.1f}   {yours:11.1f}   {yours / mine:6.3f}")
    ours += times
    theirs += other["ms_steps"]
    version = f'{other["version"]} {other["variant"]} {other["optimizer"]}'
mine, yours = statistics.median(ours), statistics.median(theirs)
print(f"  all   {mine:11.1f}   {yours:11.1f}   {yours / mine:6.3f}")
print(json.dumps({"elaswave_tokens_per_s": round(tokens / mine * 1e3, 1),
                  "pytorch_tokens_per_s": round(tokens / yours * 1e3, 1),
                  "ratio": round(yours / mine, 4), "pytorch": version, "threads": threads}))
PYTHON
