"""The dream as a Gymnasium environment. Importing this package registers "Dreamrun/Dream-v0"."""

import gymnasium

from dreamrun.envs.dream import MAX_EPISODE_STEPS, DreamEnv, DreamVectorEnv

__all__ = ["DREAM_ID", "DreamEnv", "DreamVectorEnv"]

DREAM_ID = "Dreamrun/Dream-v0"

if DREAM_ID not in gymnasium.registry:
    gymnasium.register(
        DREAM_ID,
        entry_point="dreamrun.envs.dream:DreamEnv",
        vector_entry_point="dreamrun.envs.dream:DreamVectorEnv",
        max_episode_steps=MAX_EPISODE_STEPS,
    )
