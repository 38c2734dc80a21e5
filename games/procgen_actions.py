"""The action spaces of Procgen games. Loads no game."""

from dreamrun.games.space import ActionSpace

PROCGEN_GAMES = (
    *("bigfish", "bossfight", "caveflyer", "chaser", "climber", "coinrun", "dodgeball", "fruitbot"),
    *("heist", "jumper", "leaper", "maze", "miner", "ninja", "plunder", "starpilot"),
)
# The keys of the 15 actions, in the order of their ids.
_PROCGEN_KEYS = (
    *(("LEFT", "DOWN"), ("LEFT",), ("LEFT", "UP"), ("DOWN",), (), ("UP",), ("RIGHT", "DOWN"), ("RIGHT",)),
    *(("RIGHT", "UP"), ("D",), ("A",), ("W",), ("S",), ("Q",), ("E",)),
)
_JUMPING_GAMES = ("coinrun", "climber", "jumper", "ninja")  # where UP jumps
# Keys without an effect within four steps, measured over 384 states of each game by saving and restoring its state
# (in CoinRun, DOWN has an effect in 1 % of states).
_IDLE_KEYS = {
    **dict.fromkeys(("bigfish", "chaser", "heist", "leaper", "maze", "miner"), "D A W S Q E"),
    **dict.fromkeys(("bossfight", "caveflyer", "dodgeball"), "A W S Q E"),
    **dict.fromkeys(("climber", "coinrun", "jumper"), "DOWN D A W S Q E"),
    **dict.fromkeys(("fruitbot", "plunder"), "UP DOWN A W S Q E"),
    **{"ninja": "DOWN", "starpilot": ""},
}
_NO_DIAGONALS = ("leaper", "maze", "miner")  # two arrows held together do what LEFT or RIGHT does


def procgen_actions(game: str) -> ActionSpace:
    """The 15 actions of a Procgen game. Acting are noop and all actions with an effect that no other action has."""
    idle, max_keys = _IDLE_KEYS[game].split(), 1 if game in _NO_DIAGONALS else 2
    return ActionSpace(
        names=tuple(_procgen_action_name(keys, game in _JUMPING_GAMES) for keys in _PROCGEN_KEYS),
        keys=_PROCGEN_KEYS,
        acting=tuple(
            action
            for action, keys in enumerate(_PROCGEN_KEYS)
            if len(keys) <= max_keys and not any(key in idle for key in keys)
        ),
    )


def _procgen_action_name(keys: tuple[str, ...], jumps: bool) -> str:
    words = [key if len(key) == 1 else key.lower() for key in keys]
    return "+".join("jump" if word == "up" and jumps else word for word in words) or "noop"
