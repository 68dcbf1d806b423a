"""CUDA versions, drivers and architectures by hand."""

from __future__ import annotations

import pytest

from autotune.machine import cuda_support


@pytest.mark.parametrize(
    ("cuda_version", "driver"), [("11.8", 450), ("12.0", 525), ("12.8", 525), ("13.0", 580), ("13.2", 580)]
)
def test_minimum_driver(cuda_version: str, driver: int) -> None:
    assert cuda_support.minimum_driver(cuda_version) == driver


@pytest.mark.parametrize(
    ("driver", "build"), [("580.65", "13.0"), ("579.9", "12.6"), ("525.60.13", "12.6"), ("524.1", "")]
)
def test_fitting_cuda(driver: str, build: str) -> None:
    assert cuda_support.fitting_cuda(driver) == build


@pytest.mark.parametrize(
    ("capability", "arch_list", "fits"),
    [
        ("7.5", ["sm_75", "sm_80"], True),
        ("7.0", ["sm_75", "sm_80"], False),
        ("8.9", ["sm_80", "sm_90"], True),
        ("8.0", ["sm_86"], False),
        ("12.0", ["sm_90", "sm_100"], False),
        ("12.0", ["sm_90", "compute_90"], True),
        ("9.0", ["sm_90a"], True),
        ("10.0", ["sm_90a", "sm_100f"], True),
        ("9.0", [], False),
    ],
)
def test_code_for_a_capability(capability: str, arch_list: list[str], fits: bool) -> None:
    assert cuda_support.has_code_for(capability, arch_list) is fits
