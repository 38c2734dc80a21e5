#!/usr/bin/env bash
# Quality against compute: trains three sizes on Pong, evaluates each after a ninth, a third and all of its steps, and plots
# PSNR at frame 8 and controllability against the FLOP of training.
#
#   scripts/scaling.sh                 some four hours of a core, an estimate; see docs/results.md
#   TRAIN=--compile scripts/scaling.sh       faster steps, after a minute of compiling in each run
#   STEPS=18 RECORDS=60 OUT=runs/try scripts/scaling.sh      to try it: minutes
#
# It can be stopped at any time; the same command goes on where it stopped. Everything stays in OUT (default: runs/scaling):
# a run and three reports for each size, and scaling.png. At the end it prints the table of docs/results.md.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-.venv/bin/python}" out="${OUT:-runs/scaling}" steps="${STEPS:-2700}" records="${RECORDS:-1500}"
data="$out/pong"

[ -d "$data" ] || "$python" -m scripts.collect --env pong --out "$data" --records "$records" \
  --val-records $((records / 15)) --test-records $((records / 15))

measure() { # name steps options...: train, then evaluate the three checkpoints
  local run="$out/$1" last="$2" first=$(($2 / 9)) step report
  if [ ! -d "$run/checkpoints/step_$(printf %07d "$last")" ]; then
    "$python" train_world_model.py --data "$data" --out "$run" --max-steps "$last" --batch-size 8 --warmup-steps 50 \
      --decay-fraction 0 --ema-decay 0.99 --fill-share 0 --checkpoint-every "$first" --keep-checkpoints 1000 --val-every "$first" \
      --rollout-every 1000000 --epoch-clips 100 --wandb off --resume auto ${TRAIN:-} "${@:3}"
  fi
  for step in "$first" $((3 * first)) "$last"; do
    report="$run/report-$step"
    [ -f "$report/report.json" ] || "$python" -m scripts.evaluate --output "$report" --data "$data" --quick --num-clips 32 \
      --num-states 24 --num-long-rollouts 1 --checkpoint "$run/checkpoints/step_$(printf %07d "$step")"
  done
}

measure half-width "$steps" --preset pico --dim 64
measure pico "$steps" --preset pico
measure nano $((steps / 27 * 9)) --preset nano # a third of the steps: each takes about four times as long
"$python" -m scripts.plot_scaling --folder "$out" --output "$out/scaling.png"
