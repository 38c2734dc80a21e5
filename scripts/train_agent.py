"""Train a PPO agent in the dream or in the real game; needs ./setup.sh --rl. The same command continues.

python -m scripts.train_agent --env dream --checkpoint checkpoints/pong-pico --data datasets/pong --out runs/agent
python -m scripts.train_agent --env real --game pong --out runs/agent-real
"""

from dreamrun import cli
from dreamrun.data.atomic import check_output
from dreamrun.envs.agent import TrainAgentConfig, train_agent


def main(config: TrainAgentConfig) -> None:
    """Train, then say how to score the agent."""
    check_output(config.out, is_folder=True)
    train_agent(config)
    print(f"score it in the real game: dreamrun score-agent --agent {config.out}")


if __name__ == "__main__":
    cli.run(main, __doc__)
