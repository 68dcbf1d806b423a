"""What the trials that matter are called."""

from __future__ import annotations

import study_builder

from reports.tables.roles import named_trials


def test_a_proven_winner_is_promoted() -> None:
    assert named_trials(study_builder.study()) == {0: "default", 6: "winner, promoted, lowest single run"}


def test_a_winner_that_is_not_proven_leaves_the_default_promoted() -> None:
    verdict = study_builder.verdict("inconclusive", winner=9)
    found = named_trials(study_builder.study(verdict=verdict))
    assert found == {0: "default, promoted", 9: "winner", 6: "lowest single run"}


def test_before_the_finals_nothing_is_won_or_promoted() -> None:
    assert named_trials(study_builder.running_study()) == {0: "default", 1: "lowest single run"}
    assert named_trials(study_builder.empty_study()) == {}
