"""Views of a network: for one of its games, for frames of another size, or told a text at every frame.

A view shares all weights with its network. That of a game plays like a network of that game alone: its frames have the
game's size, and its action vectors are the game's slice. So the sampler and all that uses it know nothing of several
games.
"""

import copy
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dreamrun.games.game import Game
from dreamrun.model.dit import WorldModel
from dreamrun.model.text_encoder import encode_bytes


def view_of(model: WorldModel) -> WorldModel:
    """A shallow copy, whose modules and buffers can be replaced."""
    view = copy.copy(model)
    view._modules, view._buffers = dict(model._modules), dict(model._buffers)
    return view


@torch.no_grad()
def with_text(model: WorldModel, text: str) -> WorldModel:
    """The view that is told this text at every frame; "": none."""
    if model.text_encoder is None:
        raise ValueError("this checkpoint has learnt no words: train one with --words True")
    view = view_of(model)
    view.words = model.text_encoder(encode_bytes([text]).to(model.device))[0] if text.strip() else None
    return view


def without_text(model: WorldModel, num_frames: int | None = None) -> WorldModel:
    """The view that is told no text: at all frames, or at the last one of `num_frames` alone."""
    if model.words is None:
        return model
    view = view_of(model)
    view.words = None
    if num_frames is not None:
        view.words = model.words.repeat(num_frames, 1)
        view.words[-1] = 0
    return view


@torch.no_grad()
def fold_text(model: WorldModel) -> WorldModel:
    """The same view with its text in the bias of the actions, for an export without a text encoder."""
    if model.words is None:
        return model
    view = view_of(model)
    view.action_embedding, view.words = copy.deepcopy(model.action_embedding), None
    view.action_embedding.get_parameter("bias").add_(model.words)
    return view


def select_game(model: WorldModel, name: str = "") -> WorldModel:
    """The view of one game ("": the first one). It is told the game's caption, if the network has a text encoder."""
    game = model.game.part(name)
    if not model.game.games:
        return model
    height, width, _ = game.frame_shape
    view = view_of(model)
    view.action_embedding = _columns(model.action_embedding, game.action_slice)
    view.config = replace(model.config.resized(height, width), num_actions=len(game.actions))
    view.game = replace(game, name="", action_offset=0)
    return with_text(view, game.caption) if model.config.words else view


def with_size(model: WorldModel, height: int, width: int) -> WorldModel:
    """The view for frames of another size, in pixels."""
    view = view_of(model)
    view.config = model.config.resized(height, width)
    return view


def choose_game(model: WorldModel, name: str = "", data: Game | None = None, text: str | None = None) -> WorldModel:
    """The view of a model for one game; a model of one game is returned as it is.

    Args:
        name: of the game; "": that of the data set, else the one whose caption is nearest to the text, else the first.
        data: the game of a data set with prompts or true frames; None: there is none.
        text: tell this in place of the game's caption, "" for none; None: the caption.
    """
    view = select_game(model, find_game(model, name, data, text))
    return view if text is None else with_text(view, text)


def find_game(model: WorldModel, name: str = "", data: Game | None = None, text: str | None = None) -> str:
    """The name of the game that `choose_game` chooses; "" for a model of one game."""
    games = model.game.games
    if name or not games:
        return name
    if data is not None:
        fields = ("title", "frame_shape", "environment_options", "caption")
        agreements = [[getattr(game, field) == getattr(data, field) for field in fields] for game in games]
        return games[agreements.index(max(agreements))].name  # the first of equals
    return (nearest_game(model, text) if text else "") or games[0].name


@torch.no_grad()
def nearest_game(model: WorldModel, text: str) -> str:
    """The name of the game whose caption the text encoder finds most like a text, by cosine similarity."""
    games = model.game.games
    if model.text_encoder is None or not games:
        return ""
    texts = [text, *(game.caption for game in games)]
    text_vector, *captions = model.text_encoder(encode_bytes(texts).to(model.device)).float()
    similarity = torch.stack([nn.functional.cosine_similarity(text_vector, caption, dim=0) for caption in captions])
    return games[int(similarity.argmax())].name


def check_model_fits_data(model: WorldModel, data: Game, source: Path | str, any_game: bool = False) -> None:
    """Check that a model can be used with a data set, and is of its game unless `any_game`."""
    config, game = model.config, model.game
    height, width, channels = data.frame_shape
    if config.frame_shape != (channels, height, width):
        raise ValueError(
            f"the model makes frames of {config.frame_width}x{config.frame_height}, "
            f"but those of {source} are {width}x{height} (width x height)"
        )
    if config.num_actions != len(data.actions) or game.actions.kinds != data.actions.kinds:
        raise ValueError(f"the model knows {_count(game)}, but {source} has {_count(data)}")
    if not any_game and game.title and data.title and game.title != data.title:
        raise ValueError(
            f"the model is of the game {game.title}, but {source} is of {data.title}: "
            "choose data of the model's game, or insist with --any-game"
        )


def _count(game: Game) -> str:
    return f"{len(game.actions.names)} {'actions' if game.actions.discrete else 'buttons and axes'}"


def _columns(linear: nn.Module, part: slice) -> nn.Linear:
    """The linear map of a slice of the action vector."""
    assert isinstance(linear, nn.Linear) and linear.bias is not None
    columns = nn.Linear(part.stop - part.start, linear.out_features, device="meta")
    columns.weight = nn.Parameter(linear.weight.detach()[:, part], linear.weight.requires_grad)
    columns.bias = nn.Parameter(linear.bias.detach(), linear.bias.requires_grad)
    return columns
