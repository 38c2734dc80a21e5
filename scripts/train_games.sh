#!/usr/bin/env bash
# One small checkpoint of several games: two sizes of Pong, and two Procgen games without backgrounds, told apart in words.
#
#   scripts/train_games.sh                     collect, train, evaluate and export, on one CPU core; an hour or two
#   SINGLE=1 scripts/train_games.sh            then also train networks of one game each, for comparison
#   TRAIN=--compile scripts/train_games.sh     faster steps, after a minute of compiling in each run
#   STEPS=20 RECORDS=4 scripts/train_games.sh  rehearse with a few steps
#
# The same command continues where it was stopped. Everything stays in datasets/games and runs/games; OUT (default:
# runs/games-shipped) then holds the files to copy into checkpoints/games.
set -euo pipefail
cd "$(dirname "$0")/.."

python="${PYTHON:-.venv/bin/python}" steps="${STEPS:-1500}" records="${RECORDS:-300}"
data="${DATA:-datasets/games}" run="${RUN:-runs/games}"
out="${OUT:-$run-shipped}"

collect() { # name options...
  [ -d "$data/$1" ] || "$python" -m scripts.collect --out "$data/$1" --records "$records" \
    --val-records $((records / 10 + 2)) --test-records $((records / 10 + 2)) "${@:2}"
}
collect pong --env pong
collect pong-wide --env pong --size 96x64
collect bigfish --env bigfish --simple
collect leaper --env leaper --simple
sets=("$data"/{pong,pong-wide,bigfish,leaper})

train() { # out steps options...
  "$python" train_world_model.py --out "$1" --max-steps "$2" --warmup-steps $(($2 / 20 + 1)) --preset pico --batch-size 8 \
    --fill-share 0 --decay-fraction 0.3 --ema-decay 0.998 --val-every 300 --val-batches 8 --rollout-every 1000000 \
    --epoch-clips 16 --checkpoint-every 50 --wandb off --resume auto ${TRAIN:-} "${@:3}"
}
evaluate() { # run data
  "$python" -m scripts.evaluate --checkpoint "$1/checkpoints/latest" --data "$2" --output "$1/report-$(basename "$2")" \
    ${EVALUATE:---quick}
}

train "$run" "$steps" --data "${sets[@]}" --mix 1,1,2,2

# First frames dreamt from words alone, and each game on its own: PSNR, controllability and the rest.
"$python" -m scripts.judge_words --checkpoint "$run/checkpoints/latest" --data "${sets[@]}" \
  --num-frames "${JUDGED:-16}" --output "$run/words.json"
for set in "${sets[@]}"; do evaluate "$run" "$set"; done

"$python" -m scripts.export_checkpoint --checkpoint "$run/checkpoints/latest" --out "$out"

# Networks of one game each, which share the steps as the mixture does: what one network for all costs, or gives.
if [ -n "${SINGLE:-}" ]; then
  shares=(1 1 2 2)
  for i in "${!sets[@]}"; do
    single="$run-$(basename "${sets[$i]}")"
    train "$single" $((steps * shares[i] / 6)) --data "${sets[$i]}"
    evaluate "$single" "${sets[$i]}"
  done
fi
