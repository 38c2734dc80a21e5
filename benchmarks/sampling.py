"""Speed of the sampler, one frame at a time."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from dreamrun.benchmarks.machine import NetworkConfig, matmul_flops_per_sec, measure_ms, memory_bytes, peak_memory_bytes
from dreamrun.games.ranges import Positive
from dreamrun.model import Sampler
from dreamrun.model.inference import choose_device, describe_device, prepare_for_inference, uses_bf16
from dreamrun.model.options import DeviceOptions, SamplerSettings
from dreamrun.model.reference_sampler import ReferenceSampler

WARM_UP_FRAMES = 5  # libraries initialise, and the CUDA graph is captured
MAX_REFERENCE_FRAMES = 5  # the reference may take seconds per frame
EARLY_FRAME = 100  # frame with which the end of a long rollout is compared


@dataclass(frozen=True, kw_only=True)
class RolloutConfig(NetworkConfig, SamplerSettings, DeviceOptions):
    """Speed of the sampler, one frame at a time, with a full window."""

    batch_size: Positive = 1  # rollouts in a batch
    frames: Positive = 100  # frames to measure, all with a full window
    compare: Literal["reference"] | None = None  # also measure the sampler without KV cache, and print the ratio

    def __post_init__(self):
        NetworkConfig.__post_init__(self)
        SamplerSettings.__post_init__(self)


@torch.inference_mode()
def measure(config: RolloutConfig) -> dict:
    """Frames per second of the sampler, and related numbers."""
    device = choose_device(config.device)
    bf16 = uses_bf16(device, config.bf16)
    model = config.load_model()
    settings = config.resolve(model.config)
    print(f"device: {describe_device(device)}; {'bfloat16' if bf16 else 'float32'}")
    sampler = Sampler(prepare_for_inference(model, device, bf16), settings)
    actions = torch.eye(model.config.num_actions)[torch.arange(config.batch_size) % model.config.num_actions]
    prompt = torch.zeros(config.batch_size, max(1, model.config.window_frames - 1), *model.config.frame_shape)
    sampler.reset(prompt)
    step = partial(sampler.step, actions)
    times, early_bytes, late_bytes = _time_frames(step, device, WARM_UP_FRAMES, config.frames, "cached")
    median = float(np.median(times))
    matmul = matmul_flops_per_sec(device, torch.bfloat16 if bf16 else torch.float32)
    flops_per_frame = model.config.flops_per_frame(settings.num_steps, settings.guidance)
    frames_per_sec = 1000.0 * config.batch_size / median
    results = {
        "network": str(config.checkpoint or config.preset),
        "batch_size": config.batch_size,
        **settings.to_dict(),
        "frames_per_sec": frames_per_sec,
        "ms_per_frame_median": median,
        **{f"ms_per_frame_p{p}": float(np.percentile(times, p)) for p in (95, 99)},
        "ms_per_frame_max": float(times.max()),
        "peak_memory_mib": peak_memory_bytes(device) / 2**20,
        "cache_mib": sampler.num_bytes / 2**20,
        "gflop_per_frame": flops_per_frame / 1e9,
        "matmul_gflop_per_sec": matmul / 1e9,
        "share_of_matmul_rate": flops_per_frame * frames_per_sec / matmul,
    }
    if config.frames >= 4 * EARLY_FRAME:  # measured in turn, so that noise of the machine affects both
        early = Sampler(sampler.model, settings)
        early.reset(prompt)
        steps = (partial(early.step, actions), step)
        pairs = [[measure_ms(each, device) for each in steps] for _ in range(2 * EARLY_FRAME)]
        results["ms_at_frame_100"], results["ms_at_end"] = np.median(pairs, axis=0).tolist()
        results["memory_mib_at_frame_100"], results["memory_mib_at_end"] = early_bytes / 2**20, late_bytes / 2**20
    if config.compare:
        # Both run over the whole window; the packed one shows what the cache alone gains.
        for name, packed in (("packed_reference", True), ("reference", False)):
            reference = ReferenceSampler(prepare_for_inference(model, device, bf16, packed), settings)
            reference.reset(prompt)
            frames = min(config.frames, MAX_REFERENCE_FRAMES)
            times, *_ = _time_frames(partial(reference.step, actions), device, 1, frames, name)
            results[f"{name}_ms_per_frame_median"] = float(np.median(times))
        results["ratio_by_cache_alone"] = results["packed_reference_ms_per_frame_median"] / median
        results["ratio"] = results["reference_ms_per_frame_median"] / median
    return results


def _time_frames(
    step: Callable[[], torch.Tensor], device: torch.device, warm_up: int, frames: int, name: str
) -> tuple[np.ndarray, int, int]:
    """Milliseconds of each frame after the warm-up, and the memory in use at `EARLY_FRAME` and at the end."""
    times, early_bytes = [], 0
    for number in tqdm(range(warm_up + frames), desc=name, unit=" frames", mininterval=1.0):
        times.append(measure_ms(step, device))
        if number <= EARLY_FRAME:
            early_bytes = memory_bytes(device)
    return np.array(times[warm_up:]), early_bytes, memory_bytes(device)
