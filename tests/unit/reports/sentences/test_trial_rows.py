"""Every trial as a row of words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import study_builder

from reports.sentences import trial_rows as rows_of
from reports.sentences.trial_rows import trial_rows


def test_trials_are_rows_of_words_best_first() -> None:
    found = trial_rows(study_builder.study())
    assert found.heads[:7] == ("trial", "what it is", "status", "loss", "last loss", "seconds", "tokens/s")
    assert found.heads[7:] == tuple(study_builder.SPACE)
    assert [row.number for row in found.rows] == [6, 9, 1, 10, 0, 3, 2, 4, 5, 7, 8, 11]

    names = "winner, promoted, lowest single run"
    assert found.rows[0].cells == ("6", names, "finished", "4.6000", "4.6000", "200.0", "5", "0.05", "0.05", "16", "1")
    pruned = found.rows[6].cells
    assert pruned[:5] == ("2", "–", "pruned", "–", "6.1000")
    assert [row.number for row in found.pair] == [0, 6]


def test_a_log_is_linked_only_where_it_is_and_lies_in_the_study(tmp_path: Path) -> None:
    (tmp_path / "trials/0006").mkdir(parents=True)
    (tmp_path / "trials/0006/log.txt").write_text("said")
    (tmp_path / "log.txt").write_text("said")
    trials = list(study_builder.search_trials())
    for number, path in ((9, "../log.txt"), (1, "javascript:alert(1)"), (3, "log.txt")):
        result = trials[number].result
        assert result is not None
        trials[number] = replace(trials[number], result=replace(result, log=path))

    run = study_builder.FinishedDirectory(tmp_path)
    found = trial_rows(study_builder.study(run=run, trials=tuple(trials)))
    assert {row.number: row.log for row in found.rows if row.log} == {6: "../trials/0006/log.txt"}


def test_a_page_has_room_for_so_many_and_nothing_to_compare_before_two_have_ended(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_of, "MOST_ROWS", 5)
    found = trial_rows(study_builder.study())
    assert (len(found.rows), found.left_out) == (5, 7)
    assert [row.number for row in found.pair] == [0, 6], "though the default has no row of its own"

    empty = trial_rows(study_builder.empty_study())
    assert (empty.rows, empty.pair) == ((), ())
