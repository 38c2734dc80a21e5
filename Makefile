PYTHON := .venv/bin/python
DEMO_STEPS := 250

.PHONY: setup test test-slow lint demo

setup:
	@./setup.sh

test: setup
	$(PYTHON) -m pytest -q -m "not slow"

test-slow: setup
	$(PYTHON) -m pytest -q -m slow

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .

# Real CoinRun -> a trained world model -> its dream beside the truth. A second call goes on where the first one stopped.
demo: datasets/demo/metadata.json
	$(PYTHON) train_world_model.py --data datasets/demo --out runs/demo --preset nano --batch-size 8 \
	    --max-steps $(DEMO_STEPS) --warmup-steps 50 --decay-fraction 0.5 --ema-decay 0.98 \
	    --val-every 50 --val-batches 8 --rollout-every 1000000 --checkpoint-every 50 --resume auto
	$(PYTHON) -m scripts.infer --checkpoint runs/demo/checkpoints/latest --data datasets/demo --split val \
	    --num-samples 4 --num-prompt-frames 4 --num-frames 36 \
	    --output runs/demo/dream.mp4 --grid runs/demo/dream.png --plot runs/demo/psnr.png --metrics runs/demo/dream.json
	@echo
	@echo "The dream beside the truth: runs/demo/dream.mp4; as a picture: runs/demo/dream.png; PSNR by frame: runs/demo/psnr.png"
	@echo "It is blurred, after minutes of training. To go on with it for an hour:"
	@echo "  $(PYTHON) train_world_model.py --data datasets/demo --out runs/demo --batch-size 8 --max-steps 4000 --resume auto"

datasets/demo/metadata.json: | setup
	$(PYTHON) -m scripts.collect --env coinrun --simple --records 600 --out datasets/demo
