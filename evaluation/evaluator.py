"""Evaluate a checkpoint, section by section. Every finished section is cached beside the report."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

from dreamrun.evaluation.context import SIZES, EvaluationContext
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.section import Section
from dreamrun.evaluation.sections import SECTIONS
from dreamrun.model.inference import describe_device
from dreamrun.model.sampler import Sampler


def evaluate(
    config: EvaluateConfig, make_sampler: Callable[..., Any] = Sampler, sections: Sequence[Section] = SECTIONS
) -> dict[str, Any]:
    """The contents of report.json, and the pictures of report.html.

    A section that cannot be measured holds the reason as `not_measured`. `make_sampler` is as for `EvaluationContext`.
    """
    context = make_context(config, make_sampler)
    print(f"device: {describe_device(context.device)}; {'bfloat16' if context.bf16 else 'float32'}")
    print(f"evaluating on {context.data}, {context.split} split, {len(context.held_out.index.lengths)} records")
    results = {section.name: measure(section, context) for section in sections}
    context.results.drop_arrays()
    secs = {name: context.results.secs[name] for name in results if name in context.results.secs}
    frame_ms = results.pop("frame_ms")
    timings = {
        "device": describe_device(context.device),
        **({} if "not_measured" in frame_ms else {"frame_ms": frame_ms}),
        "section_secs": secs,
    }
    return {**_description(context), **results, "timings": timings}


def make_context(config: EvaluateConfig, make_sampler: Callable[..., Any] = Sampler) -> EvaluationContext:
    """The context of an evaluation, with the sizes of all sections."""
    table = dict(SIZES)
    for section in SECTIONS:
        table |= section.sizes
    return EvaluationContext(config, config.choose_sizes(table), make_sampler)


def measure(section: Section, context: EvaluationContext) -> Any:
    """The result of a section, from the cache if it is there, or the reason why it cannot be measured."""
    if context.config.onnx is not None and not section.of_export:
        return {"not_measured": "an exported network is measured in fidelity and controllability only"}
    label = section.name.replace("_", " ")
    print(f"{label} ...", file=sys.stderr)
    try:
        return context.results.value(section.name, lambda: section.measure(context))
    except ValueError as error:
        print(f"{label}: not measured: {error}", file=sys.stderr)
        return {"not_measured": str(error)}


def _description(context: EvaluationContext) -> dict[str, Any]:
    """The checkpoint, the data set and the settings of an evaluation."""
    config, metadata = context.config, context.metadata
    return {
        "checkpoint": {
            "name": config.checkpoint,
            "weights_sha256": context.weights_sha256,
            "parameters": sum(p.numel() for p in context.model.parameters()),
            "config": context.model.config.to_dict(),
            "game": context.model.game.to_dict(),
        },
        "data": {
            "folder": str(context.data),
            "split": context.split,
            "records": len(context.held_out.index.lengths),
            "environment": metadata.environment,
            "environment_options": dict(metadata.environment_options),
        },
        "settings": {
            "quick": config.quick,
            **({} if config.onnx is None else {"onnx": config.onnx.name}),
            "num_prompt_frames": config.num_prompt_frames,
            **context.settings.to_dict(),
            "batch_size": config.batch_size,
            "bf16": context.bf16,
            **{name: size for name, size in context.sizes.items() if name != "held_out_records"},  # see data
        },
    }
