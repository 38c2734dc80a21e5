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

from data.actions import ActionSpace, is_known
from data.pixels import to_uint8
from model import ModelConfig, Sampler, WorldModel
from play.actions import actions_from_json, actions_to_json, playable_actions
from play.recording import rollout_video
from play.rollout_pool import CONTEXT_NOISE, Prompt, Rollout, RolloutSettings, prompt_tensors

FORMAT = "dreamrun-replay-1"


@dataclass(frozen=True)
class Replay:
    """A rollout from its prompt on, and the part of it that was recorded."""

    prompt: Prompt
    seed: int
    settings: RolloutSettings
    context_noise: float
    weights_hash: str  # of the checkpoint, as `training.checkpoint.hash_weights` returns it
    actions: np.ndarray  # recorded actions since the prompt, (T,) or (T, names)
    first_recorded: int  # index of the recording's first frame; actions[i] leads into frame i
    checkpoint: str = ""  # name of the checkpoint, for people

    @classmethod
    def from_rollout(cls, rollout: Rollout, first_recorded: int, end: int, checkpoint: str) -> Replay:
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
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def read(cls, path: Path, model: WorldModel) -> Replay:
        """Read a replay for this model.

        Raises:
            ValueError: the file is not a replay, or it is from another game.
        """
        try:
            fields, space = json.loads(path.read_text()), playable_actions(model)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r:.40}, not {FORMAT}")
            prompt = _prompt_from_json(fields["prompt"], model.config, space)
            actions, first_recorded = actions_from_json(fields["actions"], space), int(fields["first_recorded"])
            if not len(actions) or not is_known(actions).all():
                raise ValueError("some of its actions are unknown")
            if not 0 <= first_recorded < len(actions):
                raise ValueError(f"first_recorded is {first_recorded}, but there are {len(actions)} frames")
            return cls(
                prompt=prompt,
                seed=int(fields["seed"]),
                settings=RolloutSettings(int(fields["num_steps"]), float(fields["guidance"])),
                context_noise=float(fields["context_noise"]),
                weights_hash=str(fields["weights_sha256"]),
                actions=actions,
                first_recorded=first_recorded,
                checkpoint=str(fields["checkpoint"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, zlib.error, ValueError) as error:
            raise ValueError(f"{path} is not a replay for this checkpoint: {type(error).__name__}: {error}") from None

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
        return rollout_video(frames, self.actions[self.first_recorded :], playable_actions(model))


def _prompt_from_json(fields: dict[str, Any], config: ModelConfig, space: ActionSpace) -> Prompt:
    channels, height, width = config.frame_shape
    num_frames, *frame_shape = map(int, fields["shape"])
    max_frames = max(1, config.window_frames - 1)
    if frame_shape != [height, width, channels] or not 1 <= num_frames <= max_frames:
        raise ValueError(f"its prompt has shape {fields['shape']}, which does not fit the checkpoint")
    compressed, num_bytes = base64.b64decode(fields["frames"]), num_frames * height * width * channels
    pixels = zlib.decompressobj().decompress(compressed, num_bytes)  # the limit stops a decompression bomb
    actions = actions_from_json(fields["actions"], space)
    if len(actions) != num_frames:
        raise ValueError("its prompt does not have one action per frame")
    return Prompt(np.frombuffer(pixels, np.uint8).reshape(num_frames, *frame_shape), actions)
