#!/usr/bin/env bash
# From a fresh clone to a falling loss: sets up, builds, fetches English prose from a Debian package, plans and trains a
# byte-level GPT on 2 data x 2 pipeline ranks, kills one of them in the middle (SIGKILL, from outside), compares the held-out
# loss with the best n-gram of the same split, shows that the loss of the rank changed nothing, and ends with a text out of the
# model's checkpoint. Leaves a picture of the schedule and a trace of what the ranks did. About ten minutes on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."

scripts/setup.sh
mkdir -p build/logs build/demo
printf 'demo: building\n'
cmake --preset cpu-release >build/logs/cpu-release.configure.log 2>&1 || { cat build/logs/cpu-release.configure.log; exit 1; }
cmake --build build -j "$(nproc)" --target elaswave >build/logs/cpu-release.build.log 2>&1 ||
  { tail -n 60 build/logs/cpu-release.build.log; exit 1; }

corpus=build/demo/corpus.txt
[ -s "$corpus" ] || scripts/corpus.sh "$corpus"
build/elaswave data prepare --input "$corpus" --output build/demo/train.tok \
  --val_output build/demo/val.tok --val_fraction 0.05
/usr/bin/python3 scripts/ngram.py --train build/demo/train.tok --val build/demo/val.tok --json build/demo/ngram.json

# What both runs below have in common. A checkpoint in the middle: the steps after it are run a second time, with nobody killed.
middle=1800
again=2000
training=(train --config configs/demo.toml --parallel.pp=2 --data.train=build/demo/train.tok --log.digest_every=50
          --checkpoint.keep_every="$middle")

rm -rf build/demo/run build/demo/again
build/elaswave plan configs/demo.toml --ranks 4 --parallel.pp=2 --svg=build/demo/plan.svg
build/elaswave launch -n 4 -- "${training[@]}" --data.val=build/demo/val.tok --log.dir=build/demo/run \
  --checkpoint.every="$middle" --profile.trace=build/demo/trace.json &
run=$!
trap 'kill "$run" 2>/dev/null || true' EXIT  # should anything below fail; the launcher ends its ranks
steps_done() { wc -l 2>/dev/null <build/demo/run/metrics.jsonl || echo 0; }
while kill -0 "$run" 2>/dev/null && [ "$(steps_done)" -lt $((middle + 75)) ]; do sleep 0.2; done
printf 'demo: killing a rank: '
scripts/chaos/kill_rank --dir build/demo/run random
wait "$run"
trap - EXIT

/usr/bin/python3 - build/demo/run/metrics.jsonl build/demo/ngram.json <<'PYTHON'
import json, sys
steps = [json.loads(line) for line in open(sys.argv[1])]
best = json.load(open(sys.argv[2]))["best"]
loss = steps[-1]["val_loss"]
print(f"held-out loss {loss:.4f} nats per byte; best n-gram: order {best['order']}, {best['loss']:.4f}")
good = loss < 2.0 and loss < best["loss"]
print("demo: " + ("the model beats 2.0 and the n-gram" if good else "the model does NOT beat 2.0 and the n-gram"))
sys.exit(0 if good else 1)
PYTHON

printf '\ndemo: steps %s to %s once more from the checkpoint in the middle, with nobody killed\n' $((middle + 1)) "$again"
mkdir -p build/demo/again/checkpoints
cp -r build/demo/run/checkpoints/step-*"$middle" build/demo/again/checkpoints/
build/elaswave launch -n 4 -- "${training[@]}" --train.val_every=0 --log.dir=build/demo/again --checkpoint.last=false \
  --train.stop_at="$again" >build/logs/demo.again.log 2>&1 || [ $? = 75 ] || { cat build/logs/demo.again.log; exit 1; }
/usr/bin/python3 scripts/same_steps.py build/demo/run build/demo/again

printf 'demo: the planned schedule is build/demo/plan.svg; open build/demo/trace.json in chrome://tracing or ui.perfetto.dev\n'
printf '\ndemo: the model continues "It is a truth universally acknowledged"\n\n'
build/elaswave generate --checkpoint build/demo/run --prompt 'It is a truth universally acknowledged' \
  --max_tokens 400 --temperature 0.7 --seed 1
