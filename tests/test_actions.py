"""Keys held -> the action that is meant."""

import pytest

from data.actions import ActionSpace, numbered, procgen_actions
from data.environments import make_environment

COINRUN = procgen_actions("coinrun")


@pytest.mark.parametrize(
    ("held", "name"),
    [
        ((), "stay"),
        (("RIGHT",), "right"),
        (("UP",), "jump"),
        (("RIGHT", "UP"), "right+jump"),
        (("UP", "RIGHT"), "right+jump"),
        (("LEFT", "UP"), "left+jump"),
        (("DOWN",), "stay"),  # never acts in CoinRun
        (("DOWN", "RIGHT"), "right"),
        (("Q",), "stay"),
        (("LEFT", "RIGHT"), "right"),  # the newer one
        (("RIGHT", "LEFT"), "left"),
        (("RIGHT", "LEFT", "UP"), "left+jump"),
        (("RIGHT", "UP", "LEFT"), "left+jump"),
        (("D",), "right"),  # stands in for the arrow
        (("W", "D"), "right+jump"),
        (("LEFT", "A", "W"), "left+jump"),
        (("F13", "RIGHT"), "right"),
    ],
)
def test_keys_of_coinrun(held, name):
    assert COINRUN.names[COINRUN.action_for_keys(held)] == name


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
    assert numbered(3).action_for_keys(["UP"]) == 0
    driving = ActionSpace(("gas", "brake"), (("UP",), ("DOWN",)), (0, 1))
    assert driving.action_for_keys([]) == 0 and driving.action_for_keys(["DOWN"]) == 1
