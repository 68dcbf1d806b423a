"""A study of the fake trainer in a folder, for tests that store and read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna

from autotune.core.files import write_json
from autotune.core.records import EvalPoint, TrainingKind, TrialResult, TrialStatus
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import open_study
from autotune.study.study_file import Study, load

TEXT = """
name = "night"
trainer = "fake_trainer:train"

[budget]
tokens = 1_000
trials = 3
"""


def make_study(folder: Path, *changes: str, space: str = "lr = {low = 0.0001, high = 0.1, log = true}") -> Study:
    """Writes and loads the study file."""
    path = folder / "night.toml"
    path.write_text(f"{TEXT}\n[space]\n{space}\n")
    return load(path, changes)


def make_queue(folder: Path, study: Study, seed: int = 1, **plan: Any) -> Queue:
    """Opens the study's search as a new process would, and freezes its spec; `plan` are fields of a TrainingPlan."""
    run = RunDirectory(folder / "runs" / study.spec.name)
    storage = open_storage(run)
    write_json(run.spec, study.spec.model_dump(mode="json"))
    sampler = optuna.samplers.RandomSampler(seed=seed)
    optuna_study = open_study(storage, study, sampler, optuna.pruners.NopPruner())
    of_a_search = {
        "kind": TrainingKind.SEARCH,
        "budget_tokens": study.spec.budget.tokens,
        "target": 3,
        "seeds": study.spec.budget.seeds,
    }
    return Queue(TrainingPlan(**(of_a_search | plan)), TrialStore(optuna_study, storage, run, study))


def result(status: TrialStatus = TrialStatus.FINISHED, loss: float = 2.0, **changes: Any) -> TrialResult:
    """A result with two points."""
    return TrialResult(status, points=(EvalPoint(500, loss + 1), EvalPoint(1_000, loss)), **changes)
