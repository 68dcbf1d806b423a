"""What to do next: one answer for each way in which a study can stand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import study_builder

from autotune.core.peers import Peer
from autotune.core.promotion_results import Promotion
from autotune.core.records import TrialStatus
from autotune.promotion.next_step import is_at_work, next_step
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord
from reports.sentences.next_step import expected_words

HELD = study_builder.HeldDirectory(Path("runs/night"))
WITHOUT_BEST_CONFIG = RunDirectory(Path("runs/night"))


def expected(record: StudyRecord) -> str:
    return expected_words(next_step(record), record.attributes.metric)


def after_full_run(**full: Any) -> StudyRecord:
    return study_builder.with_attributes(study_builder.study(), full={"trial": 6, "tokens": 8000, **full})


# --- before the verdict ---


def test_while_a_process_is_at_work_its_page_is_to_be_watched() -> None:
    record = study_builder.running_study()
    assert is_at_work(record)
    assert next_step(record).command == "autotune watch night"
    done = replace(study_builder.study(), run=HELD)
    assert next_step(done).command == "autotune watch night", "another process goes on with a study that has a verdict"


PEER = Peer("0f3a77c1", "pod-1", "Tesla T4", "2026-11-29T21:00:00+00:00")


def test_a_stopped_study_goes_on_where_it_was() -> None:
    stopped = replace(study_builder.running_study(), run=WITHOUT_BEST_CONFIG)
    assert not is_at_work(stopped)
    assert next_step(stopped).command == "autotune run night"


def test_of_a_shared_study_another_machine_is_at_work_as_long_as_it_lives() -> None:
    stopped = replace(study_builder.running_study(), run=WITHOUT_BEST_CONFIG)
    shared = replace(stopped, spec=study_builder.spec(storage="postgresql://u@h/db"))
    assert not is_at_work(shared), "what a dead process left running is nobody's work"
    assert is_at_work(replace(shared, peers=(PEER,)))


def test_of_a_shared_study_another_machine_has_written_the_best_settings() -> None:
    done = replace(
        study_builder.study(), run=WITHOUT_BEST_CONFIG, spec=study_builder.spec(storage="postgresql://u@h/d")
    )
    promotion = Promotion(3, 100, 100, None, note="")
    assert next_step(study_builder.with_attributes(done, promotion=promotion.to_json())).command != "autotune run night"


def test_what_was_stopped_between_verdict_and_best_config_goes_on() -> None:
    """Whatever the history says: a study without `best_config.toml` has not come to its end."""
    record = replace(study_builder.study(), run=WITHOUT_BEST_CONFIG, events=())
    step = next_step(record)
    assert step.command == "autotune run night" and "which change gave what" in step.what
    told = study_builder.with_attributes(record, why_no_attribution="no time was left for it")
    assert "its best settings were written" in next_step(told).what
    assert next_step(study_builder.study()).command == "autotune promote night"


def test_after_a_failure_the_machine_or_the_learning_rates_are_looked_at() -> None:
    failed = study_builder.failed_study()
    assert next_step(failed).command == "autotune doctor"
    trials = tuple(trial for trial in failed.trials if trial.status is TrialStatus.DIVERGED)
    step = next_step(replace(failed, trials=trials))
    assert step.command == "autotune plan night" and "learning rates are probably too high" in step.what


# --- after a verdict ---


def test_a_better_winner_is_promoted_with_hours_and_memory() -> None:
    night = study_builder.study()
    assert next_step(night).command == "autotune promote night"
    # The winner took 200 s for 1000 tokens and 100 s on each of four fresh seeds; the run is 8 times their median.
    assert expected(night) == "8K tokens, about 13 min, 2.0 GiB of memory"


def test_shorter_runs_before_a_full_run_are_part_of_what_it_takes() -> None:
    """Its text is read 10 times. Five runs of 1,000 tokens and five of 2,828 take 19 times 100 s."""
    rules = {"optim.muon_lr": "learning_rate", "optim.grad_accum_steps": "batch"}
    night = study_builder.with_attributes(study_builder.study(), length_rules=rules, probe_facts={"train_tokens": 800})
    told = "8K tokens, about 45 min (71 % of it for shorter runs that find its settings), 2.0 GiB of memory"
    assert expected(night) == told


def test_after_no_clear_gain_the_default_is_kept() -> None:
    step = next_step(study_builder.study(verdict=study_builder.verdict("no clear gain")))
    assert step.command == "autotune promote night" and "Keep the default" in step.what


def undecided(*gains: float) -> StudyRecord:
    """A study of 3 pairs at the most, with these gains; the default's loss is 5."""
    spec = study_builder.spec(
        finals={"finalists": 2, "select_seeds": 1, "prove_seeds": 3, "max_seeds": 3, "min_gain_frac": 0.0001}
    )
    runs = [study_builder.final(2 * place, 0, "prove", 1002 + place, 5.0) for place in range(len(gains))]
    runs += [study_builder.final(2 * at + 1, 6, "prove", 1002 + at, 5.0 - gain) for at, gain in enumerate(gains)]
    said = study_builder.verdict(
        "inconclusive", gain=sum(gains) / len(gains), seeds=tuple(range(1002, 1002 + len(gains)))
    )
    return study_builder.study(spec=spec, finals=tuple(runs), verdict=said)


def test_an_undecided_study_is_repeated_with_the_pairs_that_its_gain_needs() -> None:
    # Gains of 0.01 with a standard deviation of 0.01.
    record = undecided(0.0, 0.01, 0.02)
    step = next_step(record)
    assert step.command.startswith("autotune run night --set 'name=\"night-more-seeds\"' --set finals.max_seeds=")
    pairs = int(step.command.rpartition("=")[2])
    # Three looks share the 5 %, the third has 4 / 7 of it: (t(0.98571, 11) + t(0.8, 11)) / sqrt(12) = 0.98 < 1.
    assert pairs == 12
    seconds = 950 + 2 * pairs * 100
    assert expected(record) == f"about {seconds / 60:.0f} min"


def test_a_gain_that_no_number_of_pairs_would_show_asks_for_longer_trials() -> None:
    assert "--set budget.tokens=2000" in next_step(undecided(-0.02, 0.001, 0.022)).command
    assert "--set budget.tokens=2000" in next_step(undecided(-0.02, -0.01, 0.02)).command


def test_pairs_that_only_the_deadline_left_out_are_gone_on_with() -> None:
    record = undecided(0.0, 0.01, 0.02)
    finals = {"finalists": 2, "select_seeds": 1, "prove_seeds": 3, "max_seeds": 24, "min_gain_frac": 0.0001}
    assert next_step(replace(record, spec=study_builder.spec(finals=finals))).command == "autotune run night"


def test_finals_that_measured_nothing_or_were_not_asked_for() -> None:
    lost = study_builder.study(verdict=study_builder.verdict("inconclusive", gain=None, sigma=None))
    assert next_step(lost).command == "autotune doctor"
    alone = replace(lost, trials=lost.trials[:1], verdict=study_builder.verdict("inconclusive", winner=None, gain=None))
    assert next_step(alone).command == "autotune run night --trials 8", "nothing failed"
    unasked = replace(lost, spec=study_builder.spec(finals={"finalists": 0}))
    assert next_step(unasked).command.endswith("--set finals.finalists=2")


def test_a_winner_that_failed_on_a_fresh_seed_is_chosen_anew_on_more_seeds() -> None:
    step = next_step(study_builder.failed_winner_study())
    assert step.command == (
        "autotune run night --set 'name=\"night-reliable\"' --set finals.select_seeds=3 --set finals.finalists=3"
    )


# --- after a full run ---


def test_after_a_finished_full_run_twice_as_many_tokens_go_further() -> None:
    assert next_step(after_full_run(status="finished")).command == "autotune promote night --tokens 16000"
    by_hand = after_full_run(status="finished", trial=9)
    assert next_step(by_hand).command == "autotune promote night --tokens 16000 --trial 9"


@pytest.mark.parametrize("status", ["running", "waiting", "interrupted", "crashed", "out of memory"])
def test_an_unfinished_full_run_goes_on_and_no_other_begins(status: str) -> None:
    assert next_step(after_full_run(status=status)).command == "autotune promote night"
    longer = after_full_run(status=status, tokens=9000, trial=9, folder="runs/night/full/trial-0009-9000-tokens-as-is")
    assert next_step(longer).command == "autotune promote night --tokens 9000 --trial 9 --as-is"


def test_a_full_run_that_diverged_is_not_begun_again() -> None:
    record = after_full_run(status="diverged")
    step = next_step(record)
    # Losses: trial 6 has 4.6, trial 9 has 4.7, trial 1 has 4.8.
    assert step.command == "autotune promote night --trial 9"
    assert "lower learning rate" in step.what
    assert next_step(after_full_run(status="diverged", trial=9)).command == "autotune promote night --trial 1"
    longer = after_full_run(status="diverged", tokens=9000)
    assert next_step(longer).command == "autotune promote night --trial 9 --tokens 9000"


def test_after_the_last_of_them_its_settings_are_to_be_changed_first() -> None:
    record = after_full_run(status="diverged", trial=3)
    record = replace(record, run=RunDirectory(Path("my runs/night")))

    step = next_step(record)
    assert "Lower the learning rates in my runs/night/best_config.toml first" in step.what
    assert step.command == "autotune train 'my runs/night/best_config.toml'"
