"""Names, looks and action spaces of Procgen games. Loads no game."""

from dreamrun.games.space import ActionSpace

PROCGEN_GAMES = {  # name -> what is seen in it
    "bigfish": "a fish that eats smaller fish",
    "bossfight": "a spaceship that fights a boss",
    "caveflyer": "a spaceship that flies through caves",
    "chaser": "a collector of orbs who is chased",
    "climber": "a climber who jumps from ledge to ledge",
    "coinrun": "a runner who jumps to a coin",
    "dodgeball": "a thrower of balls in a room of enemies",
    "fruitbot": "a robot that picks fruit",
    "heist": "a thief who looks for keys in a maze",
    "jumper": "a bunny that jumps to a carrot",
    "leaper": "a frog that crosses a road and a river",
    "maze": "a mouse that looks for cheese in a maze",
    "miner": "a miner who digs for diamonds",
    "ninja": "a ninja who jumps between ledges",
    "plunder": "a ship that fires at pirates",
    "starpilot": "a spaceship that shoots from the side",
}
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
