"""Games, recordings, records, shards and batches. Knows nothing of networks.

`from data import ActionSpace, EpisodeWriter` is all that your own collector needs; it loads no games and no torch.
"""

from data.actions import ActionSpace
from data.episode_writer import EpisodeWriter

__all__ = ["ActionSpace", "EpisodeWriter"]
