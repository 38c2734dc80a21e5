"""The world model in plain torch: network, diffusion and sampler. It imports nothing local outside this package."""

from model.config import PRESETS, ModelConfig
from model.dit import WorldModel
from model.game_info import GameInfo
from model.outcomes import Outcome
from model.sampler import Sampler

__all__ = ["PRESETS", "GameInfo", "ModelConfig", "Outcome", "Sampler", "WorldModel"]
