"""What looks wrong in a run, on curves and samples made by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest

from autotune.core.metric import TEXT_LOSS
from autotune.core.records import EvalPoint
from autotune.core.text import speed
from autotune.promotion.early_warnings import divergence, is_slow, plateau, skipped_optimizer_steps, throttling


def curve(losses: Sequence[float], **metrics: Sequence[float]) -> list[EvalPoint]:
    """A point every 100 tokens."""
    return [
        EvalPoint(100 * (place + 1), loss, {name: values[place] for name, values in metrics.items()})
        for place, loss in enumerate(losses)
    ]


# --- divergence ---


@pytest.mark.parametrize(
    ("losses", "is_told"),
    [
        ([4.0, 3.0, 3.2, 3.1], True),
        ([4.0, 3.0, 3.05, 3.06], False),  # less than 3 %
        ([4.0, 3.0, 3.5, 2.9], False),  # it came back
        ([4.0, 3.0, 2.9, 3.5], False),  # once is not enough
        ([4.0, 5.0], False),
        ([-1.0, -2.0, -1.9, -1.9], True),
        ([4.0], False),
    ],
)
def test_a_loss_that_stays_above_its_best(losses: list[float], is_told: bool) -> None:
    warning = divergence(curve(losses), TEXT_LOSS)
    assert (warning is not None) is is_told
    if warning is not None:
        assert warning.tokens_seen == 100 * len(losses)
        assert f"loss {losses[-1]:.4f} is clearly worse than its best of {min(losses):.4f}" in warning.finding
        assert "lower learning rate" in warning.action


@pytest.mark.parametrize(
    ("norms", "is_told"),
    [
        ([1.0, 1.0, 1.0, 1.0, 1.0, 11.0], True),
        ([1.0, 1.0, 1.0, 1.0, 1.0, 9.0], False),
        ([1.0, 1.0, 1.0, 1.0, 1.0, math.inf], True),
        ([1.0, 1.0, 1.0, 1.0, 1.0, math.nan], True),
        ([1.0, 1.0, 1.0, 1.0, 11.0], False),  # too few to know what is usual
        ([0.0, 0.0, 0.0, 0.0, 0.0, 11.0], False),
    ],
)
def test_gradients_far_above_their_median(norms: list[float], is_told: bool) -> None:
    falling = [4.0 - place / 10 for place in range(len(norms))]
    assert (divergence(curve(falling, grad_norm=norms), TEXT_LOSS) is not None) is is_told


# --- plateau ---

FLAT = [4.0, 3.5, 3.3, 3.2, 3.199, 3.198, 3.197]
"""Of a run of 1,000 tokens; the last fifth of that lies between 500 and 700 tokens."""


def test_a_loss_that_stands_still_at_the_peak_rate() -> None:
    warning = plateau(curve(FLAT, muon_lr=[0.02] * 7), budget_tokens=1_000, sigma=0.01, metric=TEXT_LOSS)
    assert warning is not None
    assert warning.finding.startswith(
        "the loss improved by 0.0020 over the last fifth of the run, less than the 0.0100"
    )
    assert (warning.kind, warning.tokens_seen) == ("plateau", 700)


@pytest.mark.parametrize(
    ("losses", "rates", "sigma"),
    [
        (FLAT, [0.02] * 7, 0.001),  # it fell by more than the noise
        (FLAT, [0.02] * 7, None),  # the noise is not known
        (FLAT, [0.02] * 6 + [0.015], 0.01),  # the rate decays
        (FLAT, [0.0] * 7, 0.01),
        (FLAT[:2], [0.02] * 2, 0.01),  # less than a fifth is done
        ([*FLAT[:5], math.nan, math.nan], [0.02] * 7, 0.01),
    ],
)
def test_no_plateau(losses: list[float], rates: list[float], sigma: float | None) -> None:
    assert plateau(curve(losses, lr=rates), 1_000, sigma, TEXT_LOSS) is None


def test_without_a_learning_rate_there_is_no_plateau() -> None:
    assert plateau(curve(FLAT), 1_000, 0.01, TEXT_LOSS) is None
    assert plateau([], 1_000, 0.01, TEXT_LOSS) is None


# --- throttling ---

SLOWED = [100.0, 100.0, 100.0, 98.0, 96.0, 97.0, 80.0, 79.0, 78.0]


@pytest.mark.parametrize(
    ("speeds", "seconds", "is_told"),
    [
        (SLOWED, 60.0, True),
        (SLOWED, 19.0, False),  # what passes in seconds is no throttling
        (SLOWED[:-1], 60.0, False),  # neither is what came twice
        ([100.0] * 4 + [80.0] * 3, 60.0, False),  # too few
        ([100.0] * 6 + [86.0] * 3, 60.0, False),
        ([100.0] * 6 + [84.0] * 3, 60.0, True),
        ([70.0] * 6 + [100.0] * 3, 60.0, False),
    ],
)
def test_slower_than_the_best_quarter(speeds: list[float], seconds: float, is_told: bool) -> None:
    assert is_slow(speeds, seconds) is is_told
    assert (throttling(700, speeds, seconds) is not None) is is_told


def sample(clock_hz: float | None, *reasons: str) -> dict[str, Any]:
    return {"time": 0.0, "sm_clock_hz": clock_hz, "throttle_reasons": list(reasons)}


def test_the_gpu_says_why() -> None:
    earlier = [sample(1.98e9), sample(1.98e9, "power cap")]
    now = [sample(1.2e9, "power cap", "thermal (hardware)"), sample(1.2e9, "thermal (hardware)")]
    warning = throttling(700, SLOWED, 60.0, earlier, now)
    assert warning is not None
    assert warning.finding == (
        "it trains at 79 tokens/s, 21% below the best quarter of this run (100 tokens/s); "
        "the GPU's clock fell from 1980 to 1200 MHz; the GPU reports thermal (hardware)"
    )
    assert "cooling" in warning.action


def test_a_gpu_at_its_usual_clock_is_not_to_blame() -> None:
    usual = [sample(1.98e9, "power cap"), sample(None)]
    warning = throttling(700, SLOWED, 60.0, usual, usual)
    assert warning is not None
    assert warning.finding.endswith("(100 tokens/s)") and "see what else uses this machine" in warning.action


# --- skipped updates ---


@pytest.mark.parametrize(
    ("counts", "is_told"),
    [
        ([0, 1, 1, 2, 6, 12, 20], True),  # 18 after 2
        ([0, 6, 12, 18, 24, 30, 36], False),  # many, but not more than before
        ([0, 0, 0, 0, 1, 2, 3], False),  # few
        ([0, 0, 0, 0, 20, 20, 20], False),  # once: the scale found its level
        ([0, 5, 10, 20], False),  # too early to compare
    ],
)
def test_skipped_updates_that_become_more(counts: list[float], is_told: bool) -> None:
    points = curve([4.0] * len(counts), skipped_steps=counts)
    assert (skipped_optimizer_steps(points) is not None) is is_told


def test_a_trainer_without_these_metrics_is_not_warned_of() -> None:
    assert skipped_optimizer_steps(curve([4.0] * 10)) is None
    assert divergence(curve([4.0] * 10), TEXT_LOSS) is None


@pytest.mark.parametrize(
    ("tokens_per_s", "words"),
    [(1_020_000.0, "1.02M tokens/s"), (75_400.0, "75.4k tokens/s"), (12.3456, "12.3 tokens/s")],
)
def test_speeds_in_words(tokens_per_s: float, words: str) -> None:
    assert speed(tokens_per_s) == words
