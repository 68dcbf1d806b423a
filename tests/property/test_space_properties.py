"""Properties of the search space: proposals stay inside, paths set what they name, flattening loses nothing."""

from __future__ import annotations

from typing import Any

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from space_strategies import dimensions

from autotune.core.config_paths import flatten, get_path, with_paths
from autotune.search.dimension import Dimension
from autotune.search.space import SearchSpace

optuna.logging.set_verbosity(optuna.logging.WARNING)
NAMES = st.text("abcdef_", min_size=1, max_size=6)
LEAVES = st.one_of(st.integers(-9, 9), st.floats(-9, 9), st.booleans(), st.text(max_size=3), st.none())
NESTED = st.dictionaries(
    NAMES, st.recursive(LEAVES, lambda inner: st.dictionaries(NAMES, inner, min_size=1, max_size=3)), min_size=1
)


@settings(deadline=None, max_examples=100)
@given(entry=dimensions(), seed=st.integers(0, 2**31))
def test_a_proposal_lies_within_its_dimension(entry: Dimension, seed: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=seed))
    value = entry.suggest(study.ask(), "x")
    assert entry.contains(value)
    assert isinstance(value, int) == (entry.choices is not None or entry.is_integer)


@settings(deadline=None, max_examples=60)
@given(entry=dimensions())
def test_the_ends_can_be_proposed_and_the_grid_lies_between_them(entry: Dimension) -> None:
    assert all(entry.contains(end) for end in entry.ends())
    if entry.step is not None:
        grid = entry.grid()
        assert grid[0] == entry.low
        assert grid[-1] == entry.high
        assert grid == sorted(set(grid))


@settings(deadline=None, max_examples=60)
@given(entries=st.lists(dimensions(), min_size=1, max_size=4))
def test_a_space_survives_json(entries: list[Dimension]) -> None:
    space = SearchSpace({f"x{number}": entry for number, entry in enumerate(entries)})
    assert SearchSpace.model_validate(space.model_dump(mode="json")) == space


@settings(deadline=None)
@given(config=NESTED, value=st.integers(), data=st.data())
def test_what_was_set_is_read_and_nothing_else_changes(config: dict[str, Any], value: int, data: st.DataObject) -> None:
    flat = flatten(config)
    path = data.draw(st.sampled_from(sorted(flat)))
    changed = with_paths(config, {path: value})
    assert get_path(changed, path) == value
    assert flatten(changed) == {**flat, path: value}
    assert flatten(config) == flat


@settings(deadline=None)
@given(config=NESTED)
def test_flattening_loses_nothing(config: dict[str, Any]) -> None:
    rebuilt: dict[str, Any] = {}
    for path, value in flatten(config).items():
        *parents, leaf = path.split(".")
        section = rebuilt
        for parent in parents:
            section = section.setdefault(parent, {})
        section[leaf] = value
    assert rebuilt == config
    assert all(get_path(config, path) == value for path, value in flatten(config).items())
