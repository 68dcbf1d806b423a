"""Strategies for search spaces."""

from __future__ import annotations

from hypothesis import strategies as st

from autotune.search.dimension import Dimension


@st.composite
def dimensions(draw: st.DrawFn) -> Dimension:
    """A dimension of any kind."""
    kind = draw(st.sampled_from(["float", "log", "int", "log int", "step", "int step", "choices"]))
    if kind == "choices":
        return Dimension(choices=tuple(draw(st.lists(st.integers(-99, 99), min_size=1, max_size=5, unique=True))))
    if kind == "int step":
        low, step, steps = draw(st.integers(-20, 20)), draw(st.integers(1, 5)), draw(st.integers(0, 20))
        return Dimension(low=low, high=low + steps * step, step=step)
    if kind == "step":
        # In thousandths, since a person writes decimals.
        start, width, steps = draw(st.integers(-9_999, 9_999)), draw(st.integers(1, 2_000)), draw(st.integers(0, 20))
        return Dimension(low=start / 1_000, high=(start + steps * width) / 1_000, step=width / 1_000)
    ends = st.integers(1, 1_000) if "int" in kind else st.floats(1e-6, 1e3)
    low, high = sorted((draw(ends), draw(ends)))
    return Dimension(low=low, high=high, log="log" in kind)
