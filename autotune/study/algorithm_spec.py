"""The sampler and the pruner that a study file names, with parameters under Optuna's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.core.text import shown
from autotune.search import pruners, samplers
from autotune.search.dimension import refusal
from autotune.study.errors import did_you_mean
from autotune.study.plain_types import Real

_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}


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
    name: str = "rank"
    audit_frac: Real = Field(default=0.03, ge=0, le=1)

    @model_validator(mode="after")
    def _known(self) -> PrunerSpec:
        _check_named("pruner", self.name, list(pruners.PRUNERS), self.options, pruners.parameters)
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The parameters of the pruner itself."""
        return dict(self.__pydantic_extra__ or {})


def _check_named(
    kind: str,
    name: str,
    names: list[str],
    options: Mapping[str, Any],
    parameters: Callable[[str], dict[str, list[str]]],
) -> None:
    """Refuse a sampler or pruner that does not exist, and parameters that it does not have."""
    if name not in names:
        raise refusal(
            f"there is no {kind} {name!r}{did_you_mean(name, names)}; the {kind}s are {', '.join(names)}", "name"
        )

    accepted = parameters(name) if options else {}
    for option, value in options.items():
        if option not in accepted:
            raise refusal(
                f"{kind} {name!r} has no parameter {option!r}{did_you_mean(option, accepted)}; "
                f"it takes {', '.join(accepted) or 'none'}",
                option,
            )
        if not samplers.is_of_type(value, accepted[option]):
            wanted = " or ".join(_WORDS[kind] for kind in accepted[option])
            raise refusal(f"must be {wanted}, but it is {shown(value)}", option)
