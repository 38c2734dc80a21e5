"""Put a checkpoint on the Hugging Face Hub; `WorldModel.from_pretrained("user/name")` loads it from there.

python -m scripts.upload_checkpoint --checkpoint runs/first/checkpoints/latest --repo user/name

The token comes from `hf auth login` or HF_TOKEN, never from the command line, which shells remember.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

import cli
from model import ModelConfig, WorldModel
from model.dit import CONFIG_FILE, WEIGHTS_FILE
from training.metrics import METRICS_FILE, read_metrics

SHOWN_METRICS = ("train/loss", "val/loss", "epoch/val_loss", "epoch/psnr", "epoch/ssim", "val/action_ratio")


@dataclass(frozen=True)
class UploadConfig:
    """What to upload, and where to."""

    checkpoint: Path  # a checkpoint folder
    repo: str  # user/name; made if it is not there yet
    private: bool = False  # a new repository is seen by nobody else


def main(config: UploadConfig) -> None:
    """Check, write a card, upload."""
    checkpoint = config.checkpoint.resolve()  # `latest` is a link, and the card names the step
    model = WorldModel.from_pretrained(checkpoint)
    if not get_token():
        raise ValueError("not logged in to the Hugging Face Hub: run `hf auth login`, or set HF_TOKEN")
    api = HfApi()
    with tempfile.TemporaryDirectory() as folder:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            shutil.copy(checkpoint / name, folder)
        card = model_card(config.repo, model.config, last_metrics(checkpoint), checkpoint.name)
        (Path(folder) / "README.md").write_text(card)
        try:
            api.create_repo(config.repo, private=config.private, exist_ok=True)
            message = f"Upload {checkpoint.name}"
            url = api.upload_folder(repo_id=config.repo, folder_path=folder, commit_message=message).repo_url
        except (HfHubHTTPError, HFValidationError, OSError) as error:
            raise ValueError(f"the Hub did not take {config.repo}: {str(error).splitlines()[0]}") from None
    print(f"uploaded to {url}")


def last_metrics(checkpoint: Path) -> dict[str, float]:
    """The last value of each metric worth showing, up to the checkpoint's step; none without the run's folder."""
    path = checkpoint.parent.parent / METRICS_FILE
    step = checkpoint.name.removeprefix("step_")
    if not path.is_file() or not step.isdigit():
        return {}
    lines = [line for line in read_metrics(path) if line["step"] <= int(step)]
    return {name: line[name] for line in lines for name in SHOWN_METRICS if name in line}


def model_card(repo: str, config: ModelConfig, metrics: dict[str, float], source: str) -> str:
    """A README for the Hub: what it is, how to use it, what was measured."""
    architecture = {
        "frames": f"{config.frame_width}x{config.frame_height}, {config.fps:g} a second",
        "width, blocks, heads": f"{config.dim}, {config.num_blocks}, {config.num_heads}",
        "window": f"{config.window_frames} frames",
        "prediction": config.prediction,
        "denoising steps": config.num_steps,
        "actions": ", ".join(config.action_names) or config.num_actions,
    }
    options = ", ".join(f"{name}={value}" for name, value in config.environment_options)
    rows = [f"| {name} | {value} |" for name, value in architecture.items()]
    measured = [f"| {name} | {value:.4g} |" for name, value in metrics.items()]
    return "\n".join(
        [
            "---",
            "library_name: dreamrun",
            "tags: [world-model, diffusion, reinforcement-learning]",
            "---",
            "",
            f"# {repo.split('/')[-1]}",
            "",
            f"A world model of {config.environment or 'a game'}{f' ({options})' if options else ''}, trained with "
            f"Dreamrun ({source}): given frames and the keys you press, it dreams the next frame.",
            "",
            "```python",
            "from model import Sampler, WorldModel",
            "",
            f'sampler = Sampler(WorldModel.from_pretrained("{repo}"))',
            "```",
            "",
            "| | |",
            "|---|---|",
            *rows,
            *(["", "| metric | last value |", "|---|---|", *measured] if measured else []),
            "",
        ]
    )


if __name__ == "__main__":
    cli.run(main, UploadConfig, __doc__)
