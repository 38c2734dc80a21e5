"""The world model: pure torch. It knows no disk layout of data sets, no user interface and no training."""

from model.config import PRESETS, ModelConfig
from model.dit import WorldModel
from model.game_info import GameInfo
from model.sampler import Sampler

__all__ = ["PRESETS", "GameInfo", "ModelConfig", "Sampler", "WorldModel"]
