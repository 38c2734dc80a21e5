"""Captions of data sets and records, and their phrasings."""

import json

import numpy as np
import pytest
from recordings import play, write_video
from tiny import succeeded

from dreamrun.data.captions import HELD_OUT_PHRASINGS, PHRASINGS, draw_phrasings, phrasings
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metadata import METADATA_FILE, read_metadata
from dreamrun.data.records import decode_record, encode_record
from dreamrun.games.factory import describe_environment


def test_collected_games_say_what_they_are(wide_set):
    options = {"distribution_mode": "hard", "simple": True}
    caption = describe_environment("bigfish", options).caption
    assert caption == "bigfish, a fish that eats smaller fish, hard levels, simple graphics"
    metadata = read_metadata(wide_set)
    assert metadata.frame_shape == (32, 48, 3) and metadata.caption == "pong, two paddles and a ball, wide picture"


def test_phrasings_keep_the_words_and_those_held_out_are_others():
    caption = "pong, two paddles, wide picture"
    known, held_out = phrasings(caption), phrasings(caption, held_out=True)
    assert len(known) == len(PHRASINGS) and len(held_out) == len(HELD_OUT_PHRASINGS) and not set(known) & set(held_out)
    assert all("pong" in text or "two paddles" in text for text in (*known, *held_out))
    assert caption in known and "play pong" in known and "I want to see pong now" in held_out
    assert phrasings("pong") == ["pong", "the game pong", "play pong", "a video of pong", "someone plays pong"]
    assert phrasings("") == [] and phrasings("{x} {0}")[0] == "{x} {0}"  # of a stranger


def test_a_record_keeps_its_caption(make_record, tiny_metadata, write_set, tmp_path):
    record = make_record(6)
    record.caption = "卓球 🏓"
    decoded = decode_record(encode_record(record), tiny_metadata.frame_shape, tiny_metadata.actions)
    assert decoded.caption == record.caption
    folder = write_set(tmp_path / "set", [record, make_record(6, seed=1)])
    values = {**tiny_metadata.to_dict(), "caption": "of the set"}
    (folder / METADATA_FILE).write_text(json.dumps(values))
    (batch,) = ClipDataset(folder, "train", 6).batches(2)
    assert {*batch.captions} == {record.caption, "of the set"}
    record.caption = "a" * 1001
    with pytest.raises(ValueError, match="caption is"):
        encode_record(record)


@pytest.mark.parametrize("caption", [5, None, ["a"], "a" * 1001, "a\nb", "\x1b[2J", "\u202e"])
def test_captions_of_strangers_are_checked(tmp_path, tiny_metadata, caption):
    (tmp_path / METADATA_FILE).write_text(json.dumps({**tiny_metadata.to_dict(), "caption": caption}))
    with pytest.raises(ValueError, match="caption"):
        read_metadata(tmp_path)


def test_videos_bring_their_captions(run_script, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    texts = {"a": "a car\n turns  left\n", "b": "猫 🐈", "c": None, "d": "x" * 5000, "e": b"\xff\xfe"}
    for number, (name, text) in enumerate(texts.items()):
        write_video(folder / f"{name}.mp4", play(20, seed=number)[0])
        if text is not None:
            (folder / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    succeeded(
        run_script(
            "import_video",
            "--videos",
            folder,
            "--out",
            "set",
            "--actions",
            "none",
            "--caption",
            "a drive",
            "--workers",
            1,
        )
    )
    metadata = json.loads((tmp_path / "set" / METADATA_FILE).read_text())
    assert metadata["caption"] == "a drive" and sorted(metadata["skipped"]) == ["d", "e"]
    assert "d.txt" in metadata["skipped"]["d"] and "not UTF-8 text" in metadata["skipped"]["e"]
    found = set()
    for split in metadata["splits"]:
        dataset = ClipDataset(tmp_path / "set", split, 1)
        found |= {record.caption for record in dataset.records(range(len(dataset.index.lengths)))}
    assert found == {"a car turns left", "猫 🐈", ""}


def test_a_clip_is_told_a_phrasing_of_its_own_or_nothing():
    seeds = np.arange(4000, dtype=np.uint64) * np.uint64(2**52)
    texts = draw_phrasings(["pong, two paddles"] * len(seeds), seeds)
    assert {"", "pong", "two paddles", "play pong"} <= set(texts) and "I want to see pong now" not in texts
    assert 0.08 < texts.count("") / len(texts) < 0.12
    assert draw_phrasings(["pong, two paddles"] * 5, seeds[7:12]) == texts[7:12]  # by the clip's own seed
    assert draw_phrasings(["", ""], seeds[:2]) == ["", ""]  # missing
