"""Where dreams can begin: any moment of any record of a data folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.dataset import ClipDataset
from data.games.factory import describe_environment
from data.records import Record
from model import WorldModel
from play.real_game import RealGame
from play.rollout_pool import Prompt
from training.setup import check_model_fits_data

NUM_SHOWN = 8  # records whose pictures the page shows at once


class Gallery:
    """The records of one split.

    Raises:
        ValueError: no such data, or of another game than the model's.
    """

    def __init__(self, folder: Path, split: str, model: WorldModel):
        self._dataset = ClipDataset(folder, split, clip_frames=1)
        check_model_fits_data(model, self._dataset.metadata, folder)
        self._room = max(1, model.config.window_frames - 1)

    def __len__(self) -> int:
        return len(self._dataset.index.lengths)

    def num_frames(self, record_id: int) -> int:
        """How long a record is."""
        return int(self._dataset.index.lengths[record_id])

    def default_moment(self, record_id: int) -> int:
        """The middle of a record: by then something has happened, and there is a window of frames before it."""
        return max(self.num_frames(record_id) // 2, min(self._room, self.num_frames(record_id)) - 1)

    def prompt(self, record_id: int, moment: int) -> Prompt:
        """The frames up to a moment, as many as the window has room for.

        Raises:
            ValueError: the record cannot be read any more.
        """
        record = self._record(record_id)
        begin, end = max(0, moment + 1 - self._room), moment + 1
        return Prompt(record.frames[begin:end], record.leading_actions()[begin:end], record_id, moment)

    def picture(self, record_id: int, moment: int) -> np.ndarray:
        """uint8 (H, W, C): what the dream would begin from."""
        return self._record(record_id).frames[moment]

    def real_game(self, prompt: Prompt) -> RealGame:
        """The real game at the moment of a prompt of ours.

        Raises:
            ValueError: there is none; says why.
        """
        return RealGame(self._record(prompt.record_id), self._dataset.metadata, prompt.moment)

    def why_no_real_game(self, prompt: Prompt) -> str | None:
        """Why there is no real game beside a prompt; None: there is."""
        if prompt.record_id is None:
            return "an image of your own has no real game"
        if self._record(prompt.record_id).level_seed is None:
            return "this record does not know its level"
        metadata = self._dataset.metadata
        try:
            described = describe_environment(metadata.environment, **dict(metadata.environment_options))
        except (ValueError, TypeError) as error:
            return str(error)
        if described.frame_shape != metadata.frame_shape or len(described.actions) != len(metadata.actions):
            return f"this data set is not of the {metadata.environment} that is installed"
        return None

    def _record(self, record_id: int) -> Record:
        return next(self._dataset.records([record_id]))
