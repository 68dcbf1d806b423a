"""Rules that carry settings to longer runs, on valleys whose places are known."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from bench_transfer import as_it_is, best_powers, by_engine, by_powers, measured, pairs_of


def loss(rate: float, batch: float, tokens: float) -> float:
    """Lowest, 2.0, at the rate 0.01 r^0.25 and the batch 8 r^0.5, r in units of 1,000 tokens; 0.1 at a factor of e."""
    factor = tokens / 1_000
    return 2.0 + 0.1 * (math.log(rate / 0.01 / factor**0.25) ** 2 + math.log(batch / 8 / factor**0.5) ** 2)


def table() -> pd.DataFrame:
    grid = [(0.01 * 2 ** (step / 2), 8 * 2.0**power) for step in range(-2, 5) for power in range(-1, 4)]
    runs = [
        {"N": model, "D": tokens, "lr": rate, "bs": batch, "loss": loss(rate, batch, tokens)}
        for model in (1, 2)
        for tokens in (1_000, 2_000, 16_000)
        for rate, batch in grid
    ]
    return pd.DataFrame([*runs, {"N": 1, "D": 1_000, "lr": 1.0, "bs": 1.0, "loss": math.nan}])


def test_lengths_far_enough_apart_are_paired_within_each_model() -> None:
    pairs = pairs_of(table(), "loss", ["N"], 5)
    found = [(pair.model, pair.short.tokens, pair.long.tokens) for pair in pairs]
    assert found == [(model, short, 16_000) for model in ("(1,)", "(2,)") for short in (1_000, 2_000)]


def test_settings_that_are_carried_as_they_are_miss_the_longer_runs_valley() -> None:
    """From 1,000 to 16,000 tokens the best rate doubles and the best batch is four times as large."""
    pair = pairs_of(table(), "loss", ["N"], 5)[0]
    assert pair.short.best == (0.01, 8.0)
    assert pair.given_away(as_it_is) == pytest.approx(0.1 * (math.log(2) ** 2 + math.log(4) ** 2) / 2)
    assert pair.given_away(by_powers(0.5, 0.25)) == pytest.approx(0.0, abs=1e-9)


def test_outside_of_the_runs_the_nearest_one_counts() -> None:
    pair = pairs_of(table(), "loss", ["N"], 5)[0]
    assert pair.given_away(lambda *_: (1e-6, 8.0)) == pytest.approx(loss(0.005, 8.0, 16_000) / 2 - 1)


def test_the_engine_raises_the_batch_and_the_rate_with_it() -> None:
    rate, batch = by_engine((0.01, 8.0), 1_000, 16_000)
    assert batch == pytest.approx(8 * 16**0.55, rel=0.01)
    assert rate == pytest.approx(0.01 * (16**0.55) ** 0.7 * 16**-0.25, rel=0.01)


def test_the_best_powers_are_those_of_the_valley() -> None:
    pairs = [pair for pair in pairs_of(table(), "loss", ["N"], 5) if pair.short.tokens == 1_000]
    assert best_powers(pairs) == (0.5, 0.25)
    assert measured(pairs)[-1] == "| powers by the other models (0.5/0.25, 0.5/0.25) | 0.00% | 0.00% |"
