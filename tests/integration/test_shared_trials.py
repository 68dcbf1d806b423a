"""Processes that share a PostgreSQL: what each keeps in memory of the trials, and what two propose at once."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages import RDBStorage
from optuna.storages._rdb.models import TrialModel
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState
from study_case import make_study, result

from autotune.core.attributes import TrialAttributes
from autotune.core.records import TrainingKind, TrialResult, TrialStatus
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.store import trial_rows
from autotune.store.database import open_storage
from autotune.store.postgresql import SharedStorage
from autotune.store.run_directory import RunDirectory
from autotune.store.shared_trials import ChangedTrials
from autotune.store.study_store import open_study


class Stubborn(optuna.samplers.RandomSampler):
    """Proposes the same whenever it is asked."""

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, name: str, dist: BaseDistribution) -> Any:
        return {"lr": 0.1, "layers": 2}[name]


@pytest.fixture
def open_peer(tmp_path: Path, server: str, request: pytest.FixtureRequest) -> Iterator[Callable[[], Queue]]:
    """Opens the search of one study as a further process would."""
    space = "lr = {choices = [0.001, 0.1]}\nlayers = {choices = [1, 2]}"
    study = make_study(tmp_path, f'name="{request.node.name[:30]}"', f'storage="{server}"', space=space)
    plan = TrainingPlan(TrainingKind.SEARCH, study.spec.budget.tokens, target=30)
    storages = []

    def opened() -> Queue:
        run = RunDirectory(tmp_path / f"peer-{len(storages)}" / study.spec.name)
        storages.append(open_storage(run, server))
        optuna_study = open_study(storages[-1], study, Stubborn(), optuna.pruners.NopPruner())
        return Queue(plan, TrialStore(optuna_study, storages[-1], run, study))

    yield opened
    for storage in storages:
        storage.remove_session()
        storage.engine.dispose()


def plain(trials: Sequence[FrozenTrial]) -> list[str]:
    """All that trials hold, in words: a loss that is no number is unlike itself. Optuna's own query has no order."""
    return [
        repr([sorted(part.items()) if isinstance(part, dict) else part for part in vars(trial).values()])
        for trial in trials
    ]


def by_optuna(queue: Queue) -> list[FrozenTrial]:
    """All trials of a search, by Optuna's own statements."""
    assert isinstance(queue.storage, SharedStorage)
    with _create_scoped_session(queue.storage.scoped_session) as session:
        models = session.query(TrialModel).filter(TrialModel.study_id == queue.optuna_study._study_id)
        return [
            queue.storage._build_frozen_trial_from_trial_model(model) for model in models.order_by(TrialModel.number)
        ]


def test_whatever_a_peer_changes_is_seen_and_nothing_else_is_read_again(
    open_peer: Callable[[], Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, peers = open_peer(), open_peer()
    first, second = peers.take(), peers.take()
    assert first is not None and second is not None
    read: list[int] = []
    build = trial_rows._trial
    monkeypatch.setattr(trial_rows, "_trial", lambda row: (read.append(row.number), build(row))[1])

    def assert_reads(*numbers: int) -> None:
        read.clear()
        seen = mine.store.trials()
        assert sorted(read) == list(numbers)
        assert seen == by_optuna(peers)

    assert isinstance(mine.optuna_study._storage, ChangedTrials)
    assert_reads(0, 1)
    assert_reads()
    first.trial.report(3.0, step=500)
    assert_reads(0)
    TrialAttributes(second.trial).budget_tokens = 800
    assert_reads(1)
    TrialAttributes(second.trial).budget_tokens = 900
    assert_reads(1)
    peers.storage.set_trial_system_attr(second.trial._trial_id, "generation", 1)
    assert_reads(1)
    peers.tell(second.trial, result(), second.folder)
    assert_reads(1)
    every = [{"lr": lr, "layers": layers} for lr in (0.001, 0.1) for layers in (1, 2)]
    peers.enqueue(next(each for each in every if each not in (first.params, second.params)), role="search")
    assert_reads(2)
    third = peers.take()
    assert third is not None and third.trial.number == 2
    assert_reads(2)

    # One that ends before another that began earlier, and is queued again.
    peers.tell(third.trial, TrialResult(TrialStatus.INTERRUPTED, "stopped"), third.folder)
    assert_reads(2, 3)
    first.trial.report(2.5, step=1_000)
    peers.tell(first.trial, result(), first.folder)
    assert_reads(0)
    assert_reads()
    assert [trial.state for trial in mine.store.trials()] == [
        TrialState.COMPLETE,
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.WAITING,
    ]


def test_what_is_stored_in_one_statement_is_what_optuna_stores_in_many(open_peer: Callable[[], Queue]) -> None:
    queue = open_peer()
    study_id, storage = queue.optuna_study._study_id, queue.storage
    distributions: dict[str, BaseDistribution] = {
        "lr": CategoricalDistribution([0.001, 0.1]),
        "layers": CategoricalDistribution([1, 2]),
        "gain": FloatDistribution(-1.0, 1.0),
        "whole": FloatDistribution(1e-9, 1.0, log=True),
        "heads": IntDistribution(1, 64),
    }
    params = {"lr": 0.1, "layers": 2, "gain": -0.0, "whole": 1.0, "heads": 7}
    losses = {1: 1 / 3, 2: math.inf, 3: -math.inf, 4: math.nan, 5: 1e-300, 6: 0.1 + 0.2}
    attributes = {"text": 'quoted " \\ \u2028 \U0001f600', "none": None, "nested": {"a": [1, 2.5, math.inf]}}

    def fill(set_param: Callable[[int], None], setters: type[RDBStorage], trial_id: int) -> None:
        set_param(trial_id)
        for step, loss in [*losses.items(), (1, 2 / 3)]:
            setters.set_trial_intermediate_value(storage, trial_id, step, loss)
        for key, value in [*attributes.items(), ("text", "again")]:
            setters.set_trial_user_attr(storage, trial_id, key, value)
        storage.set_trial_system_attr(trial_id, "fixed_params", params)

    def by_optuna_alone(trial_id: int) -> None:
        for path, value in params.items():
            RDBStorage.set_trial_param(
                storage, trial_id, path, distributions[path].to_internal_repr(value), distributions[path]
            )

    def at_once(trial_id: int) -> None:
        assert isinstance(storage, SharedStorage)
        storage.set_trial_params(trial_id, params, distributions)

    ids = [RDBStorage._create_new_trial(storage, study_id)._trial_id]
    ids += [storage.create_new_trial(study_id) for _ in range(2)]
    fill(by_optuna_alone, RDBStorage, ids[0])
    fill(at_once, SharedStorage, ids[1])
    storage.set_trial_params(ids[2], {}, {})  # type: ignore[attr-defined]
    RDBStorage.set_trial_state_values(storage, ids[0], TrialState.COMPLETE, [2.0])
    storage.set_trial_state_values(ids[1], TrialState.COMPLETE, [math.inf])
    storage.set_trial_state_values(ids[2], TrialState.COMPLETE, [-math.inf])

    mine = [storage.get_trial(trial_id) for trial_id in ids]
    assert plain(mine) == plain(by_optuna(queue)) == plain(storage.get_all_trials(study_id))
    assert plain(storage._get_trials(study_id, [TrialState.COMPLETE], {ids[0]}, ids[1])) == plain([mine[0], mine[2]])
    first, second, third = mine
    assert [trial.number for trial in mine] == [0, 1, 2]
    assert [first.value, second.value, third.value] == [2.0, math.inf, -math.inf]
    for earlier, later in itertools.pairwise(mine):
        for at in ("datetime_start", "datetime_complete"):
            assert timedelta() <= getattr(later, at) - getattr(earlier, at) < timedelta(minutes=10)
    assert (first.params, first.distributions) == (second.params, second.distributions) == (params, distributions)
    assert first.user_attrs == second.user_attrs == {**attributes, "text": "again"}
    assert repr(first.intermediate_values) == repr(second.intermediate_values)
    assert second.intermediate_values[1] == 2 / 3
    attributes_of_study = RDBStorage.get_study_user_attrs(storage, study_id)
    assert attributes_of_study and storage.get_study_user_attrs(study_id) == attributes_of_study


def test_what_has_ended_or_is_unknown_takes_nothing_more(open_peer: Callable[[], Queue]) -> None:
    queue = open_peer()
    study_id, storage = queue.optuna_study._study_id, queue.storage
    ended = storage.create_new_trial(study_id)
    storage.set_trial_state_values(ended, TrialState.FAIL)
    before = storage.get_trial(ended)

    for trial_id, error in ((ended, UpdateFinishedTrialError), (ended + 1_000, KeyError)):
        with pytest.raises(error):
            storage.set_trial_intermediate_value(trial_id, 1, 2.0)
        with pytest.raises(error):
            storage.set_trial_user_attr(trial_id, "role", "search")
        with pytest.raises(error):
            storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [1.0])
        with pytest.raises(error):
            storage.set_trial_params(trial_id, {"lr": 0.1}, {"lr": FloatDistribution(0, 1)})  # type: ignore[attr-defined]
    for read in (storage.get_trial, storage.get_study_user_attrs, storage.create_new_trial):
        with pytest.raises(KeyError):
            read(ended + 1_000)
    assert storage.get_trial(ended) == before


def test_what_a_peer_chose_while_settings_were_proposed_is_not_tried_twice(open_peer: Callable[[], Queue]) -> None:
    mine, peers = open_peer(), open_peer()
    seen = []
    for _ in range(2):
        with mine.store.locked():
            look = mine.store.look()
            trial = mine._draw.begin(look)
        assert trial is not None

        other = peers.take()
        assert other is not None
        assert mine._draw.settle(trial, look)
        seen += [dict(other.params), dict(mine._draw.assign(trial).params)]
    assert len({tuple(sorted(each.items())) for each in seen}) == len(seen) == 4

    # Nothing is left: a trial that had begun counts as none, and no further one begins.
    assert mine.take() is None
    assert mine.store.attributes.exhausted
    assert len(mine.records()) == 4
    assert peers.take() is None


def test_a_sweep_ends_what_is_dead_and_takes_no_lock_where_nothing_is(
    open_peer: Callable[[], Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, peers = open_peer(), open_peer()
    trained = peers.take()
    assert trained is not None
    locked = []
    real = TrialStore.locked
    # Nobody is taken for dead right after a server has started, as this one has.
    monkeypatch.setattr(SharedStorage, "_server_s", lambda storage: 3600.0)
    monkeypatch.setattr(TrialStore, "locked", lambda store: (locked.append(store), real(store))[1])

    mine.recover()
    assert not locked
    with peers.storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE trial_heartbeats SET heartbeat = heartbeat - interval '1 hour'")
    mine.recover()
    assert locked
    assert [record.status for record in mine.records()] == [TrialStatus.INTERRUPTED, TrialStatus.WAITING]

    # A peer that died before its first sign of life gets one, and becomes stale by it.
    silent = replace(peers, plan=replace(peers.plan, target=3))
    with peers.store.locked():
        assert silent._draw.begin(peers.store.look()) is not None
    mine.recover()
    assert not mine._recovery._silent()
