"""TODO."""

from __future__ import annotations

import numpy as np

from data.actions import ActionSpace

JITTER = 0.25  # of an interval, by which a time stamp may be early


def ticks(frame_times: np.ndarray, fps: float) -> np.ndarray:
    """(T,) the picture shown at each tick of 1 / fps seconds: the latest, where one may be early by its jitter."""
    early = early_secs(frame_times, fps)
    num_ticks = int((frame_times[-1] + early) * fps) + 1
    return np.searchsorted(frame_times, np.arange(num_ticks) / fps + early, side="right") - 1


def resample(times: np.ndarray, actions: np.ndarray, space: ActionSpace, num_ticks: int, fps: float) -> np.ndarray:
    """What was done in each tick of 1 / fps seconds, so that no key press is lost between two frames.

    A button that was held at any time in a tick is held; the motion of an axis is summed; of ids, the most frequent one
    that does something counts. What is held stays so until the next row; an axis rests then.

    Args:
        times: (R,) seconds, in order, from when on each row holds.
        actions: recorded ones, (R,) or (R, names).

    Returns:
        (T,) or (T, names).
    """
    tick = np.floor((times + early_secs(times, fps)) * fps).astype(int)
    rows = np.flatnonzero((tick >= 0) & (tick < num_ticks))
    starts = np.arange(num_ticks) / fps
    # The row that holds when a tick begins: it counts if no other one comes for half of the tick.
    before = np.searchsorted(tick, np.arange(num_ticks)) - 1
    next_times = np.append(times, np.inf)[before + 1]
    carried = np.flatnonzero((before >= 0) & (next_times - starts > 0.5 / fps))
    every_tick = np.concatenate((carried, tick[rows]))
    every_row = np.concatenate((before[carried], rows))
    if space.discrete:
        return _most_frequent(every_tick, actions[every_row], space, num_ticks)
    is_axis = np.array(space.kinds) == "axis"
    held = np.zeros((num_ticks, len(space.names)), np.float32)
    np.maximum.at(held, every_tick, np.where(is_axis, -np.inf, actions[every_row]).astype(np.float32))
    moved = np.zeros_like(held)
    np.add.at(moved, tick[rows], actions[rows])
    return np.where(is_axis, moved, held)


def _most_frequent(tick: np.ndarray, ids: np.ndarray, space: ActionSpace, num_ticks: int) -> np.ndarray:
    """(T,) int32 of ids that were taken in ticks; those that do something first, then the more frequent, then lower."""
    counts = np.zeros((num_ticks, len(space.names)))
    np.add.at(counts, (tick, ids), 1.0)
    does = np.zeros(len(space.names))
    does[[i for i in space.acting if i != space.noop]] = 1.0 + len(tick)
    counts[:, space.noop] += 0.5 * (counts.sum(1) == 0)
    return (counts + does * (counts > 0)).argmax(1).astype(np.int32)


def early_secs(times: np.ndarray, fps: float) -> float:
    """By how many seconds a time stamp may be early, as they are rounded."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    return JITTER * min(1 / fps, interval) if interval > 0 else 0.0
