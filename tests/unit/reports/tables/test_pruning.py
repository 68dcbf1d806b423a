from dataclasses import replace
from typing import Any

import pytest
import study_builder

from autotune.core.metric import TEXT_LOSS
from autotune.core.records import TrialRecord
from autotune.store.study_record import StudyRecord
from reports.tables.pruning import pruning_audit


def test_pruning_audit_compares_the_first_rung_with_the_end(night: StudyRecord) -> None:
    audit = pruning_audit(night)

    assert audit is not None
    assert audit.rung_words(TEXT_LOSS) == "500 tokens"
    assert dict(zip(audit.table["number"], audit.table["rung_loss"], strict=True)) == {
        0: 5.5, 1: 5.4, 3: 5.6, 6: 5.2, 9: 5.3, 10: 5.35,
    }  # fmt: skip
    # Ranks differ for trials 1 and 10 alone, by one each: 1 - 6 * 2 / (6 * 35).
    assert audit.spearman == pytest.approx(1 - 12 / 210)
    assert (audit.best_quarter, audit.at_risk) == (1, 0)
    # Two trials of 50 s stopped half way would have gone on for 50 s each.
    assert (audit.pruned, audit.saved_s) == (2, pytest.approx(100.0))


def several_seeds(number: int, status: str, *losses: float, **changes: Any) -> TrialRecord:
    """A trial whose seeds, of 4, came to these losses; its result has the mean curve of those trained."""
    mean = sum(losses) / len(losses)
    made = study_builder.trial(
        number, status, [6.0, 5.5, 5.2, mean], study_builder.settings(0.02, 0.0, 8, 1), 25.0 * len(losses), **changes
    )
    return replace(made, seed_losses=losses)


def test_trials_of_several_seeds_are_audited_by_their_seeds() -> None:
    """The Wilcoxon test stops a trial between two seeds: each seed that was trained was trained to its end."""
    budget = {"tokens": study_builder.BUDGET_TOKENS, "trials": 12, "seeds": 4}
    spec = study_builder.spec(budget=budget, pruner={"name": "wilcoxon"})
    trials = (
        several_seeds(0, "finished", 5.0, 5.0, 5.0, 5.0, role="baseline"),
        several_seeds(1, "finished", 4.8, 4.6, 4.5, 4.5),
        several_seeds(2, "pruned", 5.5, 5.7, stopped_at=1000),
        several_seeds(3, "finished", 5.4, 5.4, 4.2, 4.2, audited_at=1000),
        several_seeds(4, "finished", 4.9, 4.9, 4.9, 4.9),
    )
    audit = pruning_audit(study_builder.study(spec=spec, trials=trials))

    assert audit is not None
    assert audit.rung_words(TEXT_LOSS) == "2 of 4 seeds"
    # After two seeds, and the mean of all four.
    assert [list(row) for row in audit.table.to_numpy()] == [
        [0, 5.0, 5.0], [1, pytest.approx(4.7), pytest.approx(4.6)], [3, pytest.approx(5.4), pytest.approx(4.8)],
        [4, pytest.approx(4.9), pytest.approx(4.9)],
    ]  # fmt: skip
    # Two seeds took 50 s, and two more would have taken as long.
    assert (audit.pruned, audit.saved_s) == (1, pytest.approx(50.0))
    assert (audit.audited, audit.audited_good) == (1, 0)
    assert audit.lost is not None


def test_a_good_trial_that_was_behind_early_is_at_risk() -> None:
    late = study_builder.trial(0, "finished", [6.0, 5.9, 5.0, 4.0], study_builder.settings(0.02, 0.0, 8, 1))
    rest = [
        study_builder.trial(number, "finished", [6.0, 5.0, 5.0, 4.5 + number / 10], late.params)
        for number in range(1, 5)
    ]
    audit = pruning_audit(study_builder.study(trials=(late, *rest)))

    assert audit is not None
    assert audit.rung_words(TEXT_LOSS) == "500 tokens", (
        "the first evaluation past 30 % of the budget where nothing was pruned"
    )
    assert (audit.best_quarter, audit.at_risk) == (1, 1)


def test_audited_trials_tell_how_many_good_ones_were_stopped() -> None:
    """Eight finish, the best quarter is two of them, and one of the four audits is among these."""
    params = study_builder.settings(0.02, 0.0, 8, 1)
    trials = [
        replace(
            study_builder.trial(number, "finished", [6.0, 5.0, 4.9, 4.0 + number / 10], params),
            audited_at=500 if number in (1, 4, 5, 6) else None,
        )
        for number in range(8)
    ]
    trials += [
        replace(study_builder.trial(number, "pruned", [6.0, 5.5], params), stopped_at=500) for number in range(8, 28)
    ]
    audit = pruning_audit(study_builder.study(trials=tuple(trials)))

    assert audit is not None
    assert (audit.pruned, audit.audited, audit.audited_good) == (20, 4, 1)
    # Clopper and Pearson for 1 of 4, from their tables: 0.0063 to 0.8059.
    assert audit.lost == pytest.approx((5.0, 0.126, 16.12), abs=0.01)


def test_without_an_audit_nothing_is_said_of_lost_trials(night: StudyRecord) -> None:
    audit = pruning_audit(night)
    assert audit is not None and audit.pruned and audit.lost is None


def test_pruning_audit_needs_finished_trials() -> None:
    assert pruning_audit(study_builder.failed_study()) is None
    assert pruning_audit(study_builder.empty_study()) is None


def test_rank_correlation_needs_trials_that_differ() -> None:
    same = [
        study_builder.trial(number, "finished", [6.0, 5.0, 5.0, 4.5], study_builder.settings(0.02, 0.0, 8, 1))
        for number in range(5)
    ]
    audit = pruning_audit(study_builder.study(trials=tuple(same)))

    assert audit is not None and audit.spearman is None
