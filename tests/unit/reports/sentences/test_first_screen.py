"""What a reader in a hurry needs beside the verdict."""

from __future__ import annotations

from dataclasses import replace

import study_builder

from reports.sentences.first_screen import first_screen


def test_a_proven_winner_has_its_own_loss_and_interval() -> None:
    """The GPU used 2,500 J that it told, and 150 to 250 W for 20 s more; trials lasted from 21:00 to 21:40."""
    promoted, cost = first_screen(study_builder.study())
    assert promoted == (
        "Promoted",
        "the winner (trial 6): loss 4.6400 on 3 fresh seeds; gain +0.3800 (95 % interval +0.3552 to +0.4048)",
    )
    assert cost[0] == "Cost" and cost[1].endswith(", 12 trials, 8 runs on fresh seeds, 0.00 kWh")


def test_without_some_changes_loss_and_interval_are_those_of_what_is_left() -> None:
    promoted = first_screen(study_builder.attributed_study())[0][1]
    assert promoted == (
        "the winner (trial 6) without 3 of its changes: loss 4.6450 on 2 fresh seeds; gain +0.3750 "
        "(95 % interval +0.3450 to +0.4050)"
    )
    before = first_screen(study_builder.attributed_study(gain=None))[0][1]
    assert before.endswith("loss 4.6450 on 2 fresh seeds; gain +0.3750"), "an earlier version kept no interval"


def test_where_nothing_was_proven_the_default_and_what_the_winner_gained() -> None:
    rows = dict(first_screen(study_builder.study(verdict=study_builder.verdict("inconclusive"))))
    assert rows["Promoted"] == "the default settings: loss 5.0200"
    assert rows["Not promoted"] == "the winner (trial 6): gain +0.3800 (95 % interval +0.3552 to +0.4048)"

    unmeasured = study_builder.verdict("inconclusive", gain=None, gain_low=None, gain_high=None)
    assert "Not promoted" not in dict(first_screen(study_builder.study(verdict=unmeasured)))


def test_before_the_finals_and_after_a_full_run() -> None:
    assert first_screen(study_builder.running_study())[0] == ("Promoted", "nothing yet: fresh seeds decide it")
    assert first_screen(study_builder.failed_study())[0] == ("Promoted", "nothing"), "no seed decides it any more"
    full = {"status": "finished", "tokens": 8000, "tokens_seen": 8000, "val_loss": 4.1, "seconds": 90.0}
    record = study_builder.with_attributes(study_builder.study(), full=full)
    assert ", 90 s for the full run" in dict(first_screen(record))["Cost"]
    assert dict(first_screen(record))["Full run"] == "loss 4.1000 after 8,000 tokens in 90 s"
    stopped = study_builder.with_attributes(record, full={**full, "status": "running"})
    assert "Full run" not in dict(first_screen(replace(stopped)))
