"""The figures as Markdown, worked out by hand."""

from __future__ import annotations

from peers import RANDOM, REFERENCE
from recorded_tables import row, table
from replay_figures import Cell, Outcome
from replay_report import by_table, describe, leave_one_out, over_tables

from autotune.core.records import TrialStatus
from autotune.replay.simulation import Search


def cell(*trainings: float | None, budget: float = 16.0) -> Cell:
    """Searches that get to the best loss of 2 after so many trainings of 10 s, or never; all begin at 3."""
    searches = [
        Search((10.0,), (3.0,)) if count is None else Search((10.0, 10.0 * count), (3.0, 2.0)) for count in trainings
    ]
    return Cell(2.0, 10.0, budget, tuple(Outcome(search, 0.25) for search in searches))


CELLS = {
    "one": {
        "ours": cell(2.0, 2.0),
        "other": cell(8.0, None),
        REFERENCE.name: cell(4.0, 4.0),
        RANDOM.name: cell(9.0, 9.0),
    },
    "two": {
        "ours": cell(4.0, 16.0),
        "other": cell(2.0, 2.0),
        REFERENCE.name: cell(8.0, 8.0),
        RANDOM.name: cell(4.0, None),
    },
}


def test_over_tables_by_hand() -> None:
    lines = over_tables(CELLS)
    assert lines[0] == "Within 0.5 % of the best:"
    assert lines[4:8] == [
        # 4/2 and 8/8; the median of 4 and 16 is 10, and the root of 2 times 10 is 4.5.
        "| ours | 1.41 (1.00-2.00) | two 1.00 | 0 of 2 | 100% | 4.5 |",
        # 4/11.3 and 8/2: two searches of 8 and 16 trainings are 11.3.
        "| other | 1.19 (0.35-4.00) | one 0.35 | 1 of 2 | 75% | 4.9 |",
        f"| {REFERENCE.name} | 1.00 (1.00-1.00) | one 1.00 | 0 of 2 | 100% | 5.7 |",
        f"| {RANDOM.name} | 0.67 (0.44-1.00) | one 0.44 | 0 of 2 | 75% | 9.5 |",
    ]
    assert [line for line in lines if line.startswith("Within")] == [
        "Within 0.5 % of the best:",
        "Within 1 % of the best:",
        "Within 5 % of the best:",
    ]


def test_tables_one_by_one() -> None:
    lines = by_table({"one": {"ours": cell(2.0, 4.0, None), "other": cell(0.5, budget=5.0)}})
    assert lines[0] == (
        "| table | method | to 0.5 % | to 1 % | to 5 % | after 5 | after 10 | after 20 | after 40 | thinking |"
    )
    assert lines[2:] == [
        "| one | ours | 4.0 (67%) | 4.0 (67%) | 4.0 (67%) | 0.00% | 0.00% | - | - | 0.250 s |",
        "| one | other | 0.5 (100%) | 0.5 (100%) | 0.5 (100%) | 0.00% | - | - | - | 0.250 s |",
        "",
    ]


def test_a_choice_on_the_other_tables_is_told_beside_the_best_one() -> None:
    lines = leave_one_out(CELLS, ["ours", "other"])
    # On two, ours takes 8 trainings and the other 2; on one, ours takes 2 and the other 11.3.
    assert lines[0] == (
        "Chosen on the other tables, within 0.5 % of the best: 0.59 times as fast (95 % interval 0.35-1.00)."
    )
    assert lines[4:6] == ["| one | other | 0.35 | ours | 2.00 |", "| two | ours | 1.00 | other | 4.00 |"]


def test_what_a_table_holds() -> None:
    losses = (2.0, 2.01, 2.02, 2.1, 3.0)
    rows = [row({"lr": 0.1}, (4.0, loss)) for loss in losses] + [row({"lr": 1.0}, (9.0,), TrialStatus.DIVERGED)]
    assert describe("night", table(rows)) == (
        "- night: 6 rows, 5 finished, 2 evaluations each; best loss 2.0000, median 2.0200; rows within 0.5 %, 1 %, 5 % "
        "of the best: 2, 3, 4; a whole training takes 14 s of device time"
    )
