"""Quality and cost: time and FLOPs per generated frame, and a sweep that changes one sampler setting at a time."""

import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_estimate, format_percent
from dreamrun.evaluation.sections.controllability import controllability
from dreamrun.evaluation.sections.fidelity import curves
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.model.options import ResolvedSettings
from dreamrun.model.sampler import Sampler

WARM_UP_FRAMES = 3
FIDELITY_FRAMES = (1, 4, 16)  # generated frames whose PSNR and SSIM a row shows
CONTROLLABILITY_FRAME = 4  # the frame whose controllability a row shows
SWEEP_SIZES = {
    "sweep_clips": (24, 4),  # clips per row
    "sweep_frames": (16, 4),  # generated frames per clip
    "sweep_states": (24, 2),  # game states per row
    "sweep_steps": ((1, 2, 4, 10), (1, 4, 10)),  # values of num_steps
    "sweep_guidance": ((1.0, 1.5, 2.0), (1.0,)),  # values of guidance
    "sweep_noise": ((0.0, 0.02, 0.05, 0.1), (0.0, 0.02, 0.1)),  # values of context_noise
}


def measure_sweep(context: EvaluationContext) -> list[dict[str, Any]]:
    """A row for each setting, each cached on its own."""
    return [
        context.results.value(f"sweep {settings}", partial(_sweep_row, context, settings))
        for settings in sweep_settings(context)
    ]


def sweep_settings(context: EvaluationContext) -> list[ResolvedSettings]:
    """The evaluated sampler settings, and variants with one setting changed."""
    values = {"num_steps": context.sizes["sweep_steps"], "context_noise": context.sizes["sweep_noise"]}
    if not context.space.unconditional:
        values["guidance"] = context.sizes["sweep_guidance"]
    variants = {replace(context.settings, **{name: value}) for name in values for value in values[name]}
    return sorted({context.settings, *variants})


def _sweep_row(context: EvaluationContext, settings: ResolvedSettings) -> dict[str, Any]:
    sizes, num_prompt = context.sizes, context.config.num_prompt_frames
    truth, lengths = context.truth[: sizes["sweep_clips"]], context.truth_lengths[: sizes["sweep_clips"]]
    num_frames = min(sizes["sweep_frames"], truth.shape[1])
    actions = context.clips.actions[: len(truth), : num_prompt + num_frames]
    rollouts = context.continue_clips(str(settings), actions, settings)
    row: dict[str, Any] = {name: getattr(settings, name) for name in ("num_steps", "guidance", "context_noise")}
    row["gflop_per_frame"] = gflop_per_frame(context.model.config, settings)
    for metric, curve in curves(truth[:, :num_frames], rollouts, np.minimum(lengths, num_frames)).items():
        row |= {f"{metric}_{frame}": curve[frame - 1] for frame in FIDELITY_FRAMES if frame <= len(curve)}
    if context.has_counterfactuals:
        horizon = min(CONTROLLABILITY_FRAME, sizes["branch_frames"])
        counterfactuals = context.counterfactuals.first(sizes["sweep_states"], horizon)
        rollouts = context.continue_states(f"counterfactuals, {settings}", counterfactuals, settings)
        (result,) = controllability(counterfactuals, rollouts, (horizon,))
        row[f"controllability_{horizon}"] = result["controllability"]
    return row


def measure_cost(context: EvaluationContext) -> dict[str, float]:
    """GFLOPs per frame with the evaluated settings."""
    return {"gflop_per_frame": gflop_per_frame(context.model.config, context.settings)}


def measure_frame_ms(context: EvaluationContext) -> dict[str, float]:
    """Milliseconds per frame for each speed key among the swept settings."""
    by_key = {speed_key(asdict(settings)): settings for settings in sweep_settings(context)}
    num_frames = context.sizes["timed_frames"]
    return {key: ms_per_frame(context.inference_model, by_key[key], num_frames) for key in by_key}


def speed_key(settings: dict[str, Any]) -> str:
    """Key of a frame time in a report. It names only the sampler settings that change the speed."""
    return f"{settings['num_steps']} steps, guidance {settings['guidance']:g}"


def gflop_per_frame(config: ModelConfig, settings: ResolvedSettings) -> float:
    """GFLOPs of one generated frame, with the KV cache."""
    return config.flops_per_frame(settings.num_steps, settings.guidance) / 1e9


def ms_per_frame(model: WorldModel, settings: ResolvedSettings, num_frames: int) -> float:
    """Median milliseconds per frame, over `num_frames` frames of one rollout whose window is full."""
    config = model.config
    sampler = Sampler(model, settings)
    sampler.reset(torch.zeros(1, max(1, config.window_frames - 1), *config.frame_shape))
    action, times = torch.zeros(1, config.num_actions), []
    for _ in range(WARM_UP_FRAMES + num_frames):
        start = time.perf_counter()
        sampler.step(action).cpu()
        times.append(1000 * (time.perf_counter() - start))
    return float(np.median(times[WARM_UP_FRAMES:]))


def sweep_blocks(report: dict[str, Any]) -> Iterator[Block]:
    rows, frame_ms = report["sweep"], report["timings"]["frame_ms"]
    names = [name for name in rows[0] if name.startswith(("psnr", "ssim", "controllability"))]
    titles = [name.replace("_", " at ").replace("psnr", "PSNR").replace("ssim", "SSIM") for name in names]
    table = [
        [
            *(f"{row[name]:g}" for name in ("num_steps", "guidance", "context_noise")),
            f"{row['gflop_per_frame']:.1f}",
            f"{1000 / frame_ms[speed_key(row)]:.1f}",
            *(_sweep_figure(name, row[name]) for name in names),
        ]
        for row in rows
    ]
    yield Text(
        f"One sampler setting is changed at a time, on {rows[0][names[0]]['n']} clips. The speed is that of one "
        f"rollout with a full window on this machine ({device(report)})."
    )
    yield Table(["steps", "guidance", "context noise", "GFLOP per frame", "frames/s", *titles], table)


def _sweep_figure(name: str, estimate: dict | None) -> str:
    if name.startswith("controllability"):
        return format_percent(estimate)
    return format_estimate(estimate, 3 if name.startswith("ssim") else 1)


def headlines(report: dict[str, Any]) -> Iterator[list[str]]:
    milliseconds = report["timings"]["frame_ms"][speed_key(report["settings"])]
    cost = f"{report['cost']['gflop_per_frame']:.1f} GFLOP per frame; {device(report)}"
    yield ["Speed of one rollout", f"{1000 / milliseconds:.1f} frames/s", cost]


def device(report: dict[str, Any]) -> str:
    """The device of the evaluation, without the remark in parentheses."""
    return report["timings"]["device"].split(" (")[0]


SWEEP = Section("sweep", measure_sweep, "Quality and cost", sweep_blocks, sizes=SWEEP_SIZES)
COST = Section("cost", measure_cost, headlines=headlines)
FRAME_MS = Section("frame_ms", measure_frame_ms, sizes={"timed_frames": (40, 8)})
