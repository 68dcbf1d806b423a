"""What is told to be too large for the memory, from the counts alone: nothing is trained here."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from capacity_case import Machine, counting_study

from autotune.core.errors import UserError
from autotune.machine.hardware import HardwareProfile
from autotune.night.foresight import least_bytes, least_trial_s, require_memory, require_time
from autotune.study.study_file import Study, load


def machine(device: str = "cpu", memory_bytes: int = 16 * 2**30) -> HardwareProfile:
    made = Machine(device=device, memory_bytes=memory_bytes)
    made.name = "a machine"  # type: ignore[attr-defined]
    return made  # type: ignore[return-value]


def real(tmp_path: Path, base: str, space: str = '"optim.muon_lr" = {low = 0.003, high = 0.1, log = true}') -> Study:
    path = tmp_path / "night.toml"
    path.write_text(
        f'name = "night"\n[budget]\ntokens = 100_000\n[base]\n{base}\n[space]\n{space}\n[sampler]\nname = "random"\n'
    )
    return load(path)


@pytest.mark.parametrize(
    "base",
    [
        "model.num_layers = 10_000_000",
        "model.num_experts = 1_000_000_000",
        "model.d_ff = 8_000_000_000",
        "model.seq_len = 1_000_000_000_000",
        "system.micro_batch_size = 1_000_000_000_000",
    ],
)
def test_a_baseline_that_cannot_fit_is_refused(tmp_path: Path, base: str) -> None:
    with pytest.raises(UserError, match=r"the model of \[base\] needs .* or more, but a machine has 17.2 GB: make it"):
        require_memory(real(tmp_path, base), machine())


@pytest.mark.parametrize("value", ["{low = 1, high = 10_000_000}", "{choices = [1, 6, 10_000_000]}"])
def test_what_the_search_may_propose_is_refused_on_a_cpu(tmp_path: Path, value: str) -> None:
    study = real(tmp_path, "", f'"model.num_layers" = {value}')
    with pytest.raises(
        UserError, match=r"a model with model\.num_layers = 10000000, which the search may propose, needs"
    ):
        require_memory(study, machine())
    require_memory(study, machine("cuda"))  # where the planner leaves it out


def test_what_fits_is_left_alone(tmp_path: Path) -> None:
    require_memory(real(tmp_path, ""), machine())
    require_memory(counting_study(tmp_path), machine(memory_bytes=0))  # which tells nothing of its memory


def test_a_trainer_that_counts_only_after_a_run_or_not_at_all_is_asked_nothing(tmp_path: Path) -> None:
    path = tmp_path / "fake.toml"
    path.write_text(
        'name = "fake"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 10\n'
        "[space]\nlr = {low = 0.0001, high = 0.1}\n"
    )
    assert least_bytes(load(path), machine(), {}) == 0


def test_a_night_is_refused_before_anything_is_trained_if_the_fastest_products_are_too_slow(tmp_path: Path) -> None:
    """Four trials and two runs for each of four seeds: twelve trainings, of 5 s at least each."""
    study = counting_study(tmp_path)
    counted = study.trainer.counts(study.spec.base, {})
    assert counted is not None
    slow = machine()
    steps = 100_000 / counted["step_tokens"]
    slow.matmul_flops["fp32"] = steps * counted["passes"] * counted["pass_flops"] / 5

    assert least_trial_s(study, slow) == pytest.approx(5)
    require_time(study, slow, math.inf, 1)
    require_time(study, slow, 30, 1)
    with pytest.raises(UserError, match=r"one trial takes more than 5 s here, .* --hours 0.1 or more"):
        require_time(study, slow, 15, 1)
    require_time(study, slow, 15, 4)


def test_a_machine_without_speeds_refuses_no_night(tmp_path: Path) -> None:
    require_time(counting_study(tmp_path), machine(), 1, 1)
