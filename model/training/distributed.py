"""Several processes of one host that train one model together, as `torchrun` starts them: one for each GPU.

Each process takes its share of a batch's passes, and gradients are summed before every update. Nothing else has to be
shared, since gradients lie side by side in a few tensors and an update depends on nothing but them.
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
        rank: Its number, from 0; process 0 reports and writes.
        count: Number of processes.
    """

    rank: int = 0
    count: int = 1

    def sum_(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count > 1:
            for tensor in tensors:
                dist.all_reduce(tensor)

    def first_says(self, number: int, device: torch.device) -> int:
        """Return the first process's number in all of them.

        Args:
            number: What the first process says; that of the others is ignored.
            device: A device of this process, by which the number is sent.
        """
        if self.count == 1:
            return number

        tensor = torch.tensor(number, dtype=torch.int64, device=device)
        dist.broadcast(tensor, 0)
        return int(tensor.item())


@contextlib.contextmanager
def joined(config: SystemConfig) -> Iterator[Ranks]:
    """Join the other processes that `torchrun` has started, if any, and leave them at the end.

    Args:
        config: Says whether GPUs may be used.

    Yields:
        This process among them.

    Raises:
        ValueError: There are more processes than GPUs.
    """
    # torchrun's own mark counts: some clusters set WORLD_SIZE for every process, and a trial would wait for others.
    count = int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1
    if count == 1:
        yield Ranks()
        return

    # A killed torchrun would leave its processes behind, still at work when the next one starts.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

    on_cuda = config.device != "cpu" and torch.cuda.is_available()
    if on_cuda:
        _choose_gpu(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]))

    # The default arguments of this module's functions hold the process group of the moment of its import, and torch's
    # compiler, which optimizers load, imports it. Imported after the group has been made, it would keep the group and
    # its threads to the end of the interpreter, which sometimes aborts because of them.
    importlib.import_module("torch.distributed.nn.functional")
    dist.init_process_group("nccl" if on_cuda else "gloo")

    try:
        yield Ranks(dist.get_rank(), count)
    finally:
        dist.destroy_process_group()


def _choose_gpu(local_rank: int, local_count: int) -> None:
    num_gpus = torch.cuda.device_count()
    if local_count > num_gpus:
        raise ValueError(
            f"torchrun started {local_count} processes for {num_gpus} visible GPUs; use --nproc-per-node {num_gpus}"
        )
    torch.cuda.set_device(local_rank)


def shared(config: TrainConfig, ranks: Ranks) -> TrainConfig:
    """Return the configuration with passes that so many processes can share.

    These passes are parts of one process's passes, so that each pass of a single process ends where one of theirs does.
    A checkpoint or an evaluation at that place suits any number of processes.

    Args:
        config: The configuration as for one process.
        ranks: The processes.

    Raises:
        ValueError: The number of processes does not divide the sequences of a batch.
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

    pass_sequences = math.gcd(config.pass_sequences, batch // ranks.count)
    system = config.system.model_copy(update={"max_pass_sequences": pass_sequences})
    return config.model_copy(update={"system": system})
