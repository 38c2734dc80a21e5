"""Training one network on several games of other sizes and actions, told in words which."""

import json
import signal
from dataclasses import replace
from itertools import chain

import pytest
import torch
from runs import assert_same_run, finish, start, values
from tiny import SMALLEST, random_model, refused, succeeded

from dreamrun.data.metadata import METADATA_FILE, read_metadata
from dreamrun.data.metrics_log import read_metrics
from dreamrun.games.game import combine_games
from dreamrun.model import WorldModel
from dreamrun.model.game_views import choose_game, find_game
from dreamrun.training.train_config import TrainConfig


def test_mixed_sizes_train_and_resume_bit_for_bit(train_command, wide_set, tmp_path):
    """Stopped in the middle of an epoch in which one set has begun again."""
    options = ("--data", train_command.data, wide_set, "--mix", "1,2", "--max-steps", 12, "--batch-size", 8)
    options += ("--clip-stride", 64, "--scheduled-sampling", 0.5, "--fill-share", 0.3)
    out = succeeded(train_command(*options, "--out", tmp_path / "unbroken"))
    assert "games: pong, pong-48x32; told in words" in out
    sizes = []

    def interrupt(state, batch):
        sizes.append(batch.frames.shape[2:4])
        if state.step == 6:
            signal.raise_signal(signal.SIGTERM)

    assert train_command(*options, before_step=interrupt)[0] == 130
    assert {*sizes} == {(64, 64), (32, 48)}
    assert train_command(*options, "--resume", "auto")[0] == 0
    assert_same_run(tmp_path / "run", tmp_path / "unbroken")

    logged = set().union(*read_metrics(tmp_path / "run" / "metrics.jsonl"))
    for game in ("pong", "pong-48x32"):
        assert {f"val/loss_{game}", f"rollout/psnr_1_{game}", f"epoch/psnr_{game}"} <= logged
        assert (tmp_path / "run" / "rollouts" / f"step_0000008_{game}.mp4").is_file()
    model = WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest")
    assert [game.name for game in model.game.games] == ["pong", "pong-48x32"] and model.config.words
    assert model.config.num_actions == 3 and [game.action_offset for game in model.game.games] == [
        0,
        0,
    ]  # the same keys
    assert model.text_encoder.to_condition.weight.abs().sum() > 0
    code, _, err = train_command(*options, "--max-steps", 13, "--mix", "1,1", "--resume", "auto")
    assert code == 0 and "the order of batches has changed" in err
    swapped = ("--data", wide_set, train_command.data, "--init-from", tmp_path / "run" / "checkpoints" / "latest")
    result = train_command(*swapped, "--max-steps", 1, "--out", tmp_path / "other")
    refused(result, "cannot start from", "its games are", "pong-48x32", "this run's are", "pong-64x64")
    result = train_command("--max-steps", 14, "--resume", "auto")
    refused(result, "cannot resume", "its words is True, this run's is False")


@pytest.mark.slow
def test_two_ranks_train_on_each_clip_once(pong_set, wide_set, tmp_path):
    options = ("--data", pong_set, wide_set, "--epochs", 1, "--batch-size", 8, "--clip-stride", 64)
    options += ("--checkpoint-every", 1000)
    for name, ranks in (("one", 1), ("two", 2)):
        finish(start(tmp_path / name, pong_set, *options, ranks=ranks, seen=tmp_path / f"seen-{name}"))
    one = (tmp_path / "seen-one.0").read_text().splitlines()
    parts = [(tmp_path / f"seen-two.{rank}").read_text().splitlines() for rank in range(2)]
    assert sorted(chain(*parts)) == sorted(one) and len(set(one)) == len(one) > 0
    assert {line.split()[0] for line in one} == {"0", "1"}
    losses = [values(tmp_path / name, "train/loss") for name in ("one", "two")]
    assert losses[0].keys() == losses[1].keys()
    assert max(abs(losses[0][step] - losses[1][step]) for step in losses[0]) < 1e-3


def test_games_of_data_sets(pong_set, wide_set, tiny_metadata):
    pong, wide, tiny = read_metadata(pong_set), read_metadata(wide_set), tiny_metadata
    assert combine_games([pong])[0].games == () and combine_games([pong])[1] == [""]
    game, names = combine_games([pong, tiny, wide, pong, replace(tiny, fps=9.0)])
    assert names == ["pong", "coinrun", "pong-48x32", "pong", "coinrun-8x8"]
    assert [part.action_offset for part in game.games] == [0, 3, 0, 3]
    assert combine_games([pong], text=True)[1] == ["pong"]
    model = random_model(replace(SMALLEST, patch_size=8, num_actions=8, words=True), game=game)
    for metadata, name in ((pong, "pong"), (wide, "pong-48x32"), (tiny, "coinrun")):
        assert find_game(model, data=metadata) == name
    assert find_game(model) == "pong" and find_game(model, "coinrun", pong) == "coinrun"
    assert find_game(model, text=wide.caption) == "pong-48x32"
    view = choose_game(model, text="anything")
    assert not torch.equal(view.words, choose_game(model, find_game(model, text="anything")).words)


def test_mistakes_with_several_data_sets(train_command, wide_set, tmp_path):
    both = ("--data", train_command.data, wide_set)
    for options, words in (
        ((*both, "--mix", "1"), ("mix is 1", "2 data sets")),
        ((*both, "--mix", "1,x"), ("mix is '1,x'", "such as 1,2,1")),
        ((*both, "--mix", "1,-1"), ("expected positive numbers",)),
        ((*both, "--patch-size", 32), ("wide", "multiple of patch_size")),
        ((*both, "--outcomes", "all", "--noise-levels", "teacher-forcing"), ("needs a single data set",)),
        ((*both, "--batch-size", 10**6), ("batch_size",)),
    ):
        refused(train_command(*options, "--max-steps", 2), *words)
    assert not (tmp_path / "run").exists()
    assert TrainConfig((train_command.data,), tmp_path).data == train_command.data  # a list of one is that one


def test_words_of_one_game(train_command, tmp_path):
    """One data set has words only if asked, and is then a game with a name."""
    assert train_command("--max-steps", 2, "--words", "True")[0] == 0
    model = WorldModel.from_pretrained(tmp_path / "run" / "checkpoints" / "latest")
    assert [game.name for game in model.game.games] == ["pong"] and model.config.words
    caption = json.loads((train_command.data / METADATA_FILE).read_text())["caption"]
    assert model.game.games[0].caption == caption == "pong, two paddles and a ball"
