"""Several processes of one host that train one model together, as `torchrun` starts them: one for each GPU.

Each process takes its share of a batch's passes; gradients are summed before every update. That is all there is, since
gradients lie side by side in a few tensors and an update is a function of them.
"""

import contextlib
import ctypes
import importlib
import math
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from model.config import SystemConfig, TrainConfig

# Linux's prctl option that has the kernel signal a process when the one that started it dies. Source: prctl(2).
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together.

    Args:
        rank: Its number, from 0; the first one reports and writes.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def first_says(self, number: int, device: torch.device) -> int:
        """Return the first process's number in all of them."""
        if self.count == 1:
            return number
        tensor = torch.tensor(number, dtype=torch.int64, device=device)
        dist.broadcast(tensor, 0)
        return int(tensor.item())


@contextlib.contextmanager
def joined(config: SystemConfig) -> Iterator[Ranks]:
    """Join the other processes that `torchrun` has started, if it has, and leave them at the end.

    Raises:
        ValueError: There are more processes than GPUs.
    """
    # By torchrun's own mark: some clusters set WORLD_SIZE for every process, and a trial's would wait for others.
    count = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    if count == 1:
        yield Ranks()
        return
    if sys.platform == "linux":  # a killed torchrun leaves its processes, and the next start would find them at work
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    on_cuda = config.device != "cpu" and torch.cuda.is_available()
    local_rank, local_count = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    if on_cuda:
        if local_count > torch.cuda.device_count():
            raise ValueError(
                f"torchrun started {local_count} processes for {torch.cuda.device_count()} visible GPUs; "
                f"use --nproc-per-node {torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
    # Its functions have the group of the moment of their import as a default, and torch's compiler, which optimizers
    # load, imports it. Imported later, it would keep the group and its threads to the end of the interpreter, which now
    # and then aborts over them.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if on_cuda else "gloo")
    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def shared(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return the configuration with passes that so many processes can share.

    They are parts of one process's passes, so that every pass of one process ends where one of theirs does: there a
    checkpoint or an evaluation of either is the other's too.

    Args:
        config: As for one process.
        ranks: The processes.

    Raises:
        ValueError: They do not divide the sequences of a batch.
    """
    if ranks.count == 1:
        return config
    batch = config.batch_sequences
    if batch % ranks.count:
        fitting = ", ".join(str(count) for count in range(1, min(batch, 16) + 1) if batch % count == 0)
        raise ValueError(
            f"{ranks.count} processes cannot share the {batch} sequences of a batch (micro_batch_size x "
            f"grad_accum_steps) evenly; start {fitting} of them, or change one of the two"
        )
    size = math.gcd(config.pass_sequences, batch // ranks.count)
    return config.model_copy(update={"system": config.system.model_copy(update={"max_pass_sequences": size})})
