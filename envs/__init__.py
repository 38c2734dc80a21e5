"""The dream as a Gymnasium environment. Importing this package registers "Dreamrun/Dream-v0", without torch."""

import importlib

from gymnasium.envs import registration

__all__ = ["DREAM_ID", "MAX_EPISODE_STEPS", "DreamEnv", "DreamVectorEnv", "register"]

DREAM_ID = "Dreamrun/Dream-v0"
MAX_EPISODE_STEPS = 256  # unless told otherwise


def register() -> None:
    """Tell Gymnasium about the dream. `gymnasium.make` imports the rest when it makes one."""
    if DREAM_ID not in registration.registry:
        registration.register(
            DREAM_ID,
            entry_point="dreamrun.envs.dream:DreamEnv",
            vector_entry_point="dreamrun.envs.dream:DreamVectorEnv",
            max_episode_steps=MAX_EPISODE_STEPS,
        )


def __getattr__(name: str):
    if name in ("DreamEnv", "DreamVectorEnv"):  # imported at their first use: torch takes seconds
        return getattr(importlib.import_module("dreamrun.envs.dream"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


register()
