"""Devices, number formats and the loss scale of fp16."""

import torch
from torch import Tensor

from model.config import SystemConfig

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

# Both values are those of torch.amp.GradScaler.
INITIAL_LOSS_SCALE = 2.0**16
LOSS_SCALE_GROWTH_INTERVAL = 2000
"""Optimizer steps without overflow before the scale doubles."""


def choose_device(config: SystemConfig) -> torch.device:
    """Return the device to train on.

    Args:
        config: "cpu", "cuda", or "auto" for CUDA where there is one.

    Raises:
        ValueError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if config.device == "cuda" and not available:
        raise ValueError('device = "cuda" but torch finds no CUDA device; use "auto" or "cpu", or check the driver')

    if config.device == "cpu" or not available:
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def choose_dtype(config: SystemConfig, device: torch.device) -> torch.dtype:
    """Return the number format of forward and backward passes.

    "auto" is fp32 on a CPU, bf16 from compute capability 8.0, and fp16 below.
    """
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    if device.type == "cpu":
        return torch.float32

    # Not by torch.cuda.is_bf16_supported(), which says yes for a T4, although that only emulates bf16.
    if torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.bfloat16
    return torch.float16


class LossScale:
    """Dynamic loss scale, kept on the device: halved by an overflow, doubled after a long time without one.

    Args:
        device: Where the scale is kept.
        dynamic: False for a scale of 1: then no update is ever skipped, and a non-finite loss stays visible.

    Source: Micikevicius et al. 2018, Mixed precision training, arXiv 1710.03740, section 3.2.
    """

    def __init__(self, device: torch.device, dynamic: bool) -> None:
        self.dynamic = dynamic
        self._initial_scale = INITIAL_LOSS_SCALE if dynamic else 1.0
        self.scale = torch.full((), self._initial_scale, device=device)
        self.quiet_steps = torch.zeros((), device=device)
        self.skipped_steps = torch.zeros((), device=device)

    def reset(self) -> None:
        """Return to the initial scale, and count from zero again."""
        self.scale.fill_(self._initial_scale)
        self.quiet_steps.zero_()
        self.skipped_steps.zero_()

    def finite(self, grad_norm: Tensor) -> Tensor | None:
        """Return 1.0 if the global gradient norm is finite, else 0.0, as a scalar; None if not dynamic."""
        if not self.dynamic:
            return None
        return torch.isfinite(grad_norm).float()

    def update(self, finite: Tensor | None) -> None:
        """Count this optimizer step and adapt the scale.

        Args:
            finite: What the method `finite` returned for the step.
        """
        if finite is None:
            return

        self.skipped_steps += 1.0 - finite
        self.quiet_steps.add_(1.0).mul_(finite)

        grow = (self.quiet_steps >= LOSS_SCALE_GROWTH_INTERVAL).float()
        self.scale.mul_(torch.where(finite > 0, 1.0 + grow, 0.5))
        self.quiet_steps.mul_(1.0 - grow)

    def state_tensors(self) -> dict[str, Tensor]:
        """Return the state as named tensors (not copies)."""
        return {"scale": self.scale, "quiet_steps": self.quiet_steps, "skipped_steps": self.skipped_steps}
