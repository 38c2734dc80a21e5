"""Save and load checkpoint folders."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FULL, TINY, random_model

from dreamrun.games.game import Game
from dreamrun.games.space import ActionSpace, unnamed_actions
from dreamrun.model import WorldModel

PONG_ACTIONS = ActionSpace(("noop", "up", "down"), ((), ("UP",), ("DOWN",)), (0, 1, 2))
PONG = Game(environment="pong", frame_shape=(16, 24, 3), actions=PONG_ACTIONS, fps=12.0)


@pytest.mark.parametrize("config", [TINY, FULL, replace(TINY, outcomes=True)])
def test_save_and_load(tmp_path, config):
    game = replace(PONG, environment_options=(("simple", True),))
    model = random_model(config, game=game)
    model.save_pretrained(tmp_path)
    assert len({path.stat().st_mode for path in tmp_path.iterdir()}) == 1  # whoever may read one file may read all
    plain = json.loads((tmp_path / "game.json").read_text())
    assert plain["environment"] == "pong" and plain["fps"] == 12.0 and plain["action_keys"] == [[], ["UP"], ["DOWN"]]
    loaded = WorldModel.from_pretrained(tmp_path)
    assert (loaded.config, loaded.game) == (config, game) and not loaded.training
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


def test_loading_is_strict_and_names_the_wrong_weights(tmp_path):
    random_model().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({n: t for n, t in weights.items() if "fc1.bias" not in n}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"4 missing \(blocks.0.spatial.mlp.fc1.bias"):
        WorldModel.from_pretrained(tmp_path)
    save_file({**weights, "extra": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 unexpected \(extra\)"):
        WorldModel.from_pretrained(tmp_path)
    save_file({**weights, "final_layer.linear.bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 of another shape or type \(final_layer.linear.bias\)"):
        WorldModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", None, "has no config.json"),
        ("model.safetensors", None, "has no model.safetensors"),
        ("config.json", '{"vocabulary": 5}', "unknown model settings: vocabulary"),
        ("game.json", '{"fps": 0}', "game.json is not the description of a game: fps is 0"),
        ("model.safetensors", "garbage", "is damaged"),
    ],
)
def test_damaged_checkpoints_are_refused(tmp_path, file, content, message):
    random_model().save_pretrained(tmp_path)
    if content is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=message):
        WorldModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no checkpoint at"):
        WorldModel.from_pretrained(tmp_path / "absent")


def test_a_game_that_does_not_fit_the_network_is_refused(tmp_path):
    random_model(game=Game(actions=unnamed_actions(2))).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"game\.json is not .*: 2 action names for num_actions 3"):
        WorldModel.from_pretrained(tmp_path)


def test_an_old_config_that_holds_the_game_is_read(tmp_path):
    random_model(game=PONG).save_pretrained(tmp_path)
    (tmp_path / "game.json").unlink()
    old = {name: value for name, value in PONG.to_dict().items() if name not in ("frame_shape", "num_actions")}
    (tmp_path / "config.json").write_text(json.dumps(old | TINY.to_dict()))
    loaded = WorldModel.from_pretrained(tmp_path)
    assert (loaded.config, loaded.game) == (TINY, PONG)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(tmp_path, dtype):
    model = random_model()
    model.save_pretrained(tmp_path)
    save_file({name: weight.to(dtype) for name, weight in model.state_dict().items()}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"weights of .* do not fit: \d+ of another shape or type"):
        WorldModel.from_pretrained(tmp_path)
