"""How much each setting tells the best trials from the rest."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import optuna
import pandas as pd

from autotune.store.study_record import StudyRecord
from reports.formats import finite

# With fewer finished trials the ranking of settings is mostly chance.
_MIN_IMPORTANCE_TRIALS = 15

# PED-ANOVA compares the best trials with all of them; fewer than this many "best" would be noise.
_MIN_TOP_TRIALS = 5


class TooFewTrialsError(Exception):
    """An analysis that these trials cannot carry; the message is for the reader."""


def importance_table(record: StudyRecord) -> pd.DataFrame:
    """Return how much each setting tells the best trials from the rest.

    Args:
        record: The study.

    Returns:
        Columns path and importance_frac (they add up to 1), largest first.
        Source: PED-ANOVA, Watanabe et al. 2023, as optuna.importance has it.

    Raises:
        TooFewTrialsError: If the trials cannot carry it.
    """
    study = _rebuilt(record)
    done = len(study.trials)
    if done < _MIN_IMPORTANCE_TRIALS:
        raise TooFewTrialsError(f"it needs {_MIN_IMPORTANCE_TRIALS} finished trials, and there are {done}")
    if len({trial.value for trial in study.trials}) < 2:
        raise TooFewTrialsError("every trial has the same loss")

    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=max(0.1, _MIN_TOP_TRIALS / done))
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)

    table: pd.DataFrame = pd.DataFrame(list(shares.items()), columns=["path", "importance_frac"]).astype(
        {"importance_frac": float}
    )
    table = table.loc[np.isfinite(table["importance_frac"])].reset_index(drop=True)
    if not table["importance_frac"].any():
        raise TooFewTrialsError("no setting was varied in every trial")

    return table


def _rebuilt(record: StudyRecord) -> optuna.Study:
    """Rebuild the study in memory from its finished trials, with the distributions of its space."""
    space = record.spec.space
    with _quiet():
        study = optuna.create_study(direction="minimize")

    for trial in record.trials:
        loss = finite(trial.loss)
        if loss is None:
            continue

        searched = {path: trial.params[path] for path in space if path in trial.params}
        # Settings that were set by hand can lie outside the space.
        if not all(space[path].contains(value) for path, value in searched.items()):
            continue

        fixed = optuna.trial.FixedTrial(searched)
        # ValueError: a setting is missing, which settings that were set by hand can cause as well.
        with contextlib.suppress(ValueError):
            space.suggest(fixed, record.spec.base)  # type: ignore[arg-type]
            rebuilt = optuna.trial.create_trial(params=fixed.params, distributions=fixed.distributions, value=loss)
            study.add_trial(rebuilt)

    return study


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
