"""What is stored of a study, in the names and the sign that its trainer has."""

from __future__ import annotations

import pytest

from autotune.core.metric import TEXT_LOSS, Metric
from autotune.core.own_words import own_names, told

ACCURACY = Metric("accuracy", maximize=True, budget_unit="epochs")


def test_numbers_of_the_metric_have_its_name_and_sign_wherever_they_lie() -> None:
    stored = {
        "winner_loss": -0.9,
        "gain": 0.1,
        "points": [{"tokens_seen": 4, "val_loss": -0.5}],
        "losses": [-0.5, None],
    }
    assert told(stored, ACCURACY) == {
        "winner_accuracy": 0.9, "gain": 0.1, "points": [{"epochs": 4, "accuracy": 0.5}], "accuracy": [0.5, None],
    }  # fmt: skip
    assert told(stored, TEXT_LOSS) == stored


def test_what_is_the_trainers_or_the_users_own_is_left_as_it_is() -> None:
    stored = {"config": {"loss": 1.0}, "params": {"tokens": 5}, "winner_metrics": {"loss": 2.0}, "trial_tokens": 5}
    assert told(stored, ACCURACY) == {**{key: stored[key] for key in list(stored)[:3]}, "trial_epochs": 5}
    # An evaluation may hold a loss and tokens beside the metric.
    point = {"tokens_seen": 4, "val_loss": -0.5, "loss": 0.7}
    assert told(point, ACCURACY) == {"epochs": 4, "accuracy": 0.5, "loss": 0.7}
    assert told({**point, "accuracy": 0.4}, ACCURACY)["accuracy"] == 0.4


def test_what_only_a_language_model_has_is_left_out_where_it_is_empty() -> None:
    assert told({"val_bpb": None, "val_loss": 1.0}, Metric("error")) == {"error": 1.0}
    assert told({"val_bpb": None}, TEXT_LOSS) == {"val_bpb": None}


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (TEXT_LOSS, ["loss", "last_loss", "tokens_seen", "tokens_per_s"]),
        (Metric("mse", budget_unit="rows"), ["mse", "last_mse", "rows", "rows_per_s"]),
        (Metric(budget_unit="steps"), ["loss", "last_loss", "steps", "steps_per_s"]),
    ],
)
def test_names(metric: Metric, expected: list[str]) -> None:
    assert list(own_names(["loss", "last_loss", "tokens_seen", "tokens_per_s"], metric).values()) == expected
