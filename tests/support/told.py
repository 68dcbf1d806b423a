"""What is stored of a study's ended trials, to be compared before and after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial

from autotune.store.database import open_storage
from autotune.store.mirror import Manifest, Mirror
from autotune.store.run_directory import RunDirectory

Told = dict[str, dict[int, tuple[Any, ...]]]
"""Of each Optuna study (search, finals, full run), what is stored of its ended trials, by number."""


def optuna_trials(run: RunDirectory, url: str = "") -> dict[str, list[FrozenTrial]]:
    """Returns Optuna's own trials of every study in a storage, by its name."""
    opened = open_storage(run, url)
    try:
        names = optuna.get_all_study_names(opened)
        return {name: opened.get_all_trials(opened.get_study_id_from_name(name)) for name in names}
    finally:
        opened.remove_session()
        opened.engine.dispose()


def told(run: RunDirectory) -> Told:
    """Returns what a run directory holds."""
    if not run.database.exists():
        return {}
    return {
        name: {trial.number: _stored(trial) for trial in trials if trial.state.is_finished()}
        for name, trials in optuna_trials(run).items()
    }


def _stored(trial: FrozenTrial) -> tuple[Any, ...]:
    return trial.state, tuple(trial.values or ()), tuple(sorted(trial.params.items())), trial.datetime_complete


def told_in(mirror: Mirror, manifest: Manifest, folder: Path) -> Told:
    """Returns what a snapshot holds, restored into a folder."""
    mirror.restore(manifest, folder)
    return told(RunDirectory(folder))


def count(trials: Told) -> int:
    """Returns how many trials ended."""
    return sum(map(len, trials.values()))


def includes(trials: Told, part: Told) -> bool:
    """Whether all of a part is there, unchanged."""
    return all(name in trials and ended.items() <= trials[name].items() for name, ended in part.items())
