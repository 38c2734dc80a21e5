"""From the game to batches. It knows no network.

`from data import EpisodeWriter` is for collectors of your own; nothing else is imported by that.
"""

from data.actions import ActionSpace
from data.episode_writer import EpisodeWriter

__all__ = ["ActionSpace", "EpisodeWriter"]
