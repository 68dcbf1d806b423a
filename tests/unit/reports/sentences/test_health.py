import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_builder

from autotune.core.files import append_line, write_json
from autotune.core.records import TrialRecord, TrialResult
from autotune.search.dimension import Dimension
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from reports.sentences import health
from reports.sentences.health import CHECKS, Check, health_checks


def check(record: StudyRecord, name: str) -> Check:
    return next(found for found in health_checks(record) if found.name == name)


def test_every_check_answers_for_every_kind_of_study(night: StudyRecord) -> None:
    studies = [
        night, study_builder.empty_study(), study_builder.running_study(), study_builder.failed_study(),
        study_builder.minimal_study(),
    ]  # fmt: skip
    for record in studies:
        found = health_checks(record)
        assert [one.name for one in found] == list(CHECKS)
        assert all(one.finding and not one.finding.startswith("Could not") for one in found)
        assert all(bool(one.action) == (one.status == "warn") for one in found)


def test_the_statuses_of_the_finished_study(night: StudyRecord) -> None:
    assert {found.name: found.status for found in health_checks(night)} == {
        "Gain on fresh seeds": "pass", "Gain against noise": "pass", "Ranges wide enough": "pass",
        "Early against final results": "pass", "Good trials pruned": "skip", "Enough trials": "skip",
        "Speed of the GPU": "warn", "Crashed trials": "warn", "Wasted trials": "pass",
        "Repeated text and dropout": "warn", "The full run as it trained": "skip",
        "Comparable with the last study": "skip",
    }  # fmt: skip


def test_seeds_that_chose_the_winner_are_found() -> None:
    record = study_builder.study(verdict=study_builder.verdict(seeds=(1001, 1002)))
    found = check(record, "Gain on fresh seeds")

    assert found.status == "warn" and "1001" in found.finding and "1002" not in found.finding


def test_noise_larger_than_the_gain_warns() -> None:
    noisy = study_builder.study(verdict=study_builder.verdict(gain=0.01, sigma=0.02))

    assert check(noisy, "Gain against noise").status == "warn"


def test_an_optimum_at_the_edge_says_how_to_widen(night: StudyRecord) -> None:
    trials = list(night.trials)
    trials[6] = replace(trials[6], params=study_builder.settings(0.09, 0.29, 16, 4))
    found = check(replace(night, trials=tuple(trials)), "Ranges wide enough")

    assert found.status == "warn" and "optim.muon_lr = 0.09 (the high end)" in found.finding
    assert "--set 'space.\"optim.muon_lr\".high=0.3'" in found.action
    assert "--set 'space.\"model.dropout\".high=0.45'" in found.action
    assert "--set 'space.\"optim.grad_accum_steps\".high=6'" in found.action


def test_a_low_edge_is_widened_downwards(night: StudyRecord) -> None:
    trials = list(night.trials)
    trials[6] = replace(trials[6], params=study_builder.settings(0.001, 0.1, 16, 2))

    action = check(replace(night, trials=tuple(trials)), "Ranges wide enough").action
    assert "low=0.000333" in action


@pytest.mark.parametrize(
    ("dimension", "value", "widened"),
    [
        ({"low": -10, "high": 10}, -10, "low=-20"),
        ({"low": 5, "high": 6}, 6, "high=7"),
        ({"low": 1000, "high": 40_000, "log": True}, 40_000, "high=120000"),
        ({"low": 4, "high": 32}, 4, "low=1"),
        ({"low": 0.0, "high": 1.0, "step": 0.2}, 1.0, "high=1.6"),
        ({"low": 1000.0, "high": 1000.5}, 1000.5, "high=1001"),
    ],
    ids=["below zero", "two whole numbers", "large", "above zero", "steps", "narrow"],
)
def test_a_widened_range_is_one_that_a_study_file_takes(dimension: dict[str, Any], value: float, widened: str) -> None:
    spec = study_builder.spec(base={"x": value}, space={"x": dimension})
    only = study_builder.trial(0, "finished", [6.0, 5.5], {"x": value}, role="baseline")
    found = check(study_builder.study(spec=spec, trials=(only,), finals=(), verdict=None), "Ranges wide enough")

    assert f"--set space.x.{widened}`" in found.action.replace("'", "").replace('"', "")
    side, _, end = widened.partition("=")
    assert Dimension.model_validate(dimension | {side: tomllib.loads(f"x = {end}")["x"]}).contains(value)


def test_low_rank_correlation_warns() -> None:
    rungs, finals = (5.0, 5.1, 5.2, 5.3, 5.4), (4.4, 4.3, 4.2, 4.1, 4.0)
    trials = tuple(
        study_builder.trial(place, "finished", [6.0, rung, 5.0, last], study_builder.settings(0.02, 0.0, 8, 1))
        for place, (rung, last) in enumerate(zip(rungs, finals, strict=True))
    )
    found = check(study_builder.study(trials=trials, verdict=None), "Early against final results")

    assert found.status == "warn" and "-1.00" in found.finding


def test_pruning_that_cost_good_trials_warns(night: StudyRecord) -> None:
    trials = list(night.trials)
    late = study_builder.trial(6, "finished", [6.0, 5.9, 5.0, 4.0], study_builder.settings(0.05, 0.05, 16, 1))
    trials[6] = late

    assert check(replace(night, trials=tuple(trials)), "Good trials pruned").status == "warn"


@pytest.mark.parametrize(
    ("audited", "status", "words"),
    [
        (0, "skip", "None that would have been stopped was run on as a check."),
        # Of 0 in 1, the exact 95 % interval ends at 1 - 0.025 = 97.5 %; of 0 in 8 at 1 - 0.025 ** (1 / 8) = 36.9 %.
        (1, "skip", "So 0 to 13 of the 13 stopped may have been that good. That is too wide to judge by."),
        (8, "pass", "So 0 to 5 of the 13 stopped may have been that good."),
    ],
)
def test_an_interval_from_nothing_to_all_passes_no_check(audited: int, status: str, words: str) -> None:
    def made(number: int, status: str, losses: list[float], **more: Any) -> TrialRecord:
        return study_builder.trial(number, status, losses, study_builder.settings(0.02, 0.0, 8, 1), **more)

    good = [made(number, "finished", [6.0, 5.0 + number / 100, 4.9, 4.0 + number / 100]) for number in range(8)]
    kept = [made(10 + number, "finished", [6.3, 6.2, 6.1, 6.0], audited_at=500) for number in range(audited)]
    stopped = [made(20 + number, "pruned", [6.5, 6.4], stopped_at=500) for number in range(13)]
    found = check(study_builder.study(trials=(*good, *kept, *stopped)), "Good trials pruned")

    assert found.status == status
    assert found.finding.endswith(words)


def test_an_edge_is_no_warning_where_widening_found_nothing(night: StudyRecord) -> None:
    """The rate's range ended at 0.08 and was widened to 0.1; the best is 0.09, and three trials went beyond it."""
    before = study_builder.spec(
        space={**study_builder.SPACE, "optim.muon_lr": {"low": 0.001, "high": 0.08, "log": True}}
    )
    trials = list(night.trials)
    trials[6] = replace(trials[6], params=study_builder.settings(0.09, 0.1, 16, 2))
    for number, rate in ((1, 0.095), (2, 0.1)):
        trials[number] = replace(trials[number], params=study_builder.settings(rate, 0.1, 16, 2))
    record = study_builder.with_attributes(replace(night, trials=tuple(trials)), spec=before.model_dump(mode="json"))

    # With the diverged trial at 0.1 there are three.
    found = check(record, "Ranges wide enough")
    assert found.status == "pass"
    assert found.finding == (
        "optim.muon_lr = 0.09 lies at the high end, where the search widened its range: none of 3 trials beyond it was "
        "better."
    )

    two = replace(record, trials=(*trials[:1], *trials[2:]))
    assert check(two, "Ranges wide enough").status == "warn", "two trials say little"
    assert check(replace(night, trials=tuple(trials)), "Ranges wide enough").status == "warn", "it was not widened"


def test_a_search_that_still_improved_asks_for_more_trials() -> None:
    trials = tuple(
        study_builder.trial(number, "finished", [6.0 - number / 10], study_builder.settings(0.02, 0.0, 8, 1))
        for number in range(12)
    )
    found = check(study_builder.study(trials=trials, verdict=None), "Enough trials")

    assert found.status == "warn" and "--trials 24" in found.action

    crashed = study_builder.trial(0, "crashed", [6.0], study_builder.settings(0.02, 0.0, 8, 1))
    first_is_best = tuple(replace(trial, number=12 - trial.number) for trial in trials[::-1])
    told = check(study_builder.study(trials=(crashed, *first_is_best), verdict=None), "Enough trials")
    assert told.finding == "The lowest loss of 13 trials came with trial 1."

    early = tuple(replace(trial, number=11 - trial.number) for trial in trials[::-1])
    assert check(study_builder.study(trials=early, verdict=None), "Enough trials").status == "pass"


def test_a_power_cap_is_no_throttling() -> None:
    samples = tuple(study_builder.gpu_sample(place, 70.0, None, "power cap", "idle") for place in range(10))

    assert check(study_builder.study(gpu=samples), "Speed of the GPU").status == "pass"


def test_many_wasted_trials_warn() -> None:
    assert check(study_builder.failed_study(), "Wasted trials").status == "warn"


@pytest.mark.parametrize(
    ("epochs", "status"), [(0.5, "pass"), (1.0, "pass"), (2.0, "warn"), (None, "skip"), (float("nan"), "skip")]
)
def test_repeated_text_with_dropout(night: StudyRecord, epochs: float | None, status: str) -> None:
    trials = list(night.trials)
    result: TrialResult = replace(trials[6].result, facts={"epochs": epochs})
    trials[6] = replace(trials[6], result=result)

    assert check(replace(night, trials=tuple(trials)), "Repeated text and dropout").status == status


def test_warnings_of_the_full_run_are_repeated_with_what_to_do(night: StudyRecord) -> None:
    warnings = [
        {"kind": "plateau", "tokens_seen": 6000, "finding": "the loss fell by 0.001", "action": "use more text"},
        {"kind": "throttling", "tokens_seen": 7000, "finding": "it became\x1b slower", "action": "cool it"},
    ]
    full = {"status": "finished", "points": [{"tokens_seen": 6000, "val_loss": 4.0}], "warnings": warnings}
    found = check(study_builder.with_attributes(night, full=full), "The full run as it trained")

    assert found.status == "warn"
    assert found.finding == "At 6,000 tokens the loss fell by 0.001. At 7,000 tokens it became\ufffd slower."
    assert found.action == "Use more text. Cool it."
    sound = check(
        study_builder.with_attributes(night, full=full | {"warnings": []}),
        "The full run as it trained",
    )
    assert (sound.status, sound.finding) == ("pass", "Nothing looked wrong in its 1 evaluation.")


def placed(folder: Path, name: str, began: float, tokens: int = 1000) -> StudyRecord:
    """A study without trials in a folder of its own, begun at a time."""
    run = RunDirectory(folder / name)
    spec = study_builder.spec(name, budget={"tokens": tokens, "trials": 12})
    write_json(run.spec, spec.model_dump(mode="json"))
    append_line(run.events, {"time": began, "kind": "plan", "message": "a plan"})
    open_storage(run).engine.dispose()
    return replace(study_builder.empty_study(), run=run, spec=spec)


def test_the_study_before_is_the_one_that_losses_are_compared_with(tmp_path: Path) -> None:
    name = "Comparable with the last study"
    first = placed(tmp_path, "first", 1.0, tokens=2000)
    second, third = placed(tmp_path, "second", 2.0), placed(tmp_path, "third", 3.0)

    assert check(first, name).status == "skip"
    differs = check(second, name)
    assert differs.status == "warn" and "the budget (budget.tokens) differ" in differs.finding
    same = check(third, name)
    assert same.status == "pass"
    assert f"`autotune compare third second --out {tmp_path}` shows both" in same.finding


def test_a_check_that_fails_says_so_and_spares_the_others(night: StudyRecord, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(record: StudyRecord) -> None:
        raise RuntimeError("no audit today")

    monkeypatch.setattr(health, "pruning_audit", broken)
    found = check(night, "Early against final results")

    assert (found.status, found.finding) == ("skip", "Could not be checked: no audit today.")
    assert check(night, "Gain against noise").status == "pass"
