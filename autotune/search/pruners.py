"""Pruners by name: a study file's `[pruner]` table -> a pruner of ours or of Optuna, whose steps are tokens."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autotune.search.samplers import accepted_parameters

if TYPE_CHECKING:
    from optuna.pruners import BasePruner

PRUNERS = {
    "rank": "RankPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "successive_halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "wilcoxon": "WilcoxonPruner",
    "threshold": "ThresholdPruner",
    "none": "NopPruner",
}
# Accepted besides Optuna's own names: a share of the budget reads better than a number of tokens.
_WARMUP_FRAC = "warmup_frac"
# Pruners that compare ranks, which early losses tell badly. Unless the study file gives a warm-up they learn theirs,
# and begin with the share of the budget that served best on the recorded table (tests/benchmarks/RESULTS.md).
_LEARN_THEIR_WARMUP = ("median", "percentile")
_DEFAULT_WARMUP_FRAC = 0.3
# Finished trials before one is stopped: more than one only cost time on the recorded table.
_N_STARTUP_TRIALS = 1
_RESERVED = ("self", "interval_steps", "budget_tokens")


def parameters(name: str) -> dict[str, list[str]]:
    """Return the parameters that a study file may give to a pruner, with the names of their types.

    Args:
        name: A key of `PRUNERS`.
    """
    accepted = accepted_parameters(_class(name), _RESERVED)
    if "n_warmup_steps" in accepted:
        accepted[_WARMUP_FRAC] = ["float"]
    return accepted


def build_pruner(name: str, options: Mapping[str, Any], budget_tokens: int) -> BasePruner:
    """Build a pruner.

    Args:
        name: A key of `PRUNERS`.
        options: Its parameters under Optuna's names, steps in tokens; `warmup_frac` (0 to 1) is the share
            of the budget before which nothing is pruned. "median" and "percentile" measure it from the study's
            own trials unless it is given.
        budget_tokens: Tokens of a whole trial; the largest resource of a bandit.

    Returns:
        Our `RankPruner`, or Optuna's pruner, or `LearnedWarmup` around it.

    Raises:
        ValueError: If Optuna refuses the options.
    """
    is_warmup_given = bool({_WARMUP_FRAC, "n_warmup_steps"} & options.keys())
    learns_warmup = name in _LEARN_THEIR_WARMUP and not is_warmup_given

    arguments = _pruner_arguments(name, options, budget_tokens)
    if learns_warmup:
        arguments.setdefault("n_startup_trials", _N_STARTUP_TRIALS)
    _check_required(name, arguments)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks some pruners as experimental
        pruner = _class(name)(**arguments)

    if learns_warmup:
        from autotune.search.learned_warmup import LearnedWarmup

        return LearnedWarmup(pruner, _warmup_tokens(_DEFAULT_WARMUP_FRAC, budget_tokens))
    return pruner


def _pruner_arguments(name: str, options: Mapping[str, Any], budget_tokens: int) -> dict[str, Any]:
    """Return the arguments of Optuna's class: the study file's options in tokens, and defaults of ours."""
    arguments = dict(options)

    if name == "rank":
        arguments["budget_tokens"] = budget_tokens

    if _WARMUP_FRAC in arguments:
        arguments["n_warmup_steps"] = _warmup_tokens(arguments.pop(_WARMUP_FRAC), budget_tokens)

    if name in ("successive_halving", "hyperband"):
        # Optuna's default of one step as the smallest resource means one token here. A ninth of the budget
        # with the reduction factor of 3 gives the two rungs that served best on public curves.
        arguments.setdefault("reduction_factor", 3)
        arguments.setdefault("min_resource", max(1, budget_tokens // 9))

    if name == "hyperband":
        arguments.setdefault("max_resource", budget_tokens)

    return arguments


def _check_required(name: str, arguments: Mapping[str, Any]) -> None:
    for parameter in inspect.signature(_class(name)).parameters.values():
        if parameter.default is inspect.Parameter.empty and parameter.name not in arguments:
            raise ValueError(f"it needs {parameter.name}; add {parameter.name} = ... to [pruner]")


def _warmup_tokens(frac: float, budget_tokens: int) -> int:
    if not 0 <= frac < 1:
        raise ValueError(f"{_WARMUP_FRAC} must be a share of the budget, from 0 to less than 1, but it is {frac!r}")
    return int(frac * budget_tokens)


def rehearse(pruner: BasePruner) -> None:
    """Let a pruner judge a few trials in memory, since some look at their parameters only then.

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

    from autotune.search.rank_pruner import RankPruner

    if name == "rank":
        return RankPruner
    pruner_class: Callable[..., BasePruner] = getattr(pruners, PRUNERS[name])
    return pruner_class
