"""Replay files: JSON with everything that determines a rollout. `python -m scripts.infer --replay FILE` generates the
same frames again.

Shapes: T frames, H x W pixels, C channels.
"""

from __future__ import annotations

import base64
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.data.video import comparison
from dreamrun.games.ranges import Range
from dreamrun.games.space import ActionSpace, is_known
from dreamrun.games.untrusted import check_name, read_json
from dreamrun.model import ModelConfig, Sampler, WorldModel
from dreamrun.model.game_views import select_game
from dreamrun.model.options import RANGES, ResolvedSettings
from dreamrun.model.reference_sampler import ReferenceSampler
from dreamrun.model.sampler import rollout
from dreamrun.play.actions import actions_from_json, actions_to_json, playable_actions
from dreamrun.play.rollout_pool import Prompt, Rollout

FORMAT = "dreamrun-replay-1"
MAX_REPLAY_FRAMES = 200_000  # from the prompt on; a recording cannot start later in a rollout
MAX_CHECKPOINT_CHARS = 1000  # of the checkpoint's name


@dataclass(frozen=True)
class Replay:
    """A rollout from its prompt on, and the part of it that was recorded."""

    prompt: Prompt
    settings: ResolvedSettings
    weights_hash: str  # of the checkpoint, as `model.checkpoint.hash_weights` returns it
    actions: np.ndarray  # recorded actions since the prompt, (T,) or (T, names)
    first_recorded: int  # index of the recording's first frame; actions[i] leads into frame i
    checkpoint: str = ""  # name of the checkpoint, for people
    game: str = ""  # which one, of a checkpoint of several

    @classmethod
    def from_rollout(cls, rollout: Rollout, first_recorded: int, end: int, checkpoint: str, game: str = "") -> Replay:
        """A replay of frames `first_recorded` to `end` (exclusive) of a rollout."""
        if rollout.weights_changed:
            raise ValueError("There is no replay file: newer weights were loaded during this dream.")
        return cls(
            prompt=rollout.prompt,
            settings=rollout.settings,
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
            **self.settings.to_dict(text_name="words"),
            "first_recorded": self.first_recorded,
            "actions": actions_to_json(self.actions),
            "prompt": prompt,
            **({"game": self.game} if self.game else {}),
        }
        return json.dumps(fields) + "\n"

    @classmethod
    def read(cls, path: Path, model: WorldModel) -> Replay:
        """Read a replay for this model, which may be of several games. The file may come from a stranger."""
        try:
            fields = read_json(path)
            if fields["format"] != FORMAT:
                raise ValueError(f"its format is {fields['format']!r:.40}, not {FORMAT}")
            game = check_name("game", fields.get("game", ""))
            settings = {name: fields[name] for name in RANGES if name in fields}  # an old file may lack a newer one
            model = select_game(model, game)
            space = playable_actions(model)
            actions = actions_from_json(fields["actions"], space, MAX_REPLAY_FRAMES)
            if not is_known(actions).all():
                raise ValueError("some of its actions are unknown")
            Range(0, len(actions) - 1).check("first_recorded", fields["first_recorded"])
            return cls(
                prompt=_prompt_from_json(fields["prompt"], model.config, space),
                settings=ResolvedSettings(**settings, text=fields.get("words")),
                weights_hash=check_name("weights_sha256", fields["weights_sha256"]),
                actions=actions,
                first_recorded=fields["first_recorded"],
                checkpoint=check_name("checkpoint", fields["checkpoint"], MAX_CHECKPOINT_CHARS),
                game=game,
            )
        except (KeyError, TypeError, AttributeError, OverflowError, zlib.error, ValueError) as error:
            raise ValueError(f"{path} is not a replay for this checkpoint: {type(error).__name__}: {error}") from None

    def check_weights(self, weights_hash: str, checkpoint: str, path: Path) -> None:
        """Check that a checkpoint is the one that the replay, read from `path`, was recorded with."""
        if self.weights_hash != weights_hash:
            raise ValueError(
                f"{path} was recorded with another checkpoint than {checkpoint}: "
                f"pass the folder of {self.checkpoint} (weights {self.weights_hash[:12]}...) with --checkpoint"
            )

    def generate_frames(self, model: WorldModel, cache: bool = True) -> np.ndarray:
        """Generate the recorded frames again, uint8 (T, H, W, C), with a model that `prepare_for_inference` returned.

        They differ by at most one grey level if other players shared the batch.
        """
        model = select_game(model, self.game)
        space = playable_actions(model)
        sampler = (Sampler if cache else ReferenceSampler)(model, self.settings)
        vectors = torch.from_numpy(space.vectors(np.concatenate((self.prompt.actions, self.actions))))
        generated = rollout(sampler, to_float(np.array(self.prompt.frames))[None], vectors[None], "dreaming")
        return np.concatenate([to_uint8(frame) for frame in generated][self.first_recorded :])

    def video(self, model: WorldModel, cache: bool = True) -> np.ndarray:
        """The recorded frames with the pressed keys, uint8 (T, height, width, 3)."""
        space = playable_actions(select_game(model, self.game))
        frames, actions = self.generate_frames(model, cache), self.actions[self.first_recorded :]
        return comparison(None, frames[None], actions[None], space)


def _prompt_from_json(fields: Any, config: ModelConfig, space: ActionSpace) -> Prompt:
    channels, height, width = config.frame_shape
    actions = actions_from_json(fields["actions"], space, max(1, config.window_frames - 1))
    shape = [len(actions), height, width, channels]
    if fields["shape"] != shape:
        raise ValueError(f"its prompt has shape {fields['shape']!r:.60}, which does not fit the checkpoint: {shape}")
    num_bytes = math.prod(shape)
    # The limit stops a decompression bomb.
    pixels = zlib.decompressobj().decompress(base64.b64decode(fields["frames"]), num_bytes + 1)
    if len(pixels) != num_bytes:
        raise ValueError(f"its prompt does not have {num_bytes} bytes of pixels")
    return Prompt(np.frombuffer(pixels, np.uint8).reshape(shape), actions)
