"""Decode picture files and videos. All readers of recordings and clips use it, so all see what a player shows."""

import contextlib
import struct
from bisect import bisect_left
from collections.abc import Iterator
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.stream import Disposition
from PIL import Image, ImageOps

from dreamrun.data.video import DECORATED

TIME_TOLERANCE_SECS = 1e-4  # by which two time stamps of one picture may differ, as they are rounded
JUMP_SECS = 0.1  # by which time stamps may run back, as those of some recorders do
MAX_PIXEL_ASPECT = 10.0  # a wider or narrower pixel is an error of the file


class Picture(NamedTuple):
    """A decoded picture as it is stored; `Resizer` turns it upright and makes its pixels square."""

    frame: av.VideoFrame
    pixel_aspect: float = 1.0  # width of a stored pixel / its height


def read_picture(path: Path) -> Picture:
    """A picture file as viewers show it: turned as its EXIF data say, 16 bits reduced to 8, transparency on black."""
    try:
        with Image.open(path) as image:
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):  # 16-bit grey, which `convert` would clip
                image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
            if image.has_transparency_data:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
            return Picture(av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24"))
    # PIL raises all of these.
    except (OSError, ValueError, SyntaxError, TypeError, struct.error, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name} cannot be read: {error}") from None


@contextlib.contextmanager
def open_video(path: Path) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """A video's container and its track: the default one, else the first that is no cover.

    Errors, also later while it is read, become ValueErrors.
    """
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            tracks = [track for track in container.streams.video if not track.disposition & Disposition.attached_pic]
            if not tracks:
                raise ValueError("it has no video stream")
            if container.metadata.get("comment") == DECORATED:
                raise ValueError(f"{DECORATED}: give a video of frames alone, as `edit --plain` writes")
            default = (track for track in tracks if track.disposition & Disposition.default)
            yield container, next(default, tracks[0])
    except (av.FFmpegError, OSError, UnicodeEncodeError) as error:
        raise ValueError(f"it cannot be read: {getattr(error, 'strerror', None) or error}") from None


def video_times(path: Path) -> np.ndarray:
    """(K,) seconds from the first picture that can be decoded to each, by the time stamps of a video's packets."""
    with open_video(path) as (container, stream):
        packets = [
            (packet.pts, packet.dts) for packet in container.demux(stream) if packet.size and not packet.is_discard
        ]
        timestamps = [pts if pts is not None else dts for pts, dts in packets]
        rate, time_base = stream.average_rate or stream.guessed_rate, stream.time_base
    if not timestamps:
        raise ValueError("it holds no pictures")
    for number, (before, after) in enumerate(pairwise(dts for _, dts in packets if dts is not None), start=1):
        if (before - after) * time_base > JUMP_SECS:
            raise ValueError(f"its time stamps jump back at picture {number}, as in joined files: import the parts")
    first = None
    if all(pts is not None for pts, _ in packets):
        with contextlib.closing(_decode(path)) as decoded:
            first = next((picture.pts for picture, _ in decoded), None)
    if any(timestamp is None for timestamp in timestamps):
        if not rate:
            raise ValueError("it has neither time stamps nor a frame rate")
        return np.arange(len(timestamps)) / float(rate)
    timestamps = np.sort(np.array(timestamps, np.int64))
    if first is not None:  # a video that was cut out of a stream may begin between two key frames
        timestamps = timestamps[min(np.searchsorted(timestamps, first), len(timestamps) - 1) :]
    return (timestamps - timestamps[0]) * float(time_base)


def decode_video(path: Path, times: np.ndarray) -> Iterator[tuple[int, Picture]]:
    """Yield all pictures that can be decoded, in the order of display, deinterlaced, with their numbers.

    Args:
        times: (K,) from `video_times`. A picture's number is its index in it; pictures that are lost leave gaps.
    """
    number, first_secs, sorted_times = -1, None, times.tolist()
    for picture in _deinterlaced(_decode(path)):
        number += 1
        if picture.frame.pts is not None:  # pictures before it may be lost
            secs = picture.frame.pts * float(picture.frame.time_base)
            first_secs = secs if first_secs is None else first_secs
            number = max(number, bisect_left(sorted_times, secs - first_secs - TIME_TOLERANCE_SECS))
        yield number, picture


def _decode(path: Path) -> Iterator[Picture]:
    with open_video(path) as (container, stream):
        stream.thread_type = "AUTO"
        aspect = float(stream.sample_aspect_ratio or 1)
        aspect = aspect if 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT else 1.0
        for frame in container.decode(stream):
            yield Picture(frame, aspect)


def _deinterlaced(pictures: Iterator[Picture]) -> Iterator[Picture]:
    """One whole picture for each; those that are not marked as interlaced stay as they are (FFmpeg's bwdif)."""
    graph, aspect = None, 1.0
    for picture in chain(pictures, [None]):
        if not graph and picture and picture.frame.interlaced_frame:
            graph, aspect = av.filter.Graph(), picture.pixel_aspect
            graph.threads = 1
            source = graph.add_buffer(template=picture.frame)
            graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
            graph.configure()
        if graph:
            graph.push(picture.frame if picture else None)
            with contextlib.suppress(av.BlockingIOError, av.EOFError):
                while True:
                    yield Picture(graph.pull(), aspect)
        elif picture:
            yield picture
