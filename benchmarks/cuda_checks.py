"""What `python -m scripts.gpu_check` checks, the most important first. `tiny` rehearses each check on any device.

Each check is a function of `CheckOptions` that returns a `Measured`; what it compares with is given in its docstring.
"""

import copy
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

from dreamrun.benchmarks import sampling, steps
from dreamrun.benchmarks.checks import Check, Measured
from dreamrun.benchmarks.machine import random_model
from dreamrun.data.batch import Batch, to_uint8
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import psnr
from dreamrun.model import PRESETS, ModelConfig, Sampler, SamplerSettings, WorldModel
from dreamrun.model.attention import block_mask
from dreamrun.model.inference import choose_device, describe_device, prepare_for_inference
from dreamrun.model.loss import diffusion_loss, teacher_forcing_mask, validation_corruption
from dreamrun.model.reference_sampler import ReferenceSampler
from dreamrun.play.rollout_pool import Prompt, RolloutPool
from dreamrun.training.loop import train_step
from dreamrun.training.setup import Run, prepare
from dreamrun.training.train_config import TrainConfig

TINY = ModelConfig(frame_height=16, frame_width=24, patch_size=8, dim=32, num_blocks=2, num_heads=2, window_frames=6)
BACKENDS = (SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH, SDPBackend.CUDNN_ATTENTION)
KINDS: dict[str, dict[str, Any]] = {  # of training steps
    "published": {"noise_levels": "uniform", "fill_share": 0.0},
    "teacher forcing": {"noise_levels": "teacher-forcing", "fill_share": 0.0},
    "fill": {"noise_levels": "teacher-forcing", "fill_share": 0.3},
    "scheduled sampling": {"noise_levels": "teacher-forcing", "fill_share": 0.0, "scheduled_sampling": 0.5},
    "self-forcing": {"noise_levels": "teacher-forcing", "fill_share": 0.0, "self_forcing": 0.5},
}
SHIPPED, SAMPLES = "coinrun-nano", "samples/coinrun"


@dataclass(frozen=True)
class CheckOptions:
    """What all checks share."""

    device: Literal["cuda", "cpu"] = "cuda"
    tiny: bool = False  # rehearse with tiny networks; figures that depend on speed and memory then pass

    @property
    def backend(self) -> str:
        """Of torch.compile."""
        return "aot_eager" if self.tiny else "inductor"

    @property
    def torch_device(self) -> torch.device:
        return choose_device(self.device)


def describe(options: CheckOptions) -> str:
    """Versions and device in one line. Raises ValueError if there is no such device."""
    cuda = f", CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}" if torch.version.cuda else ""
    return f"torch {torch.__version__}{cuda}; {describe_device(options.torch_device)}"


def check_backends(options: CheckOptions) -> Measured:
    """Scaled dot product attention may use every backend but cuDNN's, which is wrong for some of our shapes."""
    device = options.torch_device
    random_model(TINY).to(device)  # a network chooses
    cuda = torch.backends.cuda
    flags = {"flash": cuda.flash_sdp_enabled(), "efficient": cuda.mem_efficient_sdp_enabled()}
    enabled = [name for name, is_on in {**flags, "cuDNN": cuda.cudnn_sdp_enabled()}.items() if is_on]
    return Measured(enabled == [*flags], ", ".join(enabled))


def check_attention(options: CheckOptions) -> Measured:
    """Each backend, forward and gradient, against float32 matrix products, at the shapes of `small`."""
    device, scale = options.torch_device, 8 if options.tiny else 64
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    errors, refused = {}, []
    teacher = teacher_forcing_mask(32, device)[0]
    for name, tokens, mask, causal in (
        ("spatial", 64, None, False), ("temporal", 32, None, True), ("teacher", 64, teacher, False),
    ):  # fmt: skip
        for shift in (0.0, -120.0):
            inputs = [torch.randn(scale, 8, tokens, 64, device=device) for _ in range(4)]
            if shift:  # all logits near -120: a constant component of q and k
                inputs[0][..., 0], inputs[1][..., 0] = 8 * shift / 30, 30.0
            reference = _forward_backward(inputs, torch.float32, SDPBackend.MATH, mask, causal)
            for backend in BACKENDS:
                try:
                    results = _forward_backward(inputs, dtype, backend, mask, causal)
                except RuntimeError:  # not made for this device, dtype or mask
                    refused.append(backend.name)
                    continue
                error = max(_relative_error(*pair) for pair in zip(results, reference, strict=True))
                errors[backend.name, name, shift] = error
    kept = {key: error for key, error in errors.items() if key[0] != SDPBackend.CUDNN_ATTENTION.name}
    worst = max(kept, key=lambda key: kept[key] if kept[key] == kept[key] else np.inf)
    cudnn = [error for key, error in errors.items() if key not in kept]
    figure = f"worst {kept[worst]:.1e} ({worst[0].lower()}, {worst[1]}, {worst[2]:g})"
    figure += f"; cuDNN {np.max(cudnn):.1e}" if cudnn else "; no cuDNN"
    return Measured(kept[worst] < 2e-2, figure)


def _forward_backward(
    inputs: list[Tensor], dtype: torch.dtype, backend: SDPBackend, mask: Tensor | None, causal: bool
) -> list[Tensor]:
    q, k, v, grad = (tensor.to(dtype) for tensor in inputs)
    for tensor in (q, k, v):
        tensor.requires_grad_()
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal)
        return [out.detach(), *torch.autograd.grad(out, (q, k, v), grad)]


def _relative_error(result: Tensor, reference: Tensor) -> float:
    """Root mean square of the difference over that of the reference; NaN if the result is not finite."""
    result, reference = result.double(), reference.double()
    return float((result - reference).square().mean().sqrt() / reference.square().mean().sqrt().clamp(min=1e-9))


class _Eager(Sampler):
    """A sampler that captures nothing."""

    def rebuild(self, *args: Any, **options: Any) -> None:
        super().rebuild(*args, **options)
        self._graph_class = None


def check_capture(options: CheckOptions) -> Measured:
    """Captured frames against eager ones in float32: guided, past the window, while rollouts come and go."""
    presets = [TINY, replace(TINY, attention="full", schedule="linear", prediction="velocity")]
    presets += [] if options.tiny else [PRESETS[name] for name in ("nano", "small", "toy")]
    worst = 0.0
    for config in presets:
        model = prepare_for_inference(_scaled(random_model(config)), options.torch_device, bf16=False)
        for guidance in (1.0, 1.5):
            settings = SamplerSettings(2, guidance=guidance)
            frames = [_come_and_go(kind(model, settings), 70) for kind in (Sampler, _Eager)]
            worst = max(worst, float((frames[0] - frames[1]).abs().max()))
    return Measured(worst <= 1e-5, f"{worst:.1e}")


def _scaled(model: WorldModel) -> WorldModel:
    """Weights that are large enough for frames that are not flat."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2.0)
    return model


def _come_and_go(sampler: Sampler, num_frames: int) -> Tensor:
    config, generator = sampler.config, torch.Generator().manual_seed(0)
    prompt = torch.rand(3, 2, *config.frame_shape, generator=generator) * 2 - 1
    actions = torch.eye(config.num_actions)[torch.randint(config.num_actions, (num_frames, 3), generator=generator)]
    sampler.reset(prompt[:2])
    generated = []
    for t in range(num_frames):
        if t == num_frames // 4:
            sampler.reset(prompt[2:], slots=[2])
        elif t == num_frames // 2:
            sampler.reset(prompt[:1], slots=[1], seeds=[9])
        elif t == 3 * num_frames // 4:
            sampler.free([0])
        slots = [1] if t % 7 == 3 else sampler.slots
        generated.append(sampler.step(actions[t, : len(slots)], slots).cpu())
    return torch.cat(generated)


def check_cache(options: CheckOptions) -> Measured:
    """The KV cache against a pass over the whole window in each step, float32, until the window is full."""
    config = TINY if options.tiny else PRESETS["small"]
    model = prepare_for_inference(_scaled(random_model(config)), options.torch_device, bf16=False)
    actions = torch.eye(config.num_actions)[torch.arange(config.window_frames) % config.num_actions]
    prompt = torch.zeros(1, 1, *config.frame_shape)
    rollouts = []
    for kind in (Sampler, ReferenceSampler):
        sampler = kind(model, SamplerSettings(2))
        sampler.reset(prompt)
        rollouts.append(torch.cat([sampler.step(action[None]) for action in actions[1:]]))
    error = float((rollouts[0] - rollouts[1]).abs().max())
    return Measured(error <= 1e-4, f"{error:.1e}")


class _CPUNoise(Sampler):
    noise_device = "cpu"


def check_same_dream(options: CheckOptions) -> Measured:
    """Frame 8 of the shipped model on the device against that on the CPU, with the same noise."""
    model, batch = _played(options, 4, 12)
    dreams = {}
    for name, device, bf16 in (
        ("cpu", torch.device("cpu"), False), ("float32", options.torch_device, False),
        ("bfloat16", options.torch_device, True),
    ):  # fmt: skip
        sampler = _CPUNoise(prepare_for_inference(model, device, bf16))
        sampler.reset(batch.x0[:, :4], batch.actions[:, :4])
        for t in range(4, 12):
            frames = sampler.step(batch.actions[:, t])
        dreams[name] = to_uint8(frames)
    full, half = (psnr(dreams["cpu"], dreams[name]) for name in ("float32", "bfloat16"))
    return Measured(full >= 45 and (half >= 30 or options.tiny), f"float32 {full:.1f} dB, bfloat16 {half:.1f} dB")


def _played(options: CheckOptions, num_clips: int, num_frames: int | None = None) -> tuple[WorldModel, Batch]:
    """The shipped model, and clips of its game; to rehearse, a random network of that game."""
    model = WorldModel.from_pretrained(SHIPPED)
    if options.tiny:
        game = model.game
        model = _scaled(random_model(replace(PRESETS["pico"], dim=32, num_blocks=1, patch_size=16, window_frames=16)))
        model.game = game
    data = ClipDataset(SAMPLES, "test", num_frames or model.config.window_frames)
    return model, next(iter(data.batches(num_clips, 0)))


def check_bf16(options: CheckOptions) -> Measured:
    """Loss and gradient of the shipped model under bfloat16 autocast against float32."""
    device = options.torch_device
    model, batch = _played(options, 16)
    model, batch = model.to(device).train(), batch.to(device)
    corruption = validation_corruption(batch.x0.shape, batch.seeds, device)
    losses, grads = [], []
    for enabled in (False, True):
        with torch.autocast(device.type, torch.bfloat16, enabled=enabled):
            loss = diffusion_loss(model, model.config, batch.x0, batch.actions, corruption).losses.mean()
        grad = torch.autograd.grad(loss, [weight for weight in model.parameters() if weight.requires_grad])
        losses.append(loss.item())
        grads.append(torch.cat([each.flatten().double() for each in grad]))
    difference, cosine = abs(losses[1] / losses[0] - 1), float(F.cosine_similarity(*grads, dim=0))
    return Measured(difference < 0.01 and cosine > 0.99, f"loss {100 * difference:.2f} %, cosine {cosine:.4f}")


@contextmanager
def _run(options: CheckOptions, folder: Path | None = None, **changes: Any) -> Iterator[tuple[Run, Iterator[Batch]]]:
    """A training run on synthetic records, and its batches."""
    with tempfile.TemporaryDirectory() as temporary:
        values: dict[str, Any] = {
            "preset": "nano",
            "batch_size": 32,
            "device": options.device,
            "wandb": "off",
            "max_steps": 1000,
        }
        if options.tiny:
            values |= {"preset": "pico", "dim": 32, "patch_size": 16, "window_frames": 8, "batch_size": 4}
        values |= changes
        checkpoint = values.pop("checkpoint", None)
        data = steps.write_synthetic_data(Path(temporary) / "data", values["batch_size"])
        config = TrainConfig(data=data, out=folder or Path(temporary) / "run", **values)
        run = prepare(config, checkpoint)
        with closing(run.batches()) as batches:
            yield run, batches


@contextmanager
def _no_waits(device: torch.device) -> Iterator[None]:
    """Raise RuntimeError at every wait of the host for the GPU."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def check_waits(options: CheckOptions) -> Measured:
    """No training step of any kind waits for the device, nor does a frame of a rollout."""
    waiting = []
    for name, kind in KINDS.items():
        with _run(options, **kind) as (run, batches):
            for _ in range(2):  # allocates, compiles and captures
                train_step(run, next(batches))
            batch = next(batches)
            try:
                with _no_waits(run.device):
                    train_step(run, batch)
            except RuntimeError as error:
                waiting.append(f"{name}: {_line_of(error)}")
    return Measured(not waiting, "; ".join(waiting) or "none")


def _line_of(error: BaseException) -> str:
    """The innermost line of this package that an error came from."""
    found, trace = "", error.__traceback__
    while trace is not None:
        if "dreamrun" in trace.tb_frame.f_code.co_filename:
            found = f"{Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found


def check_compile(options: CheckOptions) -> Measured:
    """A compiled step against one that is not: the loss of three steps, and the time of the next ones."""
    losses, secs = [], []
    for compiled in (False, True):
        with _run(options, bf16=False) as (run, batches):
            for block in run.state.model.blocks if compiled else ():
                block.compile(backend=options.backend)
            for _ in range(3):
                train_step(run, next(batches))
            losses.append(run.state.stats.read().mean_loss)
            secs.append(_seconds(run, batches, 5))
    difference = abs(losses[1] / losses[0] - 1)
    return Measured(difference < 1e-3, f"loss {100 * difference:.3f} %, {secs[0] / secs[1]:.2f} times as fast")


def _seconds(run: Run, batches: Iterator[Batch], num_steps: int) -> float:
    """Seconds of a step."""
    _synchronize(run.device)
    start = time.perf_counter()
    for _ in range(num_steps):
        train_step(run, next(batches))
    _synchronize(run.device)
    return (time.perf_counter() - start) / num_steps


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def check_ddp(options: CheckOptions) -> Measured:
    """One rank of NCCL, DDP, no_sync and torch.compile against the plain network: gradients of two micro-batches.

    A single rank under torchrun touches none of them, so the group is set up by hand.
    """
    device = options.torch_device
    backend = "nccl" if device.type == "cuda" else "gloo"
    with tempfile.TemporaryDirectory() as folder, _run(options, accumulate=2, bf16=False) as (run, batches):
        batch = next(batches)
        plain, network = run.state, copy.deepcopy(run.state.model)
        dist.init_process_group(backend, init_method=f"file://{folder}/store", rank=0, world_size=1)
        try:
            for block in network.blocks:
                block.compile(backend=options.backend)
            ddp = DistributedDataParallel(network, [device] if device.type == "cuda" else None)
            grads = [_gradients(plain.model, plain.model, batch, device), _gradients(ddp, network, batch, device)]
        finally:
            dist.destroy_process_group()
    error = _relative_error(grads[1], grads[0])
    return Measured(error < 1e-4, f"{error:.1e}")


def _gradients(network: torch.nn.Module, model: WorldModel, batch: Batch, device: torch.device) -> Tensor:
    for number, part in enumerate(batch.to(device).chunk(2)):
        corruption = validation_corruption(part.x0.shape, part.seeds, device)
        with cast(Any, network).no_sync() if network is not model and number == 0 else nullcontext():
            diffusion_loss(network, model.config, part.x0, part.actions, corruption).losses.mean().backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])


def check_flex(options: CheckOptions) -> Measured:
    """FlexAttention under a causal mask of frames against dense attention, forward and gradient."""
    device = options.torch_device
    if device.type != "cuda":
        return Measured(True, "on a GPU alone")
    from torch.nn.attention.flex_attention import flex_attention

    q, k, v, grad = (torch.randn(2, 8, 16 * 64, 64, device=device) for _ in range(4))
    frame_mask = torch.ones(16, 16, dtype=torch.bool, device=device).tril()
    dense = frame_mask.repeat_interleave(64, 0).repeat_interleave(64, 1)
    results = []
    for attend in (
        partial(torch.compile(flex_attention), block_mask=block_mask(frame_mask, 64)),
        partial(F.scaled_dot_product_attention, attn_mask=dense),
    ):
        inputs = [tensor.clone().requires_grad_() for tensor in (q, k, v)]
        out = attend(*inputs)
        results.append([out.detach(), *torch.autograd.grad(out, inputs, grad)])
    error = max(_relative_error(*pair) for pair in zip(*results, strict=True))
    return Measured(error < 2e-3, f"{error:.1e}")


def check_copies(options: CheckOptions) -> Measured:
    """Batches that are copied while the device computes hold what the loader gave: checksums of 200 batches."""
    wrong = 0
    with _run(options) as (run, batches):
        weight = torch.randn(1024, 1024, device=run.device)
        for _ in range(20 if options.tiny else 200):
            batch = next(batches)
            expected = int(batch.frames.long().sum())
            copied = batch.to(run.device)
            weight = (weight @ weight).tanh()
            wrong += int(copied.frames.long().sum()) != expected
    return Measured(wrong == 0, f"{wrong} wrong")


def check_bad_step(options: CheckOptions) -> Measured:
    """A step whose loss is NaN leaves the weights bit-equal."""
    with _run(options) as (run, batches):
        train_step(run, next(batches))
        before = copy.deepcopy(run.state.model.state_dict())
        batch = next(batches)
        train_step(run, replace(batch, actions=torch.full_like(batch.actions, torch.nan)))
        after, bad = run.state.model.state_dict(), run.state.stats.read().num_bad_steps
    changed = [name for name, weight in before.items() if not weight.equal(after[name])]
    return Measured(not changed and bad == 1, f"{len(changed)} of {len(after)} tensors changed, {bad} bad step")


def check_resume(options: CheckOptions) -> Measured:
    """Four steps in one go against two steps, a checkpoint and two more: weights."""
    from dreamrun.training.state import CheckpointWriter

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        with _run(options, bf16=False) as (run, batches):
            for step in range(4):
                train_step(run, next(batches))
                if step == 1:
                    with closing(CheckpointWriter(out, run.state.ema, 3, None)) as writer:
                        writer.save(run.state, None)
                        checkpoint, _ = writer.wait()
            expected = run.state.model.state_dict()
        with _run(options, bf16=False, checkpoint=checkpoint) as (run, batches):
            for _ in range(2):
                train_step(run, next(batches))
            resumed = run.state.model.state_dict()
    error = max(float((weight - resumed[name]).abs().max()) for name, weight in expected.items())
    return Measured(error == 0.0, f"largest difference {error:.1e}")


def check_memory(options: CheckOptions) -> Measured:
    """Peak memory of a step of `small` with 128 clips."""
    results = steps.measure(_step_config(options, steps=1))
    gib = results["peak_memory_mib"] / 1024
    return Measured(options.tiny or gib < 72, f"{gib:.1f} GiB")


def check_speed(options: CheckOptions) -> Measured:
    """Compiled steps of `small` with 128 clips."""
    results = steps.measure(
        _step_config(options, compile="off" if options.tiny else "on", steps=1 if options.tiny else 20)
    )
    rate, share = results["steps_per_sec"], results["flop_utilisation"]
    return Measured(options.tiny or rate >= 3.3, f"{rate:.2f} steps/s, {100 * share:.0f} % of the matmul rate")


def _step_config(options: CheckOptions, **changes: Any) -> steps.StepConfig:
    values: dict[str, Any] = {"preset": "small", "batch_size": 128}
    if options.tiny:
        values = {"preset": "pico", "batch_size": 1, "clip_frames": 4}
    return steps.StepConfig(**{**values, "device": options.device, **changes})


def check_frames(options: CheckOptions) -> Measured:
    """Frames of `small` at 10 steps, one rollout and 64 at once."""
    rates = []
    for batch in (1, 64):
        values: dict[str, Any] = {"preset": "small", "num_steps": 10, "frames": 60}
        if options.tiny:
            values |= {"preset": "pico", "num_steps": 1, "frames": 2}
        size = min(batch, 2) if options.tiny else batch
        config = sampling.RolloutConfig(**values, batch_size=size, device=options.device)
        rates.append(sampling.measure(config)["frames_per_sec"])
    passed = options.tiny or (rates[0] >= 100 and rates[1] >= 1500)
    return Measured(passed, f"{rates[0]:.0f} and {rates[1]:.0f} frames/s")


def check_self_forcing(options: CheckOptions) -> Measured:
    """A step with half of the clips self-forced against a plain one."""
    secs = []
    for kind in ("teacher forcing", "self-forcing"):
        with _run(options, **KINDS[kind]) as (run, batches):
            for _ in range(3):
                train_step(run, next(batches))
            secs.append(_seconds(run, batches, 3 if options.tiny else 10))
    ratio = secs[1] / secs[0]
    return Measured(options.tiny or ratio <= 2, f"{ratio:.2f} times a plain step")


def check_players(options: CheckOptions) -> Measured:
    """Two players of the shipped model, of whom one leaves: the other sees what it would have seen alone."""
    model, batch = _played(options, 2, 6)
    model = prepare_for_inference(model, options.torch_device, bf16=False)
    prompts = [Prompt(frames.numpy(), np.zeros(6, np.int32)) for frames in batch.frames]
    settings = SamplerSettings(2).resolve(model.config)
    dreams = []
    for alone in (True, False):
        pool, frames = RolloutPool(model, ""), []
        mine = pool.start(prompts[0], settings)
        other = None if alone else pool.start(prompts[1], settings)
        for t in range(8):
            if t == 4 and other is not None:
                pool.end(other)
                other = None
            frames.append(pool.step([(rollout, 5) for rollout in (mine, other) if rollout is not None])[0].frame)
        dreams.append(np.stack(frames).astype(int))
    error = int(np.abs(dreams[0] - dreams[1]).max())
    return Measured(error <= 2, f"at most {error} of 255")


CHECKS = [
    Check("attention backends", "flash and efficient, not cuDNN", check_backends, 30),
    Check("attention in bfloat16", "relative error below 2e-2", check_attention),
    Check("captured frames", "1e-5", check_capture, 120),
    Check("KV cache", "1e-4", check_cache),
    Check("the same dream as on a CPU", "45 dB in float32, 30 dB in bfloat16", check_same_dream, 90),
    Check("bfloat16 training", "loss 1 %, gradient 0.99", check_bf16),
    Check("waits in a step", "none", check_waits, 120),
    Check("torch.compile", "loss 0.1 %", check_compile, 180),
    Check("NCCL, DDP, no_sync, compile", "1e-4", check_ddp, 120),
    Check("FlexAttention", "2e-3", check_flex, 90),
    Check("copies from pinned memory", "0 wrong", check_copies),
    Check("a bad step", "no tensor changed", check_bad_step),
    Check("resuming", "bit-equal", check_resume),
    Check("memory of `small`, 128 clips", "72 GiB", check_memory, 90),
    Check("steps of `small`, 128 clips, compiled", "3.3 steps/s", check_speed, 180),
    Check("frames of `small`, 1 and 64 rollouts", "100 and 1500 frames/s", check_frames, 120),
    Check("self-forcing", "at most twice a plain step", check_self_forcing, 120),
    Check("two players, one leaves", "at most 2 of 255", check_players),
]
