"""What a study file says, checked against its trainer, its sampler and its pruner."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

from autotune.core import objectives
from autotune.core.config_paths import flatten
from autotune.core.secrets import without_passwords
from autotune.core.text import shortened, shown
from autotune.search import pruners, samplers
from autotune.search.dimension import Dimension
from autotune.search.option_ranges import faults_of
from autotune.search.space import SearchSpace
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.conditions import never_searched
from autotune.study.errors import StudyFileErrors, did_you_mean, no_setting
from autotune.study.key_lines import Location
from autotune.study.refusals import outside_of, refused_proposal, value_error
from autotune.study.spec import STORAGE_SCHEMES, TRACKERS, StudySpec, is_installed
from autotune.study.trainer import Trainer


def check_artifacts(spec: StudySpec, errors: StudyFileErrors) -> None:
    """Refuse a password in the URL of the shared place: it would be stored with the study, and shown.

    Args:
        spec: The study.
        errors: Takes the error.
    """
    if without_passwords(spec.artifacts) != spec.artifacts:
        errors.add(
            ("artifacts",),
            "a password in this URL would be stored and shown; give it to fsspec in the environment instead, such as "
            """FSSPEC_FTP='{"username": "...", "password": "..."}', or in ~/.config/fsspec/""",
        )


def check_trackers(spec: StudySpec, errors: StudyFileErrors) -> None:
    """Check that every tracker is known and installed."""
    for index, name in enumerate(spec.trackers):
        if name in spec.trackers[:index]:
            errors.add(("trackers", str(index)), f'"{name}" is named twice; keep one of them')
        elif error := _tracker_error(name):
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
    _check_conditions(SearchSpace(sound), base, errors)
    _check_enqueued(spec, sound, base, errors)
    _check_storage(spec, errors)
    _check_warm_start(spec, errors)
    _check_algorithms(spec, SearchSpace(sound), base, errors)

    # What follows is worth a line only where nothing else explains it.
    if not errors and spec.finals.runs and seed_path not in known:
        errors.add(("trainer",), _without_seed(trainer, seed_path))
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


def _without_seed(trainer: Trainer, path: str | None) -> str:
    where = f"its config has no {path}" if path else "its setting_roles name no seed"
    return (
        f"{trainer.name} gets no seed ({where}), so runs on fresh seeds would prove nothing; give its config a "
        '"seed" from which all that is random in it follows, or write finals.finalists = 0 for a search without proof'
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


def _check_conditions(space: SearchSpace, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    """Check that every condition may hold, among the dimensions that are sound by themselves."""
    for path, dimension in space.root.items():
        # A setting with a faulty dimension is in none of the sound ones.
        if dimension.when and never_searched(space, path, base):
            wanted = ", ".join(f"{name} = {shown(value)}" for name, value in dimension.when.items())
            errors.add(
                ("space", path, "when"),
                f"{wanted} never holds, so it would never be searched; name values that [space] or [base] can have",
            )


def _check_storage(spec: StudySpec, errors: StudyFileErrors) -> None:
    scheme = spec.storage.partition("://")[0]
    if spec.storage and scheme not in STORAGE_SCHEMES:
        errors.add(("storage",), 'must be a URL such as "postgresql://user@host/database"')


def _dimension_error(path: str, dimension: Dimension, known: Mapping[str, Any]) -> str:
    if path not in known:
        return no_setting(path, known)
    if dimension.limits is None and len(dimension.ends()) == 1:
        return f"it can only be {shown(dimension.ends()[0])}, so nothing is searched; set it in [base], or widen it"

    value = known[path]
    if dimension.is_integer and isinstance(value, float):
        return (
            f"the base value {shown(value)} is not a whole number, but a range of two whole numbers is searched in "
            f"whole numbers; write low = {dimension.low}.0 and high = {dimension.high}.0"
        )
    if not dimension.contains(value):
        return (
            f"the base value {shown(value)} {outside_of(dimension)}, but trial 0 trains with it; "
            "change it, or include it here"
        )
    return ""


def _check_enqueued(
    spec: StudySpec, sound: Mapping[str, Dimension], base: Mapping[str, Any], errors: StudyFileErrors
) -> None:
    space = SearchSpace(dict(sound))
    for index, settings in enumerate(spec.enqueue):
        if not settings:
            errors.add(("enqueue", str(index)), "names no setting; name one from [space], or leave it out")
        # What is not named is proposed by the sampler, so that only what is named can rule a setting out.
        ruled_out = [path for path in settings if path in sound and not _may_be_active(space, path, settings, base)]
        for path in ruled_out:
            errors.add(("enqueue", str(index), path), "its condition (when) does not hold for the settings beside it")

        for path, value in settings.items():
            location = ("enqueue", str(index), path)
            if path not in spec.space.root:
                suggestion = did_you_mean(path, list(spec.space))
                errors.add(location, f"this setting is not searched{suggestion}; name one from [space]")
            elif path in sound and (error := value_error(sound[path], value)):
                errors.add(location, f"{error}; change it, or its entry in [space]")


def _may_be_active(space: SearchSpace, path: str, settings: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Return whether the condition of a setting can hold beside the others of an entry to try."""
    when = space[path].when
    named = {name: settings[name] for name in when if name in settings}
    if len(named) < len([name for name in when if name in space.root]):
        return True
    return path in space.active({**named, path: settings[path]}, base)


def _check_warm_start(spec: StudySpec, errors: StudyFileErrors) -> None:
    for index, folder in enumerate(spec.warm_start):
        if not os.path.isfile(os.path.join(folder, "spec.json")):
            errors.add(("warm_start", str(index)), f'there is no study at "{folder}"; name a folder such as runs/NAME')


def _check_algorithms(spec: StudySpec, space: SearchSpace, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    num_values = objectives.num_values(spec.objective)
    for location, error in algorithm_errors(spec.sampler, spec.pruner, space, base, spec.budget.tokens, num_values):
        errors.add(location, error)


def algorithm_errors(
    sampler: SamplerSpec,
    pruner: PrunerSpec,
    space: SearchSpace,
    base: Mapping[str, Any],
    budget_tokens: int,
    num_values: int = 1,
) -> list[tuple[Location, str]]:
    """Build a sampler and a pruner, try them out, and return what they object to.

    With a number out of its range, they are not tried: it might never end.

    Args:
        sampler: As in a study file.
        pruner: As in a study file.
        space: What is sound of the search space; the sampler is not tried on an empty one.
        base: The nested base config.
        budget_tokens: Tokens of a trial.
        num_values: How many values of a trial are minimised.

    Returns:
        "sampler" or "pruner", and the parameter where it is one, with an error of it; empty if all is well.
    """
    errors: list[tuple[Location, str]] = []
    for option, error in faults_of(sampler.options):
        errors.append((("sampler", option), error))
    if len(space) and not errors:
        errors.append((("sampler",), _sampler_error(sampler, space, base, num_values)))

    of_pruner = list(faults_of(pruner.options))
    for option, error in of_pruner:
        errors.append((("pruner", option), error))
    if not of_pruner:
        errors.append((("pruner",), _pruner_error(pruner, budget_tokens, num_values)))

    return [(location, error) for location, error in errors if error]


def _sampler_error(sampler: SamplerSpec, space: SearchSpace, base: Mapping[str, Any], num_values: int) -> str:
    try:
        built = samplers.build_sampler(sampler.name, sampler.options, space, base, seed=0)
        samplers.rehearse(built, space, base, num_values)
    except ImportError as error:
        return f"{sampler.name} needs the package {error.name}, which is not installed; run pip install {error.name}"
    except (ValueError, TypeError, ArithmeticError, AssertionError, MemoryError, LookupError) as error:
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
    except (ValueError, TypeError, ArithmeticError, AssertionError) as error:
        return f"{pruner.name}: {_on_one_line(error)}"
    return ""


def _on_one_line(error: Exception) -> str:
    # An assertion of a library has often no words.
    return shortened(str(error), 400) or f"it cannot work with these parameters ({type(error).__name__})"


def _check_corners(spec: StudySpec, trainer: Trainer, base: Mapping[str, Any], errors: StudyFileErrors) -> None:
    """Check that the trainer accepts what the search may propose; only the first refusal is recorded."""
    refused = refused_proposal(spec.space.at_limits(), trainer, base)
    if refused is not None:
        path, message = refused
        errors.add(("space", path) if path else ("space",), message)
