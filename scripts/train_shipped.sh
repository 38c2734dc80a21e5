#!/usr/bin/env bash
# Trains a model of checkpoints/ on a GPU that is available for minutes at a time, from data collected on the same machine.
#
#   scripts/train_shipped.sh coinrun 540          one leg: collect data if there is none, train for 540 seconds, save
#   scripts/train_shipped.sh coinrun 540          the next leg: continues exactly where the first one stopped
#   scripts/train_shipped.sh coinrun 420 last     the last leg: the learning rate falls to 0; then evaluates
#
# The learning rate is constant until the last leg, so that nobody needs to know the length of the run in advance. The last
# leg is a separate run on the network's own frames, which keeps long rollouts from drifting. The seconds are for collecting and
# training; the evaluation takes extra time, and if it fails, only its report is lost. Everything stays in datasets/ and
# runs/. After every leg, OUT (default: shipped) holds the files to copy into checkpoints/NAME, none larger than 16 MB:
# config.json, game.json, README.md and
#   cat shipped/model.safetensors.* > model.safetensors
# To try it on a CPU: RECORDS=200 BATCH=4 PRESET=pico DEVICE=cpu COMPILE=--no-compile scripts/train_shipped.sh pong 60
set -euo pipefail
cd "$(dirname "$0")/.."

game="${1:?which game? coinrun or pong}" secs="${2:?for how many seconds?}" last="${3:-}"
begun=$(date +%s)
python="${PYTHON:-.venv/bin/python}" out="${OUT:-shipped}"
case "$game" in
  coinrun) preset="${PRESET:-nano}" records="${RECORDS:-60000}" batch="${BATCH:-256}" own=--self-forcing ;;
  pong) preset="${PRESET:-pico}" records="${RECORDS:-6000}" batch="${BATCH:-128}" own=--scheduled-sampling ;;
  *) echo "error: unknown game $game: coinrun or pong" >&2; exit 2 ;;
esac
data="datasets/shipped-$game" run="runs/shipped-$game" exported="runs/$game-$preset"

[ -d "$data" ] || "$python" -m scripts.collect --env "$game" --out "$data" --records "$records" \
  --val-records $((records / 100 + 20)) --test-records $((records / 100 + 20))

left=$((secs - ($(date +%s) - begun)))
if [ "$left" -lt 30 ]; then
  echo "collected the data; no time is left to train: run the same command again"
  exit 0
fi

train() { # seconds out options...: --foreground signals only the training, not the compilers that it has started
  timeout --foreground --signal=TERM --kill-after=60 "$1" "$python" train_world_model.py --data "$data" --out "$2" \
    --preset "$preset" --batch-size "$batch" --ema-decay 0.9995 --device "${DEVICE:-cuda}" ${COMPILE:---compile} --wandb off \
    --val-every 1000 --val-batches 8 --rollout-every 5000 --checkpoint-every 1000 --resume auto "${@:3}" || [ $? -eq 124 ]
}

export_to_out() { # options...: export the newest weights of the run, and copy them to OUT
  "$python" -m scripts.export_checkpoint --checkpoint "$run/checkpoints/latest" --out "$exported" "$@"
  mkdir -p "$out"
  rm -f "$out"/model.safetensors.*
  split --bytes=15M --numeric-suffixes "$exported/model.safetensors" "$out/model.safetensors."
  cp "$exported"/{config,game}.json "$out"
  [ ! -f "$run/metrics.jsonl" ] || cp "$run/metrics.jsonl" "$out" # does not exist yet after a very short leg
  sed "s#$exported#checkpoints/$game-$preset#g" "$exported/README.md" > "$out/README.md"
}

if [ "$last" != last ]; then
  train "$left" "$run" --max-steps 1000000000 --warmup-steps 500 --decay-fraction 0
  export_to_out
  exit 0
fi

# Number of steps that fit into the time left, at the speed of the run so far. The factor 0.48 is there because
# self-forcing takes two thirds longer (on a CPU), and for a margin of a fifth. A last leg that was stopped keeps its number of steps.
latest="$run/checkpoints/latest"
before="$run/checkpoints/$(readlink "$latest" || cat "$latest")" final="$run-last"
steps=$("$python" - "$run" "$final" "$left" <<'PLAN'
import json, pathlib, statistics, sys
run, final = map(pathlib.Path, sys.argv[1:3])
config = final / "train_config.json"
if config.is_file():
    print(json.loads(config.read_text())["max_steps"])
else:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    rate = statistics.median(line["train/clips_per_sec"] for line in lines if "train/clips_per_sec" in line)
    rate /= json.loads((run / "train_config.json").read_text())["batch_size"]
    print(max(10, int(0.48 * rate * float(sys.argv[3]))))
PLAN
)
train $((left + 60)) "$final" --init-from "$before" --max-steps "$steps" --warmup-steps $((steps / 20 + 1)) \
  --decay-fraction 0.8 "$own" 0.5
run="$final"
export_to_out
"$python" -m scripts.evaluate --checkpoint "$exported" --data "$data" --output "$run/report" ${EVALUATE:---quick}
export_to_out --report "$run/report/report.md"
cp "$run"/report/report.{json,html} "$out"
ls -l "$out"
