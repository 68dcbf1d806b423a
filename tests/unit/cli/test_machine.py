"""What the commands that look at the machine print."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from autotune.cli import machine
from autotune.cli.main import app
from autotune.machine.cards import CARDS
from autotune.machine.hardware import HardwareProfile


@pytest.fixture
def t4() -> HardwareProfile:
    measured = {"fp32": 4.1e12, "fp16": 31e12}
    versions = {"driver_version": "550.54", "cuda_version": "12.6", "torch_version": "2.13.0"}
    host = {
        "cpu_name": "Xeon",
        "cpu_count": 1,
        "ram_bytes": 13 * 2**30,
        "uuid": "GPU-secret",
        "platform": "my-own-host",
    }
    return replace(CARDS["T4"].profile(), name="Tesla T4", matmul_flops=measured, **versions, **host)


def test_a_block_to_share_says_what_was_measured_and_not_whose_it_is(
    monkeypatch: pytest.MonkeyPatch, t4: HardwareProfile
) -> None:
    monkeypatch.setattr(machine, "measured_hardware", lambda device, emulate: t4)
    said = CliRunner().invoke(app, ["profile", "--share"]).stdout
    assert said.splitlines()[:3] == ["| autotune profile | |", "|---|---|", "| device | Tesla T4, 15.0 GiB |"]
    for row in (
        "| compute capability | 7.5 |",
        "| power limit | 70 of 70 W |",
        "| host | Xeon, 1 cores, 13.0 GiB |",
        "| versions | driver 550.54, CUDA 12.6, torch 2.13.0 |",
        "| matrix products | fp32 4.1, fp16 31, fp16 after 10 s of load 25 TFLOP/s |",
    ):
        assert row in said
    assert "secret" not in said and "my-own-host" not in said
