"""Networks of several games: the view of one game, and words that a network is told.

A view shares all weights with the network that it is of, and plays like a network of that game alone: its frames have
the game's size, and its action vectors are the game's slice. So the sampler and all that uses it know nothing of
several games.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor, nn

from dreamrun.model.dit import WorldModel
from dreamrun.model.game_info import GameSlice
from dreamrun.model.text import check_words, encode_bytes


def game_names(model: WorldModel) -> list[str]:
    """The names of a network's games; empty if it has one game alone."""
    return [game.name for game in model.game.games]


def select_game(model: WorldModel, name: str = "") -> WorldModel:
    """The view of one game. It is told the game's caption, if the network has learnt words.

    Args:
        name: of the game; "": the first one. A network of one game has no names.

    Raises:
        ValueError: the network has no such game.
    """
    if not model.game.games:
        if name:
            raise ValueError(f"this checkpoint has one game, so leave out the name {name!r:.40}")
        return model
    game = next((game for game in model.game.games if game.name == (name or model.game.games[0].name)), None)
    if game is None:
        raise ValueError(f"this checkpoint has no game {name!r:.40}: choose {', '.join(game_names(model))}")
    view = _copy(model)
    view.action_embedding = _columns(model.action_embedding, game)
    sizes = model.config.resized(game.frame_height, game.frame_width)
    view.config, view.game = replace(sizes, num_actions=game.num_actions), game.alone()
    return tell(view, game.caption) if model.config.words else view


def with_size(model: WorldModel, height: int, width: int) -> WorldModel:
    """The view for frames of another size, in pixels.

    Raises:
        ValueError: the network cannot have frames of that size.
    """
    view = _copy(model)
    view.config = model.config.resized(height, width)
    return view


@torch.no_grad()
def tell(model: WorldModel, text: str) -> WorldModel:
    """A view that is told these words at every frame; "": none.

    Raises:
        ValueError: the network has learnt no words, or the text is too long.
    """
    if model.text_encoder is None:
        raise ValueError("this checkpoint has learnt no words: train one with --words True")
    view = _copy(model)
    view.words = _embed(model, [text])[0] if check_words(text).strip() else None
    return view


def hide_words(model: WorldModel, num_frames: int | None = None) -> WorldModel:
    """A view without words: at all frames, or at the last one of `num_frames` alone."""
    if model.words is None:
        return model
    view = _copy(model)
    view.words = None
    if num_frames is not None:
        view.words = model.words.repeat(num_frames, 1)
        view.words[-1] = 0
    return view


@torch.no_grad()
def fold_words(model: WorldModel) -> WorldModel:
    """The same view with its words in the bias of the actions, for an export that knows no words."""
    if model.words is None:
        return model
    view = _copy(model)
    view.action_embedding, view.words = copy.deepcopy(model.action_embedding), None
    view.action_embedding.get_parameter("bias").add_(model.words)
    return view


@torch.no_grad()
def nearest_game(model: WorldModel, text: str) -> str:
    """The name of the game whose caption the text encoder finds most like a text, by cosine similarity."""
    if model.text_encoder is None or not model.game.games:
        return ""
    text_vector, *captions = _embed(model, [check_words(text), *(game.caption for game in model.game.games)]).float()
    similarity = torch.stack([nn.functional.cosine_similarity(text_vector, caption, dim=0) for caption in captions])
    return model.game.games[int(similarity.argmax())].name


def _copy(model: WorldModel) -> WorldModel:
    """A shallow copy, whose modules and buffers can be replaced."""
    view = copy.copy(model)
    view._modules, view._buffers = dict(model._modules), dict(model._buffers)
    return view


def _columns(linear: nn.Module, game: GameSlice) -> nn.Linear:
    """The map of a game's slice of the action vector."""
    assert isinstance(linear, nn.Linear)
    part = nn.Linear(game.num_actions, linear.out_features, device="meta")
    end = game.action_offset + game.num_actions
    part.weight = nn.Parameter(linear.weight.detach()[:, game.action_offset : end], linear.weight.requires_grad)
    assert linear.bias is not None
    part.bias = nn.Parameter(linear.bias.detach(), linear.bias.requires_grad)
    return part


def _embed(model: WorldModel, texts: list[str]) -> Tensor:
    """Texts -> (B, D)."""
    assert model.text_encoder is not None
    return model.text_encoder(encode_bytes(texts).to(model.device))
