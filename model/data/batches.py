"""The order of training data: a pure function of seed and position, so that resuming needs no state.

Tokens are sent to the device many batches at a time, so that no pass waits for the host.

Shape suffixes: B windows, T seq_len, W T + 1.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

BLOCK_TOKENS = 2**20
"""Tokens sent to the device at a time: 4 MB, gathered in a few milliseconds while the device works."""


def num_windows(num_tokens: int, seq_len: int) -> int:
    """Return how many non-overlapping windows of `seq_len` inputs (and one last target) the tokens fill."""
    return max(0, (num_tokens - 1) // seq_len)


class Batches:
    """Shuffled windows of the training tokens, epoch after epoch.

    Args:
        ids: Token ids, one dimension; they may be memory-mapped.
        seq_len: Input tokens per window.
        seed: Seed of the order; each epoch draws its own permutation.
        device: Where to send batches.
        limit_tokens: Tokens to use, at most, in whole windows evenly spread over the text, at least one; 0 for all.

    Raises:
        ValueError: The ids do not fill one window.
    """

    def __init__(
        self,
        ids: npt.NDArray[np.unsignedinteger],
        seq_len: int,
        seed: int,
        device: torch.device,
        limit_tokens: int = 0,
    ) -> None:
        self.ids = ids
        self.seq_len = seq_len
        self.seed = seed
        self.device = device

        available = num_windows(len(ids), seq_len)
        if available < 1:
            raise ValueError(
                f"{len(ids)} training tokens do not fill one window of seq_len = {seq_len} and its last target; "
                "use more text or a shorter model.seq_len"
            )
        self.num_windows = available
        if limit_tokens:
            self.num_windows = min(available, max(1, limit_tokens // seq_len))
        self._used_windows = np.arange(self.num_windows) * available // self.num_windows

        # Of the epoch and of the block that were asked for last:
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self._block = range(0)
        self._tokens_BT = torch.empty(0, seq_len, dtype=torch.int32)
        self._targets_BT = torch.empty(0, seq_len, dtype=torch.int32)

    def windows(self, start: int, count: int) -> list[int]:
        """Return the window numbers of `count` sequences, the first of which is number `start` of the run."""
        return [self._window(position) for position in range(start, start + count)]

    def batch(self, start: int, count: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of sequences `start` to `start + count`, int32 [B, T] on the device."""
        if start not in self._block or start + count > self._block.stop:
            # A multiple of the batch, so that no batch lies in two blocks.
            size = max(count, BLOCK_TOKENS // self.seq_len // count * count)
            starts = np.asarray(self.windows(start, size)) * self.seq_len
            self._tokens_BT, self._targets_BT = to_device(self.ids, starts, self.seq_len, self.device)
            self._block = range(start, start + size)

        rows = slice(start - self._block.start, start - self._block.start + count)
        return self._tokens_BT[rows], self._targets_BT[rows]

    def _window(self, position: int) -> int:
        """Return the window of the run's sequence number `position`."""
        epoch, place = divmod(position, self.num_windows)
        if epoch != self._epoch:
            self._order = np.random.default_rng([self.seed, epoch]).permutation(self._used_windows)
            self._epoch = epoch
        return int(self._order[place])


def to_device(
    ids: npt.NDArray[np.unsignedinteger], starts: npt.NDArray[np.int64], seq_len: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Gather windows and send them to the device.

    Args:
        ids: Token ids, one dimension.
        starts: Positions of the windows' first tokens.
        seq_len: Input tokens per window.
        device: Where to send them.

    Returns:
        Inputs and next-token targets, each int32 [B, T].
    """
    places_BW = starts[:, None] + np.arange(seq_len + 1)
    tokens_BW = torch.from_numpy(ids[places_BW].astype(np.int32))
    if device.type == "cuda":
        # Pinned, so that the copy does not wait for the kernels in flight.
        tokens_BW = tokens_BW.pin_memory().to(device, non_blocking=True)
    return tokens_BW[:, :-1].contiguous(), tokens_BW[:, 1:].contiguous()
