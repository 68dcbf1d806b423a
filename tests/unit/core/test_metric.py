from __future__ import annotations

import pytest

from autotune.core.metric import TEXT_LOSS, Metric

R2 = Metric("r2", maximize=True, budget_unit="epochs")


@pytest.mark.parametrize(
    ("metric", "loss", "words"),
    [
        (TEXT_LOSS, 4.01625, "loss 4.0163"),
        (Metric("error", "m/s"), 0.000266, "error 0.00026600 m/s"),
        (Metric(), 123456.0, "loss 1.2346e+05"),
        (Metric(), 12345.0, "loss 12345"),
        (R2, -0.75, "r2 0.75000"),
    ],
)
def test_a_value_is_told_in_the_trainers_words(metric: Metric, loss: float, words: str) -> None:
    assert metric.words(loss) == words


def test_lengths_and_differences_have_their_units() -> None:
    assert R2.budget(1_200) == "1,200 epochs"
    assert (R2.difference(-0.0123456), TEXT_LOSS.difference(-0.01234)) == ("0.0123", "0.0123")


def test_it_is_stored_and_read_back() -> None:
    assert Metric.from_json(R2.to_json()) == R2
