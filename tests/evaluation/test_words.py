"""The judge of first frames dreamt from words alone."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import SMALLEST, random_model, refused, succeeded

from dreamrun.data.metadata import read_metadata
from dreamrun.evaluation import words
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.evaluator import make_context
from dreamrun.evaluation.words import RealFrames, classify, judge_words, read_frames, train_classifier
from dreamrun.games.game import Game, combine_games
from dreamrun.games.space import unnamed_actions
from dreamrun.model.options import SamplerSettings


def test_the_classifier_tells_pictures_apart(monkeypatch):
    """Also pictures that it has not seen; each game counts the same, however rare its frames."""
    monkeypatch.setattr(words, "CLASSIFIER_STEPS", 60)
    games = (torch.arange(200) % 10 == 0).long()
    frames = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.3
    frames[games == 1, 0] += 0.5
    network = train_classifier(RealFrames(frames[:100], games[:100]), 2)
    found = classify(network, frames[100:])
    assert (found == games[100:]).float().mean() > 0.97 and (found == 1).sum() >= 9


def test_real_frames_have_one_size_and_their_game(pong_set, wide_set):
    real = read_frames([pong_set, wide_set], ["other", "pong"], None, 2, (32, 32))
    assert real.frames.shape == (4 * words.FRAMES_PER_RECORD, 3, 32, 32) and (real.games == 1).all()
    assert real.frames.min() >= -1 and real.frames.max() <= 1
    with pytest.raises(ValueError, match="is of pong: the games are chess"):
        read_frames([pong_set], ["chess"], None, 2, (32, 32))


def test_an_evaluation_is_of_the_game_of_its_data(pong_set, tmp_path):
    metadata = read_metadata(pong_set)
    wide = replace(metadata, frame_shape=(32, 64, 3), caption="pong, wide picture")
    game, _ = combine_games([wide, metadata])
    random_model(replace(SMALLEST, num_actions=3, words=True), game=game).save_pretrained(tmp_path / "model")
    config = EvaluateConfig(checkpoint=str(tmp_path / "model"), data=pong_set, output=tmp_path)
    context = make_context(config)
    assert context.model.config.frame_shape == (3, 64, 64) and context.model.game.environment == "pong"
    assert context.model.words is not None  # the caption
    with pytest.raises(ValueError, match="the model makes frames of 64x32"):
        make_context(replace(config, game="pong"))
    with pytest.raises(ValueError, match="no game 'chess'"):
        make_context(replace(config, game="chess"))


def test_words_are_judged_by_what_the_frames_show(pong_set, run_script, tmp_path, monkeypatch):
    """A network that paints what it is told gets 100 %, one that ignores the words is at chance."""
    monkeypatch.setattr(words, "CLASSIFIER_STEPS", 4)
    metadata = read_metadata(pong_set)
    other = replace(metadata, environment="other", caption="other, something else")
    game, _ = combine_games([metadata, other])
    config = replace(SMALLEST, num_actions=6, words=True)
    model = random_model(config, game=game)

    def painted(model, text, num_frames, *options):
        return torch.full((num_frames, 3, 64, 64), 1.0 if "other" in text or "something" in text else -1.0)

    monkeypatch.setattr(
        words, "read_frames", lambda *_: RealFrames(torch.zeros(4, 3, 64, 64), torch.tensor([0, 0, 1, 1]))
    )
    monkeypatch.setattr(words, "classify", lambda network, frames: (frames.mean((1, 2, 3)) > 0).long())
    with monkeypatch.context() as patch:
        patch.setattr(words, "dream_first_frames", painted)
        report, shown = judge_words(model, [pong_set], 2, SamplerSettings())
    assert report["games"] == ["pong", "other"] and report["chance"] == 0.5
    assert report["held-out phrasings"]["accuracy"] == report["trained phrasings"]["accuracy"] == 1
    assert report["no words"] == {"pong": 8, "other": 0} and len(shown) == 10
    with monkeypatch.context() as patch:
        patch.setattr(words, "dream_first_frames", lambda model, text, *rest: painted(model, "", *rest))
        assert judge_words(model, [pong_set], 2, SamplerSettings())[0]["held-out phrasings"]["accuracy"] == 0.5

    with monkeypatch.context() as patch:
        real = RealFrames(torch.zeros(2, 3, 64, 64), torch.tensor([0, 0]))
        patch.setattr(words, "read_frames", lambda *_: real)
        with pytest.raises(ValueError, match="there is no data set of other"):
            judge_words(model, [pong_set], 2, SamplerSettings())

    model.save_pretrained(tmp_path / "model")
    options = ("--data", pong_set, "--num-frames", 1, "--num-steps", 1)
    assert "chance 50%" in succeeded(run_script("judge_words", "--checkpoint", "model", *options))
    assert json.loads((tmp_path / "words.json").read_text())["games"] == ["pong", "other"]
    assert (tmp_path / "words.png").is_file()
    for change in ({"words": False}, {"num_actions": 3}):
        kind = Game("pong", actions=unnamed_actions(3)) if "num_actions" in change else game
        random_model(replace(config, **change), game=kind).save_pretrained(tmp_path / "no")
        refused(run_script("judge_words", "--checkpoint", "no", *options), "words are judged of a checkpoint")


def test_mistakes_of_the_judge(run_script, pong_set):
    refused(run_script("judge_words", "--checkpoint", "x", "--data", pong_set, "--num-frames", 0), "num_frames is 0")
    refused(run_script("judge_words", "--checkpoint", "x", "--data"), "data")
