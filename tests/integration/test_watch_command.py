"""`autotune watch` beside a study that works: the page as it is now, and an end that leaves the study alone."""

from __future__ import annotations

import re
import signal
import urllib.request

from study_folder import StudyFolder


def test_a_study_at_work_can_be_watched(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000})
    run = folder.start()
    folder.wait_at_gate()
    watching = folder.start("watch", "--port", "0")
    assert watching.says("Ctrl-C stops this server"), watching.text
    address = re.search(r"http://127\.0\.0\.1:\d+/", watching.text)
    assert address is not None
    with urllib.request.urlopen(address[0], timeout=60) as answer:
        page = answer.read().decode()
    assert "Still running" in page and 'data-renewed-s="15"' in page

    watching.signal(signal.SIGINT)
    assert watching.end() == 0, watching.text
    assert "Traceback" not in watching.text
    folder.open_gate()
    assert run.end() == 0, run.text


def test_a_study_that_is_not_there_is_said(folder: StudyFolder) -> None:
    watching = folder.write().run("watch")

    assert watching.process.returncode == 2 and "no study at runs/fake" in watching.text
