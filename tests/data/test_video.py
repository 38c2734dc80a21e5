"""Pictures: what is written can be played, and shows what it should."""

from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from tiny import CONTROLS

from dreamrun.data import video
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.video import comparison, grid, key_strip, upscale, with_keys, write_animation, write_mp4, write_png
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.games.space import UNKNOWN_ACTION, ActionSpace, unnamed_actions

COINRUN = procgen_actions("coinrun")
SAMPLES = Path(__file__).parents[2] / "samples"
WIDTH = 256
LIT = np.array(video._HIGHLIGHT)


def read_mp4(path) -> tuple[np.ndarray, float]:
    with av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate)
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]), fps


def noise(*shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def lit_columns(strip: np.ndarray) -> np.ndarray:
    """Middles of the lit key caps, from left to right."""
    columns = np.flatnonzero((strip == LIT).all(-1).sum(0) > 5)
    groups = np.split(columns, np.flatnonzero(np.diff(columns) > 2) + 1)
    return np.array([group.mean() for group in groups if len(group)])


# mp4


@pytest.mark.parametrize("game", ["pong", "coinrun"])
def test_mp4_round_trip(tmp_path, game):
    (record,) = ClipDataset(SAMPLES / game, "test", 1).records([0])
    large = upscale(record.frames[:40])
    write_mp4(tmp_path / "new" / "play.mp4", large, fps=15.0)
    again, fps = read_mp4(tmp_path / "new" / "play.mp4")
    assert again.shape == large.shape == (40, 256, 256, 3) and fps == 15
    error = ((again.astype(np.float64) - large) ** 2).mean((1, 2, 3))
    assert (10 * np.log10(255**2 / error)).min() > 35
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["play.mp4"]


@pytest.mark.parametrize(("height", "width"), [(63, 64), (64, 33), (31, 33), (256, 262)])
def test_odd_sizes_are_padded(tmp_path, height, width):
    frames = np.full((5, height, width, 3), (40, 160, 90), np.uint8)
    write_mp4(tmp_path / "odd.mp4", frames, fps=10)
    again, _ = read_mp4(tmp_path / "odd.mp4")
    assert again.shape == (5, height + height % 2, width + width % 2, 3)
    assert abs(again[:, : height - 2, : width - 2].astype(int) - frames[:, : height - 2, : width - 2]).max() < 12


@pytest.mark.parametrize(("fps", "num_frames"), [(15.0, 1), (12.5, 7), (29.97, 30), (60, 2)])
def test_frame_rate_and_number_of_frames(tmp_path, fps, num_frames):
    write_mp4(tmp_path / "rate.mp4", noise(num_frames, 32, 32, 3), fps)
    again, read_fps = read_mp4(tmp_path / "rate.mp4")
    assert len(again) == num_frames and read_fps == pytest.approx(fps, rel=1e-3)


def test_an_mp4_has_the_colours_of_the_frames_in_players(tmp_path):
    """It says that it is BT.709 of limited range, and is."""
    colours = np.random.default_rng(0).integers(0, 256, (8, 8, 3))
    frames = np.stack([np.kron(colours, np.ones((16, 16, 1))).astype(np.uint8)] * 4)
    write_mp4(tmp_path / "colours.mp4", frames, 15)
    with av.open(str(tmp_path / "colours.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_primaries, context.color_trc, context.color_range) == (1, 1, 1, 1)
        picture = list(container.decode(video=0))[2].to_ndarray(format="yuv420p").astype(float)
    luma, cb, cr = (
        plane[8::16, 8::16] for plane in (picture[:128], *(picture[128:].reshape(2, 64, 64).repeat(2, 1).repeat(2, 2)))
    )
    y, cb, cr = (luma - 16) * 255 / 219, (cb - 128) * 255 / 224, (cr - 128) * 255 / 224
    shown = np.stack([y + 1.5748 * cr, y - 0.1873 * cb - 0.4681 * cr, y + 1.8556 * cb], -1)
    assert abs(shown - colours).max() < 5 and abs(shown - colours).mean() < 1.5


@pytest.mark.parametrize("fps", [10, 15, 30, 50, 60, 144])
def test_browsers_play_a_gif_at_its_speed(tmp_path, fps):
    """They show a frame of 1 hundredth of a second for 10."""
    write_animation(tmp_path / "a.gif", noise(61, 8, 8, 3), fps)
    with Image.open(tmp_path / "a.gif") as animation:
        delays = [(animation.seek(i), animation.info["duration"])[1] for i in range(animation.n_frames)]
    assert min(delays) >= 20 and max(delays) - min(delays) <= 20 * (fps > 50) + 10
    assert sum(delays) == pytest.approx(61000 / fps, abs=20)


def test_failed_writing_changes_no_files(tmp_path, monkeypatch):
    path = tmp_path / "play.mp4"

    def fail(*_, **__):
        raise OSError("disk full")

    for before in (None, b"an older video"):
        if before:
            path.write_bytes(before)
        with monkeypatch.context() as patched:
            patched.setattr(av.VideoFrame, "from_ndarray", fail)
            with pytest.raises(OSError, match="disk full"):
                write_mp4(path, noise(3, 32, 32, 3), 15.0)
        assert [file.read_bytes() for file in tmp_path.iterdir()] == ([before] if before else [])


# Keys


@pytest.mark.parametrize("name", COINRUN.names)
def test_key_strip_lights_held_keys(name):
    """Keys stand in the order left, up, right; those that do nothing in CoinRun (down, letters) are not shown."""
    place = {"LEFT": 0, "UP": 1, "RIGHT": 2}
    everything = ActionSpace(("all",), (tuple(place),), (0,))
    all_lit = lit_columns(key_strip(0, everything, WIDTH))
    assert len(all_lit) == 3 and all_lit[1] == pytest.approx((WIDTH - 1) / 2, abs=1)
    action = COINRUN.index(name)
    strip = key_strip(action, COINRUN, WIDTH)
    assert strip.shape == (24, WIDTH, 3) and strip.dtype == np.uint8
    expected = all_lit[sorted(place[key] for key in COINRUN.keys[action] if key in place)]
    assert lit_columns(strip) == pytest.approx(expected)


def test_key_strips_of_different_actions_differ():
    strips = {key_strip(action, COINRUN, WIDTH).tobytes() for action in (*COINRUN.acting, UNKNOWN_ACTION)}
    assert len(strips) == len(COINRUN.acting) + 1
    named = {key_strip(action, unnamed_actions(4), WIDTH).tobytes() for action in (0, 1, 2, 3, UNKNOWN_ACTION)}
    assert len(named) == 5
    many_keys = procgen_actions("starpilot")
    for action in (UNKNOWN_ACTION, *range(len(many_keys))):
        assert key_strip(action, many_keys, 32, height=20).shape == (20, 32, 3)


def test_with_keys():
    frames, actions = noise(4, 16, 16, 3), np.array([UNKNOWN_ACTION, 7, 5, 7])
    shown = with_keys(frames, actions, COINRUN)
    assert shown.shape == (4, 64 + 24, 64, 3)
    assert np.array_equal(shown[:, :64], upscale(frames))
    for picture, action in zip(shown, actions, strict=True):
        assert np.array_equal(picture[64:], key_strip(int(action), COINRUN, 64))


@pytest.mark.parametrize("width", [96, 256])
def test_key_strip_of_buttons_and_axes(width):
    """Each button and axis changes the strip, the further it is pushed the more; what never acts is not shown."""
    names = ("noop", "left", "right", "jump", "dx=0.5", "dx", "dx=-1", "dy=-1", "left+jump+dx=0.5")
    strips = [key_strip(CONTROLS.parse(name), CONTROLS, width) for name in names]
    strips.append(key_strip(CONTROLS.unknown(), CONTROLS, width))
    assert {strip.shape for strip in strips} == {(24, width, 3)}
    assert len({strip.tobytes() for strip in strips}) == len(strips)
    assert np.array_equal(strips[0], key_strip(CONTROLS.parse("fire"), CONTROLS, width))


# Several together


def test_comparison_layout(num_samples=3):
    truth, dream = noise(num_samples, 5, 16, 16, 3), noise(num_samples, 5, 16, 16, 3, seed=1)
    actions = np.random.default_rng(0).integers(0, 15, (num_samples, 5))
    shown = comparison(truth, dream, actions, COINRUN)
    titles = [shown[0, :18, :64], shown[0, 82:100, :64]]
    assert not np.array_equal(*titles) and all(title.std() > 5 for title in titles)
    assert shown.shape == (5, 18 + 64 + 18 + 64 + 24, num_samples * 64 + (num_samples - 1) * 6, 3)
    for sample in range(num_samples):
        column = shown[:, :, sample * 70 : sample * 70 + 64]
        assert np.array_equal(column[:, 18:82], upscale(truth[sample]))
        assert np.array_equal(column[:, 100:], with_keys(dream[sample], actions[sample], COINRUN))


def test_grid_layout(tmp_path, num_samples=2):
    truth, dream = noise(num_samples, 9, 16, 16, 3), noise(num_samples, 9, 16, 16, 3, seed=1)
    moments = [0, 4, 8]
    write_png(tmp_path / "new" / "picture.png", grid(truth, dream, moments))
    picture = np.asarray(Image.open(tmp_path / "new" / "picture.png"))
    assert picture.shape == (num_samples * 64 + (num_samples - 1) * 6, 96, 3) and picture.dtype == np.uint8
    for sample in range(num_samples):
        for column, moment in enumerate(moments):
            for row, frames in enumerate((truth, dream)):
                top, left = sample * 70 + row * 32, column * 32
                shown = picture[top : top + 32, left : left + 32]
                assert np.array_equal(shown, upscale(frames[sample, moment], 2))


def test_negative_zeros_and_unknown_actions():
    actions = np.stack([CONTROLS.noop, -CONTROLS.noop, CONTROLS.unknown(), CONTROLS.parse("jump")])
    shown = with_keys(np.zeros((4, 16, 64, 3), np.uint8), actions, CONTROLS)
    assert np.array_equal(shown[0], shown[1]) and (shown[0] != shown[2]).any() and (shown[0] != shown[3]).any()
