"""The state of a training run: everything that changes from step to step, and how it is saved and restored."""

from __future__ import annotations

import copy
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dreamrun.games.game import Game
from dreamrun.model.config import ModelConfig
from dreamrun.model.dit import WorldModel
from dreamrun.training.checkpoint import load_state
from dreamrun.training.config import TrainConfig
from dreamrun.training.distributed import print0, world_size
from dreamrun.training.optimizer import AdamW, MuonAndAdamW, make_optimizer, optimizer_name
from dreamrun.training.setup import load_initial_model
from dreamrun.training.step_stats import StepStats


@dataclass
class TrainState:
    """Model, averaged weights, optimizer and counters of a run."""

    model: WorldModel  # trained, float32
    network: nn.Module  # the model as the loss calls it: wrapped in DDP if there are several ranks
    ema: WorldModel  # exponential moving average of the weights; validated, saved and played
    optimizer: AdamW | MuonAndAdamW
    stats: StepStats
    order: dict[str, int]  # what the order of batches depends on: `ClipDataset.order_fingerprint`
    step: int = 0  # optimizer steps done
    epoch: int = 0
    batch: int = 0  # batches of this epoch done
    wandb_id: str | None = None  # of the Weights & Biases run

    def state_dict(self) -> dict[str, Any]:
        """The contents of `training_state.pt`. The averaged weights are saved beside it, as `model.safetensors`."""
        return {
            "step": self.step,
            "epoch": self.epoch,
            "batch": self.batch,
            "order": self.order,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "counts": self.stats.state_dict(),
            "wandb_id": self.wandb_id,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`. If the batch order has changed, starts the next epoch."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stats.load_state_dict(state["counts"])
        self.step, self.epoch, self.batch = state["step"], state["epoch"], state["batch"]
        self.wandb_id = state["wandb_id"]
        saved = state["order"]
        names = list(dict.fromkeys((*saved, *self.order)))
        changes = [f"{n} {saved.get(n)} -> {self.order.get(n)}" for n in names if saved.get(n) != self.order.get(n)]
        if changes:
            print0(f"warning: the order of batches has changed ({', '.join(changes)}): a new epoch begins", sys.stderr)
            self.epoch, self.batch = self.epoch + 1, 0

    def load_checkpoint(self, checkpoint: Path) -> None:
        """Restore the state from a checkpoint folder.

        Raises:
            ValueError: the checkpoint is damaged, or it is of another architecture, game or optimizer.
        """
        ema = WorldModel.from_pretrained(str(checkpoint))
        state = load_state(checkpoint)
        saved = {**ema.config.to_dict(), **ema.game.to_dict(), "optimizer": optimizer_name(state["optimizer"])}
        config, game = self.model.config.to_dict(), self.model.game.to_dict()
        now = {**config, **game, "optimizer": optimizer_name(self.optimizer.state_dict())}
        now.pop("can_fill")  # a run may begin to fill in frames, or cease to, at any step
        differences = [
            f"its {name} is {saved.get(name)}, this run's is {now[name]}"
            for name in now
            if saved.get(name) != now[name]
        ]
        if differences:
            raise ValueError(f"cannot resume from {checkpoint}: {'; '.join(differences)}")
        self.ema.load_state_dict(ema.state_dict())
        self.load_state_dict(state)


def create_train_state(
    config: TrainConfig, model_config: ModelConfig, game: Game, order: dict[str, int], device: torch.device
) -> TrainState:
    """The state before the first step: weights drawn from `config.seed`, or those of `config.init_from`.

    The network is not wrapped yet: `parallelize` does that, on all ranks at once.

    Raises:
        ValueError: `config.init_from` cannot be used.
    """
    torch.manual_seed(config.seed)
    model = WorldModel(replace(model_config, can_fill=bool(config.fill_share)), game)
    initial = load_initial_model(config, model_config, game)
    if initial is not None:
        own = model.state_dict()  # a new outcome head keeps its initial weights
        model.load_state_dict({name: initial.state_dict().get(name, own[name]) for name in own})
    if config.outcomes == "head":
        assert initial is not None, "TrainConfig demands --init-from"
        model.config = replace(model.config, can_fill=initial.config.can_fill)  # the network stays as it is
        model.requires_grad_(False)
        assert model.outcome_head is not None
        model.outcome_head.requires_grad_(True)
    model.to(device)
    ema = copy.deepcopy(model).eval().requires_grad_(False)
    assert config.optimizer and config.learning_rate, "apply with_recipe first"
    optimizer = make_optimizer(model, config.optimizer, config.learning_rate, config.weight_decay)
    return TrainState(model, model, ema, optimizer, StepStats(device), order)


def parallelize(config: TrainConfig, model: WorldModel) -> nn.Module:
    """Apply activation checkpointing, torch.compile and DDP, as the config and the number of ranks demand."""
    model.activation_checkpointing = config.activation_checkpointing
    if config.compile:
        # Clips of play, filling and single images come in batches of any size, each with a mask of its own. After eight
        # programs, the default, torch would run the others uncompiled.
        torch._dynamo.config.recompile_limit = 64
        for block in model.blocks:
            block.compile()
    if world_size() == 1:
        return model
    device_ids = [model.device] if model.device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids, forward_sync_buffers=False, gradient_as_bucket_view=True)
