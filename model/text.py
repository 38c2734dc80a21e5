"""Views of a network that is told a text at every frame, or none.

A view shares all weights with its network.
"""

import copy

import torch

from dreamrun.games.game import MAX_CAPTION_CHARS
from dreamrun.games.untrusted import check_name
from dreamrun.model.dit import WorldModel
from dreamrun.model.text_encoder import encode_bytes


def check_text(text: str) -> str:
    """A text that a network can be told. Raises ValueError unless it could be a caption."""
    return check_name("the text", text, MAX_CAPTION_CHARS)


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
    has_text = bool(check_text(text).strip())
    view.words = model.text_encoder(encode_bytes([text]).to(model.device))[0] if has_text else None
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
