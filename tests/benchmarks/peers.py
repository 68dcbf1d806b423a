"""Ways to search that need nothing but the engine and Optuna, on recorded tables with one account of device time.

Each method is a function of a `Task` that gives a `Search`, as the engine's own replay does. Every method begins with
the default, which the engine and most tools can be told. Tools that need other packages are in `peer_tools`.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import optuna
from replay_device import Device, Training, first_rung
from replay_prior import search_with_prior
from replay_task import Task, Way

from autotune.replay import simulation
from autotune.replay.simulation import Search
from autotune.search.pruners import build_pruner
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec


@dataclass(frozen=True)
class Method:
    """A way to search.

    Args:
        name: For a person.
        search: Simulates one.
        package: What has to be installed, by its name in an import; empty for what always is.
        is_slow: Whether it thinks for a minute or more in each search.
        ways: How its proposals can become rows.
    """

    name: str
    search: Callable[[Task], Search]
    package: str = ""
    is_slow: bool = False
    ways: tuple[Way, ...] = ("nearest", "pool")


def engine_search(task: Task, *, sampler: SamplerSpec, pruner: PrunerSpec) -> Search:
    """Simulate the engine's own search.

    Args:
        task: What is searched.
        sampler: As in a study file.
        pruner: As in a study file.
    """
    study, spec = simulation.new_study(task.table, sampler, pruner, task.seed)
    study.sampler = task.asking(study.sampler)
    return simulation.search(study, spec, task.table, task.rows, task.budget_s)


def optuna_search(task: Task, *, sampler: str, pruner: str, options: Mapping[str, Any] | None = None) -> Search:
    """Simulate Optuna with a sampler's own defaults.

    Args:
        task: What is searched.
        sampler: Optuna's class.
        pruner: A name of a study file. The rungs of bandits are the engine's, a ninth and a third, since Optuna's
            own default would be a first rung of one token.
        options: Parameters of the pruner.
    """
    table = task.table
    spec = table.spec.model_copy(update={"pruner": PrunerSpec(name=pruner, audit_frac=0, **(options or {}))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            study_name=f"{spec.name}-{task.seed}",
            sampler=task.asking(getattr(optuna.samplers, sampler)(seed=task.seed)),
            pruner=build_pruner(pruner, options or {}, spec.budget.tokens),
        )
    return simulation.search(study, spec, table, task.rows, task.budget_s)


def top_of_first_rung(task: Task, *, settings: int = 27, kept: int = 3) -> Search:
    """Simulate rounds of random settings trained to a first rung, of which the best are trained to the end.

    Args:
        task: What is searched.
        settings: In each round.
        kept: Best of a round that go on.
    """
    device, proposals = Device(task), task.random_settings()
    rung, whole = first_rung(task.table), len(task.table.tokens)

    baseline = device.begin(task.baseline)
    if baseline is not None:
        baseline.to(whole)

    rows_are_left = True
    while rows_are_left and device.has_time:
        reached: list[tuple[float, Training]] = []
        for params in itertools.islice(proposals, settings):
            training = device.begin(params)
            if training is None:
                rows_are_left = False
                break
            loss = training.to(rung)
            if loss is not None:
                reached.append((loss, training))
        for _, training in sorted(reached, key=lambda pair: pair[0])[:kept]:
            training.to(whole)
    return device.searched()


def ours(name: str, sampler: str = "", pruner: str = "") -> Method:
    """Return the engine's search with its defaults, or with another sampler or pruner of its own.

    Args:
        name: For a person.
        sampler: A name of a study file.
        pruner: A name of a study file.
    """
    specs = {
        "sampler": SamplerSpec(name=sampler) if sampler else SamplerSpec(),
        "pruner": PrunerSpec(name=pruner) if pruner else PrunerSpec(),
    }
    return Method(name, partial(engine_search, **specs))


OURS = ours("ours")
MEDIAN_AS_SHIPPED = {"n_startup_trials": 5, "n_warmup_steps": 0}
RANDOM = Method("random, no pruner", partial(optuna_search, sampler="RandomSampler", pruner="none"))
"""What any method has to beat."""
REFERENCE = Method(
    "TPE + MedianPruner as Optuna ships them",
    partial(optuna_search, sampler="TPESampler", pruner="median", options=MEDIAN_AS_SHIPPED),
)
"""What ratios are of."""
OTHERS = (
    ours("ours, TPE instead", sampler="tpe"),
    ours("ours, nothing pruned", pruner="none"),
    Method("ours, a prior around the default", search_with_prior),
    Method("TPE, no pruner", partial(optuna_search, sampler="TPESampler", pruner="none")),
    Method("TPE + Hyperband", partial(optuna_search, sampler="TPESampler", pruner="hyperband")),
    Method("TPE + successive halving", partial(optuna_search, sampler="TPESampler", pruner="successive_halving")),
    Method("GP, no pruner", partial(optuna_search, sampler="GPSampler", pruner="none")),
    Method(
        "GP + MedianPruner as Optuna ships it",
        partial(optuna_search, sampler="GPSampler", pruner="median", options=MEDIAN_AS_SHIPPED),
    ),
    Method("top 3 of 27 random after a ninth", top_of_first_rung),
)
