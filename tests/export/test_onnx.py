"""The exported network: rollouts with onnxruntime against those of the torch sampler."""

import json
from dataclasses import replace

import onnx
import pytest
import torch
from tiny import TINY, random_model

from dreamrun.export import onnx_sampler as exporting
from dreamrun.export.onnx import export_onnx
from dreamrun.export.onnx_sampler import OnnxSampler, export_checked
from dreamrun.games.game import Game
from dreamrun.games.space import unnamed_actions
from dreamrun.model import ModelConfig, Sampler, WorldModel
from dreamrun.model.options import SamplerSettings

SQUARE = replace(TINY, frame_width=16, prediction="x0", num_actions=7, window_frames=4, num_heads=1)
NUM_FRAMES = 40


def make_inputs(config: ModelConfig, vectors: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A prompt of 3 frames (2, 3, C, H, W), and actions (2, 43, A): one-hot, or buttons and axes."""
    generator = torch.Generator().manual_seed(1)
    prompt = torch.rand(2, 3, *config.frame_shape, generator=generator) * 2 - 1
    ids = torch.randint(config.num_actions, (2, 3 + NUM_FRAMES), generator=generator)
    actions = torch.eye(config.num_actions)[ids]
    if vectors:
        actions[..., 0] = torch.randn(2, 3 + NUM_FRAMES, generator=generator)
    actions[:, 0] = 0  # unknown
    return prompt, actions


def largest_error(file: bytes, model: WorldModel, num_steps: int, vectors: bool, num_frames: int = NUM_FRAMES) -> float:
    prompt, actions = make_inputs(model.config, vectors)
    samplers = [
        Sampler(model, SamplerSettings(num_steps=num_steps, seed=5)),
        OnnxSampler(file, model, SamplerSettings(num_steps=num_steps, seed=5)),
    ]
    for sampler in samplers:
        sampler.reset(prompt, actions[:, :3])
    return max(
        float((samplers[0].step(actions[:, t]) - samplers[1].step(actions[:, t])).abs().max())
        for t in range(3, 3 + num_frames)
    )


@pytest.mark.parametrize(
    ("config", "prediction", "with_table"),
    [
        (TINY, "v", True),
        (SQUARE, "x0", True),
        (TINY, "x0", False),
        (SQUARE, "v", False),
        (replace(TINY, attention="full", schedule="linear", prediction="velocity"), "velocity", True),
    ],
    ids=["wide-v-table", "square-x0-table", "wide-x0-vectors", "square-v-vectors", "full-velocity-table"],
)
def test_frames_are_those_of_the_sampler_long_after_the_window_is_full(config, prediction, with_table):
    model = random_model(replace(config, prediction=prediction))
    file = export_onnx(model, with_table=with_table)
    assert largest_error(file, model, num_steps=4, vectors=not with_table) < 1e-4


def test_smaller_weights_change_the_frames_a_little():
    model = random_model()
    files = {weights: export_onnx(model, weights, with_table=True) for weights in ("fp32", "fp16", "int8")}
    errors = {name: largest_error(file, model, 2, False, num_frames=2) for name, file in files.items()}
    assert errors["fp32"] < 1e-4 < errors["fp16"] < 0.05 < errors["int8"] < 2
    halves = {i.data_type for i in onnx.load_from_string(files["fp16"]).graph.initializer if len(i.dims) == 2}
    assert halves == {onnx.TensorProto.FLOAT16, onnx.TensorProto.FLOAT}  # of weights, and of rotary tables
    assert len(files["fp16"]) < 0.6 * len(files["fp32"]) and len(files["int8"]) < 0.8 * len(files["fp16"])


def test_the_file_describes_itself_and_nothing_of_this_machine():
    game = Game(environment="mygame", actions=unnamed_actions(3))
    files = {export_onnx(random_model(game=game)) for _ in range(2)}
    assert len(files) == 1
    (file,) = files
    proto = onnx.load_from_string(file)
    assert all(value.doc_string for value in (*proto.graph.input, *proto.graph.output))
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    assert ModelConfig.from_dict(json.loads(metadata["config"])) == TINY and "mygame" in metadata["game"]
    assert {value.name for value in proto.graph.input} == {
        *("frame", "noise_level", "action", "coefficients", "cos_sin", "mask"),
        *("keys_0", "values_0", "keys_1", "values_1"),
    }
    proto.graph.ClearField("initializer")  # random bytes
    assert ".py" not in str(proto) and "/" not in str(proto).replace("2i / rotary_dim", "")


def test_a_wrong_graph_is_not_exported(monkeypatch):
    assert export_checked(random_model(), "int8")
    monkeypatch.setattr(exporting, "export_onnx", lambda model, *args: export_onnx(random_model(seed=1), *args))
    for weights in ("fp32", "fp16", "int8"):
        with pytest.raises(ValueError, match=f"{weights}.* differs"):
            export_checked(random_model(), weights)


def test_weights_that_are_not_finite_are_not_exported():
    model = random_model()
    with torch.no_grad():
        model.action_embedding.weight[0, 0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        export_checked(model, "fp32")


def test_wrong_inputs_are_refused():
    model = random_model()
    sampler = OnnxSampler(export_onnx(model), model)
    with pytest.raises(ValueError, match="prompt"):
        sampler.reset(torch.zeros(1, 2, 3, 8, 8))
    sampler.reset(torch.zeros(1, 2, *TINY.frame_shape))
    with pytest.raises(ValueError, match="expected"):
        sampler.step(torch.zeros(2, TINY.num_actions))
