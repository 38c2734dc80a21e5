"""Key objects: whether the small things that a game is about stay in a rollout, such as the ball of Pong.

They are a percent of the pixels or less, so that PSNR hardly notices when they vanish.

Shapes: N frames, S clips, T frames, P prompt frames, H x W pixels, K objects in a frame.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from skimage.measure import label, regionprops

from dreamrun.data.clips import Clips, cut_clips
from dreamrun.data.dataset import ClipDataset
from dreamrun.evaluation.context import EvaluationContext
from dreamrun.evaluation.section import Block, Section, Table, Text, format_percent
from dreamrun.evaluation.statistics import estimate

WORDS = (
    "Small things decide a game but hardly count in PSNR. All clips show a {name} in the last prompt frame. Kept: the "
    "share of real objects that the rollout shows nearby, within 3 pixels of a 64x64 frame. Real: the share of the "
    "rollout's objects that are near a real one."
)
FRAMES = (1, 4, 8)  # generated frames whose objects are compared
ALIVE_SECS = 4.0  # the end of a long rollout, or a stretch of real play
MAX_COLOR_DISTANCE = 100.0  # Euclidean, in levels of 0 to 255: dreams are paler than the game
MIN_PIXELS = 2
MAX_DISTANCE = 3 / 64  # of the place in a rollout from that in the real frame, in heights of a frame


@dataclass(frozen=True)
class KeyObject:
    """What an object looks like: connected pixels of about one colour, which nothing else in the game has."""

    name: str
    color: tuple[int, int, int]  # RGB
    always_visible: bool


KEY_OBJECTS = {
    "pong": KeyObject("ball", (250, 250, 240), always_visible=True),
    "coinrun": KeyObject("coin", (252, 204, 2), always_visible=False),
}


def measure(context: EvaluationContext) -> dict[str, Any]:
    """Of clips that show an object: the share of real objects that a rollout keeps, and of its objects that are real.

    Of long rollouts, if the object is always visible: the share in whose last seconds at least half of the frames show
    it; beside the same share of stretches of real play.
    """
    key_object = KEY_OBJECTS.get(context.metadata.environment)
    if key_object is None:
        raise ValueError(
            f"no object of {context.metadata.environment} is known: evaluation/sections/key_objects.py lists those of "
            "games"
        )
    num_prompt = context.config.num_prompt_frames
    clips = clips_with_object(context.held_out, key_object, context.sizes["num_clips"], num_prompt, context.config.seed)
    batches = context.generate("key objects", clips.frames[:, :num_prompt], clips.actions)
    truth, frames = clips.frames[:, num_prompt:], np.concatenate(list(batches))
    result = {
        "name": key_object.name,
        "by_frame": [
            {"frame": frame, **compare_objects(truth[:, frame - 1], frames[:, frame - 1], key_object)}
            for frame in FRAMES
        ],
    }
    if key_object.always_visible:
        length = min(round(ALIVE_SECS * context.metadata.fps), context.sizes["drift_frames"])
        ends = [rollout[-length:] for batch in context.long_rollouts() for rollout in batch]
        real = [record.frames[-length:] for record in context.held_out_records if len(record.frames) >= length]
        result["alive"] = {"dream": is_alive(ends, key_object), "real": is_alive(real, key_object)}
    return result


def find_objects(frame: np.ndarray, key_object: KeyObject) -> np.ndarray:
    """uint8 (H, W, 3) -> the places of all objects, (K, 2) rows and columns."""
    mask = np.linalg.norm(frame.astype(np.float32) - key_object.color, axis=-1) <= MAX_COLOR_DISTANCE
    if not mask.any():
        return np.zeros((0, 2))
    regions = regionprops(label(mask, connectivity=2))
    places = [region.centroid for region in regions if region.num_pixels >= MIN_PIXELS]
    return np.array(places).reshape(-1, 2)


def clips_with_object(data: ClipDataset, key_object: KeyObject, num_clips: int, num_prompt: int, seed: int) -> Clips:
    """At most `num_clips` clips, one a record, with an object in the last prompt frame and in those of FRAMES."""
    rng = np.random.default_rng(seed)
    shown = np.array([0, *FRAMES])
    record_ids, starts = [], []
    for record_id in rng.permutation(np.flatnonzero(data.index.lengths >= num_prompt + max(FRAMES))):
        (record,) = data.records([record_id])
        visible = np.array([len(find_objects(frame, key_object)) > 0 for frame in record.frames])
        lasts = np.arange(num_prompt - 1, len(visible) - max(FRAMES))  # candidates for the last prompt frame
        lasts = lasts[visible[lasts[:, None] + shown].all(1)]
        if len(lasts):
            record_ids.append(record_id)
            starts.append(rng.choice(lasts) - (num_prompt - 1))
        if len(record_ids) == num_clips:
            break
    if not record_ids:
        raise ValueError(f"no record of {data.folder}/{data.split} shows a {key_object.name} for {max(FRAMES)} frames")
    return cut_clips(data, np.array(record_ids), np.array(starts), num_prompt + max(FRAMES))


def compare_objects(truth: np.ndarray, frames: np.ndarray, key_object: KeyObject) -> dict[str, Any]:
    """Of objects of real frames and of rollouts, uint8 (S, H, W, 3), the share near which the other has one.

    `kept`: of the real objects; `real`: of the rollout's.
    """
    near = MAX_DISTANCE * truth.shape[1]
    pairs = [[find_objects(frame, key_object) for frame in pair] for pair in zip(truth, frames, strict=True)]
    result = {}
    for name, (these, those) in (("kept", (0, 1)), ("real", (1, 0))):
        counts = np.array([len(pair[these]) for pair in pairs])
        found = np.array([_num_near(pair[these], pair[those], near) for pair in pairs])
        result[name] = estimate(found, counts)
    return result


def _num_near(places: np.ndarray, others: np.ndarray, near: float) -> int:
    """How many places (K, 2) have one of the others (L, 2) nearby."""
    if not len(others):
        return 0
    return int((np.linalg.norm(places[:, None] - others, axis=-1).min(1) <= near).sum())


def is_alive(stretches: list[np.ndarray], key_object: KeyObject) -> dict[str, Any] | None:
    """The share of stretches, uint8 (T, H, W, 3) each, that show the object in at least half of their frames."""
    visible = [[len(find_objects(frame, key_object)) > 0 for frame in stretch] for stretch in stretches]
    return estimate(np.array([np.mean(frames) >= 0.5 for frames in visible], np.float64))


def blocks(report: dict[str, Any]) -> Iterator[Block]:
    section, num_frames = report["objects"], report["settings"]["drift_frames"]
    yield Text(WORDS.format(name=section["name"]))
    measured = [row for row in section["by_frame"] if row["kept"]]
    rows = [[name, *(format_percent(row[name]) for row in measured)] for name in ("kept", "real")]
    counts = ["n clips", *(str(row["kept"]["n"]) for row in measured)]
    yield Table([f"{section['name']}, generated frame", *(str(row["frame"]) for row in measured)], [*rows, counts])
    if "alive" in section:
        yield Text(
            f"{format_percent(section['alive']['dream'])} of the rollouts of {num_frames} frames show a "
            f"{section['name']} in at least half of the frames of their last four seconds. So do "
            f"{format_percent(section['alive']['real'])} of stretches of real play."
        )


OBJECTS = Section("objects", measure, "Key objects", blocks)
