"""Generate rollouts and compare them with recorded play: an mp4, and PSNR and SSIM of each frame.

python -m scripts.infer --checkpoint runs/first/checkpoints/latest --data datasets/coinrun --output dream.mp4
python -m scripts.infer --actions right,right,jump --num-frames 32
python -m scripts.infer --replay dream.json --output again.mp4
python -m scripts.infer --clip mine.mp4 --actions right
python -m scripts.infer --num-prompt-frames 0 --actions random
python -m scripts.infer --checkpoint runs/games/checkpoints/latest --prompt-text "pong, two paddles" --actions up
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro

from dreamrun import cli
from dreamrun.data.atomic import check_output, write_json
from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.clips import Clips, choose_actions, held_out_clips, prompt_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.importing.clip_source import read_clip
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.metrics import rollout_metrics
from dreamrun.data.video import comparison, grid, write_mp4, write_png
from dreamrun.games.ranges import Count, Positive, Range
from dreamrun.model import Sampler, WorldModel
from dreamrun.model.checkpoint import hash_weights
from dreamrun.model.game_views import check_model_fits_data, choose_game, select_game, with_size
from dreamrun.model.inference import choose_device, describe_device, prepare_for_inference
from dreamrun.model.options import CheckpointOptions, SamplerSettings
from dreamrun.model.reference_sampler import ReferenceSampler
from dreamrun.model.sampler import rollout
from dreamrun.play.replay import Replay

SAMPLES = Path("samples/coinrun")
MAX_SHOWN = 8  # samples in the video and the grid; more can be measured
NUM_GRID_FRAMES = 8  # columns of the grid


@dataclass(frozen=True, kw_only=True)
class InferConfig(SamplerSettings, CheckpointOptions):
    """What to generate, and which files to write."""

    data: Path | None = None  # data set with prompts and true frames; None: samples/coinrun
    clip: Path | None = None  # video whose last frames are the prompt, in place of a data set
    # What to dream of, in words, if the checkpoint has learnt any; without data or clip the first frame is dreamt too.
    text: Annotated[str | None, tyro.conf.arg(name="prompt-text")] = None
    split: str | None = None  # split of the data set; None: test, or val if there is no test split
    num_samples: Positive = 4  # rollouts to generate and measure; at most 8 are shown
    num_prompt_frames: Count = 4  # true frames to start from; 0: noise; --data then only adds true frames to compare
    num_frames: int = 64  # frames per sample, the prompt included
    actions: str = "gt"  # gt: recorded (noop after --clip); random; or names, repeated until the end: right,right+jump
    cache: bool = True  # KV cache; --no-cache: recompute the whole window at every step (slow, for reference)
    fps: Annotated[float | None, Range(1e-3, 1000.0)] = None  # frame rate of the mp4; None: the game's own
    output: Path = Path("dream.mp4")  # the mp4 to write
    metrics: Path | None = None  # write a JSON with PSNR and SSIM per frame, of rollouts and baselines
    grid: Path | None = None  # write a PNG of true and generated frames
    plot: Path | None = None  # write a PNG with the PSNR per frame
    seed: int = 0  # seed of the noise, and of the choice of records
    replay: Path | None = None  # generate again a rollout recorded in the page, with its prompt, actions and settings

    def __post_init__(self):
        super().__post_init__()
        if self.text is not None and not self.data and not self.clip:
            object.__setattr__(self, "num_prompt_frames", 0)
        if self.data and self.clip:
            raise ValueError("--data and --clip exclude each other: give one of them")
        if self.clip and not self.num_prompt_frames:
            raise ValueError("num_prompt_frames is 0, so --clip is not used: give a positive number")
        if not self.truth and (self.metrics or self.grid or self.plot):
            raise ValueError("--metrics, --grid and --plot need true frames: give --data")
        if self.num_frames <= self.num_prompt_frames:
            raise ValueError(
                f"num_frames is {self.num_frames}: it must be more than num_prompt_frames, {self.num_prompt_frames}"
            )

    @property
    def truth(self) -> Path | None:
        """The data set with the true frames, if there is one."""
        return self.data or (None if self.clip or not self.num_prompt_frames else SAMPLES)


def main(config: InferConfig) -> None:
    """Write what the config asks for."""
    for path, suffix in ((config.output, ".mp4"), (config.metrics, ""), (config.grid, ".png"), (config.plot, ".png")):
        if path:
            check_output(path, suffix=suffix, inputs=(config.clip, config.replay))
    device = choose_device(config.device)
    checkpoint = WorldModel.from_pretrained(config.checkpoint)
    print(f"device: {describe_device(device)}")
    if config.replay:
        write_replay(config, checkpoint, prepare_for_inference(checkpoint, device, config.bf16))
    else:
        write_rollouts(config, prepare_for_inference(choose_model(config, checkpoint), device, config.bf16))


def choose_model(config: InferConfig, checkpoint: WorldModel) -> WorldModel:
    """The checkpoint for the game, the words and the frame size that are asked for."""
    metadata = read_metadata(config.truth) if config.truth else None
    model = choose_game(checkpoint, config.game, metadata, config.text)
    if metadata is None or metadata.frame_shape[:2] == model.config.frame_shape[1:]:
        return model
    (height, width, _), (_, own_height, own_width) = metadata.frame_shape, model.config.frame_shape
    resized = with_size(model, height, width)
    print(f"frames of {width}x{height}, as in {config.truth}; the model has learnt {own_width}x{own_height}")
    return resized


def write_replay(config: InferConfig, checkpoint: WorldModel, model: WorldModel) -> None:
    """Write the video of a replay. Raises ValueError if the file is not a replay of this checkpoint."""
    replay = Replay.read(config.replay, model)
    replay.check_weights(hash_weights(checkpoint), config.checkpoint, config.replay)
    video = replay.video(model, config.cache)
    write_mp4(config.output, video, config.fps or select_game(model, replay.game).game.fps, decorated=True)
    print(f"wrote {config.output}: {len(video)} frames")


def write_rollouts(config: InferConfig, model: WorldModel) -> None:
    """Generate rollouts and write their video, metrics and pictures."""
    clips = recorded_clips(config, model) if config.truth else clips_without_truth(config, model)
    actions = choose_actions(config.actions, clips, config.num_prompt_frames, config.seed)
    generated = generate(config, model, clips, actions, "generating")
    report = {}
    if config.metrics or config.plot:
        generated_other = None
        if config.num_samples > 1 and not clips.space.unconditional:
            other_actions = clips.other_actions(config.num_prompt_frames)
            generated_other = generate(config, model, clips, other_actions, "generating with another sample's actions")
        report = rollout_metrics(clips, generated, generated_other, config.num_prompt_frames)
    shown = slice(MAX_SHOWN)
    truth = clips.frames[shown] if config.truth else None
    video = comparison(truth, generated[shown], actions[shown], clips.space)
    write_mp4(config.output, video, config.fps or clips.fps, decorated=True)
    note = f": the first {MAX_SHOWN} of {config.num_samples} samples" if config.num_samples > MAX_SHOWN else ""
    print(f"wrote {config.output}{note}")
    if config.metrics:
        write_metrics(config, model, clips, report)
    if config.grid:
        first, last = max(0, config.num_prompt_frames - 1), config.num_frames - 1
        columns = np.linspace(first, last, NUM_GRID_FRAMES).round().astype(int)
        write_png(config.grid, grid(clips.frames[shown], generated[shown], list(columns)))
        print(f"wrote {config.grid}: true frames above, generated frames below; frames {', '.join(map(str, columns))}")
    if config.plot:
        from dreamrun.data.plots import plot_psnr  # imported here: matplotlib takes a second

        plot_psnr(config.plot, report)
        print(f"wrote {config.plot}")


def recorded_clips(config: InferConfig, model: WorldModel) -> Clips:
    """Clips of the data set, with true frames."""
    dataset = ClipDataset(config.truth, config.split or held_out_split(config.truth), clip_frames=1)
    check_model_fits_data(model, dataset.metadata, config.truth, config.any_game)
    # With other actions than the recorded ones, a rollout may be longer than its record.
    min_frames = None if config.actions == "gt" else config.num_prompt_frames + 1
    return held_out_clips(dataset, config.num_samples, config.num_frames, config.seed, min_frames)


def clips_without_truth(config: InferConfig, model: WorldModel) -> Clips:
    """Clips with a prompt from a video, or without a prompt."""
    channels, height, width = model.config.frame_shape
    if channels != 3:
        raise ValueError(f"the model's frames have {channels} channels: only RGB frames can be shown")
    prompt = np.zeros((0, height, width, channels), np.uint8)
    if config.clip:
        prompt = read_clip(config.clip, config.num_prompt_frames, width, height, model.game.fps)
    return prompt_clips(prompt, config.num_samples, config.num_frames, model.game.actions, model.game.fps)


def generate(config: InferConfig, model: WorldModel, clips: Clips, actions: np.ndarray, progress: str) -> np.ndarray:
    """Rollouts from the clips' prompts under given actions, uint8 (S, T, H, W, C)."""
    sampler = (Sampler if config.cache else ReferenceSampler)(model, config)
    prompt, vectors = clips.frames[:, : config.num_prompt_frames], torch.from_numpy(clips.space.vectors(actions))
    generated = [to_uint8(frame) for frame in rollout(sampler, to_float(prompt), vectors, progress)]
    return np.concatenate((prompt, np.stack(generated, 1)), 1)


def write_metrics(config: InferConfig, model: WorldModel, clips: Clips, report: dict) -> None:
    """Write the metrics with the settings that they were measured with."""
    settings = {
        "checkpoint": str(config.checkpoint),
        "data": str(config.truth),
        "actions": config.actions,
        **config.resolve(model.config).to_dict(text_name="prompt_text"),
        "cache": config.cache,
        "record_ids": clips.record_ids.tolist(),
    }
    write_json(config.metrics, {**settings, **report})
    print(f"wrote {config.metrics}")


if __name__ == "__main__":
    cli.run(main, __doc__)
