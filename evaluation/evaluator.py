"""Evaluate a checkpoint, section by section. Every finished section is cached beside the report."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from dreamrun.editing.section import editing_section
from dreamrun.evaluation.config import EvaluateConfig
from dreamrun.evaluation.controllability import counterfactuals_section
from dreamrun.evaluation.cost import cost_section, frame_ms_section
from dreamrun.evaluation.drift import drift_section
from dreamrun.evaluation.fidelity import fidelity_section
from dreamrun.evaluation.inputs import EvaluationInputs
from dreamrun.evaluation.inverse_dynamics import inverse_dynamics_section
from dreamrun.evaluation.objects import objects_section
from dreamrun.evaluation.outcomes import outcomes_section
from dreamrun.evaluation.pictures import pictures_section
from dreamrun.evaluation.report_sections import SECTIONS
from dreamrun.evaluation.result_cache import ResultCache
from dreamrun.evaluation.single_step import single_step_section
from dreamrun.evaluation.sweep import sweep_section
from dreamrun.model.inference import describe_device

PERCEPTUAL = (
    "LPIPS, FID and FVD need pretrained networks (AlexNet or VGG, Inception, I3D). This project does not contain them "
    "and never downloads them. To measure these distances, write the clips with python -m scripts.infer and use the "
    "lpips package or a FID tool"
)


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Measure a checkpoint. A section that cannot be measured holds the reason as `not_measured`.

    Returns:
        The contents of report.json, and the pictures of report.html.

    Raises:
        ValueError: no checkpoint, or a data set that does not fit it.
    """
    inputs = EvaluationInputs(config)
    print(f"device: {describe_device(inputs.device)}; {'bfloat16' if inputs.bf16 else 'float32'}")
    print(f"evaluating on {inputs.data}, {inputs.split} split, {len(inputs.held_out.index.lengths)} records")
    run = SectionRunner(inputs.cache)
    sections = {
        "fidelity": run("fidelity", fidelity_section, inputs),
        "counterfactuals": run("counterfactuals", counterfactuals_section, inputs),
    }
    if config.onnx is not None:
        not_measured = {"not_measured": "an exported network is measured in fidelity and controllability only"}
        others = {name for _, name, _ in SECTIONS} - sections.keys()
        timings = {"device": describe_device(inputs.device), "section_secs": run.section_secs}
        return {
            **_description(inputs),
            **sections,
            **dict.fromkeys(sorted(others | {"cost", "pictures"}), not_measured),
            "timings": timings,
        }
    sections |= {
        "single_step": run("single_step", single_step_section, inputs),
        "inverse_dynamics": run("inverse_dynamics", inverse_dynamics_section, inputs),
        "drift": run("drift", drift_section, inputs),
        "objects": run("objects", objects_section, inputs),
        "outcomes": run("outcomes", outcomes_section, inputs),
    }
    has_counterfactuals = "not_measured" not in sections["counterfactuals"]
    sections |= {
        "sweep": run("sweep", sweep_section, inputs, has_counterfactuals),
        "cost": run("cost", cost_section, inputs),
        "editing": run("editing", editing_section, inputs),
        "pictures": run("pictures", pictures_section, inputs, has_counterfactuals),
    }
    frame_ms = run("frame_ms", frame_ms_section, inputs)
    inputs.cache.drop_arrays()
    return {
        **_description(inputs),
        **sections,
        "perceptual": {"not_measured": PERCEPTUAL},
        "timings": {"device": describe_device(inputs.device), "frame_ms": frame_ms, "section_secs": run.section_secs},
    }


class SectionRunner:
    """Runs sections, or takes their results from the cache."""

    def __init__(self, cache: ResultCache):
        self._cache = cache
        self.section_secs: dict[str, float] = {}  # seconds that each measured section took

    def __call__(self, name: str, section: Callable[..., Any], *arguments: Any) -> Any:
        """The result of `section(*arguments)`, or the reason why it cannot be measured."""
        label = name.replace("_", " ")
        print(f"{label} ...", file=sys.stderr)
        try:
            result, self.section_secs[name] = self._cache.values(name, lambda: section(*arguments))
            return result
        except (ValueError, NotImplementedError) as error:
            print(f"{label}: not measured: {error}", file=sys.stderr)
            return {"not_measured": str(error)}


def _description(inputs: EvaluationInputs) -> dict[str, Any]:
    """The checkpoint, the data set and the settings of an evaluation."""
    config, metadata = inputs.config, inputs.metadata
    return {
        "checkpoint": {
            "name": config.checkpoint,
            "weights_sha256": inputs.weights_sha256,
            "parameters": sum(p.numel() for p in inputs.model.parameters()),
            "config": inputs.model.config.to_dict(),
            "game": inputs.model.game.to_dict(),
        },
        "data": {
            "folder": str(inputs.data),
            "split": inputs.split,
            "records": len(inputs.held_out.index.lengths),
            "environment": metadata.environment,
            "environment_options": dict(metadata.environment_options),
        },
        "settings": {
            "quick": config.quick,
            **({} if config.onnx is None else {"onnx": config.onnx.name}),
            "num_prompt_frames": config.num_prompt_frames,
            "seed": config.seed,
            **asdict(inputs.settings),
            "batch_size": config.batch_size,
            "bf16": inputs.bf16,
            **asdict(inputs.sizes),
        },
    }
