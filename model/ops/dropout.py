"""Dropout whose probability is a tensor, so that it can change without compiling or capturing anything again."""

import torch
from torch import Tensor


def dropout(x: Tensor, probability: Tensor, axes: int = 0) -> Tensor:
    """Zero entries at random and scale up the rest, so that the expectation stays.

    Args:
        x: Any shape, any float dtype.
        probability: Scalar on x's device, in [0, 1).
        axes: Number of last dimensions that share one draw.

    Returns:
        A tensor of the shape and dtype of `x`.

    Source: Srivastava et al. 2014, JMLR 15, section 4, in the "inverted" form.
    """
    shape = x.shape[: x.ndim - axes] + (1,) * axes
    keep = torch.rand(shape, device=x.device) >= probability
    return x * (keep / (1.0 - probability)).to(x.dtype)
