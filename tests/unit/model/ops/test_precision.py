import pytest
import torch

from model.config import SystemConfig
from model.ops.precision import INITIAL_LOSS_SCALE, LossScale, choose_device, choose_dtype

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


def test_loss_scale_halves_on_overflow_and_doubles_after_a_quiet_stretch(monkeypatch):
    monkeypatch.setattr("model.ops.precision.LOSS_SCALE_GROWTH_INTERVAL", 3)
    scale = LossScale(CPU, dynamic=True)
    scales = []

    for norm in (1.0, float("inf"), 1.0, 1.0, float("nan"), 1.0, 1.0, 1.0, 1.0):
        scale.update(scale.finite(torch.tensor(norm)))
        scales.append(scale.scale.item() / INITIAL_LOSS_SCALE)

    assert scales == [1, 0.5, 0.5, 0.5, 0.25, 0.25, 0.25, 0.5, 0.5]
    assert scale.skipped_steps == 2


def test_a_reset_scale_starts_again():
    scale = LossScale(CPU, dynamic=True)
    scale.update(scale.finite(torch.tensor(float("inf"))))
    scale.reset()
    assert (scale.scale, scale.quiet_steps, scale.skipped_steps) == (INITIAL_LOSS_SCALE, 0, 0)


def test_without_loss_scaling_nothing_is_skipped():
    scale = LossScale(CPU, dynamic=False)
    assert scale.finite(torch.tensor(float("inf"))) is None
    scale.update(None)
    assert (scale.scale, scale.skipped_steps) == (1, 0)
