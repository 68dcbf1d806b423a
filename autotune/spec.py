"""A study file: TOML -> a validated StudySpec, every error at once with its file and line."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotune import pruners, samplers
from autotune.records import UserError
from autotune.space import SearchSpace, flatten, get_path, with_paths
from autotune.trainer import Trainer, load_trainer

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
Location = tuple[str, ...]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSpec(_Table):
    """How much the study may spend.

    Args:
        tokens: Training tokens of one trial.
        trials: Trials at most, the baseline included.
        hours: Hours for everything (search, finals, report and an automatic promotion), or None.
        until: Local time of day "HH:MM" at which everything must be done, or None.
    """

    tokens: int = Field(gt=0)
    trials: int = Field(default=40, ge=1)
    hours: float | None = Field(default=None, gt=0)
    until: str | None = None

    @field_validator("until")
    @classmethod
    def _time_of_day(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise ValueError('write a time of day as "HH:MM", for example "07:00"')
        return value


class SamplerSpec(BaseModel):
    """Which Optuna sampler proposes settings; further keys are its parameters under Optuna's names."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "tpe"

    @model_validator(mode="after")
    def _known(self) -> SamplerSpec:
        _check_named("sampler", self.name, list(samplers.SAMPLERS), self.options, samplers.parameters)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The parameters beside the name."""
        return dict(self.__pydantic_extra__ or {})


class PrunerSpec(BaseModel):
    """Which Optuna pruner stops poor trials; further keys are its parameters, steps in tokens."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "median"

    @model_validator(mode="after")
    def _known(self) -> PrunerSpec:
        _check_named("pruner", self.name, list(pruners.PRUNERS), self.options, pruners.parameters)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The parameters beside the name; a median pruner without any waits for 30 % of the budget.

        Ranks of early losses say little about final ones, so nothing is judged before that.
        """
        options = dict(self.__pydantic_extra__ or {})
        if self.name == "median" and not options:
            return {"n_startup_trials": 5, pruners.WARMUP_FRAC: 0.3}
        return options


class FinalsSpec(_Table):
    """How the winner is proved.

    Args:
        finalists: Best search trials that are re-run.
        select_seeds: Fresh seeds on which the winner is chosen among several finalists.
        prove_seeds: Further fresh seeds on which the winner is compared with the baseline, in pairs.
        min_gain_frac: Smallest gain worth having, as a share of the baseline's loss.
    """

    finalists: int = Field(default=2, ge=1)
    select_seeds: int = Field(default=1, ge=1)
    prove_seeds: int = Field(default=4, ge=2)
    min_gain_frac: float = Field(default=0.005, gt=0, lt=1)

    @property
    def runs(self) -> int:
        """Trainings that the finals take."""
        return (self.finalists * self.select_seeds if self.finalists > 1 else 0) + 2 * self.prove_seeds


class PromoteSpec(_Table):
    """The full run that follows the study.

    Args:
        tokens: Its training tokens; 0 means 8 times a trial's.
        automatic: Whether `autotune run` goes on into it when the finals are done.
    """

    tokens: int = Field(default=0, ge=0)
    automatic: bool = False


class LimitsSpec(_Table):
    """When something is given up.

    Args:
        hang_s: Seconds without an evaluation after which a trial counts as hung.
        crashes: Crashed trials in a row after which the study stops.
        retries: Times an interrupted trial is queued again.
        heartbeat_s: Seconds between signs of life in a shared storage.
        min_free_bytes: Free disk below which no trial starts.
    """

    hang_s: float = Field(default=600, gt=0)
    crashes: int = Field(default=3, ge=1)
    retries: int = Field(default=3, ge=0)
    heartbeat_s: int = Field(default=20, ge=1)
    min_free_bytes: int = Field(default=500_000_000, ge=0)


class StudySpec(_Table):
    """A whole study file.

    Args:
        name: Names the run directory and the Optuna study.
        title: One sentence for the report.
        trainer: "package.module:function".
        seed: Seed that every search trial trains with; finals take later ones.
        storage: URL of a shared database, or empty for SQLite in the run directory.
        objective: What a trial is judged by.
        base: The baseline: settings that differ from the trainer's defaults, nested.
        space: What is searched.
    """

    name: str
    title: str = ""
    trainer: str = "model.train:train"
    seed: int = Field(default=1, ge=0)
    storage: str = ""
    objective: Literal["val_loss"] = "val_loss"
    budget: BudgetSpec
    base: dict[str, Any] = Field(default_factory=dict)
    space: SearchSpace
    sampler: SamplerSpec = Field(default_factory=SamplerSpec)
    pruner: PrunerSpec = Field(default_factory=PrunerSpec)
    finals: FinalsSpec = Field(default_factory=FinalsSpec)
    promote: PromoteSpec = Field(default_factory=PromoteSpec)
    limits: LimitsSpec = Field(default_factory=LimitsSpec)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME_PATTERN.fullmatch(value):
            raise ValueError("a name may use a-z 0-9 . _ - and starts with a letter or digit")
        return value

    @field_validator("space")
    @classmethod
    def _something_to_search(cls, value: SearchSpace) -> SearchSpace:
        if not len(value):
            raise ValueError("the search space is empty; name at least one setting")
        return value

    def semantics(self) -> dict[str, Any]:
        """Returns everything that makes two trials of the study comparable, JSON-able.

        Names, deadlines, the number of trials and limits may change while a study goes on; these may not.
        """
        kept = {"trainer", "seed", "objective", "base", "space", "sampler", "pruner", "finals"}
        return {**self.model_dump(mode="json", include=kept), "budget": {"tokens": self.budget.tokens}}

    def fingerprint(self) -> str:
        """Returns a hash of `semantics`, 16 hexadecimal digits."""
        canonical = json.dumps(self.semantics(), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]


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


class StudyFileError(UserError):
    """Everything that is wrong with a study file, a line each."""


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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StudyFileError(f"{path}: no such study file{_suggest_file(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StudyFileError(f"{path}: cannot be read as UTF-8 text: {error}") from None
    raw = _parse(text, str(path))
    for change in changes:
        _merge(raw, _parse(change, f"--set {change}"))
    faults = _Faults(path, text)
    spec = _validate(raw, faults)
    trainer = None if spec is None else _trainer(spec, faults)
    if spec is not None and trainer is not None:
        spec = _completed(spec, trainer, faults)
    if faults.found or spec is None or trainer is None:
        raise StudyFileError("\n".join(faults.in_order()))
    return Study(spec, trainer, frozenset(flatten(raw.get("base", {}))), _as_text(raw, changes) if changes else text)


def _as_text(raw: Mapping[str, Any], changes: Sequence[str]) -> str:
    import tomli_w

    return "".join(f"# --set {change}\n" for change in changes) + tomli_w.dumps(raw)


def _parse(text: str, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r"\(at line (\d+), column \d+\)", str(error))
        line = f":{place.group(1)}" if place else ""
        message = re.sub(r" \(at .*\)$", "", str(error))
        raise StudyFileError(f"{source}{line}: not valid TOML: {message[:1].lower()}{message[1:]}") from None


def _merge(target: dict[str, Any], changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and isinstance(target.get(key), dict):
            _merge(target[key], value)
        else:
            target[key] = value


def _validate(raw: Mapping[str, Any], faults: _Faults) -> StudySpec | None:
    try:
        return StudySpec.model_validate(raw)
    except ValidationError as error:
        for fault in error.errors():
            faults.add_pydantic(fault, (), StudySpec)
        # What is left without the faulty parts may have faults of its own, and a person wants them all.
        return _without(raw, [fault["loc"] for fault in error.errors()])


def _without(raw: Mapping[str, Any], locations: Sequence[tuple[int | str, ...]]) -> StudySpec | None:
    """Returns the spec of a study file less its faulty parts, or None if no study is left."""
    rest: dict[str, Any] = {key: value for key, value in raw.items() if key in StudySpec.model_fields}
    for first, *others in locations:
        if first == "space" and others and isinstance(rest.get("space"), dict):
            rest["space"] = {path: entry for path, entry in rest["space"].items() if path != others[0]}
        else:
            rest.pop(str(first), None)
    try:
        return StudySpec.model_validate({"name": "unnamed", "budget": {"tokens": 1}, **rest})
    except ValidationError:
        return None


def _trainer(spec: StudySpec, faults: _Faults) -> Trainer | None:
    try:
        return load_trainer(spec.trainer)
    except UserError as error:
        faults.add(("trainer",), str(error).removeprefix(f'trainer = "{spec.trainer}": '))
    return None


def _completed(spec: StudySpec, trainer: Trainer, faults: _Faults) -> StudySpec:
    """Fills in the trainer's defaults and checks that the base and every corner of the space build."""
    try:
        base = trainer.complete(spec.base)
    except ValidationError as error:
        for fault in error.errors():
            faults.add_pydantic(fault, ("base",), None)
        return spec
    known = flatten(base)
    for path, dimension in spec.space.root.items():
        for name in [path, *dimension.when]:
            if name not in known:
                where = ("space", path) if name == path else ("space", path, "when")
                faults.add(where, f"the trainer has no setting {name!r}{_did_you_mean(name, known)}")
        if path in known and not dimension.contains(known[path]):
            faults.add(
                ("space", path),
                f"the base value {known[path]!r} is not within {dimension.describe()}; "
                "widen the range or change base, since the baseline is trial 0",
            )
    if not faults.found:
        _check_build(spec, trainer, base, faults)
    return spec.model_copy(update={"base": base})


def _check_build(spec: StudySpec, trainer: Trainer, base: Mapping[str, Any], faults: _Faults) -> None:
    for factory, table in ((_build_sampler, "sampler"), (_build_pruner, "pruner")):
        try:
            factory(spec)
        except (ValueError, TypeError, ImportError) as error:
            faults.add((table,), f"{getattr(spec, table).name}: {error}")
    for corner in spec.space.corners(base):
        try:
            trainer.complete(with_paths(base, corner))
        except ValidationError as error:
            settings = ", ".join(f"{path} = {value}" for path, value in corner.items())
            fault = error.errors()[0]
            path = ".".join(map(str, fault["loc"]))
            where = ("space", path) if path in spec.space.root else ("space",)
            faults.add(where, f"the trainer refuses the corner {settings}: {_message(fault)}")
            return


def _build_sampler(spec: StudySpec) -> None:
    samplers.build_sampler(spec.sampler.name, spec.sampler.options, spec.space, seed=0)


def _build_pruner(spec: StudySpec) -> None:
    pruners.build_pruner(spec.pruner.name, spec.pruner.options, spec.budget.tokens)


def _check_named(kind: str, name: str, names: list[str], options: Mapping[str, Any], parameters: Any) -> None:
    if name not in names:
        raise ValueError(f"there is no {kind} {name!r}{_did_you_mean(name, names)}; known: {', '.join(names)}")
    accepted = parameters(name) if options else []
    for option in options:
        if option not in accepted:
            raise ValueError(
                f"{kind} {name!r} has no parameter {option!r}{_did_you_mean(option, accepted)}; "
                f"it takes {', '.join(accepted) or 'none'}"
            )


def _did_you_mean(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=3)
    # Swapped letters are the commonest slip, and difflib does not rank them first.
    close.sort(key=lambda candidate: sorted(candidate) != sorted(name))
    return f', did you mean "{close[0]}"?' if close else ""


def _suggest_file(path: Path) -> str:
    folder = path.parent if path.parent.is_dir() else Path("studies")
    names = sorted(str(file) for file in folder.glob("*.toml")) if folder.is_dir() else []
    return f"; there is {', '.join(names)}" if names else ""


def _message(fault: Mapping[str, Any]) -> str:
    message = str(fault["msg"]).removeprefix("Value error, ")
    value = fault.get("input")
    if fault["type"] == "value_error" or isinstance(value, Mapping | BaseModel):
        return message
    return f"{message[:1].lower()}{message[1:]}, but it is {value!r}"


class _Faults:
    """Collects faults and finds the line of each in the file."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.found: list[tuple[int, str]] = []
        self._positions = key_lines(text)

    def add(self, location: Location, message: str) -> None:
        line = next(
            (self._positions[location[:n]] for n in range(len(location), 0, -1) if location[:n] in self._positions),
            1,
        )
        self.found.append((line, f"{'.'.join(location) or 'file'}: {message}"))

    def add_pydantic(self, fault: Any, prefix: Location, root: type[BaseModel] | None) -> None:
        location = prefix + tuple(str(part) for part in fault["loc"])
        if fault["type"] == "extra_forbidden":
            known = _known_keys(root, fault["loc"][:-1])
            self.add(location, f"unknown key{_did_you_mean(location[-1], known)}")
        elif fault["type"] == "missing":
            self.add(location, f"is missing; {_needed(location)}")
        else:
            self.add(location, _message(fault))

    def in_order(self) -> list[str]:
        """Returns the lines to print, in the order of the file."""
        return [f"{self.path}:{line} {message}" for line, message in sorted(self.found, key=lambda item: item[0])]


def _needed(location: Location) -> str:
    examples = {
        ("name",): 'add name = "my-study"',
        ("budget",): "add a [budget] table with tokens = 1_000_000",
        ("budget", "tokens"): "add tokens = 1_000_000 to [budget]",
        ("space",): 'add a [space] table, for example "optim.muon_lr" = {low = 0.003, high = 0.1, log = true}',
    }
    return examples.get(location, f"add {location[-1]}")


def _known_keys(root: type[BaseModel] | None, parents: Sequence[object]) -> list[str]:
    """Returns the keys that a table of the study file may have, for a suggestion."""
    from autotune.space import Dimension

    if root is None:
        return []
    if parents and parents[0] == "space":
        return list(Dimension.model_fields)
    model: Any = root
    for parent in parents:
        model = model.model_fields[str(parent)].annotation
    return list(model.model_fields)


def key_lines(text: str) -> dict[Location, int]:
    """Finds the line of every key and table header of a TOML text.

    The standard reader keeps no positions, so each line's key is read by itself with the same reader;
    keys inside an inline table share the line of the table.

    Args:
        text: TOML that parses.

    Returns:
        Line numbers from 1 by the path of keys.
    """
    positions: dict[Location, int] = {}
    table: Location = ()
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        try:
            if stripped.startswith("["):
                table = _only_path(tomllib.loads(stripped))
                location = table
            elif "=" in stripped and not stripped.startswith("#"):
                location = table + _key_of(stripped)
            else:
                continue
        except (tomllib.TOMLDecodeError, ValueError):
            continue
        for depth in range(1, len(location) + 1):
            positions.setdefault(location[:depth], number)
        positions[location] = number
    return positions


def _key_of(line: str) -> Location:
    for match in re.finditer("=", line):
        try:
            return _only_path(tomllib.loads(f"{line[: match.start()]}= 0"))
        except tomllib.TOMLDecodeError:
            continue
    raise ValueError("no key on this line")


def _only_path(nested: Any) -> Location:
    path: list[str] = []
    while isinstance(nested, dict | list) and nested:
        if isinstance(nested, list):
            nested = nested[0]
            continue
        key = next(iter(nested))
        path.append(key)
        nested = nested[key]
    return tuple(path)


def base_value(spec: StudySpec, path: str) -> Any:
    """Returns the baseline's value of a setting by dotted path."""
    return get_path(spec.base, path)
