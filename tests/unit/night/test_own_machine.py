"""What one process trains with, and where its machine's profile is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from capacity_case import counting_study
from study_case import make_study

from autotune.core.errors import UserError
from autotune.core.files import read_json
from autotune.engine.deadline import StopRequest
from autotune.machine.cards import card_named
from autotune.machine.hardware import HardwareProfile
from autotune.night import own_machine
from autotune.night.night import Options
from autotune.night.own_machine import measured_hardware, setup_of
from autotune.store.run_directory import RunDirectory
from autotune.study.study_file import load

T4, A10 = (replace(card_named(name).profile(), device="cpu") for name in ("T4", "A10"))


def test_a_setup_has_the_dtype_that_is_trained_in(tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text('name = "night"\n[budget]\ntokens = 1_000\n[space]\n"optim.muon_lr" = {low = 0.003, high = 0.1}\n')
    by_card = [setup_of(load(path), card, {"data_hash": "abc"}) for card in (T4, A10)]
    assert [setup.dtype for setup in by_card] == ["fp16", "bf16"]
    assert (
        by_card[0].text == "abc"
        and len(by_card[0].code) == 16
        and {"torch", "autotune-moe"} <= by_card[0].versions.keys()
    )
    assert len(by_card[0].differences(by_card[1])) == 1

    # The study file may say otherwise, and a trainer may have no such setting.
    chosen = setup_of(load(path, ['base.system.dtype="fp32"']), T4, {})
    assert (chosen.dtype, chosen.text) == ("fp32", "")
    assert setup_of(make_study(tmp_path), T4, {}).dtype == ""
    emulated = setup_of(counting_study(tmp_path), replace(A10, emulate="t4"), {})
    assert emulated.device.startswith(f"{A10.name} emulating t4")


def test_machines_that_share_a_folder_have_a_profile_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []
    said: list[str] = []
    run, options = RunDirectory(tmp_path / "runs" / "night"), Options(device="cpu", say=said.append)
    run.root.mkdir(parents=True)
    alone = make_study(tmp_path).spec
    shared = alone.model_copy(update={"storage": "postgresql://host/base"})

    def on(machine: str, card: HardwareProfile) -> HardwareProfile:
        def profile(*_: object, **__: object) -> HardwareProfile:
            measured.append(machine)
            return card

        monkeypatch.setattr(own_machine, "machine_name", lambda *_: machine)
        monkeypatch.setattr(own_machine, "profile", profile)
        return measured_hardware(shared, options, run, StopRequest())

    run.hardware.write_text("{}")  # what a study on SQLite has left
    assert [on("one-1", T4), on("two-2", A10), on("one-1", A10), on("two-2", T4)] == [T4, A10, T4, A10]
    assert measured == ["one-1", "two-2"]
    assert read_json(run.hardware_of("one-1"))["name"] == T4.name
    assert run.profiles() == [run.hardware, run.hardware_of("one-1"), run.hardware_of("two-2")]

    run.hardware_of("one-1").write_text("{}")
    assert on("one-1", T4) == T4 and any("hardware-one-1.json is damaged" in line for line in said)
    with pytest.raises(UserError, match="was begun on cpu and this is cpu emulating t4"):
        measured_hardware(shared, replace(options, emulate="t4"), run, StopRequest())
    assert measured_hardware(alone, options, run, StopRequest()) == T4  # measured anew, as it is none
    assert read_json(run.hardware)["name"] == T4.name
