"""Resample pictures and actions to the frame rate of the data set.

Shapes: K pictures and R rows of actions of a recording, T frames (ticks of 1 / fps seconds) of the data set.
"""

from __future__ import annotations

import numpy as np

from dreamrun.games.space import ActionSpace

JITTER = 0.25  # share of an interval by which a time stamp may be too early, as time stamps are rounded


def pictures_at_ticks(frame_times: np.ndarray, fps: float) -> np.ndarray:
    """(T,) number of the picture shown at each tick of 1 / fps seconds: the latest, allowing for jitter.

    Args:
        frame_times: (K,) seconds of the pictures.
    """
    jitter = jitter_secs(frame_times, fps)
    num_ticks = int((frame_times[-1] + jitter) * fps) + 1
    return np.searchsorted(frame_times, np.arange(num_ticks) / fps + jitter, side="right") - 1


def resample_actions(
    times: np.ndarray, actions: np.ndarray, space: ActionSpace, num_ticks: int, fps: float
) -> np.ndarray:
    """The action of each tick of 1 / fps seconds, so that no key press between two frames is lost.

    A button is held in a tick if it was held at any time in it. The motion of an axis is summed. For ids: the most
    frequent acting one. Ids and buttons last until the next row; an axis returns to 0.

    Args:
        times: (R,) seconds, sorted, at which each row begins.
        actions: recorded actions, (R,) ids or (R, names) vectors.

    Returns:
        (T,) or (T, names).
    """
    tick = np.floor((times + jitter_secs(times, fps)) * fps).astype(int)
    rows = np.flatnonzero((tick >= 0) & (tick < num_ticks))
    starts = np.arange(num_ticks) / fps
    # The row that is active when a tick begins. It counts if no other row begins in the first half of the tick.
    active_row = np.searchsorted(tick, np.arange(num_ticks)) - 1
    next_times = np.append(times, np.inf)[active_row + 1]
    carried = np.flatnonzero((active_row >= 0) & (next_times - starts > 0.5 / fps))
    all_ticks = np.concatenate((carried, tick[rows]))
    all_rows = np.concatenate((active_row[carried], rows))
    if space.discrete:
        return _most_frequent(all_ticks, actions[all_rows], space, num_ticks)
    is_axis = np.array(space.kinds) == "axis"
    held = np.zeros((num_ticks, len(space.names)), np.float32)
    np.maximum.at(held, all_ticks, np.where(is_axis, -np.inf, actions[all_rows]).astype(np.float32))
    moved = np.zeros_like(held)
    np.add.at(moved, tick[rows], actions[rows])
    return np.where(is_axis, moved, held)


def _most_frequent(tick: np.ndarray, ids: np.ndarray, space: ActionSpace, num_ticks: int) -> np.ndarray:
    """(T,) int32, the id of each tick: an acting one before noop, then the more frequent, then the lower one."""
    counts = np.zeros((num_ticks, len(space.names)))
    np.add.at(counts, (tick, ids), 1.0)
    acting_bonus = np.zeros(len(space.names))
    acting_bonus[[i for i in space.acting if i != space.noop]] = 1.0 + len(tick)
    counts[:, space.noop] += 0.5 * (counts.sum(1) == 0)
    return (counts + acting_bonus * (counts > 0)).argmax(1).astype(np.int32)


def jitter_secs(times: np.ndarray, fps: float) -> float:
    """Seconds by which a time stamp may be too early."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    return JITTER * min(1 / fps, interval) if interval > 0 else 0.0
