"""`autotune record`: settings that are all trained to the end, as a table; settings to try first; no finals."""

from __future__ import annotations

import json
import math
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from study_folder import STUDY, Run, StudyFolder, is_over, wait_for

from autotune.core.records import TrialStatus, VerdictWord
from autotune.replay.table import Table, read
from autotune.store.run_directory import RunDirectory

TOKENS = STUDY["budget"]["tokens"]
BASELINE_LR = STUDY["base"]["lr"]
LOW, HIGH = STUDY["space"]["lr"]["low"], STUDY["space"]["lr"]["high"]
# The first 2^k points of a scrambled Sobol sequence lie in cells of their own.
DRAWN = 8
# Stops some of so few trials as well.
PRUNER = {"name": "successive_halving"}
RECORD = ("record", "--trials", str(DRAWN + 1))
NewFolder = Callable[[str], "RecordFolder"]


class RecordFolder(StudyFolder):
    """A study folder whose run directory is that of the recording study."""

    def directory(self, out: str = "runs") -> RunDirectory:
        """Returns the run directory of the recording study."""
        return self.directory_of(TOKENS, out=out)

    def directory_of(self, tokens: int, kind: str = "table", out: str = "runs") -> RunDirectory:
        """Returns it for another length of the trials, or for rows of another table."""
        return RunDirectory(self.root / out / f"fake-{kind}-{tokens}")

    @property
    def table(self) -> Path:
        """The file of the table."""
        return self.directory().root / "table.json"

    def trained(self) -> Counter[float]:
        """Returns how many trainings began with each lr."""
        return Counter(training.lr for training in self.started())


@pytest.fixture(scope="module")
def new_folder(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> Iterator[NewFolder]:
    """Makes folders; processes that a failed test leaves in one are killed."""
    made = []

    def make(name: str) -> RecordFolder:
        folder = RecordFolder(tmp_path_factory.mktemp(name), hardware)
        folder.write(pruner=PRUNER)
        made.append(folder)
        return folder

    yield make
    for folder in made:
        for process in folder.living():
            process.kill()


@pytest.fixture(scope="module")
def recorded(new_folder: NewFolder) -> RecordFolder:
    """A study that was recorded without an interruption; to be looked at."""
    folder = new_folder("recorded")
    run = folder.run(*RECORD)
    assert run.end() == 0, run.text
    assert f"table of {DRAWN + 1} trials: runs/fake-table-{TOKENS}/table.json" in run.text
    return folder


def lrs(table: Table) -> list[float]:
    return [row.params["lr"] for row in table.rows]


# --- what is recorded ---


def test_every_row_is_trained_to_the_end_and_the_baseline_comes_first(recorded: RecordFolder) -> None:
    table = read(recorded.table)
    assert len(table.rows) == DRAWN + 1
    assert {row.status for row in table.rows} == {TrialStatus.FINISHED}
    assert table.tokens == tuple(range(5_000, 100_001, 5_000))  # 20 evaluations, as asked for
    assert {len(row.losses) for row in table.rows} == {20}
    assert lrs(table)[0] == BASELINE_LR
    assert set(table.provenance) == {"plan", "provenance"}


def test_the_table_says_what_the_database_says(recorded: RecordFolder) -> None:
    table, record = read(recorded.table), recorded.record()
    assert table.spec == record.spec
    assert [trial.role for trial in record.trials] == ["baseline"] + ["search"] * DRAWN
    for row, trial in zip(table.rows, record.trials, strict=True):
        assert trial.result is not None
        assert row.params == trial.params
        assert row.losses == pytest.approx([point.val_loss for point in trial.result.points], rel=1e-6)
        assert row.seconds(TOKENS, 20) == pytest.approx(trial.result.seconds, rel=1e-3)


def test_the_study_files_own_pruner_is_not_asked(new_folder: NewFolder, recorded: RecordFolder) -> None:
    """The same study, when it is run, does stop trials."""
    assert recorded.record().spec.pruner.name == "none"
    assert TrialStatus.PRUNED not in {trial.status for trial in recorded.record().trials}
    plain = StudyFolder(new_folder("pruned").root, json.loads(recorded.directory().hardware.read_text()))
    run = plain.write(pruner=PRUNER, finals={"finalists": 0}, budget={"trials": DRAWN + 1}).run()
    assert run.end() == 0, run.text
    assert TrialStatus.PRUNED in {trial.status for trial in plain.record().trials}


@pytest.mark.parametrize(
    "tables",
    [
        {"pruner": {"name": "median", "n_startup_trials": 4}},
        {"pruner": PRUNER, "sampler": {"name": "tpe", "n_startup_trials": 2}},
    ],
    ids=["pruner", "sampler"],
)
def test_options_of_the_study_files_own_pruner_and_sampler_do_not_matter(
    new_folder: NewFolder, tables: dict[str, Any]
) -> None:
    folder = new_folder("options")
    folder.write(**tables)
    run = folder.run("record", "--trials", "2")
    assert run.end() == 0, run.text
    assert len(read(folder.table).rows) == 2


def test_rows_are_spread_over_the_range(recorded: RecordFolder) -> None:
    """One in each eighth of the range, by logarithm, so that no gap is wider than two eighths."""
    drawn = lrs(read(recorded.table))[1:]
    positions = sorted(math.log(lr / LOW) / math.log(HIGH / LOW) for lr in drawn)
    assert [int(position * DRAWN) for position in positions] == list(range(DRAWN))
    gaps = [after - before for before, after in zip([0.0, *positions], [*positions, 1.0], strict=True)]
    assert max(gaps) <= 2 / DRAWN


def test_nothing_is_proved(recorded: RecordFolder) -> None:
    record = recorded.record()
    assert record.finals == ()
    assert record.verdict is not None and record.verdict.word is VerdictWord.INCONCLUSIVE
    assert list(recorded.optuna_trials()) == [f"fake-table-{TOKENS}"]
    assert record.attributes.full_run is None
    assert set(recorded.trained().values()) == {1}


def test_recorded_again_nothing_is_trained(recorded: RecordFolder) -> None:
    before, trained = recorded.table.read_bytes(), recorded.trained()
    again = recorded.run(*RECORD)
    assert again.end() == 0, again.text
    assert (recorded.table.read_bytes(), recorded.trained()) == (before, trained)


# --- interrupted ---


@pytest.mark.parametrize("above", [0.0, 0.005], ids=["the baseline", "a later one"])
def test_killed_in_the_midst_of_a_training_the_rows_are_the_same(
    new_folder: NewFolder, recorded: RecordFolder, above: float
) -> None:
    folder = new_folder("killed")
    gate = {"fault": "gate", "fault_budget": TOKENS, "fault_above": above}
    run = folder.write(pruner=PRUNER, base=gate).start(*RECORD)
    folder.wait_at_gate()
    run.kill()
    assert not folder.table.exists()
    folder.open_gate()
    _assert_as_if_never_killed(folder, recorded, kills=1)


@pytest.mark.thorough
def test_killed_again_and_again_the_rows_are_the_same(new_folder: NewFolder, recorded: RecordFolder) -> None:
    folder = new_folder("killed-often")
    folder.write(pruner=PRUNER, base={"seconds": 0.8})
    for kill in range(1, 4):
        # Not forked, since forks of one order sets of texts alike.
        run = folder.start(*RECORD, plainly=True)
        # Two trials of each run come to an end, and the kill strikes the third.
        _wait_for_trial_after(folder, run, finished=2 * kill)
        run.kill()
    _assert_as_if_never_killed(folder, recorded, kills=3)


def _wait_for_trial_after(folder: RecordFolder, run: Run, finished: int) -> None:
    """Waits until so many trials have finished and a further one has begun to report."""

    def is_there() -> bool:
        begun = [path.parent for path in folder.directory().root.glob("trials/*/metrics.jsonl")]
        ended = [path / "result.json" for path in begun if (path / "result.json").exists()]
        statuses = [json.loads(path.read_text())["status"] for path in ended]
        return statuses.count("finished") >= finished and len(begun) > len(ended)

    wait_for(lambda: is_there() or run.process.poll() is not None)
    assert run.process.poll() is None, run.text


def _assert_as_if_never_killed(folder: RecordFolder, recorded: RecordFolder, kills: int) -> None:
    run = folder.run(*RECORD)
    assert run.end() == 0, run.text
    folder.wait_until_empty()
    table, whole = read(folder.table), read(recorded.table)
    assert lrs(table) == lrs(whole)
    assert [row.losses for row in table.rows] == [row.losses for row in whole.rows]
    statuses = Counter(trial.status for trial in folder.record().trials)
    assert statuses == {TrialStatus.FINISHED: DRAWN + 1, TrialStatus.INTERRUPTED: kills}
    assert sum(folder.trained().values()) == DRAWN + 1 + kills
    assert is_over(folder.optuna_trials())


def test_parked_before_anything_finished_there_is_no_table(new_folder: NewFolder) -> None:
    folder = new_folder("parked")
    folder.write(pruner=PRUNER, base={"fault": "gate", "fault_budget": TOKENS})
    run = _parked_at_the_gate(folder)
    assert run.end() == 130, run.text
    assert "Traceback" not in run.text and "rows:" not in run.text
    assert not folder.table.exists()
    folder.wait_until_empty()
    again = folder.run("record", "--trials", "3")
    assert again.end() == 0, again.text
    assert len(read(folder.table).rows) == 3


def test_parked_later_the_table_has_what_finished(new_folder: NewFolder, recorded: RecordFolder) -> None:
    folder = new_folder("parked-later")
    gate = {"fault": "gate", "fault_budget": TOKENS, "fault_above": 0.005}
    run = _parked_at_the_gate(folder.write(pruner=PRUNER, base=gate))
    assert run.end() == 130, run.text
    found = lrs(read(folder.table))
    assert found == lrs(read(recorded.table))[: len(found)]
    assert 1 <= len(found) < DRAWN + 1 and max(found) <= 0.005


def _parked_at_the_gate(folder: StudyFolder) -> Run:
    run = folder.start(*RECORD)
    folder.wait_at_gate()
    run.signal(signal.SIGINT)
    folder.open_gate()
    return run


# --- rows of a table, at another length ---


def test_rows_of_a_table_are_trained_again_at_another_length(new_folder: NewFolder, recorded: RecordFolder) -> None:
    tokens = 2 * TOKENS
    folder = new_folder("rows")
    place = folder.directory_of(tokens, "rows")
    place.root.mkdir(parents=True)
    folder.place_hardware()
    place.hardware.write_bytes(folder.directory().hardware.read_bytes())
    options = ("--rows", str(recorded.table), "--trials", "3", "--tokens", str(tokens))
    run = folder.run("record", *options)
    assert run.end() == 0, run.text
    old, new = read(recorded.table), read(place.root / "table.json")
    spread = [row.params["lr"] for row in old.spread(3)]
    wanted = [lr for lr in spread if lr != BASELINE_LR]
    assert len(wanted) == 2  # the baseline, which begins every study, is one of the rows
    assert lrs(new) == [BASELINE_LR, *wanted]
    assert new.tokens == tuple(range(10_000, 200_001, 10_000))
    assert (new.spec.budget.tokens, new.spec.budget.trials) == (tokens, 3)
    assert [(training.lr, training.tokens) for training in folder.started()] == [
        (lr, tokens) for lr in [BASELINE_LR, *wanted]
    ]
    assert not folder.table.exists()
    again = folder.run("record", *options)
    assert again.end() == 0, again.text
    assert len(folder.started()) == 3


def test_too_many_rows_are_refused_before_anything_is_made(new_folder: NewFolder, recorded: RecordFolder) -> None:
    folder = new_folder("too-many")
    run = folder.run("record", "--rows", str(recorded.table), "--trials", "99", "--tokens", "200000")
    assert run.end() == 2
    assert run.text == (
        f"99 rows were asked for, and the table has {DRAWN + 1} that finished; ask for 2 to {DRAWN + 1}\n"
    )
    assert not folder.directory_of(200_000, "rows").root.exists()


# --- settings to try first, and no finals ---


def test_settings_to_try_first_come_right_after_the_baseline_and_once(folder: StudyFolder) -> None:
    first = [0.03, 0.5]
    tables: dict[str, Any] = {
        "budget": {"trials": 5},
        "enqueue": [{"lr": lr} for lr in first],
        "finals": {"finalists": 0},
        "pruner": {"name": "none"},
    }
    gate = {"fault": "gate", "fault_budget": TOKENS, "fault_above": 0.02}
    run = folder.write(**tables, base=gate).start()
    folder.wait_at_gate()
    # It stands in the first of them; both are there by now.
    run.kill()
    folder.open_gate()
    for _ in range(2):
        again = folder.run()
        assert again.end() == 0, again.text
    counted = [trial for trial in folder.record().trials if trial.status is not TrialStatus.INTERRUPTED]
    assert len(counted) == 5
    assert [trial.params["lr"] for trial in counted[:1]] == [BASELINE_LR]
    tried = Counter(trial.params["lr"] for trial in counted)
    assert [tried[lr] for lr in first] == [1, 1] and set(tried.values()) == {1}
    started = [training.lr for training in folder.started()]
    # The killed one comes again after the other, which was queued before it was killed.
    assert started[:4] == [BASELINE_LR, first[0], first[1], first[0]]
    assert len(started) == 6


def test_settings_left_out_are_proposed(folder: StudyFolder) -> None:
    space = {"lr": {"low": LOW, "high": HIGH, "log": True}, "layers": {"low": 1, "high": 100}}
    folder.write(space=space, enqueue=[{"layers": 77}], budget={"trials": 2}, finals={"finalists": 0})
    run = folder.run()
    assert run.end() == 0, run.text
    baseline, tried = folder.record().trials
    assert baseline.params == {"lr": BASELINE_LR, "layers": 2}
    assert tried.params["layers"] == 77
    assert tried.params["lr"] != BASELINE_LR and LOW <= tried.params["lr"] <= HIGH


def test_without_finalists_there_is_a_verdict_without_finals(folder: StudyFolder) -> None:
    run = folder.write(budget={"trials": 3}, finals={"finalists": 0}).run()
    assert run.end() == 0, run.text
    record = folder.record()
    assert record.verdict is not None
    assert record.verdict.word is VerdictWord.INCONCLUSIVE
    assert record.verdict.reason == "nothing was proved on fresh seeds, since finals.finalists is 0"
    finished = [trial for trial in record.trials if trial.loss is not None]
    best = min(finished, key=lambda trial: trial.loss or math.inf)
    assert (record.verdict.winner, record.verdict.params) == (best.number, best.params)
    assert record.finals == () and list(folder.optuna_trials()) == ["fake"]
    assert len(folder.started()) == 3
    assert "final runs" not in run.text
