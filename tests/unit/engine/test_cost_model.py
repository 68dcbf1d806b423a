"""The cost model, on numbers worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotune.engine.cost_model import CostModel, Counts, Measured

MODEL = CostModel(pass_s=0.01, flop_s=1e-12, weight_pass_s=1e-9, weight_s=2e-9, offset_bytes=100.0, pass_factor=2.0)
COUNTS = Counts(
    step_tokens=1_000.0,
    passes=2.0,
    pass_flops=1e10,
    weights=1e7,
    fixed_bytes=5_000.0,
    pass_bytes=300.0,
    update_bytes=60.0,
)


def test_seconds_of_a_step_by_hand() -> None:
    # Two passes of 10 ms + 10 ms of FLOPs + 10 ms of weights, and 20 ms of the update.
    assert MODEL.optimizer_step_s(COUNTS) == pytest.approx(2 * 0.03 + 0.02)
    assert MODEL.tokens_per_s(COUNTS) == pytest.approx(1_000 / 0.08)


def test_the_peak_is_the_larger_of_pass_and_update() -> None:
    assert MODEL.peak_bytes(COUNTS) == 5_000 + 100 + 2 * 300
    assert MODEL.peak_bytes(replace(COUNTS, update_bytes=900.0)) == 5_900


def test_a_fit_finds_the_coefficients_it_was_made_with() -> None:
    shapes = [
        COUNTS,
        replace(COUNTS, passes=8.0, pass_flops=2.5e9, pass_bytes=75.0),
        replace(COUNTS, pass_flops=4e10, pass_bytes=1_200.0, step_tokens=4_000.0),
        replace(COUNTS, weights=4e7, fixed_bytes=20_000.0),
        replace(COUNTS, update_bytes=1e6),  # its peak tells nothing about passes
    ]
    fitted = CostModel.fit([Measured(each, MODEL.optimizer_step_s(each), MODEL.peak_bytes(each)) for each in shapes])
    for name, value in vars(MODEL).items():
        assert getattr(fitted, name) == pytest.approx(value, rel=1e-6), name


def test_one_probe_predicts_itself() -> None:
    fitted = CostModel.fit([Measured(COUNTS, 0.5, 7_000.0)])
    assert fitted.optimizer_step_s(COUNTS) == pytest.approx(0.5)
    assert fitted.peak_bytes(COUNTS) == pytest.approx(7_000.0)


def test_no_coefficient_is_negative() -> None:
    slower_with_less = [Measured(COUNTS, 0.2, 7_000.0), Measured(replace(COUNTS, pass_flops=2e10), 0.1, 6_500.0)]
    assert min(vars(CostModel.fit(slower_with_less)).values()) >= 0


def test_the_smallest_pass_near_the_best_speed_is_chosen_and_must_fit() -> None:
    def sized(size: int) -> list[Counts]:
        return [replace(COUNTS, passes=64 / size, pass_flops=1e9 * size, pass_bytes=10.0 * size)]

    candidates = {size: sized(size) for size in (1, 8, 32, 64)}
    costs = {size: MODEL.optimizer_step_s(counts) for size, (counts,) in candidates.items()}
    assert costs[64] < costs[32] < 1.6 * costs[64]
    assert MODEL.best_pass(candidates, 10**9) == 64
    flat = replace(MODEL, pass_s=0.0, weight_pass_s=0.0)
    assert flat.best_pass(candidates, 10**9) == 1  # nothing to win: the least memory
    assert MODEL.best_pass(candidates, int(MODEL.peak_bytes(sized(32)[0]) / 0.92) + 1) == 32
    assert MODEL.best_pass(candidates, 1_000) == 0


def test_other_values_of_a_trainer_do_no_harm() -> None:
    assert Counts.of(vars(COUNTS) | {"more": 1.0}) == COUNTS
