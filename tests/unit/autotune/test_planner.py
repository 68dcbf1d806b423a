"""The plan of a night, by hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import counting_trainer
import pytest

from autotune import hardware, orchestrator
from autotune.costs import Counts
from autotune.deadline import REPORT_S
from autotune.hardware import HardwareProfile
from autotune.planner import (
    Plan,
    Probe,
    choose_pass,
    cost_model,
    describe,
    describe_left,
    done_by,
    duration,
    fitting,
    full_tokens,
    largest_micro_batch,
    make_plan,
    probe,
    text,
)
from autotune.records import UserError
from autotune.space import SearchSpace
from autotune.spec import Study, StudySpec, load
from autotune.storage import read_study
from autotune.worker import Slot

PROBE = Probe(tokens_per_s=100.0, eval_s=2.0, evaluations=5, seconds=7.0, tokens=40, peak_bytes=3, facts={})


def spec(**changes: Any) -> StudySpec:
    content = {
        "name": "night",
        "budget": {"tokens": 1_000, "trials": 10},
        "space": {"lr": {"low": 0.1, "high": 1.0}},
        "finals": {"finalists": 2, "select_seeds": 1, "prove_seeds": 4},
    }
    return StudySpec.model_validate(content | changes)


class PowerLimit:
    """What the planner reads of a hardware profile."""

    def __init__(self, power_limit_w: float = 0.0, device: str = "cpu", memory_bytes: int = 0) -> None:
        self.power_limit_w = power_limit_w
        self.device = device
        self.memory_bytes = memory_bytes


def plan(study: StudySpec, slots: int = 1, seconds_left: float = float("inf"), power_w: float = 0.0) -> Plan:
    profile: Any = PowerLimit(power_w)
    return make_plan(study, PROBE, slots, seconds_left, profile)


def test_seconds_of_a_training_by_hand() -> None:
    assert PROBE.seconds_for(1_000) == 1_000 / 100 + 5 * 2
    assert replace(PROBE, tokens_per_s=0.0).seconds_for(1_000) == 7.0 * 1_000 / 40


def test_without_a_deadline_all_trials_are_planned() -> None:
    found = plan(spec())
    # 20 s a trial, 10 finals.
    assert (found.trial_s, found.trials, found.search_s, found.finals_s, found.full_s) == (20, 10, 200, 200, 0)
    assert found.total_s == 200 + 200 + REPORT_S


def test_the_time_that_is_left_limits_the_trials() -> None:
    assert plan(spec(), seconds_left=200 + REPORT_S + 79).trials == 3
    assert plan(spec(), seconds_left=200 + REPORT_S + 80).trials == 4
    assert plan(spec(), seconds_left=100).trials == 0
    assert plan(spec(), seconds_left=1e6).trials == 10


def test_two_devices_share_the_work_but_not_the_full_run() -> None:
    study = spec(promote={"automatic": True})
    found = plan(study, slots=2)
    # 8,000 tokens at 100 a second and five evaluations of 2 s.
    assert (found.search_s, found.finals_s, found.full_s) == (100, 100, 90)
    assert plan(study, slots=2, seconds_left=100 + 90 + REPORT_S + 30).trials == 3


def test_energy_is_power_times_time() -> None:
    found = plan(spec(), slots=2, power_w=70.0)
    assert found.energy_kwh == pytest.approx(70 * 2 * (200 + REPORT_S) / 3_600_000)


def test_the_full_run_is_eight_trials_long_unless_the_study_says() -> None:
    assert full_tokens(spec()) == 8_000
    assert full_tokens(spec(promote={"tokens": 123})) == 123


@pytest.mark.parametrize(
    ("base", "match", "epochs"),
    [({"data": {"train_tokens": 0}}, True, 4.0), ({"data": {"train_tokens": 0}}, False, 0.0), ({}, True, 0.0)],
)
def test_trials_read_their_text_as_often_as_the_full_run(base: dict[str, Any], match: bool, epochs: float) -> None:
    """8,000 tokens of a text of 2,000: trials of 1,000 tokens get 250 of them."""
    study = spec(base=base, budget={"tokens": 1_000, "match_epochs": match})
    profile: Any = PowerLimit()
    found = make_plan(study, replace(PROBE, facts={"train_tokens": 2_000}), 1, float("inf"), profile)
    assert found.epochs == epochs
    assert text(1_000, epochs) == ({"data.train_tokens": 250} if epochs else {})
    assert ("on 250 tokens of text each" in describe(found, study)) == bool(epochs)
    assert make_plan(study, replace(PROBE, facts={"train_tokens": 8_000}), 1, 1e6, profile).epochs == 0


def test_a_trainer_that_takes_no_time_does_not_break_the_plan() -> None:
    profile: Any = PowerLimit()
    instant = replace(PROBE, tokens_per_s=0.0, seconds=0.0)
    assert make_plan(spec(), instant, 1, 1_000.0, profile).trials == 10


def test_in_words() -> None:
    found = replace(plan(spec(promote={"automatic": True}), power_w=36_000.0), max_pass_sequences=48)
    assert describe(found, spec(promote={"automatic": True})) == (
        "plan: up to 10 trials of 1,000 tokens (20 s each), 10 final runs, a full run of 8,000 tokens: "
        "at most 8 min, 5.1 kWh; 100 tokens/s; up to 48 sequences at a time"
    )
    assert describe(replace(plan(spec()), tokens_per_s=0.0), spec()) == (
        "plan: up to 10 trials of 1,000 tokens (20 s each), 10 final runs: at most 7 min"
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.4, "0 s"),
        (45, "45 s"),
        (99.4, "99 s"),
        (100, "2 min"),
        (720, "12 min"),
        (5_999, "100 min"),
        (27_000, "7.5 h"),
    ],
)
def test_durations(seconds: float, words: str) -> None:
    assert duration(seconds) == words


# --- the probe, with a real worker ---


def study(tmp_path: Path, base: str = "") -> Study:
    path = tmp_path / "night.toml"
    path.write_text(
        'name = "night"\ntrainer = "fake_trainer:train"\n[budget]\ntokens = 1_000\n'
        f"[base]\n{base}\n[space]\nlayers = {{low = 1, high = 4}}\n"
    )
    return load(path)


class NoOverrides(PowerLimit):
    """A profile that decides nothing."""

    def overrides(self) -> dict[str, Any]:
        return {}


NOTHING: HardwareProfile = NoOverrides()  # type: ignore[assignment]


def test_the_probe_trains_the_baseline_for_a_small_share(tmp_path: Path) -> None:
    found = probe(study(tmp_path, "evaluations = 4"), NOTHING, Slot("cpu"))
    assert (found.tokens, found.evaluations, found.facts) == (40, 4, {"data_hash": "fake"})


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ('fault = "crash"', "the baseline does not train: RuntimeError: planned crash"),
        ('fault = "exit"', "the baseline does not train: its worker ended with exit code 7"),
        ("evaluations = 0", "the baseline does not train: the trainer returned without a single report"),
    ],
)
def test_a_baseline_that_does_not_train_is_told_before_the_night(tmp_path: Path, base: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        probe(study(tmp_path, base), NOTHING, Slot("cpu"))
    assert caught.value.exit_code == 1


# --- what steps cost, by probes of a trainer whose cost is known ---


@pytest.fixture
def gpu() -> HardwareProfile:
    return NoOverrides(device="cuda", memory_bytes=1_000_000)  # type: ignore[return-value]


def counting_study(tmp_path: Path, base: str = "") -> Study:
    path = tmp_path / "counting.toml"
    path.write_text(
        'name = "counting"\ntrainer = "counting_trainer:train"\n[budget]\ntokens = 100_000\n'
        f"[base.system]\nmicro_batch_size = 8\n{base}\n"
        '[space]\n"optim.grad_accum_steps" = {low = 1, high = 4}\n"model.experts" = {choices = [2, 4, 16]}\n'
    )
    return load(path)


def test_the_cost_model_of_a_few_probes_is_the_trainers_own(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    baseline = probe(counting, gpu, Slot("cpu"))
    assert (baseline.tokens, baseline.evaluations) == (30_000, 10)  # stopped after three of ten evaluations
    model = cost_model(counting, gpu, Slot("cpu"), baseline)
    assert model is not None
    for experts, micro_batch, accumulation in ((2, 1, 1), (4, 8, 4), (32, 64, 2)):
        config = counting_trainer.Config(
            model={"experts": experts},
            optim={"grad_accum_steps": accumulation},
            system={"micro_batch_size": micro_batch},
        )
        counts = Counts.of(counting_trainer.counts(config, {}))
        assert model.step_s(counts) == pytest.approx(counting_trainer.step_s(config), rel=1e-3)
        assert model.peak_bytes(counts) == pytest.approx(counting_trainer.peak_bytes(config), rel=1e-3)


def test_a_pass_is_large_enough_to_be_fast_and_fits_every_corner(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    model = cost_model(counting, gpu, Slot("cpu"), probe(counting, gpu, Slot("cpu")))
    assert model is not None

    def chosen(of: Study, memory_bytes: int) -> int:
        device: Any = NoOverrides(device="cuda", memory_bytes=memory_bytes)
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
    tripled: Any = NoOverrides(device="cuda", memory_bytes=gpu.memory_bytes)
    tripled.overrides = lambda: {"model.slowness": 3}
    counting = counting_study(tmp_path)
    model = cost_model(counting, tripled, Slot("cpu"), probe(counting, tripled, Slot("cpu")))
    assert model is not None
    counts = Counts.of(counting_trainer.counts(counting_trainer.Config(), {}))
    assert model.step_s(counts) == pytest.approx(counting_trainer.step_s(counting_trainer.Config()), rel=1e-3)


def test_a_shape_that_does_not_train_is_left_out(tmp_path: Path, gpu: HardwareProfile) -> None:
    """Merged passes run out of memory here; the other probes still tell what a step costs."""
    counting = counting_study(tmp_path, "largest_pass = 16")
    model = cost_model(counting, gpu, Slot("cpu"), probe(counting, gpu, Slot("cpu")))
    assert model is not None
    counts = Counts.of(counting_trainer.counts(counting_trainer.Config(), {}))
    assert model.step_s(counts) == pytest.approx(counting_trainer.step_s(counting_trainer.Config()), rel=1e-3)


def test_a_trainer_that_counts_nothing_has_no_cost_model(tmp_path: Path, gpu: HardwareProfile) -> None:
    plain = study(tmp_path)
    assert cost_model(plain, gpu, Slot("cpu"), probe(plain, gpu, Slot("cpu"))) is None
    assert largest_micro_batch(plain, gpu, Slot("cpu")) == 0


def test_the_end_of_the_plan_is_named_with_its_day_when_it_is_another() -> None:
    night = replace(plan(spec()), total_s=8 * 3600.0)
    assert done_by(night.total_s, datetime(2026, 11, 24, 13, 30)) == "done by about 21:30"
    assert done_by(night.total_s, datetime(2026, 11, 24, 23, 0)) == "done by about 07:00 on Wednesday"


def test_search_finals_and_full_run_have_the_chosen_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first trial of the first start, which is drawn after the plan."""
    counting_study(tmp_path)
    counting = load(tmp_path / "counting.toml", ["budget.trials=2", "finals={select_seeds=1, prove_seeds=2}"])
    profile = replace(hardware.profile(device="cpu"), device="cuda", memory_bytes=10**9)
    monkeypatch.setattr(orchestrator, "visible_devices", lambda: ["one"])
    monkeypatch.setattr(orchestrator, "profile", lambda *_, **__: profile)
    monkeypatch.setattr(orchestrator, "slots_of", lambda _: [Slot("cpu")])
    session = orchestrator.Session(counting, orchestrator.Options(tmp_path / "runs"))
    assert session.work() == 0
    record = read_study(tmp_path / "runs" / "counting")
    configs = [trial.result.config for trial in (*record.trials, *record.finals) if trial.result is not None]
    assert len(configs) >= 2
    assert {config["system"]["max_pass_sequences"] for config in configs} == {32}


def test_equal_seconds_by_the_cost_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten times the FLOPs are predicted, not probed: the trainer's own formula gives the same budgets."""
    counting_study(tmp_path)
    changes = [
        'space={"model.slowness" = {choices=[1, 10]}, "optim.grad_accum_steps" = {low=1, high=4}}',
        'objective="loss_at_equal_seconds"',
        'sampler={name="random"}',
        "budget.trials=8",
        "finals={select_seeds=1, prove_seeds=2, max_seeds=2}",
    ]
    counting = load(tmp_path / "counting.toml", changes)
    profile = replace(hardware.profile(device="cpu"), device="cuda", memory_bytes=10**9)
    monkeypatch.setattr(orchestrator, "visible_devices", lambda: ["one"])
    monkeypatch.setattr(orchestrator, "profile", lambda *_, **__: profile)
    monkeypatch.setattr(orchestrator, "slots_of", lambda _: [Slot("cpu")])
    session = orchestrator.Session(counting, orchestrator.Options(tmp_path / "runs"))
    assert session.work() == 0
    record = read_study(tmp_path / "runs" / "counting")
    assert record.baseline is not None and record.baseline.budget_tokens == 100_000

    def speed(config: Any) -> float:
        built = counting_trainer.Config.model_validate(config)
        return counting_trainer.counts(built, {})["step_tokens"] / counting_trainer.step_s(built)

    assert record.baseline.result is not None
    baseline = speed(record.baseline.result.config)
    for trial in (*record.trials, *record.finals):
        assert trial.result is not None
        expected = 100_000 * speed(trial.result.config) / baseline
        assert trial.budget_tokens == trial.result.points[-1].tokens_seen == pytest.approx(expected, rel=2e-3)
    assert {trial.params["model.slowness"] for trial in record.trials} == {1, 10}
    line = next(event["message"] for event in record.events if event["kind"] == "plan")
    assert line.startswith("plan: up to 8 trials of the seconds of 100,000 tokens (")


def test_values_that_cannot_fit_are_left_out_of_the_search(tmp_path: Path, gpu: HardwareProfile) -> None:
    """One sequence with 16 experts takes 16 x 9,000 + 5,000 + 3,300 bytes, with 4 less than a third of that."""
    counting = counting_study(tmp_path)
    model = cost_model(counting, gpu, Slot("cpu"), probe(counting, gpu, Slot("cpu")))
    assert model is not None

    def left(of: Study, memory_bytes: int) -> dict[str, Any]:
        device: Any = NoOverrides(device="cuda", memory_bytes=memory_bytes)
        return fitting(of, model, device, {})

    assert left(counting, 10**9) == {}
    found = left(counting, 120_000)
    assert found == {"model.experts": (2, 4)}
    assert describe_left(counting.spec, "model.experts", (2, 4), NoOverrides(memory_bytes=2**31)) == (
        "model.experts is kept to 2, 4: the others do not fit into 2.0 GiB, not even one sequence at a time"
    )
    narrowed = counting.spec.space.with_ranges(found)
    assert narrowed["model.experts"].choices == (2, 4) and narrowed["optim.grad_accum_steps"].high == 4
    tight: Any = NoOverrides(device="cuda", memory_bytes=120_000)
    assert choose_pass(counting, model, tight, {}) == 0
    assert choose_pass(counting, model, tight, {}, found) > 0
    # What the baseline itself has is never left out: then it is the model that errs.
    assert left(counting, 1_000) == {}


def test_a_range_of_whole_numbers_ends_where_it_no_longer_fits(tmp_path: Path, gpu: HardwareProfile) -> None:
    counting = counting_study(tmp_path)
    model = cost_model(counting, gpu, Slot("cpu"), probe(counting, gpu, Slot("cpu")))
    assert model is not None
    space = SearchSpace.model_validate({"model.experts": {"low": 2, "high": 64}})
    ranged = replace(counting, spec=counting.spec.model_copy(update={"space": space}))
    device: Any = NoOverrides(device="cuda", memory_bytes=200_000)
    low, high = fitting(ranged, model, device, {})["model.experts"]
    assert low == 2

    def peak_bytes(experts: int) -> float:
        one = {"micro_batch_size": 8, "max_pass_sequences": 1}
        return counting_trainer.peak_bytes(counting_trainer.Config(model={"experts": experts}, system=one))

    assert peak_bytes(int(high)) <= 0.92 * 200_000 < peak_bytes(int(high) + 1)
