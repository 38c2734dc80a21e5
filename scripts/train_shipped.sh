#!/usr/bin/env bash
# Trains a model of checkpoints/ on a GPU that is lent for minutes at a time, from data collected on the same machine.
#
#   scripts/train_shipped.sh coinrun 540          a leg: collect if need be, train for so many seconds, save
#   scripts/train_shipped.sh coinrun 540          another: goes on exactly where the first one stopped
#   scripts/train_shipped.sh coinrun 420 last     the last: the learning rate falls to 0; then evaluates and exports
#
# The learning rate is constant until the last leg, so that the length of the run need not be known beforehand. In the last
# leg the network also looks back at frames of its own making, which keeps long dreams from drifting.
# Everything stays in datasets/ and runs/ here; what is worth carrying away comes to OUT (default: shipped), in files of at
# most 16 MB; `cat shipped/model.safetensors.* > model.safetensors` puts the weights together.
# For a rehearsal on a CPU: RECORDS=200 BATCH=4 PRESET=pico DEVICE=cpu COMPILE=--no-compile scripts/train_shipped.sh pong 60
set -euo pipefail
cd "$(dirname "$0")/.."

game="${1:?which game? coinrun or pong}" secs="${2:?for how many seconds?}" last="${3:-}"
begun=$(date +%s)
python="${PYTHON:-.venv/bin/python}" out="${OUT:-shipped}"
case "$game" in
  coinrun) preset="${PRESET:-nano}" records="${RECORDS:-60000}" batch="${BATCH:-256}" ;;
  pong) preset="${PRESET:-pico}" records="${RECORDS:-6000}" batch="${BATCH:-128}" ;;
  *) echo "error: unknown game $game: coinrun or pong" >&2; exit 2 ;;
esac
data="datasets/shipped-$game" run="runs/shipped-$game"

[ -d "$data" ] || "$python" -m scripts.collect --env "$game" --out "$data" --records "$records" \
  --val-records $((records / 100 + 20)) --test-records $((records / 100 + 20))

train() { # max_steps decay_fraction own_frames seconds
  timeout --signal=TERM --kill-after=60 "$4" "$python" train_world_model.py --data "$data" --out "$run" \
    --preset "$preset" --batch-size "$batch" --warmup-steps 500 --ema-decay 0.9995 \
    --max-steps "$1" --decay-fraction "$2" --own-frames "$3" --device "${DEVICE:-cuda}" ${COMPILE:---compile} --wandb off \
    --val-every 1000 --val-batches 8 --rollout-every 5000 --checkpoint-every 1000 --resume auto || [ $? -eq 124 ]
}

left=$((secs - ($(date +%s) - begun)))
if [ "$last" != last ]; then
  train 1000000000 0 0 "$left"
  exit 0
fi

# Steps that fit into what is left, as fast as the run was so far; own frames cost a third more, and a tenth to spare.
plan=$("$python" - "$run" "$left" <<'PLAN'
import json, statistics, sys
lines = [json.loads(line) for line in open(f"{sys.argv[1]}/metrics.jsonl")]
batch = json.load(open(f"{sys.argv[1]}/train_config.json"))["batch_size"]
rate = statistics.median(line["train/clips_per_sec"] for line in lines if "train/clips_per_sec" in line) / batch
done = max(line["step"] for line in lines)
more = max(10, int(0.65 * rate * float(sys.argv[2])))
print(done + more, more / (done + more))
PLAN
)
train $plan 0.5 $((left + 60))
"$python" -m scripts.evaluate --checkpoint "$run/checkpoints/latest" --data "$data" --output "$run/report" ${EVALUATE:---quick}
"$python" -m scripts.export_checkpoint --checkpoint "$run/checkpoints/latest" --out "checkpoints/$game-$preset" \
  --report "$run/report/report.md"
mkdir -p "$out"
rm -f "$out"/model.safetensors.*
split --bytes=15M --numeric-suffixes "checkpoints/$game-$preset/model.safetensors" "$out/model.safetensors."
cp "checkpoints/$game-$preset/config.json" "checkpoints/$game-$preset/README.md" "$run/metrics.jsonl" \
  "$run"/report/report.{json,html} "$out"
ls -l "$out"
