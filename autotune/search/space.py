"""The search space: one dimension per dotted config path, which is also its Optuna name and its report label."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ConfigDict, RootModel, model_validator

from autotune.core.config_paths import get_path
from autotune.search.dimension import Dimension, Value, refusal

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

MAX_CORNERS = 256
"""Corners to build, to catch configurations that the trainer refuses.

Where a space has more, only the corners of all lowest and of all highest ends are built: the product of all ends would
take longer to build than it is worth."""

_MAX_PARTS = 10_000
"""Parts of a space whose settings are counted one part after the other."""
_ANY_OTHER = object()
"""Stands for all values of a setting that no condition names."""


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
            if path in late:
                raise refusal(f"{path!r} cannot depend on itself; name another setting", path, "when")
            if late:
                raise refusal(f"{late[0]!r} must be listed above {path!r}, which depends on it", path, "when")
            earlier.add(path)
        return self

    def with_ranges(self, ranges: Mapping[str, Sequence[Any]]) -> SearchSpace:
        """Return a copy in which some ranges have other ends, or some lists other choices.

        Args:
            ranges: Low and high, or the choices, by dotted path.
        """
        dimensions = dict(self.root)

        for path in ranges.keys() & dimensions.keys():
            dimension = dimensions[path]
            if dimension.choices is not None:
                dimensions[path] = dimension.model_copy(update={"choices": tuple(ranges[path])})
            else:
                low, high = ranges[path]
                dimensions[path] = dimension.model_copy(update={"low": low, "high": high})

        return SearchSpace(dimensions)

    def including(self, ranges: Mapping[str, Sequence[Any]]) -> SearchSpace:
        """Return a copy in which ranges of numbers reach as far as others do, too; lists of choices stay.

        Args:
            ranges: Numbers that are to be included, by dotted path.
        """
        wider = {}
        for path in ranges.keys() & self.root.keys():
            dimension = self.root[path]
            if dimension.choices is None:
                ends = (dimension.low, dimension.high, *ranges[path])
                wider[path] = (min(ends), max(ends))

        return self.with_ranges(wider)

    def at_limits(self) -> SearchSpace:
        """Return a copy in which every range is as wide as it may become."""
        limits = {path: dimension.limits for path, dimension in self.root.items() if dimension.limits is not None}
        return self.with_ranges(limits)

    @property
    def is_conditional(self) -> bool:
        """Whether any dimension depends on another."""
        return any(dimension.when for dimension in self.root.values())

    def suggest(self, trial: Trial, base: Mapping[str, Any]) -> dict[str, Value]:
        """Ask an Optuna trial for a value of every dimension whose condition holds.

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

    def propose(self, value_of: Callable[[str, BaseDistribution], Value], base: Mapping[str, Any]) -> dict[str, Value]:
        """Return a value of every dimension whose condition holds, as `suggest` does.

        Args:
            value_of: Takes a dotted path and Optuna's distribution, and returns a value.
            base: The nested base config, for conditions on settings that are not searched.
        """
        values: dict[str, Value] = {}
        for path, dimension in self.root.items():
            if _holds(dimension.when, values, base):
                values[path] = value_of(path, dimension.distribution())
        return values

    def every_setting(self, base: Mapping[str, Any], given: Mapping[str, Value]) -> Iterator[dict[str, Value]]:
        """Yield everything that `suggest` may return, each once; of a continuous range its ends alone.

        Args:
            base: The nested base config, for conditions on settings that are not searched.
            given: Settings by dotted path that have one value only.
        """
        paths = list(self.root)

        def completed(values: dict[str, Value], place: int) -> Iterator[dict[str, Value]]:
            if place == len(paths):
                yield values
                return

            path = paths[place]
            dimension = self.root[path]
            if not _holds(dimension.when, values, base):
                yield from completed(values, place + 1)
                return

            possible = (given[path],) if path in given else dimension.values()
            for value in possible:
                yield from completed({**values, path: value}, place + 1)

        return completed({}, 0)

    def num_settings(self, base: Mapping[str, Any], most: int) -> int:
        """Return how many different settings `suggest` may return, at most a given number.

        Args:
            base: The nested base config, for conditions on settings that are not searched.
            most: Counting ends there; it also ends, with this answer, where conditions cut the space into many parts.
        """
        total = 0.0
        for seen, size in enumerate(self._part_sizes(base)):
            total += size
            if total >= most or seen == _MAX_PARTS:
                return most
        return int(total)

    def _part_sizes(self, base: Mapping[str, Any]) -> Iterator[float]:
        """Yield how many settings there are for each combination of values that conditions tell apart."""
        paths = list(self.root)
        named: dict[str, list[Any]] = {}
        for dimension in self.root.values():
            for path, wanted in dimension.when.items():
                named.setdefault(path, []).extend(_accepted(wanted))

        def parts(values: dict[str, Any], place: int, size: float) -> Iterator[float]:
            for after, path in enumerate(paths[place:], start=place + 1):
                dimension = self.root[path]
                if not _holds(dimension.when, values, base):
                    continue
                if path not in named:
                    size *= dimension.size
                    continue

                own = [value for value in dict.fromkeys(named[path]) if dimension.is_one_of_its(value)]
                for value in own:
                    yield from parts({**values, path: value}, after, size)
                # No condition names the other values, so that they are alike.
                others = dimension.size - len(own)
                if others:
                    yield from parts({**values, path: _ANY_OTHER}, after, size * others)
                return
            yield size

        return parts({}, 0, 1.0)

    def active(self, values: Mapping[str, Any], base: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of the given values whose dimension's condition holds among them.

        Args:
            values: Settings by dotted path.
            base: The nested base config, for conditions on settings that are not searched.
        """
        kept: dict[str, Any] = {}
        for path, dimension in self.root.items():
            if path in values and _holds(dimension.when, kept, base):
                kept[path] = values[path]
        return kept

    def corners(self, base: Mapping[str, Any]) -> list[dict[str, Value]]:
        """Return the settings at the corners of the space, conditions respected, without duplicates.

        Args:
            base: The nested base config.

        Returns:
            Values by dotted path; only the lowest and the highest corner where there are more than `MAX_CORNERS`.
        """
        ends = [dimension.ends() for dimension in self.root.values()]

        combinations: Iterator[tuple[Value, ...]]
        if math.prod(map(len, ends)) <= MAX_CORNERS:
            combinations = itertools.product(*ends)
        else:
            lowest = tuple(values[0] for values in ends)
            highest = tuple(values[-1] for values in ends)
            combinations = iter((lowest, highest))

        corners: list[dict[str, Value]] = []
        for combination in combinations:
            corner = self.active(dict(zip(self.root, combination, strict=True)), base)
            if corner not in corners:
                corners.append(corner)
        return corners

    def defaults(self, base: Mapping[str, Any]) -> dict[str, Value]:
        """Return the base config's own value of every dimension, whether its condition holds or not."""
        return {path: get_path(base, path) for path in self.root}

    def baseline(self, base: Mapping[str, Any]) -> dict[str, Value]:
        """Return the base config's own values of the searched settings: the study's trial 0."""
        return self.active(self.defaults(base), base)


def _holds(when: Mapping[str, Any], values: Mapping[str, Any], base: Mapping[str, Any]) -> bool:
    """Return whether a condition holds: each named setting has the wanted value, or one of the wanted values."""
    for path, wanted in when.items():
        actual = values[path] if path in values else get_path(base, path)
        if actual not in _accepted(wanted):
            return False
    return True


def _accepted(wanted: Any) -> tuple[Any, ...]:
    """Return the values that a condition accepts of one setting."""
    return wanted if isinstance(wanted, tuple) else (wanted,)
