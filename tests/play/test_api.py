"""The endpoints for programs, called with gradio_client."""

import time

import numpy as np
import pytest
from gradio_client import Client as GradioClient
from gradio_client.exceptions import AppError
from playing import Client, serving
from recordings import read_video


@pytest.fixture(scope="module")
def program(address):
    return GradioClient(address, verbose=False)


def test_about_describes_the_game(program):
    about = program.predict(api_name="/about")
    assert about["game"] == "pong" and about["actions"] == ["noop", "up", "down"] and about["num_records"] == 3
    assert set(program.view_api(return_format="dict", print_info=False)["named_endpoints"]) == {"/about", "/dream"}


def test_a_program_dreams_an_mp4_that_seed_and_actions_determine(program):
    def dream(actions, seed=3):
        return read_video(program.predict(record=1, moment=9, actions=actions, steps=1, seed=seed, api_name="/dream"))

    first, again = dream(["up"] * 6), dream(["UP"] * 6)
    assert len(first) == 6
    np.testing.assert_array_equal(first, again)
    assert np.abs(first.astype(int) - dream(["down"] * 6)).max() > 20
    assert np.abs(first.astype(int) - dream(["up"] * 6, seed=4)).max() > 20
    assert len(read_video(program.predict(actions=["noop"], api_name="/dream"))) == 1  # all else has defaults


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"record": 3}, "record is 3"),
        ({"moment": 10**6}, "moment is"),
        ({"actions": ["up"] * 301}, "1 to 300"),
        ({"actions": ["fly"]}, "the actions are noop, up, down"),
        ({"actions": [7]}, "actions is not a text"),
        ({"actions": "up"}, "1 to 300"),
        ({"steps": 99}, "steps is 99"),
        ({"guidance": 1e9}, "guidance is"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_calls_out_of_bounds_are_rejected_with_a_reason(program, arguments, words):
    with pytest.raises(AppError, match=words):
        program.predict(**{"actions": ["up"], **arguments}, api_name="/dream")


def test_players_keep_playing_while_a_program_dreams(program, address):
    with Client(address) as player:
        player.join().start()
        player.send("pause", on=False)
        player.wait_for("frame")
        job = program.submit(actions=["up"] * 30, steps=1, api_name="/dream")
        start, frames = time.monotonic(), []
        while not job.done():
            frames.append(player.wait_for("frame").header["frame"])
        assert time.monotonic() - start > 0.8  # at most one of the program's frames per tick: 30 frames/s
        assert len(frames) > 8 and frames == sorted(set(frames))
        assert len(read_video(job.result())) == 30


def test_buttons_and_axes_are_named_with_their_values(controls_config):
    with serving(controls_config) as address:
        program = GradioClient(address, verbose=False)
        assert len(read_video(program.predict(actions=["right+jump", "dx=-0.5", "noop"], api_name="/dream"))) == 3
        with pytest.raises(AppError, match="-10 to 10"):
            program.predict(actions=["dx=nan"], api_name="/dream")


def test_one_call_runs_at_a_time_and_the_queue_is_bounded(program):
    jobs = [program.submit(actions=["up"] * 5, steps=1, api_name="/dream") for _ in range(4)]
    assert all(len(read_video(job.result())) == 5 for job in jobs)
