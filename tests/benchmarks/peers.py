"""Other ways to search, and other tools, on the rows of a recorded table with the same account of device time.

Each method is a function of a table, a seed and a device time that gives a `Search`, as the engine's own replay does.
A tool's proposal becomes its nearest row that was not yet taken, and the tool is told the row's own settings. There
is one simulated device: a training pays its set-up once, then the time of its tokens and of each evaluation; one that
was put aside and goes on later pays nothing for that. Every method begins with the baseline. Times in which a tool
thinks are not counted.

None of the tools is a dependency of the project: what is not installed is skipped, with the reason.
"""

from __future__ import annotations

import importlib
import itertools
import logging
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna

from autotune.core.records import TrialStatus
from autotune.replay import simulation
from autotune.replay.simulation import Search
from autotune.replay.sources import Rows
from autotune.replay.table import Row, Table
from autotune.search.dimension import Dimension
from autotune.search.pruners import build_pruner
from autotune.study.algorithm_spec import PrunerSpec
from autotune.study.spec import StudySpec

ETA = 3
"""Reduction factor of all methods with rungs; each tool's own default or advice, but for Ray's 4."""
FIRST_RUNG_FRAC = 1 / ETA**2
PRIOR_CONFIDENCE = "medium"
"""How much NePS's PriorBand is told to trust the baseline; one of its own three words."""
MODEL_AFTER = 10
"""Whole trainings' tokens after which NePS samples by its model: the figure of PriorBand's paper (Mallik 2023)."""


@dataclass(frozen=True)
class Method:
    """A way to search.

    Args:
        name: For a person.
        search: Simulates one, from a table, a seed and the device time after which nothing begins.
        package: What has to be installed, by its name in an import; empty for what always is.
        is_slow: Whether it thinks for a minute or more in each search.
    """

    name: str
    search: Callable[[Table, int, float], Search]
    package: str = ""
    is_slow: bool = False


class Device:
    """One simulated device and the account of its time.

    Args:
        table: What trainings measure.
        budget_s: Device time after which nothing begins.
    """

    def __init__(self, table: Table, budget_s: float) -> None:
        self.table = table
        self.now_s = 0.0
        self._budget_s = budget_s
        self._rows = Rows(table)
        self._finished: list[tuple[float, float]] = []

    @property
    def has_time(self) -> bool:
        """Whether something may still begin."""
        return self.now_s < self._budget_s

    def begin(self, params: Mapping[str, Any]) -> Training | None:
        """Takes the nearest row left; None when there is none or the time is over."""
        row = self._rows.take(params) if self.has_time else None
        return None if row is None else Training(self, row)

    def finish(self, loss: float) -> None:
        """Notes that a training has now come to its end."""
        self._finished.append((self.now_s, loss))

    def searched(self) -> Search:
        """Returns the trainings that came to their end, in order."""
        return Search(*(tuple(column) for column in zip(*self._finished, strict=True))) if self._finished else NOTHING


NOTHING = Search((), ())


class Training:
    """A row on its way.

    Args:
        device: Whose time it takes.
        row: What it measures.
    """

    def __init__(self, device: Device, row: Row) -> None:
        self.row = row
        self._device = device
        self._evaluations = 0
        whole = len(device.table.tokens)
        broken = next((index for index, loss in enumerate(row.losses, 1) if not math.isfinite(loss)), 0)
        self._last = broken or max(1, len(row.losses))
        self._finishes = row.status is TrialStatus.FINISHED and not broken and self._last == whole

    def to(self, evaluations: int) -> float | None:
        """Trains on to an evaluation and returns the loss there; None when the training has broken off by then."""
        goal = min(evaluations, self._last)
        if goal > self._evaluations:
            self._device.now_s += self._seconds(goal) - self._seconds(self._evaluations)
            self._evaluations = goal
            if goal == self._last and self._finishes:
                self._device.finish(self.row.losses[-1])
        if evaluations < self._last or self._finishes:
            return self.row.losses[goal - 1]
        return None

    def _seconds(self, evaluations: int) -> float:
        tokens = self._device.table.tokens[evaluations - 1]
        return self.row.seconds(tokens, evaluations) if evaluations else 0.0


def first_rung(table: Table) -> int:
    """Returns the evaluation nearest to a ninth of a whole training."""
    wanted = table.tokens[-1] * FIRST_RUNG_FRAC
    return min(range(1, len(table.tokens) + 1), key=lambda evaluation: abs(table.tokens[evaluation - 1] - wanted))


def baseline_of(spec: StudySpec) -> dict[str, Any]:
    """Returns the settings of the study's baseline."""
    return dict(spec.space.baseline(spec.base))


def random_settings(spec: StudySpec, seed: int) -> Iterator[dict[str, Any]]:
    """Yields settings drawn at random, without end."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    while True:
        trial = study.ask()
        yield dict(spec.space.suggest(trial, spec.base))
        study.tell(trial, state=optuna.trial.TrialState.FAIL)


# Optuna as it ships


def optuna_search(
    table: Table, seed: int, budget_s: float, *, sampler: str, pruner: str, options: Mapping[str, Any] | None = None
) -> Search:
    """Simulates Optuna with a sampler's own defaults.

    Args:
        table: The table.
        seed: Of the sampler.
        budget_s: Device time after which no trial begins.
        sampler: Optuna's class.
        pruner: A name of a study file. The rungs of bandits are the engine's, a ninth and a third, since Optuna's
            own default would be a first rung of one token.
        options: Parameters of the pruner.
    """
    spec = table.spec.model_copy(update={"pruner": PrunerSpec(name=pruner, audit_frac=0, **(options or {}))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            study_name=f"{spec.name}-{seed}",
            sampler=getattr(optuna.samplers, sampler)(seed=seed),
            pruner=build_pruner(pruner, options or {}, spec.budget.tokens),
        )
    return simulation.search(study, spec, table, Rows(table), budget_s)


# Top k after a first rung


def top_of_first_rung(table: Table, seed: int, budget_s: float, *, settings: int = 27, kept: int = 3) -> Search:
    """Simulates rounds of random settings trained to a first rung, of which the best are trained to the end.

    Args:
        table: The table.
        seed: Of the settings.
        budget_s: Device time after which no training begins.
        settings: In each round.
        kept: Best of a round that go on.
    """
    device, proposals = Device(table, budget_s), random_settings(table.spec, seed)
    rung, whole = first_rung(table), len(table.tokens)
    baseline = device.begin(baseline_of(table.spec))
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


# Syne Tune


def syne_tune(table: Table, seed: int, budget_s: float, *, kind: str, grace: int) -> Search:
    """Simulates one of Syne Tune's schedulers of the stopping type, by its own methods.

    Args:
        table: The table.
        seed: Of the scheduler.
        budget_s: Device time after which no trial begins.
        kind: A class of its baselines.
        grace: Evaluations before which nothing is stopped; 0 means the first rung.
    """
    from syne_tune.backend.trial_status import Trial
    from syne_tune.optimizer import baselines
    from syne_tune.optimizer.scheduler import SchedulerDecision

    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    np.random.seed(seed)
    device, whole = Device(table, budget_s), len(table.tokens)
    scheduler = getattr(baselines, kind)(
        {path: _syne_tune_domain(dimension) for path, dimension in table.spec.space.root.items()},
        metric="loss",
        time_attr="evaluation",
        max_t=whole,
        grace_period=grace or first_rung(table),
        reduction_factor=ETA,
        random_seed=seed,
        points_to_evaluate=[baseline_of(table.spec)],
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


def ray_tune(table: Table, seed: int, budget_s: float, *, searcher: str, grace: int, eta: int = ETA) -> Search:
    """Simulates Ray Tune's ASHA, by the scheduler's own methods.

    Args:
        table: The table.
        seed: Of the searcher.
        budget_s: Device time after which no trial begins.
        searcher: "random", or "optuna" for Ray's own wrapper of it. What that wrapper proposed is told as failed,
            and the row that was trained instead as a point evaluated.
        grace: Evaluations before which nothing is stopped; 0 means the first rung.
        eta: Reduction factor.
    """
    from ray.tune.schedulers import ASHAScheduler, TrialScheduler

    device, whole, spec = Device(table, budget_s), len(table.tokens), table.spec
    names = {"metric": "loss", "mode": "min"}
    scheduler = ASHAScheduler(
        time_attr="evaluation", max_t=whole, grace_period=grace or first_rung(table), reduction_factor=eta, **names
    )
    drawn = itertools.chain([baseline_of(spec)], random_settings(spec, seed))
    search = _ray_optuna(spec, seed) if searcher == "optuna" else None
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


def _ray_optuna(spec: StudySpec, seed: int) -> Any:
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space = {path: _optuna_distribution(dimension) for path, dimension in spec.space.root.items()}
    return OptunaSearch(space, metric="loss", mode="min", points_to_evaluate=[baseline_of(spec)], seed=seed)


def _optuna_distribution(dimension: Dimension) -> optuna.distributions.BaseDistribution:
    if dimension.choices is not None:
        return optuna.distributions.CategoricalDistribution(dimension.choices)
    if dimension.is_integer:
        return optuna.distributions.IntDistribution(dimension.low, dimension.high, log=dimension.log)
    return optuna.distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log)


# NePS


def neps(table: Table, seed: int, budget_s: float, *, algorithm: str, options: Mapping[str, Any]) -> Search:
    """Simulates one of NePS's algorithms by ask and tell; trainings are put aside at rungs and go on later.

    Args:
        table: The table.
        seed: Of all the random numbers that it may use.
        budget_s: Device time after which nothing goes on.
        algorithm: A function of its algorithms.
        options: Its arguments.
    """
    import torch
    from neps import AskAndTell, algorithms
    from neps.space import HPOInteger, SearchSpace

    for name in ("neps", "neps.optimizers.algorithms"):
        logging.getLogger(name).setLevel(logging.ERROR)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    device, spec, whole = Device(table, budget_s), table.spec, len(table.tokens)
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


# All of them

MEDIAN_AS_SHIPPED = {"n_startup_trials": 5, "n_warmup_steps": 0}
OPTUNA = (
    Method("random, no pruner", partial(optuna_search, sampler="RandomSampler", pruner="none")),
    Method("TPE, no pruner", partial(optuna_search, sampler="TPESampler", pruner="none")),
    Method(
        "TPE + MedianPruner as Optuna ships them",
        partial(optuna_search, sampler="TPESampler", pruner="median", options=MEDIAN_AS_SHIPPED),
    ),
    Method("TPE + Hyperband", partial(optuna_search, sampler="TPESampler", pruner="hyperband")),
    Method("TPE + successive halving", partial(optuna_search, sampler="TPESampler", pruner="successive_halving")),
    Method("GP, no pruner", partial(optuna_search, sampler="GPSampler", pruner="none")),
    Method(
        "GP + MedianPruner as Optuna ships it",
        partial(optuna_search, sampler="GPSampler", pruner="median", options=MEDIAN_AS_SHIPPED),
    ),
    Method("top 3 of 27 random after a ninth", top_of_first_rung),
)
"""What needs nothing but Optuna."""
_MODEL = {"base": "asha", "bayesian_optimization_kick_in_point": MODEL_AFTER}
_FIRST = {"sample_prior_first": "highest_fidelity"}
TOOLS = (
    Method("Syne Tune ASHA, from a tenth", partial(syne_tune, kind="ASHA", grace=0), "syne_tune"),
    Method("Syne Tune ASHA, from the first evaluation", partial(syne_tune, kind="ASHA", grace=1), "syne_tune"),
    Method("Syne Tune ASHA + CQR, from a tenth", partial(syne_tune, kind="ASHACQR", grace=0), "syne_tune", True),
    Method("Syne Tune ASHA + BORE, from a tenth", partial(syne_tune, kind="ASHABORE", grace=0), "syne_tune", True),
    Method("Syne Tune BOHB, from a tenth", partial(syne_tune, kind="BOHB", grace=0), "syne_tune"),
    Method("Ray ASHA, random, from a tenth", partial(ray_tune, searcher="random", grace=0), "ray"),
    Method("Ray ASHA, random, as shipped", partial(ray_tune, searcher="random", grace=1, eta=4), "ray"),
    Method("Ray ASHA, OptunaSearch, from a tenth", partial(ray_tune, searcher="optuna", grace=0), "ray"),
    Method("NePS ASHA", partial(neps, algorithm="asha", options=_FIRST), "neps"),
    Method("NePS Hyperband", partial(neps, algorithm="hyperband", options=_FIRST), "neps"),
    Method("NePS PriorBand", partial(neps, algorithm="priorband", options=_FIRST), "neps"),
    Method(
        "NePS PriorBand + model",
        partial(neps, algorithm="priorband", options={**_FIRST, **_MODEL}),
        "neps",
        is_slow=True,
    ),
)
"""What needs other packages."""


def available(methods: tuple[Method, ...]) -> tuple[list[Method], list[str]]:
    """Returns the methods whose package can be imported, and of the other packages why not."""
    reasons: dict[str, str] = {}
    for package in sorted({method.package for method in methods if method.package}):
        try:
            importlib.import_module(package)
        except ImportError as error:
            reasons[package] = f"{package} is skipped: {error}"
    return [method for method in methods if method.package not in reasons], list(reasons.values())
