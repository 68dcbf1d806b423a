"""Our records of Optuna's trials."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_case import make_queue, make_study

from autotune.core.attributes import TrialAttributes
from autotune.store.trial_records import record_of


@pytest.mark.parametrize(
    ("seeds", "budget_tokens", "values", "seed_losses"),
    [
        (1, None, {250: 3.0, 500: 2.0}, ()),
        (1, 2_000, {500: 3.0, 1_000: 2.0}, ()),  # it reports at the tokens of a baseline of 1,000
        (3, None, {}, (3.0, 2.0)),  # of several seeds the final losses, under their count
    ],
)
def test_a_curve_has_a_trials_own_tokens_and_seeds_have_none(
    tmp_path: Path, seeds: int, budget_tokens: int | None, values: dict[int, float], seed_losses: tuple[float, ...]
) -> None:
    several = ('pruner.name="wilcoxon"', f"budget.seeds={seeds}")
    study = make_study(tmp_path, *(several if seeds > 1 else ()))
    queue = make_queue(tmp_path, study)
    assignment = queue.take()
    assert assignment is not None
    if budget_tokens is not None:
        TrialAttributes(assignment.trial).budget_tokens = budget_tokens
    for place, loss in zip((1, 2) if seeds > 1 else (250, 500), (3.0, 2.0), strict=True):
        assignment.trial.report(loss, step=place)

    record = record_of(queue.optuna_study.trials[0], study.spec.budget)
    assert (record.values, record.seed_losses) == (values, seed_losses)
