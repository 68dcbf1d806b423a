"""Element by element: sums of gradients, Nesterov's momentum, scaled matrices and the update of the weights."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _momentum_kernel(grad_ptr, momentum_ptr, update_ptr, factor_ptr, keep_ptr, beta_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count

    keep = tl.load(keep_ptr)
    grad = tl.where(keep > 0.0, tl.load(grad_ptr + at, mask, other=0.0) * tl.load(factor_ptr), 0.0)

    beta = tl.load(beta_ptr)
    momentum = tl.load(momentum_ptr + at, mask, other=0.0)
    momentum += (1.0 - beta) * keep * (grad - momentum)
    tl.store(momentum_ptr + at, momentum, mask)

    update = grad + beta * (momentum - grad)
    tl.store(update_ptr + at, update.to(update_ptr.dtype.element_ty), mask)


@triton.jit
def _apply_kernel(
    weight_ptr, copy_ptr, update_ptr, step_ptr, shrink_ptr, scale, count, BLOCK: tl.constexpr, COPY: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count

    update = tl.load(update_ptr + at, mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + at, mask, other=0.0) * tl.load(shrink_ptr) - update * (tl.load(step_ptr) * scale)
    tl.store(weight_ptr + at, weight, mask)
    if COPY:
        tl.store(copy_ptr + at, weight.to(copy_ptr.dtype.element_ty), mask)


@triton.jit
def _add_kernel(sum_ptr, x_ptr, count, BLOCK: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = at < count
    total = tl.load(sum_ptr + at, mask, other=0.0) + tl.load(x_ptr + at, mask, other=0.0).to(tl.float32)
    tl.store(sum_ptr + at, total, mask)


@triton.jit
def _scale_kernel(x_ptr, scale_ptr, out_ptr, count, BLOCK: tl.constexpr):
    matrix = tl.program_id(1).to(tl.int64)
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + matrix * count + at, at < count, other=0.0).to(tl.float32) * tl.load(scale_ptr + matrix)
    tl.store(out_ptr + matrix * count + at, x.to(out_ptr.dtype.element_ty), at < count)


def add_(total: Tensor, x: Tensor) -> None:
    """Add x, contiguous and perhaps in half precision, to `total`, which is fp32, in place."""
    count = total.numel()
    _add_kernel[(triton.cdiv(count, 2048),)](total, x, count, BLOCK=2048)


def scale_matrices(matrices: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return each matrix of a batch times its scale (fp32, one per matrix), in `dtype`."""
    out = torch.empty_like(matrices, dtype=dtype)
    count = matrices[0].numel()
    _scale_kernel[(triton.cdiv(count, 2048), len(matrices))](matrices, scales, out, count, BLOCK=2048)
    return out


def nesterov(grad: Tensor, momentum: Tensor, factor: Tensor, keep: Tensor, beta: Tensor, dtype: torch.dtype) -> Tensor:
    """Average factor x grad into the momentum in place, unless keep is 0, and return Nesterov's look-ahead."""
    update = torch.empty_like(grad, dtype=dtype)
    count = grad.numel()
    _momentum_kernel[(triton.cdiv(count, 2048),)](grad, momentum, update, factor, keep, beta, count, BLOCK=2048)
    return update


def apply_update(
    weight: Tensor, copy: Tensor | None, update: Tensor, step: Tensor, shrink: Tensor, scale: float
) -> None:
    """Set weight to weight x shrink - step x scale x update in place, and its half-precision copy with it."""
    count = weight.numel()
    _apply_kernel[(triton.cdiv(count, 2048),)](
        weight, weight if copy is None else copy, update, step, shrink, scale, count, BLOCK=2048, COPY=copy is not None
    )
