"""How far an axis of losses reaches."""

from __future__ import annotations

import math

import pytest

from autotune.core.metric import TEXT_LOSS, Metric
from reports.figures.scale import Scale, off_the_scale


def test_a_loss_beyond_the_outer_fence_is_cut_off() -> None:
    """Quartiles 2 and 4 of 1 to 5: beyond 4 + 3 x 2 = 10 a loss is an outlier."""
    assert Scale.of([1, 2, 3, 4, 5]) == Scale(pytest.approx(0.68), pytest.approx(5.32))
    assert not Scale.of([1, 2, 3, 4, 10]).is_cut

    cut = Scale.of([1, 2, 3, 4, 11])
    assert cut == Scale(pytest.approx(0.76), pytest.approx(4.24), is_cut=True)
    assert list(cut.place([1, 11, math.inf])) == pytest.approx([1, 4.24, 4.24])
    assert cut.note == off_the_scale(TEXT_LOSS) == "Marks at the top are off the scale."


def test_of_what_is_maximised_the_low_end_is_cut_off() -> None:
    accuracies = [0.9, 0.92, 0.94, 0.96, 0.1]
    scale = Scale.of([-value for value in accuracies], metric=Metric("accuracy", maximize=True))
    assert scale.is_cut and scale.note == "Marks at the bottom are off the scale."
    assert scale.range == pytest.approx([0.8952, 0.9648])
    assert list(scale.place([-0.96, -0.1])) == pytest.approx([0.96, 0.8952])


def test_what_must_be_seen_is_never_cut_off() -> None:
    kept = Scale.of([1, 2, 3, 4, 20], keep=[11])
    assert kept.is_cut and kept.high == pytest.approx(11.8)
    assert not Scale.of([1, 2, 3, 4, 11], keep=[11]).is_cut


def test_few_or_equal_losses_are_all_shown() -> None:
    assert not Scale.of([1, 1, 1, 9]).is_cut
    assert not Scale.of([1, 1, 1, 1, 9]).is_cut
    assert Scale.of([]) == Scale(0.0, 1.0)
    low, high = Scale.of([2.0]).low, Scale.of([2.0]).high
    assert low < 2.0 < high


def test_tiny_losses_are_not_squeezed() -> None:
    tiny = Scale.of([4e-12, 5e-12])
    assert (tiny.low, tiny.high) == (pytest.approx(3.92e-12), pytest.approx(5.08e-12))
    assert Scale.of([0.0, 0.0]).low < 0.0 < Scale.of([0.0, 0.0]).high
