"""Products of groups in Triton's interpreter, which needs no GPU, beside one product for each group."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="needs Triton, which the dev extra brings on Linux")

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
ENDS = [[5, 5, 40, 41], [0, 0, 0, 37], [16, 32, 48, 64], [1, 2, 3, 4]]
"""Groups without a row, of one row, that end within a tile and with it."""
SHAPES = [(64, 16), (24, 40), (17, 33)]
"""Contracted and outer width: whole tiles, parts of them, odd ones."""


@pytest.mark.skipif(INTERPRETED, reason="runs the others")
def test_all_of_this_in_the_interpreter():
    """In a process of its own, since kernels are either compiled or interpreted from their import on."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", __file__]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-5000:]
    assert f"{2 * len(ENDS) * len(SHAPES)} passed" in done.stdout


interpreted = pytest.mark.skipif(not INTERPRETED, reason="runs in the interpreter alone")


@pytest.fixture
def kernels(monkeypatch):
    """Kernels with tiles so small that several are needed."""
    import triton

    from model.ops.kernels import grouped

    small = (
        triton.Config({"ROWS": 16, "COLUMNS": 16, "DEPTH": 16}),
        triton.Config({"HEIGHT": 16, "WIDTH": 32, "DEPTH": 16}),
    )
    for kernel, config in zip((grouped._by_rows_kernel, grouped._by_groups_kernel), small, strict=True):
        monkeypatch.setattr(kernel, "configs", [config])
    return grouped


def drawn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).half()


@interpreted
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize(("K", "N"), SHAPES)
def test_rows_are_multiplied_by_their_group(kernels, ends, K, N):
    a_SK, b_EKN = drawn(ends[-1], K), drawn(len(ends), N, K).mT
    found = kernels.by_rows(a_SK, b_EKN, torch.tensor(ends, dtype=torch.int32))
    expected = [a.float() @ b.float() for a, b in zip(parts(a_SK, ends), b_EKN, strict=True)]
    torch.testing.assert_close(found.float(), torch.cat(expected), rtol=2e-3, atol=1e-2)


@interpreted
@pytest.mark.parametrize("ends", ENDS, ids=str)
@pytest.mark.parametrize(("M", "N"), SHAPES)
def test_products_of_columns_and_rows_of_a_group_are_added(kernels, ends, M, N):
    a_SM, b_SN = drawn(ends[-1], M), drawn(ends[-1], N)
    before = torch.randn(len(ends), M, N)
    total = before.clone()
    kernels.add_by_groups_(total, a_SM.mT, b_SN, torch.tensor(ends, dtype=torch.int32))
    pairs = zip(parts(a_SM, ends), parts(b_SN, ends), strict=True)
    expected = before + torch.stack([a.float().T @ b.float() for a, b in pairs])
    torch.testing.assert_close(total, expected, rtol=2e-3, atol=1e-3)


def parts(rows: Tensor, ends: list[int]) -> list[Tensor]:
    """Return the rows of each group."""
    sizes = [end - begin for begin, end in zip([0, *ends], ends, strict=False)]
    return list(rows.split(sizes))
