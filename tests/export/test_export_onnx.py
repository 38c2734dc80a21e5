"""The command scripts.export_onnx, and rollouts of its file in the evaluation."""

import numpy as np
import onnx
import torch
from tiny import refused, succeeded

from dreamrun.data.batch import to_float, to_uint8
from dreamrun.games.space import unnamed_actions
from dreamrun.model import WorldModel
from dreamrun.model.options import SamplerSettings
from dreamrun.model.sampler import Sampler, rollout
from dreamrun.scripts.evaluate import export_sampler


def test_a_checkpoint_is_exported_and_evaluated(run_script, pong_checkpoint, tmp_path):
    out = succeeded(run_script("export_onnx", "--checkpoint", pong_checkpoint, "--out", tmp_path / "to" / "model.onnx"))
    assert "model.onnx" in out
    file = (tmp_path / "to" / "model.onnx").read_bytes()
    onnx.checker.check_model(onnx.load_from_string(file))
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["model.onnx"]
    model = WorldModel.from_pretrained(pong_checkpoint).requires_grad_(False)
    prompt = np.random.default_rng(0).integers(0, 256, (2, 2, *np.roll(model.config.frame_shape, -1)), np.uint8)
    actions = torch.randint(3, (2, 6)).numpy()
    vectors = torch.from_numpy(unnamed_actions(3).vectors(actions))
    settings = SamplerSettings(num_steps=2, guidance=1.0, context_noise=0.02)
    of_torch, of_onnx = (
        np.stack(
            [to_uint8(frame) for frame in rollout(make(model, settings), to_float(prompt), vectors, seeds=[0, 1])], 1
        )
        for make in (Sampler, export_sampler(tmp_path / "to" / "model.onnx"))
    )
    assert of_torch.shape == of_onnx.shape == (2, 4, *prompt.shape[2:]) and of_torch.std() > 1
    assert np.abs(of_torch.astype(int) - of_onnx).max() <= 1


def test_mistakes_give_one_line(run_script, pong_checkpoint, tmp_path):
    result = run_script("export_onnx", "--checkpoint", tmp_path / "none", "--out", tmp_path / "model.onnx")
    refused(result, "no checkpoint at")
    refused(run_script("export_onnx", "--checkpoint", pong_checkpoint, "--out", tmp_path), "is a folder")
    result = run_script("evaluate", "--checkpoint", pong_checkpoint, "--onnx", "model.onnx", "--guidance", 2)
    refused(result, "guidance")
