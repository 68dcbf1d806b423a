"""Which workers are idle, which are busy, and what becomes of one with a fault; without processes."""

from __future__ import annotations

import pytest

from autotune.engine import worker_pool
from autotune.engine.worker import Slot
from autotune.engine.worker_pool import WorkerPool

SLOTS = [Slot("cuda:0"), Slot("cuda:1")]


class Told:
    """A worker that notes how it was ended."""

    def __init__(self, slot: Slot, trainer: str) -> None:
        self.slot = slot
        self.trainer = trainer
        self.ended = ""

    def kill(self) -> None:
        self.ended = "killed"

    def close(self) -> None:
        self.ended = "closed"


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> WorkerPool:
    monkeypatch.setattr(worker_pool, "Worker", Told)
    return WorkerPool(SLOTS, "m:train")


def test_each_slot_has_one_worker_and_gets_it_back(pool: WorkerPool) -> None:
    first, second = pool.take(), pool.take()
    assert {first.slot.name, second.slot.name} == {"cuda:0", "cuda:1"}
    assert not pool.has_idle
    pool.give_back(first)
    assert pool.has_idle and pool.take() is first


def test_a_worker_with_a_fault_is_killed_and_another_takes_its_slot(pool: WorkerPool) -> None:
    faulty = pool.take()
    pool.replace(faulty)
    fresh = pool.take()
    assert faulty.ended == "killed"
    assert fresh is not faulty and (fresh.slot, fresh.trainer) == (faulty.slot, "m:train")


def test_only_busy_workers_are_listened_to(pool: WorkerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[tuple[list[Told], float]] = []
    monkeypatch.setattr(worker_pool, "ready", lambda workers, timeout_s: heard.append((list(workers), timeout_s)))
    busy = pool.take()
    pool.ready(0.5)
    assert heard == [([busy], 0.5)]


def test_at_the_end_idle_workers_may_end_by_themselves(pool: WorkerPool) -> None:
    busy = pool.take()
    idle = pool.take()
    pool.give_back(idle)
    pool.close()
    assert (busy.ended, idle.ended) == ("killed", "closed")
