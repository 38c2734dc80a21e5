"""Held-out clips of real Pong that the metrics are tested on."""

from dataclasses import replace

import numpy as np
import pytest
from artificial import PROMPT

from dreamrun.data.clips import draw_clips
from dreamrun.data.dataset import ClipDataset


@pytest.fixture(scope="session")
def held_out(pong_set):
    return ClipDataset(pong_set, "test", clip_frames=1)


@pytest.fixture(scope="session")
def clips(held_out):
    """Three clips, one of which ends early."""
    clips = draw_clips(held_out, 3, PROMPT + 20, PROMPT + 1, seed=0)
    return replace(clips, lengths=np.array([PROMPT + 20, PROMPT + 12, PROMPT + 20]))
