"""One dimension of a search space: what one setting may be, and how Optuna is asked for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Any, cast

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator
from pydantic_core import PydanticCustomError

from autotune.core.text import shown

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution


def refusal(message: str, *key: str) -> PydanticCustomError:
    """Return the error that a validator of a study file's table raises.

    Args:
        message: What is wrong, the value and what to do.
        key: Keys from the validated table to the entry that is wrong; they lead to its line in the study file.
    """
    return PydanticCustomError("refused", "{message}", {"message": message, "key": key})


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise refusal(f"must be a number, but it is {shown(value)}")
    _require_finite(value)
    if isinstance(value, int) and abs(value) > _MAX_WHOLE:
        raise refusal(
            f"is beyond {_MAX_WHOLE:,} (2^53), above which whole numbers cannot be told apart in storage; "
            "choose a smaller range, or write it with decimal points"
        )
    return value


def _plain(value: object) -> object:
    if not isinstance(value, bool | int | float | str):
        raise refusal(f"must be a number, text, true or false, but it is {shown(value)}")
    _require_finite(value)
    return value


def _require_finite(value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise refusal(f"must be finite, but it is {value}")


def _condition(value: object) -> object:
    return value if isinstance(value, list | tuple) else _plain(value)


Number = Annotated[int | float, BeforeValidator(_number)]
Value = Annotated[bool | int | float | str, BeforeValidator(_plain)]
_Condition = Annotated[bool | int | float | str | tuple[Value, ...], BeforeValidator(_condition)]

# The most values of a range with a fraction as step. More are as good as continuous, and Optuna's decimals overflow on
# the finest.
_MAX_VALUES = 1_000_000
# The most choices: Optuna stores all of them with each trial.
_MAX_CHOICES = 1_000
# Optuna stores whole numbers as floating-point ones.
_MAX_WHOLE = 2**53


class Dimension(BaseModel):
    """What one setting may be: a range (`low`, `high`, optional `log`, `step`) or a list of `choices`.

    A range of two integers is searched in integers. `limits` lets a range be widened, up to there, when its best value
    lies at an edge. `when` makes the dimension conditional: the setting is only proposed where each named setting has
    the given value, or one of the given values, and keeps its base value elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: Number | None = None
    high: Number | None = None
    log: StrictBool = False
    step: Number | None = None
    choices: tuple[Value, ...] | None = None
    limits: tuple[Number, Number] | None = None
    when: Mapping[str, _Condition] = Field(default_factory=dict)

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
        if len(choices) > _MAX_CHOICES:
            raise refusal(
                f"choices lists {len(choices):,} values, more than {_MAX_CHOICES:,}; write a range with low and high",
                "choices",
            )
        if len(set(choices)) < len(choices):
            raise refusal(f"choices {shown(list(choices))} lists a value twice; keep one of each", "choices")

    def _check_range(self, low: Number, high: Number) -> None:
        if low > high:
            raise refusal(f"low {low} is above high {high}; swap them", "low")
        if math.isinf(float(high) - float(low)):
            raise refusal(f"the range {low} to {high} is wider than numbers can be; narrow it")
        if self.log and low <= 0:
            raise refusal(f"log = true needs low above 0, but low is {low}", "low")

        if self.step is None:
            return
        if self.log:
            raise refusal("log and step cannot be combined; drop one of them", "step")

        if self.step <= 0:
            raise refusal(f"step must be above 0, but it is {self.step}", "step")
        num_values = _num_values(low, high, self.step)
        if num_values > _MAX_VALUES and not self.is_integer:
            raise refusal(f"steps of {self.step} make more than {_MAX_VALUES:,} values; leave step out", "step")

        last = _on_grid(low, self.step, num_values - 1)
        if last != high:
            raise refusal(f"steps of {self.step} from low {low} do not end at high {high}; write high = {last}", "step")

    def _check_limits(self, low: Number, high: Number) -> None:
        if self.limits is None:
            return
        lowest, highest = self.limits

        if self.step is not None:
            raise refusal("limits and step cannot be combined; drop one of them", "limits")
        if not lowest <= low <= high <= highest:
            raise refusal(
                f"limits {lowest} to {highest} do not include the range {low} to {high}; widen them", "limits"
            )
        if self.log and lowest <= 0:
            raise refusal(f"log = true needs limits above 0, but the lower one is {lowest}", "limits")
        if self.is_integer and not (isinstance(lowest, int) and isinstance(highest, int)):
            raise refusal(
                f"the range is searched in whole numbers, but limits are {lowest} to {highest}; write whole numbers",
                "limits",
            )

    @property
    def is_integer(self) -> bool:
        """Whether the range is searched in whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int) and not isinstance(self.step, float)

    def distribution(self) -> BaseDistribution:
        """Return Optuna's distribution of the values."""
        from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

        if self.choices is not None:
            return CategoricalDistribution(self.choices)

        assert self.low is not None and self.high is not None
        if self.is_integer:
            return IntDistribution(int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return FloatDistribution(float(self.low), float(self.high), step=self.step, log=self.log)

    def suggest(self, trial: Trial, path: str) -> Value:
        """Ask an Optuna trial for a value of this dimension, under its dotted path."""
        if self.choices is not None:
            return cast(Value, trial.suggest_categorical(path, self.choices))

        assert self.low is not None and self.high is not None
        if self.is_integer:
            return trial.suggest_int(path, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(path, float(self.low), float(self.high), step=self.step, log=self.log)

    def contains(self, value: object) -> bool:
        """Return whether this dimension could propose a value; whether it is one of the steps is not checked."""
        if self.choices is not None:
            return value in self.choices

        if isinstance(value, bool) or not isinstance(value, int | float):
            return False

        assert self.low is not None and self.high is not None
        return self.low <= value <= self.high and (not self.is_integer or value == int(value))

    def is_on_grid(self, value: Any) -> bool:
        """Return whether a value within the range is one of its steps; True for a range without steps."""
        if self.step is None or self.low is None:
            return True

        # Decimals are read as they are written: 0.3 is three steps of 0.1, which binary fractions are not.
        return (Fraction(str(value)) - Fraction(str(self.low))) % Fraction(str(self.step)) == 0

    def position(self, value: Any) -> float:
        """Return where a value lies between the ends, from 0 to 1, on the dimension's own scale.

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
        """Return the value at a position, which may lie outside of 0 to 1; the inverse of `position` for ranges."""
        assert self.low is not None and self.high is not None

        if self.log:
            value: float = self.low * (self.high / self.low) ** position
        else:
            value = self.low + (self.high - self.low) * position

        return round(value) if self.is_integer else value

    def ends(self) -> tuple[Value, ...]:
        """Return the values at the edges: both ends of a range, or every choice."""
        if self.choices is not None:
            return self.choices

        assert self.low is not None and self.high is not None
        if self.low == self.high:
            return (self.low,)
        return (self.low, self.high)

    @property
    def num_values(self) -> int:
        """The number of different values.

        Raises:
            ValueError: If the range is continuous.
        """
        if self.choices is not None:
            return len(self.choices)

        assert self.low is not None and self.high is not None
        if not self.is_integer and self.step is None:
            raise ValueError(f"a grid needs choices or a step, but the range is {self.describe()}")
        return _num_values(self.low, self.high, self.step or 1)

    @property
    def size(self) -> float:
        """The number of different values; infinite for a continuous range."""
        if self.choices is None and not self.is_integer and self.step is None:
            return math.inf
        return self.num_values

    def is_one_of_its(self, value: Any) -> bool:
        """Return whether this dimension could propose a value."""
        return self.contains(value) and self.is_on_grid(value)

    def grid(self) -> list[Value]:
        """Return every value of a list of choices, or of a range of whole numbers or with a step.

        Raises:
            ValueError: If the range is continuous.
        """
        if self.choices is not None:
            return list(self.choices)

        assert self.low is not None
        return [self.value(index) for index in range(self.num_values)]

    def value(self, index: int) -> Value:
        """Return one of the values that `grid` would list, which may be too many to list.

        Args:
            index: From 0 to `num_values` - 1.
        """
        if self.choices is not None:
            return self.choices[index]

        assert self.low is not None
        return _on_grid(self.low, self.step or 1, index)

    def values(self) -> Iterable[Value]:
        """Return every value, one after the other; of a continuous range its ends alone."""
        if math.isinf(self.size):
            return self.ends()
        return map(self.value, range(self.num_values))

    def describe(self) -> str:
        """Return the dimension in a few words, as a person would write it."""
        if self.choices is not None:
            return "one of " + ", ".join(map(str, self.choices))

        kind = " (log)" if self.log else ""
        return f"{self.low} to {self.high}{kind}"


def _num_values(low: Number, high: Number, step: Number) -> int:
    """Return how many values lie on a grid, reading decimals as they are written: 0.3 is three steps of 0.1."""
    return (Fraction(str(high)) - Fraction(str(low))) // Fraction(str(step)) + 1


def _on_grid(low: Number, step: Number, index: int) -> Number:
    """Return a value of a grid, by its index."""
    if isinstance(low, int) and isinstance(step, int):
        return low + index * step

    return float(Fraction(str(low)) + index * Fraction(str(step)))
