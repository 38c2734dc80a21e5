"""Editing: how close filled-in frames are to the real ones, and how large the steps at seams are.

Shapes: S clips, T frames, H x W pixels, C channels.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from dreamrun.data.clips import draw_clips
from dreamrun.data.metrics import frame_mse, frame_ssim, psnr_from_mse
from dreamrun.editing.masked_clip import MaskedClip, complete, join, loop
from dreamrun.editing.measures import cross_fade, nearest_known, ordinary_range, seam_steps, step_sizes
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_estimate, format_percent
from dreamrun.evaluation.statistics import estimate
from dreamrun.model.fill import check_can_fill

WORDS = (
    "Some frames of a held-out clip are known (k), and the model generates the others (.) with all known frames in "
    "sight. Two baselines do without a model: the nearest known frame, and a cross-fade between the known frames. The "
    "actions of all frames are the true ones, hidden, or those of another clip. PSNR follows from the squared error "
    "pooled over the generated frames."
)
SEAMS = (
    "Loops of {loop} frames begin with real play, and their last generated frame leads into the first one: the step "
    "out of what was generated is the seam. Joins put {join} generated frames between two clips of different play. "
    "The actions are hidden. A step is the root mean square difference of two consecutive frames, in grey levels; "
    "things that jump make it large."
)
LOOP_WINDOWS = 4  # length of a loop, in windows
MAX_LOOPS = 8  # and joins


def measure(context: EvaluationContext) -> dict[str, Any]:
    """PSNR and SSIM of filled-in frames by pattern, actions and baseline; steps in loops and joins."""
    check_can_fill(context.model)
    window, sizes = context.model.config.window_frames, context.sizes
    if window < 4:
        raise ValueError(f"the model's window has {window} frames: at least 4 are needed")
    clips = draw_clips(context.held_out, sizes["num_clips"], window, window, context.config.seed)
    true_actions = {"true": clips.actions}
    if not context.space.unconditional:
        true_actions["hidden"] = context.space.unknown(*clips.actions.shape[:2])
        if len(clips.frames) > 1:
            true_actions["wrong"] = np.roll(clips.actions, 1, axis=0)
    rows = []
    for name, known in patterns(window).items():
        shown = {
            f"{kind} actions": generate(context, clips.frames, given, known) for kind, given in true_actions.items()
        }
        shown |= {
            "true actions, 1 step": generate(context, clips.frames, clips.actions, known, num_steps=1),
            "nearest known frame": nearest_known(clips.frames, known),
            "cross-fade": cross_fade(clips.frames, known),
        }
        by_row = {row: compare(clips.frames, frames, known) for row, frames in shown.items()}
        rows.append({"name": name, "known": "".join(".k"[int(value)] for value in known), "rows": by_row})
    low, high = ordinary_range(list(clips.frames))
    return {
        "patterns": rows,
        "ordinary": {"low": low, "median": float(np.median(step_sizes(clips.frames))), "high": high},
        **_loops_and_joins(context, clips.frames, clips.actions, (low, high)),
    }


def patterns(window_frames: int) -> dict[str, np.ndarray]:
    """Which frames of a window are known, bool (T,), by the name of the pattern."""
    times, half, quarter = np.arange(window_frames), window_frames // 2, window_frames // 4
    every_other = times % 2 == 0
    every_other[-1] = True
    return {
        "between both ends": (times < quarter) | (times >= quarter + half),
        "every other frame": every_other,
        "backward": times >= half,
        "forward": times < half,
    }


def generate(
    context: EvaluationContext, frames: np.ndarray, actions: np.ndarray, known: np.ndarray, num_steps: int | None = None
) -> np.ndarray:
    """Fill in clips (S, T, H, W, C) under recorded actions, in batches; with the evaluated settings if None."""
    shown = np.where(known[:, None, None, None], frames, 0).astype(np.uint8)
    return _complete(context, [MaskedClip(*pair, known) for pair in zip(shown, actions, strict=True)], num_steps)


def compare(truth: np.ndarray, frames: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Estimates of PSNR and SSIM over the unknown frames of clips (S, T, H, W, C)."""
    truth, frames = truth[:, ~known], frames[:, ~known]
    lengths = np.full(len(truth), truth.shape[1])
    mse, ssim = (metric(truth, frames, lengths).mean(axis=1) for metric in (frame_mse, frame_ssim))
    return {"psnr": estimate(mse, transform=psnr_from_mse), "ssim": estimate(ssim)}


def _loops_and_joins(
    context: EvaluationContext, frames: np.ndarray, actions: np.ndarray, ordinary: tuple[float, float]
) -> dict[str, Any]:
    """Loops that begin with half a window of real play, and joins of two such parts; the other actions are unknown."""
    half, length, space = frames.shape[1] // 2, LOOP_WINDOWS * frames.shape[1], context.space
    parts = list(zip(frames[:MAX_LOOPS, :half], actions[:MAX_LOOPS, :half], strict=True))
    loops = [loop(*part, space, length, half) for part in parts]
    joins = [join(first, second, space, half) for first, second in zip(parts, [*parts[1:], parts[0]], strict=True)]
    loop_steps, join_steps = (seam_steps(_complete(context, clips), clips[0].known) for clips in (loops, joins))
    return {
        "loops": {"frames": length, **_estimates(loop_steps, ordinary)},
        "joins": {"frames": half, **_estimates(join_steps, ordinary)},
    }


def _estimates(steps: np.ndarray, ordinary: tuple[float, float]) -> dict[str, Any]:
    """Estimates over clips of the first, the last, the mean and the largest of the steps (S, N) of what was generated.

    The first one leads from a known frame, and the last one into a known frame: the seam of a loop.
    """
    low, high = ordinary
    last = steps[:, -1]
    return {
        "into": estimate(steps[:, 0]),
        "out_of": estimate(last),
        "out_of_is_ordinary": estimate((low <= last) & (last <= high)),
        "mean": estimate(steps.mean(axis=1)),
        "largest": estimate(steps.max(axis=1)),
    }


def _complete(context: EvaluationContext, clips: list[MaskedClip], num_steps: int | None = None) -> np.ndarray:
    """Fill in clips in batches. Clip i draws its noise from seed `seed + i`."""
    size = context.config.batch_size
    settings = replace(context.settings, num_steps=num_steps or context.settings.num_steps)
    finished = []
    for first in range(0, len(clips), size):
        batch, seed = clips[first : first + size], settings.seed + first
        *_, frames = complete(context.inference_model, batch, context.space, replace(settings, seed=seed))
        finished.append(frames)
    return np.concatenate(finished)


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section = report["editing"]
    yield Text(WORDS)
    for metric, title, digits in (("psnr", "PSNR in dB", 1), ("ssim", "SSIM", 3)):
        names = list(section["patterns"][0]["rows"])
        rows = [
            [
                f"{pattern['name']} ({pattern['known']})",
                *(format_estimate(pattern["rows"][name][metric], digits) for name in names),
            ]
            for pattern in section["patterns"]
        ]
        yield Table([f"{title}, known frames", *names], rows)
    ordinary, loops, joins = section["ordinary"], section["loops"], section["joins"]
    yield Text(SEAMS.format(loop=loops["frames"], join=joins["frames"]))
    names = {"into": "into it", "out_of": "out of it", "mean": "mean", "largest": "largest"}
    rows = [
        [label, *(format_estimate(steps[name], 1) for name in names)]
        for label, steps in (("loop", loops), ("join", joins))
    ]
    median, usual = f"{ordinary['median']:.1f} (median)", f"{ordinary['low']:.1f} to {ordinary['high']:.1f} (95 %)"
    yield Table(["steps of what was generated", *names.values()], [*rows, ["real play", usual, usual, median, usual]])
    shares = [format_percent(steps["out_of_is_ordinary"]) for steps in (loops, joins)]
    yield Text(f"The last step lies in the 95 % range of real play in {shares[0]} of loops and {shares[1]} of joins.")


EDITING = Section("editing", measure, "Editing: filling in frames", blocks)
