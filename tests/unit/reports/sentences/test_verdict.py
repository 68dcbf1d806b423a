from dataclasses import replace
from pathlib import Path

import pytest
import study_builder

from autotune.core.peers import Peer
from autotune.core.records import TrialStatus
from autotune.promotion.next_step import next_step
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from reports.sentences.before_after import before_after, doubt
from reports.sentences.cost import cost, cost_rows
from reports.sentences.how_sure import how_sure
from reports.sentences.study_row import study_row
from reports.sentences.verdict import verdict_summary


@pytest.mark.parametrize(
    ("record", "word", "icon", "part"),
    [
        (study_builder.study(), "better", "✓", "loss is 7.6 % below the default's"),
        (study_builder.study(verdict=study_builder.verdict("no clear gain")), "no clear gain", "=", "about as good"),
        (study_builder.study(verdict=study_builder.verdict("inconclusive")), "inconclusive", "?", "from chance"),
        (
            study_builder.study(verdict=study_builder.verdict("inconclusive", winner=None, gain=None)),
            "inconclusive",
            "?",
            "No gain was measured",
        ),
        (study_builder.failed_study(), "failed", "✕", "Nothing could be compared"),
        (study_builder.running_study(), "still running", "…", "4 of up to 12 trials done."),
        (study_builder.empty_study(), "still running", "…", "0 of up to 12 trials done."),
    ],
)
def test_verdict_word_icon_and_sentence(record: StudyRecord, word: str, icon: str, part: str) -> None:
    said = verdict_summary(record)

    assert (said.word, said.icon) == (word, icon)
    assert part in said.sentence


def test_a_study_that_no_process_works_at_is_not_called_running() -> None:
    killed = replace(study_builder.running_study(), run=RunDirectory(Path("runs/night")))
    ended = tuple(trial for trial in killed.trials if trial.status is not TrialStatus.RUNNING)
    parked = replace(killed, trials=ended)

    assert verdict_summary(killed).word == "not finished"
    said = verdict_summary(parked)
    assert (said.word, said.icon) == ("parked", "…")
    assert said.sentence == "No verdict yet: 4 of up to 12 trials done. Nothing is lost."
    shared = study_builder.spec(storage="postgresql://u@h/db")
    peer = Peer("0f3a77c1", "pod-1", "Tesla T4", "2026-11-29T21:00:00+00:00")
    assert verdict_summary(replace(killed, spec=shared, peers=(peer,))).word == "still running"
    assert verdict_summary(replace(parked, spec=shared)).word == "parked"


def test_a_winner_that_failed_on_a_fresh_seed_is_called_that_everywhere() -> None:
    record = study_builder.failed_winner_study()
    said, sure, step = verdict_summary(record), " ".join(how_sure(record)), next_step(record)

    assert said.sentence == "The winner failed on 1 fresh seed, so it is not called better."
    assert sure.startswith("The winner failed on 1 fresh seed: whatever it gains on others, nobody could rely on it.")
    assert "Measured gain in loss where both finished: +0.3800;" in sure
    assert "chance alone" not in sure + said.sentence and "from chance" not in said.sentence
    assert step.what.startswith("More pairs would not make these settings reliable.")
    assert "max_seeds" not in step.command
    assert doubt(record) == "where both finished"
    assert study_row(record).sure == "inconclusive: the winner failed on 1 fresh seed"


def test_an_interrupted_run_on_a_fresh_seed_is_not_called_done() -> None:
    begun = study_builder.finals_trials()[:3]
    again = replace(begun[2], status=TrialStatus.INTERRUPTED)
    record = replace(study_builder.running_study(), finals=(*begun[:2], again))

    assert "and 2 of " in verdict_summary(record).sentence
    assert dict(cost_rows(cost(record)))["Runs on fresh seeds"] == "2"


def test_the_headline_never_comes_from_the_lowest_loss(night: StudyRecord) -> None:
    """The search's minimum, 4.6, is lower than the winner's mean on fresh seeds, 4.64."""
    loss = before_after(night)[0]

    assert (loss.before, loss.after) == (5.02, 4.64)
    assert before_after(study_builder.running_study())[0].after is None
