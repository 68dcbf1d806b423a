import numpy as np
import pytest
import torch

from model.data import batches as batches_module
from model.data.batches import Batches, num_windows

IDS = np.arange(103, dtype=np.uint16)
CPU = torch.device("cpu")


def test_windows_need_one_target_more():
    assert [num_windows(tokens, 10) for tokens in (0, 1, 10, 11, 20, 21)] == [0, 0, 0, 1, 1, 2]


def test_each_epoch_sees_each_window_once_in_its_own_order():
    batches = Batches(IDS, seq_len=10, seed=0, device=CPU)
    assert batches.num_windows == 10
    epochs = [batches.windows(10 * epoch, 10) for epoch in range(3)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_less_text_is_spread_over_all_of_it():
    batches = Batches(IDS, seq_len=10, seed=0, device=CPU, limit_tokens=39)
    assert batches.num_windows == 3
    assert [sorted(batches.windows(3 * epoch, 3)) for epoch in range(2)] == [[0, 3, 6]] * 2
    assert Batches(IDS, 10, 0, CPU, 1).windows(0, 2) == [0, 0]
    assert Batches(IDS, 10, 0, CPU, 1000).windows(0, 10) == Batches(IDS, 10, 0, CPU).windows(0, 10)


def test_the_order_is_a_function_of_seed_and_position_only():
    forward, backward = Batches(IDS, 10, 0, CPU), Batches(IDS, 10, 0, CPU)
    expected = [forward.windows(3 * number, 3) for number in range(12)]
    assert [backward.windows(3 * number, 3) for number in reversed(range(12))] == expected[::-1]
    assert Batches(IDS, 10, 1, CPU).windows(0, 3) != expected[0]


def test_the_size_of_a_pass_does_not_change_the_order():
    batches = Batches(IDS, 10, 0, CPU)
    one_by_one = [window for number in range(6) for window in batches.windows(2 * number, 2)]
    assert one_by_one == batches.windows(0, 6) + batches.windows(6, 6)


def test_targets_are_the_next_tokens():
    inputs, targets = Batches(IDS, 10, 0, CPU).batch(0, 4)
    assert inputs.shape == targets.shape == (4, 10)
    assert inputs.dtype == targets.dtype == torch.int32
    assert inputs.is_contiguous() and targets.is_contiguous()
    assert torch.equal(targets, inputs + 1)
    assert (inputs[:, 0] % 10 == 0).all()


def test_token_ids_beyond_16_bits_arrive_as_they_are():
    ids = np.arange(100_000, 100_011, dtype=np.uint32)
    inputs, targets = Batches(ids, 10, 0, CPU).batch(0, 1)
    assert (inputs[0].tolist(), targets[0].tolist()) == (ids[:-1].tolist(), ids[1:].tolist())


def expected_batch(start, count):
    windows = torch.tensor(Batches(IDS, 10, 0, CPU).windows(start, count))
    return windows[:, None] * 10 + torch.arange(10)


@pytest.mark.parametrize("block_tokens", [1, 20, 40, 45, 90, 1000])  # from less than a batch to many epochs
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_blocks_change_nothing(monkeypatch, block_tokens, count):
    monkeypatch.setattr(batches_module, "BLOCK_TOKENS", block_tokens)
    batches = Batches(IDS, 10, 0, CPU)
    for start in range(0, 40, count):
        inputs, targets = batches.batch(start, count)
        assert torch.equal(inputs.long(), expected_batch(start, count))
        assert torch.equal(targets, inputs + 1)


def test_any_place_can_be_asked_for_and_the_last_batch_may_be_shorter(monkeypatch):
    """A resumed run begins anywhere, and a run's last pass ends with the budget."""
    monkeypatch.setattr(batches_module, "BLOCK_TOKENS", 60)
    batches = Batches(IDS, 10, 0, CPU)
    for start, count in ((15, 3), (18, 3), (21, 1), (20, 3), (5, 3), (8, 2), (9, 4)):
        assert torch.equal(batches.batch(start, count)[0].long(), expected_batch(start, count))


def test_a_block_is_gathered_once(monkeypatch):
    monkeypatch.setattr(batches_module, "BLOCK_TOKENS", 60)
    gathered, gather = [], batches_module.to_device

    def counted(ids, starts, seq_len, device):
        gathered.append(len(starts))
        return gather(ids, starts, seq_len, device)

    monkeypatch.setattr(batches_module, "to_device", counted)
    batches = Batches(IDS, 10, 0, CPU)
    for start in range(0, 18, 2):
        batches.batch(start, 2)

    assert gathered == [6, 6, 6]


def test_too_few_tokens():
    with pytest.raises(ValueError, match="10 training tokens do not fill one window of seq_len = 10"):
        Batches(IDS[:10], 10, 0, CPU)
