"""Properties of replayed searches, and of the positions that they measure distances by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from space_strategies import dimensions

from autotune.core.records import TrialStatus
from autotune.replay.arms import Arm
from autotune.replay.simulation import simulate
from autotune.replay.sources import Rows
from autotune.replay.table import Row, Table
from autotune.search.dimension import Dimension
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.spec import StudySpec

TOKENS = (250, 500, 1_000)
SPACE = {"lr": {"low": 0.001, "high": 1.0, "log": True}, "kind": {"choices": ["a", "b", "c"]}}
BASE = {"lr": 0.01, "kind": "b"}
LOSSES = st.floats(1.0, 9.0)
SETTINGS = st.fixed_dictionaries({"lr": st.floats(0.001, 1.0), "kind": st.sampled_from("abc")})
SAMPLERS = st.sampled_from([SamplerSpec(name="random"), SamplerSpec.model_validate({"n_startup_trials": 3})])
PRUNERS = st.sampled_from(
    [PrunerSpec(name="none"), PrunerSpec.model_validate({"name": "median", "n_startup_trials": 1, "warmup_frac": 0.1})]
)


@st.composite
def rows(draw: st.DrawFn) -> Row:
    """A row that finished, diverged at some evaluation or did not fit."""
    status = draw(st.sampled_from([TrialStatus.FINISHED] * 3 + [TrialStatus.DIVERGED, TrialStatus.OUT_OF_MEMORY]))
    if status is TrialStatus.FINISHED:
        losses = draw(st.lists(LOSSES, min_size=len(TOKENS), max_size=len(TOKENS)))
    else:
        losses = draw(st.lists(LOSSES, min_size=1, max_size=len(TOKENS)))
        losses[-1] = draw(st.sampled_from([math.nan, math.inf, losses[-1]]))
    times = st.floats(0.0, 5.0)
    return Row(draw(SETTINGS), status, tuple(losses), draw(st.floats(10.0, 1_000.0)), draw(times), draw(times))


def table(recorded: list[Row]) -> Table:
    spec = StudySpec.model_validate({"name": "night", "budget": {"tokens": 1_000}, "base": BASE, "space": SPACE})
    return Table(spec, {}, TOKENS, tuple(recorded))


class Watched(Rows):
    """Rows that remember which of them were taken."""

    def __init__(self, recorded: Table) -> None:
        super().__init__(recorded)
        self.taken: list[Row] = []

    def take(self, params: Mapping[str, Any]) -> Row | None:
        row = super().take(params)
        if row is not None:
            self.taken.append(row)
        return row


FINISHED = st.builds(
    Row,
    SETTINGS,
    st.just(TrialStatus.FINISHED),
    st.tuples(LOSSES, LOSSES, LOSSES),
    st.floats(10.0, 1_000.0),
    st.floats(0.0, 5.0),
    st.floats(0.0, 5.0),
)


@settings(deadline=None, max_examples=40)
@given(
    first=FINISHED,
    others=st.lists(rows(), max_size=14),
    sampler=SAMPLERS,
    pruner=PRUNERS,
    seed=st.integers(0, 1_000),
    budget_s=st.floats(0.1, 300.0),
)
def test_a_search_takes_no_row_twice_and_ends_with_its_budget(
    first: Row, others: list[Row], sampler: SamplerSpec, pruner: PrunerSpec, seed: int, budget_s: float
) -> None:
    recorded = table([first, *others])
    source = Watched(recorded)
    search = simulate(recorded, source, sampler, pruner, seed, budget_s)

    assert len(search.ends_s) == len(search.losses) == len(source.taken) <= len(recorded.rows)
    assert len({id(row) for row in source.taken}) == len(source.taken)
    assert all(before < after for before, after in zip((0.0, *search.ends_s), search.ends_s, strict=False))
    assert all(end < budget_s for end in search.ends_s[:-1])
    assert search.ends_s[-1] <= budget_s + source.taken[-1].seconds(TOKENS[-1], len(TOKENS))
    assert search.ends_s[-1] >= budget_s or len(source.taken) == len(recorded.rows)
    for row, loss in zip(source.taken, search.losses, strict=True):
        assert loss == math.inf or (row.status is TrialStatus.FINISHED and loss == row.losses[-1])
    # The baseline runs to its end, whatever the others do.
    assert (search.losses[0] < math.inf) == (source.taken[0].status is TrialStatus.FINISHED)


@settings(deadline=None, max_examples=30)
@given(
    places=st.lists(SETTINGS, min_size=1, max_size=12),
    curve=st.tuples(LOSSES, LOSSES, LOSSES),
    seed=st.integers(0, 1_000),
)
def test_where_all_rows_are_equal_the_first_trial_finds_the_best(
    places: list[dict[str, Any]], curve: tuple[float, float, float], seed: int
) -> None:
    recorded = table([Row(params, TrialStatus.FINISHED, curve, 100.0, 1.0, 2.0) for params in places])
    source = Rows(recorded)
    search = simulate(recorded, source, SamplerSpec(name="random"), PrunerSpec(name="none"), seed, 1_000.0)
    assert search.seconds_to(source.best) == search.ends_s[0] == 15.0
    assert Arm("random + none", (search,), source.best).reached_frac == 1.0
    assert set(search.losses) == {curve[-1]}


@settings(deadline=None, max_examples=200)
@given(entry=dimensions(), data=st.data())
def test_positions_lie_between_0_and_1_and_in_order(entry: Dimension, data: st.DataObject) -> None:
    if entry.choices is not None:
        values = list(entry.choices)
    elif entry.is_integer or entry.step is not None:
        values = entry.grid()
    else:
        assert entry.low is not None and entry.high is not None
        # Ends closer than their logarithms can tell are no range that anyone writes.
        assume(entry.low == entry.high or entry.high > entry.low * (1 + 1e-9))
        values = sorted(data.draw(st.lists(st.floats(entry.low, entry.high), min_size=1, max_size=9)))
    positions = [entry.position(value) for value in values]
    assert all(0.0 <= position <= 1.0 for position in positions)
    assert positions == sorted(positions)
    if entry.choices is not None or entry.is_integer:
        assert len(set(positions)) == len(values)
    ends = [entry.position(end) for end in entry.ends()]
    if len(ends) > 1:
        assert (ends[0], ends[-1]) == (0.0, 1.0)
