"""What the sections of an evaluation share: the checkpoint, the real play, and the rollouts. Each is made on first use.

Shapes: S clips, P prompt frames, T frames, H x W pixels, C channels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dreamrun.data.clips import Clips, draw_clips, draw_records, scripted_actions
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.records import Record
from dreamrun.evaluation.config import EvaluateConfig
from dreamrun.evaluation.counterfactuals import Counterfactuals, collect_counterfactuals, make_game, to_rollouts
from dreamrun.evaluation.real_play import collect_real_play
from dreamrun.evaluation.result_cache import ResultCache
from dreamrun.evaluation.rollouts import RolloutModel, SamplerSettings, WorldModelRollout, rollout_in_batches
from dreamrun.games.space import ActionSpace
from dreamrun.model.checkpoint import check_finite, hash_weights
from dreamrun.model.dit import WorldModel
from dreamrun.model.inference import choose_device, has_native_bf16, prepare_for_inference
from dreamrun.training.games import choose_game
from dreamrun.training.setup import check_model_fits_data

PARTS_FOLDER = "parts"  # beside the report: cached results and collected play
_CODE_PACKAGES = ("games", "data", "model", "editing", "evaluation")  # the results depend on their source code
_NOT_IN_KEY = (
    "checkpoint",
    "data",
    "output",
    "device",
    "compare",
    "env_module",
    "any_game",
    "onnx",
)  # irrelevant, or in the key in another form


class EvaluationInputs:
    """A checkpoint, the real play to evaluate it on, and its rollouts.

    Raises:
        ValueError: no checkpoint, weights that are not finite, or a data set that does not fit the checkpoint.
    """

    def __init__(self, config: EvaluateConfig):
        self.config, self.sizes = config, config.sizes
        self.device = choose_device(config.device)
        metadata = read_metadata(config.data) if config.data else None
        self.model = choose_game(WorldModel.from_pretrained(config.checkpoint), config.game, metadata)
        check_finite(self.model)
        max_prompt = max(1, self.model.config.window_frames - 1)
        if config.num_prompt_frames > max_prompt:
            raise ValueError(
                f"num_prompt_frames is {config.num_prompt_frames}: this model's window has room for {max_prompt}"
            )
        num_steps = config.num_steps or self.model.config.num_steps
        guidance = self.model.config.guidance if config.guidance is None and config.onnx is None else config.guidance
        self.settings = SamplerSettings(num_steps, 1.0 if guidance is None else guidance, config.context_noise)
        parts = config.output / PARTS_FOLDER
        self.data = config.data or collect_real_play(config, self.model.game, parts)
        self.split = config.split or held_out_split(self.data)
        self.held_out = ClipDataset(self.data, self.split, clip_frames=1)
        self.metadata = self.held_out.metadata
        check_model_fits_data(self.model, self.metadata, self.data, config.any_game)
        self.weights_sha256 = hash_weights(self.model)
        self.onnx_file = None if config.onnx is None else config.onnx.read_bytes()
        self.cache = ResultCache(parts, self._cache_key())

    def _cache_key(self) -> str:
        """A hash of settings, checkpoint, data and code: it is equal only if all results would be equal."""
        settings = {name: value for name, value in asdict(self.config).items() if name not in _NOT_IN_KEY}
        root = Path(__file__).parent.parent
        sources = [path for package in _CODE_PACKAGES for path in sorted((root / package).rglob("*.py"))]
        dependencies = {
            "settings": settings,
            "sizes": asdict(self.sizes),
            "weights": self.weights_sha256,
            "onnx": None if self.onnx_file is None else hashlib.sha256(self.onnx_file).hexdigest(),
            "model": [self.model.config.to_dict(), self.model.game.to_dict()],
            "data": [str(self.data), self.split, self.metadata.to_dict(), self.held_out.index.lengths.tolist()],
            "code": hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(),
            "device": [str(self.device), self.bf16, torch.__version__],
        }
        return hashlib.sha256(json.dumps(dependencies, default=str).encode()).hexdigest()[:16]

    @property
    def space(self) -> ActionSpace:
        """The actions of the data set."""
        return self.metadata.actions

    def require_actions(self) -> None:
        """Raises ValueError if the data set has no actions to choose from."""
        if self.space.unconditional:
            raise ValueError("the data set has no actions")

    # The model.

    @cached_property
    def bf16(self) -> bool:
        """Whether rollouts use bfloat16 weights."""
        return has_native_bf16(self.device) if self.config.bf16 is None else self.config.bf16

    @cached_property
    def inference_model(self) -> WorldModel:
        """The model that rollouts sample from."""
        return prepare_for_inference(self.model, self.device, self.bf16)

    def rollout_model(self, settings: SamplerSettings | None = None) -> RolloutModel:
        """The world model with the given sampler settings; None: with the evaluated settings."""
        settings = settings or self.settings
        return WorldModelRollout(self.inference_model, self.space, settings, self.config.seed, self.onnx_file)

    @cached_property
    def sweep_settings(self) -> list[SamplerSettings]:
        """The evaluated sampler settings, and variants with one setting changed."""
        values = {"num_steps": self.sizes.sweep_steps, "context_noise": self.sizes.sweep_noise}
        if not self.space.unconditional:
            values["guidance"] = self.sizes.sweep_guidance
        variants = {replace(self.settings, **{name: value}) for name in values for value in values[name]}
        return sorted({self.settings, *variants})

    # Real play.

    @cached_property
    def clips(self) -> Clips:
        """Held-out clips: a prompt, and the frames that really follow it."""
        num_prompt, sizes = self.config.num_prompt_frames, self.sizes
        return draw_clips(
            self.held_out, sizes.num_clips, num_prompt + sizes.num_frames, num_prompt + 1, self.config.seed
        )

    @property
    def truth(self) -> np.ndarray:
        """What really follows the prompts: uint8 (S, T, H, W, C)."""
        return self.clips.frames[:, self.config.num_prompt_frames :]

    @property
    def truth_lengths(self) -> np.ndarray:
        """How many frames of `truth` exist before the record ends: int (S,)."""
        return self.clips.lengths - self.config.num_prompt_frames

    @cached_property
    def train_records(self) -> list[Record]:
        """Records of the training split."""
        train = ClipDataset(self.data, "train", clip_frames=1)
        return draw_records(train, self.sizes.train_records, self.config.seed)

    @cached_property
    def held_out_records(self) -> list[Record]:
        """Whole held-out records."""
        return draw_records(self.held_out, self.sizes.train_records, self.config.seed)

    @cached_property
    def counterfactuals(self) -> Counterfactuals:
        """Counterfactual futures of the real game.

        Raises:
            ValueError: the game is not available, differs from the data set, or has no actions.
            NotImplementedError: its state cannot be saved.
        """
        self.require_actions()
        environment = make_game(self.metadata, self.sizes.num_states, self.split, self.config.seed)
        num_prompt, num_frames = self.config.num_prompt_frames, self.sizes.branch_frames
        try:
            return collect_counterfactuals(environment, num_prompt, num_frames, self.config.seed)
        except NotImplementedError:
            name = self.metadata.environment
            raise NotImplementedError(f"the state of {name} cannot be saved and restored") from None
        finally:
            environment.close()

    # Rollouts.

    @cached_property
    def rollouts(self) -> np.ndarray:
        """Rollouts of the clips under their own actions, shaped as `truth`."""
        return self.generate(self.clips.actions, "rollouts")

    @cached_property
    def other_action_rollouts(self) -> np.ndarray | None:
        """Rollouts of the clips under another clip's actions; None without actions or without another clip."""
        if len(self.clips.frames) < 2 or self.space.unconditional:
            return None
        return self.generate(self.clips.other_actions(self.config.num_prompt_frames), "rollouts, other actions")

    def generate(self, actions: np.ndarray, name: str, model: RolloutModel | None = None) -> np.ndarray:
        """Continue the first clips under `actions` (S, P + T, ...): uint8 (S, T, H, W, C)."""
        prompt = self.clips.frames[: len(actions), : self.config.num_prompt_frames]
        batches = self._batches(prompt, actions, np.arange(len(actions)), name, model)
        return np.concatenate(list(batches))

    @cached_property
    def counterfactual_rollouts(self) -> np.ndarray:
        """Rollouts of the counterfactuals, shaped as their futures."""
        return self.generate_counterfactuals(self.counterfactuals, "counterfactuals")

    def generate_counterfactuals(
        self, counterfactuals: Counterfactuals, name: str, model: RolloutModel | None = None
    ) -> np.ndarray:
        """Rollouts from each state under each action, shaped as the futures."""
        batches = self._batches(*counterfactuals.rollout_inputs(), name, model)
        return to_rollouts(np.concatenate(list(batches)), counterfactuals)

    def long_rollouts(self) -> Iterator[np.ndarray]:
        """Long rollouts under random actions, in batches: uint8 (S, T, H, W, C)."""
        clips, sizes, num_prompt = self.clips, self.sizes, self.config.num_prompt_frames
        rollout_ids = np.arange(min(sizes.num_long_rollouts, len(clips.frames)))
        script = scripted_actions(clips, len(rollout_ids), sizes.drift_frames, self.config.seed)
        actions = np.concatenate((clips.actions[rollout_ids, :num_prompt], script), axis=1)
        return self._batches(clips.frames[rollout_ids, :num_prompt], actions, rollout_ids, "long rollouts")

    def _batches(
        self,
        prompt: np.ndarray,
        actions: np.ndarray,
        rollout_ids: np.ndarray,
        name: str,
        model: RolloutModel | None = None,
    ) -> Iterator[np.ndarray]:
        model = model or self.rollout_model()
        return rollout_in_batches(model, prompt, actions, rollout_ids, self.config.batch_size, self.cache, name)
