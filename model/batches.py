"""The order of training data: a pure function of seed and micro-step, so that resuming needs no state.

Shape suffixes: B micro-batch, T seq_len.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def num_windows(num_tokens: int, seq_len: int) -> int:
    """Return how many non-overlapping windows of `seq_len` inputs (and one more target) the tokens hold."""
    return max(0, (num_tokens - 1) // seq_len)


class Batches:
    """Shuffled windows of the training tokens, epoch after epoch.

    Args:
        ids: Token ids, one dimension; memory-mapped is fine.
        seq_len: Input tokens per window.
        micro_batch_size: Windows per micro-step.
        seed: Seed of the order; each epoch draws its own permutation.
    """

    def __init__(self, ids: npt.NDArray[np.unsignedinteger], seq_len: int, micro_batch_size: int, seed: int) -> None:
        self.ids, self.seq_len, self.micro_batch_size, self.seed = ids, seq_len, micro_batch_size, seed
        self.num_windows = num_windows(len(ids), seq_len)
        if self.num_windows < 1:
            raise ValueError(f"{len(ids)} training tokens do not fill one window of seq_len = {seq_len}")
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)

    def windows(self, micro_step: int) -> list[int]:
        """Return the window numbers of one micro-step, counted from 0."""
        start = micro_step * self.micro_batch_size
        return [self._window(position) for position in range(start, start + self.micro_batch_size)]

    def batch(self, micro_step: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of one micro-step, int64 [B, T] on `device`."""
        starts = np.asarray(self.windows(micro_step)) * self.seq_len
        return to_device(self.ids, starts, self.seq_len, device)

    def _window(self, position: int) -> int:
        epoch, place = divmod(position, self.num_windows)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self.num_windows)
            self._epoch = epoch
        return int(self._order[place])


def to_device(
    ids: npt.NDArray[np.unsignedinteger], starts: npt.NDArray[np.int64], seq_len: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Gather windows and return inputs and next-token targets, int64 [windows, seq_len] on `device`."""
    tokens = torch.from_numpy(ids[starts[:, None] + np.arange(seq_len + 1)].astype(np.int64))
    if device.type == "cuda":  # pinned, so that the copy does not wait for the kernels in flight
        tokens = tokens.pin_memory().to(device, non_blocking=True)
    return tokens[:, :-1], tokens[:, 1:].contiguous()
