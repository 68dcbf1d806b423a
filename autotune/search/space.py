"""The search space: one dimension per dotted config path, which is also its Optuna name and its report label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, RootModel, model_validator
from pydantic_core import PydanticCustomError

from autotune.core.config_paths import get_path

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


def refusal(message: str, *key: str) -> PydanticCustomError:
    """Returns the error that a validator raises.

    Args:
        message: What is wrong, the value and what to do.
        key: Where, below the table that is validated; for the line in the study file.
    """
    return PydanticCustomError("refused", "{message}", {"message": message, "key": key})


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"must be a number, but it is {value!r}")
    if not math.isfinite(value):
        raise refusal(f"must be finite, but it is {value}")
    return value


def _plain(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise refusal(f"must be a number, a text, true or false, but it is {value!r}")
    return value


def _wanted(value: object) -> object:
    return value if isinstance(value, list | tuple) else _plain(value)


Number = Annotated[int | float, BeforeValidator(_number)]
Value = Annotated[bool | int | float | str, BeforeValidator(_plain)]
Wanted = Annotated[bool | int | float | str | tuple[Value, ...], BeforeValidator(_wanted)]

# Corners are built to catch a space that contains configurations the trainer refuses. Past this many the
# product of all ends would take longer to build than it is worth, and only the lowest and highest are kept.
MAX_CORNERS = 256
# Finer steps than these are a continuous range, and Optuna's decimals overflow on the finest.
MAX_STEPS = 1_000_000


class Dimension(BaseModel):
    """What one setting may be: a range (`low`, `high`, optional `log`, `step`) or a list of `choices`.

    A range of two integers is searched in integers. `limits` lets a range be widened, up to there, when its best value
    lies at an edge. `when` makes it conditional: the setting is only
    proposed where each named setting has (one of) the given value(s), and keeps its base value elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Number | None = None
    high: Number | None = None
    log: bool = False
    step: Number | None = None
    choices: tuple[Value, ...] | None = None
    limits: tuple[Number, Number] | None = None
    when: Mapping[str, Wanted] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Dimension:
        if self.choices is not None:
            self._check_choices(self.choices)
            if self.limits is not None:
                raise refusal("has both choices and limits; only a range can be widened", "limits")
        elif self.low is None or self.high is None:
            raise refusal("needs low and high, or choices")
        else:
            self._check_range(self.low, self.high)
            self._check_limits(self.low, self.high)
        return self

    def _check_choices(self, choices: tuple[Value, ...]) -> None:
        if self.low is not None or self.high is not None or self.log or self.step is not None:
            raise refusal("has both choices and a range; keep one of them")
        if not choices:
            raise refusal("choices is empty; name at least one value", "choices")
        if len(set(choices)) < len(choices):
            raise refusal(f"choices {list(choices)} names a value twice; keep one of each", "choices")

    def _check_range(self, low: Number, high: Number) -> None:
        if low > high:
            raise refusal(f"low {low} is above high {high}; swap them", "low")
        if self.log and low <= 0:
            raise refusal(f"log = true needs low above 0, but low is {low}", "low")
        if self.step is None:
            return
        if self.log:
            raise refusal("log and step cannot be combined; drop one of them", "step")
        if self.step <= 0:
            raise refusal(f"step must be above 0, but it is {self.step}", "step")
        points = _points(low, high, self.step)
        if points > MAX_STEPS:
            raise refusal(f"steps of {self.step} make more than {MAX_STEPS:,} values; leave step out", "step")
        last = _on_grid(low, self.step, points - 1)
        if last != high:
            raise refusal(f"steps of {self.step} from low {low} do not meet high {high}; write high = {last}", "step")

    def _check_limits(self, low: Number, high: Number) -> None:
        if self.limits is None:
            return
        lowest, highest = self.limits
        if self.step is not None:
            raise refusal("limits and step cannot be combined; drop one of them", "limits")
        if not lowest <= low <= high <= highest:
            raise refusal(f"limits {lowest} to {highest} do not hold the range {low} to {high}; widen them", "limits")
        if self.log and lowest <= 0:
            raise refusal(f"log = true needs limits above 0, but the lower one is {lowest}", "limits")
        if self.is_integer and not (isinstance(lowest, int) and isinstance(highest, int)):
            raise refusal(f"the range is searched in whole numbers, but limits are {lowest} to {highest}", "limits")

    @property
    def is_integer(self) -> bool:
        """Whether the range is searched in whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def distribution(self) -> BaseDistribution:
        """Returns it as Optuna knows it."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)
        assert self.low is not None and self.high is not None
        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), step=self.step, log=self.log)

    def suggest(self, trial: Trial, path: str) -> Value:
        """Asks an Optuna trial for a value of this dimension, under its dotted path."""
        if self.choices is not None:
            return cast(Value, trial.suggest_categorical(path, self.choices))
        assert self.low is not None and self.high is not None
        if self.is_integer:
            return trial.suggest_int(path, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(path, float(self.low), float(self.high), step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        """Whether a value could be proposed by this dimension (the grid of `step` is not checked)."""
        if self.choices is not None:
            return value in self.choices
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        assert self.low is not None and self.high is not None
        return self.low <= value <= self.high and (not self.is_integer or value == int(value))

    def is_on_grid(self, value: Any) -> bool:
        """Whether a value within the range is one of its steps; True for a range without steps."""
        if self.step is None or self.low is None:
            return True
        return (Fraction(str(value)) - Fraction(str(self.low))) % Fraction(str(self.step)) == 0

    def position(self, value: Any) -> float:
        """Returns where a value lies between the ends, from 0 to 1, on the dimension's own scale.

        Choices lie at even steps in their order.
        """
        if self.choices is not None:
            return self.choices.index(value) / max(1, len(self.choices) - 1)
        assert self.low is not None and self.high is not None
        if self.low == self.high:
            return 0.5
        scale = math.log if self.log else float
        return (scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))

    def at(self, position: float) -> Number:
        """Returns the value at a position, which may lie outside of 0 to 1; the inverse of `position` for ranges."""
        assert self.low is not None and self.high is not None
        if self.log:
            value: float = self.low * (self.high / self.low) ** position
        else:
            value = self.low + (self.high - self.low) * position
        return round(value) if self.is_integer else value

    def ends(self) -> tuple[Value, ...]:
        """Returns the values at the edges: both ends of a range, or every choice."""
        if self.choices is not None:
            return self.choices
        assert self.low is not None and self.high is not None
        return (self.low, self.high) if self.low != self.high else (self.low,)

    @property
    def count(self) -> int:
        """How many values there are.

        Raises:
            ValueError: If the range is continuous.
        """
        if self.choices is not None:
            return len(self.choices)
        assert self.low is not None and self.high is not None
        if not self.is_integer and self.step is None:
            raise ValueError(f"a grid needs choices or a step, but the range is {self.describe()}")
        return _points(self.low, self.high, self.step or 1)

    def grid(self) -> list[Value]:
        """Returns every value of a list of choices, or of a range of whole numbers or with a step.

        Raises:
            ValueError: If the range is continuous.
        """
        if self.choices is not None:
            return list(self.choices)
        assert self.low is not None
        return [_on_grid(self.low, self.step or 1, index) for index in range(self.count)]

    def describe(self) -> str:
        """Returns the dimension in a few words, as a person would write it."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))
        kind = " (log)" if self.log else ""
        return f"{self.low} to {self.high}{kind}"


def _points(low: Number, high: Number, step: Number) -> int:
    """Returns how many values lie on a grid, reading decimals as they are written: 0.3 is three steps of 0.1."""
    return (Fraction(str(high)) - Fraction(str(low))) // Fraction(str(step)) + 1


def _on_grid(low: Number, step: Number, index: int) -> Number:
    """Returns a value of a grid, by its index."""
    if isinstance(low, int) and isinstance(step, int):
        return low + index * step
    return float(Fraction(str(low)) + index * Fraction(str(step)))


class SearchSpace(RootModel[dict[str, Dimension]]):
    """All dimensions of a study, by dotted config path, in the order of the study file."""

    model_config = ConfigDict(frozen=True)

    def __iter__(self) -> Iterator[str]:  # type: ignore[override]
        return iter(self.root)

    def __len__(self) -> int:
        return len(self.root)

    def __getitem__(self, path: str) -> Dimension:
        return self.root[path]

    @model_validator(mode="after")
    def _conditions_come_first(self) -> SearchSpace:
        earlier: set[str] = set()
        for path, dimension in self.root.items():
            late = [name for name in dimension.when if name in self.root and name not in earlier]
            if late:
                raise refusal(f"{late[0]!r} must be listed above it to be a condition", path, "when")
            earlier.add(path)
        return self

    def with_ranges(self, ranges: Mapping[str, Sequence[Any]]) -> SearchSpace:
        """Returns a copy in which some ranges have other ends, or some lists other choices.

        Args:
            ranges: Low and high, or the choices, by dotted path.
        """

        def changed(path: str, dimension: Dimension) -> Dimension:
            if path not in ranges:
                return dimension
            if dimension.choices is not None:
                return dimension.model_copy(update={"choices": tuple(ranges[path])})
            low, high = ranges[path]
            return dimension.model_copy(update={"low": low, "high": high})

        return SearchSpace({path: changed(path, dimension) for path, dimension in self.root.items()})

    def at_limits(self) -> SearchSpace:
        """Returns a copy in which every range is as wide as it may become."""
        return self.with_ranges({path: each.limits for path, each in self.root.items() if each.limits is not None})

    @property
    def is_conditional(self) -> bool:
        """Whether any dimension depends on another."""
        return any(dimension.when for dimension in self.root.values())

    def suggest(self, trial: Trial, base: Mapping[str, Any]) -> dict[str, Value]:
        """Asks an Optuna trial for a value of every dimension whose condition holds.

        Args:
            trial: A running Optuna trial.
            base: The nested base config, for conditions on settings that are not searched.

        Returns:
            Values by dotted path.
        """
        values: dict[str, Value] = {}
        for path, dimension in self.root.items():
            if _holds(dimension.when, values, base):
                values[path] = dimension.suggest(trial, path)
        return values

    def active(self, values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """Returns those of the given values whose dimension's condition holds among them."""
        kept: dict[str, Any] = {}
        for path, dimension in self.root.items():
            if path in values and _holds(dimension.when, kept, base):
                kept[path] = values[path]
        return kept

    def corners(self, base: Mapping[str, Any]) -> list[dict[str, Value]]:
        """Returns the settings at the corners of the space, conditions respected, without doubles.

        Args:
            base: The nested base config.
        """
        ends = {path: dimension.ends() for path, dimension in self.root.items()}
        count = 1
        for values in ends.values():
            count *= len(values)
        if count > MAX_CORNERS:
            ends = {path: (values[0], values[-1]) for path, values in ends.items()}
            combinations: Iterator[tuple[Value, ...]] = zip(*ends.values(), strict=True)
        else:
            combinations = itertools.product(*ends.values())
        found: list[dict[str, Value]] = []
        for combination in combinations:
            corner = self.active(dict(zip(ends, combination, strict=True)), base)
            if corner not in found:
                found.append(corner)
        return found

    def defaults(self, base: Mapping[str, Any]) -> dict[str, Value]:
        """Returns the base config's own value of every dimension, whether its condition holds or not."""
        return {path: get_path(base, path) for path in self.root}

    def baseline(self, base: Mapping[str, Any]) -> dict[str, Value]:
        """Returns the base config's own values of the searched settings: the study's trial 0."""
        return self.active(self.defaults(base), base)


def _holds(when: Mapping[str, Any], values: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    for path, wanted in when.items():
        actual = values[path] if path in values else get_path(base, path)
        if actual not in (wanted if isinstance(wanted, tuple) else (wanted,)):
            return False
    return True
