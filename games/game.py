"""What a game is. Data sets (metadata.json) and checkpoints (game.json) describe it in the same JSON form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import Annotated, Any

from dreamrun.games.ranges import Range
from dreamrun.games.space import UNCONDITIONAL, ActionSpace, unnamed_actions
from dreamrun.games.untrusted import check_name

MAX_FRAME_SIDE = 1024  # pixels; a record of larger frames would not fit in memory
FPS_RANGE = Range(0.01, 1000.0)
Fps = Annotated[float, FPS_RANGE]
MAX_OPTIONS = 32  # of an environment
MAX_CAPTION_CHARS = 1000
MAX_GAMES = 64  # of one network


@dataclass(frozen=True)
class Game:
    """A game, or the several games of one network."""

    environment: str = ""  # its name for `make_environment`; "": nobody said which game it is
    environment_options: tuple[tuple[str, Any], ...] = ()  # keyword arguments of `make_environment`
    frame_shape: tuple[int, int, int] = (64, 64, 3)  # (H, W, C)
    fps: float = 15.0  # frames per second
    actions: ActionSpace = UNCONDITIONAL
    caption: str = ""  # what is played, in words; a record of a data set may have its own
    # One of a network's several games has a name, and its action vectors are a slice of the network's.
    name: str = ""
    action_offset: int = 0  # where its slice begins
    games: tuple[Game, ...] = ()  # of a network of several games; the fields above give its sizes alone

    def __post_init__(self):
        check_name("environment", self.environment)
        check_options(self.environment_options)
        check_fps(self.fps)
        check_caption(self.caption)
        check_name("the name of a game", self.name)
        Range(0).check("action_offset", self.action_offset)

    @property
    def title(self) -> str:
        """The name of the environment without a module or folder: "gym:MODULE:ID" -> "gym:ID"."""
        return re.sub(r"^(gym:)[A-Za-z_][\w.]*:|^(doom:).*[/\\]", r"\1\2", self.environment)

    @property
    def action_slice(self) -> slice:
        """Where its action vectors lie in those of the network."""
        return slice(self.action_offset, self.action_offset + len(self.actions))

    def part(self, name: str = "") -> Game:
        """The game of that name; "": the first one. A game alone has no name."""
        for game in self.games or (self,):
            if name in ("", game.name):
                return game
        if not self.games:
            raise ValueError(f"this checkpoint has one game, so leave out the name {name!r:.40}")
        names = ", ".join(game.name for game in self.games)
        raise ValueError(f"this checkpoint has no game {name!r:.40}: choose {names}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready fields."""
        if self.games:
            return {"games": [game.to_dict() for game in self.games]}
        return {
            "environment": self.environment,
            "environment_options": dict(self.environment_options),
            "frame_shape": list(self.frame_shape),
            "fps": self.fps,
            "num_actions": len(self.actions.names),
            **self.actions.to_dict(),
            **({"caption": self.caption} if self.caption else {}),
            **({"name": self.name, "action_offset": self.action_offset} if self.name else {}),
        }

    @classmethod
    def from_dict(cls, values: Any, default: Game) -> Game:
        """The inverse of `to_dict`, which also reads the older forms.

        Args:
            values: parsed JSON; unknown fields are ignored.
            default: of fields that are missing.
        """
        try:
            if not values.get("games"):
                return cls._from_dict(values, default)
            if len(values["games"]) > MAX_GAMES:
                raise ValueError(f"it has {len(values['games'])} games: at most {MAX_GAMES} are possible")
            return replace(default, games=tuple(cls._from_dict(game, default) for game in values["games"]))
        except (AttributeError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"{type(error).__name__}: {error}"[:200]) from None

    @classmethod
    def _from_dict(cls, values: Mapping[str, Any], default: Game) -> Game:
        actions = ActionSpace.from_dict(values) if values.get("action_names") else default.actions
        num_actions = values.get("num_actions", len(actions.names))
        if num_actions != len(actions.names):
            raise ValueError(f"num_actions is {num_actions!r:.40}, with {len(actions.names)} names")
        shape = values.get("frame_shape", default.frame_shape)
        if "frame_height" in values:  # as checkpoints of several games had it
            shape = (values["frame_height"], values["frame_width"], 3)
        return cls(
            environment=values.get("environment", values.get("env", default.environment)),
            environment_options=tuple(dict(values.get("environment_options", default.environment_options)).items()),
            frame_shape=tuple(shape),
            fps=values.get("fps", default.fps),
            actions=actions,
            caption=values.get("caption", default.caption),
            name=values.get("name", ""),
            action_offset=values.get("action_offset", 0),
        )


def combine_games(games: Sequence[Game], text: bool = False) -> tuple[Game, list[str]]:
    """One network's game or games, from those of its data sets, and the name of each set's game.

    Data sets that say the same of their game share it. Games of one environment with equal actions, such as two sizes
    of Pong, share a slice of the action vector; every other game has a slice of its own.

    Args:
        text: the network learns captions, so that a single game keeps its name and caption too.
    """
    if len(games) == 1 and not text:
        return replace(games[0], caption=""), [""]
    parts: dict[Game, Game] = {}
    offsets: dict[tuple, int] = {}
    num_actions = 0
    for game in games:
        actions = (game.environment, game.actions)
        if actions not in offsets:
            offsets[actions], num_actions = num_actions, num_actions + len(game.actions)
        if game not in parts:
            name = _new_name(game, {part.name for part in parts.values()})
            parts[game] = replace(game, name=name, action_offset=offsets[actions])
    shape, actions = games[0].frame_shape, unnamed_actions(num_actions)
    network_game = Game(frame_shape=shape, actions=actions, games=tuple(parts.values()))
    return network_game, [parts[game].name for game in games]


def _new_name(game: Game, taken: set[str]) -> str:
    """The environment's name, with the frame size or a number where another game has it."""
    height, width, _ = game.frame_shape
    name = game.environment or "game"
    candidates = [name, f"{name}-{width}x{height}", *(f"{name}-{number}" for number in range(2, 2 + len(taken)))]
    return next(candidate for candidate in candidates if candidate not in taken)


def parse_size(size: str) -> tuple[int, int]:
    """ "96x64" -> (96, 64), width and height in pixels."""
    width, _, height = str(size).lower().partition("x")
    if not (width.isdecimal() and height.isdecimal() and int(width) and int(height)):
        raise ValueError(f"size is {size!r:.40}: expected width x height in pixels, such as 96x64")
    if max(int(width), int(height)) > MAX_FRAME_SIDE:
        raise ValueError(f"size is {size!r:.40}: frames are at most {MAX_FRAME_SIDE} pixels wide and high")
    return int(width), int(height)


def make_caption(*parts: str) -> str:
    """A caption of the name of a game and what else is to be said of it; empty parts are left out."""
    return ", ".join(filter(None, parts))


def picture_words(width: int, height: int) -> str:
    """What a caption says of frames of that size."""
    return "wide picture" if width > height else "tall picture" if width < height else ""


def check_frame_shape(shape: tuple[int, ...]) -> None:
    """Raises ValueError unless it is the shape (H, W, 3) of a data set's frames."""
    if len(shape) != 3 or shape[2] != 3 or any(type(n) is not int or not 1 <= n <= MAX_FRAME_SIDE for n in shape):
        raise ValueError(f"frame_shape is {shape!r:.60}: expected [height, width, 3], sides of 1 to {MAX_FRAME_SIDE}")


def check_fps(fps: Any) -> float:
    """Frames per second. Raises ValueError unless it is a number that a game can have."""
    FPS_RANGE.check("fps", float(fps) if isinstance(fps, Real) and not isinstance(fps, bool) else fps)
    return fps


def check_caption(caption: Any, name: str = "caption") -> str:
    """A caption. Raises ValueError unless it is text of at most MAX_CAPTION_CHARS without control characters."""
    return check_name(name, caption, MAX_CAPTION_CHARS)


def check_options(options: tuple[tuple[str, Any], ...]) -> None:
    """Raises ValueError unless the options of an environment are few, with short plain values."""
    if len(options) > MAX_OPTIONS:
        raise ValueError(f"{len(options)} environment_options: at most {MAX_OPTIONS} are possible")
    for name, value in options:
        check_name("the name of an environment option", name)
        if isinstance(value, str):
            check_name(f"the environment option {name}", value)
        elif value is not None and not isinstance(value, bool | int | float):
            raise ValueError(f"the environment option {name} is {value!r:.40}: expected text or a number")
