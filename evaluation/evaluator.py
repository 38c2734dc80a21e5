"""A checkpoint, judged: section by section, each kept beside the report once it is done."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.actions import ActionSpace
from data.clips import Clips, draw_clips, draw_records, scripted_actions
from data.dataset import ClipDataset
from data.games.base import SPLIT_LEVELS
from data.games.collect import CollectConfig, collect
from data.games.factory import make_environment
from data.index import held_out_split
from evaluation.config import FULL, QUICK, EvaluateConfig, Sizes
from evaluation.cost import ms_per_frame, pace
from evaluation.counterfactuals import Branches, branch, controllability
from evaluation.drift import REFERENCE_FRAMES, RealPlay, drift
from evaluation.fidelity import cases, curves, fidelity, single_step
from evaluation.inverse_dynamics import ActionGroups, inverse_dynamics, train_inverse_dynamics
from evaluation.pictures import animation, fan_out, still_image
from evaluation.result_cache import ResultCache
from evaluation.rollouts import RolloutModel, SamplerSettings, WorldModelRollout, rollout_in_batches
from model.checkpoint import check_finite
from model.dit import WorldModel
from training.checkpoint import hash_weights
from training.device import choose_device, describe_device, has_native_bf16, prepare_for_inference
from training.setup import check_model_fits_data

PARTS = "parts"  # folder, beside the report, of what is done
SWEEP_MOMENTS = (1, 4, 16)  # frames at which settings are compared
SWEEP_HORIZON = 4  # and the horizon of their controllability
DRIFT_SHOWN, DRIFT_MOMENTS = 6, 10  # dreams, and frames of each, that the report shows
COLLECTED = {False: (200, 200), True: (60, 40)}  # training and held-out records, by `quick`, where no data is given


def evaluate(config: EvaluateConfig) -> dict[str, Any]:
    """Everything that can be measured of a checkpoint, as `report.json` has it; what cannot, says why.

    Raises:
        ValueError: no checkpoint, or data that does not fit it.
    """
    return Evaluation(config).report()


class Evaluation:
    """One checkpoint, the real play it is judged by, and what has been found out so far."""

    def __init__(self, config: EvaluateConfig):
        self.config, self.sizes = config, _sizes(config)
        self.device = choose_device(config.device)
        self.model = WorldModel.from_pretrained(config.checkpoint)
        check_finite(self.model)
        room = max(1, self.model.config.window_frames - 1)
        if config.num_prompt_frames > room:
            raise ValueError(
                f"num_prompt_frames is {config.num_prompt_frames}: this model's window has room for {room}"
            )
        num_steps = config.num_steps or self.model.config.num_steps
        self.denoising = SamplerSettings(num_steps, config.guidance, config.context_noise)
        self.data = config.data or self._collected()
        self.split = config.split or held_out_split(self.data)
        self.held_out = ClipDataset(self.data, self.split, clip_frames=1)
        self.metadata = self.held_out.metadata
        check_model_fits_data(self.model, self.metadata, self.data)
        self.weights_sha256 = hash_weights(self.model)
        self.kept = ResultCache(config.output / PARTS, self._key())
        self.section_secs: dict[str, float] = {}
        self.not_measured: set[str] = set()  # sections
        print(f"device: {describe_device(self.device)}; {'bfloat16' if self._bf16 else 'float32'}")
        print(f"judged by {self.data}, {self.split} split, {len(self.held_out.index.lengths)} records")

    def report(self) -> dict[str, Any]:
        """All sections."""
        config = self.config
        sections = {
            "fidelity": self._fidelity,
            "single_step": self._single_step,
            "counterfactuals": self._counterfactuals,
            "inverse_dynamics": self._inverse_dynamics,
            "drift": self._drift,
            "sweep": self._sweep,
            "cost": lambda: {"gflop_per_frame": self._gflop_per_frame(self.denoising)},
            "pictures": self._pictures,
        }
        results = {name: self._section(name, make) for name, make in sections.items()}
        frame_ms = self._section("frame_ms", self._frame_ms)
        self.kept.drop_arrays()
        return {
            "checkpoint": {
                "name": config.checkpoint,
                "weights_sha256": self.weights_sha256,
                "parameters": sum(p.numel() for p in self.model.parameters()),
                "config": self.model.config.to_dict(),
                "game": self.model.game.to_dict(),
            },
            "data": {
                "folder": str(self.data),
                "split": self.split,
                "records": len(self.held_out.index.lengths),
                "environment": self.metadata.environment,
                "environment_options": dict(self.metadata.environment_options),
            },
            "settings": {
                **{name: getattr(config, name) for name in ("quick", "num_prompt_frames", "seed")},
                **asdict(self.denoising),
                "batch_size": config.batch_size,
                "bf16": self._bf16,
                **asdict(self.sizes),
            },
            **results,
            "perceptual": {"not_measured": PERCEPTUAL},
            "timings": {
                "device": describe_device(self.device),
                "frame_ms": frame_ms,
                "section_secs": self.section_secs,
            },
        }

    def _section(self, name: str, make: Callable[[], Any]) -> Any:
        """Its result, from an earlier call or made now; what cannot be measured says why, and the rest goes on."""
        print(f"{name.replace('_', ' ')} ...", file=sys.stderr)
        try:
            result, self.section_secs[name] = self.kept.values(name, make)
            return result
        except (ValueError, NotImplementedError) as error:
            print(f"{name.replace('_', ' ')}: not measured: {error}", file=sys.stderr)
            self.not_measured.add(name)
            return {"not_measured": str(error)}

    # What is judged, and what it is judged by. All of it is made when it is first needed.

    @cached_property
    def _bf16(self) -> bool:
        return has_native_bf16(self.device) if self.config.bf16 is None else self.config.bf16

    @cached_property
    def _ready(self) -> WorldModel:
        return prepare_for_inference(self.model, self.device, self._bf16)

    def _dreamer(self, denoising: SamplerSettings | None = None) -> RolloutModel:
        return WorldModelRollout(self._ready, self._space, denoising or self.denoising, self.config.seed)

    @property
    def _space(self) -> ActionSpace:
        return self.metadata.actions

    def _need_actions(self) -> None:
        """Raises ValueError where there is nothing to choose."""
        if self._space.unconditional:
            raise ValueError("there are no actions")

    @cached_property
    def _clips(self) -> Clips:
        num_prompt, sizes = self.config.num_prompt_frames, self.sizes
        num_frames = num_prompt + sizes.num_frames
        return draw_clips(self.held_out, sizes.num_clips, num_frames, num_prompt + 1, self.config.seed)

    @cached_property
    def _records(self) -> list:
        train = ClipDataset(self.data, "train", clip_frames=1)
        return draw_records(train, self.sizes.train_records, self.config.seed)

    @cached_property
    def _dreams(self) -> np.ndarray:
        return self._dream_along(self._clips.actions, "dream")

    @cached_property
    def _other_dreams(self) -> np.ndarray | None:
        if len(self._clips.frames) < 2 or self._space.unconditional:
            return None
        return self._dream_along(self._clips.other_actions(self.config.num_prompt_frames), "dream, other actions")

    def _dream_along(self, actions: np.ndarray, name: str, dreamer: RolloutModel | None = None) -> np.ndarray:
        """uint8 (S, T, H, W, C), without the prompt, of as many clips as there are actions, (S, P + T, ...)."""
        prompt = self._clips.frames[: len(actions), : self.config.num_prompt_frames]
        dreamer = dreamer or self._dreamer()
        numbers = np.arange(len(actions))
        parts = rollout_in_batches(dreamer, prompt, actions, numbers, self.config.batch_size, self.kept, name)
        return np.concatenate(list(parts))

    @cached_property
    def _branches(self) -> Branches:
        """Raises ValueError or NotImplementedError where the real game is not at hand, or cannot be brought back."""
        self._need_actions()
        name, options = self.metadata.environment, dict(self.metadata.environment_options)
        try:
            environment = make_environment(
                name, self.sizes.num_states, SPLIT_LEVELS[self.split], self.config.seed, **options
            )
        except (ValueError, TypeError) as error:
            raise ValueError(f"the real game is not at hand: {error}") from None
        try:
            shape, actions = environment.single_observation_space.shape, environment.actions
            if (shape, len(actions), actions.kinds) != (self.metadata.frame_shape, len(self._space), self._space.kinds):
                raise ValueError(f"the game {name} shows other frames, or takes other actions, than the data has")
            return branch(environment, self.config.num_prompt_frames, self.sizes.branch_frames, self.config.seed)
        except NotImplementedError:
            raise NotImplementedError(f"the state of {name} cannot be saved and restored") from None
        finally:
            environment.close()

    def _dream_branches(self, branches: Branches, name: str, dreamer: RolloutModel | None = None) -> np.ndarray:
        """uint8, shaped as the futures."""
        dreamer = dreamer or self._dreamer()
        parts = rollout_in_batches(dreamer, *branches.under_each(), self.config.batch_size, self.kept, name)
        return np.concatenate(list(parts)).reshape(branches.futures.shape)

    @cached_property
    def _branch_dreams(self) -> np.ndarray:
        return self._dream_branches(self._branches, "futures")

    # Sections.

    def _truth(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What followed the prompts (S, T, H, W, C), how much of it is true (S,), and the prompts' last frames."""
        num_prompt, clips = self.config.num_prompt_frames, self._clips
        return clips.frames[:, num_prompt:], clips.lengths - num_prompt, clips.frames[:, num_prompt - 1]

    def _fidelity(self) -> dict:
        truth, lengths, last = self._truth()
        return {
            **fidelity(truth, lengths, last, self._dreams, self._other_dreams),
            "cases": cases(truth, self._dreams, lengths),
        }

    def _single_step(self) -> dict:
        clips = ClipDataset(self.data, self.split, self.model.config.window_frames, seed=self.config.seed)
        model = self.model.to(self.device)
        return single_step(model, clips, self.sizes.num_clips, self.config.batch_size)

    def _counterfactuals(self) -> dict:
        return {
            "actions": [self._space.format(action) for action in self._branches.actions],
            "by_frame": controllability(self._branches, self._branch_dreams),
        }

    def _inverse_dynamics(self) -> dict:
        self._need_actions()
        clips, num_prompt = self._clips, self.config.num_prompt_frames
        groups = ActionGroups(self._space, self._records)
        reader, taken = train_inverse_dynamics(self._records, groups, self.sizes.reader_steps, self.config.seed)
        dreams = np.concatenate((clips.frames[:, :num_prompt], self._dreams), axis=1)
        return inverse_dynamics(reader, taken, clips.frames, dreams, clips.actions, clips.lengths, num_prompt, groups)

    @cached_property
    def _real_play(self) -> RealPlay:
        rng = np.random.default_rng(self.config.seed)
        bank = np.concatenate([record.frames for record in self._records])
        bank = bank[np.sort(rng.permutation(len(bank))[:REFERENCE_FRAMES])]
        held_out = draw_records(self.held_out, self.sizes.train_records, self.config.seed)
        return RealPlay(bank, (record.frames for record in held_out), self.metadata.fps)

    def _drift_parts(self):
        """Long dreams, some at a time: uint8 (S, T, H, W, C)."""
        clips, sizes, num_prompt = self._clips, self.sizes, self.config.num_prompt_frames
        chosen = np.arange(min(sizes.drift_dreams, len(clips.frames)))
        script = scripted_actions(clips, len(chosen), sizes.drift_frames, self.config.seed)
        actions = np.concatenate((clips.actions[chosen, :num_prompt], script), axis=1)
        prompt = clips.frames[chosen, :num_prompt]
        dreamer = self._dreamer()
        return rollout_in_batches(dreamer, prompt, actions, chosen, self.config.batch_size, self.kept, "long dreams")

    def _drift(self) -> dict:
        if self.sizes.drift_frames < self._real_play.window:
            raise ValueError(f"{self.sizes.drift_frames} frames are less than a window, {self._real_play.window}")
        windows = [self._real_play.statistics(dreamt)[1] for part in self._drift_parts() for dreamt in part]
        return drift(np.stack(windows), self._real_play)

    @property
    def _swept(self) -> list[SamplerSettings]:
        """Around that which is judged, one setting changed at a time."""
        swept = {"num_steps": self.sizes.sweep_steps, "context_noise": self.sizes.sweep_noise}
        if not self._space.unconditional:
            swept["guidance"] = self.sizes.sweep_guidance
        changes = ({name: value} for name, values in swept.items() for value in values)
        return sorted({self.denoising, *(replace(self.denoising, **change) for change in changes)})

    def _sweep(self) -> list[dict]:
        return [self.kept.values(f"sweep {one}", partial(self._sweep_row, one))[0] for one in self._swept]

    def _sweep_row(self, denoising: SamplerSettings) -> dict:
        sizes, num_prompt = self.sizes, self.config.num_prompt_frames
        truth, lengths, _ = (array[: sizes.sweep_clips] for array in self._truth())
        num_frames = min(sizes.sweep_frames, truth.shape[1])
        name, dreamer = str(denoising), self._dreamer(denoising)
        dreams = self._dream_along(self._clips.actions[: len(truth), : num_prompt + num_frames], name, dreamer)
        measured = curves(truth[:, :num_frames], dreams, np.minimum(lengths, num_frames))
        row = asdict(denoising) | {"gflop_per_frame": self._gflop_per_frame(denoising)}
        for name_, curve in measured.items():
            row |= {f"{name_}_{frame}": curve[frame - 1] for frame in SWEEP_MOMENTS if frame <= len(curve)}
        if "counterfactuals" not in self.not_measured:
            horizon = min(SWEEP_HORIZON, sizes.branch_frames)
            few = _first(self._branches, sizes.sweep_states, horizon)
            dreams = self._dream_branches(few, f"futures, {name}", dreamer)
            row[f"controllability_{horizon}"] = controllability(few, dreams, (horizon,))[0]["controllability"]
        return row

    def _gflop_per_frame(self, denoising: SamplerSettings) -> float:
        return self.model.config.flops_per_frame(denoising.num_steps, denoising.guidance) / 1e9

    def _frame_ms(self) -> dict:
        paces = {pace(asdict(denoising)): denoising for denoising in self._swept}
        return {name: ms_per_frame(self._ready, paces[name], self.sizes.timed_frames) for name in paces}

    def _pictures(self) -> dict[str, Any]:
        """Moving and still pictures, ready to stand in a page."""
        truth, lengths, _ = self._truth()
        shown = {}
        for name, case in cases(truth, self._dreams, lengths).items():
            clip, end = case["clip"], lengths[case["clip"]]
            shown[name] = animation([truth[clip, :end], self._dreams[clip, :end]], self.metadata.fps)
        if "counterfactuals" not in self.not_measured:
            shown["futures"] = fan_out(self._branches, self._branch_dreams, self._space, self.metadata.fps)
        moments = np.linspace(0, self.sizes.drift_frames - 1, DRIFT_MOMENTS).astype(int)
        rows = [dreamt[moments] for part in self._drift_parts() for dreamt in part]
        shown["long dreams"] = still_image(np.stack(rows[:DRIFT_SHOWN]))
        return {"shown": shown, "drift_moments": (moments + 1).tolist()}

    # What it all follows from.

    def _key(self) -> str:
        """Of settings, checkpoint, data and code: the same only if all results would be the same."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in _NO_MATTER}
        root = Path(__file__).parent.parent
        sources = [path for package in _CODE for path in sorted((root / package).glob("*.py"))]
        follows = {
            "settings": settings,
            "sizes": asdict(self.sizes),
            "weights": self.weights_sha256,
            "model": [self.model.config.to_dict(), self.model.game.to_dict()],
            "data": [str(self.data), self.split, self.metadata.to_dict(), self.held_out.index.lengths.tolist()],
            "code": hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(),
            "device": [str(self.device), self._bf16, torch.__version__],
        }
        return hashlib.sha256(json.dumps(follows, default=str).encode()).hexdigest()[:16]

    def _collected(self) -> Path:
        """Real play of the game that the checkpoint's config names: the same for every checkpoint of that game."""
        game, (train_records, held_out) = self.model.game, COLLECTED[self.config.quick]
        records = {
            "records": train_records,
            "val_records": 0,
            "test_records": 0,
            f"{self.config.split or 'test'}_records": held_out,
        }
        wanted = {"env": game.environment, "seed": self.config.seed, **records, **dict(game.environment_options)}
        name = hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:16]
        folder = self.config.output / PARTS / f"play-{name}"
        if not folder.is_dir():
            print(f"collecting {train_records + held_out} records of {game.environment} into {folder}")
            try:
                collect(CollectConfig(out=folder, **wanted), lambda _: None)
            except (ValueError, TypeError) as error:
                raise ValueError(
                    f"nothing to judge by: give --data DIR, as no play can be collected ({error})"
                ) from None
        return folder


PERCEPTUAL = (
    "LPIPS, FID and FVD need networks trained elsewhere (AlexNet or VGG, Inception, I3D), which this project does not "
    "carry and never downloads. To have them: write the clips out with python -m scripts.infer, and measure those "
    "with the lpips package or a FID tool."
)
_CODE = ("data", "model", "training", "evaluation")  # packages that results follow from
_NO_MATTER = ("checkpoint", "data", "output", "device", "compare")


def _sizes(config: EvaluateConfig) -> Sizes:
    given = {name: getattr(config, name) for name in ("num_clips", "num_frames", "num_states", "drift_dreams")}
    sizes = QUICK if config.quick else FULL
    return replace(sizes, **{name: value for name, value in given.items() if value is not None})


def _first(branches: Branches, num_states: int, num_frames: int) -> Branches:
    """The first moments, and of their futures the first frames."""
    lengths = np.minimum(branches.lengths[:num_states], num_frames)
    prompt, prompt_actions = branches.prompt[:num_states], branches.prompt_actions[:num_states]
    return Branches(prompt, prompt_actions, branches.actions, branches.futures[:num_states, :, :num_frames], lengths)
