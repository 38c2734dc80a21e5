"""The one random generator of clips, Pong and Gymnasium's levels never changes."""

import zlib

import numpy as np

from dreamrun.data.dataset import clip_seeds
from dreamrun.games.factory import make_environment
from dreamrun.games.splitmix import splitmix64_next


def test_first_numbers_are_those_of_the_reference():
    """The published generator, in Python's own integers: the state is a counter that is hashed."""
    mask = (1 << 64) - 1
    counters = [0, 1, 1234567, mask]
    expected = []
    for counter in counters:
        z = (counter + 0x9E3779B97F4A7C15) & mask
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        expected.append(z ^ (z >> 31))
    assert splitmix64_next(np.array(counters, np.uint64)).tolist() == expected
    assert expected[0] == 0xE220A8397B1DCDAF  # of the reference implementation with seed 0


def test_clip_seeds_never_change():
    """Numbers that the code gave when `clip_seeds` mixed by itself."""
    seeds = clip_seeds(7, 3, np.array([0, 1, 5, 1000]), np.array([0, 8, 128, 3]))
    assert seeds.tolist() == [14181437380927821408, 7547997032060891214, 10530864659438663035, 10408230360948021989]


def test_pong_never_changes():
    """Levels and frames that the code gave when Pong had a generator of its own."""
    environment = make_environment("pong", 3, levels=(5, 1000), seed=11)
    frames, info = environment.reset()
    assert info["level_seed"].tolist() == [941, 658, 508] and zlib.crc32(frames.tobytes()) == 997722592
    rng = np.random.default_rng(0)
    played, levels = [], []
    for _ in range(400):
        frames, *_, info = environment.step(rng.integers(0, 3, 3))
        played.append(frames)
        levels.append(info["level_seed"].copy())
    assert levels[-1].tolist() == [495, 676, 446] and zlib.crc32(np.stack(levels).tobytes()) == 1436569000
    assert zlib.crc32(np.stack(played).tobytes()) == 2785336890
