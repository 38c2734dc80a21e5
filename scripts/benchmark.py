"""Measure speed. Compare medians and ratios within one run: shared machines are noisy. The last line is JSON.

python -m scripts.benchmark rollout --preset nano
python -m scripts.benchmark rollout --preset small --num-steps 10 --compare reference
python -m scripts.benchmark loader --data datasets/coinrun
python -m scripts.benchmark loader --data datasets/pong datasets/coinrun
python -m scripts.benchmark train --preset nano --batch-size 8
python -m scripts.benchmark train --preset small --batch-size 128 --clip-frames 32 --compile
python -m scripts.benchmark play --players 4
python -m scripts.benchmark importer --videos recordings
python -m scripts.benchmark env --checkpoint checkpoints/pong-pico
"""

import json
from functools import reduce
from operator import or_
from typing import Annotated

import tyro

from dreamrun import cli
from dreamrun.benchmarks import environment, loader, playing, recordings, sampling, steps

BENCHMARKS = {
    "rollout": (sampling.RolloutConfig, sampling.measure),
    "loader": (loader.LoaderConfig, loader.measure),
    "train": (steps.StepConfig, steps.measure),
    "play": (playing.PlayingConfig, playing.measure),
    "importer": (recordings.ImporterConfig, recordings.measure),
    "env": (environment.EnvironmentConfig, environment.measure),
}
SUBCOMMANDS = (Annotated[config, tyro.conf.subcommand(name)] for name, (config, _) in BENCHMARKS.items())
Benchmark = reduce(or_, SUBCOMMANDS)


def main(config: Benchmark) -> None:
    """Measure, and print a table and then JSON."""
    results = dict(BENCHMARKS.values())[type(config)](config)
    for name, value in results.items():
        print(f"  {name:28s} {value:.4g}" if isinstance(value, float) else f"  {name:28s} {value}")
    print(json.dumps(results))


if __name__ == "__main__":
    cli.run(main, __doc__)
