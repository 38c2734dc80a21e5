"""A server of a checkpoint of several games: players choose one, and say in words what to dream of."""

import json

import numpy as np
import pytest
from playing import Client, record, recorded_file, serving
from tiny import SMALLEST, random_model, refused, succeeded


@pytest.fixture(scope="module")
def games_address(config_of_several_games):
    with serving(config_of_several_games) as address:
        yield address


def test_a_player_chooses_the_game(games_address):
    with Client(games_address).join() as client:
        assert (client.hello["game_name"], client.hello["height"], client.hello["width"]) == ("pong", 64, 64)
        assert client.hello["words"] == "pong, two paddles and a ball"
        client.start()
        client.send("game", name="pong-48x32")
        client.hello = client.wait_for("hello")
        assert (client.hello["game_name"], client.hello["height"], client.hello["width"]) == ("pong-48x32", 32, 48)
        assert client.hello["num_records"] == 2 and client.start()["record"] == 0
        assert client.step(("UP",)).pictures.shape == (1, 32, 48, 3)
        client.send("game", name="chess")
        assert "unknown game 'chess'" in client.wait_for("error")["text"]
        assert client.step().pictures.shape == (1, 32, 48, 3)


def test_words_change_the_dream_and_a_first_frame_is_dreamt_from_them(games_address):
    with Client(games_address).join() as client:
        frames = {}
        for words in (None, "pong, two paddles and a ball", "a fish", ""):
            client.start(seed=3, words=words)
            frames[words] = client.step().pictures
        assert np.array_equal(frames[None], frames["pong, two paddles and a ball"])  # the caption of the game
        assert not np.array_equal(frames[None], frames["a fish"]) and not np.array_equal(frames[None], frames[""])
        first = []
        for words in ("a fish", "a fish", "卓球"):
            started = client.start(None, dream=True, words=words, seed=5)
            assert (started["record"], started["prompt_frames"]) == (None, 1)
            first.append(client.first_frame.pictures)
        assert np.array_equal(first[0], first[1]) and not np.array_equal(first[0], first[2])
        assert client.step().pictures.shape == first[0].shape
        for bad in (5, "a\nb", "a" * 1001):
            client.send("start", record=0, words=bad)
            assert "text" in client.wait_for("error")["text"]


def test_a_replay_says_game_and_words(games_address, config_of_several_games, run_script, tmp_path):
    with Client(games_address).join() as client:
        client.send("game", name="pong-48x32")
        client.hello = client.wait_for("hello")
        client.start(words="a fish", seed=1)
        recorded, frames = record(client, 3)
        replay = json.loads(recorded_file(games_address, recorded, "dream.json"))
    assert replay["game"] == "pong-48x32" and replay["words"] == "a fish" and len(frames) == 3
    (tmp_path / "dream.json").write_text(json.dumps(replay))
    infer = ("infer", "--checkpoint", config_of_several_games.checkpoint, "--replay", "dream.json")
    assert "3 frames" in succeeded(run_script(*infer))
    for change in ({"game": "chess"}, {"words": 5}, {"game": 5}):
        (tmp_path / "dream.json").write_text(json.dumps(replay | change))
        refused(run_script(*infer), "is not a replay for this checkpoint")


def test_infer_dreams_of_what_words_say(config_of_several_games, run_script, wide_set, tmp_path):
    few = ("--checkpoint", config_of_several_games.checkpoint, "--num-frames", 4, "--num-steps", 1, "--num-samples", 1)
    for options in (
        ("--prompt-text", "pong, two paddles and a ball"),
        ("--prompt-text", "猫 " * 400, "--game", "pong-48x32", "--actions", "up"),
        ("--data", wide_set, "--prompt-text", "", "--split", "test", "--num-prompt-frames", 2),
        ("--game", "pong-48x32", "--num-prompt-frames", 0),
    ):
        assert "wrote dream.mp4" in succeeded(run_script("infer", *few, *options))
    for options, words in (
        (("--game", "chess", "--prompt-text", "x"), ("no game 'chess'", "choose pong, pong-48x32")),
        (("--prompt-text", "a" * 1001), ("at most 1000 characters",)),
        (("--data", wide_set, "--split", "test", "--num-prompt-frames", 2, "--actions", "fly"), ("unknown action",)),
    ):
        refused(run_script("infer", *few, *options), *words)
    random_model(SMALLEST).save_pretrained(tmp_path / "one")
    result = run_script("infer", "--checkpoint", "one", "--prompt-text", "pong", "--num-frames", 2)
    refused(result, "has learnt no words")
