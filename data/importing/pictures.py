"""Pictures of any size and rate -> frames of one size, at the ticks of the data set.

Shapes: K pictures of a recording, T frames (ticks of 1 / fps seconds) of the data set.
"""

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np
from av.sidedata.sidedata import Type

JITTER = 0.25  # share of an interval by which a time stamp may be too early, as time stamps are rounded
Fit = Literal["crop", "pad", "stretch"]


def pictures_at_ticks(frame_times: np.ndarray, fps: float) -> np.ndarray:
    """(T,) number of the picture shown at each tick of 1 / fps seconds: the latest, allowing for jitter.

    Args:
        frame_times: (K,) seconds of the pictures.
    """
    jitter = jitter_secs(frame_times, fps)
    num_ticks = int((frame_times[-1] + jitter) * fps) + 1
    return np.searchsorted(frame_times, np.arange(num_ticks) / fps + jitter, side="right") - 1


def jitter_secs(times: np.ndarray, fps: float) -> float:
    """Seconds by which a time stamp may be too early."""
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1 / fps
    return JITTER * min(1 / fps, interval) if interval > 0 else 0.0


class Resizer:
    """Turns and mirrors pictures as their display matrix says, resizes them by area averaging and converts them to RGB.

    FFmpeg's filters do this.

    Args:
        width, height: of the frames, pixels.
        fit: for pictures of another aspect ratio: "crop" their edges, "pad" them with black bars, or "stretch" them.
    """

    def __init__(self, width: int, height: int, fit: Fit):
        self.width, self.height, self.fit = width, height, fit
        self._graph: av.filter.Graph | None = None
        self._input_format: tuple | None = None  # of the pictures that the graph was made for

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """The frame of a picture, uint8 (height, width, 3)."""
        orientation = _orientation(picture)
        input_format = (picture.width, picture.height, picture.format.name, orientation, picture.colorspace)
        if input_format != self._input_format:  # it may change within a stream
            self._graph, self._input_format = self._make_graph(picture, orientation), input_format
        picture.pts = None
        self._graph.push(picture)
        return self._graph.pull().to_ndarray()

    def _make_graph(self, picture: av.VideoFrame, orientation: tuple[bool, bool, bool]) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        width, height = picture.width, picture.height
        nodes = [graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, 1000))]
        for name, options in self._filters(width, height, orientation):
            nodes.append(graph.add(name, options))
        nodes.append(graph.add("format", "rgb24"))
        nodes.append(graph.add("buffersink"))
        for node, next_node in pairwise(nodes):
            node.link_to(next_node)
        graph.configure()
        return graph

    def _filters(self, width: int, height: int, orientation: tuple[bool, bool, bool]) -> list[tuple[str, str | None]]:
        """FFmpeg filters and their options for pictures of an `_orientation`."""
        # FFmpeg calls a plain transposition "cclock_flip".
        steps = (("transpose", "cclock_flip"), ("hflip", None), ("vflip", None))
        filters = [step for step, is_needed in zip(steps, orientation, strict=True) if is_needed]
        if orientation[0]:
            width, height = height, width
        too_wide = width * self.height > height * self.width
        inner_width, inner_height = self.width, self.height
        if self.fit == "crop":
            if too_wide:
                width = max(1, round(height * self.width / self.height))
            else:
                height = max(1, round(width * self.height / self.width))
            filters.append(("crop", f"{width}:{height}:exact=1"))
        elif self.fit == "pad" and too_wide:
            inner_height = max(1, round(self.width * height / width))
        elif self.fit == "pad":
            inner_width = max(1, round(self.height * width / height))
        filters.append(("scale", f"{inner_width}:{inner_height}:flags=area"))
        if self.fit == "pad":
            left, top = (self.width - inner_width) // 2, (self.height - inner_height) // 2
            filters += [("format", "rgb24"), ("pad", f"{self.width}:{self.height}:{left}:{top}")]
        return filters


def _orientation(picture: av.VideoFrame) -> tuple[bool, bool, bool]:
    """Whether to transpose a picture, then mirror its columns, then its rows, so that it is as its display matrix says.

    A matrix of another kind, such as a rotation by 45 degrees, is ignored.
    """
    matrix = picture.side_data.get(Type.DISPLAYMATRIX)
    if matrix is None:
        return False, False, False
    # It moves pixel (x, y) to (a x + c y, b x + d y).
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    if a and d and abs(b) + abs(c) < 0.02 * abs(a):
        return False, a < 0, d < 0
    if b and c and abs(a) + abs(d) < 0.02 * abs(b):
        return True, c < 0, b < 0
    return False, False, False
