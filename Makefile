PYTHON := .venv/bin/python
DEMO_STEPS := 60
# One test process more than cores, as many tests wait for servers and browsers; at most four, as each takes 2 GB.
TEST_PROCESSES := -n $(shell cores=$$(nproc 2>/dev/null || sysctl -n hw.ncpu); echo $$((cores < 4 ? cores + 1 : 4))) --dist worksteal

.PHONY: setup test test-slow lint demo play site

setup:
	@./setup.sh

test: setup
	$(PYTHON) -m pytest -q -m "not slow" $(TEST_PROCESSES)

test-slow: setup
	$(PYTHON) -m pytest -q -m slow

lint: setup
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	@mkdir -p build/typing && ln -sfn ../.. build/typing/dreamrun
	$(PYTHON) -m mypy

# The shipped CoinRun dreams beside the real game. Then it learns another look, CoinRun's plain graphics, from a
# little real play collected here. A second call goes on where the first one stopped.
demo: datasets/demo/metadata.json
	$(PYTHON) -m scripts.infer --output runs/demo/shipped.mp4 --grid runs/demo/shipped.png --plot runs/demo/psnr.png
	$(PYTHON) train_world_model.py --data datasets/demo --out runs/demo --init-from checkpoints/coinrun-nano \
	    --batch-size 8 --learning-rate 1.5e-3 --max-steps $(DEMO_STEPS) --warmup-steps 10 --decay-fraction 0.6 \
	    --ema-decay 0.98 --val-every 30 --val-batches 8 --rollout-every 1000000 --checkpoint-every 30 --resume auto
	$(PYTHON) -m scripts.infer --checkpoint runs/demo/checkpoints/latest --data datasets/demo --split val \
	    --output runs/demo/trained.mp4 --grid runs/demo/trained.png
	@echo
	@echo "The shipped dream beside the real game: runs/demo/shipped.mp4; as a picture: runs/demo/shipped.png;"
	@echo "CoinRun's plain graphics, after some minutes of training: runs/demo/trained.mp4 and trained.png."
	@echo "The validation loss from before to after stands above, and in runs/demo/metrics.png."
	@echo "To play it: make play. To go on with the training for an hour:"
	@echo "  $(PYTHON) train_world_model.py --data datasets/demo --out runs/demo --batch-size 8 --learning-rate 1.5e-3" \
	    "--max-steps 1000 --resume auto"

play: setup
	$(PYTHON) -m scripts.play

# Both shipped games as a static web site in site/: put it on any host.
site: setup
	$(PYTHON) -m scripts.export_web --checkpoint checkpoints/pong-pico checkpoints/coinrun-nano \
	    --data samples/pong samples/coinrun --out site

datasets/demo/metadata.json: | setup
	$(PYTHON) -m scripts.collect --env coinrun --simple --records 600 --out datasets/demo
