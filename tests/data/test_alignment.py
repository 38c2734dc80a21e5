"""The check that actions and frames are aligned names the right lag, or says that it cannot tell.

python tests/data/test_alignment.py    the whole table: holds by lags by seeds
"""

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from runs import ROOT

from dreamrun.data.alignment import check_alignment
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.records import Record
from dreamrun.games.space import ActionSpace

SPACE = ActionSpace(("noop", "left", "right"), ((), ("LEFT",), ("RIGHT",)), (0, 1, 2))
HOLDS = {"1": 1, "4": 4, "random 3": 3.0, "random 6": 6.0, "random 12": 12.0}  # frames; random ones: their mean
LAGS = range(-5, 16)


def held_play(hold: int | float, lag: int, seed: int, glide: float = 0.0, num_frames: int = 640) -> list[Record]:
    """Records of a picture that scrolls by 2 pixels where held keys say, `lag` frames too late.

    Args:
        hold: frames for which each key is held; a float is the mean of an exponential distribution.
        glide: share of the motion that each frame keeps.
    """
    rng, length = np.random.default_rng((seed, lag + 99, int(hold))), num_frames + 200
    drawn = np.maximum(1, rng.exponential(hold, length).round()).astype(int)
    held = np.repeat(rng.integers(0, 3, length), drawn if isinstance(hold, float) else hold)
    held = held[rng.integers(0, 4) :]
    speed, velocity = 2.0 * np.array([0, -1, 1])[held[100 - lag :][:num_frames]], np.zeros(num_frames)
    for t in range(num_frames):
        velocity[t] = glide * velocity[t - 1] + (1 - glide) * speed[t]
    places = np.append(0, velocity.cumsum()[:-1]).round().astype(int)
    places -= places.min()
    scene = np.kron(rng.integers(0, 255, (2, places.max() // 8 + 9)), np.ones((8, 8))).astype(np.uint8)
    frames = np.stack([np.repeat(scene[:, place : place + 64, None], 3, 2) for place in places])
    actions = held[100 : 100 + num_frames]
    return [Record(frames[at : at + 160], actions[at : at + 160]) for at in range(0, num_frames, 160)]


def outcome(hold: int | float, lag: int, seed: int, glide: float = 0.0, num_frames: int = 640) -> str:
    alignment = check_alignment(held_play(hold, lag, seed, glide, num_frames), SPACE)
    if alignment.verdict.startswith("inconclusive"):
        return "inconclusive"
    assert alignment.verdict.startswith("aligned") == (alignment.best_lag == 0)
    return "right" if alignment.best_lag == lag else "wrongly aligned" if not alignment.best_lag else "another lag"


@pytest.mark.parametrize("hold", HOLDS)
@pytest.mark.parametrize("lag", [-5, -1, 0, 1, 4, 6, 8, 15])
def test_held_keys_are_found_at_their_lag(hold, lag):
    assert outcome(HOLDS[hold], lag, seed=0) == "right"


@pytest.mark.parametrize("lag", [70, 90])
def test_a_lag_beyond_the_search_is_inconclusive(lag):
    assert {outcome(hold, lag, seed) for hold in (1, 4, 6.0) for seed in range(3)} == {"inconclusive"}


@pytest.mark.parametrize(
    "sample", ["coinrun", "pong", "games/bigfish", "games/leaper", "games/pong", "games/pong-wide"]
)
def test_the_samples_are_aligned_and_shifted_ones_are_not(sample):
    dataset = ClipDataset(ROOT / "samples" / sample, "test", clip_frames=1)
    records = list(dataset.records(range(len(dataset.index.lengths))))
    assert check_alignment(records, dataset.metadata.actions).verdict.startswith("aligned")
    for lag in (1, 4):
        shifted = [Record(record.frames[: len(record) - lag], record.actions[lag:]) for record in records]
        assert not check_alignment(shifted, dataset.metadata.actions).verdict.startswith("aligned")


def table(seeds: int) -> Iterator[tuple[tuple[str, float, int], Counter]]:
    """Outcomes over all lags and seeds, by hold, glide and number of frames."""
    for glide, length in ((0.0, 640), (0.0, 320), (0.6, 640), (0.6, 1920)):
        for name, hold in HOLDS.items():
            outcomes = Counter(outcome(hold, lag, seed, glide, length) for lag in LAGS for seed in range(seeds))
            yield (name, glide, length), outcomes


@pytest.mark.slow
def test_no_misaligned_play_is_called_aligned():
    for row, counts in table(seeds=3):
        conclusive = counts.total() - counts["inconclusive"]
        assert not counts["wrongly aligned"], (row, counts)
        assert counts["right"] >= 0.95 * conclusive, (row, counts)


if __name__ == "__main__":
    for (name, glide, length), counts in table(seeds=10):
        print(f"hold {name:9s} glide {glide} {length:4d} frames: {dict(counts)}", flush=True)
