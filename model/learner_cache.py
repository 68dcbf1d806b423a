"""Learners that stay in memory between runs: the next run of a shape seen before starts at once."""

import gc

import torch

from model.config import TrainConfig
from model.learner import Learner
from model.ops import graphs

MEMORY_SHARE = 0.5
"""Of a device's memory (or of this process's cap): above it, the learner longest unused makes room for a new one."""

_residents: dict[str, Learner] = {}


def learner_for(config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> Learner:
    """Return a learner at the beginning of a run: one that is resident if its shape fits, or a new one.

    Args:
        config: The whole configuration.
        vocab_size: Tokens of the tokenizer.
        device: Where to compute.
        dtype: Number format of forward and backward passes.
    """
    key = Learner.key(config, vocab_size, device, dtype)
    learner = _residents.pop(key, None)
    if learner is None:
        # Without recorded steps a new learner costs milliseconds: memory is worth more than that.
        _make_room(device, keep=config.system.cuda_graphs and graphs.can_capture(device, dtype))
        learner = _new(config, vocab_size, device, dtype)
    else:
        learner.start(config)
    _residents[key] = learner
    return learner


def clear() -> None:
    """Let go of every resident learner and its memory."""
    _residents.clear()
    _collect()


def _new(config: TrainConfig, vocab_size: int, device: torch.device, dtype: torch.dtype) -> Learner:
    try:
        return Learner(config, vocab_size, device, dtype)
    except torch.OutOfMemoryError:
        if not _residents:
            raise
    clear()
    return Learner(config, vocab_size, device, dtype)


def _make_room(device: torch.device, keep: bool) -> None:
    if not keep:
        clear()
        return
    total_bytes = torch.cuda.get_device_properties(device).total_memory
    limit_bytes = MEMORY_SHARE * total_bytes * torch.cuda.get_per_process_memory_fraction(device)
    while _residents and torch.cuda.memory_reserved(device) > limit_bytes:
        del _residents[next(iter(_residents))]
        _collect()


def _collect() -> None:
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
