"""Many searches on many tables, several at once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from datetime import datetime
from functools import cache
from pathlib import Path
from time import perf_counter

import optuna
from peers import Method
from replay_figures import WITHIN_FRACS, Cell, Outcome
from replay_task import Default, Task, Way, with_default

from autotune.replay import arms
from autotune.replay.table import Table, read

Cells = dict[str, dict[str, Cell]]
"""By table and method."""


@cache
def table_at(path: Path) -> Table:
    """Return a table; each process reads it once.

    Args:
        path: Its file.

    Raises:
        UserError: If it is none.
    """
    return read(path)


def get_ready() -> None:
    """Import what samplers import when they are first asked, which is no part of the time that they think."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for module in ("torch", "optuna._gp.gp", "optuna._gp.acqf", "optuna._gp.optim_mixed", "scipy.optimize"):
        importlib.import_module(module)


def run(
    executor: Executor,
    tables: Mapping[str, Path],
    methods: Sequence[Method],
    *,
    way: Way,
    default: Default,
    repeats: int,
    trainings: float,
) -> Cells:
    """Run the searches of all methods on all tables, and say how each method did.

    Args:
        executor: Runs searches, in processes that `get_ready` has prepared.
        tables: Paths by name.
        methods: Those that can propose in this way.
        way: How proposals become rows.
        default: What is trained first.
        repeats: Searches of each method on each table; their seeds are 0, 1, ...
        trainings: Device time of a search, in whole trainings.
    """
    pending = {
        (name, method.name): [
            executor.submit(_outcome, path, method, way, default, seed, trainings) for seed in range(repeats)
        ]
        for name, path in tables.items()
        for method in methods
    }

    cells: Cells = {name: {} for name in tables}
    try:
        for (name, method_name), searches in pending.items():
            table = table_at(tables[name])
            outcomes = tuple(search.result() for search in searches)
            cell = Cell(table.finished()[0].losses[-1], arms.trial_s(table), trainings, outcomes)
            cells[name][method_name] = cell

            found = f"{WITHIN_FRACS[0]:.1%} found by {cell.found_frac(WITHIN_FRACS[0]):.0%}"
            print(f"{datetime.now():%H:%M:%S} {way}, {default} default, {name}: {method_name}: {found}", flush=True)
    except BaseException:
        executor.shutdown(cancel_futures=True)
        raise

    return cells


def _outcome(path: Path, method: Method, way: Way, default: Default, seed: int, trainings: float) -> Outcome:
    table = with_default(table_at(path), default, seed)
    task = Task(table, seed, trainings * arms.trial_s(table), way)

    started_s = perf_counter()
    search = method.search(task)
    return Outcome(search, (perf_counter() - started_s) / max(1, task.num_taken))
