"""A real PostgreSQL that goes away and comes back: who waits, what is done again, and what is refused."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import optuna
import postgres
import psycopg
import pytest
from optuna.trial import TrialState

from autotune.core.errors import UserError
from autotune.store import absence
from autotune.store.absence import Patience, again_if_cut_off, patient
from autotune.store.database import exclusive, open_storage
from autotune.store.faults import ConnectionLostError
from autotune.store.run_directory import RunDirectory

AWAY_S = 1.0
# Optuna says that heartbeats belong to optimize(), and that all about them is experimental.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Hh]eartbeat", "ignore:fail_stale_trials")


@pytest.fixture(scope="module")
def started() -> Iterator[postgres.Server]:
    yield from postgres.servers()


@pytest.fixture
def server(started: postgres.Server) -> Iterator[postgres.Server]:
    yield started
    started.start()


@pytest.fixture
def storage(server: postgres.Server) -> Iterator[optuna.storages.RDBStorage]:
    storage = open_storage(RunDirectory(Path("unused")), server.url, heartbeat_s=1)
    yield storage
    storage.remove_session()
    storage.engine.dispose()


@pytest.fixture
def notes() -> Iterator[list[str]]:
    """What is said by a process that has patience, in this test."""
    said: list[str] = []
    with patient(Patience(lambda _, words: said.append(words))):
        yield said


def study_in(storage: optuna.storages.RDBStorage, name: str) -> optuna.Study:
    return optuna.create_study(storage=storage, study_name=name, load_if_exists=True)


def away(server: postgres.Server, seconds: float = AWAY_S) -> threading.Thread:
    """Stops the server, and starts it again after a while."""
    server.stop()
    back = threading.Timer(seconds, server.start)
    back.start()
    return back


def test_reads_and_writes_wait_and_say_so(
    server: postgres.Server, storage: optuna.storages.RDBStorage, notes: list[str]
) -> None:
    study = study_in(storage, "waits")
    trial = study.ask()
    calls = [
        lambda: trial.report(2.0, step=1),
        lambda: trial.set_user_attr("seed", 7),
        lambda: study.set_user_attr("spec", {}),
        lambda: storage.record_heartbeat(trial._trial_id),
        lambda: study.trials,
        lambda: storage.get_study_id_from_name("waits"),
    ]
    for call in calls:
        back = away(server, 0.3)
        call()
        back.join()
    (stored,) = study.trials
    assert (stored.intermediate_values, stored.user_attrs) == ({1: 2.0}, {"seed": 7})
    assert len([words for words in notes if words.startswith("the database does not answer (")]) == len(calls)
    assert len([words for words in notes if words.startswith("the database is back after ")]) == len(calls)
    assert not [words for words in notes if "leave" in words]


def test_a_call_that_is_cut_off_is_made_again(
    server: postgres.Server, storage: optuna.storages.RDBStorage, notes: list[str]
) -> None:
    """The connection is lost in the midst of a transaction, and at its end."""
    from sqlalchemy import event

    study = study_in(storage, "cut")
    trial = study.ask()
    cut: list[str] = []

    def kill(name: str) -> None:
        if name not in cut:
            cut.append(name)
            with psycopg.connect(server.url, autocommit=True) as other:
                other.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
                    " AND backend_type = 'client backend'"
                )

    event.listen(storage.engine, "before_cursor_execute", lambda *_: kill("statement"))
    event.listen(storage.engine, "commit", lambda *_: kill("commit"))
    trial.report(2.0, step=1)
    trial.report(1.0, step=2)
    assert cut == ["statement", "commit"]
    assert study.trials[0].intermediate_values == {1: 2.0, 2: 1.0}


def test_whoever_has_lost_the_lock_writes_nothing_until_the_block_is_done_again(
    server: postgres.Server, storage: optuna.storages.RDBStorage, notes: list[str]
) -> None:
    study = study_in(storage, "locked")
    attempts: list[int] = []

    @again_if_cut_off
    def draw() -> None:
        with exclusive(storage, "locked"):
            attempts.append(len(study.trials))
            if len(attempts) == 1:
                server.stop()
                server.start()
                peer = open_storage(RunDirectory(Path("unused")), server.url, heartbeat_s=1)
                with exclusive(peer, "locked"):
                    study_in(peer, "locked").ask()
                peer.engine.dispose()
                for _ in range(2):  # not even when the error is overlooked
                    with pytest.raises(ConnectionLostError):
                        study.ask()
            if not study.get_trials(deepcopy=False):
                study.ask()

    draw()
    assert attempts == [0, 1]
    assert len(study.trials) == 1


def test_peers_are_not_taken_for_dead_as_the_server_comes_back(
    server: postgres.Server, storage: optuna.storages.RDBStorage, notes: list[str]
) -> None:
    study = study_in(storage, "alive")
    trial = study.ask()
    storage.record_heartbeat(trial._trial_id)
    server.stop()
    time.sleep(3.5)
    server.start()
    optuna.storages.fail_stale_trials(study)
    assert study.trials[0].state is TrialState.RUNNING
    time.sleep(3.5)
    optuna.storages.fail_stale_trials(study)
    assert study.trials[0].state is TrialState.FAIL


def test_waiting_ends_with_the_user_the_deadline_and_the_longest_wait(
    server: postgres.Server, storage: optuna.storages.RDBStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = study_in(storage, "ends")
    stops: list[bool] = []
    server.stop()
    threading.Timer(0.5, lambda: stops.append(True)).start()
    with patient(Patience(lambda *_: None, is_stopped=lambda: bool(stops))), pytest.raises(UserError) as stopped:
        study.trials  # noqa: B018 - reading waits
    assert stopped.value.exit_code == 130 and "nothing is lost" in str(stopped.value)

    ends = time.monotonic() + 0.5
    with (
        patient(Patience(lambda *_: None, seconds_left=lambda: ends - time.monotonic())),
        pytest.raises(UserError) as late,
    ):
        study.trials  # noqa: B018
    assert late.value.exit_code == 3
    assert re.search("until this process had to end.*what was stored before is safe", str(late.value))

    monkeypatch.setattr(absence, "LONGEST_WAIT_S", 0.3)
    with patient(Patience(lambda *_: None)), pytest.raises(UserError, match="for as long as this process waits"):
        study.trials  # noqa: B018
    # Who is not at work, as `autotune status` is not, is told at once.
    with pytest.raises(UserError, match=r"cannot connect: .*see whether the server runs there"):
        study.trials  # noqa: B018


def test_each_refusal_says_what_to_do(server: postgres.Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "SHORT_WAIT_S", 0.3)
    server.sql("CREATE ROLE guest LOGIN")
    server.sql("CREATE ROLE crowd LOGIN CONNECTION LIMIT 0")
    server.sql("CREATE DATABASE standby")
    server.sql("ALTER DATABASE standby SET default_transaction_read_only = on")
    as_guest = server.url.replace("postgres:@", "guest@")
    cases = {
        server.url.replace("/postgres?", "/absent?"): 'database "absent" does not exist; create that database',
        server.url.replace("postgres:@", "nobody@"): 'role "nobody" does not exist; correct the user',
        server.url.replace("postgres:@", "crowd@"): "too many connections.*start fewer processes",
        server.url.replace("/postgres?", "/standby?"): "read-only transaction; the server may only be read",
        as_guest: "permission denied .*GRANT what is missing",
        f"{server.url}&foo=1": 'invalid connection option "foo"; take it out of the URL',
        f"{server.url}&sslmode=always": 'invalid sslmode value: "always"; correct it in the URL',
        f"{server.url}&connect_timeout=soon": "bad value for connect_timeout.*correct it in the URL",
        server.url.replace("postgres:@", "postgres:${NO_SUCH}@"): r"\$\{NO_SUCH\}.*export NO_SUCH=",
        "postgresql://u@nohost.invalid/db": "failed to resolve host 'nohost.invalid'",
        "postgresql://u@127.0.0.1:1/db?sslmode=require": "127.0.0.1.*port 1 failed: Connection refused",
    }
    for url, words in cases.items():
        with pytest.raises(UserError, match=words) as refusal:
            open_storage(RunDirectory(Path("unused")), url)
        assert refusal.value.exit_code == 3
        assert "leave" not in str(refusal.value) and "Traceback" not in str(refusal.value)
