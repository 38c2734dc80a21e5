"""Recordings, records, shards, batches and measures of frames. Knows nothing of networks.

`from dreamrun.data import ActionSpace, EpisodeWriter` is all that your own collector needs.
It loads no games and no torch.
"""

from dreamrun.data.episode_writer import EpisodeWriter
from dreamrun.games.space import ActionSpace

__all__ = ["ActionSpace", "EpisodeWriter"]
