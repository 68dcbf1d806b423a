"""What a run tells at its end, and that its exit code stays what it was."""

from __future__ import annotations

import re

import pytest
from study_folder import StudyFolder


def test_a_command_is_told_of_the_end(folder: StudyFolder) -> None:
    told = folder.root / "told"
    folder.write(budget={"trials": 2}, finals={"finalists": 0})
    run = folder.start("--on-finish", f'echo "$AUTOTUNE_STUDY $AUTOTUNE_EXIT_CODE" > {told}; exit 7')

    assert run.end() == 0, run.text
    assert told.read_text() == "fake 0\n"
    assert "--on-finish ended with exit code 7" in run.text


def test_a_fault_is_told_too(folder: StudyFolder) -> None:
    told = folder.root / "told"
    folder.write(base={"fault": "crash", "fault_budget": 100_000}, limits={"crashes": 2, "retries": 0})
    run = folder.start("--on-finish", f'echo "$AUTOTUNE_EXIT_CODE" > {told}')

    assert run.end() != 0
    assert told.read_text() == f"{run.process.returncode}\n"


def test_a_wrong_webhook_is_refused_before_anything_begins(folder: StudyFolder) -> None:
    run = folder.write().run("--webhook", "example.org")

    assert run.process.returncode == 2 and "--webhook 'example.org' is not a web address" in run.text
    assert not folder.directory().database.exists()


def test_a_night_that_is_refused_leaves_nothing_to_resume(folder: StudyFolder) -> None:
    """Neither the time nor the baseline does: nothing was parked, and the refusal is all that is said and sent."""
    told = folder.root / "told"
    folder.write().place_hardware()
    short = folder.whole_command(
        "run", "fake.toml", "--hours", "0.001", "--on-finish", f'echo "$AUTOTUNE_TEXT" > {told}'
    )
    # How many depends on how long the probe took on a busy machine.
    assert short.returncode == 2 and re.search(r"give it --hours \d+\.\d+ or more", short.stderr)
    assert short.stdout == "probing the baseline ...\n"
    assert told.read_text() == f"autotune: fake ended with exit code 2\n{short.stderr}"
    assert not folder.directory().report.exists()

    state = folder.whole_command("status", "fake")
    assert "Nothing of the study has been trained yet; this begins it.\nnext: autotune run fake\n" in state.stdout

    folder.write(base={"fault": "crash", "fault_budget": 4_000})
    crashed = folder.whole_command("run", "fake.toml")
    assert crashed.returncode != 0 and "parked" not in crashed.stdout + crashed.stderr, crashed.stdout
    assert not folder.directory().report.exists()


@pytest.mark.thorough
def test_a_night_that_is_refused_later_tells_of_the_trials_before(folder: StudyFolder) -> None:
    """It was killed at its first trial, and is given too little time to go on."""
    folder.write(base={"fault": "gate", "fault_budget": 100_000, "strikes": 1}).place_hardware()
    begun = folder.start()
    folder.wait_at_gate()
    begun.kill()

    refused = folder.whole_command("run", "fake.toml", "--hours", "0.001")
    assert refused.returncode == 2 and "too short for this study" in refused.stderr
    assert "No verdict yet: 0 of up to 8 trials" in refused.stdout and folder.directory().report.exists()
