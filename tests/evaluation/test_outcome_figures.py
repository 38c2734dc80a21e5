from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import SMALLEST, random_model

from dreamrun.data.dataset import ClipDataset
from dreamrun.evaluation.evaluation_config import EvaluateConfig
from dreamrun.evaluation.section import Table
from dreamrun.evaluation.sections.rewards_and_ends import OUTCOMES, compare_with_truth

NAN = np.nan


def test_figures_of_known_predictions():
    real = np.array([[0.0, 1, 0, 0], [0, -1, 0, 1], [NAN, NAN, NAN, NAN]])
    predicted = np.array([[0.0, 0.8, 0.6, 0], [0, 0.9, 0, 0.2], [1, 1, 1, 1]])
    figures = compare_with_truth(predicted, real, 0.5, np.array([0.1, 0.5]))
    assert figures["events"] == 3
    assert figures["precision"]["value"] == pytest.approx(1 / 3)  # one right, one for nothing, one of the wrong sign
    assert figures["recall"]["value"] == pytest.approx(1 / 3)
    assert figures["error"]["value"] == pytest.approx((0.2 + 0.6 + 1.9 + 0.8) / 8)
    assert figures["trivial_error"]["value"] == pytest.approx(3 / 8)
    rows = figures["calibration"]
    assert [row["num_frames"] for row in rows] == [4, 1, 3]
    assert rows[2]["predicted"] == pytest.approx(2.3 / 3) and rows[2]["real"] == pytest.approx(0)
    assert compare_with_truth(predicted[2:], real[2:], 0.5, np.array([0.5])) is None
    assert compare_with_truth(predicted[:1] * 0, real[:1], 0.5, np.array([0.5]))["precision"] is None


def test_a_head_on_held_out_play_and_its_part_of_the_report(pong_set):
    model = random_model(replace(SMALLEST, num_actions=3, outcomes=True))
    with torch.no_grad():  # a head that always expects no reward, and the end with probability 1/2
        model.outcome_head.out.weight.zero_()
        model.outcome_head.out.bias.zero_()
    clips = ClipDataset(pong_set, "test", 6, outcomes=True)
    context = SimpleNamespace(
        model=model, device=torch.device("cpu"), data=pong_set, split="test", sizes={"outcome_clips": 1000},
        config=EvaluateConfig(checkpoint="x"),
    )  # fmt: skip
    section = OUTCOMES.measure(context)
    records = list(clips.records(range(len(clips.index.lengths))))
    ends = sum(bool(record.terminal) for record in records)
    assert section["end"]["events"] >= ends > 0
    assert section["reward"]["error"]["value"] == pytest.approx(section["reward"]["trivial_error"]["value"], abs=0.01)
    assert section["end"]["error"]["value"] == pytest.approx(0.5)
    assert section["end"]["recall"]["value"] == 1 and section["reward"]["recall"]["value"] == 0
    blocks = OUTCOMES.blocks({"outcomes": section})
    table = next(block for block in blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["reward", "end"]
