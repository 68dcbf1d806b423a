import pytest
import torch
from small_model import small_model

from model.config import SystemConfig
from model.precision import INITIAL_LOSS_SCALE, LossScale, MasterWeights, choose_device, choose_dtype

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16), ((9, 0), torch.bfloat16)]
)
def test_auto_takes_bf16_only_where_the_hardware_has_it(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_dtype(SystemConfig(), CUDA) == expected


def test_cpu_is_fp32_unless_asked_otherwise():
    assert choose_dtype(SystemConfig(), CPU) == torch.float32
    assert choose_dtype(SystemConfig(dtype="bf16"), CPU) == torch.bfloat16


def test_asking_for_cuda_without_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device(SystemConfig()) == CPU
    with pytest.raises(ValueError, match="finds no CUDA device"):
        choose_device(SystemConfig(device="cuda"))


def test_in_fp32_the_masters_are_the_parameters():
    model = small_model()
    weights = MasterWeights(model, torch.float32).weights
    assert all(weights[name] is parameter for name, parameter in model.named_parameters())


def test_half_precision_keeps_fp32_masters_and_fp32_routers():
    model = small_model()
    original = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    weights = MasterWeights(model, torch.float16)
    for name, parameter in model.named_parameters():
        is_router = name.endswith("mlp.gate.weight")
        assert parameter.dtype == (torch.float32 if is_router else torch.float16)
        assert weights.weights[name].dtype == torch.float32
        assert torch.equal(weights.weights[name], original[name])
    assert len(weights.weights) == len(original)


def test_half_precision_gradients_are_summed_in_fp32_and_weights_published():
    model = small_model()
    weights = MasterWeights(model, torch.float16)
    parameter, master = model.norm.weight, weights.weights["norm.weight"]
    for value in (1024.0, 0.25, 0.25):  # fp16 would swallow a quarter beside 1024
        parameter.grad = torch.full_like(parameter, value)
        weights.collect()
        assert parameter.grad is None
    assert torch.equal(master.grad, torch.full_like(master, 1024.5))
    master.fill_(3.0)
    weights.publish()
    assert torch.equal(parameter, torch.full_like(parameter, 3.0))
    weights.clear_gradients()
    assert weights.gradients() == []


def test_loss_scale_halves_on_overflow_and_doubles_after_a_quiet_stretch(monkeypatch):
    monkeypatch.setattr("model.precision.LOSS_SCALE_GROWTH_INTERVAL", 3)
    scale = LossScale(CPU, dynamic=True)
    scales = []
    for norm in (1.0, float("inf"), 1.0, 1.0, float("nan"), 1.0, 1.0, 1.0, 1.0):
        scale.update(scale.finite(torch.tensor(norm)))
        scales.append(scale.scale.item() / INITIAL_LOSS_SCALE)
    assert scales == [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert scale.skipped_steps == 2


def test_without_loss_scaling_nothing_is_skipped():
    scale = LossScale(CPU, dynamic=False)
    assert scale.finite(torch.tensor(float("inf"))) is None
    scale.update(None)
    assert (scale.scale, scale.skipped_steps) == (1, 0)
