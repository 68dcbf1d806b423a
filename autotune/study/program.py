"""A study file that sweeps a program through its command line, made into one with a trainer."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict
from typing import Any

from autotune.core.config_paths import flatten
from autotune.study import command_trainer
from autotune.study.errors import StudyFileErrors, did_you_mean
from autotune.study.spec import StudySpec
from autotune.study.trainer import metric_of
from autotune.study.trainer_interface import MetricDeclaration


def with_program(spec: StudySpec, errors: StudyFileErrors) -> StudySpec:
    """Return a study whose trainer runs its program; one that names a trainer is returned as it is.

    Args:
        spec: What the study file says.
        errors: Collects what is wrong with what it says of a program.
    """
    if not spec.command:
        for key in ("pattern", "metric"):
            if getattr(spec, key):
                errors.add((key,), f"{key} belongs to a command; a trainer's module declares what it reports itself")
        return spec

    if spec.trainer not in (StudySpec.model_fields["trainer"].default, command_trainer.NAME):
        errors.add(("command",), "a study has a trainer or a command, and not both; remove one of them")
    if command_trainer.SECTION in spec.base:
        errors.add(("base", command_trainer.SECTION), "a program cannot have a setting of this name; choose another")
    metric = spec.metric or MetricDeclaration()
    _check_pattern(spec.pattern, metric, errors)
    _check_line(spec, errors)

    asked = {"line": spec.command, "pattern": spec.pattern, "metric": asdict(metric_of(metric))}
    base = {**spec.base, command_trainer.SECTION: asked}
    return spec.model_copy(update={"trainer": command_trainer.NAME, "metric": metric, "base": base})


def _check_pattern(pattern: str, metric: MetricDeclaration, errors: StudyFileErrors) -> None:
    try:
        groups = re.compile(pattern).groupindex
    except re.error as error:
        errors.add(("pattern",), f"it is no regular expression: {error}")
        return

    missing = [name for name in (metric.name, metric.budget_unit) if pattern and name not in groups]
    if missing:
        wanted = " and ".join(f"(?P<{name}>[0-9.e+-]+)" for name in missing)
        errors.add(("pattern",), f"it has no group {wanted}, by which a line would be an evaluation")


def _check_line(spec: StudySpec, errors: StudyFileErrors) -> None:
    try:
        shlex.split(spec.command)
    except ValueError as error:
        errors.add(("command",), f"it cannot be split into arguments: {error}")
        return

    named = set(command_trainer.placeholders(spec.command))
    known: dict[str, Any] = {**flatten(spec.base), "seed": spec.seed, command_trainer.BUDGET: spec.budget.tokens}
    for name in sorted(named - known.keys()):
        errors.add(("command",), f"[base] has no {name}, which it names{did_you_mean(name, known)}")

    for path in spec.space.root:
        if path not in named:
            errors.add(("space", path), f"the command does not name {{{path}}}, so it would change nothing")
    if "seed" not in named and spec.finals.runs:
        errors.add(
            ("command",),
            "it does not name {seed}, so runs on fresh seeds would prove nothing; pass the seed on, or write "
            "finals.finalists = 0 for a search without proof",
        )
