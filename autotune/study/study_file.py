"""A study file: TOML -> a validated StudySpec and its trainer; every error at once, with its file and line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.text import shortened
from autotune.search.space import SearchSpace
from autotune.study.checks import check_against_trainer, check_artifacts, check_trackers
from autotune.study.errors import StudyFileError, StudyFileErrors, beyond_limits, did_you_mean, parse, salvage
from autotune.study.key_lines import Location
from autotune.study.program import with_program
from autotune.study.spec import StudySpec
from autotune.study.stored_function import make_importable
from autotune.study.trainer import Trainer, load_trainer, metric_of

# They stand in for required parts that are missing or wrong, while the rest of a file is looked through.
_STAND_INS: dict[str, Any] = {"name": "unnamed", "budget": {"tokens": 1}, "space": {"\0": {"choices": [0]}}}


@dataclass(frozen=True)
class Study:
    """A study file together with its trainer: what the engine works from.

    Args:
        spec: The file's content; `spec.base` is the whole resolved base config.
        trainer: The trainer that it names.
        explicit: Dotted paths that the file's base sets itself; the engine fills in none of these.
        text: The file as it was written, or as `--set` left it.
        places: Knows the lines of the file; None for a study that was read from none.
    """

    spec: StudySpec
    trainer: Trainer
    explicit: frozenset[str]
    text: str
    places: StudyFileErrors | None = field(default=None, compare=False, repr=False)

    def place_of(self, setting: str) -> str:
        """Return where a setting of the trainer stands, or has to be written: file, line and key.

        Args:
            setting: Its dotted path.
        """
        table = "space" if setting in self.spec.space.root and setting not in self.explicit else "base"
        location = (table, setting) if table == "space" else ("base", *setting.split("."))
        key = ".".join(location)
        return key if self.places is None else f"{self.places.place_of(location)} {key}"


def load(path: Path, changes: Sequence[str] = ()) -> Study:
    """Read and validate a study file.

    Args:
        path: A TOML file.
        changes: `--set` assignments in TOML, such as 'space."optim.muon_lr".high=0.05'.

    Returns:
        The study with its base config completed by the trainer's defaults.

    Raises:
        StudyFileError: With one line per error: file, line, key, what is wrong and what to do.
    """
    return load_text(_read(path), path, changes)


def load_text(text: str, path: Path, changes: Sequence[str] = ()) -> Study:
    """Validate the content of a study file, as `load` does.

    Args:
        text: TOML.
        path: The file that messages name, which a study that Python code makes does not have yet.
        changes: `--set` assignments.

    Returns:
        The study with its base config completed by the trainer's defaults.

    Raises:
        StudyFileError: With one line per error.
    """
    raw = parse(text, str(path))
    for change in changes:
        _merge(raw, _parse_change(change))

    errors = StudyFileErrors(path, text, changes)
    spec = _validate(_within_limits(raw, errors), errors)
    if spec is None:
        raise StudyFileError("\n".join(errors.in_order()))

    check_trackers(spec, errors)
    check_artifacts(spec, errors)
    trainer, base = None, None
    if not errors:
        spec = with_program(spec, errors)
    # Without the right trainer there is nothing to check the rest of the file against.
    if not errors.has(("trainer",)):
        make_importable(path.parent, spec.trainer)
        trainer = _trainer(spec, errors)
    if trainer is not None:
        base = _completed_base(spec, trainer, errors)
    if trainer is not None and base is not None:
        check_against_trainer(spec, trainer, base, errors)
        spec = spec.model_copy(update={"base": base})

    if errors or trainer is None:
        raise StudyFileError("\n".join(errors.in_order()))

    explicit = frozenset(flatten(raw.get("base", {})))
    return Study(spec, trainer, explicit, _as_text(raw, changes) if changes else text, errors)


def _read(path: Path) -> str:
    try:
        # Editors on Windows put a byte order mark first, which TOML does not know.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise StudyFileError(f"{path}: no such study file{_suggest_file(path)}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        byte = error.object[error.start]
        raise StudyFileError(f"{path}:{line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8 text") from None
    except OSError as error:
        raise StudyFileError(f"{path}: cannot be read: {error.strerror}") from None


def _parse_change(change: str) -> dict[str, Any]:
    """Return what a `--set` assignment says, nested.

    Raises:
        StudyFileError: If it assigns nothing, or is no TOML.
    """
    place = f"--set {shortened(change, 120)}" if change.strip() else '--set ""'
    content = parse(change, place)
    for _, message in beyond_limits(content):
        raise StudyFileError(f"{place}: {message}")
    # A header by itself makes an empty table.
    if not content or (not flatten(content) and "=" not in change):
        raise StudyFileError(f"{place}: assigns nothing; write KEY=VALUE in TOML, such as budget.trials=20")
    return content


def _within_limits(raw: dict[str, Any], errors: StudyFileErrors) -> dict[str, Any]:
    """Return a study file's content less what no study file may have."""
    found = list(beyond_limits(raw))
    for location, message in found:
        errors.add(location, message)
    return _without_paths(raw, [location for location, _ in found])


def _as_text(raw: Mapping[str, Any], changes: Sequence[str]) -> str:
    """Return the changed content as a study file, whose first lines say what was changed."""
    import tomli_w

    # A change may hold line breaks, which would end the comment.
    comments = [f"# --set {' '.join(change.split())}\n" for change in changes]
    return "".join(comments) + tomli_w.dumps(raw)


def _merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if key in ("sampler", "pruner") and isinstance(value, Mapping) and "name" in value:
            target[key] = dict(value)  # the parameters of another algorithm mean nothing to it
        elif isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _validate(raw: dict[str, Any], errors: StudyFileErrors) -> StudySpec | None:
    """Return what is right of a study file, with stand-ins for required parts; None if nothing is."""
    spec = salvage(raw, StudySpec.model_validate, _drop, lambda error: errors.add_pydantic(error, StudySpec))

    if spec is not None and spec.space.root.keys() == _STAND_INS["space"].keys():
        return spec.model_copy(update={"space": SearchSpace({})})
    return spec


def _drop(content: dict[str, Any], locations: Sequence[Location]) -> dict[str, Any]:
    """Return a study file's content less some dimensions of the space, and less whole entries of the top level."""
    wrong = {location[0] for location in locations}

    dimensions = content.get("space")
    wrong_paths = {location[1] for location in locations if location[0] == "space" and len(location) > 1}
    if isinstance(dimensions, dict) and ("space",) not in locations:
        sound = {path: entry for path, entry in dimensions.items() if path not in wrong_paths}
        if sound:
            wrong.discard("space")
            content = {**content, "space": sound}

    rest = {key: value for key, value in content.items() if key not in wrong}
    for key in wrong & _STAND_INS.keys():
        rest[key] = _STAND_INS[key]
    return rest


def _trainer(spec: StudySpec, errors: StudyFileErrors) -> Trainer | None:
    try:
        trainer = load_trainer(spec.trainer)
        return trainer if spec.metric is None else replace(trainer, metric=metric_of(spec.metric))
    except UserError as error:
        errors.add(("trainer",), str(error).removeprefix("trainer = "))
    return None


def _completed_base(spec: StudySpec, trainer: Trainer, errors: StudyFileErrors) -> dict[str, Any] | None:
    """Return the base config completed by the trainer's defaults, less what it refuses; None if nothing builds."""
    try:
        settings = _settings(trainer)
        return salvage(spec.base, trainer.complete, _without_paths, lambda error: errors.add_base(error, settings))
    except UserError as error:
        errors.add(("trainer",), str(error).removeprefix("trainer = "))
    return None


def _settings(trainer: Trainer) -> list[str]:
    """Return the dotted paths of the trainer's settings, for suggestions; empty if one of them has no default."""
    try:
        return list(flatten(trainer.complete({})))
    except ValidationError:
        return []


def _without_paths(config: dict[str, Any], locations: Sequence[Location]) -> dict[str, Any]:
    """Return a nested config less what is at some locations, or less the tables that lack it."""
    inner_locations: dict[str, list[Location]] = {}
    for location in locations:
        if location:
            inner_locations.setdefault(location[0], []).append(location[1:])

    kept: dict[str, Any] = {}
    for key, inner in config.items():
        wrong = inner_locations.get(key)
        if wrong is None:
            kept[key] = inner
        elif isinstance(inner, dict) and () not in wrong and any(location[0] in inner for location in wrong):
            kept[key] = _without_paths(inner, wrong)
    return kept


def _suggest_file(path: Path) -> str:
    """Return a question after the study file that was probably meant, or a list of those that there are."""
    files = set(Path("studies").glob("*.toml"))
    if path.suffix == ".toml":
        files |= set(path.parent.glob("*.toml"))
    names = sorted(str(file) for file in files if file.name != "pyproject.toml")
    if not names:
        return ""

    stems = [Path(name).stem for name in names]
    return (
        did_you_mean(str(path), names)
        or did_you_mean(path.stem, stems)
        or f"; the study files here are {', '.join(names)}"
    )
