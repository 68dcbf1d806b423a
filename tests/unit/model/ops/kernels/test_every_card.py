"""Every kernel is generated and assembled for every card that people have, at the shapes of the studies that ship."""

from __future__ import annotations

import re

import pytest
import torch

pytest.importorskip("triton", reason="needs Triton, which the dev extra brings on Linux")
from compiled_kernels import SHAPES, SHARED_KIB, compiled_kernels, usual_dtype

from model.ops.grouped import Way, way_on

KERNELS = {
    "_add_norm_backward_kernel",
    "_add_norm_kernel",
    "_apply_kernel",
    "_cross_entropy_kernel",
    "_gather_sum_kernel",
    "_heads_backward_kernel",
    "_heads_kernel",
    "_momentum_kernel",
    "_router_backward_kernel",
    "_router_kernel",
    "_scale_kernel",
    "_scatter_kernel",
    "_slots_kernel",
    "_split_kernel",
    "_swiglu_backward_kernel",
    "_swiglu_kernel",
}
PRODUCTS = {"_by_rows_kernel", "_by_groups_kernel"}
"""Where torch has no fast product of groups."""
_FEW_BYTES = 32
"""Of a thread's stack, where lies what does not fit into registers: no more than a few are worth no word."""


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A folder of its own, so that each run compiles, and a kernel of several shapes only once."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRITON_CACHE_DIR", str(tmp_path_factory.mktemp("triton")))
        yield


# Every card has the largest shape; at the others the oldest and the newest speak for those in between.
LARGEST = "overnight, 8 experts"
ON_CARDS = [(shape, card) for shape in SHAPES for card in SHARED_KIB if shape == LARGEST or card in (75, 120)]


@pytest.mark.parametrize(("shape", "capability"), ON_CARDS)
def test_kernels_fit_a_card(shape, capability):
    dtype = usual_dtype(capability)
    kernels = compiled_kernels(shape, capability, dtype)

    way = way_on(divmod(capability, 10), dtype)
    products = PRODUCTS if way.adds else {"_add_kernel"}
    assert {kernel.name for kernel in kernels} == KERNELS | products
    for kernel in kernels:
        assert f".target sm_{capability}" in kernel.ptx
        assert kernel.shared_bytes <= SHARED_KIB[capability] * 1024, kernel.name
        assert kernel.stack_bytes <= _FEW_BYTES, kernel.name


@pytest.mark.thorough
@pytest.mark.parametrize(("capability", "dtype"), [(75, torch.float32), (86, torch.float16)], ids=str)
def test_kernels_fit_in_formats_that_a_user_may_ask_for(dtype, capability):
    for kernel in compiled_kernels(LARGEST, capability, dtype):
        assert kernel.shared_bytes <= SHARED_KIB[capability] * 1024, kernel.name
        assert kernel.stack_bytes <= _FEW_BYTES, kernel.name


@pytest.mark.parametrize(
    ("capability", "dtype", "expected"),
    [
        (75, torch.float16, Way.LOOP),
        (80, torch.bfloat16, Way.OWN),
        (89, torch.float16, Way.OWN),
        (86, torch.float32, Way.LOOP),
        (90, torch.bfloat16, Way.EITHER),
        (90, torch.float16, Way.OWN),
        (100, torch.bfloat16, Way.TORCH),
        (120, torch.bfloat16, Way.OWN),
    ],
)
def test_products_of_groups_are_torchs_where_it_has_a_kernel(capability, dtype, expected):
    assert way_on(divmod(capability, 10), dtype) is expected


def test_a_t4_is_given_nothing_that_it_lacks():
    """Neither bf16 nor, from Triton, tensor cores: instructions of both assemble only for later cards."""
    for kernel in compiled_kernels(LARGEST, 75, torch.float16):
        assert not re.search(r"\bbf16|\bmma\.|\bwgmma\.", kernel.ptx), kernel.name
