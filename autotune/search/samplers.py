"""Samplers by name: a study file's `[sampler]` table -> an Optuna sampler."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

    from autotune.search.space import SearchSpace

# The names a study file may use, and Optuna's class behind each.
SAMPLERS = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "cmaes": "CmaEsSampler",
    "nsga2": "NSGAIISampler",
    "brute_force": "BruteForceSampler",
    "grid": "GridSampler",
}
# Types that a study file can give, by their names in Optuna's annotations. Functions and other samplers it cannot give.
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {"int": (int,), "float": (int, float), "bool": (bool,), "str": (str,)}
# The most combinations of a grid, since Optuna lists all of them in memory.
_MAX_COMBINATIONS = 100_000
# Optuna's own arguments that the engine fills in itself.
_RESERVED = ("self", "seed", "search_space", "constraints_func", "group", "multivariate", "constant_liar")


def parameters(name: str) -> dict[str, list[str]]:
    """Return the parameters that a study file may give to a sampler, with the names of their types.

    Args:
        name: A key of `SAMPLERS`.
    """
    return accepted_parameters(_class(name), _RESERVED)


def accepted_parameters(factory: Callable[..., Any], reserved: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the constructor arguments of a class that TOML can express, less those that are reserved.

    Args:
        factory: A class of Optuna.
        reserved: Names of arguments that a study file may not give.

    Returns:
        Names of the types that an argument may have, by its own name.
    """
    accepted = {}
    for name, parameter in inspect.signature(factory).parameters.items():
        words = re.findall(r"\w+", inspect.formatannotation(parameter.annotation))
        type_names = [word for word in words if word != "None"]

        if name not in reserved and type_names and set(type_names) <= _PLAIN_TYPES.keys():
            accepted[name] = type_names
    return accepted


def is_of_type(value: object, type_names: list[str]) -> bool:
    """Return whether a value is of one of the types that `accepted_parameters` named."""
    # Python counts True and False as whole numbers.
    if isinstance(value, bool):
        return "bool" in type_names
    return any(isinstance(value, _PLAIN_TYPES[name]) for name in type_names)


def build_sampler(
    name: str, options: Mapping[str, Any], space: SearchSpace, base: Mapping[str, Any], seed: int
) -> BaseSampler:
    """Build a sampler.

    Args:
        name: A key of `SAMPLERS`.
        options: Its parameters under Optuna's names.
        space: The study's search space.
        base: The nested base config.
        seed: Must differ between restarts and between processes, or the same proposals come again.

    Returns:
        Optuna's sampler, or a wrapper of ours around it.

    Raises:
        ValueError: If Optuna refuses the options, or a grid is asked for over a range without steps.
    """
    arguments = _sampler_arguments(name, options, space, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks several samplers as experimental
        sampler = _class(name)(**arguments)

    if name == "gp":
        from autotune.search.forecast_sampler import N_STARTUP_TRIALS, ForecastSampler

        return ForecastSampler(
            sampler,
            space,
            base,
            n_startup_trials=options.get("n_startup_trials", N_STARTUP_TRIALS),
            is_exact=options.get("deterministic_objective", False),
            seed=seed,
        )

    may_widen = not space.is_conditional and space.at_limits() != space
    if name == "tpe" and may_widen:
        from autotune.search.ranges import CurrentRanges

        return CurrentRanges(sampler, space)

    return sampler


def _sampler_arguments(name: str, options: Mapping[str, Any], space: SearchSpace, seed: int) -> dict[str, Any]:
    """Return the arguments of Optuna's class: the study file's options and what the engine fills in."""
    arguments: dict[str, Any] = {"seed": seed, **options}

    if name == "tpe":
        # Groups let the multivariate model cope with settings that exist only under a condition.
        arguments |= {"group": space.is_conditional, "multivariate": True, "constant_liar": True}

    if name in ("grid", "brute_force"):
        combinations = math.prod(space[path].num_values for path in space)
        if combinations > _MAX_COMBINATIONS:
            raise ValueError(f"the space has {combinations:,} combinations, more than could be tried; narrow it")

    if name == "cmaes" and options.get("with_margin"):
        from autotune.search.fine_ranges import as_continuous

        distributions = {path: space[path].distribution() for path in space}
        listed = [path for path, fine in as_continuous(distributions).items() if fine != distributions[path]]
        if listed:
            raise ValueError(f"with_margin lists every value of {listed[0]}; leave it out, or narrow the range")

    if name == "grid":
        arguments["search_space"] = {path: space[path].grid() for path in space}

    return arguments


def rehearse(sampler: BaseSampler, space: SearchSpace, base: Mapping[str, Any], values: int = 1) -> None:
    """Draw a few trials in memory: most samplers look at their parameters only when they are used.

    Args:
        sampler: A new sampler.
        space: The study's search space.
        base: The nested base config.
        values: How many values of a trial are minimised.

    Raises:
        ValueError: If Optuna refuses a parameter, the space or several values.
        ImportError: If the sampler needs a package that is not installed.
    """
    import optuna

    # Optuna announces each study it creates on stderr.
    optuna.logging.set_verbosity(optuna.logging.WARNING)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler, directions=["minimize"] * values)
        for value in range(3):
            trial = study.ask()
            space.suggest(trial, base)
            with contextlib.suppress(RuntimeError):  # all of a small grid may have been tried by now
                study.tell(trial, [value] * values)


def _class(name: str) -> Callable[..., BaseSampler]:
    from optuna import samplers

    sampler_class: Callable[..., BaseSampler] = getattr(samplers, SAMPLERS[name])
    return sampler_class
