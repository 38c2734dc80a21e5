"""Dream beside the truth: an mp4, and PSNR and SSIM by frame.

python -m scripts.infer --checkpoint runs/first/checkpoints/latest --data datasets/coinrun --output dream.mp4
python -m scripts.infer --actions right,right,jump --num-frames 32
python -m scripts.infer --replay dream.json --output again.mp4
python -m scripts.infer --clip mine.mp4 --actions right
python -m scripts.infer --num-prompt-frames 0 --actions random
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

import cli
from data.actions import ActionSpace
from data.atomic import atomic_file
from data.clips import Clips, held_out_clips
from data.dataset import ClipDataset
from data.importing.importer import read_clip
from data.index import held_out_split
from data.video import comparison, grid, write_mp4, write_png
from model import Sampler, WorldModel
from play.actions import playable_actions
from play.recording import dream_video
from play.replay import Replay
from training.checkpoint import hash_weights
from training.device import choose_device, describe_device, prepare_for_inference
from training.metrics import metrics_by_frame
from training.rollout import rollout
from training.setup import action_space, check_model_fits_data

SAMPLES = Path("samples/coinrun")
MAX_SHOWN = 8  # samples in the video and the picture; more can be measured


@dataclass(frozen=True)
class InferConfig:
    """What to dream, and where to put it."""

    checkpoint: str = "checkpoints/coinrun-nano"  # a checkpoint folder, or user/name on the Hub
    data: Path | None = None  # the data set that prompts and truth are from; None: samples/coinrun, unless
    clip: Path | None = None  # a video's last frames are the prompt, or --num-prompt-frames 0
    split: str | None = None  # None: test, or val where there is no test
    num_samples: int = 4  # dreams to make and measure; at most 8 of them are shown
    num_prompt_frames: int = 4  # true frames to begin from; 0: from noise alone
    num_frames: int = 64  # of each sample, the prompt included
    actions: str = "gt"  # gt: the recording's, or none; random: any that act; or names, over and over: right,right+jump
    num_steps: int | None = None  # denoising steps a frame; None: as the checkpoint says
    context_noise: float = 0.02  # noise level of the frames that are looked back at
    guidance: float = 1.0  # above 1: obey actions more than the network would by itself, at twice the cost
    cache: bool = True  # --no-cache: the slow reference, which runs over the whole window at every step
    fps: float | None = None  # of the mp4; None: the game's own
    output: Path = Path("dream.mp4")
    metrics: Path | None = None  # a JSON of PSNR and SSIM by frame; beside two baselines
    grid: Path | None = None  # a PNG of true and dreamt frames
    plot: Path | None = None  # a PNG of PSNR by frame
    seed: int = 0  # of the noise, and of which records are shown
    replay: Path | None = None  # dream again what was recorded while playing; the file says from what and how
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self):
        if self.num_prompt_frames < 0:
            raise ValueError(f"num_prompt_frames is {self.num_prompt_frames}: it cannot be negative")
        if self.data and self.clip:
            raise ValueError("give either --data or --clip: a dream goes on from one of them")
        if self.clip and not self.num_prompt_frames:
            raise ValueError("num_prompt_frames is 0: --clip has nothing to give then")
        if not self.truth and (self.metrics or self.grid or self.plot):
            raise ValueError("--metrics, --grid and --plot compare with the truth: give --data")
        if self.num_frames <= self.num_prompt_frames:
            raise ValueError(f"num_frames {self.num_frames} leaves nothing to dream after {self.num_prompt_frames}")
        if self.fps is not None and self.fps <= 0:
            raise ValueError(f"fps is {self.fps}: it must be positive")

    @property
    def truth(self) -> Path | None:
        """The data set that is dreamt along with, if any is."""
        return self.data or (None if self.clip or not self.num_prompt_frames else SAMPLES)


def main(config: InferConfig) -> None:
    """Dream, measure, write."""
    device = choose_device(config.device)
    saved = WorldModel.from_pretrained(config.checkpoint)
    model = prepare_for_inference(saved, device)
    print(f"device: {describe_device(device)}")
    if config.replay:
        dream_again(config, saved, model)
        return
    clips = real_play(config, model) if config.truth else own_prompt(config, model)
    actions = chosen_actions(config.actions, clips, config.num_prompt_frames, config.seed)

    def dream_under(some_actions: np.ndarray, what: str) -> np.ndarray:
        sampler = Sampler(
            model, config.num_steps, config.context_noise, config.seed, cache=config.cache, guidance=config.guidance
        )
        return rollout(sampler, clips.frames, some_actions, clips.space, config.num_prompt_frames, progress=what)

    dreamt = dream_under(actions, "dreaming")
    if config.metrics or config.plot:
        # Another sample's actions, the prompt's own kept: what a model that ignores actions does as well.
        others = clips.actions.copy()
        others[:, config.num_prompt_frames :] = np.roll(clips.actions, 1, axis=0)[:, config.num_prompt_frames :]
        swapped = dream_under(others, "dreaming with another sample's actions") if config.num_samples > 1 else None
        report = measure(clips, dreamt, swapped, config.num_prompt_frames)
    shown = slice(MAX_SHOWN)
    truth = clips.frames[shown] if config.truth else None
    video = comparison(truth, dreamt[shown], actions[shown], clips.space)
    write_mp4(config.output, video, config.fps or clips.fps)
    rest = f": the first {MAX_SHOWN} of {config.num_samples} samples" if config.num_samples > MAX_SHOWN else ""
    print(f"wrote {config.output}{rest}")
    if config.metrics:
        settings = {"checkpoint": str(config.checkpoint), "data": str(config.truth), "actions": config.actions}
        num_steps = config.num_steps or model.config.num_steps
        settings |= {"num_steps": num_steps, "context_noise": config.context_noise, "seed": config.seed}
        settings |= {"guidance": config.guidance, "cache": config.cache}
        with atomic_file(config.metrics) as temporary:
            temporary.write_text(json.dumps({**settings, "record_ids": clips.record_ids, **report}, indent=2) + "\n")
        print(f"wrote {config.metrics}")
    if config.grid:
        moments = np.linspace(max(0, config.num_prompt_frames - 1), config.num_frames - 1, 8).round().astype(int)
        write_png(config.grid, grid(clips.frames[shown], dreamt[shown], list(moments)))
        print(f"wrote {config.grid}: true frames above, dreamt ones below, frames {', '.join(map(str, moments))}")
    if config.plot:
        from training.plots import plot_psnr  # imported here: matplotlib takes a second

        plot_psnr(config.plot, report)
        print(f"wrote {config.plot}")


def dream_again(config: InferConfig, saved: WorldModel, model: WorldModel) -> None:
    """Write the video of a replay.

    Raises:
        ValueError: it is none, or one of another checkpoint.
    """
    replay = Replay.read(config.replay, model)
    if replay.weights != hash_weights(saved):
        raise ValueError(
            f"{config.replay} was dreamt by another checkpoint than {config.checkpoint}: name that one, "
            f"{replay.checkpoint} (weights {replay.weights[:12]}...), by --checkpoint"
        )
    frames = replay.dream(model, config.cache)
    video = dream_video(frames, replay.actions[replay.first :], playable_actions(model))
    write_mp4(config.output, video, config.fps or model.game.fps)
    print(f"wrote {config.output}: {len(frames)} frames")


def real_play(config: InferConfig, model: WorldModel) -> Clips:
    """Held-out play of the data set."""
    dataset = ClipDataset(config.truth, config.split or held_out_split(config.truth), clip_frames=1)
    check_model_fits_data(model, dataset.metadata, config.truth)
    # Under other actions than the recording's, a dream may go on after the recording has ended.
    least_frames = None if config.actions == "gt" else config.num_prompt_frames + 1
    return held_out_clips(dataset, config.num_samples, config.num_frames, config.seed, least_frames)


def own_prompt(config: InferConfig, model: WorldModel) -> Clips:
    """The end of a video, or nothing, for every sample; what was done in it is not known, after it nothing is."""
    if config.num_samples < 1:
        raise ValueError(f"{config.num_samples} samples: at least 1 is needed")
    space, size = action_space(model), model.config
    num_prompt, shape = config.num_prompt_frames, (size.frame_height, size.frame_width, size.num_channels)
    frames = np.zeros((config.num_samples, config.num_frames, *shape), np.uint8)
    actions = space.unknown(config.num_samples, config.num_frames)
    actions[:, num_prompt:] = space.noop
    if config.clip:
        frames[:, :num_prompt] = read_clip(config.clip, num_prompt, size.frame_width, size.frame_height, model.game.fps)
    return Clips(frames, actions, space, model.game.fps, record_ids=[], num_true_frames=num_prompt)


def chosen_actions(choice: str, clips: Clips, num_prompt: int, seed: int) -> np.ndarray:
    """Recorded actions (S, T) or (S, T, names): those of the recording up to the prompt's end, then as `choice` says.

    Raises:
        ValueError: an unknown name.
    """
    actions = clips.actions.copy()
    space: ActionSpace = clips.space
    num_samples, num_frames = actions[:, num_prompt:].shape[:2]
    if choice == "random":
        actions[:, num_prompt:] = space.random(np.random.default_rng(seed), num_samples, num_frames)
    elif choice != "gt":
        named = np.stack([space.parse(name) for name in choice.split(",")])
        actions[:, num_prompt:] = named[np.arange(num_frames) % len(named)]
    return actions


def measure(clips: Clips, dreamt: np.ndarray, swapped: np.ndarray | None, num_prompt: int) -> dict:
    """PSNR and SSIM at every dreamt frame that has a truth in all samples, for the dream and for two baselines."""
    end = clips.num_true_frames
    truth = clips.frames[:, num_prompt:end]
    report = {"num_samples": len(truth), "num_prompt_frames": num_prompt, "first_frame": num_prompt}
    report["dream"] = metrics_by_frame(truth, dreamt[:, num_prompt:end])
    if num_prompt:
        repeated = np.repeat(clips.frames[:, num_prompt - 1 : num_prompt], truth.shape[1], axis=1)
        report["repeat_prompt"] = metrics_by_frame(truth, repeated)
    if swapped is not None:
        report["other_actions"] = metrics_by_frame(truth, swapped[:, num_prompt:end])
    return report


if __name__ == "__main__":
    cli.run(main, InferConfig, __doc__)
