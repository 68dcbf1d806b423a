"""A study file: TOML -> a validated StudySpec, every error at once with its file and line."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from autotune import objectives, pruners, samplers, trackers
from autotune.faults import Faults, Location, StudyFileError, did_you_mean, no_setting, parse, salvage
from autotune.objectives import Objective
from autotune.records import UserError
from autotune.space import Dimension, SearchSpace, Value, flatten, refusal, with_paths
from autotune.trainer import Trainer, load_trainer

NAME_PATTERN = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
# Stand in for required parts that are missing or faulty, while the rest of a file is looked through.
_STAND_INS: dict[str, Any] = {"name": "unnamed", "budget": {"tokens": 1}, "space": {"": {"choices": [0]}}}


# Pairs that the finals go on to at the most, for each that they begin with.
MOST_SEEDS = 4


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class BudgetSpec(_Table):
    """How much the study may spend.

    Args:
        tokens: Training tokens of one trial.
        trials: Trials at most, the baseline included.
        seeds: Seeds that each trial trains one after the other; its loss is their mean, and what is compared before its
            end are their final losses (pruner "wilcoxon").
        hours: Hours for everything (search, finals, report and an automatic promotion), or None.
        until: Local time of day "HH:MM" at which everything must be done, or None.
        ends_early: Whether the search ends when more trials would hardly bring a gain that can be proved.
        match_epochs: Whether trials get less text where the full run reads its text more than once, so that they read
            theirs as often, if the trainer has `data.train_tokens`.
    """

    tokens: int = Field(gt=0)
    trials: int = Field(default=40, ge=1)
    seeds: int = Field(default=1, ge=1)
    hours: float | None = Field(default=None, gt=0)
    until: str | None = None
    ends_early: bool = True
    match_epochs: bool = True

    @field_validator("until")
    @classmethod
    def _time_of_day(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"([01]\d|2[0-3]):[0-5]\d", value):
            raise refusal(f'"{value}" is no time of day; write it as "HH:MM", for example "07:00"')
        return value


class SamplerSpec(BaseModel):
    """Which Optuna sampler proposes settings; further keys are its parameters under Optuna's names."""

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "gp"

    @model_validator(mode="after")
    def _known(self) -> SamplerSpec:
        _check_named("sampler", self.name, list(samplers.SAMPLERS), self.options, samplers.parameters)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The parameters beside the name."""
        return dict(self.__pydantic_extra__ or {})


class PrunerSpec(BaseModel):
    """Which Optuna pruner stops poor trials; further keys are its parameters, steps in tokens.

    Args:
        name: A key of `pruners.PRUNERS`.
        audit_frac: Share of the trials to be stopped that run on, to tell how many good ones are lost.
    """

    model_config = ConfigDict(extra="allow", frozen=True)
    name: str = "median"
    audit_frac: float = Field(default=0.1, ge=0, le=1)

    @model_validator(mode="after")
    def _known(self) -> PrunerSpec:
        _check_named("pruner", self.name, list(pruners.PRUNERS), self.options, pruners.parameters)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The parameters of the pruner itself."""
        return dict(self.__pydantic_extra__ or {})


class FinalsSpec(_Table):
    """How the winner is proved.

    Args:
        finalists: Best search trials that are re-run; 0 leaves everything unproven, which suits a search whose
            records are what is wanted.
        select_seeds: Fresh seeds on which the winner is chosen among several finalists.
        prove_seeds: Further fresh seeds on which the winner is compared with the baseline, in pairs. The baseline's
            part of them is trained before the search and says how large the noise is.
        max_seeds: Seeds to go on to, doubling, while the pairs do not decide; 0 means 4 times prove_seeds.
        min_gain_frac: Smallest gain worth having, as a share of the baseline's loss.
        attribute_seeds: Proving seeds on which a better winner's changes are taken back one by one, to tell which of
            them gave what; 0 leaves that out.
    """

    finalists: int = Field(default=2, ge=0)
    select_seeds: int = Field(default=1, ge=1)
    prove_seeds: int = Field(default=4, ge=2)
    max_seeds: int = Field(default=0, ge=0)
    min_gain_frac: float = Field(default=0.005, gt=0, lt=1)
    attribute_seeds: int = Field(default=3, ge=0)

    @model_validator(mode="after")
    def _seeds_are_enough(self) -> FinalsSpec:
        if 0 < self.max_seeds < self.prove_seeds:
            raise refusal(f"max_seeds {self.max_seeds} is below prove_seeds {self.prove_seeds}; raise it", "max_seeds")
        if self.attribute_seeds == 1:
            raise refusal(
                "attribute_seeds is 1, but noise shows only between seeds; write 2 or more, or 0", "attribute_seeds"
            )
        return self

    @property
    def looks(self) -> list[int]:
        """Pairs after which the verdict is looked at, as long as it is not decided."""
        pairs, most = [self.prove_seeds], self.max_seeds or MOST_SEEDS * self.prove_seeds
        while pairs[-1] < most:
            pairs.append(min(2 * pairs[-1], most))
        return pairs

    @property
    def runs(self) -> int:
        """Trainings that the finals take if the first look decides."""
        if not self.finalists:
            return 0
        return (self.finalists * self.select_seeds if self.finalists > 1 else 0) + 2 * self.prove_seeds


class PromoteSpec(_Table):
    """The full run that follows the study.

    Args:
        tokens: Its training tokens; 0 means 8 times a trial's.
        automatic: Whether `autotune run` goes on into it when the finals are done.
        bracket: Whether other learning rates are tried at two lengths before a run of 8 times a trial's length or more,
            if there is time.
        num_evals: Evaluations of it, if the trainer has `data.num_evals`; 0 means as dense as the trials', 100 at most.
    """

    tokens: int = Field(default=0, ge=0)
    automatic: bool = False
    bracket: bool = True
    num_evals: int = Field(default=0, ge=0)


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
        objective: What a trial is judged by: "loss_at_equal_tokens"; "loss_at_equal_seconds", where `budget.tokens` are
            the baseline's and every other configuration gets what it trains on in the same time; or
            "loss_and_seconds", where trials of equal tokens are judged by both.
        base: The baseline: settings that differ from the trainer's defaults, nested.
        space: What is searched.
        enqueue: Settings by dotted path to try first, right after the baseline; those left out are proposed.
        warm_start: Run directories of earlier studies: their good settings are tried next, and their trials teach the
            sampler where they are comparable.
        trackers: Experiment trackers that follow the study: "tensorboard", "wandb" (offline), "trackio".
    """

    name: str
    title: str = ""
    trainer: str = "model.train:train"
    seed: int = Field(default=1, ge=0)
    storage: str = ""
    objective: Objective = "loss_at_equal_tokens"
    budget: BudgetSpec
    base: dict[str, Any] = Field(default_factory=dict)
    space: SearchSpace
    enqueue: tuple[dict[str, Value], ...] = ()
    warm_start: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()
    sampler: SamplerSpec = Field(default_factory=SamplerSpec)
    pruner: PrunerSpec = Field(default_factory=PrunerSpec)
    finals: FinalsSpec = Field(default_factory=FinalsSpec)
    promote: PromoteSpec = Field(default_factory=PromoteSpec)
    limits: LimitsSpec = Field(default_factory=LimitsSpec)

    @field_validator("name")
    @classmethod
    def _plain_name(cls, value: str) -> str:
        if not NAME_PATTERN.fullmatch(value):
            raise refusal(
                f'"{value}" is no name; it may use a-z 0-9 . _ - (64 at most) and starts with a letter or digit'
            )
        # These folders of runs/ hold comparisons and tokens; the endings name a study's own finals and full runs.
        if value in ("compare", "corpus") or re.search(r"\.(finals$|full-)", value):
            raise refusal(f'the name "{value}" is taken by the program itself; choose another')
        return value

    @field_validator("objective", mode="before")
    @classmethod
    def _todays_name(cls, value: object) -> object:
        return objectives.EARLIER_NAMES.get(value, value) if isinstance(value, str) else value

    @field_validator("space")
    @classmethod
    def _something_to_search(cls, value: SearchSpace) -> SearchSpace:
        if not len(value):
            raise refusal(
                'nothing is searched; name at least one setting, such as "optim.muon_lr" = {low = 0.003, high = 0.1}'
            )
        return value

    @model_validator(mode="after")
    def _seeds_suit(self) -> StudySpec:
        if self.budget.seeds > 1 and self.pruner.name not in ("wilcoxon", "none"):
            raise refusal('trials of several seeds are compared by seeds; use "wilcoxon" or "none"', "pruner", "name")
        if self.budget.seeds == 1 and self.pruner.name == "wilcoxon":
            raise refusal('"wilcoxon" compares trials by their seeds; write budget.seeds = 5 or more', "pruner", "name")
        if self.budget.seeds > 1 and objectives.count(self.objective) > 1:
            raise refusal("trials of several seeds have one value, their mean loss; leave seeds out", "budget", "seeds")
        return self

    def attributing_runs(self, changes: int | None = None) -> int:
        """Returns how many trainings tell at the most which change gave what.

        They are the winner without each change, the path from the default between its ends, and what is left
        without ties.

        Args:
            changes: Settings that the winner changes; all that are searched by default.
        """
        count = len(self.space) if changes is None else changes
        return self.finals.attribute_seeds * (2 * count - 1) if count > 1 and self.finals.runs else 0

    def semantics(self) -> dict[str, Any]:
        """Returns everything that makes two trials of the study comparable, JSON-able.

        Names, deadlines, the number of trials and limits may change while a study goes on; these may not.
        """
        kept = {"trainer", "seed", "objective", "base", "space", "sampler", "pruner", "finals"}
        budget = {"tokens": self.budget.tokens, "seeds": self.budget.seeds}
        return {**self.model_dump(mode="json", include=kept), "budget": budget}

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
    known = list(trackers.TRACKERS)
    if name not in known:
        return f'there is no tracker "{name}"{did_you_mean(name, known)}; known: {", ".join(known)}'
    if not trackers.is_installed(name):
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


def _check_named(kind: str, name: str, names: list[str], options: Mapping[str, Any], parameters: Any) -> None:
    if name not in names:
        raise refusal(f"there is no {kind} {name!r}{did_you_mean(name, names)}; known: {', '.join(names)}", "name")
    accepted = parameters(name) if options else {}
    for option, value in options.items():
        if option not in accepted:
            raise refusal(
                f"{kind} {name!r} has no parameter {option!r}{did_you_mean(option, accepted)}; "
                f"it takes {', '.join(accepted) or 'none'}",
                option,
            )
        if not samplers.is_of_type(value, accepted[option]):
            raise refusal(f"must be {' or '.join(accepted[option])}, but it is {value!r}", option)


def _suggest_file(path: Path) -> str:
    near = path.parent.glob("*.toml") if path.suffix == ".toml" else ()
    names = sorted(str(file) for file in {*near, *Path("studies").glob("*.toml")} if file.name != "pyproject.toml")
    return did_you_mean(str(path), names) or (f"; there is {', '.join(names)}" if names else "")
