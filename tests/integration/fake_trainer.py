"""A trainer with known curves, for tests of the engine: no torch, no data, real processes.

The loss after a share x of the budget is `floor + distance(lr) + 2 exp(-5 x) + noise(seed)`, where the
distance is the squared number of decades between `lr` and 0.01: the best settings are known.
"""

from __future__ import annotations

import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping

from pydantic import BaseModel, ConfigDict


class Output(BaseModel):
    model_config = ConfigDict(extra="forbid")
    dir: str = ""


class FakeConfig(BaseModel):
    """What the fake trainer can be told.

    Args:
        lr: Learning rate; 0.01 is best.
        gain: Subtracted from the loss, by arm-independent choice of the test.
        sigma: Standard deviation of the loss between seeds.
        evaluations: Reports per training.
        seconds: Duration of a whole training.
        fault: What goes wrong in the middle: "", nan, blow-up, crash, out-of-memory, hang, exit, kill.
        fault_above: The fault strikes only where lr lies above this.
        log_dir: Folder that collects a line per training started, for tests that count them.
    """

    model_config = ConfigDict(extra="forbid")

    seed: int = 0
    lr: float = 0.001
    gain: float = 0.0
    sigma: float = 0.01
    layers: int = 2
    heads: int = 2
    evaluations: int = 5
    seconds: float = 0.0
    fault: str = ""
    fault_above: float = 0.0
    log_dir: str = ""
    output: Output = Output()


def loss(config: FakeConfig, share: float) -> float:
    """Returns the loss after a share of the budget."""
    noise = random.Random(f"{config.seed}-{config.lr}").gauss(0, config.sigma)
    return 3.0 + math.log10(config.lr / 0.01) ** 2 - config.gain + 2 * math.exp(-5 * share) + noise


def train(
    config: FakeConfig, budget_tokens: int, report: Callable[[Mapping[str, float]], bool]
) -> Mapping[str, object]:
    """Trains nothing, and reports as a trainer would."""
    if config.log_dir:
        with open(os.path.join(config.log_dir, "started.txt"), "a") as file:
            file.write(f"{os.getpid()} {config.seed} {config.lr!r}\n")
    print(f"training with lr {config.lr}")
    for number in range(1, config.evaluations + 1):
        time.sleep(config.seconds / config.evaluations)
        value = loss(config, number / config.evaluations)
        if config.fault and number == 3 and config.lr > config.fault_above:
            value = _strike(config.fault, value)
        tokens = budget_tokens * number // config.evaluations
        if not report({"tokens_seen": tokens, "val_loss": value, "val_accuracy": 0.1}):
            return {"stopped": True}
    return {"data_hash": "fake"}


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def _strike(fault: str, value: float) -> float:
    if fault == "nan":
        return math.nan
    if fault == "blow-up":
        return value * 100
    if fault == "crash":
        raise RuntimeError("planned crash")
    if fault == "out-of-memory":
        raise OutOfMemoryError("tried to allocate 2.00 GiB")
    if fault == "hang":
        os.kill(os.getpid(), signal.SIGSTOP)
    if fault == "exit":
        os._exit(7)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    return value
