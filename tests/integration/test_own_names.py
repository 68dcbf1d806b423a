"""A trainer that calls its settings otherwise is tuned like any other, once it says what they are."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from autotune.core.files import read_json
from autotune.core.records import TrialStatus, VerdictWord
from autotune.night.session import Options, Session
from autotune.store.study_record import read_study
from autotune.study.study_file import load

STUDY = """
name = "own"
trainer = "own_names_trainer:train"
seed = 7

[budget]
tokens = 100_000
trials = 3

[space]
rate = {low = 0.001, high = 0.1, log = true}

[[enqueue]]
rate = 0.01

[finals]
finalists = 1
select_seeds = 1
prove_seeds = 3
max_seeds = 3

[promote]
tokens = 400_000
automatic = true
"""


@pytest.fixture
def session(tmp_path: Path) -> Session:
    path = tmp_path / "own.toml"
    path.write_text(STUDY)
    return Session(load(path), Options(tmp_path / "runs", device="cpu", say=lambda line: None))


def test_its_settings_are_filled_in_under_its_own_names(session: Session) -> None:
    assert session.work() == 0
    record = read_study(session.run.root)
    assert record.verdict is not None and record.verdict.word is VerdictWord.BETTER

    searched = [trial.result.config for trial in record.trials if trial.result is not None]
    proved = [run.result.config for run in record.finals if run.result is not None]
    assert [config["run"]["rng"] for config in searched] == [7, 7, 7]
    assert [config["run"]["rng"] for config in proved] == [run.seed for run in record.finals]
    assert len({run.seed for run in record.finals}) > 1
    for config in [*searched, *proved]:
        assert config["run"]["backend"] == "cpu" and config["seed"] == "sunflower"
        # The full run reads its text of 200,000 tokens twice, and so do they theirs.
        assert config["run"]["text"] == 50_000
        assert (config["run"]["results_in"], config["run"]["card"]) == ("", [])


def test_its_full_run_has_its_length_its_evaluations_and_its_folder(session: Session) -> None:
    assert session.work() == 0
    record = read_study(session.run.root)
    full = record.attributes.full_run
    assert full is not None
    assert (full.status, full.tokens_seen, len(full.points)) == (TrialStatus.FINISHED, 400_000, 16)

    [config_file] = session.run.full.rglob("config.json")
    written = read_json(config_file)["run"]
    assert written["results_in"] == full.folder == str(config_file.parent.parent)
    assert "study: own" in written["card"] and written["text"] == 0

    best = tomllib.loads(session.run.best_config.read_text())["config"]
    assert (best["run"]["rng"], best["seed"]) == (7, "sunflower")
    assert best["rate"] == pytest.approx(0.01, rel=0.5)
