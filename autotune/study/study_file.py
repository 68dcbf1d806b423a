"""A study file: TOML -> a validated StudySpec and its trainer, every error at once with its file and line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.core import objectives
from autotune.core.config_paths import flatten, with_paths
from autotune.core.errors import UserError
from autotune.search import pruners, samplers
from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace
from autotune.study.errors import Faults, Location, StudyFileError, did_you_mean, no_setting, parse, salvage
from autotune.study.spec import TRACKERS, PrunerSpec, SamplerSpec, StudySpec, is_installed
from autotune.study.trainer import Trainer, load_trainer

# Stand in for required parts that are missing or faulty, while the rest of a file is looked through.
_STAND_INS: dict[str, Any] = {"name": "unnamed", "budget": {"tokens": 1}, "space": {"": {"choices": [0]}}}


@dataclass(frozen=True)
class Study:
    """A study file together with its trainer: what the engine works from.

    Args:
        spec: The file's content; `spec.base` is the whole resolved base config.
        trainer: The trainer that it names.
        explicit: Dotted paths that the file's base sets itself; the engine fills in none of these.
        text: The file as it was written, or as `--set` left it.
    """

    spec: StudySpec
    trainer: Trainer
    explicit: frozenset[str]
    text: str


def load(path: Path, changes: Sequence[str] = ()) -> Study:
    """Reads and validates a study file.

    Args:
        path: A TOML file.
        changes: `--set` assignments in TOML, such as 'space."optim.muon_lr".high=0.05'.

    Returns:
        The study with its base config completed by the trainer's defaults.

    Raises:
        StudyFileError: With one line per fault: file, line, key, fault and what to do.
    """
    text = _read(path)
    raw = parse(text, str(path))
    for change in changes:
        _merge(raw, parse(change, f"--set {change}"))
    faults = Faults(path, text, changes)
    spec = _validate(raw, faults)
    for index, name in enumerate(spec.trackers if spec is not None else ()):
        if fault := _tracker_fault(name):
            faults.add(("trackers", str(index)), fault)
    # Without the right trainer there is nothing to hold the rest of the file against.
    trainer = None if spec is None or faults.has(("trainer",)) else _trainer(spec, faults)
    if spec is not None and trainer is not None:
        spec = _completed(spec, trainer, faults)
    if faults or spec is None or trainer is None:
        raise StudyFileError("\n".join(faults.in_order()))
    return Study(spec, trainer, frozenset(flatten(raw.get("base", {}))), _as_text(raw, changes) if changes else text)


def _tracker_fault(name: str) -> str:
    if name not in TRACKERS:
        return f'there is no tracker "{name}"{did_you_mean(name, TRACKERS)}; known: {", ".join(TRACKERS)}'
    if not is_installed(name):
        return f"{name} is not installed: {sys.executable} -m pip install {name}"
    return ""


def _read(path: Path) -> str:
    try:
        # Editors on Windows put a byte order mark first, which TOML does not know.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StudyFileError(f"{path}: no such study file{_suggest_file(path)}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise StudyFileError(
            f"{path}:{line}: byte 0x{error.object[error.start]:02x} is not UTF-8; save the file as UTF-8 text"
        ) from None
    except OSError as error:
        raise StudyFileError(f"{path}: cannot be read: {error.strerror}") from None


def _as_text(raw: Mapping[str, Any], changes: Sequence[str]) -> str:
    import tomli_w

    # A change may hold line breaks, which would end the comment.
    return "".join(f"# --set {' '.join(change.split())}\n" for change in changes) + tomli_w.dumps(raw)


def _merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if key in ("sampler", "pruner") and isinstance(value, Mapping) and "name" in value:
            target[key] = dict(value)  # the parameters of another algorithm mean nothing to it
        elif isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _validate(raw: dict[str, Any], faults: Faults) -> StudySpec | None:
    spec = salvage(raw, StudySpec.model_validate, _drop, lambda fault: faults.add_pydantic(fault, StudySpec))
    if spec is not None and spec.space.root.keys() == _STAND_INS["space"].keys():
        return spec.model_copy(update={"space": SearchSpace({})})
    return spec


def _drop(content: dict[str, Any], location: Location) -> dict[str, Any]:
    """Returns a study file's content less one dimension of the space, or less a whole entry of the top level."""
    first, *others = location
    dimensions = content.get("space")
    if first == "space" and others and isinstance(dimensions, dict) and len(dimensions) > 1:
        return {**content, "space": {path: entry for path, entry in dimensions.items() if path != others[0]}}
    stand_in = {first: _STAND_INS[first]} if first in _STAND_INS else {}
    return {key: value for key, value in content.items() if key != first} | stand_in


def _trainer(spec: StudySpec, faults: Faults) -> Trainer | None:
    try:
        return load_trainer(spec.trainer)
    except UserError as error:
        faults.add(("trainer",), str(error).removeprefix("trainer = "))
    return None


def _completed(spec: StudySpec, trainer: Trainer, faults: Faults) -> StudySpec:
    """Fills in the trainer's defaults and checks that the base and every corner of the space build."""
    defaults = _defaults(trainer)
    base = salvage(spec.base, trainer.complete, _without_path, lambda fault: faults.add_base(fault, defaults))
    if base is None:
        return spec
    known = flatten(base)
    for path in flatten(spec.base):
        location = ("base", *path.split("."))
        # A config type that ignores what it does not know would train with its default instead.
        if path not in known and not faults.has(location):
            faults.add(location, no_setting(path, known))
    sound = {
        path: dimension
        for path, dimension in spec.space.root.items()
        if _check_dimension(path, dimension, known, faults)
    }
    _check_enqueued(spec, sound, faults)
    for index, folder in enumerate(spec.warm_start):
        if not (Path(folder) / "spec.json").exists():
            faults.add(("warm_start", str(index)), f'there is no study at "{folder}"; name a folder such as runs/NAME')
    _check_algorithms(spec, SearchSpace(sound), base, faults)
    if not faults:
        _check_corners(spec, trainer, base, faults)
    return spec.model_copy(update={"base": base})


def _defaults(trainer: Trainer) -> list[str]:
    """Returns the trainer's settings, for suggestions; none if its config has no defaults for all."""
    try:
        return list(flatten(trainer.complete({})))
    except ValidationError:
        return []


def _without_path(config: dict[str, Any], location: Location) -> dict[str, Any]:
    """Returns a nested config less what is at a location, or less the table that lacks it."""
    if not location or location[0] not in config:
        return config
    first, *others = location
    inner = config[first]
    if others and isinstance(inner, dict) and (smaller := _without_path(inner, tuple(others))) != inner:
        return {**config, first: smaller}
    return {key: value for key, value in config.items() if key != first}


def _check_dimension(path: str, dimension: Dimension, known: Mapping[str, Any], faults: Faults) -> bool:
    """Holds a dimension against the trainer's settings and returns whether it is sound."""
    unknown = [name for name in dimension.when if name not in known]
    for name in unknown:
        faults.add(("space", path, "when"), no_setting(name, known))
    fault = _fault_of(path, dimension, known)
    if fault and not faults.has(("base", *path.split("."))):
        faults.add(("space", path), fault)
    return not fault and not unknown


def _fault_of(path: str, dimension: Dimension, known: Mapping[str, Any]) -> str:
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
            f"the base value {value!r} is not within {dimension.describe()}; "
            "widen the range or change base, since the baseline is trial 0"
        )
    return ""


def _check_enqueued(spec: StudySpec, sound: Mapping[str, Dimension], faults: Faults) -> None:
    for index, settings in enumerate(spec.enqueue):
        for path, value in settings.items():
            location = ("enqueue", str(index), path)
            if path not in spec.space.root:
                known = did_you_mean(path, list(spec.space))
                faults.add(location, f"it is not searched{known}; name settings of [space]")
            elif path in sound and not (sound[path].contains(value) and sound[path].is_on_grid(value)):
                grid = " in whole numbers" if sound[path].is_integer else ""
                grid = f" in steps of {sound[path].step}" if sound[path].step else grid
                faults.add(location, f"{value!r} is not within {sound[path].describe()}{grid}; change one of them")


def _check_algorithms(spec: StudySpec, space: SearchSpace, base: Mapping[str, Any], faults: Faults) -> None:
    values = objectives.count(spec.objective)
    for table, fault in algorithm_faults(spec.sampler, spec.pruner, space, base, spec.budget.tokens, values):
        faults.add((table,), fault)


def algorithm_faults(
    sampler: SamplerSpec,
    pruner: PrunerSpec,
    space: SearchSpace,
    base: Mapping[str, Any],
    budget_tokens: int,
    values: int = 1,
) -> list[tuple[str, str]]:
    """Builds a sampler and a pruner, tries them out, and returns what they object to.

    Args:
        sampler: As in a study file.
        pruner: As in a study file.
        space: What is sound of the search space; an empty one is no sampler's.
        base: The nested base config.
        budget_tokens: Tokens of a trial.
        values: How many values of a trial are minimised.

    Returns:
        "sampler" or "pruner" with a fault of it; none if all is well.
    """
    found = []
    try:
        if len(space):
            samplers.rehearse(
                samplers.build_sampler(sampler.name, sampler.options, space, base, 0), space, base, values
            )
    except ImportError as error:
        found.append(("sampler", f"{sampler.name} needs a package that is missing; pip install {error.name}"))
    except (ValueError, TypeError, ArithmeticError) as error:
        why = " ".join(str(error).split())
        if values > 1 and "multi-objective" in why:
            why = 'it minimises one value, and loss and seconds are two; name another, such as "tpe"'
        found.append(("sampler", f"{sampler.name}: {why}"))
    if values > 1 and pruner.name != "none":
        fault = f"{pruner.name} compares losses alone, but loss and seconds are judged here, and a trial that is behind"
        found.append(("pruner", f'{fault} in one may lead in the other; write pruner = {{name = "none"}}'))
        return found
    try:
        pruners.rehearse(pruners.build_pruner(pruner.name, pruner.options, budget_tokens))
    except (ValueError, TypeError, ArithmeticError) as error:
        found.append(("pruner", f"{pruner.name}: {' '.join(str(error).split())}"))
    return found


def _check_corners(spec: StudySpec, trainer: Trainer, base: Mapping[str, Any], faults: Faults) -> None:
    for corner in spec.space.at_limits().corners(base):
        try:
            trainer.complete(with_paths(base, corner))
        except ValidationError as error:
            fault = error.errors()[0]
            settings = ", ".join(f"{path} = {value!r}" for path, value in corner.items())
            message = str(fault["msg"]).removeprefix("Value error, ")
            where = ".".join(map(str, fault["loc"]))
            named = [path for path in corner if path == where or path.rpartition(".")[2] in message]
            faults.add(("space", *named[:1]), f"the trainer refuses the corner {settings}: {message}")
            return


def _suggest_file(path: Path) -> str:
    near = path.parent.glob("*.toml") if path.suffix == ".toml" else ()
    names = sorted(str(file) for file in {*near, *Path("studies").glob("*.toml")} if file.name != "pyproject.toml")
    near_stem = did_you_mean(path.stem, [Path(name).stem for name in names])
    return did_you_mean(str(path), names) or near_stem or (f"; there is {', '.join(names)}" if names else "")
