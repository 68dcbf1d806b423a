"""A shared database as others have set it up, filled it, or changed it while a study was in use."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import psycopg
import pytest
from study_case import make_study
from study_folder import STUDY, StudyFolder

from autotune.core.errors import UserError
from autotune.core.records import EvalPoint, TrainingKind
from autotune.engine.assignment import TrainingPlan
from autotune.engine.deadline import StopRequest
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.night.opening import open_search
from autotune.store import faults
from autotune.store.database import exclusive, open_storage
from autotune.store.postgresql import SharedStorage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import read_study


@pytest.fixture
def new_database(server: str) -> Iterator[Callable[[str], str]]:
    """Makes a database and returns its URL."""
    made = []

    def make(options: str = "") -> str:
        made.append(f"odd_{len(made)}")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {made[-1]} {options}")
        return server.replace("/postgres?", f"/{made[-1]}?")

    yield make
    with psycopg.connect(server, autocommit=True) as connection:
        for name in made:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(autouse=True)
def _closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Closes what was opened, refused or not: a process would end."""
    made = []
    real = SharedStorage.__init__
    monkeypatch.setattr(SharedStorage, "__init__", lambda self, server: (made.append(self), real(self, server))[1])
    yield
    for storage in made:
        storage.remove_session()
        storage.engine.dispose()


def execute(url: str, statement: str, *values: object) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement, values)


def opened(url: str, out: Path, heartbeat_s: int = 1) -> SharedStorage:
    storage = open_storage(RunDirectory(out), url, heartbeat_s)
    assert isinstance(storage, SharedStorage)
    return storage


def test_neither_encoding_nor_time_zone_nor_style_of_dates_matters(
    new_database: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database("ENCODING 'SQL_ASCII' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'")
    execute(url, "ALTER DATABASE odd_0 SET DateStyle = 'German'")
    monkeypatch.setattr(SharedStorage, "_server_s", lambda storage: 3600.0)
    storages, trials = [], []
    for zone in ("America/New_York", "Asia/Tokyo", "UTC"):
        monkeypatch.setenv("PGTZ", zone)
        storages.append(opened(url, tmp_path, heartbeat_s=600))
        study = optuna.create_study(study_name="x", storage=storages[-1], load_if_exists=True)
        trials.append(storages[-1].create_new_trial(study._study_id))
        storages[-1].record_heartbeat(trials[-1])
        study.set_user_attr(zone, "größer")
        # Those of the zones before it live as well.
        assert [storage._get_stale_trial_ids(study._study_id) for storage in storages] == [[]] * len(storages)
    execute(url, "UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '31 minutes'")
    assert [storage._get_stale_trial_ids(study._study_id) for storage in storages] == [trials] * 3
    assert [trial._trial_id for trial in study.trials] == trials
    assert set(study.user_attrs.values()) == {"größer"}


def test_a_study_of_any_name_is_read_within_its_lock(server: str, tmp_path: Path) -> None:
    storage = opened(server, tmp_path)
    with exclusive(storage, "tables"):
        assert opened(server, tmp_path).get_all_studies() == storage.get_all_studies()


def test_losses_of_a_run_are_kept_beyond_the_whole_numbers_of_a_postgresql(server: str, tmp_path: Path) -> None:
    study = make_study(tmp_path, 'name="long"', f'storage="{server}"')
    storage, run = opened(server, tmp_path), RunDirectory(tmp_path / "long")
    search = optuna.create_study(study_name="long", storage=storage)
    plan = TrainingPlan(TrainingKind.FULL, 4_000_000_000)
    queue = Queue(plan, TrialStore(search, storage, run, study))
    queue.enqueue({"lr": 0.1}, role="full")
    assignment = queue.take()
    assert assignment is not None
    losses = {1_000_000_000: 4.0, 2**31 - 1: 3.5, 2**31: 3.25, 4_000_000_000: 3.0}
    for tokens, loss in losses.items():
        assert queue.report(assignment, EvalPoint(tokens, loss))
    assert queue.records()[0].values == losses


def test_what_another_program_or_version_has_made_is_refused(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(url: str) -> str:
        study = make_study(tmp_path, 'name="mine"', f'storage="{url}"')
        with (
            pytest.raises(UserError) as refused,
            open_search(study, RunDirectory(tmp_path / "mine"), StopRequest()),
        ):
            pass
        return str(refused.value)

    def begun() -> str:
        url = new_database()
        study = make_study(tmp_path, 'name="mine"', f'storage="{url}"')
        with open_search(study, RunDirectory(tmp_path / "mine"), StopRequest()):
            pass
        return url

    theirs = new_database()
    search = optuna.create_study(study_name="mine", storage=opened(theirs, tmp_path))
    search.optimize(lambda trial: trial.suggest_float("depth", 0, 1), n_trials=1)
    assert "an Optuna study mine that another program has made" in refusal(theirs)
    assert len(search.trials) == 1 and not search.user_attrs
    upside_down = new_database()
    optuna.create_study(study_name="mine", storage=opened(upside_down, tmp_path), direction="maximize")
    assert "an Optuna study mine that another program has made" in refusal(upside_down)

    old = begun()
    execute(old, "UPDATE alembic_version SET version_num = 'v3.0.0.a'")
    assert "tables were made by another version of Optuna" in refusal(old)

    for key, value in (("spec", {"novelty": 1}), ("terms", {"novelty": 1}), ("peer 0123abcd", {"novelty": 1})):
        url = begun()
        row = "SELECT study_id, %s, %s FROM studies"
        execute(url, "DELETE FROM study_user_attributes WHERE key = %s", key)
        execute(url, f"INSERT INTO study_user_attributes (study_id, key, value_json) {row}", key, json.dumps(value))
        told = refusal(url)
        assert "mine was begun by another version of autotune" in told and f": {key.partition(' ')[0]}" in told
        with pytest.raises(UserError, match="use the same version on all machines"):
            read_study(tmp_path / "mine", url)


def test_a_study_that_is_deleted_while_it_runs_ends_in_a_sentence(empty_database: StudyFolder) -> None:
    assert faults._GONE == optuna.storages._rdb.models.NOT_FOUND_MSG
    folder = empty_database
    base = {"fault": "gate", "fault_budget": STUDY["budget"]["tokens"]}
    folder.write(storage=folder.url, base=base, limits={"heartbeat_s": 1, "min_free_bytes": 0})
    run = folder.start()
    folder.wait_at_gate()
    optuna.delete_study(study_name="fake", storage=opened(folder.url, folder.root))
    folder.open_gate()
    assert run.end() == 3, run.text
    assert "the study was deleted in the database while it was in use" in run.text and "Traceback" not in run.text
