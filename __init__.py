"""Dreamrun: world models that anyone can train and play.

Names are imported at their first use: `import dreamrun` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dreamrun.data import EpisodeWriter
    from dreamrun.data.clips import load_prompts
    from dreamrun.games.space import ActionSpace
    from dreamrun.model import Sampler, WorldModel

__all__ = ["ActionSpace", "EpisodeWriter", "Sampler", "WorldModel", "load_prompts"]
_MODULES = {
    "ActionSpace": "games.space",
    "EpisodeWriter": "data",
    "Sampler": "model",
    "WorldModel": "model",
    "load_prompts": "data.clips",
}


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
