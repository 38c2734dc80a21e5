"""The games of a run and of a checkpoint: which data set is of which game, and views of a model for one of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from dreamrun.data.captions import phrasings
from dreamrun.data.metadata import Metadata
from dreamrun.games.factory import game_of
from dreamrun.games.splitmix import splitmix64_hash
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_info import GameInfo, GameSlice
from dreamrun.model.games import nearest_game, select_game, tell
from dreamrun.model.text import encode_bytes

WORDS_HIDDEN = 0.1  # share of clips whose words are all hidden in training
# Share of clips whose frames are trained each for itself, without context and actions, if words are learnt. A frame
# that is dreamt from words alone has no context, and of the other clips only the first frame has none. (Training on
# videos and pictures together: arXiv 2204.03458.)
IMAGE_SHARE = 0.2
_TEXT_STREAM, _IMAGE_STREAM = np.uint64(0x70D5), np.uint64(0x1A6E)  # of random numbers, apart from those of the noise


def game_info(metadata: Metadata) -> GameInfo:
    """The data set's game, as a checkpoint describes it."""
    return GameInfo(
        environment=metadata.environment,
        environment_options=metadata.environment_options,
        action_names=metadata.actions.names,
        action_keys=metadata.actions.keys,
        acting_actions=metadata.actions.acting,
        action_kinds=metadata.actions.kinds,
        action_scales=metadata.actions.scales,
        fps=metadata.fps,
    )


def describe_games(sets: Sequence[Metadata], words: bool = False) -> tuple[GameInfo, list[str]]:
    """The games of several data sets, as a checkpoint describes them, and the name of each set's game.

    Data sets that say the same of their game share it. Games of one environment with equal actions, such as two sizes
    of Pong, share a slice of the action vector; every other game has a slice of its own.

    Args:
        words: describe also a single game by its name, with its caption.
    """
    if len(sets) == 1 and not words:
        return game_info(sets[0]), [""]
    games: dict[tuple, GameSlice] = {}
    offsets: dict[tuple, int] = {}
    num_actions, names = 0, []
    for metadata in sets:
        key = game_info(metadata), metadata.frame_shape, metadata.caption
        actions = (metadata.environment, metadata.actions)
        if actions not in offsets:
            offsets[actions], num_actions = num_actions, num_actions + len(metadata.actions)
        if key not in games:
            height, width, _ = metadata.frame_shape
            games[key] = GameSlice(
                **vars(key[0]),
                name=_new_name(metadata, {game.name for game in games.values()}),
                frame_height=height,
                frame_width=width,
                action_offset=offsets[actions],
                caption=metadata.caption,
            )
        names.append(games[key].name)
    return GameInfo(games=tuple(games.values())), names


def _new_name(metadata: Metadata, taken: set[str]) -> str:
    """The environment's name, with the frame size or a number where another game has it."""
    height, width, _ = metadata.frame_shape
    name = metadata.environment or "game"
    candidates = [name, f"{name}-{width}x{height}", *(f"{name}-{number}" for number in range(2, 2 + len(taken)))]
    return next(candidate for candidate in candidates if candidate not in taken)


def action_slice(game: GameInfo, name: str, metadata: Metadata) -> slice:
    """Where the action vectors of a data set, which is of the game of that name, lie in those of the network."""
    offset = next((part.action_offset for part in game.games if part.name == name), 0)
    return slice(offset, offset + len(metadata.actions))


def choose_game(
    model: WorldModel, name: str = "", metadata: Metadata | None = None, words: str | None = None
) -> WorldModel:
    """The view of a model for one game; a model of one game is returned as it is.

    Args:
        name: of the game; "": that of the data set, else the one whose caption is nearest to the words, else the first.
        metadata: of a data set with prompts or true frames; None: there is none.
        words: tell these in place of the game's caption, "" for none; None: the caption.

    Raises:
        ValueError: the model has no such game, or words are given and it has learnt none.
    """
    view = select_game(model, find_game(model, name, metadata, words))
    return view if words is None else tell(view, words)


def find_game(model: WorldModel, name: str = "", metadata: Metadata | None = None, words: str | None = None) -> str:
    """The name of the game that `choose_game` chooses; "" for a model of one game."""
    games = model.game.games
    if name or not games:
        return name
    if metadata is not None:
        return _game_of_data(games, metadata)
    return (nearest_game(model, words) if words else "") or games[0].name


def _game_of_data(games: Sequence[GameSlice], metadata: Metadata) -> str:
    """The name of the game that agrees with a data set in most of environment, size, options and caption."""

    def agreement(game: GameSlice) -> tuple[bool, ...]:
        return (
            game_of(game.environment) == game_of(metadata.environment),
            (game.frame_height, game.frame_width) == metadata.frame_shape[:2],
            game.environment_options == metadata.environment_options,
            game.caption == metadata.caption,
        )

    return max(games, key=agreement).name  # the first of equals


def text_of(captions: Sequence[str], seeds: np.ndarray | None = None) -> Tensor:
    """What the network is told of clips, uint8 (B, L).

    Args:
        captions: (B,).
        seeds: uint64 (B,), of the clips: a share of them is told nothing, the others a phrasing drawn for each; None:
            the captions themselves.
    """
    if seeds is None:
        return encode_bytes(captions)
    drawn = splitmix64_hash(seeds ^ _TEXT_STREAM)
    texts = []
    for caption, number in zip(captions, drawn.tolist(), strict=True):
        choices = phrasings(caption)
        is_hidden = not choices or (number >> 32) / 2**32 < WORDS_HIDDEN
        texts.append("" if is_hidden else choices[(number & 0xFFFFFFFF) % len(choices)])
    return encode_bytes(texts)


def choose_image_clips(seeds: np.ndarray) -> np.ndarray:
    """Which clips are trained frame by frame, bool (B,). Each clip's choice depends on its own seed, uint64 (B,)."""
    return splitmix64_hash(seeds ^ _IMAGE_STREAM) < IMAGE_SHARE * 2.0**64
