"""Clips that the model makes of a dream: rewind and loop."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from playing import Client, recorded_video, running, serving

from dreamrun.editing.page import LOOP_WINDOWS, REWIND_WINDOWS, mask_dream
from dreamrun.games.space import UNKNOWN_ACTION
from dreamrun.model import WorldModel


@pytest.fixture(scope="module")
def address(play_config, tmp_path_factory):
    """The address of a server whose model says that it can fill in."""
    model = WorldModel.from_pretrained(play_config.checkpoint)
    folder = tmp_path_factory.mktemp("checkpoints") / "filler"
    shutil.copytree(play_config.checkpoint, folder)
    WorldModel(replace(model.config, can_fill=True), model.game).save_pretrained(folder)
    with serving(replace(play_config, checkpoint=str(folder))) as address:
        yield address


@pytest.mark.parametrize("task", ["rewind", "loop"])
def test_a_clip_is_made_while_the_dream_goes_on(play, address, task, tmp_path):
    client = play()
    started = client.start()
    client.step(("UP",))
    client.send("edit", task=task)
    client.send("edit", task=task)  # one at a time: this one is ignored
    client.send("pause", on=False)
    edited = client.wait_for("edited")
    window = running(address).server.engine.config.window_frames
    expected = REWIND_WINDOWS * window + started["prompt_frames"] if task == "rewind" else LOOP_WINDOWS * window
    assert edited["frames"] == expected and edited["task"] == task
    assert len(recorded_video(address, edited)) == expected
    assert client.wait_for("frame").header["frame"] > 1


def test_unknown_tasks_and_models_that_cannot_fill_in(play, play_config):
    client = play()
    client.start()
    client.send("edit", task="forget")
    assert "unknown task 'forget'" in client.wait_for("error")["text"]
    with serving(play_config) as other, Client(other) as client:
        client.join().start()
        client.send("edit", task="loop")
        assert "has not learnt to fill in" in client.wait_for("error")["text"]
        assert not {"rewind", "loop"} & element_ids(other)


def test_the_page_has_buttons_for_both(address):
    assert {"rewind", "loop", "record"} <= element_ids(address)


def element_ids(address: str) -> set[str]:
    return {block.elem_id for block in running(address).demo.blocks.values()}


def test_drafts_take_the_prompt_and_the_last_frames(play_config):
    model = WorldModel.from_pretrained(play_config.checkpoint)

    space, pictures = (
        model.game.actions,
        np.arange(6, dtype=np.uint8)[:, None, None, None] * np.ones((1, 64, 64, 3), np.uint8),
    )
    given = (pictures[:2], np.array([UNKNOWN_ACTION, 1, 1, 2, 0, 2]), pictures[3:6])
    clip, num_frames = mask_dream("rewind", *given, space, 6)
    assert num_frames == 8 and clip.known.tolist() == [False] * 6 + [True] * 2
    assert clip.frames[6:, 0, 0, 0].tolist() == [0, 1] and clip.actions[7] == 1
    clip, num_frames = mask_dream("loop", *given, space, 6)
    assert num_frames == 12 and clip.known.tolist() == [True] * 3 + [False] * 9 + [True] * 3
    assert clip.frames[:3, 0, 0, 0].tolist() == clip.frames[12:, 0, 0, 0].tolist() == [3, 4, 5]
    assert clip.actions[:3].tolist() == [2, 0, 2]
