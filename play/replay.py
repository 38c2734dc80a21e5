"""Replay files: JSON with everything that determines a rollout. `python -m scripts.infer --replay FILE` generates the
same frames again.

Shapes: T frames, H x W pixels, C channels.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from dreamrun.data.pixels import to_uint8
from dreamrun.games.json_file import read_json
from dreamrun.games.printable import check_name
from dreamrun.games.space import ActionSpace, is_known
from dreamrun.model import ModelConfig, Sampler, WorldModel
from dreamrun.model.config import MAX_GUIDANCE
from dreamrun.model.diffusion import CONTEXT_NOISE
from dreamrun.model.games import select_game
from dreamrun.model.sampler_inputs import MAX_SEED, MAX_STEPS
from dreamrun.model.text import check_words
from dreamrun.play.actions import actions_from_json, actions_to_json, playable_actions
from dreamrun.play.recording import MAX_REPLAY_FRAMES, rollout_video
from dreamrun.play.rollout_pool import Prompt, Rollout, RolloutSettings, prompt_tensors, told_model

FORMAT = "dreamrun-replay-1"
MAX_CHECKPOINT_CHARS = 1000  # of the checkpoint's name


@dataclass(frozen=True)
class Replay:
    """A rollout from its prompt on, and the part of it that was recorded."""

    prompt: Prompt
    seed: int
    settings: RolloutSettings
    context_noise: float
    weights_hash: str  # of the checkpoint, as `model.checkpoint.hash_weights` returns it
    actions: np.ndarray  # recorded actions since the prompt, (T,) or (T, names)
    first_recorded: int  # index of the recording's first frame; actions[i] leads into frame i
    checkpoint: str = ""  # name of the checkpoint, for people
    game: str = ""  # which one, of a checkpoint of several

    @classmethod
    def from_rollout(cls, rollout: Rollout, first_recorded: int, end: int, checkpoint: str, game: str = "") -> Replay:
        """A replay of frames `first_recorded` to `end` (exclusive) of a rollout.

        Raises:
            ValueError: the weights have changed during the rollout (`--follow`).
        """
        if rollout.weights_changed:
            raise ValueError("There is no replay file: newer weights were loaded during this dream.")
        return cls(
            prompt=rollout.prompt,
            seed=rollout.seed,
            settings=rollout.settings,
            context_noise=CONTEXT_NOISE,
            weights_hash=rollout.weights_hash,
            actions=np.array(rollout.actions[:end]),
            first_recorded=first_recorded,
            checkpoint=checkpoint,
            game=game,
        )

    def to_json(self) -> str:
        """The text of the file. It contains the prompt's frames, compressed, so it needs only the checkpoint."""
        frames = self.prompt.frames
        prompt = {
            "record": self.prompt.record_id,
            "moment": self.prompt.moment,
            "shape": list(frames.shape),
            "frames": base64.b64encode(zlib.compress(np.ascontiguousarray(frames).tobytes(), 9)).decode(),
            "actions": actions_to_json(self.prompt.actions),
        }
        fields = {
            "format": FORMAT,
            "checkpoint": self.checkpoint,
            "weights_sha256": self.weights_hash,
            "seed": self.seed,
            "num_steps": self.settings.num_steps,
            "guidance": self.settings.guidance,
            "context_noise": self.context_noise,
            "first_recorded": self.first_recorded,
            "actions": actions_to_json(self.actions),
            "prompt": prompt,
            **({"game": self.game} if self.game else {}),
            **({"words": self.settings.words} if self.settings.words is not None else {}),
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def read(cls, path: Path, model: WorldModel) -> Replay:
        """Read a replay for this model, which may be of several games.

        Raises:
            ValueError: the file is not a replay, or it is from another game.
        """
        try:
            return cls._from_json(read_json(path), model)
        except (KeyError, TypeError, AttributeError, OverflowError, zlib.error, ValueError) as error:
            raise ValueError(f"{path} is not a replay for this checkpoint: {type(error).__name__}: {error}") from None

    @classmethod
    def _from_json(cls, fields: Any, model: WorldModel) -> Replay:
        """A replay from the parsed file. It checks sizes before it works: the file may come from a stranger."""
        if not isinstance(fields, dict):
            raise ValueError("it is not an object")
        game, words = check_name("game", fields.get("game", "")), fields.get("words")
        model = select_game(model, game)
        space = playable_actions(model)
        if fields["format"] != FORMAT:
            raise ValueError(f"its format is {fields['format']!r:.40}, not {FORMAT}")
        num_steps = _parse_int(fields, "num_steps", 1, MAX_STEPS)
        guidance = _parse_float(fields, "guidance", MAX_GUIDANCE)
        context_noise = _parse_float(fields, "context_noise", 1.0)
        if context_noise == 1.0:
            raise ValueError("its context_noise is 1: it must be below")
        if not isinstance(fields["actions"], list) or not 1 <= len(fields["actions"]) <= MAX_REPLAY_FRAMES:
            raise ValueError(f"its actions are no list of 1 to {MAX_REPLAY_FRAMES} actions")
        actions = actions_from_json(fields["actions"], space)
        if not is_known(actions).all():
            raise ValueError("some of its actions are unknown")
        return cls(
            prompt=_prompt_from_json(fields["prompt"], model.config, space),
            seed=_parse_int(fields, "seed", 0, MAX_SEED),
            settings=RolloutSettings(num_steps, guidance, None if words is None else check_words(words)),
            context_noise=context_noise,
            weights_hash=check_name("weights_sha256", fields["weights_sha256"]),
            actions=actions,
            first_recorded=_parse_int(fields, "first_recorded", 0, len(actions) - 1),
            checkpoint=check_name("checkpoint", fields["checkpoint"], MAX_CHECKPOINT_CHARS),
            game=game,
        )

    def check_weights(self, weights_hash: str, checkpoint: str) -> None:
        """Check that a checkpoint is the one that the replay was recorded with.

        Raises:
            ValueError: its weights are different.
        """
        if self.weights_hash != weights_hash:
            raise ValueError(
                f"the replay was recorded with another checkpoint than {checkpoint}: "
                f"pass {self.checkpoint} (weights {self.weights_hash[:12]}...) with --checkpoint"
            )

    def generate_frames(self, model: WorldModel, cache: bool = True) -> np.ndarray:
        """Generate the recorded frames again.

        Args:
            model: as `prepare_for_inference` returns it.
            cache: whether the sampler uses its KV cache.

        Returns:
            uint8 (T, H, W, C). They differ by at most one grey level if other players shared the batch.
        """
        model = told_model(select_game(model, self.game), self.settings)
        space = playable_actions(model)
        sampler = Sampler(
            model, self.settings.num_steps, self.context_noise, cache=cache, guidance=self.settings.guidance
        )
        sampler.reset(*prompt_tensors(self.prompt, space), slots=[0], seeds=[self.seed])
        vectors = torch.from_numpy(space.vectors(self.actions))
        frames = [to_uint8(sampler.step(vector[None]))[0] for vector in tqdm(vectors, desc="dreaming", unit=" frames")]
        return np.stack(frames[self.first_recorded :])

    def video(self, model: WorldModel, cache: bool = True) -> np.ndarray:
        """The recorded frames with the pressed keys, uint8 (T, height, width, 3). Arguments as `generate_frames`."""
        frames = self.generate_frames(model, cache)
        return rollout_video(
            frames, self.actions[self.first_recorded :], playable_actions(select_game(model, self.game))
        )


def _parse_int(fields: dict[str, Any], name: str, minimum: int, maximum: int) -> int:
    value = fields[name]
    if type(value) is not int or not minimum <= value <= maximum:
        raise ValueError(f"its {name} is {value!r:.40}: expected an integer from {minimum} to {maximum}")
    return value


def _parse_float(fields: dict[str, Any], name: str, maximum: float) -> float:
    value = fields[name]
    if type(value) not in (int, float) or not 0 <= value <= maximum:
        raise ValueError(f"its {name} is {value!r:.40}: expected a number from 0 to {maximum:g}")
    return float(value)


def _prompt_from_json(fields: Any, config: ModelConfig, space: ActionSpace) -> Prompt:
    channels, height, width = config.frame_shape
    if not isinstance(fields, dict) or not isinstance(fields["shape"], list):
        raise ValueError("its prompt has no shape")
    if any(type(size) is not int for size in fields["shape"]) or len(fields["shape"]) != 4:
        raise ValueError(f"its prompt has shape {fields['shape']!r:.60}: expected 4 integers")
    num_frames, *frame_shape = fields["shape"]
    max_frames = max(1, config.window_frames - 1)
    if frame_shape != [height, width, channels] or not 1 <= num_frames <= max_frames:
        raise ValueError(f"its prompt has shape {fields['shape']!r:.60}, which does not fit the checkpoint")
    compressed, num_bytes = base64.b64decode(fields["frames"]), num_frames * height * width * channels
    pixels = zlib.decompressobj().decompress(compressed, num_bytes + 1)  # the limit stops a decompression bomb
    if len(pixels) != num_bytes:
        raise ValueError(f"its prompt does not have {num_bytes} bytes of pixels")
    if not isinstance(fields["actions"], list) or len(fields["actions"]) != num_frames:
        raise ValueError("its prompt does not have one action per frame")
    actions = actions_from_json(fields["actions"], space)
    return Prompt(np.frombuffer(pixels, np.uint8).reshape(num_frames, *frame_shape), actions)
