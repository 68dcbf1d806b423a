"""What a run tells at its end, and that its exit code stays what it was."""

from __future__ import annotations

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
