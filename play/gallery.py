"""Prompts for players: any moment of any record of a data set, and the real game at that moment."""

from collections import deque
from pathlib import Path

import numpy as np

from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metrics import psnr_from_mse
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.records import Record
from dreamrun.games.factory import find_recorded
from dreamrun.games.game import Game
from dreamrun.games.untrusted import printable
from dreamrun.model import WorldModel
from dreamrun.model.game_views import check_model_fits_data
from dreamrun.play.rollout_pool import Prompt

NUM_THUMBNAILS = 8  # records that players see at once
PSNR_WINDOW = 15  # frames whose squared errors are averaged
MAX_PSNR = 99.0  # dB; of identical pictures, as JSON has no infinity


class RealGame:
    """One instance of the real game beside a dream: replayed to the moment of a prompt, then under the same actions.

    Create it in a worker thread: importing Procgen takes seconds. The engine steps it on the model thread.
    """

    def __init__(self, record: Record, metadata: Game, moment: int):
        self.environment, self.frame = replay_to(record, metadata, moment)  # frame: the current one, uint8 (H, W, C)
        self.ended = False  # the episode has ended at least once, and a new one has begun
        self._num_actions = 0
        self._squared_errors: deque[float] = deque(maxlen=PSNR_WINDOW)

    def apply_new_actions(self, actions: list[int | np.ndarray]) -> None:
        """Step the game with those actions since the prompt that it has not received yet."""
        for action in actions[self._num_actions :]:
            frames, _, terminations, truncations, _ = self.environment.step(np.array([action]))
            self.frame, self.ended = frames[0], self.ended or bool(terminations[0] or truncations[0])
        self._num_actions = len(actions)

    def psnr(self, dream: np.ndarray) -> float:
        """PSNR in dB of the dream's frames against the real ones, over PSNR_WINDOW frames up to this one."""
        self._squared_errors.append(float(np.square(dream.astype(np.float32) - self.frame.astype(np.float32)).mean()))
        return min(MAX_PSNR, float(psnr_from_mse(np.mean(self._squared_errors))))


class Gallery:
    """The records of one split, as prompts; with `any_game` also of another game than the model's."""

    def __init__(self, folder: Path, split: str, model: WorldModel, any_game: bool = False):
        self._dataset = ClipDataset(folder, split, clip_frames=1)
        check_model_fits_data(model, self._dataset.metadata, folder, any_game)
        self._max_prompt_frames = max(1, model.config.window_frames - 1)
        # Frames uint8 (H, W, C) of the first records.
        shown = range(min(NUM_THUMBNAILS, len(self)))
        self.thumbnails = [self._record(i).frames[self.default_moment(i)] for i in shown]

    def __len__(self) -> int:
        return len(self._dataset.index.lengths)

    def num_frames(self, record_id: int) -> int:
        """Length of a record."""
        return int(self._dataset.index.lengths[record_id])

    def default_moment(self, record_id: int) -> int:
        """The middle of a record, or later if the middle leaves fewer frames before it than fit in a prompt."""
        num_frames = self.num_frames(record_id)
        return max(num_frames // 2, min(self._max_prompt_frames, num_frames) - 1)

    def prompt(self, record_id: int, moment: int) -> Prompt:
        """The frames up to and including a moment, as many as fit in the window."""
        record = self._record(record_id)
        begin, end = max(0, moment + 1 - self._max_prompt_frames), moment + 1
        return Prompt(record.frames[begin:end], record.leading_actions()[begin:end], record_id, moment)

    def real_game(self, prompt: Prompt) -> RealGame:
        """The real game at the moment of a prompt of this gallery."""
        return RealGame(self._record(prompt.record_id), self._dataset.metadata, prompt.moment)

    def real_game_unavailable_reason(self, prompt: Prompt) -> str | None:
        """Why the real game cannot run beside a rollout from this prompt; None if it can."""
        if prompt.record_id is None:
            return "There is no real game for your own image."
        if self._record(prompt.record_id).level_seed is None:
            return "This record has no level seed."
        try:
            find_recorded(self._dataset.metadata)
        except ValueError as error:
            return printable(error)
        return None

    def _record(self, record_id: int) -> Record:
        return next(self._dataset.records([record_id]))
