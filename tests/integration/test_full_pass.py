"""One pass through a whole study, and what is done to a study that is complete."""

from __future__ import annotations

import json
import time
import tomllib
import warnings
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import optuna_dashboard
from optuna.trial import TrialState
from study_folder import STUDY, StudyFolder, is_over, wait_for

from autotune.core.files import read_lines
from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, VerdictWord
from autotune.store.run_directory import RunDirectory


def test_search_prunes_and_begins_with_the_baseline(finished: StudyFolder) -> None:
    trials = finished.record().trials
    assert len(trials) == STUDY["budget"]["trials"]
    assert (trials[0].role, trials[0].params, trials[0].status) == ("baseline", {"lr": 0.001}, TrialStatus.FINISHED)
    assert {trial.role for trial in trials[1:]} == {"search"}
    assert {trial.status for trial in trials} == {TrialStatus.FINISHED, TrialStatus.PRUNED}
    assert {trial.seed for trial in trials} == {1}
    states = {TrialStatus.FINISHED: TrialState.COMPLETE, TrialStatus.PRUNED: TrialState.PRUNED}
    told = finished.optuna_trials()
    assert is_over(told)
    assert [trial.state for trial in told["fake"]] == [states[trial.status] for trial in trials]


def test_finals_prove_the_planted_gain_on_fresh_seeds(finished: StudyFolder) -> None:
    record = finished.record()
    runs = [(run.arm, run.seed, run.stage) for run in record.finals]
    assert len(runs) == len(set(runs)) == 2 + 2 * 2
    select, prove = ({run.seed for run in record.finals if run.stage == stage} for stage in ("select", "prove"))
    assert len(select) == 1 and len(prove) == 2
    assert not select & prove and 1 not in select | prove
    verdict = record.verdict
    assert verdict is not None and verdict.word is VerdictWord.BETTER
    assert verdict.gain is not None and verdict.gain > 0.5
    assert set(verdict.seeds) == prove


def test_best_config_and_full_run(finished: StudyFolder) -> None:
    record = finished.record()
    assert record.verdict is not None
    best = tomllib.loads(record.run.best_config.read_text())
    assert best["config"]["lr"] == record.verdict.params["lr"]
    assert best["provenance"]["word"] == "better" and best["tokens"] == 200_000
    full = record.attributes.full_run
    assert (full.status, full.trial, full.tokens) == ("finished", record.verdict.winner, 200_000)
    assert full.points[-1].tokens_seen == 200_000


def test_stored_records_agree_with_the_files(finished: StudyFolder) -> None:
    record = finished.record()
    for queue, trials in (("trials", record.trials), ("finals", record.finals)):
        for trial in trials:
            _agrees(trial, record.run, record.run.trial(queue, trial.number))


def _agrees(trial: TrialRecord, run: RunDirectory, folder: Path) -> None:
    assert trial.result is not None
    assert TrialResult.from_json(json.loads((folder / "result.json").read_text())) == trial.result
    config = json.loads((folder / "config.json").read_text())
    assert config == trial.result.config
    assert (config["lr"], config["seed"]) == (trial.params["lr"], trial.seed)
    lines = [EvalPoint.from_json(line) for line in read_lines(folder / "metrics.jsonl")]
    assert tuple(lines) == trial.result.points
    assert {point.tokens_seen: point.val_loss for point in lines} == dict(trial.values)
    assert run.root / trial.result.log == folder / "log.txt"
    assert "training with lr" in (folder / "log.txt").read_text()


def test_every_training_was_counted_once(finished: StudyFolder) -> None:
    record = finished.record()
    expected = [(trial.seed, trial.params["lr"], 100_000) for trial in (*record.trials, *record.finals)]
    assert record.verdict is not None
    expected.append((1, record.verdict.params["lr"], 200_000))
    assert sorted((seed, lr, tokens) for _, seed, lr, tokens in finished.started()) == sorted(expected)
    finished.wait_until_empty()


def test_complete_study_is_left_alone(copy: StudyFolder) -> None:
    before, trainings = copy.record(), (copy.root / "log" / "started.txt").read_text()
    run = copy.run()
    after = copy.record()
    assert run.end() == 0, run.text
    assert (after.trials, after.finals, after.verdict) == (before.trials, before.finals, before.verdict)
    assert after.attributes.full_run == before.attributes.full_run
    assert (copy.root / "log" / "started.txt").read_text() == trainings


def test_larger_budget_extends_a_complete_study(copy: StudyFolder) -> None:
    before = copy.record()
    run = copy.run("--trials", "10")
    after = copy.record()
    assert run.end() == 0, run.text
    assert after.trials[:8] == before.trials and len(after.trials) == 10
    assert after.verdict is not None and after.verdict.word is VerdictWord.BETTER
    runs = [(run.arm, run.seed, run.stage) for run in after.finals]
    assert len(runs) == len(set(runs)) and after.finals[:6] == before.finals


def test_dashboard_opens_the_database(finished: StudyFolder) -> None:
    assert {"fake", "fake.finals"} <= set(_dashboard_names(finished))


def test_dashboard_opens_the_database_of_a_run(folder: StudyFolder) -> None:
    run = folder.write(base={"seconds": 0.1}).start()
    wait_for(folder.started)
    while run.process.poll() is None:
        time.sleep(0.05)
        assert "fake" in _dashboard_names(folder)
    assert run.end() == 0, run.text
    assert len(folder.record().trials) == STUDY["budget"]["trials"]


def _dashboard_names(folder: StudyFolder) -> list[str]:
    """Asks optuna-dashboard's own WSGI application for the studies."""
    answered: list[str] = []
    request: dict[str, Any] = {"PATH_INFO": "/api/studies"}
    setup_testing_defaults(request)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the dashboard's own
        app: Any = optuna_dashboard.wsgi(f"sqlite:///{folder.directory().database}")
        body = b"".join(app(request, lambda status, headers, fault=None: answered.append(status)))
    assert answered[0].startswith("200"), answered
    return [study["study_name"] for study in json.loads(body)["study_summaries"]]
