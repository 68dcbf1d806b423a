"""What a winner's settings become in a longer run: rescaled, checked at two lengths, or copied; killed, it goes on."""

from __future__ import annotations

import json
import signal
import tomllib
from collections.abc import Mapping
from typing import Any

import pytest
from study_folder import COPIED_LOG, Run, StudyFolder, wait_for

from autotune.core.promotion_results import Promotion
from autotune.store.study_record import StudyRecord

BEST_LR = 0.0025  # of 16 times the trial's length, where the trials' best is 0.01
TOKENS = 1_600_000


def searched(folder: StudyFolder, **tables: Any) -> StudyFolder:
    """A study that has proved its winner, its best learning rate nearly found."""
    usual: dict[str, Any] = {
        "trainer": "length_fake_trainer:train",
        "base": {"sigma": 0.001, "lr": 0.05, **COPIED_LOG},
        "enqueue": [{"lr": 0.012}],
        "budget": {"trials": 3},
        "space": {"lr": {"low": 0.005, "high": 0.1, "log": True}},
        "finals": {"finalists": 1},
    }
    folder.write(**{**usual, **tables})
    run = folder.run()
    assert run.end() == 0, run.text
    return folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> StudyFolder:
    """The usual one of these studies; to be copied."""
    return searched(StudyFolder(tmp_path_factory.mktemp("searched"), hardware))


@pytest.fixture
def usual(original: StudyFolder, folder: StudyFolder) -> StudyFolder:
    """The usual study in this test's own folder."""
    return folder.copy_of(original)


def promoted(folder: StudyFolder, *options: str) -> tuple[Run, StudyRecord, Promotion]:
    run = folder.run("promote", *options)
    assert run.end() == 0, run.text
    record = folder.record()
    return run, record, record.attributes.promotion


def full_lr(folder: StudyFolder) -> float:
    """The learning rate that the longest training began with, in the trainer's own terms."""
    last = folder.started()[-1]
    return float(last.lr / (last.tokens / 100_000) ** 0.5)


def test_brackets_find_the_learning_rate_of_the_longer_run(usual: StudyFolder) -> None:
    run, record, promotion = promoted(usual, "--tokens", str(TOKENS))
    assert (
        "a full run of 1,600,000 tokens, 16 times as long as a trial, after shorter ones for its settings" in run.text
    )
    assert [bracket.tokens for bracket in promotion.brackets] == [100_000, 400_000]
    assert promotion.scaling is not None
    assert promotion.scaling.exponent == pytest.approx(-0.5, abs=0.1)
    assert full_lr(usual) == pytest.approx(BEST_LR, rel=0.15)
    best = tomllib.loads(record.run.best_config.read_text())
    assert best["config"]["lr"] == pytest.approx(full_lr(usual))
    assert best["promotion"]["changes"][0]["path"] == "lr"
    full = record.attributes.full_run
    assert (full.status, full.tokens) == ("finished", TOKENS)
    # Without evidence what is known of other runs leaves it twice as far from the best.
    assert 0.012 * 16**-0.25 / BEST_LR > 1.8
    trainings = len(usual.started())
    promoted(usual, "--tokens", str(TOKENS))
    assert len(usual.started()) == trainings


def test_settings_are_copied_if_asked_for_and_kept_apart(usual: StudyFolder) -> None:
    _, record, promotion = promoted(usual, "--tokens", "400000", "--as-is")
    assert promotion.scaling is None and promotion.changes == ()
    assert full_lr(usual) == pytest.approx(record.verdict.params["lr"])  # type: ignore[union-attr]
    as_is = record.attributes.full_run.folder
    run, record, promotion = promoted(usual, "--tokens", "400000")
    assert promotion.brackets == () and "cost more than it is worth" in promotion.note
    assert full_lr(usual) == pytest.approx(0.012 * 4**-0.25, rel=0.05)
    assert record.attributes.full_run.folder != as_is
    assert "reads its text 1.3 times, and a trial 2.7 times" in run.text


def given_text(folder: StudyFolder, below: str) -> set[int]:
    """How much text the trainings below a folder were given."""
    configs = (folder.root / "runs" / "fake").glob(f"{below}/**/config.json")
    return {json.loads(path.read_text())["data"]["train_tokens"] for path in configs}


def test_what_is_shorter_than_the_full_run_reads_its_text_as_often(folder: StudyFolder) -> None:
    """1.6 million tokens of a text of 300,000 are 5.33 readings: 100,000 tokens are as many of 18,750."""
    searched(folder, promote={"tokens": TOKENS})
    words = "and so do the trials, which are given less text"
    assert f"reads its text 5.3 times, {words}" in str(folder.record().events)
    assert given_text(folder, "trials") == given_text(folder, "finals") == {18_750}
    _, _, promotion = promoted(folder, "--tokens", str(TOKENS))
    assert words in promotion.repeats
    assert given_text(folder, "bracket") == {18_750, 75_000}
    assert given_text(folder, "full") == {0}
    promoted(folder, "--tokens", str(2 * TOKENS))
    assert given_text(folder, "bracket/trial-*-100000-*") == {18_750, 9_375}


def test_all_text_for_all_if_asked_for(folder: StudyFolder) -> None:
    searched(folder, promote={"tokens": TOKENS}, budget={"trials": 3, "match_epochs": False})
    _, _, promotion = promoted(folder, "--tokens", str(TOKENS))
    assert "a trial 0.3 times" in promotion.repeats
    assert given_text(folder, "*") == {0}


def test_hours_choose_the_length(folder: StudyFolder) -> None:
    """At a second a trial and with the time for the report left out, what fits is longer than a trial by far."""
    searched(folder, promote={"bracket": False}, base={"sigma": 0.001, "lr": 0.05, "seconds": 0.2})
    run, record, promotion = promoted(folder, "--hours", str(41 / 3600))
    assert 2 < promotion.tokens / 100_000 < 40
    assert record.attributes.full_run.status == "finished"
    assert f"a full run of {promotion.tokens:,} tokens" in run.text
    short = folder.run("promote", "--hours", "0.001")
    assert short.end() == 2 and "fewer than a trial's 100,000; give more --hours" in short.text


def test_what_a_trial_takes_once_does_not_shorten_the_run_that_fits(folder: StudyFolder) -> None:
    """6 s are left for training: 7 trials of 0.8 s, or 30 times the tokens of one at 0.2 s each."""
    searched(folder, promote={"bracket": False}, base={"sigma": 0.001, "lr": 0.05, "seconds": 0.2, "start_s": 0.6})
    _, record, promotion = promoted(folder, "--hours", str(41 / 3600))
    assert 14 < promotion.tokens / 100_000 < 40
    assert record.attributes.full_run.status == "finished"


def test_killed_in_a_bracket_it_goes_on(usual: StudyFolder) -> None:
    run = usual.start("promote", "--tokens", str(TOKENS))
    before = len(usual.started())
    wait_for(lambda: len(usual.started()) >= before + 2)
    run.kill()
    usual.wait_until_empty()
    # A scheduler is in a hurry, and asks again and again.
    run = usual.start("promote", "--tokens", str(TOKENS))
    assert run.says("bracket"), run.text
    for _ in range(3):
        run.signal(signal.SIGTERM)
    assert run.end() == 130 and "parked, nothing is lost; resume with: " in run.text, run.text
    assert "for a run 16 times as long" not in run.text, "the brackets have not told it yet"
    _, _, promotion = promoted(usual, "--tokens", str(TOKENS))
    assert all(None not in bracket.losses for bracket in promotion.brackets)
    lengths = [training.tokens for training in usual.started()[before:]]
    # Nothing that was done is done again: at most the two trainings that were ended.
    needed = sum(len(bracket.factors) for bracket in promotion.brackets) + 1
    assert needed <= len(lengths) <= needed + 2 and lengths[-1] == TOKENS


# A study that searches the batch as well, whose best one is 4 at a trial's length.
BATCHES: dict[str, Any] = {
    "trainer": "batch_fake_trainer:train",
    "base": {"sigma": 0.001, "lr": 0.05, "batch": 4, **COPIED_LOG},
    "space": {"lr": {"low": 0.005, "high": 0.1, "log": True}, "batch": {"low": 3, "high": 8, "log": True}},
    "enqueue": [{"lr": 0.01, "batch": 4}],
}


def test_the_batch_grows_with_the_run(folder: StudyFolder) -> None:
    """Of text that is read once: 16 ** 0.55 is 4.6; the batch of 4 becomes 18, of which 21 would be the best."""
    searched(folder, **BATCHES, promote={"tokens": 250_000})
    run, record, promotion = promoted(folder, "--tokens", str(TOKENS // 2))
    assert promotion.brackets == () and promotion.batch is not None
    best = tomllib.loads(record.run.best_config.read_text())
    assert best["config"]["batch"] == round(4 * 8**0.55) == 13
    assert f"batch 4 -> {best['config']['batch']}" in run.text


def test_a_batch_that_does_not_fit_is_halved_until_it_does(folder: StudyFolder) -> None:
    base = {**BATCHES["base"], "most_batch": 8}
    searched(folder, **{**BATCHES, "base": base}, promote={"tokens": 250_000})
    run, record, _ = promoted(folder, "--tokens", str(TOKENS // 2))
    assert "3.25 times the trial's batch does not fit; trying less" in run.text
    full = record.attributes.full_run
    assert full is not None and full.status == "finished"
    assert tomllib.loads(record.run.best_config.read_text())["config"]["batch"] == 6


def test_a_proven_best_config_says_what_a_longer_run_will_change(folder: StudyFolder) -> None:
    record = searched(folder, promote={"tokens": TOKENS}).record()
    best: Mapping[str, Any] = tomllib.loads(record.run.best_config.read_text())
    # Text that is read five times has a law of its own.
    assert best["config"]["lr"] == pytest.approx(0.012 * 16**-0.3, rel=0.05)
    assert best["promotion"]["note"] == "not checked by shorter runs"
