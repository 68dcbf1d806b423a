"""Pruners by name: a study file's `[pruner]` table -> an Optuna pruner whose steps are tokens."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autotune.search.samplers import accepted_parameters

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

PRUNERS = {
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
    "threshold": "ThresholdPruner",
    "none": "NopPruner",
}
# Accepted besides Optuna's own names: a share of the budget reads better than a number of tokens.
WARMUP_FRAC = "warmup_frac"
# Pruners that compare ranks, which early losses tell badly; without a warm-up of the user's they learn theirs, and
# begin with the one that served best on the recorded table (tests/benchmarks/RESULTS.md).
LEARN_THEIR_WARMUP = ("median", "percentile")
DEFAULT_WARMUP_FRAC = 0.3
# One finished trial is enough to stop a worse one: more only cost time on the recorded table.
N_STARTUP_TRIALS = 1
RESERVED = ("self", "interval_steps")


def parameters(name: str) -> dict[str, list[str]]:
    """Returns the parameters that a study file may give to a pruner, with the words of their types.

    Args:
        name: A key of `PRUNERS`.
    """
    found = accepted_parameters(_class(name), RESERVED)
    return {**found, WARMUP_FRAC: ["float"]} if "n_warmup_steps" in found else found


def build_pruner(name: str, options: Mapping[str, Any], budget_tokens: int) -> BasePruner:
    """Builds a pruner.

    Args:
        name: A key of `PRUNERS`.
        options: Its parameters under Optuna's names, steps in tokens; `warmup_frac` (0 to 1) is the share
            of the budget before which nothing is pruned. Those of `LEARN_THEIR_WARMUP` measure it from the
            study's own trials unless it is given.
        budget_tokens: Tokens of a whole trial; the largest resource of a bandit.

    Raises:
        ValueError: If Optuna refuses the options.
    """
    arguments = dict(options)
    learns = name in LEARN_THEIR_WARMUP and not {WARMUP_FRAC, "n_warmup_steps"} & arguments.keys()
    if learns:
        arguments.setdefault("n_startup_trials", N_STARTUP_TRIALS)
    if WARMUP_FRAC in arguments:
        arguments["n_warmup_steps"] = _warmup_tokens(arguments.pop(WARMUP_FRAC), budget_tokens)
    if name in ("successive_halving", "hyperband"):
        # Optuna's default of one step as the smallest resource means one token here. A ninth of the budget
        # with the reduction factor of 3 gives the two rungs that served best on public curves.
        arguments.setdefault("reduction_factor", 3)
        arguments.setdefault("min_resource", max(1, budget_tokens // 9))
    if name == "hyperband":
        arguments.setdefault("max_resource", budget_tokens)
    for parameter in inspect.signature(_class(name)).parameters.values():
        if parameter.default is inspect.Parameter.empty and parameter.name not in arguments:
            raise ValueError(f"it needs {parameter.name}; add {parameter.name} = ... to [pruner]")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks some pruners as experimental
        pruner = _class(name)(**arguments)
    if not learns:
        return pruner
    from autotune.search.learned_warmup import LearnedWarmup

    return LearnedWarmup(pruner, _warmup_tokens(DEFAULT_WARMUP_FRAC, budget_tokens))


def _warmup_tokens(frac: float, budget_tokens: int) -> int:
    if not 0 <= frac < 1:
        raise ValueError(f"{WARMUP_FRAC} is a share of the budget from 0 to below 1, but it is {frac!r}")
    return int(frac * budget_tokens)


def rehearse(pruner: BasePruner) -> None:
    """Lets a pruner judge a few trials in memory, since some look at their parameters only then.

    Args:
        pruner: A new pruner.

    Raises:
        ValueError: If Optuna refuses a parameter.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(pruner=pruner, sampler=optuna.samplers.RandomSampler(seed=0))
        for value in range(3):
            trial = study.ask()
            trial.report(float(value), step=1)
            trial.should_prune()
            study.tell(trial, float(value))


def _class(name: str) -> Callable[..., BasePruner]:
    from optuna import pruners

    found: Callable[..., BasePruner] = getattr(pruners, PRUNERS[name])
    return found
