"""The command that edits clips: its tasks with their options, and what it measures and writes.

Shapes: T frames, H x W x 3 pixels.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from dreamrun.data.atomic import check_output, write_json
from dreamrun.data.importing.clip_source import SourceClip, read_source
from dreamrun.data.metrics import psnr, ssim
from dreamrun.data.video import edited, upscale, write_animation, write_mp4
from dreamrun.editing.masked_clip import MAX_CLIP_FRAMES, MaskedClip, between, complete, extend, join, loop
from dreamrun.editing.measures import cross_fade, nearest_known, ordinary_range, seam_steps, step_sizes
from dreamrun.games.ranges import Count, Positive, Range
from dreamrun.games.space import ActionSpace
from dreamrun.model.dit import WorldModel
from dreamrun.model.fill import check_can_fill
from dreamrun.model.game_views import check_model_fits_data, choose_game
from dreamrun.model.inference import choose_device, describe_device, prepare_for_inference
from dreamrun.model.options import CheckpointOptions, SamplerSettings


@dataclass(frozen=True)
class Plan:
    """What a task asks for."""

    clip: MaskedClip
    sources: tuple[SourceClip, ...] = ()  # whose play was known
    truth: np.ndarray | None = None  # uint8 (T, H, W, 3), what was recorded in place of the result
    recorded: np.ndarray | None = None  # its actions
    num_frames: int | None = None  # of the result to show; None: all
    copies: int = 1  # of the clip, each with noise of its own, one after another
    start_level: float = 1.0  # noise level that the unknown frames are denoised from


@dataclass(frozen=True, kw_only=True)
class Edit(SamplerSettings, CheckpointOptions):
    """What all tasks share."""

    checkpoint: str = "checkpoints/pong-pico"  # folder of one that has learnt to fill in, or user/name on the Hub
    output: Path = Path("edit.mp4")  # the video to write, .mp4 or .gif, with titles, a border and the keys
    plain: Path | None = None  # also write the frames alone, as an mp4 that can be edited again
    actions: str = "unknown"  # of the generated frames: unknown; gt, those recorded; or names, repeated: up,up,noop
    metrics: Path | None = None  # write a JSON with what is measured
    guidance: float | None = 1.0  # classifier-free guidance scale; above 1 follows actions more, at twice the cost

    def __post_init__(self):
        super().__post_init__()
        if self.output.suffix.lower() not in (".mp4", ".gif"):
            raise ValueError(f"output is {self.output}: its name must end in .mp4 or .gif")

    def read(self, model: WorldModel, name: str) -> SourceClip:
        """The clip that a user names. Raises ValueError if there is none, or if it does not fit the model."""
        _, height, width = model.config.frame_shape
        clip = read_source(name, width, height, model.game.fps, model.game.actions)
        if clip.metadata is not None:
            check_model_fits_data(model, clip.metadata, name, self.any_game)
        return clip

    def plan(self, model: WorldModel) -> Plan:
        """What is known of the result."""
        raise NotImplementedError

    def measure(self, plan: Plan, frames: np.ndarray) -> dict[str, Any]:
        """Figures of the finished clip, uint8 (T, H, W, 3)."""
        return {**compare(plan, frames), **seams(plan, frames)}


@dataclass(frozen=True, kw_only=True)
class Extend(Edit):
    """Generate what comes before a clip, after it, or both."""

    clip: tyro.conf.Positional[str]
    backward: Count = 0  # frames before the clip
    forward: Count = 0  # frames after the clip

    def plan(self, model: WorldModel) -> Plan:
        clip = self.read(model, self.clip)
        masked = extend(clip.frames, clip.actions, model.game.actions, self.backward, self.forward)
        first = clip.start - self.backward
        span = slice(first, first + len(masked.frames))
        if clip.is_record and first >= 0 and span.stop <= len(clip.all_frames):  # part of a longer record
            return Plan(masked, (clip,), clip.all_frames[span], clip.all_actions[span])
        return Plan(masked, (clip,))


@dataclass(frozen=True, kw_only=True)
class Between(Edit):
    """Keep every N-th frame of a clip, and generate those between: for clips of a low frame rate."""

    clip: tyro.conf.Positional[str]
    factor: Annotated[int, Range(2)] = 2  # N

    def plan(self, model: WorldModel) -> Plan:
        clip = self.read(model, self.clip)
        masked = between(clip.frames, clip.actions, model.game.actions, self.factor)
        return Plan(masked, (clip,), clip.frames, clip.actions) if clip.is_record else Plan(masked, (clip,))


@dataclass(frozen=True, kw_only=True)
class Join(Edit):
    """Generate what lies between two clips."""

    first: tyro.conf.Positional[str]
    second: tyro.conf.Positional[str]
    frames: Positive = 8  # frames between them

    def plan(self, model: WorldModel) -> Plan:
        first, second = self.read(model, self.first), self.read(model, self.second)
        parts = (first.frames, first.actions), (second.frames, second.actions)
        return Plan(join(*parts, model.game.actions, self.frames), (first, second))


@dataclass(frozen=True, kw_only=True)
class Loop(Edit):
    """Continue a clip so that its end leads into its start."""

    clip: tyro.conf.Positional[str]
    frames: int = 32  # of the loop, the clip included

    def plan(self, model: WorldModel) -> Plan:
        clip, context_frames = self.read(model, self.clip), model.config.window_frames // 2
        masked = loop(clip.frames, clip.actions, model.game.actions, self.frames, context_frames)
        return Plan(masked, (clip,), num_frames=self.frames)

    def measure(self, plan: Plan, frames: np.ndarray) -> dict[str, Any]:
        across = step_sizes(frames[self.frames - 1 : self.frames + 1])[0]
        return {"step across the seam": rounded(across), **super().measure(plan, frames)}


@dataclass(frozen=True, kw_only=True)
class Restyle(Edit):
    """Noise a clip to a level, and denoise it under other actions or by another model (SDEdit)."""

    clip: tyro.conf.Positional[str]
    strength: float = 0.7  # noise level: above 0, which changes nothing; 1 forgets the clip
    keep: int = 1  # frames at the start that stay as they are

    def plan(self, model: WorldModel) -> Plan:
        if not 0 < self.strength <= 1:
            raise ValueError(f"strength is {self.strength}: it must lie above 0, and at most at 1")
        clip = self.read(model, self.clip)
        if not 0 <= self.keep < len(clip.frames):
            raise ValueError(f"keep is {self.keep}: it must lie in 0 to {len(clip.frames) - 1}, for this clip")
        masked = MaskedClip(clip.frames, clip.actions, np.arange(len(clip.frames)) < self.keep)
        return Plan(masked, (clip,), clip.frames, clip.actions, start_level=self.strength)

    def measure(self, plan: Plan, frames: np.ndarray) -> dict[str, Any]:
        unknown = ~plan.clip.known
        return {"PSNR to the original, dB": rounded(psnr(plan.clip.frames[unknown], frames[unknown]))}


@dataclass(frozen=True, kw_only=True)
class Images(Edit):
    """Generate single frames from noise."""

    num_images: Annotated[int, Range(1, MAX_CLIP_FRAMES)] = 8

    def plan(self, model: WorldModel) -> Plan:
        channels, height, width = model.config.frame_shape
        frame, action = np.zeros((1, height, width, channels), np.uint8), model.game.actions.unknown(1)
        return Plan(MaskedClip(frame, action, np.zeros(1, bool)), copies=self.num_images)

    def measure(self, plan: Plan, frames: np.ndarray) -> dict[str, Any]:
        return {}


EditConfig = (
    Annotated[Extend, tyro.conf.subcommand("extend")]
    | Annotated[Between, tyro.conf.subcommand("between")]
    | Annotated[Join, tyro.conf.subcommand("join")]
    | Annotated[Loop, tyro.conf.subcommand("loop")]
    | Annotated[Restyle, tyro.conf.subcommand("restyle")]
    | Annotated[Images, tyro.conf.subcommand("image")]
)


def edit(config: Edit) -> None:
    """Make the video, and print what can be measured of it."""
    for path in (config.output, config.plain, config.metrics):
        if path:
            check_output(path, inputs=[name for name in vars(config).values() if isinstance(name, str)])
    device = choose_device(config.device)
    model = choose_game(WorldModel.from_pretrained(config.checkpoint), config.game, text=config.text)
    model = prepare_for_inference(model, device, config.bf16)
    check_can_fill(model)
    if model.config.num_channels != 3:
        raise ValueError(f"the model's frames have {model.config.num_channels} channels: only RGB frames can be shown")
    print(f"device: {describe_device(device)}")
    plan = config.plan(model)
    space = model.game.actions
    clip = choose_actions(config.actions, plan, space)
    *_, finished = complete(model, [clip] * plan.copies, space, config, plan.start_level)
    write(config, model, plan, clip, np.concatenate(finished))


def choose_actions(choice: str, plan: Plan, space: ActionSpace) -> MaskedClip:
    """The masked clip with the actions that the user asks for."""
    if choice == "unknown":
        return plan.clip
    if choice == "gt":
        if plan.recorded is None:
            raise ValueError("--actions gt needs a clip whose generated frames are recorded too: name actions")
        return MaskedClip(plan.clip.frames, plan.recorded, plan.clip.known)
    return plan.clip.with_actions(np.stack([space.parse(name) for name in choice.split(",")]))


def write(config: Edit, model: WorldModel, plan: Plan, clip: MaskedClip, frames: np.ndarray) -> None:
    """Write the video, with the truth above it if there is one, and the metrics."""
    shown = slice(plan.num_frames)
    known, actions = (np.concatenate([part] * plan.copies)[shown] for part in (clip.known, clip.actions))
    video = edited(frames[shown], actions, known, model.game.actions, plan.truth)
    write_animation(config.output, video, model.game.fps, decorated=True)
    print(f"wrote {config.output}: {len(known)} frames, {int(known.sum())} of them known")
    if config.plain:
        write_mp4(config.plain, upscale(frames[shown]), model.game.fps)
        print(f"wrote {config.plain}: the frames alone")
    measured = config.measure(plan, frames)
    for name, value in measured.items():
        print(f"  {name:34s} {value}")
    if config.metrics:
        settings = {"task": type(config).__name__.lower(), "checkpoint": config.checkpoint, "seed": config.seed}
        write_json(config.metrics, {**settings, **measured})
        print(f"wrote {config.metrics}")


def compare(plan: Plan, frames: np.ndarray) -> dict[str, float | None]:
    """PSNR and SSIM of the generated frames, and of two ways to do without a model, if the truth is known."""
    if plan.truth is None:
        return {}
    truth, known, measured = plan.truth, plan.clip.known, {}
    rows = {"generated": frames, "nearest known": nearest_known(truth, known), "cross-fade": cross_fade(truth, known)}
    for name, shown in rows.items():
        measured[f"PSNR, dB, {name}"] = rounded(psnr(truth[~known], shown[~known]))
        measured[f"SSIM, {name}"] = rounded(ssim(truth[~known], shown[~known]))
    return measured


def seams(plan: Plan, frames: np.ndarray) -> dict[str, Any]:
    """The largest step into, between and out of generated frames, beside the range of ordinary steps of the sources."""
    measured: dict[str, Any] = {"largest step, generated": rounded(seam_steps(frames, plan.clip.known).max())}
    recorded = [clip.all_frames for clip in plan.sources if len(clip.all_frames) > 1]
    if recorded:
        measured["95 % of ordinary steps"] = [rounded(value) for value in ordinary_range(recorded)]
    return measured


def rounded(value: float) -> float | None:
    """None if it is infinite: JSON has no infinity."""
    return round(float(value), 3) if np.isfinite(value) else None
