"""How long a search before a full run is, against the loss that it is to make lowest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.night.search_share import search_seconds


def expected(searched_s: np.ndarray, seconds: float, trial_s: float) -> np.ndarray:
    """The logarithm of the loss after a search and a run that takes the rest, by the docstring's two terms."""
    gained = 0.03 * (1 - np.exp(-searched_s / (5 * trial_s)))
    return np.asarray(-gained - 0.1 * np.log(seconds - searched_s))


@pytest.mark.parametrize(("trials", "share"), [(15, 0.0), (50, 0.10), (200, 0.06), (1_000, 0.02)])
def test_the_share_of_a_night(trials: float, share: float) -> None:
    assert search_seconds(trials * 7.0, 7.0) / (trials * 7.0) == pytest.approx(share, abs=0.005)


@given(st.floats(1.0, 1e5), st.floats(1e-3, 1e4))
def test_no_other_split_has_a_lower_loss(trials: float, trial_s: float) -> None:
    seconds = trials * trial_s
    found = search_seconds(seconds, trial_s)
    others = np.linspace(0, 0.999 * seconds, 1_000)
    assert 0 <= found < seconds
    assert expected(np.array(found), seconds, trial_s) <= expected(others, seconds, trial_s).min() + 1e-9
