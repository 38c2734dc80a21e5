"""TODO."""

from __future__ import annotations

from data.actions import (
    ActionSpace,
)

PROCGEN_GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)


_PROCGEN_KEYS = (
    *(("LEFT", "DOWN"), ("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT", "DOWN"), ("RIGHT",)),
    *(("RIGHT", "UP"), ("D",), ("A",), ("W",), ("S",), ("Q",), ("E",)),
)


_JUMPING_GAMES = ("coinrun", "climber", "jumper", "ninja")


# Keys that change nothing within four steps, measured over 384 states of each game by saving and restoring its state
# (DOWN in CoinRun: in 1 % of them).
_IDLE_KEYS = {
    **dict.fromkeys(("bigfish", "chaser", "heist", "leaper", "maze", "miner"), "D A W S Q E"),
    **dict.fromkeys(("bossfight", "caveflyer", "dodgeball"), "A W S Q E"),
    **dict.fromkeys(("climber", "coinrun", "jumper"), "DOWN D A W S Q E"),
    **dict.fromkeys(("fruitbot", "plunder"), "UP DOWN A W S Q E"),
    **{"ninja": "DOWN", "starpilot": ""},
}


_NO_DIAGONALS = ("leaper", "maze", "miner")  # two arrows held do what the sideways one does


def procgen_actions(game: str) -> ActionSpace:
    """The 15 actions of a Procgen game; those that do something of their own, standing still included, are acting."""
    idle, most_keys = _IDLE_KEYS[game].split(), 1 if game in _NO_DIAGONALS else 2
    return ActionSpace(
        names=tuple(_procgen_action_name(keys, game in _JUMPING_GAMES) for keys in _PROCGEN_KEYS),
        keys=_PROCGEN_KEYS,
        acting=tuple(
            action
            for action, keys in enumerate(_PROCGEN_KEYS)
            if len(keys) <= most_keys and not any(key in idle for key in keys)
        ),
    )


def _procgen_action_name(keys: tuple[str, ...], jumps: bool) -> str:
    words = [key if len(key) == 1 else key.lower() for key in keys]
    return "+".join("jump" if word == "up" and jumps else word for word in words) or "noop"
