"""Names of environments that come from files import nothing, unless the user typed the module."""

import json
import shutil
import sys
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from playing import PlayConfig, random_checkpoint
from tiny import LITTLE, SMALLEST, random_model, refused, succeeded

from dreamrun.data import collecting
from dreamrun.data.metadata import read_metadata
from dreamrun.data.recorded_game import replay_to
from dreamrun.data.records import Record
from dreamrun.envs.agent import GamesConfig
from dreamrun.evaluation.context import collect_real_play
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.games import gymnasium as gymnasium_games
from dreamrun.games.factory import describe_environment, make_environment
from dreamrun.games.game import Game
from dreamrun.games.space import unnamed_actions
from dreamrun.play.gallery import Gallery
from dreamrun.play.launch import load_engines

SOURCE = """
import pathlib
import gymnasium
import numpy as np
pathlib.Path("{marker}").touch()
class Dot(gymnasium.Env):
    metadata = {{"render_modes": ["rgb_array"]}}
    action_space, observation_space = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(0, 1, (1,))
    def __init__(self, render_mode=None):
        self.render_mode = render_mode
    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(1), {{}}
    def step(self, action):
        return np.zeros(1), 0.0, False, False, {{}}
    def render(self):
        return np.zeros((64, 64, 3), np.uint8)
gymnasium.register("Dot-v0", Dot)
def policy(environment, frames, rng):
    return np.zeros(environment.num_envs, int)
"""


@pytest.fixture
def payload(tmp_path, monkeypatch):
    """A module `payload`, and the file that appears when it is imported."""
    marker = tmp_path / "imported"
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "payload.py").write_text(SOURCE.format(marker=marker))
    monkeypatch.syspath_prepend(tmp_path / "modules")
    monkeypatch.chdir(tmp_path)
    yield marker
    sys.modules.pop("payload", None)
    gymnasium.registry.pop("Dot-v0", None)
    gymnasium_games._typed_modules.discard("payload")


HOSTILE = """
gym:payload:Dot-v0 gym:payload:payload:Dot-v0 gym:./modules/payload:Dot-v0 gym:payload:Dot/../x-v0 gym:Dot-v0 gym:
gym::Dot-v0 ale:payload:Dot ale:../payload ale: payload:Dot-v0 payload
doom:payload doom:payload.wad:MAP01 doom:../payload.wad:MAP01
"""
FEW = {"train_records": 1, "held_out_records": 1}


@pytest.mark.parametrize("name", HOSTILE.split())
def test_no_name_of_a_file_imports_a_module(name, payload, pong_set, tmp_path):
    record = Record(np.zeros((2, 64, 64, 3), np.uint8), np.zeros(2, np.int32), level_seed=1)
    for attempt in (
        lambda: describe_environment(name),
        lambda: make_environment(name, 1),
        lambda: replay_to(record, Game(environment=name)),
        lambda: collect_real_play(EvaluateConfig(checkpoint="x"), FEW, Game(environment=name), tmp_path),
    ):
        with pytest.raises(ValueError):
            attempt()
    assert not payload.exists() and "payload" not in sys.modules


def test_no_option_of_a_file_reaches_another_setting(payload, tmp_path):
    """A policy `module:function` would be imported too."""
    for options in ((("policy", "payload:policy"),), (("overwrite", True),), (("num_envs", 9),), (("levels", 3),)):
        with pytest.raises(ValueError, match="pong has no option"):
            collect_real_play(EvaluateConfig(checkpoint="x"), FEW, Game("pong", environment_options=options), tmp_path)
        record = Record(np.zeros((2, 64, 64, 3), np.uint8), np.zeros(2, np.int32), level_seed=1)
        with pytest.raises(ValueError, match="pong has no option"):
            replay_to(record, Game(environment="pong", environment_options=options))
    assert not payload.exists()


def test_evaluate_and_play_run_no_payload(payload, pong_set, tmp_path, run_script):
    """The attack of a stranger: a data set and a checkpoint that name a module."""
    data = tmp_path / "set"
    shutil.copytree(pong_set, data)
    values = json.loads((data / "metadata.json").read_text())
    (data / "metadata.json").write_text(json.dumps({**values, "environment": "gym:payload:Dot-v0"}))
    checkpoint = random_checkpoint(tmp_path / "random", data)
    options = ("--checkpoint", checkpoint, *LITTLE, "--output", tmp_path / "report")
    refused(run_script("evaluate", *options), "give --data", "--env-module payload")
    succeeded(run_script("evaluate", *options, "--data", data))
    assert not payload.exists()
    (engine,) = load_engines(PlayConfig(checkpoint=str(checkpoint), data=data, num_steps=1)).values()
    gallery = engine.gallery
    assert "payload" in gallery.real_game_unavailable_reason(gallery.prompt(0, 5)) and not payload.exists()


def test_a_module_that_the_user_typed_is_imported(payload, tmp_path, monkeypatch, run_script):
    few = ("--records", 3, "--val-records", 1, "--test-records", 2, "--workers", 1, "--min-frames", 8)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))
    monkeypatch.setattr(collecting, "NUM_ENVS", 2)
    out = tmp_path / "set"
    succeeded(run_script("collect", "--env", "gym:payload:Dot-v0", "--out", out, *few))
    assert payload.exists() and read_metadata(out).environment == "gym:payload:Dot-v0"
    checkpoint = random_checkpoint(tmp_path / "random", out)
    gymnasium_games._typed_modules.discard("payload")
    options = ("--checkpoint", checkpoint, "--data", out, *LITTLE, "--output", tmp_path / "report")
    succeeded(run_script("evaluate", *options, "--env-module", "payload"))
    assert "by_frame" in json.loads((tmp_path / "report/report.json").read_text())["counterfactuals"]
    result = run_script("evaluate", *options, "--env-module", "no_such_module")
    refused(result, "the module 'no_such_module' cannot be imported")
    config = PlayConfig(checkpoint=str(checkpoint), data=out, num_steps=1, env_module="payload")
    (engine,) = load_engines(config).values()
    gallery = engine.gallery
    assert gallery.real_game_unavailable_reason(gallery.prompt(0, 5)) is None


def test_an_agent_imports_the_module_of_a_typed_game_only(payload):
    config = GamesConfig(env="real", num_envs=1, seed=1)
    with pytest.raises(ValueError, match="--game gym:payload:Dot-v0"):
        config.open_games("gym:payload:Dot-v0", {}, "test")
    assert not payload.exists()
    typed = replace(config, game="gym:payload:Dot-v0")
    typed.open_games(typed.game, {}, "test").close()
    assert payload.exists()


def test_typed_names_are_checked_too(run_script):
    for name, words in (("gym:a b", "gym:ID"), ("ale:x:y", "Atari"), ("gym:no_such_module:X-v0", "cannot be imported")):
        refused(run_script("collect", "--env", name, "--out", "set"), words)


def test_wrong_game_is_refused_unless_insisted(pong_set, tmp_path, run_script):
    """In every command that joins a checkpoint with a data set."""
    config = replace(SMALLEST, num_actions=3, num_steps=1)
    random_model(config, game=Game("leaper", actions=unnamed_actions(3))).save_pretrained(tmp_path / "leaper")
    random_model(config).save_pretrained(tmp_path / "unknown")
    words = ("is of the game leaper", "is of pong", "--any-game")
    infer = ("--data", pong_set, "--num-frames", 6, "--num-samples", 1, "--output", tmp_path / "dream.mp4")
    refused(run_script("infer", "--checkpoint", tmp_path / "leaper", *infer), *words)
    evaluate = ("--data", pong_set, *LITTLE, "--output", tmp_path / "report")
    refused(run_script("evaluate", "--checkpoint", tmp_path / "leaper", *evaluate), *words)
    play = PlayConfig(checkpoint=str(tmp_path / "leaper"), data=pong_set)
    with pytest.raises(ValueError, match="is of the game leaper"):
        load_engines(play)
    for options in (("--checkpoint", tmp_path / "leaper", "--any-game"), ("--checkpoint", tmp_path / "unknown")):
        succeeded(run_script("infer", *options, *infer))
    assert isinstance(load_engines(replace(play, any_game=True))[""].gallery, Gallery)
    titles = [Game(name).title for name in ("gym:module:Dot-v0", "gym:Dot-v0", "pong")]
    assert titles == ["gym:Dot-v0", "gym:Dot-v0", "pong"]
