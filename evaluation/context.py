"""What the sections of an evaluation share: the checkpoint, the real play, and the rollouts. Each is made on first use.

Shapes: S clips or rollouts, P prompt frames, T frames, H x W pixels, C channels.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamrun.data.atomic import atomic_file, write_text
from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.clips import Clips, draw_clips, draw_records, scripted_actions
from dreamrun.data.collecting import CollectConfig, collect
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.index import held_out_split
from dreamrun.data.metadata import read_metadata
from dreamrun.data.records import Record
from dreamrun.evaluation.counterfactuals import Counterfactuals, collect_counterfactuals
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.games.base import SPLIT_LEVELS
from dreamrun.games.factory import describe_environment, open_recorded, with_module
from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace
from dreamrun.games.untrusted import printable
from dreamrun.model.checkpoint import check_finite, hash_weights
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import check_model_fits_data, choose_game
from dreamrun.model.inference import choose_device, prepare_for_inference, uses_bf16
from dreamrun.model.options import ResolvedSettings
from dreamrun.model.sampler import Sampler, rollout

PARTS_FOLDER = "parts"  # beside the report: cached results and collected play
SIZES = {  # of what several sections use; name in report.json: full size, quick size
    "num_clips": (64, 12),  # held-out clips that the world model continues
    "num_frames": (64, 16),  # generated frames per clip
    "num_states": (48, 8),  # game states from which counterfactual futures start
    "branch_frames": (32, 8),  # frames of each counterfactual future
    "train_records": (200, 60),  # training records for the inverse dynamics model and the statistics of real play
    "held_out_records": (200, 40),  # records to collect, if no data set is given
    "num_long_rollouts": (32, 4),  # long rollouts
    "drift_frames": (900, 90),  # frames of each long rollout
}
_CODE_PACKAGES = ("games", "data", "model", "editing", "evaluation")  # the results depend on their source code
# Irrelevant for the results, or in the key of the cache in another form.
_NOT_IN_KEY = ("checkpoint", "data", "output", "device", "compare", "env_module", "any_game", "onnx", "sizes")


class EvaluationContext:
    """A checkpoint, the real play to evaluate it on, and its rollouts.

    All random draws are seeded, so a smaller size uses the first part of what a larger size uses.

    Args:
        sizes: how much is measured, by the names of SIZES and of the sections.
        make_sampler: (model, settings) -> what generates the rollouts, with the interface of `Sampler`.
    """

    def __init__(self, config: EvaluateConfig, sizes: Mapping[str, Any], make_sampler: Callable[..., Any] = Sampler):
        self.config, self.sizes, self._make_sampler = config, sizes, make_sampler
        self.device = choose_device(config.device)
        self.bf16 = uses_bf16(self.device, config.bf16)
        metadata = read_metadata(config.data) if config.data else None
        self.model = choose_game(WorldModel.from_pretrained(config.checkpoint), config.game, metadata, config.text)
        check_finite(self.model)
        max_prompt = max(1, self.model.config.window_frames - 1)
        if config.num_prompt_frames > max_prompt:
            raise ValueError(
                f"num_prompt_frames is {config.num_prompt_frames}: this model's window has room for {max_prompt}"
            )
        guidance = 1.0 if config.guidance is None and config.onnx is not None else config.guidance
        self.settings = replace(config, guidance=guidance).resolve(self.model.config)
        parts = config.output / PARTS_FOLDER
        self.data = config.data or collect_real_play(config, sizes, self.model.game, parts)
        self.split = config.split or held_out_split(self.data)
        self.held_out = ClipDataset(self.data, self.split, clip_frames=1)
        self.metadata = self.held_out.metadata
        check_model_fits_data(self.model, self.metadata, self.data, config.any_game)
        self.weights_sha256 = hash_weights(self.model)
        self.results = ResultCache(parts, self._cache_key())

    def _cache_key(self) -> str:
        """A hash of settings, checkpoint, data and code: it is equal only if all results would be equal."""
        root, onnx = Path(__file__).parent.parent, self.config.onnx
        sources = [path for package in _CODE_PACKAGES for path in sorted((root / package).rglob("*.py"))]
        dependencies = {
            "settings": {name: value for name, value in asdict(self.config).items() if name not in _NOT_IN_KEY},
            "sizes": self.sizes,
            "weights": self.weights_sha256,
            "onnx": None if onnx is None else hashlib.sha256(onnx.read_bytes()).hexdigest(),
            "model": [self.model.config.to_dict(), self.model.game.to_dict()],
            "data": [str(self.data), self.split, self.metadata.to_dict(), self.held_out.index.lengths.tolist()],
            "code": hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest(),
            "device": [str(self.device), self.bf16, torch.__version__],
        }
        return hashlib.sha256(json.dumps(dependencies, default=str).encode()).hexdigest()[:16]

    @cached_property
    def inference_model(self) -> WorldModel:
        """The model that rollouts sample from."""
        return prepare_for_inference(self.model, self.device, self.bf16)

    @property
    def space(self) -> ActionSpace:
        """The actions of the data set."""
        return self.metadata.actions

    def require_actions(self) -> None:
        """Raises ValueError if the data set has no actions to choose from."""
        if self.space.unconditional:
            raise ValueError("the data set has no actions")

    # Real play.

    @cached_property
    def clips(self) -> Clips:
        """Held-out clips: a prompt, and the frames that really follow it."""
        num_prompt = self.config.num_prompt_frames
        length = num_prompt + self.sizes["num_frames"]
        return draw_clips(self.held_out, self.sizes["num_clips"], length, num_prompt + 1, self.config.seed)

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
        return draw_records(train, self.sizes["train_records"], self.config.seed)

    @cached_property
    def held_out_records(self) -> list[Record]:
        """Whole held-out records."""
        return draw_records(self.held_out, self.sizes["train_records"], self.config.seed)

    @property
    def counterfactuals(self) -> Counterfactuals:
        """Counterfactual futures of the real game. Raises ValueError if there are none."""
        if isinstance(self._counterfactuals, ValueError):
            raise self._counterfactuals
        return self._counterfactuals

    @property
    def has_counterfactuals(self) -> bool:
        """Whether the game has counterfactual futures."""
        return not isinstance(self._counterfactuals, ValueError)

    @cached_property
    def _counterfactuals(self) -> Counterfactuals | ValueError:
        """The futures, or why there are none: games can be slow, so they are asked once."""
        sizes, config = self.sizes, self.config
        try:
            self.require_actions()
            environment = open_recorded(self.metadata, sizes["num_states"], SPLIT_LEVELS[self.split], config.seed)
            with closing(environment):
                return collect_counterfactuals(
                    environment, config.num_prompt_frames, sizes["branch_frames"], config.seed
                )
        except ValueError as error:
            return error

    # Rollouts.

    @cached_property
    def rollouts(self) -> np.ndarray:
        """Rollouts of the clips under their own actions, shaped as `truth`."""
        return self.continue_clips("rollouts", self.clips.actions)

    def continue_clips(self, name: str, actions: np.ndarray, settings: ResolvedSettings | None = None) -> np.ndarray:
        """Continue the first clips under `actions` (S, P + T, ...): uint8 (S, T, H, W, C)."""
        prompt = self.clips.frames[: len(actions), : self.config.num_prompt_frames]
        return np.concatenate(list(self.generate(name, prompt, actions, settings=settings)))

    @cached_property
    def counterfactual_rollouts(self) -> np.ndarray:
        """Rollouts of the counterfactuals, shaped as their futures."""
        return self.continue_states("counterfactuals", self.counterfactuals)

    def continue_states(
        self, name: str, counterfactuals: Counterfactuals, settings: ResolvedSettings | None = None
    ) -> np.ndarray:
        """Rollouts from each state under each action, shaped as the futures."""
        frames = np.concatenate(list(self.generate(name, *counterfactuals.rollout_inputs(), settings)))
        return frames.reshape(counterfactuals.futures.shape)

    def long_rollouts(self) -> Iterator[np.ndarray]:
        """Long rollouts under random actions, in batches: uint8 (S, T, H, W, C)."""
        clips, num_prompt = self.clips, self.config.num_prompt_frames
        count = min(self.sizes["num_long_rollouts"], len(clips.frames))
        script = scripted_actions(clips, count, self.sizes["drift_frames"], self.config.seed)
        actions = np.concatenate((clips.actions[:count, :num_prompt], script), axis=1)
        return self.generate("long rollouts", clips.frames[:count, :num_prompt], actions)

    def generate(
        self,
        name: str,
        prompt: np.ndarray,
        actions: np.ndarray,
        rollout_ids: np.ndarray | None = None,
        settings: ResolvedSettings | None = None,
    ) -> Iterator[np.ndarray]:
        """Continue prompts under recorded actions, in batches that are cached on disk.

        Args:
            name: of the batches in the cache and of their progress bars.
            prompt: uint8 (S, P, H, W, C).
            actions: (S, P + T) or (S, P + T, names). `actions[:, t]` leads into frame t, prompt included.
            rollout_ids: int (S,). Rollout i draws its noise from seed `seed + i`; None: 0 to S - 1.
            settings: None: those that are evaluated.

        Yields:
            The generated frames, uint8 (at most batch_size, T, H, W, C).
        """
        rollout_ids = np.arange(len(prompt)) if rollout_ids is None else rollout_ids
        starts = range(0, len(prompt), self.config.batch_size)
        for number, start in enumerate(starts, start=1):
            batch = slice(start, start + self.config.batch_size)
            seeds = [self.config.seed + int(rollout_id) for rollout_id in rollout_ids[batch]]
            progress = f"{name}, {number} of {len(starts)}"
            compute = partial(self._continue, prompt[batch], actions[batch], seeds, settings, progress)
            yield self.results.array(f"{name} {number}", compute)

    def _continue(
        self,
        prompt: np.ndarray,
        actions: np.ndarray,
        seeds: list[int],
        settings: ResolvedSettings | None,
        progress: str,
    ) -> np.ndarray:
        sampler = self._make_sampler(self.inference_model, settings or self.settings)
        vectors = torch.from_numpy(self.space.vectors(actions))
        return np.stack([to_uint8(frame) for frame in rollout(sampler, to_float(prompt), vectors, progress, seeds)], 1)


class ResultCache:
    """Results in `root/key`, whose key is a hash of all that they depend on. Those of other keys are deleted."""

    def __init__(self, root: Path, key: str):
        self.secs: dict[str, float] = {}  # seconds that measuring each value took
        self._folder = root / key
        for other in root.glob("*"):
            if other != self._folder and re.fullmatch("[0-9a-f]{16}", other.name):
                shutil.rmtree(other)
        self._folder.mkdir(parents=True, exist_ok=True)

    def value(self, name: str, compute: Callable[[], Any]) -> Any:
        """A result that JSON can hold, computed if it is not cached."""
        path = self._folder / f"{name}.json"
        if not path.is_file():
            start = time.perf_counter()
            result = compute()
            write_text(path, json.dumps({"secs": time.perf_counter() - start, "result": result}))
        # A new result is read back too: JSON turns tuples into lists and all keys into strings.
        stored = json.loads(path.read_text())
        self.secs[name] = stored["secs"]
        return stored["result"]

    def array(self, name: str, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """A large array, computed if it is not cached, and memory-mapped from disk."""
        path = self._folder / f"{name}.npy"
        if not path.is_file():
            result = compute()
            # np.save adds a suffix to a file name, but not to an open file.
            with atomic_file(path) as temporary, temporary.open("wb") as file:
                np.save(file, result)
        return np.load(path, mmap_mode="r")

    def drop_arrays(self) -> None:
        """Delete the arrays, once every result that needs them is cached."""
        for path in self._folder.glob("*.npy"):
            path.unlink()


def collect_real_play(config: EvaluateConfig, sizes: Mapping[str, Any], game: Game, root: Path) -> Path:
    """Collect a data set of the checkpoint's game under `root`, unless it is there, and return its folder.

    The play depends on the game, the split, the sizes and the seed, so it is the same for every checkpoint of a game.
    """
    num_records = {"records": sizes["train_records"], "val_records": 0, "test_records": 0}
    num_records[f"{config.split or 'test'}_records"] = sizes["held_out_records"]
    try:
        # Both are from the checkpoint's files: a name may import nothing, and an option may be no other setting.
        environment = with_module(game.environment, config.env_module)
        game_options = describe_environment(environment, game.environment_options).environment_options
        options = {"env": environment, "seed": config.seed, **num_records, **dict(game_options)}
        folder = root / f"play-{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:16]}"
        if not folder.is_dir():
            print(f"collecting {sum(num_records.values())} records of {printable(environment)} into {folder}")
            collect(CollectConfig(out=folder, **options), lambda _: None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"no held-out play: give --data DIR, because collecting play failed ({error})") from None
    return folder
