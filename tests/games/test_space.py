"""Action spaces: recorded actions to vectors, by name, by keys; through JSON."""

import json

import numpy as np
import pytest
from tiny import CONTROLS

from dreamrun.games.factory import make_environment
from dreamrun.games.procgen_actions import procgen_actions
from dreamrun.games.space import UNCONDITIONAL, UNKNOWN_ACTION, ActionSpace, unnamed_actions

COINRUN = procgen_actions("coinrun")


def test_ids_are_one_hot_and_no_action_is_zeros():
    vectors = COINRUN.vectors(np.array([[7, UNKNOWN_ACTION], [0, 14]]))
    assert vectors.shape == (2, 2, 15) and vectors.dtype == np.float32
    assert [COINRUN.index(name) for name in ("left+jump", "noop", "right", "right+jump", "E")] == [2, 4, 7, 8, 14]
    assert vectors[0, 0].tolist() == [float(i == 7) for i in range(15)] and not vectors[0, 1].any()
    assert len(COINRUN) == 15


def test_standing_still_differs_from_not_knowing():
    actions = np.stack([CONTROLS.noop, CONTROLS.unknown(), CONTROLS.parse("left+jump+dx=-0.5")])
    vectors = CONTROLS.vectors(actions)
    assert vectors.dtype == np.float32 and vectors.shape == (3, len(CONTROLS)) == (3, 7)
    assert vectors.tolist() == [[0] * 6 + [1], [0] * 7, [1, 0, 1, 0, -0.5, 0, 1]]
    assert CONTROLS.name_values(actions).tolist() == [[0] * 6, [0] * 6, [1, 0, 1, 0, -0.5, 0]]


@pytest.mark.parametrize("space", [COINRUN, CONTROLS, unnamed_actions(3), UNCONDITIONAL])
def test_spaces_survive_json(space):
    assert ActionSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space


def test_actions_by_name():
    assert COINRUN.format(COINRUN.parse("right+jump")) == "right+jump"
    for name in ("left+jump+dx=-0.5", "noop", "dy=1"):
        assert CONTROLS.format(CONTROLS.parse(name)) == name
    assert COINRUN.parse("right+jump") == COINRUN.parse("JUMP+Right") == 8
    assert CONTROLS.parse("noop").tolist() == [0] * 6
    assert CONTROLS.parse("dy").tolist() == [0, 0, 0, 0, 0, 1]
    for name in ("fly", "left+fly", "fly=2"):
        with pytest.raises(ValueError, match=r"unknown action 'fly.*left, right, jump, fire, dx, dy"):
            CONTROLS.parse(name)
    with pytest.raises(ValueError, match="left=much"):
        CONTROLS.parse("left=much")
    with pytest.raises(ValueError, match="unknown action 'fly'"):
        COINRUN.parse("fly")


def test_actions_by_keys():
    assert COINRUN.action_for_keys({"right", "UP"}) == COINRUN.index("right+jump")
    assert COINRUN.action_for_keys(["RIGHT", "F5"]) == COINRUN.index("right")
    assert COINRUN.action_for_keys([]) == COINRUN.noop == 4
    assert COINRUN.action_for_keys({"LEFT", "RIGHT"}) in (COINRUN.index("left"), COINRUN.index("right"))
    assert CONTROLS.action_for_keys({"A", "space", "x"}).tolist() == [1, 0, 1, 0, 0, 0]
    assert CONTROLS.action_for_keys({"LEFT"}).tolist() == [1, 0, 0, 0, 0, 0]
    assert CONTROLS.action_for_keys({"I"}).tolist() == [0, 0, 0, 0, 0, -1]
    assert CONTROLS.action_for_keys({"I", "K"}).tolist() == [0] * 6


def test_random_actions_act():
    rng = np.random.default_rng(0)
    assert set(np.unique(COINRUN.random(rng, 9, 99))) == set(COINRUN.acting)
    drawn = CONTROLS.random(rng, 50, 20)
    assert drawn.shape == (50, 20, 6) and drawn.dtype == np.float32
    assert set(np.unique(drawn[..., :3])) == {0, 1} and not drawn[..., 3].any()  # fire does nothing
    assert abs(drawn[..., 4:]).max() <= 1 and drawn[..., 4].std() > 0.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kinds": ("button",)}, "6 action names with .* 1 kinds"),
        ({"kinds": ()}, "action_kinds are"),
        ({"kinds": ("wheel",) * 6}, "wheel"),
        ({"kinds": ("axis",) * 6}, "an axis needs two keys"),
        ({"scales": (1, 1, 1, 1, 1, float("nan"))}, "action_scales"),
        ({"scales": (1, 1, 1, 1, 1, "2")}, "action_scales"),
        ({"acting": (7,)}, "expected indices of the 6 actions"),
        ({"acting": (0.5,)}, "acting_actions hold 0.5"),
        ({"acting": "01"}, "acting are '01'"),
        ({"names": ()}, "0 action names"),
        ({"names": "abcdef"}, "names are 'abcdef'"),
        ({"names": ("a", 1)}, "an action name is 1"),
        ({"names": ("a", "\x1b[2J")}, "control"),
        ({"names": ("a", "x" * 1000)}, "at most 200 characters"),
        ({"names": ("a",) * 10**5}, "at most 4096"),
        ({"keys": "AB"}, "keys are 'AB'"),
        ({"keys": ("LEFT", "RIGHT")}, "the keys of an action are 'LEFT': expected a tuple or a list"),
        ({"keys": (None, ())}, "keys of an action are None"),
        ({"keys": ((), (5,))}, "a key is 5"),
    ],
)
def test_spaces_that_make_no_sense(fields, message):
    values = {name: getattr(CONTROLS, name) for name in ("names", "keys", "acting", "kinds", "scales")}
    with pytest.raises(ValueError, match=message):
        ActionSpace(**{**values, **fields})


def test_keys_of_coinrun():
    meant = {
        "noop": ("", "DOWN", "Q"),  # DOWN never acts in CoinRun
        "right": ("RIGHT", "DOWN RIGHT", "LEFT RIGHT", "D", "F13 RIGHT"),  # the newer key; D stands in for the arrow
        "left": ("RIGHT LEFT",),
        "jump": ("UP",),
        "right+jump": ("RIGHT UP", "UP RIGHT", "W D"),
        "left+jump": ("LEFT UP", "RIGHT LEFT UP", "RIGHT UP LEFT", "LEFT A W"),
    }
    for name, all_held in meant.items():
        for held in all_held:
            assert COINRUN.names[COINRUN.action_for_keys(held.split())] == name, held


def test_letters_that_a_game_uses_itself_are_no_arrows():
    starpilot = procgen_actions("starpilot")
    assert starpilot.key_aliases == {}
    assert starpilot.names[starpilot.action_for_keys(["D"])] == "D"
    assert starpilot.names[starpilot.action_for_keys(["D", "RIGHT"])] == "right"
    assert COINRUN.key_aliases == {"W": "UP", "A": "LEFT", "D": "RIGHT"}


def test_keys_of_pong():
    pong = make_environment("pong", 1).actions
    assert [pong.action_for_keys(held) for held in ((), ["UP"], ["S"], ["UP", "DOWN"], ["LEFT"])] == [0, 1, 2, 2, 0]


def test_every_acting_action_can_be_meant():
    for game in ("coinrun", "starpilot", "maze", "bossfight"):
        space = procgen_actions(game)
        assert [space.action_for_keys(space.keys[action]) for action in space.acting] == list(space.acting)


def test_spaces_without_keys_or_without_standing_still():
    assert unnamed_actions(3).action_for_keys(["UP"]) == 0
    driving = ActionSpace(("gas", "brake"), (("UP",), ("DOWN",)), (0, 1))
    assert driving.action_for_keys([]) == 0 and driving.action_for_keys(["DOWN"]) == 1


def test_held_actions_have_the_fewest_keys_and_buttons_and_axes_are_each_alone():
    ids = COINRUN.held_actions()
    names = [COINRUN.names[action] for action in ids[:6]]
    assert names == ["noop", "left", "jump", "right", "left+jump", "right+jump"] and len(ids) == len(COINRUN.acting)
    held = CONTROLS.held_actions()  # fire has no effect
    names = [CONTROLS.format(vector) for vector in held]
    assert names == ["noop", "left", "right", "jump", "dx=1", "dx=-1", "dy=1", "dy=-1"]
    assert all(np.array_equal(CONTROLS.parse(CONTROLS.format(vector)), vector) for vector in held)
