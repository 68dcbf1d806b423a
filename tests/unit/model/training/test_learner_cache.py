"""Learners that stay in memory: served again, dropped, and never told apart from fresh ones by a run."""

import pytest
import torch
from learner_runs import CPU, assert_same, config_of, go_on, make, passes, state_of
from small_model import VOCAB_SIZE

from model.training import learner_cache
from model.training.learner import Learner


@pytest.fixture(autouse=True)
def _empty_cache():
    learner_cache.clear()
    yield
    learner_cache.clear()


def cached(config, dtype=torch.float32):
    return learner_cache.get_or_build(config, VOCAB_SIZE, CPU, dtype)


def test_cached_learners_learn_what_fresh_ones_learn():
    configs = [config_of(), config_of(seed=3), config_of(model={"top_k": 1}), config_of(optim={"muon_lr": 0.1})]
    for config in (*configs, *configs):
        one = cached(config)
        norms = go_on(one, passes(7))  # ends in mid-accumulation
        state = state_of(one)
        fresh = make(config)
        assert go_on(fresh, passes(7)) == norms
        assert_same(state_of(fresh), state)


def test_the_same_key_is_served_by_the_same_learner_until_the_cache_is_cleared():
    first = cached(config_of())
    assert cached(config_of(seed=1, optim={"muon_lr": 0.1})) is first
    assert cached(config_of(), torch.float16) is not first

    again = cached(config_of(model={"top_k": 1}))
    assert again is not first

    learner_cache.clear()
    assert cached(config_of(model={"top_k": 1})) is not again


def test_out_of_memory_drops_the_others_and_builds_again(monkeypatch):
    """As on a GPU that other learners have filled."""
    other = cached(config_of())
    attempts = []

    class Crowded(Learner):
        def __init__(self, *args):
            attempts.append(len(learner_cache._learners))
            if len(attempts) == 1:
                raise torch.OutOfMemoryError
            super().__init__(*args)

    monkeypatch.setattr(learner_cache, "Learner", Crowded)
    monkeypatch.setattr(learner_cache, "_make_room", lambda device, keep_others: None)
    cached(config_of(model={"top_k": 1}))

    assert attempts == [1, 0]
    assert cached(config_of()) is not other


def test_out_of_memory_with_nothing_to_drop_is_raised(monkeypatch):
    attempts = []

    class TooLarge(Learner):
        def __init__(self, *args):
            attempts.append(args)
            raise torch.OutOfMemoryError

    monkeypatch.setattr(learner_cache, "Learner", TooLarge)
    with pytest.raises(torch.OutOfMemoryError):
        cached(config_of())
    assert len(attempts) == 1
