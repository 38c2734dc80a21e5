"""The world model in plain torch: network, diffusion and sampler."""

from dreamrun.model.config import PRESETS, ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.model.outcome_head import Outcome
from dreamrun.model.sampler import Sampler

__all__ = ["PRESETS", "ModelConfig", "Outcome", "Sampler", "SamplerSettings", "WorldModel"]
