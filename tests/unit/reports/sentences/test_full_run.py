from dataclasses import replace
from datetime import datetime
from pathlib import Path

import study_builder

from autotune.promotion.next_step import next_step
from autotune.store.study_record import StudyRecord
from reports.sentences.full_run import full_run_lines


def test_a_finished_full_run_says_what_it_reached(night: StudyRecord) -> None:
    full = {
        "status": "finished",
        "tokens": 8000,
        "tokens_seen": 8000,
        "val_loss": 4.1,
        "val_accuracy": 0.25,
        "seconds": 1600.0,
    }
    record = study_builder.with_attributes(night, full=full)

    assert full_run_lines(record) == [
        "The full run finished: 8,000 training tokens in 27 min.", "Its loss is 4.1000, its accuracy 25.0 %.",
    ]  # fmt: skip
    shorter = study_builder.with_attributes(night, full=full | {"tokens_seen": 5000, "end_tokens": 5000})
    assert full_run_lines(shorter)[0] == (
        "The full run finished at 5,000 of 8,000 training tokens in 27 min: its end was moved to meet a deadline. "
        "Its learning rate was brought down by then, so the model is complete."
    )


def test_a_full_run_that_no_process_trains_is_not_in_progress(night: StudyRecord) -> None:
    """It was killed: what is stored still says that it runs, and when it would have been done."""
    full = {"status": "running", "tokens": 8000, "tokens_seen": 7200, "at": 1.0, "done_at": 2.0}
    killed = study_builder.with_attributes(night, full=full)

    (line,) = full_run_lines(killed)
    assert (
        line
        == "The full run was stopped at 90 % of 8,000 tokens, and goes on from its last checkpoint, if it left one."
    )
    waiting = study_builder.with_attributes(night, full=full | {"status": "waiting"})
    assert full_run_lines(waiting) == [line]
    not_begun = study_builder.with_attributes(night, full={"status": "waiting", "tokens": 8000})
    assert full_run_lines(not_begun) == ["The full run of 8,000 tokens has not begun."]


def test_a_full_run_in_progress_says_how_far_it_is(night: StudyRecord) -> None:
    at = datetime(2026, 1, 6, 6, 50).timestamp()
    full = {
        "status": "running",
        "tokens": 8000,
        "tokens_seen": 3440,
        "at": at,
        "done_at": at + 22 * 60,
        "val_loss": 4.5,
    }
    night = replace(night, run=study_builder.HeldDirectory(Path("runs/night")))
    record = study_builder.with_attributes(night, full=full)

    start = "The full run is in progress: 43 % of 8,000 tokens at Tue 06:50 and should end about Tue 07:12"
    assert full_run_lines(record)[0] == f"{start}."
    assert next_step(record).command == "autotune watch night"
    shorter = study_builder.with_attributes(night, full=full | {"end_tokens": 5000})
    assert full_run_lines(shorter)[0] == f"{start}; it ends at 5,000, which is what fits before its deadline."
    begun = {"status": "running", "tokens": 8000, "tokens_seen": 0, "at": None, "done_at": None}
    assert full_run_lines(study_builder.with_attributes(night, full=begun)) == [
        "The full run is in progress: 0 % of 8,000 tokens."
    ]
