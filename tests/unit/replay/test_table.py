"""Tables of recorded trials: numbers worked by hand, what is kept, the way to a file and back."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from study_case import make_queue, make_study

from autotune.core.errors import UserError
from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.core.study_results import Plan
from autotune.replay.table import Row, Table, from_record, read, recording_changes, write
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import load

SPEED_A, SPEED_B = {"tokens_per_s": 100.0, "eval_s": 2.0}, {"tokens_per_s": 50.0, "eval_s": 4.0}


def ended(
    status: TrialStatus = TrialStatus.FINISHED, *losses: float, seconds: float = 30.0, **more: Any
) -> TrialResult:
    """A trial of 1,000 tokens with an evaluation at each half, at most as many as there are losses.

    Training takes 5 s and then 10 s, evaluating 2 s and then 4 s; 9 of 30 s are left for everything else.
    """
    grid = ((500, SPEED_A), (1_000, SPEED_B))
    points = [EvalPoint(tokens, loss, speed) for (tokens, speed), loss in zip(grid, losses, strict=False)]
    return TrialResult(status, points=tuple(points), seconds=seconds, **more)


def record_of(folder: Path, results: Sequence[TrialResult]) -> StudyRecord:
    """Stores results as a search would, the first as the baseline's, and reads the study."""
    queue = make_queue(folder, make_study(folder), target=len(results))
    queue.optuna_study.set_user_attr("plan", {"trial_s": 30.0})
    queue.optuna_study.set_user_attr("provenance", {"commit": "abc"})
    queue.optuna_study.set_user_attr("verdict_of_another_day", 1)
    queue.enqueue({"lr": 0.001}, role="baseline")
    for number in range(1, len(results)):
        queue.enqueue({"lr": (number + 1) / 1_000}, role="search")
    for result in results:
        assignment = queue.take()
        assert assignment is not None
        for point in result.points:
            if math.isfinite(point.val_loss):
                queue.report(assignment, point)
        queue.tell(assignment.trial, result, assignment.folder)
    return read_study(queue.run.root)


def table_of(folder: Path, *losses: float) -> Table:
    """A table of finished rows with such final losses; lr tells them apart, from 0.001 up."""
    return from_record(record_of(folder, [ended(TrialStatus.FINISHED, loss + 1, loss) for loss in losses]))


# --- from the stored trials ---


def test_times_are_taken_apart(tmp_path: Path) -> None:
    made = from_record(record_of(tmp_path, [ended(TrialStatus.FINISHED, 3.0, 2.0)]))
    assert made.tokens == (500, 1_000)
    [row] = made.rows
    assert (row.params, row.status, row.losses) == ({"lr": 0.001}, TrialStatus.FINISHED, (3.0, 2.0))
    # 1,000 tokens in 5 + 10 s; 2 + 4 s in two evaluations; 30 - 15 - 6 s of everything else.
    assert row.tokens_per_s == pytest.approx(1_000 / 15)
    assert row.eval_s == pytest.approx(3.0)
    assert row.set_up_s == pytest.approx(9.0)


def test_seconds_of_a_row() -> None:
    row = Row({}, TrialStatus.FINISHED, (3.0, 2.0), tokens_per_s=50.0, eval_s=3.0, set_up_s=9.0)
    assert row.seconds(500, 1) == 9 + 10 + 3
    assert row.seconds(1_000, 2) == 9 + 20 + 6


def test_a_whole_row_takes_as_long_as_its_trial(tmp_path: Path) -> None:
    [row] = from_record(record_of(tmp_path, [ended(TrialStatus.FINISHED, 3.0, 2.0)])).rows
    assert row.seconds(1_000, 2) == pytest.approx(30.0)


@pytest.mark.parametrize(
    ("metrics", "tokens_per_s", "eval_s"),
    [({}, 1_000 / 30, 0.0), ({"eval_s": 5.0}, 1_000 / 20, 5.0), ({"tokens_per_s": 0.0}, 1_000 / 30, 0.0)],
    ids=["nothing", "evaluations alone", "a speed of 0"],
)
def test_a_trainer_that_tells_no_speed_spent_all_of_its_time_in_training(
    tmp_path: Path, metrics: dict[str, float], tokens_per_s: float, eval_s: float
) -> None:
    points = (EvalPoint(500, 3.0, metrics), EvalPoint(1_000, 2.0, metrics))
    made = from_record(record_of(tmp_path, [TrialResult(TrialStatus.FINISHED, points=points, seconds=30.0)]))
    [row] = made.rows
    assert row.tokens_per_s == pytest.approx(tokens_per_s)
    assert (row.eval_s, row.set_up_s) == (eval_s, 0.0)
    assert row.seconds(1_000, 2) == pytest.approx(30.0)


def test_a_speed_that_is_told_only_once_counts_as_none(tmp_path: Path) -> None:
    points = (EvalPoint(500, 3.0), EvalPoint(1_000, 2.0, SPEED_B))
    [row] = from_record(record_of(tmp_path, [TrialResult(TrialStatus.FINISHED, points=points, seconds=24.0)])).rows
    assert row.tokens_per_s == pytest.approx(1_000 / (24 - 4))
    assert (row.eval_s, row.set_up_s) == (2.0, 0.0)


def test_a_clock_that_disagrees_makes_no_negative_time(tmp_path: Path) -> None:
    [row] = from_record(record_of(tmp_path, [ended(TrialStatus.FINISHED, 3.0, 2.0, seconds=1.0)])).rows
    assert row.set_up_s == 0.0


def test_trials_that_were_cut_short_from_outside_are_left_out(tmp_path: Path) -> None:
    results = [
        ended(TrialStatus.FINISHED, 3.0, 2.0),
        ended(TrialStatus.PRUNED, 4.0),
        ended(TrialStatus.CRASHED, 4.0),
        ended(TrialStatus.INTERRUPTED, 4.0, worker_died=True),
        ended(TrialStatus.OUT_OF_MEMORY, 4.0),
        ended(TrialStatus.OUT_OF_MEMORY),
        ended(TrialStatus.FINISHED, 3.0, 1.0),
    ]
    kept = [(row.status, row.losses) for row in from_record(record_of(tmp_path, results)).rows]
    assert kept == [
        (TrialStatus.FINISHED, (3.0, 2.0)),
        (TrialStatus.OUT_OF_MEMORY, (4.0,)),
        (TrialStatus.FINISHED, (3.0, 1.0)),
    ]


def test_a_study_in_which_nothing_finished_makes_no_table(tmp_path: Path) -> None:
    record = record_of(tmp_path, [ended(TrialStatus.DIVERGED, 3.0, math.nan), ended(TrialStatus.PRUNED, 3.0)])
    with pytest.raises(UserError) as caught:
        from_record(record)
    assert str(caught.value) == "night: no trial finished, so there is nothing to make a table of"
    assert caught.value.exit_code == 2


def test_what_it_was_recorded_with_is_kept_and_nothing_else(tmp_path: Path) -> None:
    record = record_of(tmp_path, [ended(TrialStatus.FINISHED, 3.0, 2.0)])
    made = from_record(record)
    assert made.provenance == {"plan": Plan(trial_s=30.0).to_json(), "provenance": {"commit": "abc"}}
    assert made.spec == record.spec


# --- diverged ---


def test_a_diverged_row_keeps_its_shorter_curve_and_is_not_finished(tmp_path: Path) -> None:
    results = [ended(TrialStatus.FINISHED, 3.0, 2.0), ended(TrialStatus.DIVERGED, math.nan)]
    made = from_record(record_of(tmp_path, results))
    row = made.rows[1]
    assert row.status is TrialStatus.DIVERGED
    assert len(row.losses) == 1 and math.isnan(row.losses[0])
    # 500 tokens in 5 s, one evaluation of 2 s, and 23 of 30 s for the rest.
    assert (row.tokens_per_s, row.eval_s, row.set_up_s) == (100.0, 2.0, 23.0)
    assert made.finished() == [made.rows[0]]


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_loss_that_is_no_number_survives_the_file(tmp_path: Path, loss: float) -> None:
    row = Row({"lr": 0.1}, TrialStatus.DIVERGED, (3.0, loss), 100.0, 1.0, 2.0)
    made = table_of(tmp_path, 2.0)
    write(Table(made.spec, made.provenance, made.tokens, (*made.rows, row)), tmp_path / "table.json")
    # Plain JSON: other readers know no NaN.
    json.loads((tmp_path / "table.json").read_text(), parse_constant=pytest.fail)
    again = read(tmp_path / "table.json").rows[1]
    assert again.status is TrialStatus.DIVERGED
    assert again.losses[0] == 3.0 and len(again.losses) == 2 and not math.isfinite(again.losses[1])


# --- the file ---


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    made = table_of(tmp_path, 2.5, 2.25, 2.75)
    rows = tuple(
        Row({"lr": index / 8}, TrialStatus.FINISHED, row.losses, 100.5, 3.25, 9.0)
        for index, row in enumerate(made.rows)
    )
    before = Table(made.spec, made.provenance, made.tokens, rows)
    write(before, tmp_path / "table.json")
    assert read(tmp_path / "table.json") == before
    write(read(tmp_path / "table.json"), tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "table.json").read_bytes()


def test_figures_are_rounded_and_settings_are_not(tmp_path: Path) -> None:
    made = table_of(tmp_path, 2.0)
    row = Row(
        {"lr": 0.1234567890123}, TrialStatus.FINISHED, (3.12345678, -4.987654321e-7), 123456.7, 0.1234567, 7.654321
    )
    write(Table(made.spec, made.provenance, made.tokens, (row,)), tmp_path / "table.json")
    [again] = read(tmp_path / "table.json").rows
    assert again.params == {"lr": 0.1234567890123}
    assert again.losses == (3.123457, -4.987654e-07)
    assert (again.tokens_per_s, again.eval_s, again.set_up_s) == (123460.0, 0.12346, 7.6543)


def test_one_row_a_line(tmp_path: Path) -> None:
    write(table_of(tmp_path, 2.0, 2.5, 3.0), tmp_path / "table.json")
    lines = (tmp_path / "table.json").read_text().splitlines()
    assert [line.startswith("{") and '"params"' in line for line in lines] == [False, True, True, True, False]
    assert json.loads(lines[1].rstrip(","))["params"] == {"lr": 0.001}


def test_a_missing_table_is_told_with_the_way_to_one(tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: no such table; `autotune record STUDY` writes one"
    assert caught.value.exit_code == 2


def test_a_table_of_another_format_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "table.json"
    write(table_of(tmp_path, 2.0), path)
    content = json.loads(path.read_text())
    assert content["format"] == 1
    path.write_text(json.dumps({**content, "format": 2}))
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value) == f"{path}: this table was written by another version of the program; record it again"


@pytest.mark.parametrize(
    "content",
    [b"", b"not json", b"[1, 2]", b'"text"', b"null", b"{}", b'{"format": 1}', b"\xff\xfe"],
    ids=["empty", "text", "list", "string", "null", "no keys", "no rows", "not UTF-8"],
)
def test_any_other_file_is_no_table(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: not a table of `autotune record`: ")


@pytest.mark.parametrize("change", [{"status": "excellent"}, {"colour": 1}, {"losses": None}])
def test_a_row_that_is_none_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "table.json"
    write(table_of(tmp_path, 2.0), path)
    content = json.loads(path.read_text())
    content["rows"][0] |= change
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match="not a table of `autotune record`: "):
        read(path)


# --- spread over the ranks ---


@pytest.fixture
def ranked(tmp_path: Path) -> Table:
    """Six finished rows and a diverged one; by loss the lr are 0.004, 0.001, 0.006, 0.002, 0.005, 0.003."""
    losses = (2.25, 2.75, 3.25, 2.0, 3.0, 2.5)
    results = [ended(TrialStatus.FINISHED, loss + 1, loss) for loss in losses]
    return from_record(record_of(tmp_path, [*results, ended(TrialStatus.DIVERGED, math.nan)]))


def test_finished_rows_are_ranked(ranked: Table) -> None:
    assert len(ranked.rows) == 7
    assert [row.losses[-1] for row in ranked.finished()] == [2.0, 2.25, 2.5, 2.75, 3.0, 3.25]


@pytest.mark.parametrize(
    ("count", "lrs"),
    [
        (2, [0.004, 0.003]),
        (3, [0.004, 0.006, 0.003]),  # ranks 0, 2.5 and 5; Python rounds 2.5 to 2
        (4, [0.004, 0.006, 0.002, 0.003]),  # ranks 0, 1.67, 3.33 and 5
        (6, [0.004, 0.001, 0.006, 0.002, 0.005, 0.003]),
    ],
)
def test_rows_are_picked_at_even_steps_of_rank(ranked: Table, count: int, lrs: list[float]) -> None:
    assert [row.params["lr"] for row in ranked.spread(count)] == lrs


@pytest.mark.parametrize("count", [0, 1, 7, 300])
def test_more_rows_than_finished_or_fewer_than_both_ends_are_refused(ranked: Table, count: int) -> None:
    with pytest.raises(UserError) as caught:
        ranked.spread(count)
    assert str(caught.value) == f"{count} rows were asked for, and the table has 6 that finished; ask for 2 to 6"


# --- a study that records ---


def test_a_recording_study_trains_all_of_a_low_discrepancy_set_and_proves_nothing(tmp_path: Path) -> None:
    study = make_study(tmp_path)
    spec = study.spec
    changes = recording_changes(study, 40, 20, [])
    made = load(tmp_path / "night.toml", changes).spec
    assert made.name == "night-table-1000"
    assert (made.sampler.name, made.sampler.options) == ("qmc", {"scramble": True})
    assert (made.pruner.name, made.finals.runs, made.promote.automatic) == ("none", 0, False)
    assert (made.budget.trials, made.budget.tokens, made.enqueue) == (40, 1_000, ())
    assert (made.space, made.seed) == (spec.space, spec.seed)
    assert made.base == {**spec.base, "data": {**spec.base["data"], "num_evals": 20}}


def test_rows_are_queued_as_they_are(tmp_path: Path) -> None:
    rows = [{"lr": 0.0123456789012345, "output.dir": 'a "b"'}, {"lr": 0.05, "output.dir": ""}]
    study = make_study(tmp_path, space='lr = {low = 0.0001, high = 0.1}\n"output.dir" = {choices = ["", "a \\"b\\""]}')
    made = load(tmp_path / "night.toml", recording_changes(study, 3, 20, rows)).spec
    assert list(made.enqueue) == rows
    assert made.name == "night-rows-1000", "not the study of the table that they may be from"
    assert made.budget.trials == 3


def test_a_table_is_recorded_at_equal_tokens(tmp_path: Path) -> None:
    seconds = make_study(tmp_path, 'objective="loss_at_equal_seconds"')
    with pytest.raises(UserError, match="a table holds losses at equal tokens; add --set") as caught:
        recording_changes(seconds, 40, 20, [])
    mended = str(caught.value).split("'")[1]
    assert recording_changes(make_study(tmp_path, mended), 40, 20, [])


def test_a_recording_study_is_one_of_its_own_for_each_length(tmp_path: Path) -> None:
    study = make_study(tmp_path, "budget.tokens=2_000")
    assert 'name="night-table-2000"' in recording_changes(study, 40, 20, [])


def test_evaluations_are_set_where_the_trainer_has_them(tmp_path: Path) -> None:
    with_them = make_study(tmp_path)
    base = {key: value for key, value in with_them.spec.base.items() if key != "data"}
    without = replace(with_them, spec=with_them.spec.model_copy(update={"base": base}))
    assert "base.data.num_evals=17" in recording_changes(with_them, 40, 17, [])
    assert not [change for change in recording_changes(without, 40, 17, []) if "num_evals" in change]


def test_a_folder_is_no_table(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read(tmp_path)
