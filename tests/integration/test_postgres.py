"""Several processes on one study in a real PostgreSQL, as several machines would be."""

from __future__ import annotations

import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import postgres
import psutil
import psycopg
import pytest
from optuna.trial import FrozenTrial, TrialState
from study_folder import HERE, PATIENCE_S, STUDY, Run, StudyFolder, is_over, wait_for

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus, VerdictWord
from autotune.engine.deadline import REPORT_S
from autotune.promotion.early_end import EXPORT_S
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import read_study
from autotune.study.study_file import load

TRIALS = 6


@pytest.fixture(scope="module")
def running() -> Iterator[postgres.Server]:
    yield from postgres.servers()


@pytest.fixture
def server(running: postgres.Server) -> Iterator[str]:
    """URL of a running server."""
    yield running.url
    running.start()


@pytest.fixture
def shared(empty_database: StudyFolder) -> StudyFolder:
    """A study in an empty database of its own."""
    _write(empty_database)
    return empty_database


def _write(folder: StudyFolder, **base: Any) -> None:
    limits = {"heartbeat_s": 1, "min_free_bytes": 0}
    folder.write(
        storage=folder.url,
        budget={"trials": TRIALS},
        base={"seconds": 0.05, **base},
        # Which trials peers prune depends on who came first, and with it whether there are two finalists.
        pruner={"name": "none"},
        limits=limits,
    )


def _told(folder: StudyFolder, out: str) -> dict[str, list[FrozenTrial]]:
    return folder.optuna_trials(out)


def _assert_whole(folder: StudyFolder, outs: list[str]) -> None:
    """Asserts that the study is complete, with nothing doubled, and that every peer sees the same."""
    records = [folder.record(out) for out in outs]
    first = records[0]
    assert is_over(_told(folder, outs[0]))
    assert sum(trial.status is not TrialStatus.INTERRUPTED for trial in first.trials) == TRIALS
    assert [trial.role for trial in first.trials if not trial.excused].count("baseline") == 1
    done = Counter((run.arm, run.seed, run.stage) for run in first.finals if run.status is TrialStatus.FINISHED)
    assert set(done.values()) == {1} and len(done) == 6
    # Which settings were tried depends on who drew when, so the words may differ; that there is one may not.
    assert first.verdict is not None
    assert first.verdict.word is not VerdictWord.FAILED
    assert all(
        (record.trials, record.finals, record.verdict) == (first.trials, first.finals, first.verdict)
        for record in records
    )
    known = Counter((trial.seed, trial.params["lr"]) for trial in (*first.trials, *first.finals) if trial.params)
    short = [training for training in folder.started() if training.tokens == STUDY["budget"]["tokens"]]
    assert not Counter((training.seed, training.lr) for training in short) - known


def test_three_peers_share_a_study(shared: StudyFolder) -> None:
    outs = ["a", "b", "c"]
    full = ("--set", "promote.automatic=true", "--set", "promote.tokens=200000")
    peers = [shared.start(*full, out=out) for out in outs]
    for peer in peers:
        assert peer.end() == 0, peer.text
    _assert_whole(shared, outs)
    record = shared.record(outs[0])
    assert len(record.trials) == TRIALS and len(record.finals) == 6
    assert record.attributes.full_run.status == "finished"
    assert Counter(training.tokens for training in shared.started()) == {100_000: TRIALS + 6, 200_000: 1}
    assert len({training.pid for training in shared.started()}) > 1
    shared.wait_until_empty()


@pytest.mark.thorough
def test_peers_train_one_full_run_of_what_is_left_of_the_night(shared: StudyFolder) -> None:
    """The end of the one that comes second is a little later, by its own reckoning, and does not count."""
    ends_s = REPORT_S + EXPORT_S + 35
    full = ("--set", "promote.automatic=true", "--set", "base={seconds = 0.25, obeys = true}", "--hours")
    peers = [shared.start(*full, str((ends_s + late) / 3600), out=out) for late, out in enumerate("ab")]
    for peer in peers:
        assert peer.end() == 0, peer.text
    record = shared.record("a")
    assert record.attributes.full_run.status == "finished"
    long = [training.tokens for training in shared.started() if training.tokens > 100_000]
    assert long == [record.attributes.run_tokens] == [record.attributes.full_run.tokens]
    shared.wait_until_empty()


def test_peers_train_equal_seconds_by_the_same_speeds(shared: StudyFolder) -> None:
    """Two experts are half as fast, whoever measures it first."""
    shared.write(
        storage=shared.url,
        objective="loss_at_equal_seconds",
        trainer="counting_fake_trainer:train",
        budget={"trials": TRIALS},
        base={"seconds": 0.05, "claimed_per_s": 1e5},
        space={**STUDY["space"], "experts": {"choices": [1, 2]}},
        pruner={"name": "none"},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )
    peers = [shared.start(out=out) for out in ("a", "b")]
    for peer in peers:
        assert peer.end() == 0, peer.text
    record = shared.record("a")
    assert len(record.attributes.speeds) == len({trial.params["experts"] for trial in record.trials})
    runs = [run for run in (*record.trials, *record.finals) if run.result is not None and run.result.config]
    assert len(runs) >= TRIALS
    for run in runs:
        assert run.result is not None
        assert run.budget_tokens == run.result.points[-1].tokens_seen == 100_000 // run.result.config["experts"]


def _two_peers_one_at_the_gate(folder: StudyFolder) -> tuple[Run, Run]:
    """Returns a peer whose training stands at the gate, and one that works; only one training meets the gate."""
    _write(folder, fault="gate", fault_budget=STUDY["budget"]["tokens"], strikes=1)
    first = folder.start(out="a")
    folder.wait_at_gate()
    second = folder.start(out="b")
    wait_for(lambda: len({training.pid for training in folder.started()}) > 1)
    return first, second


@pytest.mark.thorough
def test_suspended_peer_lets_go_of_what_was_taken_over(shared: StudyFolder) -> None:
    """A laptop that sleeps and wakes: its trial was repeated elsewhere meanwhile."""
    first, second = _two_peers_one_at_the_gate(shared)
    first.signal(signal.SIGSTOP)
    wait_for(lambda: any(trial.state is TrialState.FAIL for trial in _told(shared, "b").get("fake", [])))
    first.signal(signal.SIGCONT)
    shared.open_gate()
    assert second.end() == 0, second.text
    # Suspended in the midst of a transaction, it finds its connection ended by the server.
    assert first.end() == 0 or "the database failed" in first.text, first.text
    assert "Traceback" not in first.text
    _assert_whole(shared, ["a", "b"])


def test_lock_of_a_suspended_peer_is_taken_from_it(shared: StudyFolder) -> None:
    """The others go on, and the sleeper finds out without a fault when it wakes."""
    command = [sys.executable, str(HERE / "lock_holder.py"), shared.url, "fake"]
    with subprocess.Popen(command, cwd=shared.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as sleeper:
        wait_for(lambda: psutil.Process(sleeper.pid).status() == psutil.STATUS_STOPPED)
        run = shared.run()
        sleeper.send_signal(signal.SIGCONT)
        output, _ = sleeper.communicate(timeout=PATIENCE_S)
    assert (sleeper.returncode, output) == (0, b"went on\n")
    assert run.end() == 0, run.text
    _assert_whole(shared, ["runs"])


def test_parked_peer_leaves_its_trial_to_the_others(shared: StudyFolder) -> None:
    first, second = _two_peers_one_at_the_gate(shared)
    first.signal(signal.SIGINT)
    assert first.says("stopping after")
    shared.open_gate()
    assert first.end() == 130, first.text
    assert second.end() == 0, second.text
    _assert_whole(shared, ["b"])


def test_peers_wait_for_a_server_that_goes_away_in_each_phase(shared: StudyFolder, running: postgres.Server) -> None:
    _write(shared, seconds=0.3)
    full = ("--set", "promote.automatic=true", "--set", "promote.tokens=200000")
    # On a machine that never runs the study, which it knows by its file alone.
    watching = shared.start("watch", "--json", "--heartbeat", "1", out="c")
    assert watching.says('"state": "not begun"'), watching.text
    peers = [shared.start(*full, out=out) for out in "ab"]
    phases: list[Callable[[], bool]] = [
        lambda: len(shared.started()) > 2,
        lambda: any("to choose the winner" in peer.text for peer in peers),
        lambda: any(training.tokens == 200_000 for training in shared.started()),
    ]
    for has_begun in phases:
        wait_for(has_begun)
        running.stop()
        time.sleep(4)
        running.start()
    for peer in peers:
        assert peer.end() == 0, peer.text
        assert "the database does not answer (" in peer.text and "the database is back after " in peer.text
        assert "leave storage out" not in peer.text
    _assert_whole(shared, ["a", "b"])
    assert Counter(training.tokens for training in shared.started()) == {100_000: TRIALS + 6, 200_000: 1}
    assert shared.record("a").attributes.full_run.status == "finished"

    assert watching.end() == 0 and "the database is back after " in watching.text, watching.text
    told = Counter(event["event"] for event in _events(watching))
    later = Counter(event["event"] for event in _events(shared.run("watch", "--json", "--once", out="d")))
    assert told["trial_ended"] == later["trial_ended"] == len(shared.record("a").trials) + 6
    assert told["verdict"] == later["verdict"] == 1 and not told["failed"]
    assert [each["phase"] for each in _events(watching) if each["event"] == "phase"][-2:] == ["full run", "ended"]


def test_sessions_that_are_ended_while_they_begin_are_begun_again(shared: StudyFolder) -> None:
    """What ends a session while the driver makes it ready is the same absence as what ends it later."""
    end_all = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    is_over = threading.Event()

    def end_sessions() -> None:
        with psycopg.connect(shared.url, autocommit=True) as connection:
            while not is_over.wait(random.uniform(0.02, 0.1)):
                connection.execute(end_all)

    run = RunDirectory(shared.root)
    open_storage(run, shared.url, 1).engine.dispose()
    ending = threading.Thread(target=end_sessions)
    ending.start()
    try:
        until = time.monotonic() + 6
        while time.monotonic() < until:
            open_storage(run, shared.url, 1).engine.dispose()
    finally:
        is_over.set()
        ending.join()


def _events(watching: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in watching.text.splitlines() if line.startswith("{")]


def test_a_study_is_parked_while_its_database_is_away(shared: StudyFolder, running: postgres.Server) -> None:
    _write(shared, fault="gate", fault_budget=STUDY["budget"]["tokens"])
    run = shared.start()
    shared.wait_at_gate()
    running.stop()
    shared.open_gate()
    assert run.says("the database does not answer (")
    run.signal(signal.SIGTERM)
    assert run.end() == 130, run.text
    assert "stopped while the database was away; nothing is lost" in run.text and "Traceback" not in run.text
    again = shared.start()
    assert again.says("the database does not answer (")
    running.start()
    assert again.end() == 0, again.text
    _assert_whole(shared, ["runs"])


def test_a_database_that_is_closed_ends_in_a_sentence(shared: StudyFolder, server: str) -> None:
    _write(shared, fault="gate", fault_budget=STUDY["budget"]["tokens"])
    run = shared.start()
    shared.wait_at_gate()
    with psycopg.connect(server, autocommit=True) as connection:
        name = psycopg.conninfo.conninfo_to_dict(shared.url)["dbname"]
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
        shared.open_gate()
        assert run.end() == 3, run.text
        assert "is not currently accepting connections; let it be used again" in run.text
        assert "Traceback" not in run.text
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    again = shared.run()
    assert again.end() == 0, again.text
    _assert_whole(shared, ["runs"])


def test_missing_database_and_wrong_password(folder: StudyFolder, server: str) -> None:
    folder.write(storage=server.replace("/postgres?", "/absent?"))
    run = folder.run()
    assert run.end() == 3
    assert 'database "absent" does not exist' in run.text and "Traceback" not in run.text


# --- passwords ---

PASSWORD = "hunter2"


def _all_that_is_stored(folder: StudyFolder) -> str:
    """Everything in a study's run directory and in its database."""
    files = [path for path in (folder.root / "runs").rglob("*") if path.is_file()]
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    with psycopg.connect(folder.url) as connection:
        for table in ("study_user_attributes", "study_system_attributes", "trial_user_attributes"):
            texts += [str(row) for row in connection.execute(f"SELECT * FROM {table}")]
    return "".join(texts)


def test_a_password_is_used_and_stored_nowhere(shared: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a part of the URL, as a variable in it, and by libpq's own ways."""
    with psycopg.connect(shared.url, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE worker LOGIN PASSWORD '{PASSWORD}'")
        connection.execute("GRANT ALL ON SCHEMA public TO worker")
        hba = Path(connection.execute("SHOW hba_file").fetchone()[0])  # type: ignore[index]
        hba.write_text("local all worker scram-sha-256\n" + hba.read_text())
        connection.execute("SELECT pg_reload_conf()")
    without = shared.url.replace("://postgres:@", "://worker@")
    shared.url = shared.url.replace("://postgres:@", f"://worker:{PASSWORD}@")
    shared.write(finals={"finalists": 0}, limits={"heartbeat_s": 1, "min_free_bytes": 0})

    run = shared.run("--set", f'storage="{shared.url}"', "--trials", "1")
    assert run.end() == 0, run.text
    report = shared.run("report", "--json")
    stored = _all_that_is_stored(shared)
    assert '"storage": "postgresql://worker@/study_' in stored
    assert PASSWORD not in run.text + report.text + stored

    run = shared.run("--set", f'storage="{without}"')
    assert run.end() == 3 and "give the password in PGPASSWORD" in run.text and "Traceback" not in run.text
    monkeypatch.setenv("WORKERS", PASSWORD)
    run = shared.run("--set", 'storage="' + shared.url.replace(PASSWORD, "${WORKERS}") + '"', "--trials", "2")
    assert run.end() == 0, run.text
    assert "worker:${WORKERS}@" in (shared.root / "runs/fake/study.toml").read_text()
    assert PASSWORD not in run.text + _all_that_is_stored(shared)

    # The folder alone is enough where libpq knows the password.
    passwords = shared.root / "passwords"
    passwords.write_text(f"*:*:*:worker:{PASSWORD}\n")
    passwords.chmod(0o600)
    monkeypatch.setenv("PGPASSFILE", str(passwords))
    assert len(read_study(shared.directory().root, without).trials) == 2


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql://u:hunter2@127.0.0.1:1/db",
        "postgresql://u:p@hunter2@127.0.0.1:1/db",
        "postgresql://u:p:hunter2/x@127.0.0.1:1/db",
        "postgresql://u:@hunter2/db",
        "postgresql://u:a/hunter2@127.0.0.1:1/db",
        "postgresql://u@127.0.0.1:1/db?password=hunter2",
        "mysql://u:hunter2@host/db",
        "u:hunter2@host/db",
        "hunter2",
        "postgresql:/u:hunter2@host/db",
        "postgresql://u:x@127.0.0.1:hunter2/db",
        "postgresql://u:x\n@hunter2@host:y/db",
    ],
)
def test_a_password_stands_in_no_error(storage: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        open_storage(RunDirectory(tmp_path), storage)
    assert "hunter2" not in str(refusal.value).replace("failed to resolve host 'hunter2'", "")
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    "line",
    [
        "storage = postgresql://u:hunter2@host/db",
        'storage = ["postgresql://u:hunter2@host/db"]',
        'storage = "postgresql://u:hunter2@host/db',
        'storag = "postgresql://u:hunter2@host/db"',
        'storage = {url = "postgresql://u:hunter2@host/db"}',
    ],
)
def test_a_password_is_not_repeated_of_a_study_file(line: str, tmp_path: Path) -> None:
    path = tmp_path / "night.toml"
    path.write_text(f'name = "night"\n{line}\ntrainer = "fake_trainer:train"\n')
    for changes in ([], [line]):
        with pytest.raises(UserError) as refusal:
            load(path, changes)
        assert "hunter2" not in str(refusal.value)


def test_a_shared_study_is_steered_from_any_machine_and_each_wish_counts_once(shared: StudyFolder) -> None:
    shared.write(
        storage=shared.url,
        budget={"trials": 9},
        base={"seconds": 0.05, "fault": "gate", "fault_above": 0.05},
        enqueue=[{"lr": 0.1}],
        pruner={"name": "none"},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )
    outs = ["first", "second"]
    first = shared.start(out=outs[0])
    shared.wait_at_gate()
    asked = shared.command(
        "steer", str(shared.file), "--out", outs[0],
        "--stop-trial", "1", "--add", "lr=0.02", "--range", "lr=0.005..0.05", "--trials", "5", "--hours", "8",
    )  # fmt: skip
    assert asked.end() == 0, asked.text
    assert first.says("you moved the end to ")
    second = shared.start(out=outs[1])
    shared.open_gate()
    assert (first.end(), second.end()) == (0, 0), first.text + second.text

    for record in (shared.record(out) for out in outs):
        assert [request.is_done for request in record.attributes.requests] == [True] * 5
        statuses = {trial.number: trial.status for trial in record.trials}
        assert statuses.pop(1) is TrialStatus.STOPPED
        assert list(statuses.values()) == [TrialStatus.FINISHED] * 4
        assert [trial.params["lr"] for trial in record.trials].count(0.02) == 1
        assert record.verdict is not None
    assert (first.text + second.text).count("you lowered the number of trials from 9 to 5.") == 1


def test_a_full_run_goes_on_elsewhere_from_its_last_checkpoint(shared: StudyFolder) -> None:
    """Its machine is gone, with its disk; a third one, which has nothing, writes the whole page."""
    place = shared.root / "place"
    place.mkdir()
    shared.write(
        storage=shared.url,
        artifacts=str(place),
        trainer="resuming_fake_trainer:train",
        budget={"trials": 2},
        base={"seconds": 0.05, "fault": "gate", "fault_budget": 200_000, "strikes": 1},
        pruner={"name": "none"},
        finals={"finalists": 0},
        promote={"automatic": True, "tokens": 200_000},
        limits={"heartbeat_s": 1, "min_free_bytes": 0},
    )
    first = shared.start(out="a")
    shared.wait_at_gate()
    second = shared.start(out="b")
    log = place / "fake/trials/0001/log.txt"
    put_there = ("full/*/checkpoint.txt", "machines/*/events.jsonl", "trials/0001/log.txt")
    wait_for(lambda: all(list(place.glob(f"fake/{file}")) for file in put_there))
    first.kill()
    shared.directory("a").root.rename(shared.root / "gone")
    assert second.end() == 0, second.text
    assert "of this run were fetched from" in second.text and f"the files are in {place}/fake" in second.text
    begun_at = [int(line) for line in (shared.log / "begun_at.txt").read_text().split()]
    assert begun_at == [0, 80_000]
    record = shared.record("b")
    assert record.attributes.full_run.status == "finished"

    log.unlink()
    report = shared.whole_command("report", str(shared.file), "--out", "c")
    assert report.returncode == 0, report.stdout + report.stderr
    page = (shared.root / "c/fake/report/report.md").read_text()
    assert f"the logs of trial 1 lie on {socket.gethostname()} and were not put into the shared place" in page
    begun = [event["message"] for event in shared.record("c").events if event["kind"] == "started"]
    assert begun[0] == "trial 0" and len(begun) == 4, "of both machines, two of them the full run"
