"""Learners that stay in memory between runs: the next run of a shape seen before starts at once."""

import gc

import torch

from model.config import TrainConfig
from model.ops import graphs
from model.training.learner import Learner

_MEMORY_FRAC = 0.5
"""Share of a device's memory (or of this process's cap) above which the learner longest unused is dropped."""

_learners: dict[str, Learner] = {}
"""By `Learner.key`; the one used last is last."""


def get_or_build(config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> Learner:
    """Return a learner at the beginning of a run: a cached one if its shape fits, else a new one.

    Args:
        config: The whole configuration.
        vocab_size: Tokens of the tokenizer.
        device: Where to compute.
        dtype: Number format of forward and backward passes.
    """
    key = Learner.key(config, vocab_size, device, dtype)
    learner = _learners.pop(key, None)

    if learner is None:
        # A new learner costs milliseconds where nothing is recorded: then memory is worth more than the time.
        keep_others = config.system.cuda_graphs and graphs.can_capture(device, dtype)
        _make_room(device, keep_others)
        learner = _build(config, vocab_size, device, dtype)
    else:
        learner.start(config)

    _learners[key] = learner
    return learner


def clear() -> None:
    """Drop every cached learner and free its memory."""
    _learners.clear()
    _free_memory()


def _build(config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> Learner:
    """Build a learner, a second time without any other in memory if the first time memory runs out."""
    try:
        return Learner(config, vocab_size, device, dtype)
    except torch.OutOfMemoryError:
        if not _learners:
            raise

    # Outside of the except block, whose exception would keep the failed learner's tensors alive.
    clear()
    return Learner(config, vocab_size, device, dtype)


def _make_room(device: torch.device, keep_others: bool) -> None:
    if not keep_others:
        clear()
        return

    total_bytes = torch.cuda.get_device_properties(device).total_memory
    limit_bytes = _MEMORY_FRAC * total_bytes * torch.cuda.get_per_process_memory_fraction(device)
    while _learners and torch.cuda.memory_reserved(device) > limit_bytes:
        longest_unused = next(iter(_learners))
        del _learners[longest_unused]
        _free_memory()


def _free_memory() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
