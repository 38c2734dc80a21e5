"""A sweep over sampler settings: quality and cost with one setting changed at a time."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from dreamrun.evaluation.controllability import controllability
from dreamrun.evaluation.cost import gflop_per_frame
from dreamrun.evaluation.fidelity import curves
from dreamrun.evaluation.inputs import EvaluationInputs
from dreamrun.evaluation.rollouts import SamplerSettings

FIDELITY_FRAMES = (1, 4, 16)  # generated frames whose PSNR and SSIM a row shows
CONTROLLABILITY_FRAME = 4  # the frame whose controllability a row shows


def sweep_section(inputs: EvaluationInputs, has_counterfactuals: bool) -> list[dict[str, Any]]:
    """A row for each of the sweep's settings, each cached on its own."""
    return [
        inputs.cache.values(f"sweep {settings}", partial(_sweep_row, inputs, settings, has_counterfactuals))[0]
        for settings in inputs.sweep_settings
    ]


def _sweep_row(inputs: EvaluationInputs, settings: SamplerSettings, has_counterfactuals: bool) -> dict[str, Any]:
    sizes, num_prompt = inputs.sizes, inputs.config.num_prompt_frames
    truth, lengths = inputs.truth[: sizes.sweep_clips], inputs.truth_lengths[: sizes.sweep_clips]
    num_frames = min(sizes.sweep_frames, truth.shape[1])
    model = inputs.rollout_model(settings)
    rollouts = inputs.generate(inputs.clips.actions[: len(truth), : num_prompt + num_frames], str(settings), model)
    row = asdict(settings) | {"gflop_per_frame": gflop_per_frame(inputs.model.config, settings)}
    for metric, curve in curves(truth[:, :num_frames], rollouts, np.minimum(lengths, num_frames)).items():
        row |= {f"{metric}_{frame}": curve[frame - 1] for frame in FIDELITY_FRAMES if frame <= len(curve)}
    if has_counterfactuals:
        horizon = min(CONTROLLABILITY_FRAME, sizes.branch_frames)
        counterfactuals = inputs.counterfactuals.first(sizes.sweep_states, horizon)
        rollouts = inputs.generate_counterfactuals(counterfactuals, f"counterfactuals, {settings}", model)
        (result,) = controllability(counterfactuals, rollouts, (horizon,))
        row[f"controllability_{horizon}"] = result["controllability"]
    return row
