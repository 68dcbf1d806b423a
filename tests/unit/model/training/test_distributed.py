"""What processes that train together share: passes of a batch, and refusals."""

import pytest

from model.config import TrainConfig
from model.training.distributed import Ranks, joined, shared


def config(micro_batch, accumulation, limit=0):
    return TrainConfig.model_validate(
        {
            "system": {"micro_batch_size": micro_batch, "max_pass_sequences": limit},
            "optim": {"grad_accum_steps": accumulation},
        }
    )


@pytest.mark.parametrize(
    ("micro_batch", "accumulation", "limit", "count", "size"),
    [
        (24, 1, 0, 2, 12),  # one pass of 24 becomes one of 12 for each of two
        (24, 4, 48, 2, 48),
        (24, 4, 48, 4, 24),
        (24, 1, 16, 3, 4),  # 12 at a time by one process, 8 for each of three
        (8, 3, 0, 2, 4),
    ],
)
def test_passes_are_the_largest_parts_of_one_processes_that_divide_each_share(
    micro_batch, accumulation, limit, count, size
):
    asked = config(micro_batch, accumulation, limit)
    divided = shared(asked, Ranks(0, count))
    assert divided.pass_sequences == size
    assert asked.pass_sequences % size == 0
    assert divided.batch_sequences == micro_batch * accumulation


def test_one_process_keeps_its_passes():
    alone = config(24, 4, 48)
    assert shared(alone, Ranks()) is alone


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(ValueError, match=r"5 processes cannot share the 6 sequences .* start 1, 2, 3, 6 of them"):
        shared(config(6, 1), Ranks(0, 5))


def test_without_torchrun_there_is_one(monkeypatch):
    """Also where a cluster counts its processes in the same variable."""
    monkeypatch.setenv("WORLD_SIZE", "8")
    with joined(TrainConfig().system) as ranks:
        assert (ranks.rank, ranks.count) == (0, 1)
