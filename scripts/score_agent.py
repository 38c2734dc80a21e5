"""Score an agent in the real game, in held-out levels, or in the dream; needs ./setup.sh --rl. The last line is JSON.

python -m scripts.score_agent --agent runs/agent --env real
python -m scripts.score_agent --agent random --game pong
"""

import json

from dreamrun import cli
from dreamrun.envs.score import ScoreAgentConfig, score_agent
from dreamrun.evaluation.section import format_estimate
from dreamrun.evaluation.statistics import estimate


def main(config: ScoreAgentConfig) -> None:
    """Play, and print the mean return and length with 95 % bootstrap intervals over episodes."""
    returns, lengths = score_agent(config)
    results = {"return": estimate(returns), "episode_steps": estimate(lengths)}
    print(f"{config.agent}, {len(returns)} episodes of the {config.env} game, {config.split} split")
    for name, value in results.items():
        print(f"  {name.replace('_', ' '):15s} {format_estimate(value, 2)}")
    print(json.dumps(results))


if __name__ == "__main__":
    cli.run(main, __doc__)
