"""Studies judged at equal seconds, and by loss and seconds, from the file to the report."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from study_folder import STUDY, StudyFolder, wait_for

from autotune.core.objectives import pareto_front
from autotune.core.records import TrialRecord, TrialStatus, VerdictWord
from reports.markdown import report_markdown
from reports.page import write_report
from reports.tables.curves import at_equal_shares

# Twice the experts: 0.3 nats better on the same tokens, 0.3 worse in the same time.
EXPERTS = {"lr": 0.01, "claimed_per_s": 1e5, "expert_gain": 0.3, "token_gain": 0.6}
SPACE = {"lr": {"low": 0.005, "high": 0.02, "log": True}, "experts": {"choices": [1, 2]}}
SECONDS, BOTH = "loss_at_equal_seconds", "loss_and_seconds"
BUDGET = STUDY["budget"]["tokens"]
NONE = {"name": "none"}


def _write(folder: StudyFolder, objective: str, counting: bool = True, **tables: Any) -> None:
    trainer = "counting_fake_trainer:train" if counting else "fake_trainer:train"
    tables["base"] = EXPERTS | tables.get("base", {})
    folder.write(**{"objective": objective, "trainer": trainer, "space": SPACE, **tables})


def _lengths(trials: tuple[TrialRecord, ...]) -> set[tuple[int, int]]:
    """Experts and tokens of those trials that ended by themselves."""
    ended = (TrialStatus.FINISHED, TrialStatus.PRUNED)
    results = [trial.result for trial in trials if trial.status in ended and trial.result is not None]
    finished = {(result.config["experts"], result.points[-1].tokens_seen) for result in results}
    assert all(trial.budget_tokens is not None for trial in trials if trial.status in ended)
    return finished


def test_equal_tokens_and_equal_seconds_choose_different_experts(folder: StudyFolder) -> None:
    for objective, experts, tokens in (("loss_at_equal_tokens", 2, BUDGET), (SECONDS, 1, BUDGET // 2)):
        _write(folder, objective, pruner=NONE)
        run = folder.run(out=objective)
        assert run.end() == 0, run.text
        record = folder.record(objective)
        lengths = {
            (trial.result.config["experts"], trial.result.points[-1].tokens_seen)
            for trial in (*record.trials, *record.finals)
            if trial.result is not None
        }
        assert lengths == {(1, BUDGET), (2, tokens)}
        assert record.verdict is not None
        assert record.verdict.params["experts"] == experts
        page = report_markdown(record)
        assert ("at equal training seconds" in page) == ("at equal training seconds" in run.text) == (experts == 1)


@pytest.mark.parametrize("counting", [True, False])
def test_a_speed_is_probed_once_for_what_counts_alike(folder: StudyFolder, counting: bool) -> None:
    """Of a trainer that counts nothing, each of the settings may have a speed of its own."""
    _write(folder, SECONDS, counting, budget={"trials": 6}, finals={"finalists": 1})
    run = folder.run()
    assert run.end() == 0, run.text
    trials = folder.record().trials
    assert {trial.params["experts"] for trial in trials} == {1, 2}
    # The plan's, the baseline's as a measure for the others, and those that the measure does not hold for.
    assert folder.probed() == 2 + (1 if counting else len(trials) - 1)
    assert {trial.budget_tokens for trial in trials} == {BUDGET, BUDGET // 2}


def test_pruners_compare_equal_shares_of_unequal_budgets(folder: StudyFolder) -> None:
    """A third of the tokens, in seven evaluations that fall between whole tokens."""
    space = {**SPACE, "lr": {"low": 0.0001, "high": 1.0, "log": True}, "experts": {"choices": [1, 3]}}
    _write(folder, SECONDS, space=space, base={"evaluations": 7}, budget={"trials": 16})
    run = folder.run()
    assert run.end() == 0, run.text
    record, grid = folder.record(), [BUDGET * number // 7 for number in range(1, 8)]
    for trial, shown in zip(record.trials, at_equal_shares(record).trials, strict=True):
        assert shown.result is not None and len(shown.result.points) == len(trial.values)
        assert [point.tokens_seen for point in shown.result.points] == grid[: len(trial.values)]
    pruned = [trial for trial in record.trials if trial.status is TrialStatus.PRUNED]
    assert {trial.params["experts"] for trial in pruned} == {1, 3}


def test_budgets_outlive_a_kill(folder: StudyFolder) -> None:
    gate = {"fault": "gate", "fault_above": 0.015, "fault_budget": BUDGET // 4}
    _write(folder, SECONDS, base=gate, budget={"trials": 6}, enqueue=[{"lr": 0.018, "experts": 2}])
    run = folder.start()
    folder.wait_at_gate()
    run.kill()
    folder.open_gate()
    again = folder.run()
    assert again.end() == 0, again.text
    record = folder.record()
    killed = next(trial for trial in record.trials if trial.status is TrialStatus.INTERRUPTED)
    repeated = next(trial for trial in record.trials if trial.retry_of == killed.number)
    assert killed.budget_tokens == repeated.budget_tokens == BUDGET // 2
    assert killed.result is not None and [point.tokens_seen for point in killed.result.points] == [10_000, 20_000]
    assert {experts for experts, _ in _lengths(record.trials)} == {1, 2}
    assert {trial.budget_tokens for trial in (*record.trials, *record.finals)} == {BUDGET, BUDGET // 2}
    # Twice the baseline's, by each process, and the plan's; two experts were settled before the kill.
    assert folder.probed() == 2 + 1 + 1


@pytest.mark.parametrize(
    ("fault", "status"), [("out-of-memory", TrialStatus.OUT_OF_MEMORY), ("kill", TrialStatus.INTERRUPTED)]
)
def test_what_goes_wrong_in_a_probe_ends_the_trial_alone(folder: StudyFolder, fault: str, status: TrialStatus) -> None:
    base = {"fault": fault, "fault_above": 0.015}
    _write(
        folder, SECONDS, base=base, budget={"trials": 4}, limits={"retries": 0}, enqueue=[{"lr": 0.018, "experts": 2}]
    )
    run = folder.run()
    assert run.end() == 0, run.text
    failed = folder.record().trials[1]
    assert (failed.status, failed.params["experts"], failed.budget_tokens) == (status, 2, None)
    assert failed.result is not None and not failed.result.points


def test_stopped_in_a_probe_it_parks_and_goes_on(folder: StudyFolder) -> None:
    base = {"fault": "gate", "fault_above": 0.015}
    _write(folder, SECONDS, base=base, budget={"trials": 3}, enqueue=[{"lr": 0.018, "experts": 2}])
    run = folder.start()
    folder.wait_at_gate()
    run.signal(signal.SIGINT)
    assert run.says("stopping after the next evaluation")
    folder.open_gate()
    assert run.end() == 130, run.text
    stopped = folder.record().trials[1]
    assert stopped.result is not None and stopped.result.cause == "stopped in its probe by the user"
    again = folder.run()
    assert again.end() == 0, again.text
    repeated = next(trial for trial in folder.record().trials if trial.retry_of == 1)
    assert (repeated.status, repeated.budget_tokens) == (TrialStatus.FINISHED, BUDGET // 2)


def test_the_full_run_has_the_tokens_that_were_asked_for(folder: StudyFolder) -> None:
    _write(folder, SECONDS, base={"experts": 2}, pruner=NONE, promote={"tokens": 3 * BUDGET, "automatic": True})
    run = folder.run()
    assert run.end() == 0, run.text
    record = folder.record()
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER
    # Twice as fast as the baseline.
    assert (record.verdict.params["experts"], max(trial.budget_tokens or 0 for trial in record.trials)) == (
        1,
        2 * BUDGET,
    )
    assert record.attributes.full_run.points[-1].tokens_seen == 3 * BUDGET


# --- loss and seconds ---


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> Iterator[StudyFolder]:
    """A study by loss and seconds in which the larger rates run out of memory."""
    folder = StudyFolder(tmp_path_factory.mktemp("both"), hardware)
    space = {"lr": {"low": 0.0001, "high": 1.0, "log": True}, "experts": {"choices": [1, 2, 4]}}
    base = {"fault": "out-of-memory", "fault_above": 0.1}
    _write(folder, BOTH, space=space, base=base, pruner=NONE, budget={"trials": 20})
    run = folder.run()
    assert run.end() == 0, run.text
    yield folder
    for process in folder.living():
        process.kill()


def test_optuna_is_told_both_values_and_failures_teach(both: StudyFolder) -> None:
    record, told = both.record(), both.optuna_trials()["fake"]
    assert {trial.status for trial in record.trials} == {TrialStatus.FINISHED, TrialStatus.OUT_OF_MEMORY}
    for trial, frozen in zip(record.trials, told, strict=True):
        assert len(trial.values) == len(trial.result.points if trial.result else ())
        if trial.status is TrialStatus.FINISHED:
            assert frozen.values == pytest.approx([trial.loss, trial.params["experts"]])
        else:
            assert frozen.state is TrialState.PRUNED


def test_finalists_are_of_the_front(both: StudyFolder) -> None:
    record = both.record()
    front = pareto_front(record.trials)
    baseline = record.baseline
    assert baseline is not None
    others = [trial.number for trial in front if trial.params != baseline.params]
    assert [run.arm for run in record.finals if run.stage == "select"] == others[:2]
    assert record.verdict is not None and record.verdict.winner in others


def test_the_report_has_the_front_as_figure_table_and_twins(both: StudyFolder, tmp_path: Path) -> None:
    record = both.record()
    front = [trial.number for trial in pareto_front(record.trials)]
    html = write_report(record, tmp_path).read_text()
    assert [row["number"] for row in json.loads((tmp_path / "report.json").read_text())["front"]] == front
    assert "Quality against training time" in html and "Could not draw" not in html
    text = (tmp_path / "report.md").read_text()
    assert "## Quality against training time" in text and f"The best is trial {front[0]}, loss" in text


def test_killed_by_loss_and_seconds_it_goes_on(folder: StudyFolder) -> None:
    gate = {"fault": "gate", "fault_above": 0.015, "fault_budget": BUDGET}
    _write(folder, BOTH, base=gate, pruner=NONE, budget={"trials": 4}, enqueue=[{"lr": 0.018, "experts": 2}])
    run = folder.start()
    folder.wait_at_gate()
    wait_for(lambda: len(folder.record().trials[1].values) == 2)
    run.kill()
    folder.open_gate()
    again = folder.run()
    assert again.end() == 0, again.text
    trials = folder.record().trials
    assert [trial.status for trial in trials[:2]] == [TrialStatus.FINISHED, TrialStatus.INTERRUPTED]
    assert trials[1].result is not None and len(trials[1].result.points) == 2
    assert sum(trial.status is TrialStatus.FINISHED for trial in trials) == 4


def test_a_slower_winner_is_promoted_in_its_own_time(folder: StudyFolder) -> None:
    """Four times as slow as the default: a run that was measured to fit is not taken for one of four times as long."""
    space = {"experts": {"choices": [1, 4]}}
    _write(folder, SECONDS, space=space, pruner=NONE, budget={"trials": 2}, finals={"finalists": 0})
    assert folder.run().end() == 0
    (slower,) = [trial.number for trial in folder.record().trials if trial.params["experts"] == 4]
    run = folder.run("promote", "--trial", str(slower), "--hours", "0.02")
    assert run.end() == 0, run.text
    full = folder.record().attributes.full_run
    assert full.status == TrialStatus.FINISHED, run.text
    assert full.tokens > 400_000, "all that fits"
