"""All that a dream follows from, as a JSON file: `python -m scripts.infer --replay FILE` makes the same frames again.

Shapes: T frames, H x W pixels, C channels.
"""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from data.actions import is_known
from data.pixels import to_uint8
from model import Sampler, WorldModel
from play.actions import from_plain, playable_actions, to_plain
from play.rollout_pool import CONTEXT_NOISE, Prompt, Rollout, RolloutSettings, as_tensors

FORMAT = "dreamrun-replay-1"


@dataclass(frozen=True)
class Replay:
    """A dream from its prompt on, and which part of it was recorded."""

    prompt: Prompt
    seed: int
    settings: RolloutSettings
    context_noise: float
    weights: str  # hash of the checkpoint's, as from `training.checkpoint.hash_weights`
    actions: np.ndarray  # recorded ones, since the prompt
    first: int  # place of the recording's first frame among those that the actions led to
    checkpoint: str = ""  # what it was called there, for people

    @classmethod
    def of(cls, dream: Rollout, first: int, end: int, checkpoint: str) -> Replay:
        """Frames `first` to `end` of a dream.

        Raises:
            ValueError: the weights have changed on the way (`--follow`).
        """
        if dream.changed_weights:
            raise ValueError("newer weights were taken over during this dream: it cannot be made again")
        actions = np.array(dream.actions[:end])
        return cls(dream.prompt, dream.seed, dream.settings, CONTEXT_NOISE, dream.weights, actions, first, checkpoint)

    def to_json(self) -> str:
        """The file's text. The prompt's frames are in it, packed: it needs nothing but the checkpoint."""
        frames = self.prompt.frames
        prompt = {
            "record": self.prompt.record_id,
            "moment": self.prompt.moment,
            "shape": list(frames.shape),
            "frames": base64.b64encode(zlib.compress(np.ascontiguousarray(frames).tobytes(), 9)).decode(),
            "actions": to_plain(self.prompt.actions),
        }
        fields = {"format": FORMAT, "checkpoint": self.checkpoint, "weights_sha256": self.weights, "seed": self.seed}
        fields |= {"num_steps": self.settings.num_steps, "guidance": self.settings.guidance}
        fields |= {"context_noise": self.context_noise, "first_recorded": self.first, "actions": to_plain(self.actions)}
        return json.dumps({**fields, "prompt": prompt}) + "\n"

    @classmethod
    def read(cls, path: Path, model: WorldModel) -> Replay:
        """Read a replay for this model.

        Raises:
            ValueError: not a replay, or one of another game.
        """
        try:
            fields = json.loads(path.read_text())
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r:.40}, not {FORMAT}")
            prompt, space = fields["prompt"], playable_actions(model)
            channels, height, width = model.config.frame_shape
            num_frames, *shape = map(int, prompt["shape"])
            if shape != [height, width, channels] or not 1 <= num_frames <= max(1, model.config.window_frames - 1):
                raise ValueError(f"its prompt is of shape {prompt['shape']}, which does not fit the checkpoint")
            packed, num_bytes = base64.b64decode(prompt["frames"]), num_frames * height * width * channels
            pixels = zlib.decompressobj().decompress(packed, num_bytes)  # never more than it should be
            actions, leading = from_plain(fields["actions"], space), from_plain(prompt["actions"], space)
            if not len(actions) or not is_known(actions).all():
                raise ValueError("not all of its actions are known")
            if len(leading) != num_frames:
                raise ValueError("its prompt's actions are not one a frame")
            first = int(fields["first_recorded"])
            if not 0 <= first < len(actions):
                raise ValueError(f"first_recorded is {first}, of {len(actions)} frames")
            return cls(
                prompt=Prompt(np.frombuffer(pixels, np.uint8).reshape(num_frames, *shape), leading),
                seed=int(fields["seed"]),
                settings=RolloutSettings(int(fields["num_steps"]), float(fields["guidance"])),
                context_noise=float(fields["context_noise"]),
                weights=str(fields["weights_sha256"]),
                actions=actions,
                first=first,
                checkpoint=str(fields["checkpoint"]),
            )
        except (KeyError, TypeError, AttributeError, OverflowError, zlib.error, ValueError) as error:
            raise ValueError(f"{path} is not a replay that fits: {type(error).__name__}: {error}") from None

    def dream(self, model: WorldModel, cache: bool = True) -> np.ndarray:
        """Make the recorded frames again: uint8 (T, H, W, C), within a grey level where others shared the batch.

        Args:
            model: ready to dream, as from `for_dreaming`.
        """
        space = playable_actions(model)
        sampler = Sampler(
            model, self.settings.num_steps, self.context_noise, cache=cache, guidance=self.settings.guidance
        )
        sampler.reset(*as_tensors(self.prompt, space), slots=[0], seeds=[self.seed])
        vectors = torch.from_numpy(space.vectors(self.actions))
        dreamt = [to_uint8(sampler.step(vector[None]))[0] for vector in tqdm(vectors, desc="dreaming", unit=" frames")]
        return np.stack(dreamt[self.first :])
