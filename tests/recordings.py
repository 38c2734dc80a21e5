"""Small real recordings, made with PyAV: a wall that moves where the keys say.

python tests/recordings.py FOLDER    three videos of a minute each, to try docs/your_own_game.md with
"""

import json
import struct
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from dreamrun.data.importing.description import read_description

DESCRIBED = """
stand_still = ["fire"]
ignored = ["F3"]
[buttons]
left = ["A", "LEFT"]
right = ["D", "RIGHT"]
jump = "SPACE"
fire = []
[axes]
dx = 20
dy = {scale = 20, keys = ["I", "K"]}
"""


def play(num_frames: int, width: int = 96, height: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Frames (T, H, W, 3), and how fast the picture moves to the right after each, -3, 0 or 3 pixels (T,)."""
    rng = np.random.default_rng(seed)
    speed = np.repeat(rng.integers(-1, 2, num_frames // 4 + 1), 4)[:num_frames] * 3
    places = np.concatenate(([0], np.cumsum(speed)[:-1]))
    places -= places.min()
    blocks = -(-height // 8), (places.max() + width) // 8 + 1, 1
    scene = np.kron(rng.integers(0, 255, blocks), np.ones((8, 8, 1)))[:height]
    scene = (scene * (1.0, 0.8, 0.6)).astype(np.uint8)  # brown, which codecs that halve the colours' resolution keep
    return np.stack([scene[:, place : place + width] for place in places]), speed


def write_video(
    path: Path,
    frames: np.ndarray,
    fps: float = 20,
    codec: str = "libx264",
    stamps_ms=None,
    sound: bool = False,
    gop: int = 12,
    aspect: Fraction | None = None,
) -> None:
    """A video; `stamps_ms` in place of a constant rate, `gop` pictures between key frames, the `aspect` of a pixel."""
    pixel_format = {"mjpeg": "yuvj420p", "ffv1": "yuv444p", "gif": "rgb8"}.get(codec, "yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], pixel_format
        if codec == "libx264":
            stream.options = {"crf": "10", "preset": "veryfast", "x264-params": f"keyint={gop}:scenecut=0:open-gop=0"}
            stream.pix_fmt = "yuv444p" if frames.shape[1] % 2 or frames.shape[2] % 2 else "yuv420p"
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        noise = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        if stamps_ms is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if stamps_ms is not None:
                frame.pts, frame.time_base = int(stamps_ms[number]), Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if noise:
            samples = np.random.default_rng(0).normal(0, 0.1, (1, 16000)).astype(np.float32)
            heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
            heard.sample_rate, heard.pts = 16000, 0
            container.mux(noise.encode(heard))
            container.mux(noise.encode())


def read_video(video) -> np.ndarray:
    """The frames of a video, a path or a file, uint8 (T, H, W, 3)."""
    with av.open(str(video) if isinstance(video, Path) else video) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def turn(path: Path, degrees: int) -> None:
    """Write into an mp4's track header that it is to be shown turned clockwise by so many degrees."""
    cos, sin = {0: (1, 0), 90: (0, 1), 180: (-1, 0), 270: (0, -1)}[degrees]
    write_matrix(path, cos, sin, -sin, cos)


def write_matrix(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Write into an mp4's track header that pixel (x, y) is shown at (a x + c y, b x + d y)."""
    matrix = struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4 + 40  # version 0: flags, times, ids, layer, volume
    assert data[at : at + 4] == struct.pack(">i", 1 << 16)
    data[at : at + 36] = matrix
    path.write_bytes(data)


def write_csv(path: Path, speed: np.ndarray, times: np.ndarray | None = None) -> None:
    """Left and right as columns, and as much of dx; the time of each row, or none."""
    head = ("time," if times is not None else "") + "left,right,dx"
    lines = [f"{int(v < 0)},{int(v > 0)},{v}" for v in speed]
    if times is not None:
        lines = [f"{t:.5f},{line}" for t, line in zip(times, lines, strict=True)]
    path.write_text("\n".join([head, *lines]) + "\n")


def write_jsonl(path: Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True)
    (folder / "actions.toml").write_text(DESCRIBED)
    for seed in range(3):
        pictures, pressed = play(1800, seed=seed)
        write_video(folder / f"play{seed}.mp4", pictures.repeat(4, axis=1).repeat(4, axis=2), 30)
        write_csv(folder / f"play{seed}.csv", pressed)


def assert_read_as(folder: Path, described: str, fields: dict, meant) -> None:
    """Under an actions.toml a row of these fields means this action; if `meant` is a text, it is refused so."""
    (folder / "actions.toml").write_text(described)
    description = read_description(folder / "actions.toml")
    if isinstance(meant, str):
        with pytest.raises(ValueError, match=meant):
            description.action(fields)
    else:
        assert np.asarray(description.action(fields)).tolist() == meant
