"""Probes of a trainer, what steps cost and what fits, with real workers and a trainer whose costs are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import counting_trainer
import pytest
from capacity_case import Machine, counting_study

from autotune.core.errors import UserError
from autotune.engine.cost_model import CostModel, Counts
from autotune.engine.worker import Slot
from autotune.machine.hardware import HardwareProfile
from autotune.night.capacity import choose_pass, cost_model, describe_left, fitting, largest_micro_batch, speedup
from autotune.night.probing import Place, probe
from autotune.search.space import SearchSpace
from autotune.study.study_file import Study, load


def study(tmp_path: Path, base: str = "") -> Study:
    path = tmp_path / "night.toml"
    path.write_text(
        'name = "night"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 1_000\n'
        f"[base]\n{base}\n[space]\nlayers = {{low = 1, high = 4}}\n"
    )
    return load(path)


NOTHING: HardwareProfile = Machine()  # type: ignore[assignment]


def test_the_probe_trains_the_baseline_for_a_small_share(tmp_path: Path) -> None:
    taken = probe(Place(study(tmp_path, "evaluations = 4"), NOTHING, Slot("cpu")))
    assert (taken.tokens, taken.evaluations, taken.facts) == (40, 4, {"data_hash": "fake"})


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('fault = "crash"', "the baseline does not train: RuntimeError: planned crash"),
        ('fault = "exit"', "the baseline does not train: its worker ended with exit code 7"),
        ("evaluations = 0", "the baseline does not train: the trainer returned without reporting an evaluation"),
    ],
)
def test_a_baseline_that_does_not_train_is_told_before_the_night(tmp_path: Path, base: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        probe(Place(study(tmp_path, base), NOTHING, Slot("cpu")))
    assert caught.value.exit_code == 1


def test_a_full_disk_is_no_fault_of_the_study_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"found no space left on the disk .*: free some space") as caught:
        probe(Place(study(tmp_path, 'fault = "full-disk"'), NOTHING, Slot("cpu")))
    assert caught.value.exit_code == 3


# --- what steps cost, by probes of a trainer whose cost is known ---


def costs(of: Study, device: HardwareProfile) -> CostModel | None:
    place = Place(of, device, Slot("cpu"))
    with place.worker() as worker:
        return cost_model(place, probe(place, worker=worker), worker)


@pytest.fixture
def gpu() -> HardwareProfile:
    return Machine(device="cuda", memory_bytes=1_000_000)  # type: ignore[return-value]


def test_the_cost_model_of_a_few_probes_is_the_trainers_own(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    place = Place(counting, gpu, Slot("cpu"))
    with place.worker() as worker:
        baseline = probe(place, worker=worker)
        model = cost_model(place, baseline, worker)
    assert (baseline.tokens, baseline.evaluations) == (30_000, 10)  # stopped after three of ten evaluations
    assert model is not None
    for experts, micro_batch, accumulation in ((2, 1, 1), (4, 8, 4), (32, 64, 2)):
        config = counting_trainer.Config(
            model={"experts": experts},
            optim={"grad_accum_steps": accumulation},
            system={"micro_batch_size": micro_batch},
        )
        counts = Counts.of(counting_trainer.counts(config, {}))
        assert model.optimizer_step_s(counts) == pytest.approx(counting_trainer.step_s(config), rel=1e-3)
        assert model.peak_bytes(counts) == pytest.approx(counting_trainer.peak_bytes(config), rel=1e-3)


def test_a_pass_is_large_enough_to_be_fast_and_fits_every_corner(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    model = costs(counting, gpu)
    assert model is not None

    def chosen(of: Study, memory_bytes: int) -> int:
        device: Any = Machine(device="cuda", memory_bytes=memory_bytes)
        return choose_pass(of, model, device, {})

    roomy, tight = chosen(counting, 10**9), chosen(counting, 250_000)
    assert roomy == 32  # all four micro-batches at once: each pass costs a fixed time
    assert 0 < tight < 32
    heaviest = counting_trainer.Config(
        model={"experts": 16},
        optim={"grad_accum_steps": 4},
        system={"micro_batch_size": 8, "max_pass_sequences": tight},
    )
    assert counting_trainer.peak_bytes(heaviest) <= 250_000
    assert chosen(counting, 1_000) == 0
    chosen_by_hand = counting_study(tmp_path, "max_pass_sequences = 4")
    assert chosen(chosen_by_hand, 10**9) == 0


def test_the_largest_micro_batch_is_the_largest(tmp_path: Path, gpu: HardwareProfile) -> None:
    largest = largest_micro_batch(counting_study(tmp_path), gpu, Slot("cpu"))

    def peak_bytes(size: int) -> float:
        config = counting_trainer.Config(model={"experts": 4}, system={"micro_batch_size": size})
        return counting_trainer.peak_bytes(config)

    assert peak_bytes(largest) <= 0.92 * gpu.memory_bytes < peak_bytes(largest + 1)


def test_configurations_are_counted_as_the_hardware_runs_them(tmp_path: Path, gpu: HardwareProfile) -> None:
    """Here the hardware triples the FLOPs; counted without that, each would seem three times as slow."""
    tripled: Any = Machine(device="cuda", memory_bytes=gpu.memory_bytes)
    tripled.overrides = lambda: {"dtype": 3}
    counting = counting_study(tmp_path)
    roles = {**counting.trainer.setting_roles, "dtype": "model.slowness"}
    counting = replace(counting, trainer=replace(counting.trainer, setting_roles=roles))
    model = costs(counting, tripled)
    assert model is not None
    counts = Counts.of(counting_trainer.counts(counting_trainer.Config(), {}))
    assert model.optimizer_step_s(counts) == pytest.approx(counting_trainer.step_s(counting_trainer.Config()), rel=1e-3)


def test_a_shape_that_does_not_train_is_left_out(tmp_path: Path, gpu: HardwareProfile) -> None:
    """Merged passes run out of memory here; the other probes still tell what a step costs."""
    counting = counting_study(tmp_path, "largest_pass = 16")
    model = costs(counting, gpu)
    assert model is not None
    counts = Counts.of(counting_trainer.counts(counting_trainer.Config(), {}))
    assert model.optimizer_step_s(counts) == pytest.approx(counting_trainer.step_s(counting_trainer.Config()), rel=1e-3)


def test_merged_passes_are_faster_by_what_the_model_says(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path, "[base.optim]\ngrad_accum_steps = 4")
    model = costs(counting, gpu)
    assert model is not None
    separate, merged = (
        counting_trainer.Config(optim={"grad_accum_steps": 4}, system={"max_pass_sequences": size}) for size in (8, 32)
    )
    expected = counting_trainer.step_s(separate) / counting_trainer.step_s(merged)
    assert speedup(counting, model, gpu, {}, 32) == pytest.approx(expected, rel=1e-3) and expected > 1
    chosen_by_hand = counting_study(tmp_path, "max_pass_sequences = 4\n[base.optim]\ngrad_accum_steps = 4")
    assert speedup(chosen_by_hand, model, gpu, {}, 0) == 1.0


def test_a_trainer_that_counts_nothing_has_no_cost_model(tmp_path: Path, gpu: HardwareProfile) -> None:
    plain = study(tmp_path)
    assert costs(plain, gpu) is None
    assert largest_micro_batch(plain, gpu, Slot("cpu")) == 0


def test_values_that_cannot_fit_are_left_out_of_the_search(tmp_path: Path, gpu: HardwareProfile) -> None:
    """One sequence with 16 experts takes 16 x 9,000 + 5,000 + 3,300 bytes, with 4 less than a third of that."""
    counting = counting_study(tmp_path)
    model = costs(counting, gpu)
    assert model is not None

    def left(of: Study, memory_bytes: int) -> dict[str, Any]:
        device: Any = Machine(device="cuda", memory_bytes=memory_bytes)
        return fitting(of, model, device, {})

    assert left(counting, 10**9) == {}
    narrower = left(counting, 120_000)
    assert narrower == {"model.experts": (2, 4)}
    assert describe_left(counting.spec, "model.experts", (2, 4), Machine(memory_bytes=2**31)) == (
        "model.experts is limited to 2, 4: its other values do not fit into 2.0 GiB, even with one sequence at a time"
    )
    narrowed = counting.spec.space.with_ranges(narrower)
    assert narrowed["model.experts"].choices == (2, 4) and narrowed["optim.grad_accum_steps"].high == 4
    tight: Any = Machine(device="cuda", memory_bytes=120_000)
    assert choose_pass(counting, model, tight, {}) == 0
    assert choose_pass(counting, model, tight, {}, narrower) > 0
    # What the baseline itself has is never left out: then it is the model that errs.
    assert left(counting, 1_000) == {}


def test_a_range_of_whole_numbers_ends_where_it_no_longer_fits(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    model = costs(counting, gpu)
    assert model is not None
    space = SearchSpace.model_validate({"model.experts": {"low": 2, "high": 64}})
    ranged = replace(counting, spec=counting.spec.model_copy(update={"space": space}))
    device: Any = Machine(device="cuda", memory_bytes=200_000)
    low, high = fitting(ranged, model, device, {})["model.experts"]
    assert low == 2

    def peak_bytes(experts: int) -> float:
        one = {"micro_batch_size": 8, "max_pass_sequences": 1}
        return counting_trainer.peak_bytes(counting_trainer.Config(model={"experts": experts}, system=one))

    assert peak_bytes(int(high)) <= 0.92 * 200_000 < peak_bytes(int(high) + 1)
