"""The trainer that a study names as "package.module:function", and the type of its config."""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pydantic import TypeAdapter, ValidationError

from autotune.core.errors import UserError
from autotune.core.metric import Metric
from autotune.core.text import shortened, shown
from autotune.study.errors import did_you_mean
from autotune.study.trainer_interface import (
    CUSTOMARY_PATHS,
    CUSTOMARY_UNTRAINED,
    ROLES,
    RULES,
    Counter,
    Evaluator,
    MetricDeclaration,
    Preparer,
    Report,
    Role,
    Rule,
    TrainFunction,
    Writer,
)
from autotune.study.trainers_code import end_told, faults_told


@dataclass(frozen=True)
class Trainer:
    """A trainer and its config type.

    Args:
        name: "package.module:function".
        function: The function itself.
        config_type: Validates a nested mapping into the function's first argument.
        counter: Counts a configuration's work; None if the trainer does not.
        preparer: Gets ready what trainings need; None if the trainer does not.
        metric: What it reports.
        length_rules: Settings that depend on the length of a run, by dotted path, and what each of them is.
        writer: Writes text with a trained model; None if the trainer does not.
        evaluator: Measures a trained model; None if the trainer does not.
        setting_roles: Dotted paths of the settings that the engine may fill in, by role.
        untrained_settings: Beginnings of the dotted paths of settings that do not affect the loss, such as folders and
            the device.
    """

    name: str
    function: TrainFunction
    config_type: TypeAdapter[Any]
    counter: Counter | None = None
    length_rules: Mapping[str, Rule] = field(default_factory=dict)
    writer: Writer | None = None
    evaluator: Evaluator | None = None
    setting_roles: Mapping[str, str] = field(default_factory=lambda: CUSTOMARY_PATHS)
    untrained_settings: tuple[str, ...] = CUSTOMARY_UNTRAINED
    preparer: Preparer | None = None
    metric: Metric = field(default_factory=Metric)

    def path_of(self, role: Role) -> str | None:
        """Return the dotted path of the setting that has a role, None if the trainer has no such setting."""
        return self.setting_roles.get(role)

    def by_path(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return values of roles by the dotted paths of their settings, without those that no setting has.

        Args:
            values: Values by role.
        """
        return {self.setting_roles[role]: value for role, value in values.items() if role in self.setting_roles}

    def complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Validate a config and return it with every default filled in, nested and JSON-able.

        Raises:
            pydantic.ValidationError: If the trainer's config type refuses it.
            UserError: If the config type fails in another way.
        """
        with faults_told(self.name, "the type of its config fails"):
            checked = self.config_type.validate_python(config)
            completed = self.config_type.dump_python(checked, mode="json")
            if not isinstance(completed, Mapping):
                raise TypeError(f"it makes {shown(completed)} of a table of settings")

            # A plain table has no settings of its own, and the seed must reach every trainer.
            seed = {"seed": 0} if isinstance(checked, dict) and self.path_of("seed") == "seed" else {}
            return seed | dict(completed)

    def counts(self, config: Mapping[str, Any], facts: Mapping[str, Any]) -> Mapping[str, float] | None:
        """Return the counted work of a configuration, None if the trainer counts nothing."""
        if self.counter is None:
            return None
        with faults_told(self.name, "its function counts fails"):
            return self.counter(self.config_type.validate_python(config), facts)

    def prepare(
        self, configs: Sequence[Mapping[str, Any]], budget_tokens: int, say: Callable[[str], None]
    ) -> Mapping[str, Any]:
        """Get ready what trainings of some configurations need, and return what is known of the first."""
        if self.preparer is None:
            return {}
        checked = [self.config_type.validate_python(config) for config in configs]
        with end_told(self.name, "its function prepare_training fails"):
            return self.preparer(checked, budget_tokens, say)

    def run(self, config: Mapping[str, Any], budget_tokens: int, report: Report) -> dict[str, Any]:
        """Train a configuration and return the trainer's facts.

        Args:
            config: The nested config.
            budget_tokens: How long to train.
            report: Takes each evaluation under the engine's own names, whatever the trainer's are.
        """

        @functools.wraps(report)  # with `preparing`
        def renamed(point: Mapping[str, float]) -> bool | int:
            return report(reported(self.metric, point))

        facts = self.function(self.config_type.validate_python(config), budget_tokens, renamed)
        return dict(facts or {})


def metric_of(declared: MetricDeclaration) -> Metric:
    """Return a metric as the engine knows it."""
    return Metric(**declared.model_dump(exclude={"direction"}), maximize=declared.direction == "maximize")


def reported(metric: Metric, point: Mapping[str, float]) -> dict[str, float]:
    """Return a trainer's report under the engine's names: `tokens_seen`, and `val_loss`, of which less is better.

    One that uses these names itself may have another number under its own.

    Args:
        metric: What the trainer declares.
        point: What it reported.

    Raises:
        ValueError: If one of the two is missing; it is named as the trainer knows it.
    """
    renamed = {key: float(value) for key, value in point.items()}
    missing = []
    for own, engines in ((metric.budget_unit, "tokens_seen"), (metric.name, "val_loss")):
        if engines not in renamed and own in renamed:
            renamed[engines] = renamed.pop(own)
        if engines not in renamed:
            missing.append(engines if own in ("tokens", "loss") else own)
    if missing:
        raise ValueError(f"the trainer reported no {' and no '.join(missing)}; report(...) needs both")

    if metric.maximize and "val_loss" in renamed:
        renamed["val_loss"] = -renamed["val_loss"]
    return renamed


def load_trainer(name: str, from_here: bool = True) -> Trainer:
    """Import a trainer by name.

    Args:
        name: "package.module:function".
        from_here: Whether modules in the current folder can be imported, by the trainer also later on.

    Raises:
        UserError: If there is no such module or function, or it cannot be called as a trainer is.
    """
    module_name, _, function_name = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), function_name)):
        raise UserError(f'trainer = "{shortened(name, 120)}": write it as "package.module:function"')

    module = _import_module(name, module_name, from_here)
    with faults_told(name, f"{module_name} cannot be looked at"):
        function = _function_of(name, module, function_name)
        config_type = _config_type(name, function)

        return Trainer(
            name,
            function,
            config_type,
            counter=_callable_of(module, "counts"),
            preparer=_callable_of(module, "prepare_training"),
            metric=_metric(name, getattr(module, "metric", {})),
            length_rules=_length_rules(name, getattr(module, "length_rules", {})),
            writer=_callable_of(module, "generate_text"),
            evaluator=_callable_of(module, "evaluate_weights"),
            setting_roles=_setting_roles(name, getattr(module, "setting_roles", CUSTOMARY_PATHS)),
            untrained_settings=_untrained_settings(name, getattr(module, "untrained_settings", CUSTOMARY_UNTRAINED)),
        )


def _import_module(name: str, module_name: str, from_here: bool) -> ModuleType:
    with contextlib.suppress(FileNotFoundError):  # a working directory that was removed holds no module
        here = str(Path.cwd())
        if from_here and here not in sys.path:
            sys.path.append(here)

    hint = "; run autotune in the folder that holds it"
    # What a module prints must not get into the output of --json, nor may it take us to another folder.
    with faults_told(name, f"cannot import {module_name}", hint), _folder_kept(), _prints_to_stderr():
        return importlib.import_module(module_name)


@contextlib.contextmanager
def _folder_kept() -> Iterator[None]:
    try:
        with contextlib.chdir("."):
            yield
    except FileNotFoundError:
        # The folder that we are in was removed: there is nothing to come back to.
        if Path(".").exists():
            raise


@contextlib.contextmanager
def _prints_to_stderr() -> Iterator[None]:
    # None where the stream was closed before this process began.
    if sys.stderr is None:
        yield
        return
    with contextlib.redirect_stdout(sys.stderr):
        yield


def _function_of(name: str, module: ModuleType, function_name: str) -> Callable[..., Any]:
    function = getattr(module, function_name, None)
    if function is None:
        suggestion = did_you_mean(function_name, vars(module))
        raise UserError(f'trainer = "{name}": {name.partition(":")[0]} has no function {function_name}{suggestion}')

    if not callable(function):
        raise UserError(f'trainer = "{name}": {function_name} is not a function; it is {shown(function)}')
    if inspect.isclass(function):
        raise UserError(f'trainer = "{name}": {function_name} is a class; name a function')
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UserError(
            f'trainer = "{name}": {function_name} runs only when awaited or iterated; write a plain function'
        )
    checked: Callable[..., Any] = function
    return checked


def _callable_of(module: ModuleType, name: str) -> Any:
    """Return what a module has under a name if it can be called, else None."""
    value = getattr(module, name, None)
    return value if callable(value) else None


def _metric(name: str, declared: Any) -> Metric:
    """Return the metric that a module declares under the name `metric`; a function of that name is none."""
    if callable(declared):
        return Metric()
    try:
        checked = MetricDeclaration.model_validate(declared)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f'trainer = "{name}": its metric is {shown(declared)}: {key or "it"}: {first["msg"]}; write a mapping with '
            f"some of {', '.join(MetricDeclaration.model_fields)}"
        ) from None

    if checked.direction == "maximize" and checked.of_text:
        raise UserError(f'trainer = "{name}": its metric is a cross-entropy (of_text), which is minimised')
    return metric_of(checked)


def _length_rules(name: str, rules: Any) -> dict[str, Rule]:
    if not isinstance(rules, Mapping):
        raise UserError(
            f'trainer = "{name}": its length_rules must be a mapping of dotted paths; they are {shown(rules)}'
        )

    for path, rule in rules.items():
        if not isinstance(path, str) or rule not in RULES:
            raise UserError(
                f'trainer = "{name}": its length_rules call {path} a "{rule}"; the rules are {", ".join(RULES)}'
            )

    batches = [path for path, rule in rules.items() if rule == "batch"]
    if len(batches) > 1:
        raise UserError(
            f'trainer = "{name}": its length_rules call {" and ".join(batches)} a "batch"; name one of them, since a '
            "batch that is their product would grow twice"
        )
    return dict(rules)


def _setting_roles(name: str, roles: Any) -> dict[str, str]:
    if not isinstance(roles, Mapping):
        raise UserError(f'trainer = "{name}": its setting_roles must be a mapping of roles; they are {shown(roles)}')
    for role, path in roles.items():
        if role not in ROLES:
            raise UserError(
                f'trainer = "{name}": its setting_roles name an unknown role "{role}"; the roles are {", ".join(ROLES)}'
            )
        if not isinstance(path, str):
            raise UserError(f'trainer = "{name}": its setting_roles give {role} as {path!r}; write a dotted path')
    return dict(roles)


def _untrained_settings(name: str, paths: Any) -> tuple[str, ...]:
    is_list = isinstance(paths, list | tuple | set | frozenset)
    if not is_list or not all(isinstance(path, str) for path in paths):
        raise UserError(f'trainer = "{name}": its untrained_settings must be dotted paths; they are {shown(paths)}')
    return tuple(paths)


def _config_type(name: str, function: Callable[..., Any]) -> TypeAdapter[Any]:
    try:
        signature = inspect.signature(function, eval_str=True)
        signature.bind({}, 1, bool)
    except TypeError:
        raise UserError(f'trainer = "{name}": it must take three arguments: config, budget_tokens, report') from None
    except Exception as error:  # noqa: BLE001 - annotations may be any code
        # A name that is imported for type checkers alone, or a function that tells nothing of itself.
        raise _unusable_type(name, error) from None

    annotation = next(iter(signature.parameters.values())).annotation
    if annotation is inspect.Parameter.empty:
        raise UserError(f'trainer = "{name}": annotate its first parameter with the type of its config')
    try:
        return TypeAdapter(annotation)
    except Exception as error:  # noqa: BLE001 - a class that pydantic cannot read
        raise _unusable_type(name, error) from None


def _unusable_type(name: str, error: Exception) -> UserError:
    why = shortened(str(error).partition("\n")[0], 400)
    return UserError(f'trainer = "{name}": the type of its config cannot be used: {why}')
