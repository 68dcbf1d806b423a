"""Processes that share a PostgreSQL: what each keeps in memory of the trials, and what two propose at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState
from study_case import make_study, result

from autotune.core.attributes import TrialAttributes
from autotune.core.records import TrainingKind, TrialResult, TrialStatus
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
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


def test_whatever_a_peer_changes_is_seen_and_nothing_else_is_read_again(
    open_peer: Callable[[], Queue], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine, peers = open_peer(), open_peer()
    first, second = peers.take(), peers.take()
    assert first is not None and second is not None
    read: list[int] = []
    build = mine.storage._build_frozen_trial_from_trial_model
    monkeypatch.setattr(
        mine.storage,
        "_build_frozen_trial_from_trial_model",
        lambda model: (read.append(model.number), build(model))[1],
    )

    def assert_reads(*numbers: int) -> None:
        read.clear()
        seen = mine.store.trials()
        assert sorted(read) == list(numbers)
        assert seen == peers.storage.get_all_trials(peers.optuna_study._study_id)

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
