"""Activation checkpointing: less memory, the same gradients."""

import pytest
import torch
from tiny import random_inputs, random_model

from dreamrun.model import dit


def gradients(model):
    """Gradients of a loss that depends on all inputs and weights."""
    frames, levels, actions = random_inputs()
    model.zero_grad()
    model(frames, levels, actions).square().mean().backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters()}


def saved_bytes(model):
    """Bytes of the activations saved for the backward pass, without the weights."""
    weights, saved = {weight.untyped_storage().data_ptr() for weight in model.parameters()}, []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        model(*random_inputs())
    sizes = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in saved}
    return sum(size for address, size in sizes.items() if address not in weights)


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_activation_checkpointing_saves_memory_and_changes_no_gradient(monkeypatch, kind):
    model = random_model()
    plain, plain_bytes = gradients(model), saved_bytes(model)
    if kind == "full":
        model.activation_checkpointing = True
    else:  # as on a GPU
        monkeypatch.setattr(dit, "selective_checkpoint", dit.activation_checkpoint)
    checkpointed = gradients(model)
    assert plain.keys() == checkpointed.keys() and all(torch.equal(plain[name], checkpointed[name]) for name in plain)
    assert saved_bytes(model) < (0.3 if kind == "full" else 0.8) * plain_bytes


def test_activation_checkpointing_with_compiled_blocks_changes_no_gradient():
    model = random_model()
    plain = gradients(model)
    model.activation_checkpointing = True
    for block in model.blocks:
        block.compile(backend="aot_eager")  # torch.compile without its slow code generation
    checkpointed = gradients(model)
    largest = max(gradient.abs().max() for gradient in plain.values())
    assert max((plain[name] - checkpointed[name]).abs().max() for name in plain) < 1e-4 * largest
