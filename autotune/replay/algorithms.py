"""Samplers and pruners read from the command line, and those that cannot be replayed on a table."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import TypeVar

from autotune.core.errors import UserError
from autotune.replay.table import Table
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.checks import algorithm_errors

_Spec = TypeVar("_Spec", SamplerSpec, PrunerSpec)


def parse_sampler(text: str) -> SamplerSpec:
    """Read a sampler from the command line.

    Args:
        text: Its name, or an inline table of a study file.

    Raises:
        UserError: If there is no such sampler or option.
    """
    return _parse(text, SamplerSpec)


def parse_pruner(text: str) -> PrunerSpec:
    """Read a pruner from the command line.

    Args:
        text: Its name, or an inline table of a study file.

    Raises:
        UserError: If there is no such pruner or option.
    """
    return _parse(text, PrunerSpec)


def _parse(text: str, kind: type[_Spec]) -> _Spec:
    from pydantic import ValidationError

    options = {"name": text}
    try:
        if text.startswith("{"):
            options = tomllib.loads(f"it = {text}")["it"]

        return kind.model_validate(options)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{text}: {error}; write it as in a study file: '{{name = \"tpe\"}}'") from None
    except ValidationError as error:
        raise UserError("\n".join(f"{text}: {fault['msg']}" for fault in error.errors())) from None


def check(table: Table, sampler: SamplerSpec, pruner: PrunerSpec) -> None:
    """Refuse what cannot be replayed on a table.

    Args:
        table: The table.
        sampler: As in a study file.
        pruner: As in a study file.

    Raises:
        UserError: Saying why.
    """
    if sampler.name in ("grid", "brute_force"):
        raise UserError(
            f"{sampler.name} tries all combinations, whatever they measure, so a replay says nothing about it; "
            "choose another --sampler"
        )

    if pruner.name == "wilcoxon":
        raise UserError(
            "wilcoxon compares trials by their seeds, and a table's rows have one each; choose another --pruner"
        )

    spec = table.spec
    if spec.objective != "loss_at_equal_tokens":
        raise UserError(
            f"{spec.name} has the objective {spec.objective}, and a replay compares losses at equal tokens; record one "
            "with --set 'objective=\"loss_at_equal_tokens\"'"
        )

    faults = algorithm_errors(sampler, pruner, spec.space, spec.base, spec.budget.tokens)
    if faults:
        raise UserError("\n".join(_told(location, fault) for location, fault in faults))


def _told(location: Sequence[str], fault: str) -> str:
    # What is said of a whole sampler or pruner begins with its name.
    return fault if len(location) == 1 else f"{'.'.join(location)}: {fault}"
