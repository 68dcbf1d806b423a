"""Other tools on the rows of recorded tables, driven by their own methods.

A tool's proposal becomes its nearest row that was not yet taken, and the tool is told the row's own settings. Only
Ray's wrapper of Optuna can be asked for rows, since it takes a sampler. None of the tools is a dependency of the
project: what is not installed is skipped, with the reason.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import random
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna
from peers import Method
from replay_device import ETA, Device, Training, first_rung
from replay_task import Task

from autotune.replay.simulation import Search
from autotune.search.dimension import Dimension

PRIOR_CONFIDENCE = "medium"
"""How much NePS's PriorBand is told to trust the default; one of its own three words."""
MODEL_AFTER = 10
"""Whole trainings' tokens after which NePS samples by its model: the figure of PriorBand's paper (Mallik 2023)."""


# Syne Tune


def syne_tune(task: Task, *, kind: str, grace: int) -> Search:
    """Simulate one of Syne Tune's schedulers of the stopping type, by its own methods.

    Args:
        task: What is searched.
        kind: A class of its baselines.
        grace: Evaluations before which nothing is stopped; 0 means the first rung.
    """
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer import baselines
    from syne_tune.optimizer.scheduler import SchedulerDecision

    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    table = task.table
    np.random.seed(task.seed)
    device, whole = Device(task), len(table.tokens)
    scheduler = getattr(baselines, kind)(
        {path: _syne_tune_domain(dimension) for path, dimension in table.spec.space.root.items()},
        metric="loss",
        time_attr="evaluation",
        max_t=whole,
        grace_period=grace or first_rung(table),
        reduction_factor=ETA,
        random_seed=task.seed,
        points_to_evaluate=[dict(task.baseline)],
    )
    for number in itertools.count():
        suggestion = scheduler.suggest()
        training = None if suggestion is None else device.begin(suggestion.config)
        if training is None:
            return device.searched()
        trial = Trial(number, dict(training.row.params), datetime.now(UTC))
        scheduler.on_trial_add(trial)
        for evaluation in range(1, whole + 1):
            loss = training.to(evaluation)
            if loss is None:
                scheduler.on_trial_error(trial)
                break
            result = {"loss": loss, "evaluation": evaluation}
            if evaluation == whole:
                scheduler.on_trial_complete(trial, result)
            elif scheduler.on_trial_result(trial, result) == SchedulerDecision.STOP:
                scheduler.on_trial_remove(trial)
                break
    raise AssertionError


def _syne_tune_domain(dimension: Dimension) -> Any:
    from syne_tune import config_space

    if dimension.choices is not None:
        return config_space.choice(list(dimension.choices))
    kind = ("log" if dimension.log else "") + ("randint" if dimension.is_integer else "uniform")
    return getattr(config_space, kind)(dimension.low, dimension.high)


# Ray Tune


def ray_tune(task: Task, *, searcher: str, grace: int, eta: int = ETA) -> Search:
    """Simulate Ray Tune's ASHA, by the scheduler's own methods.

    Args:
        task: What is searched.
        searcher: "random", or "optuna" for Ray's own wrapper of it. What that wrapper proposed is told as failed,
            and the row that was trained instead as a point evaluated.
        grace: Evaluations before which nothing is stopped; 0 means the first rung.
        eta: Reduction factor.
    """
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    device, table = Device(task), task.table
    whole = len(table.tokens)
    names = {"metric": "loss", "mode": "min"}
    scheduler = ASHAScheduler(
        time_attr="evaluation", max_t=whole, grace_period=grace or first_rung(table), reduction_factor=eta, **names
    )
    drawn = itertools.chain([task.baseline], task.random_settings())
    search = _ray_optuna(task) if searcher == "optuna" else None
    for number in map(str, itertools.count()):
        proposal = next(drawn) if search is None else search.suggest(number)
        training = device.begin(proposal)
        if training is None:
            return device.searched()
        trial, loss = SimpleNamespace(trial_id=number), None
        scheduler.on_trial_add(None, trial)
        for evaluation in range(1, whole + 1):
            reached = training.to(evaluation)
            if reached is None:
                loss = None
                scheduler.on_trial_remove(None, trial)
                break
            loss = reached
            result = {"loss": loss, "evaluation": evaluation}
            if scheduler.on_trial_result(None, trial, result) == TrialScheduler.STOP:
                scheduler.on_trial_complete(None, trial, result)
                break
        if search is not None:
            search.on_trial_complete(number, error=True)
            if loss is not None:
                search.add_evaluated_point(dict(training.row.params), loss)
    raise AssertionError


def _ray_optuna(task: Task) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = task.table.spec.space
    return OptunaSearch(
        {path: space[path].distribution() for path in space},
        metric="loss",
        mode="min",
        points_to_evaluate=[dict(task.baseline)],
        # What Ray makes by itself from a seed; it takes either.
        sampler=task.asking(optuna.samplers.TPESampler(seed=task.seed)),
    )


# NePS


def neps(task: Task, *, algorithm: str, options: Mapping[str, Any]) -> Search:
    """Simulate one of NePS's algorithms by ask and tell; trainings are put aside at rungs and go on later.

    Args:
        task: What is searched.
        algorithm: A function of its algorithms.
        options: Its arguments.
    """
    import torch
    from neps import AskAndTell, algorithms
    from neps.space import HPOInteger, SearchSpace

    for name in ("neps", "neps.optimizers.algorithms"):
        logging.getLogger(name).setLevel(logging.ERROR)
    random.seed(task.seed)
    np.random.seed(task.seed)
    torch.manual_seed(task.seed)
    torch.set_num_threads(1)
    device, table = Device(task), task.table
    spec, whole = table.spec, len(table.tokens)
    base = spec.space.defaults(spec.base)
    space: dict[str, Any] = {path: _neps_parameter(each, base[path]) for path, each in spec.space.root.items()}
    space["evaluations"] = HPOInteger(first_rung(table), whole, is_fidelity=True)
    told = AskAndTell(getattr(algorithms, algorithm)(SearchSpace(space), **options))
    trainings: dict[str, Training] = {}
    while device.has_time:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            asked = told.optimizer(told.trials, None, None)
        number = asked.id.split("_")[0]
        training = trainings.get(number) or device.begin(asked.config)
        if training is None:
            break
        trainings[number] = training
        loss = training.to(asked.config["evaluations"])
        told.tell_custom(
            config_id=asked.id,
            config={**asked.config, **training.row.params},
            result=ValueError("diverged") if loss is None else loss,
            previous_trial_id=asked.previous_config_id,
        )
    return device.searched()


def _neps_parameter(dimension: Dimension, base: Any) -> Any:
    from neps.space import HPOCategorical, HPOFloat, HPOInteger

    prior = {"prior": base, "prior_confidence": PRIOR_CONFIDENCE}
    if dimension.choices is not None:
        return HPOCategorical(list(dimension.choices), **prior)
    kind = HPOInteger if dimension.is_integer else HPOFloat
    return kind(dimension.low, dimension.high, log=dimension.log, **prior)


_MODEL = {"base": "asha", "bayesian_optimization_kick_in_point": MODEL_AFTER}
_FIRST = {"sample_prior_first": "highest_fidelity"}
SYNE_TUNE = partial(Method, package="syne_tune", ways=("nearest",))
RAY = partial(Method, package="ray")
NEPS = partial(Method, package="neps", ways=("nearest",))
TOOLS = (
    SYNE_TUNE("Syne Tune ASHA, from a tenth", partial(syne_tune, kind="ASHA", grace=0)),
    SYNE_TUNE("Syne Tune ASHA, from the first evaluation", partial(syne_tune, kind="ASHA", grace=1)),
    SYNE_TUNE("Syne Tune ASHA + CQR, from a tenth", partial(syne_tune, kind="ASHACQR", grace=0), is_slow=True),
    SYNE_TUNE("Syne Tune ASHA + BORE, from a tenth", partial(syne_tune, kind="ASHABORE", grace=0), is_slow=True),
    SYNE_TUNE("Syne Tune BOHB, from a tenth", partial(syne_tune, kind="BOHB", grace=0)),
    RAY("Ray ASHA, random, from a tenth", partial(ray_tune, searcher="random", grace=0)),
    RAY("Ray ASHA, random, as shipped", partial(ray_tune, searcher="random", grace=1, eta=4)),
    RAY("Ray ASHA, OptunaSearch, from a tenth", partial(ray_tune, searcher="optuna", grace=0)),
    NEPS("NePS ASHA", partial(neps, algorithm="asha", options=_FIRST)),
    NEPS("NePS Hyperband", partial(neps, algorithm="hyperband", options=_FIRST)),
    NEPS("NePS PriorBand", partial(neps, algorithm="priorband", options=_FIRST)),
    NEPS("NePS PriorBand + model", partial(neps, algorithm="priorband", options={**_FIRST, **_MODEL}), is_slow=True),
)


def available(methods: Sequence[Method]) -> tuple[list[Method], list[str]]:
    """Return the methods whose package can be imported, and of the other packages why not."""
    reasons: dict[str, str] = {}
    for package in sorted({method.package for method in methods if method.package}):
        try:
            importlib.import_module(package)
        except ImportError as error:
            reasons[package] = f"{package} is skipped: {error}"
    return [method for method in methods if method.package not in reasons], list(reasons.values())
