"""Pictures of any size -> frames of one size."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from typing import Literal

import av
import numpy as np

Fit = Literal["crop", "pad", "stretch"]


class Fitter:
    """Turns pictures upright, brings them to one size by averaging over areas, and to RGB; by FFmpeg's filters.

    Args:
        width, height: of the frames, pixels.
        fit: what happens to pictures of another shape: their edges are cut off ("crop"), they get black bars ("pad"),
            or they are drawn out ("stretch").
    """

    def __init__(self, width: int, height: int, fit: Fit):
        self.width, self.height, self.fit = width, height, fit
        self._graph: av.filter.Graph | None = None
        self._kind: tuple | None = None  # of the pictures that the graph is made for

    def __call__(self, picture: av.VideoFrame) -> np.ndarray:
        """uint8 (height, width, 3)."""
        kind = (picture.width, picture.height, picture.format.name, picture.rotation, picture.colorspace)
        if kind != self._kind:  # a stream may change in its middle
            self._graph, self._kind = self._make_graph(picture), kind
        picture.pts = None
        self._graph.push(picture)
        return self._graph.pull().to_ndarray()

    def _make_graph(self, picture: av.VideoFrame) -> av.filter.Graph:
        graph = av.filter.Graph()
        graph.threads = 1
        width, height = picture.width, picture.height
        ends = [graph.add_buffer(width=width, height=height, format=picture.format, time_base=Fraction(1, 1000))]
        for name, options in _filters(width, height, round(picture.rotation), self.width, self.height, self.fit):
            ends.append(graph.add(name, options))
        ends.append(graph.add("format", "rgb24"))
        ends.append(graph.add("buffersink"))
        for before, after in pairwise(ends):
            before.link_to(after)
        graph.configure()
        return graph


def _filters(
    width: int, height: int, rotation: int, to_width: int, to_height: int, fit: Fit
) -> list[tuple[str, str | None]]:
    """FFmpeg's filters and their options, for pictures whose display matrix turns them by so many degrees."""
    turns = {90: [("transpose", "cclock")], 180: [("hflip", None), ("vflip", None)], 270: [("transpose", "clock")]}
    filters = list(turns.get(rotation % 360, ()))
    if rotation % 180:
        width, height = height, width
    wide = width * to_height > height * to_width  # wider than wanted
    if fit == "crop":
        if wide:
            width = max(1, round(height * to_width / to_height))
        else:
            height = max(1, round(width * to_height / to_width))
        filters.append(("crop", f"{width}:{height}:exact=1"))
    inner_width, inner_height = to_width, to_height
    if fit == "pad":
        if wide:
            inner_height = max(1, round(to_width * height / width))
        else:
            inner_width = max(1, round(to_height * width / height))
    filters.append(("scale", f"{inner_width}:{inner_height}:flags=area"))
    if fit == "pad":
        left, top = (to_width - inner_width) // 2, (to_height - inner_height) // 2
        filters += [("format", "rgb24"), ("pad", f"{to_width}:{to_height}:{left}:{top}")]
    return filters
