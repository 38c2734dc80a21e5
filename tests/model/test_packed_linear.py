import pytest
import torch
from tiny import TINY, make_sampler, random_inputs, random_model

from dreamrun.model.inference import PackedLinear, has_native_bf16, pack, prepare_for_inference


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)])
def test_a_packed_network_gives_the_same_numbers(dtype, tolerance):
    plain, inputs = random_model().to(dtype), random_inputs()
    with torch.inference_mode():
        expected = plain(*inputs)
        packed = prepare_for_inference(plain, torch.device("cpu"), bf16=dtype == torch.bfloat16)
        if dtype == torch.float32 or has_native_bf16(torch.device("cpu")):
            assert sum(isinstance(module, PackedLinear) for module in packed.modules()) == 10 * TINY.num_blocks + 2
        actual = packed(*inputs)
    assert expected.std() > 0.5
    torch.testing.assert_close(actual, expected, atol=tolerance * expected.std().item(), rtol=0.02)


def test_a_packed_network_gives_the_same_rollout():
    frames, _, actions = random_inputs(batch=2, num_frames=9)
    rollouts = []
    for model in (random_model(), pack(random_model())):
        sampler = make_sampler(model, 2)
        sampler.reset(frames[:, :3], actions[:, :3])
        rollouts.append(torch.stack([sampler.step(action) for action in actions[:, 3:].unbind(1)]))
    torch.testing.assert_close(*rollouts, atol=1e-4, rtol=0)


def test_packing_copies_the_model():
    model = random_model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prepare_for_inference(model, torch.device("cpu"), bf16=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not any(isinstance(module, PackedLinear) for module in model.modules())
