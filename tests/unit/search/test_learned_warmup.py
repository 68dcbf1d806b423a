"""The pruner that waits until early rankings agree with the final one."""

from __future__ import annotations

import numpy as np
import optuna

from autotune.core.attributes import TrialAttributes
from autotune.search.learned_warmup import MIN_UNBIASED_TRIALS, LearnedWarmup


def curves_of(*columns: list[float]) -> list[dict[int, float]]:
    """Curves from their columns at 100, 200, ... tokens."""
    return [{100 * (place + 1): loss for place, loss in enumerate(row)} for row in zip(*columns, strict=True)]


BUDGET = 400
# At 100 tokens the order is wrong, from 200 on it is the final one.
ORDER = np.arange(MIN_UNBIASED_TRIALS) / 10
CURVES = curves_of(*([*(start + order)] for start, order in ((4, ORDER[::-1]), (3, ORDER), (2, ORDER), (1, ORDER))))


def finish(study: optuna.Study, curve: dict[int, float], **attributes: int) -> None:
    trial = study.ask()
    for name, value in attributes.items():
        trial.set_user_attr(name, value)
    for tokens, loss in curve.items():
        trial.report(loss, tokens)
    study.tell(trial, curve[BUDGET])


def learning() -> optuna.Study:
    """A study that waits for 300 tokens until it knows better."""
    return optuna.create_study(pruner=LearnedWarmup(optuna.pruners.MedianPruner(n_startup_trials=1), 300))


def judged(study: optuna.Study, loss: float = 9.0) -> list[bool]:
    trial = study.ask()
    decisions: list[bool] = []
    for tokens in (100, 200, 300):
        trial.report(loss, tokens)
        decisions.append(trial.should_prune())
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return decisions


def test_nothing_is_stopped_before_the_rankings_agree() -> None:
    study = learning()
    assert judged(study) == [False, False, False], "nothing to compare with"
    for curve in CURVES[:-1]:
        finish(study, curve)
    assert judged(study) == [False, False, True], "too few trials to learn from"
    finish(study, CURVES[-1])
    assert judged(study) == [False, True, True]
    assert judged(study, loss=0.5) == [False, False, False], "better than the median"


def test_survivors_of_the_pruner_teach_it_nothing_but_audits_do() -> None:
    study = learning()
    for curve in CURVES:
        finish(study, curve)
    stopped = study.ask()
    stopped.report(9.0, 200)
    TrialAttributes(stopped).stopped_at = 200
    study.tell(stopped, state=optuna.trial.TrialState.PRUNED)
    upside_down = curves_of(*[[5.0, 1.0, 6.0, 0.5, 7.0]] * 3, [0.1, 1.35, 0.05, 1.5, 0.01]) * 3
    for curve in upside_down:
        finish(study, curve)
    assert judged(study) == [False, True, True]
    for curve in upside_down:
        finish(study, curve, audited_at=200)
    assert judged(study) == [False, False, False]


def test_a_diverged_trial_does_not_end_the_learning() -> None:
    """It is told to Optuna as pruned like those that a pruner stopped, but no pruner chose it."""
    study = learning()
    finish(study, CURVES[0])
    diverged = study.ask()
    diverged.report(50.0, 100)
    study.tell(diverged, state=optuna.trial.TrialState.PRUNED)
    for curve in CURVES[1:]:
        finish(study, curve)
    assert judged(study) == [False, True, True]


def test_a_second_study_is_not_judged_by_the_first_ones_curves() -> None:
    """It has as many, whose ranks agree from the first evaluation on."""
    study = learning()
    for curve in CURVES:
        finish(study, curve)
    assert judged(study) == [False, True, True]

    other = optuna.create_study(pruner=study.pruner)
    for curve in curves_of(*([*(start + ORDER)] for start in (4, 3, 2, 1))):
        finish(other, curve)
    assert judged(other) == [True, True, True]
    assert judged(study) == [False, True, True]
