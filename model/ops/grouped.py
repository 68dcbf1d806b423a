"""Products of groups of rows with a matrix each: torch's where it is fast, and our own where torch waits for the host.

torch's grouped product is one kernel for bf16 on compute capabilities 9.x and 10.x. Everywhere else it asks the device
for the sizes of the groups, waits, and launches one product after the other.
"""

import importlib.util
from enum import Enum
from functools import cache

import torch
import torch.nn.functional as F  # noqa: N812 (the usual name)
from torch import Tensor

_OWN_FROM: tuple[int, int] | None = None
"""Compute capability from which our kernels are taken. They are tested in an interpreter and compiled for every card,
and have not been measured on one yet: until then none takes them. Before 8.0 Triton knows no tensor cores."""


class Way(Enum):
    """How a grouped product is done."""

    TORCH = "torch's kernel"
    OWN = "our kernels"
    LOOP = "torch's loop, which waits for the host"


@cache
def way(device: torch.device, dtype: torch.dtype) -> Way:
    """Return how grouped products of a number format are done on a device."""
    if device.type != "cuda":
        return Way.LOOP

    found = way_on(torch.cuda.get_device_capability(device), dtype)
    has_triton = importlib.util.find_spec("triton") is not None
    return Way.LOOP if found is Way.OWN and not has_triton else found


def way_on(capability: tuple[int, int], dtype: torch.dtype) -> Way:
    """Return how grouped products of a number format are done on a GPU of a compute capability."""
    if dtype == torch.float32:
        return Way.LOOP
    if dtype == torch.bfloat16 and capability[0] in (9, 10):
        return Way.TORCH
    return Way.OWN if _OWN_FROM is not None and capability >= _OWN_FROM else Way.LOOP


def product(a: Tensor, b: Tensor, ends_E: Tensor) -> Tensor:
    """Return the products of groups, with the arguments of torch's `grouped_mm`.

    Args:
        a: Rows sorted by group [S, K], or columns sorted by group [M, S].
        b: A matrix for each group [E, K, N], or, beside columns, rows sorted by group [S, N].
        ends_E: End of each group's rows, int32.

    Returns:
        [S, N] of rows, [E, M, N] of columns, in the dtype of `a`.
    """
    if way(a.device, a.dtype) is not Way.OWN:
        return F.grouped_mm(a, b, offs=ends_E)

    from model.ops.kernels import grouped

    return grouped.by_rows(a, b, ends_E) if b.dim() == 3 else grouped.by_groups(a, b, ends_E)
