"""What a trainer says before its first evaluation: it is shown, is a sign of life, and takes no training time."""

from __future__ import annotations

import json
import re
import signal
import urllib.request

from study_folder import StudyFolder

QUICK = {"limits": {"hang_s": 0.5, "min_free_bytes": 0}, "budget": {"trials": 2}}


def test_a_long_preparation_is_told_and_is_no_hang(folder: StudyFolder) -> None:
    # Three times as long as a first evaluation may take, in the probe and in each training.
    folder.write(base={"prepares_s": 1.6}, finals={"finalists": 0}, **QUICK)
    run = folder.run()
    assert run.end() == 0, run.text
    assert "fetching the text: 1.6 s left" in run.text
    assert any(event["kind"] == "preparing" for event in folder.record().events)
    assert all(trial.result is not None and trial.result.seconds < 1.0 for trial in folder.record().trials)


def test_a_stop_in_the_preparation_parks_at_once(folder: StudyFolder) -> None:
    folder.write(base={"prepares_s": 3600.0})
    run = folder.start()
    assert run.says("fetching the text")
    status = folder.run("status")
    assert status.end() == 0
    assert "last event: fetching the text" in status.text
    run.signal(signal.SIGINT)
    assert run.end() == 130, run.text


BEFORE = """name = "fake"
trainer = "preparing_fake_trainer:train"
[budget]
tokens = 100_000
trials = 2
[base.data]
prepares_s = 3600.0
[space]
lr = {low = 0.001, high = 0.1, log = true}
"""


def test_what_is_made_ready_before_the_study_is_stored_is_told_and_can_be_stopped(folder: StudyFolder) -> None:
    folder.file.write_text(BEFORE)
    run = folder.start()
    assert run.says("fetching the text: 3600")
    status = folder.run("status")
    assert status.end() == 0, status.text
    assert "its data is being made ready\nlast event: fetching the text: 3600" in status.text
    for command in ("report", "promote"):
        refused = folder.run(command)
        assert refused.end() == 2 and "fake is still being prepared by PID " in refused.text, refused.text
    watching = folder.begin("watch", "fake.toml", "--port", "0")
    assert watching.says("Ctrl-C stops this server"), watching.text
    address = re.search(r"http://127\.0\.0\.1:\d+/", watching.text)
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=60) as answer:
        page = answer.read().decode()
    assert (
        "Its data is being made ready" in page and "Fetching the text: 3600" in page and 'data-renewed-s="15"' in page
    )
    watching.signal(signal.SIGINT)
    assert watching.end() == 0, watching.text

    assert folder.run("stop").end() == 0
    assert run.end() == 130, run.text
    assert run.text.splitlines()[-1] == "stopped while the data were made ready; nothing is lost: run again"
    assert not folder.directory().spec.exists()


def test_a_fault_of_the_environment_ends_with_its_exit_code_and_may_be_mended(folder: StudyFolder) -> None:
    folder.write(base={"unreachable": True})
    run = folder.run()
    assert run.end() == 3, run.text
    assert run.text.splitlines()[-1] == (
        "the baseline does not train: the hub cannot be reached: find a network, and run again"
    )

    folder.write(budget={"trials": 2})
    mended = folder.run()
    assert mended.end() == 0, mended.text
    assert json.loads(folder.directory().spec.read_text())["base"]["unreachable"] is False


def test_a_fault_of_the_environment_in_a_trial_parks_the_study(folder: StudyFolder) -> None:
    folder.write(base={"unreachable": True}, budget={"trials": 1}, finals={"finalists": 0})
    (folder.log / "network").touch()
    assert folder.run().end() == 0

    (folder.log / "network").unlink()
    parked = folder.run("--set", "budget.trials=2")
    assert parked.end() == 3, parked.text
    assert "the hub cannot be reached: find a network, and run again" in parked.text.splitlines()

    (folder.log / "network").touch()
    again = folder.run("--set", "budget.trials=2")
    assert again.end() == 0, again.text
    assert sum(trial.loss is not None for trial in folder.record().trials) == 2
