"""One game of a server: the engine that plays it, and the prompts that its players start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dreamrun.play.actions import key_labels
from dreamrun.play.engine import Engine
from dreamrun.play.gallery import Gallery

MAX_NUM_STEPS = 32  # denoising steps that a player can ask for


@dataclass(frozen=True)
class PlayedGame:
    """What players of one game need."""

    engine: Engine  # generates frames for them
    gallery: Gallery  # prompts that they start from

    def describe(self) -> dict[str, Any]:
        """Fields of the "hello" message."""
        engine, space, (channels, height, width) = self.engine, self.engine.space, self.engine.config.frame_shape
        return {
            "game": engine.game.environment or "a game",
            "game_name": engine.pool.name,
            "checkpoint": engine.checkpoint_name,
            "height": height,
            "width": width,
            "channels": channels,
            "fps": engine.fps,
            "actions": space.names,
            "keys": key_labels(space),
            "aliases": space.key_aliases,
            "num_steps": engine.num_steps,
            "most_steps": MAX_NUM_STEPS,
            "num_records": len(self.gallery),
            "words": engine.pool.caption if engine.config.words else None,
        }
