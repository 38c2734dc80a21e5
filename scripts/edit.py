"""Edit clips: known frames stay as they are, and the model generates the others, with all of them in sight.

python -m scripts.edit extend samples/pong:0:40-48 --backward 8
python -m scripts.edit extend mine.mp4 --forward 32 --actions up,up,noop
python -m scripts.edit between samples/pong:0:40-73 --factor 2
python -m scripts.edit join samples/pong:0:30-46 samples/pong:1:50-66 --frames 8
python -m scripts.edit loop samples/pong:0:40-56 --frames 64 --output loop.gif
python -m scripts.edit restyle samples/pong:0:40-56 --strength 0.8 --actions down
python -m scripts.edit image --num-images 8

A clip is PATH:RECORD:START-END of a data set, or PATH:START-END of a video or picture; the numbers may be left out.
The video (mp4 or gif) frames known frames in yellow.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from dreamrun import cli
from dreamrun.data.atomic import atomic_file, check_output
from dreamrun.data.importing.clip_source import SourceClip, read_source
from dreamrun.data.metrics import psnr, ssim
from dreamrun.data.video import edited, write_animation
from dreamrun.editing import drafts as editing
from dreamrun.editing.drafts import MAX_FRAMES, Draft, complete
from dreamrun.editing.measures import cross_fade, nearest_known, ordinary_range, seam_steps, step_sizes
from dreamrun.model import WorldModel
from dreamrun.model.fill import check_can_fill
from dreamrun.model.game_views import check_model_fits_data, choose_game
from dreamrun.model.inference import choose_device, describe_device, prepare_for_inference
from dreamrun.model.options import CheckpointOptions, SamplerSettings


@dataclass(frozen=True, kw_only=True)
class Edit(SamplerSettings, CheckpointOptions):
    """What all tasks share."""

    checkpoint: str = "checkpoints/pong-pico"  # folder of one that has learnt to fill in, or user/name on the Hub
    output: Path = Path("edit.mp4")  # the video to write, .mp4 or .gif
    actions: str = "unknown"  # of the generated frames: unknown; gt, those recorded; or names, repeated: up,up,noop
    metrics: Path | None = None  # write a JSON with what is measured
    guidance: float | None = 1.0  # classifier-free guidance scale; above 1 follows actions more, at twice the cost

    def __post_init__(self):
        super().__post_init__()
        if self.output.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"output is {self.output}: its name must end in .mp4 or .gif")


@dataclass(frozen=True, kw_only=True)
class Extend(Edit):
    """Generate what comes before a clip, after it, or both."""

    clip: tyro.conf.Positional[str]
    backward: int = 0  # frames before the clip
    forward: int = 0  # frames after the clip


@dataclass(frozen=True, kw_only=True)
class Between(Edit):
    """Keep every N-th frame of a clip, and generate those between: for clips of a low frame rate."""

    clip: tyro.conf.Positional[str]
    factor: int = 2  # N


@dataclass(frozen=True, kw_only=True)
class Join(Edit):
    """Generate what lies between two clips."""

    first: tyro.conf.Positional[str]
    second: tyro.conf.Positional[str]
    frames: int = 8  # frames between them


@dataclass(frozen=True, kw_only=True)
class Loop(Edit):
    """Continue a clip so that its end leads into its start."""

    clip: tyro.conf.Positional[str]
    frames: int = 32  # of the loop, the clip included


@dataclass(frozen=True, kw_only=True)
class Restyle(Edit):
    """Noise a clip to a level, and denoise it under other actions or by another model (SDEdit)."""

    clip: tyro.conf.Positional[str]
    strength: float = 0.7  # noise level: above 0, which changes nothing; 1 forgets the clip
    keep: int = 1  # frames at the start that stay as they are


@dataclass(frozen=True, kw_only=True)
class Images(Edit):
    """Generate single frames from noise."""

    num_images: int = 8


EditConfig = (
    Annotated[Extend, tyro.conf.subcommand("extend")]
    | Annotated[Between, tyro.conf.subcommand("between")]
    | Annotated[Join, tyro.conf.subcommand("join")]
    | Annotated[Loop, tyro.conf.subcommand("loop")]
    | Annotated[Restyle, tyro.conf.subcommand("restyle")]
    | Annotated[Images, tyro.conf.subcommand("image")]
)


def main(config: EditConfig) -> None:
    """Make the video, and print what can be measured of it."""
    for path in (config.output, config.metrics):
        if path:
            check_output(path)
    device = choose_device(config.device)
    model = choose_game(WorldModel.from_pretrained(config.checkpoint), config.game, text=config.text)
    model = prepare_for_inference(model, device, config.bf16)
    check_can_fill(model)
    if model.config.num_channels != 3:
        raise ValueError(f"the model's frames have {model.config.num_channels} channels: only RGB frames can be shown")
    print(f"device: {describe_device(device)}")
    TASKS[type(config)](config, Editor(config, model))


class Editor:
    """A model with the options of a command: reads clips, fills in drafts, and writes results."""

    def __init__(self, config: Edit, model: WorldModel):
        self.config, self.model, self.space = config, model, model.game.actions

    def read(self, name: str) -> SourceClip:
        """The clip that a user names. Raises ValueError if there is none, or if it does not fit the model."""
        _, height, width = self.model.config.frame_shape
        clip = read_source(name, width, height, self.model.game.fps, self.space)
        if clip.metadata is not None:
            check_model_fits_data(self.model, clip.metadata, name, self.config.any_game)
        return clip

    def choose_actions(self, draft: Draft, recorded: np.ndarray | None = None) -> Draft:
        """The draft with the actions that the options ask for.

        Args:
            recorded: recorded actions of all frames; None: there are none.
        """
        choice = self.config.actions
        if choice == "unknown":
            return draft
        if choice == "gt":
            if recorded is None:
                raise ValueError("--actions gt needs a clip whose generated frames are recorded too: name actions")
            return Draft(draft.frames, recorded, draft.known)
        return draft.with_actions(np.stack([self.space.parse(name) for name in choice.split(",")]))

    def complete(self, drafts: list[Draft], start_level: float = 1.0) -> np.ndarray:
        """The finished clips, uint8 (S, T, H, W, 3)."""
        return complete(self.model, drafts, self.space, self.config, start_level)

    def write(self, frames: np.ndarray, draft: Draft, truth: np.ndarray | None, measured: dict) -> None:
        """Write the video, with the truth above it if there is one, and the metrics."""
        config, num_frames = self.config, len(frames)
        known, actions = draft.known[:num_frames], draft.actions[:num_frames]
        write_animation(config.output, edited(frames, actions, known, self.space, truth), self.model.game.fps)
        print(f"wrote {config.output}: {num_frames} frames, {int(known.sum())} of them known")
        for name, value in measured.items():
            print(f"  {name:34s} {value}")
        if config.metrics:
            settings = {"task": type(config).__name__.lower(), "checkpoint": config.checkpoint, "seed": config.seed}
            with atomic_file(config.metrics) as temporary:
                temporary.write_text(json.dumps({**settings, **measured}, indent=2) + "\n")
            print(f"wrote {config.metrics}")


def extend(config: Extend, editor: Editor) -> None:
    """The truth is known if the clip is part of a longer record."""
    clip = editor.read(config.clip)
    draft = editing.extend(clip.frames, clip.actions, editor.space, config.backward, config.forward)
    first = clip.start - config.backward
    span = slice(first, first + len(draft.frames))
    has_truth = clip.is_record and first >= 0 and span.stop <= len(clip.all_frames)
    truth = clip.all_frames[span] if has_truth else None
    draft = editor.choose_actions(draft, clip.all_actions[span] if has_truth else None)
    frames = editor.complete([draft])[0]
    editor.write(frames, draft, truth, {**compare(frames, truth, draft.known), **seams(frames, draft, [clip])})


def between(config: Between, editor: Editor) -> None:
    """The truth is known of a record: its own frames."""
    clip = editor.read(config.clip)
    draft = editor.choose_actions(
        editing.between(clip.frames, clip.actions, editor.space, config.factor),
        clip.actions if clip.is_record else None,
    )
    frames, truth = editor.complete([draft])[0], clip.frames if clip.is_record else None
    editor.write(frames, draft, truth, {**compare(frames, truth, draft.known), **seams(frames, draft, [clip])})


def join(config: Join, editor: Editor) -> None:
    """There is no truth: the step across each seam is compared with ordinary ones."""
    first, second = editor.read(config.first), editor.read(config.second)
    parts = (first.frames, first.actions), (second.frames, second.actions)
    draft = editor.choose_actions(editing.join(*parts, editor.space, config.frames))
    frames = editor.complete([draft])[0]
    editor.write(frames, draft, None, seams(frames, draft, [first, second]))


def loop(config: Loop, editor: Editor) -> None:
    """The start is known twice, so that the end leads into it. The result is cut before it comes again."""
    clip = editor.read(config.clip)
    context_frames = editor.model.config.window_frames // 2
    draft = editor.choose_actions(editing.loop(clip.frames, clip.actions, editor.space, config.frames, context_frames))
    frames = editor.complete([draft])[0]
    across = {"step across the seam": rounded(step_sizes(frames[config.frames - 1 : config.frames + 1])[0])}
    editor.write(frames[: config.frames], draft, None, {**across, **seams(frames, draft, [clip])})


def restyle(config: Restyle, editor: Editor) -> None:
    """The original is shown above."""
    if not 0 < config.strength <= 1:
        raise ValueError(f"strength is {config.strength}: it must lie above 0, and at most at 1")
    clip = editor.read(config.clip)
    if not 0 <= config.keep < len(clip.frames):
        raise ValueError(f"keep is {config.keep}: it must lie in 0 to {len(clip.frames) - 1}, for this clip")
    known = np.arange(len(clip.frames)) < config.keep
    draft = editor.choose_actions(Draft(clip.frames, clip.actions, known), clip.actions)
    frames = editor.complete([draft], config.strength)[0]
    change = {"PSNR to the original, dB": rounded(psnr(clip.frames[~known], frames[~known]))}
    editor.write(frames, draft, clip.frames, change)


def image(config: Images, editor: Editor) -> None:
    """Each image is a clip of one frame, of which nothing is known."""
    if not 1 <= config.num_images <= MAX_FRAMES:
        raise ValueError(f"num_images is {config.num_images}: it must lie in 1 to {MAX_FRAMES}")
    channels, height, width = editor.model.config.frame_shape
    empty = Draft(np.zeros((1, height, width, channels), np.uint8), editor.space.unknown(1), np.zeros(1, bool))
    draft = editor.choose_actions(empty)
    frames = editor.complete([draft] * config.num_images)[:, 0]
    shown = Draft(frames, np.repeat(draft.actions, len(frames), axis=0), np.zeros(len(frames), bool))
    editor.write(frames, shown, None, {})


TASKS: dict[type, Callable] = {
    Extend: extend,
    Between: between,
    Join: join,
    Loop: loop,
    Restyle: restyle,
    Images: image,
}


def compare(frames: np.ndarray, truth: np.ndarray | None, known: np.ndarray) -> dict[str, float | None]:
    """PSNR and SSIM of the generated frames, and of two ways to do without a model."""
    if truth is None:
        return {}
    rows = {"generated": frames, "nearest known": nearest_known(truth, known), "cross-fade": cross_fade(truth, known)}
    measured = {}
    for name, shown in rows.items():
        measured[f"PSNR, dB, {name}"] = rounded(psnr(truth[~known], shown[~known]))
        measured[f"SSIM, {name}"] = rounded(ssim(truth[~known], shown[~known]))
    return measured


def seams(frames: np.ndarray, draft: Draft, clips: list[SourceClip]) -> dict[str, object]:
    """The largest step into, between and out of generated frames, beside the range of ordinary steps of the sources."""
    measured: dict[str, object] = {"largest step, generated": rounded(seam_steps(frames, draft.known).max())}
    recorded = [clip.all_frames for clip in clips if len(clip.all_frames) > 1]
    if recorded:
        measured["95 % of ordinary steps"] = [rounded(value) for value in ordinary_range(recorded)]
    return measured


def rounded(value: float) -> float | None:
    """None if it is infinite: JSON has no infinity."""
    return round(float(value), 3) if np.isfinite(value) else None


if __name__ == "__main__":
    cli.run(main, __doc__)
