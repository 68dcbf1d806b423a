"""Products of groups of rows with a matrix each: torch's where it is fast, and our own elsewhere.

torch's grouped product is one kernel for bf16 on compute capabilities 9.x and 10.x. Everywhere else it asks the device
for the sizes of the groups, waits, and launches one product after the other.
"""

import importlib.util
from enum import Enum
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

from model.ops.gradient_sums import added

_OWN_FROM = (8, 0)
"""Compute capability from which our kernels are taken: before it Triton knows no tensor cores."""


class Way(Enum):
    """How grouped products are done."""

    TORCH = "torch's kernel"
    EITHER = "torch's kernel or ours, by the shape"
    OWN = "our kernels"
    LOOP = "torch's loop, which waits for the host"

    def is_own(self, contracted: int, width: int) -> bool:
        """Return whether rows are multiplied by our kernel.

        On an H200 (98,304 rows, 8 groups) torch's is faster where a product is wider than what it sums over (384 to
        2,048 and to 1,024: 17 and 8 %), ours where it is not (1,024 and 2,048 to 384: 19 and 11 %).

        Args:
            contracted: Columns of a row, over which is summed.
            width: Columns of the product.
        """
        return self is Way.OWN or (self is Way.EITHER and contracted > width)

    @property
    def adds(self) -> bool:
        """Whether our kernel makes gradients of weights, and adds them to fp32 sums as it does.

        On an H200 it takes four fifths of the time of torch's, whose result has to be added afterwards.
        """
        return self in (Way.OWN, Way.EITHER)


@cache
def way(device: torch.device, dtype: torch.dtype) -> Way:
    """Return how grouped products of a number format are done on a device."""
    if device.type != "cuda":
        return Way.LOOP

    found = way_on(torch.cuda.get_device_capability(device), dtype)
    has_triton = importlib.util.find_spec("triton") is not None
    if has_triton:
        return found
    return {Way.OWN: Way.LOOP, Way.EITHER: Way.TORCH}.get(found, found)


def way_on(capability: tuple[int, int], dtype: torch.dtype) -> Way:
    """Return how grouped products of a number format are done on a GPU of a compute capability."""
    if dtype == torch.float32:
        return Way.LOOP
    if dtype == torch.bfloat16 and capability[0] in (9, 10):
        return Way.EITHER if capability[0] == 9 else Way.TORCH
    return Way.OWN if capability >= _OWN_FROM else Way.LOOP


def product(a_SK: Tensor, b_EKN: Tensor, ends_E: Tensor) -> Tensor:
    """Return each group's rows times the group's matrix, [S, N] in the dtype of `a_SK`.

    Args:
        a_SK: Rows sorted by group.
        b_EKN: A matrix for each group.
        ends_E: End of each group's rows, int32.
    """
    if not way(a_SK.device, a_SK.dtype).is_own(*b_EKN.shape[1:]):
        return F.grouped_mm(a_SK, b_EKN, offs=ends_E)

    from model.ops.kernels import grouped

    return grouped.by_rows(a_SK, b_EKN, ends_E)


def added_product(parameter: Tensor, a_MS: Tensor, b_SN: Tensor, ends_E: Tensor) -> Tensor | None:
    """Add products of groups to the parameter's fp32 sum, or return them to autograd where there is none.

    Args:
        parameter: A weight [E, M, N].
        a_MS: Columns sorted by group.
        b_SN: Rows sorted by group.
        ends_E: End of each group's columns and rows, int32.
    """
    total_EMN = getattr(parameter, "grad_sum", None)
    if total_EMN is None or not way(a_MS.device, a_MS.dtype).adds:
        return added(parameter, F.grouped_mm(a_MS, b_SN, offs=ends_E))

    from model.ops.kernels import grouped

    grouped.add_by_groups_(total_EMN, a_MS, b_SN, ends_E)
    return None
