"""The fp32 sums to which backward passes by hand add their gradients, in place of autograd's `.grad`.

A parameter that has such a sum carries it as `grad_sum` (`model.weights`); any other gets its gradient from autograd.
"""

import torch
from torch import Tensor


def sum_for(parameter: Tensor) -> tuple[Tensor, bool]:
    """Return the fp32 sum to which a parameter's gradient is added.

    Returns:
        The sum, and whether it was made here because the parameter has none.
    """
    total = getattr(parameter, "grad_sum", None)
    if total is not None:
        return total, False

    return torch.zeros_like(parameter, dtype=torch.float32), True


def for_autograd(total: Tensor, parameter: Tensor, made_here: bool) -> Tensor | None:
    """Return what autograd has to add to `.grad`: nothing where the sum is the parameter's own."""
    return total.to(parameter.dtype) if made_here else None


def added_product(parameter: Tensor, x: Tensor, y: Tensor) -> Tensor | None:
    """Add the product x y to the parameter's fp32 sum, or return it to autograd where there is none."""
    total = getattr(parameter, "grad_sum", None)
    if total is None:
        return x @ y

    add_product_(total, x, y)
    return None


def add_product_(total: Tensor, x: Tensor, y: Tensor) -> None:
    """Add x y to `total` in place; it is fp32, x and y may be in half precision, and nothing is rounded between."""
    if x.dtype == total.dtype:
        total.addmm_(x, y)
    else:
        torch.addmm(total, x, y, out_dtype=total.dtype, out=total)


def added(parameter: Tensor, grad: Tensor) -> Tensor | None:
    """Add a gradient to the parameter's fp32 sum, or return it to autograd where there is none."""
    total = getattr(parameter, "grad_sum", None)
    if total is None:
        return grad

    add_(total, grad)
    return None


def add_(total: Tensor, x: Tensor) -> None:
    """Add x, which may be in half precision, to `total`, which is fp32, in place."""
    from model.ops.kernels import updates

    updates.add_(total, x.contiguous())
