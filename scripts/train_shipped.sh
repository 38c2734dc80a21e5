#!/usr/bin/env bash
# Trains a model of checkpoints/ on a GPU that is available for minutes at a time, from data collected on the same machine.
#
#   scripts/train_shipped.sh coinrun 540          one leg: collect data if there is none, train for 540 seconds, save
#   scripts/train_shipped.sh coinrun 540          the next leg: continues exactly where the first one stopped
#   scripts/train_shipped.sh coinrun 420 last     the last leg: the learning rate falls to 0; then evaluates
#   scripts/train_shipped.sh coinrun 540 all      both on a GPU that is there once: three fifths of the time, then the last leg
#
# The learning rate is constant until the last leg, so that nobody needs to know the length of the run in advance. The last
# leg is a separate run on the network's own frames, which keeps long rollouts from drifting. The seconds are for collecting and
# training; the evaluation takes extra time, and if it fails, only its report is lost. Everything stays in datasets/ and
# runs/. After every leg, OUT (default: shipped) holds the files to copy into checkpoints/NAME, none larger than 16 MB:
# config.json, game.json, README.md and
#   cat shipped/model.safetensors.* > model.safetensors
# To try it on a CPU: RECORDS=200 BATCH=4 PRESET=pico DEVICE=cpu COMPILE=--no-compile scripts/train_shipped.sh pong 60 all
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
  [ "$last" != all ] || left=$((left * 3 / 5))
  train "$left" "$run" --max-steps 1000000000 --warmup-steps 500 --decay-fraction 0
  export_to_out
  [ "$last" = all ] || exit 0
  left=$((secs - ($(date +%s) - begun)))
fi

# The last leg ends when its learning rate is 0, so its number of steps must fit into the time left. A step costs more than
# before, by how much depends on the machine: a fifth of the time measures it, on a run that is thrown away. One tenth stays as a
# margin. A last leg that was stopped keeps its number of steps.
before="$run/checkpoints/$(readlink "$run/checkpoints/latest" || cat "$run/checkpoints/latest")" final="$run-last"
last_leg() { # seconds out steps options...
  train "$1" "$2" --init-from "$before" --max-steps "$3" --warmup-steps $(($3 / 20 + 1)) --decay-fraction 0.8 "$own" 0.5 "${@:4}"
}
steps="$("$python" -c 'import json, sys; print(json.load(open(sys.argv[1]))["max_steps"])' "$final/train_config.json" 2>/dev/null || true)"
if [ -z "$steps" ]; then
  probe="$run-probe" probed=$(date +%s)
  rm -rf "$probe"
  last_leg $((left / 5)) "$probe" 1000000000 --log-every 2 --no-plot
  steps=$("$python" - "$probe" $((left - ($(date +%s) - probed))) "$batch" <<'PLAN'
import json, pathlib, statistics, sys
probe, left, batch = pathlib.Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
metrics = probe / "metrics.jsonl"
lines = [json.loads(line) for line in metrics.open()] if metrics.is_file() else []
rates = [line["train/clips_per_sec"] for line in lines if "train/clips_per_sec" in line]
rate = statistics.median(rates[len(rates) // 2 :]) if rates else 0.0  # the first steps compile
print(max(10, int(0.9 * rate / batch * left)))
PLAN
  )
  rm -rf "$probe"
  left=$((left - ($(date +%s) - probed)))
  echo "the last leg has $steps steps, in $left seconds"
fi
last_leg $((left + 60)) "$final" "$steps"
run="$final"
export_to_out
"$python" -m scripts.evaluate --checkpoint "$exported" --data "$data" --output "$run/report" ${EVALUATE:---quick}
export_to_out --report "$run/report/report.md"
cp "$run"/report/report.{json,html} "$out"
ls -l "$out"
