"""The world model in plain torch: network, diffusion and sampler. It imports nothing local outside this package."""

from dreamrun.model.config import PRESETS, ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.model.sampler import Sampler

__all__ = ["PRESETS", "ModelConfig", "Outcome", "Sampler", "SamplerSettings", "WorldModel"]
