"""What a study file says, checked against its trainer, its sampler and its pruner."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.core import objectives
from autotune.core.config_paths import flatten, with_paths
from autotune.search import pruners, samplers
from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.errors import StudyFileErrors, did_you_mean, no_setting
from autotune.study.spec import TRACKERS, StudySpec, is_installed
from autotune.study.trainer import Trainer


def check_trackers(spec: StudySpec, errors: StudyFileErrors) -> None:
    """Check that every tracker is known and installed."""
    for index, name in enumerate(spec.trackers):
        if error := _tracker_error(name):
            errors.add(("trackers", str(index)), error)


def _tracker_error(name: str) -> str:
    if name not in TRACKERS:
        return f'there is no tracker "{name}"{did_you_mean(name, TRACKERS)}; the trackers are {", ".join(TRACKERS)}'
    if not is_installed(name):
        return f"{name} is not installed; run {sys.executable} -m pip install {name}"
    return ""


def check_against_trainer(spec: StudySpec, trainer: Trainer, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    """Check that the base, the space and every setting to try exist in the trainer, and that all of them build.

    Args:
        spec: The study file's content.
        trainer: The trainer that it names.
        base: The nested base config, completed by the trainer's defaults.
        errors: Collects what is wrong.
    """
    known = flatten(base)

    _check_base(spec, known, errors)
    seed_path = trainer.path_of("seed")
    if seed_path in known:
        _check_seed(spec, seed_path, errors)
    sound = {}
    for path, dimension in spec.space.root.items():
        if _check_dimension(path, dimension, known, errors):
            sound[path] = dimension
    _check_enqueued(spec, sound, errors)
    _check_warm_start(spec, errors)
    _check_algorithms(spec, SearchSpace(sound), base, errors)

    # Corners that cannot be built are worth a line only where nothing else explains them.
    if not errors:
        _check_corners(spec, trainer, base, errors)


def _check_base(spec: StudySpec, known: Mapping[str, Any], errors: StudyFileErrors) -> None:
    for path in flatten(spec.base):
        location = ("base", *path.split("."))
        # A config type that ignores what it does not know would train with its default instead.
        if path not in known and not errors.has(location):
            errors.add(location, no_setting(path, known))


def _check_seed(spec: StudySpec, path: str, errors: StudyFileErrors) -> None:
    """Check that nothing is said of the trainer's seed that would be ignored: the engine sets it in each config."""
    with_own = f"every trial trains with the study's seed, {spec.seed}"

    if path in spec.space.root:
        errors.add(
            ("space", path),
            f"{with_own}, so that a seed cannot be searched; leave it out (budget.seeds trains several in each trial)",
        )
    for searched, dimension in spec.space.root.items():
        if path in dimension.when:
            errors.add(("space", searched, "when"), f"{with_own}, so that nothing can depend on {path}; leave it out")

    value = flatten(spec.base).get(path, spec.seed)
    if value != spec.seed and isinstance(value, int):
        errors.add(
            ("base", *path.split(".")),
            f"{with_own}, and not with {value!r}; remove it, or write seed = {value!r} at the top of the study file",
        )


def _check_dimension(path: str, dimension: Dimension, known: Mapping[str, Any], errors: StudyFileErrors) -> bool:
    """Check a dimension against the trainer's settings and return whether it is sound."""
    unknown = [name for name in dimension.when if name not in known]
    for name in unknown:
        errors.add(("space", path, "when"), no_setting(name, known))

    error = _dimension_error(path, dimension, known)
    # A base value that is wrong by itself has its own line.
    if error and not errors.has(("base", *path.split("."))):
        errors.add(("space", path), error)

    return not error and not unknown


def _dimension_error(path: str, dimension: Dimension, known: Mapping[str, Any]) -> str:
    if path not in known:
        return no_setting(path, known)

    value = known[path]
    if dimension.is_integer and isinstance(value, float):
        return (
            f"the base value {value!r} is not a whole number, but a range of two whole numbers is searched in "
            f"whole numbers; write low = {dimension.low}.0 and high = {dimension.high}.0"
        )
    if not dimension.contains(value):
        return (
            f"the base value {value!r} {_outside_of(dimension)}, but trial 0 trains with it; "
            "change it, or include it here"
        )
    return ""


def _check_enqueued(spec: StudySpec, sound: Mapping[str, Dimension], errors: StudyFileErrors) -> None:
    for index, settings in enumerate(spec.enqueue):
        for path, value in settings.items():
            location = ("enqueue", str(index), path)
            if path not in spec.space.root:
                suggestion = did_you_mean(path, list(spec.space))
                errors.add(location, f"this setting is not searched{suggestion}; name one from [space]")
            elif path in sound and (error := _enqueued_error(sound[path], value)):
                errors.add(location, error)


def _enqueued_error(dimension: Dimension, value: Any) -> str:
    if dimension.contains(value) and dimension.is_on_grid(value):
        return ""

    grid = ""
    if dimension.step:
        grid = f" in steps of {dimension.step}"
    elif dimension.is_integer:
        grid = " in whole numbers"
    return f"{value!r} {_outside_of(dimension)}{grid}; change it, or its entry in [space]"


def _outside_of(dimension: Dimension) -> str:
    """Return the words for a value that a dimension cannot propose."""
    if dimension.choices is not None:
        return f"is not {dimension.describe()}"
    return f"is not within {dimension.describe()}"


def _check_warm_start(spec: StudySpec, errors: StudyFileErrors) -> None:
    for index, folder in enumerate(spec.warm_start):
        if not (Path(folder) / "spec.json").exists():
            errors.add(("warm_start", str(index)), f'there is no study at "{folder}"; name a folder such as runs/NAME')


def _check_algorithms(spec: StudySpec, space: SearchSpace, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    num_values = objectives.num_values(spec.objective)
    for table, error in algorithm_errors(spec.sampler, spec.pruner, space, base, spec.budget.tokens, num_values):
        errors.add((table,), error)


def algorithm_errors(
    sampler: SamplerSpec,
    pruner: PrunerSpec,
    space: SearchSpace,
    base: Mapping[str, Any],
    budget_tokens: int,
    num_values: int = 1,
) -> list[tuple[str, str]]:
    """Build a sampler and a pruner, try them out, and return what they object to.

    Args:
        sampler: As in a study file.
        pruner: As in a study file.
        space: What is sound of the search space; the sampler is not tried on an empty one.
        base: The nested base config.
        budget_tokens: Tokens of a trial.
        num_values: How many values of a trial are minimised.

    Returns:
        "sampler" or "pruner" with an error of it; empty if all is well.
    """
    errors = {}
    if len(space):
        errors["sampler"] = _sampler_error(sampler, space, base, num_values)
    errors["pruner"] = _pruner_error(pruner, budget_tokens, num_values)

    return [(table, error) for table, error in errors.items() if error]


def _sampler_error(sampler: SamplerSpec, space: SearchSpace, base: Mapping[str, Any], num_values: int) -> str:
    try:
        built = samplers.build_sampler(sampler.name, sampler.options, space, base, seed=0)
        samplers.rehearse(built, space, base, num_values)
    except ImportError as error:
        return f"{sampler.name} needs the package {error.name}, which is not installed; run pip install {error.name}"
    except (ValueError, TypeError, ArithmeticError) as error:
        reason = _on_one_line(error)
        if num_values > 1 and "multi-objective" in reason:
            reason = 'it can minimise only one value, but loss and seconds are two; use another sampler, such as "tpe"'
        return f"{sampler.name}: {reason}"
    return ""


def _pruner_error(pruner: PrunerSpec, budget_tokens: int, num_values: int) -> str:
    if num_values > 1 and pruner.name != "none":
        return (
            f"{pruner.name} compares only losses, but this study judges both loss and seconds, and a trial that is "
            'behind in one may lead in the other; write pruner = {name = "none"}'
        )
    try:
        pruners.rehearse(pruners.build_pruner(pruner.name, pruner.options, budget_tokens))
    except (ValueError, TypeError, ArithmeticError) as error:
        return f"{pruner.name}: {_on_one_line(error)}"
    return ""


def _on_one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def _check_corners(spec: StudySpec, trainer: Trainer, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    """Check that the trainer accepts every corner of the space, and record the first that it refuses."""
    for corner in spec.space.at_limits().corners(base):
        try:
            trainer.complete(with_paths(base, corner))
        except ValidationError as error:
            detail = error.errors()[0]
            message = str(detail["msg"]).removeprefix("Value error, ")
            refused_path = ".".join(map(str, detail["loc"]))

            settings = ", ".join(f"{path} = {value!r}" for path, value in corner.items())
            named = [path for path in corner if path == refused_path or path.rpartition(".")[2] in message]
            errors.add(
                ("space", *named[:1]), f"the trainer refuses {settings}, which the search may propose: {message}"
            )
            return
