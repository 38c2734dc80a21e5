"""Do words alone name the right game? First frames that are dreamt from them, judged by a classifier of real frames.

Every phrasing is dreamt at one frame size and without an action: nothing but the words can tell the games apart. Two
sizes of one game count as the same game. Shapes: N frames, C channels, H x W pixels, K games.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from dreamrun.data.batch import to_float
from dreamrun.data.captions import phrasings
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.index import held_out_split
from dreamrun.model.dit import WorldModel
from dreamrun.model.game_views import select_game
from dreamrun.model.options import SamplerSettings
from dreamrun.model.sampler import Sampler

TRAIN_RECORDS, FRAMES_PER_RECORD = 100, 8  # that the classifier learns from, for each data set
TEST_RECORDS = 30
CLASSIFIER_STEPS, CLASSIFIER_BATCH = 300, 64


@dataclass(frozen=True)
class RealFrames:
    """Frames of real play."""

    frames: Tensor  # float32 (N, C, H, W) in [-1, 1]
    games: Tensor  # int64 (N,), index of each frame's game


def read_frames(
    folders: Sequence[Path], games: list[str], split: str | None, num_records: int, size: tuple[int, int]
) -> RealFrames:
    """Frames of some records of each data set, of a split (None: held-out), scaled to one size (height, width)."""
    frames, labels = [], []
    for folder in folders:
        dataset = ClipDataset(folder, split or held_out_split(folder), clip_frames=1)
        if dataset.metadata.environment not in games:
            raise ValueError(f"{folder} is of {dataset.metadata.environment}: the games are {', '.join(games)}")
        chosen = np.random.default_rng(0).permutation(len(dataset.index.lengths))[:num_records]
        pictures = np.concatenate(
            [
                record.frames[np.linspace(0, len(record) - 1, FRAMES_PER_RECORD).astype(int)]
                for record in dataset.records(chosen)
            ]
        )
        frames.append(F.interpolate(to_float(pictures[None])[0], size, mode="area"))
        labels.append(torch.full((len(pictures),), games.index(dataset.metadata.environment)))
    return RealFrames(torch.cat(frames), torch.cat(labels))


def train_classifier(real: RealFrames, num_games: int) -> nn.Module:
    """A small convolutional network: frames (N, C, H, W) -> logits (N, K). Each game is drawn equally often."""
    torch.manual_seed(0)
    widths = (real.frames.shape[1], 16, 32, 64)
    layers = [nn.Sequential(nn.Conv2d(*pair, 3, stride=2, padding=1), nn.ReLU()) for pair in pairwise(widths)]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * 16, num_games))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    weights = 1.0 / torch.bincount(real.games, minlength=num_games)[real.games].float()
    for _ in range(CLASSIFIER_STEPS):
        rows = torch.multinomial(weights, CLASSIFIER_BATCH, replacement=True)
        frames = real.frames[rows]
        frames = frames + 0.1 * torch.randn_like(frames)  # dreams are never as clean as real frames
        loss = F.cross_entropy(network(frames), real.games[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


@torch.no_grad()
def classify(network: nn.Module, frames: Tensor) -> Tensor:
    """The game of each frame, int64 (N,)."""
    return network(frames).argmax(1)


def dream_first_frames(model: WorldModel, text: str, num_frames: int, settings: SamplerSettings) -> Tensor:
    """First frames from words alone ("": none), under an unknown action: float32 (N, C, H, W) in [-1, 1]."""
    sampler = Sampler(model, replace(settings, text=text))
    sampler.reset(torch.zeros(num_frames, 0, *model.config.frame_shape))
    return sampler.step(torch.zeros(num_frames, model.config.num_actions)).float().cpu()


def judge_words(
    model: WorldModel, folders: Sequence[Path], num_frames: int, settings: SamplerSettings
) -> tuple[dict[str, Any], list[tuple[str, Tensor]]]:
    """How often words name the right game, by `num_frames` first frames for each phrasing.

    Returns:
        Plain values for JSON; and the held-out phrasings, each with its frames (N, C, H, W).
    """
    games = list(dict.fromkeys(game.environment for game in model.game.games))
    if not model.config.words or len(games) < 2:
        raise ValueError("words are judged of a checkpoint that has learnt them and plays several games")
    if not all(game.caption for game in model.game.games):
        raise ValueError("a game of this checkpoint has no caption: its data set needs one (metadata.json)")
    view = select_game(model)
    size = view.config.frame_shape[1:]
    train = read_frames(folders, games, "train", TRAIN_RECORDS, size)
    missing = [name for number, name in enumerate(games) if number not in train.games]
    if missing:
        raise ValueError(f"there is no data set of {', '.join(missing)}: give one for each game (--data)")
    network = train_classifier(train, len(games))
    test = read_frames(folders, games, None, TEST_RECORDS, size)
    real_accuracy = (classify(network, test.frames) == test.games).float().mean().item()

    report: dict[str, Any] = {"games": games, "chance": 1 / len(games), "real_frames": real_accuracy}
    shown: list[tuple[str, Tensor]] = []
    for kind, held_out in (("trained phrasings", False), ("held-out phrasings", True)):
        counts = np.zeros((len(games), len(games)), int)  # by the game of the words, and of the frames
        for game in tqdm(model.game.games, kind):
            for text in phrasings(game.caption, held_out):
                frames = dream_first_frames(view, text, num_frames, settings)
                found = classify(network, frames)
                counts[games.index(game.environment)] += np.bincount(found, minlength=len(games))
                if held_out:
                    shown.append((text, frames))
        shares = counts.diagonal() / counts.sum(1)
        report[kind] = {
            "accuracy": float(shares.mean()),  # every game counts the same
            "by_game": dict(zip(games, shares.tolist(), strict=True)),
            "counts": counts.tolist(),
        }
    found = classify(network, dream_first_frames(view, "", 4 * num_frames, settings))
    report["no words"] = dict(zip(games, np.bincount(found, minlength=len(games)).tolist(), strict=True))
    return report, shown
