"""The clock of one training run: seconds of training since the last evaluation, and of the whole run."""

import time

import torch


class RunClock:
    """Runs while the run trains, and stands still while it evaluates or writes.

    Args:
        device: Where the run computes; a CUDA device is waited for before the clock stops.
    """

    def __init__(self, device: torch.device) -> None:
        self.interval_s = 0.0
        self._device = device
        self._started_s = time.perf_counter()
        self._going_since_s = self._started_s
        self._earlier_attempts_s = 0.0

    @property
    def elapsed_s(self) -> float:
        """Seconds of this attempt so far, evaluations and checkpoints included, and of those before it."""
        return time.perf_counter() - self._started_s + self._earlier_attempts_s

    def go(self) -> None:
        """Count training time from now on."""
        self._going_since_s = time.perf_counter()

    def stop(self) -> None:
        """Add the training time since `go` to the interval, once the device has caught up."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self.interval_s += time.perf_counter() - self._going_since_s

    def begin_interval(self) -> None:
        """Count training time from zero."""
        self.interval_s = 0.0
        self.go()

    def resume(self, interval_s: float, elapsed_s: float) -> None:
        """Go on from what an attempt before this one had counted.

        Args:
            interval_s: Its `interval_s`.
            elapsed_s: Its `elapsed_s`.
        """
        self.interval_s = interval_s
        self._earlier_attempts_s = elapsed_s
