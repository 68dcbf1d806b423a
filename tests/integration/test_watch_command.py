"""`autotune watch` beside a study that works: its page, its events, and ends that leave the study alone."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from study_folder import PATIENCE_S, Run, StudyFolder

from autotune.cli.answers.events import Watched
from autotune.store.study_record import StudyRecord


def events_of(run: Run) -> list[dict[str, Any]]:
    """Returns the whole lines that are printed so far, each of which is an event of the schema."""
    lines = run.text.rpartition("\n")[0].splitlines()
    told = [json.loads(line, parse_constant=pytest.fail) for line in lines if not line.startswith("waiting for ")]
    for event in told:
        assert Watched.model_validate(event).model_dump(mode="json", by_alias=True) == event
    return told


def test_a_study_is_watched_from_before_its_beginning_to_its_end(folder: StudyFolder) -> None:
    """By programs, each event once, and by people on a page; it is parked and resumed in between."""
    folder.write(budget={"trials": 3}, base={"fault": "gate", "fault_budget": 100_000}, finals={"attribute_seeds": 0})
    watching = folder.start("watch", "--json", "--heartbeat", "1")
    assert watching.says('"state": "not begun"'), watching.text

    first = folder.start()
    folder.wait_at_gate()
    assert watching.says('"event": "trial_started"'), watching.text
    _look_at_the_page(folder)
    first.signal(signal.SIGINT)
    folder.open_gate()
    assert first.end() == 130, first.text
    assert watching.says('"event": "parked"'), watching.text

    assert folder.run().end() == 0
    assert watching.end() == 0, watching.text
    told = events_of(watching)
    _require_whole(told, folder.record())

    later = events_of(folder.run("watch", "--json", "--once"))
    assert _lasting(later) == _lasting(told), "whoever comes later is told the same"
    assert {"parked", "resumed"} <= {event["event"] for event in later}


def _look_at_the_page(folder: StudyFolder) -> None:
    """Looks at the page of a study at work, whose server ends without touching the study."""
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


def _require_whole(told: list[dict[str, Any]], record: StudyRecord) -> None:
    """Holds events against what is stored."""
    happened = [event for event in told if event["event"] != "heartbeat"]
    assert Counter(map(json.dumps, happened)).most_common(1)[0][1] == 1, "nothing is told twice"

    ended = {(event["kind"], event["trial"]): event for event in told if event["event"] == "trial_ended"}
    assert len(ended) == len(record.trials) + len(record.finals)
    for trial in record.trials:
        event = ended["search", trial.number]
        assert (event["status"], event["loss"]) == (str(trial.status), trial.loss)
    reported = [event for event in told if event["event"] == "trial_reported" and event["kind"] == "search"]
    assert {(event["trial"], event["tokens"]): event["loss"] for event in reported} == {
        (trial.number, tokens): loss for trial in record.trials for tokens, loss in trial.values.items()
    }

    phases = [event["phase"] for event in told if event["event"] == "phase"]
    assert phases == ["planning", "search", "finals", "promotion", "ended"]
    assert told[-1]["state"] == "done"
    [verdict] = [event for event in told if event["event"] == "verdict"]
    assert record.verdict is not None and verdict["gain"] == record.verdict.gain
    best = [event["trial"] for event in told if event["event"] == "new_best"]
    assert best[-1] == min((trial.loss, trial.number) for trial in record.trials if trial.loss is not None)[1]


def _lasting(told: list[dict[str, Any]]) -> set[str]:
    """Returns what is told of a study whenever it is read, without when and how it then stood."""
    passing = ("heartbeat", "failed", "phase", "trial_reported")
    kept = [event for event in told if event["event"] not in passing]
    return {json.dumps({key: value for key, value in event.items() if key not in ("state", "at")}) for event in kept}


def test_it_ends_without_a_word_where_nobody_reads_on(tmp_path: Path) -> None:
    """At a closed pipe, and at Ctrl-C."""
    command = [sys.executable, "-m", "autotune", "watch", "nothing", "--json", "--heartbeat", "1"]
    watching = [
        subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in watching:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["state"] == "not begun"

    left, stopped = watching
    assert left.stdout is not None
    left.stdout.close()
    stopped.send_signal(signal.SIGINT)
    for process in watching:
        assert process.wait(PATIENCE_S) == 0
        assert process.stderr is not None
        assert process.stderr.read() == "waiting for runs/nothing to begin (Ctrl-C ends this)\n"
        process.stderr.close()
    assert stopped.stdout is not None
    stopped.stdout.close()


def test_a_study_that_is_not_there_is_said(folder: StudyFolder) -> None:
    for options in ((), ("--json", "--once")):
        watching = folder.write().run("watch", *options)
        assert watching.process.returncode == 2 and "no study at runs/fake" in watching.text
