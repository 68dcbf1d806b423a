import numpy as np
import pytest
import torch

from model.batches import Batches, num_windows

IDS = np.arange(103, dtype=np.uint16)
CPU = torch.device("cpu")


def test_windows_need_one_target_more():
    assert [num_windows(tokens, 10) for tokens in (0, 1, 10, 11, 20, 21)] == [0, 0, 0, 1, 1, 2]


def test_each_epoch_sees_each_window_once_in_its_own_order():
    batches = Batches(IDS, seq_len=10, micro_batch_size=2, seed=0)
    assert batches.num_windows == 10
    epochs = [[window for step in range(5) for window in batches.windows(5 * epoch + step)] for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_order_is_a_function_of_seed_and_micro_step_only():
    forward, backward = Batches(IDS, 10, 3, 0), Batches(IDS, 10, 3, 0)
    expected = [forward.windows(step) for step in range(12)]
    assert [backward.windows(step) for step in reversed(range(12))] == expected[::-1]
    assert Batches(IDS, 10, 3, 1).windows(0) != expected[0]


def test_micro_batch_size_does_not_change_the_order():
    small, large = Batches(IDS, 10, 2, 0), Batches(IDS, 10, 6, 0)
    one_by_one = [window for step in range(6) for window in small.windows(step)]
    assert one_by_one == large.windows(0) + large.windows(1)


def test_targets_are_the_next_tokens():
    inputs, targets = Batches(IDS, 10, 4, 0).batch(0, CPU)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs.dtype == targets.dtype == torch.int64
    assert torch.equal(targets, inputs + 1)
    assert (inputs[:, 0] % 10 == 0).all()


def test_too_few_tokens():
    with pytest.raises(ValueError, match="10 training tokens do not fill one window of seq_len = 10"):
        Batches(IDS[:10], 10, 1, 0)
