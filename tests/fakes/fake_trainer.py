"""A trainer with known curves, for tests of the engine: no torch, no data, real processes.

The loss after a share x of the budget is `floor + distance(lr) + 2 exp(-5 x) + noise(seed)`, where the
distance is the squared number of decades between `lr` and 0.01: the best settings are known. More experts and more
tokens lower the floor, and more experts are slower, as far as a test asks for it.
"""

from __future__ import annotations

import errno
import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict


class Output(BaseModel):
    model_config = ConfigDict(extra="forbid")
    dir: str = ""


class Data(BaseModel):
    model_config = ConfigDict(extra="forbid")
    num_evals: int = 0
    train_tokens: int = 0


class FakeConfig(BaseModel):
    """What the fake trainer can be told.

    Args:
        lr: Learning rate; 0.01 is best.
        gain: Subtracted from the loss, by arm-independent choice of the test.
        sigma: Standard deviation of the loss between seeds.
        evaluations: Reports per training.
        seconds: Duration of 100,000 tokens.
        start_s: Seconds that go by once, before the first of them.
        prepares_s: Seconds before it begins, in which it says how far it is.
        unreachable: Whether it needs a network, of which log_dir/network is the sign; to have none is a fault of the
            environment.
        claimed_s: Duration that it claims for 100,000 tokens; 0 claims nothing.
        claimed_per_s: Tokens per second that it claims with one expert, in proportion less with more; 0 claims nothing.
        experts: Number of experts.
        expert_gain: Subtracted from the loss for each doubling of the experts.
        token_gain: Subtracted from the loss for each doubling of the budget, from 100,000 tokens on.
        fault: What goes wrong in the middle: "", nan, blow-up, crash, out-of-memory, hang, exit, kill, no-loss (a
            report without a loss), end-of-file (the exception), full-disk, odd-facts (facts that JSON does not know),
            gate (it waits until log_dir/open exists, so that a test can act meanwhile), slow (from the middle on it
            takes three times as long).
        fault_above: The fault strikes only where lr lies above this.
        fault_card: The fault strikes only on a card of this name, as tests pretend it; "" for any.
        fault_budget: The fault strikes only where the budget is at least this, in tokens: not in the probe.
        strikes: How often the fault strikes in all, counted in log_dir; 0 for always.
        log_dir: Folder that collects a line per training started, for tests that count them.
        obeys: Whether it ends where an answer asks it to, with the loss of a training of so many tokens.
        data: `num_evals` counts in the place of `evaluations` where it is not 0, as the engine sets it; a text of so
            many `train_tokens` is claimed, as the engine sets them too, or none.
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
    start_s: float = 0.0
    prepares_s: float = 0.0
    unreachable: bool = False
    claimed_s: float = 0.0
    claimed_per_s: float = 0.0
    experts: int = 1
    expert_gain: float = 0.0
    token_gain: float = 0.0
    fault: str = ""
    fault_above: float = 0.0
    fault_budget: int = 0
    fault_card: str = ""
    strikes: int = 0
    log_dir: str = ""
    obeys: bool = False
    output: Output = Output()
    data: Data = Data()


def loss(config: FakeConfig, share: float, budget_tokens: int) -> float:
    """Returns the loss after a share of the budget."""
    noise = random.Random(f"{config.seed}-{config.lr}").gauss(0, config.sigma)
    gain = config.gain + config.expert_gain * math.log2(config.experts)
    gain += config.token_gain * math.log2(budget_tokens / 100_000)
    return 3.0 + math.log10(config.lr / 0.01) ** 2 - gain + 2 * math.exp(-5 * share) + noise


def train(
    config: FakeConfig, budget_tokens: int, report: Callable[[Mapping[str, float]], bool | int]
) -> Mapping[str, object]:
    """Trains nothing, and reports as a trainer would."""
    if config.log_dir:
        _write_line(config, "started.txt", f"{os.getpid()} {config.seed} {config.lr!r} {budget_tokens}")
    print(f"training with lr {config.lr}")
    _prepare(config, report)
    time.sleep(config.start_s)
    length = budget_tokens / 100_000
    evaluations = config.data.num_evals or config.evaluations
    end_tokens, seen, number = budget_tokens, 0.0, 0
    while evaluations and seen < end_tokens:
        number += 1
        before, seen = seen, min(budget_tokens * number / evaluations, end_tokens)
        slow = 3 if config.fault == "slow" and _is_faulty(config, budget_tokens) and 2 * seen > budget_tokens else 1
        time.sleep(slow * config.seconds * (seen - before) / 100_000)
        point = {"tokens_seen": seen, "val_accuracy": 0.1}
        point["val_loss"] = loss(config, seen / end_tokens, end_tokens)
        if config.claimed_s:
            point["elapsed_s"] = config.claimed_s * length * seen / budget_tokens
        if config.claimed_per_s:
            point["tokens_per_s"] = config.claimed_per_s / config.experts
        if number == 3 and _is_faulty(config, budget_tokens):
            _strike(config, point)
        answer = report(point)
        if not answer:
            return {"stopped": True}
        if config.obeys and answer is not True:
            end_tokens = answer
    return {"data_hash": "fake", "odd": object()} if config.fault == "odd-facts" else {"data_hash": "fake"}


def _prepare(config: FakeConfig, report: Callable[[Mapping[str, float]], bool | int]) -> None:
    """Says how far it is before the first evaluation, as a trainer that fetches its text does."""
    if config.unreachable and not os.path.exists(os.path.join(config.log_dir, "network")):
        raise UnreachableError("the hub cannot be reached: find a network, and run again")
    end = time.monotonic() + config.prepares_s
    while time.monotonic() < end:
        report.preparing(f"fetching the text: {end - time.monotonic():.1f} s left")  # type: ignore[attr-defined]
        time.sleep(0.05)


def _is_faulty(config: FakeConfig, budget_tokens: int) -> bool:
    if not config.fault or config.lr <= config.fault_above or budget_tokens < config.fault_budget:
        return False
    if config.fault_card not in ("", os.environ.get("AUTOTUNE_TEST_CARD")):
        return False
    if not config.strikes:
        return True
    struck = os.path.join(config.log_dir, "struck.txt")
    if os.path.exists(struck) and Path(struck).read_text().count("\n") >= config.strikes:
        return False
    _write_line(config, "struck.txt", config.fault)
    return True


def _write_line(config: FakeConfig, name: str, line: str) -> None:
    with open(os.path.join(config.log_dir, name), "a") as file:
        file.write(f"{line}\n")


class UnreachableError(RuntimeError):
    """Ends a command as what is wrong with the machine or the network does."""

    exit_code = 3


class OutOfMemoryError(RuntimeError):
    """Named as torch names it."""


def _strike(config: FakeConfig, point: dict[str, float]) -> None:
    if config.fault == "nan":
        point["val_loss"] = math.nan
    elif config.fault == "blow-up":
        point["val_loss"] *= 100
    elif config.fault == "no-loss":
        del point["val_loss"]
    elif config.fault == "gate":
        _write_line(config, "at-gate.txt", config.fault)
        while not os.path.exists(os.path.join(config.log_dir, "open")):
            time.sleep(0.01)
    elif config.fault in SIGNALS:
        os.kill(os.getpid(), SIGNALS[config.fault])
    elif config.fault == "exit":
        os._exit(7)
    elif config.fault in ERRORS:
        raise ERRORS[config.fault]


SIGNALS = {"hang": signal.SIGSTOP, "kill": signal.SIGKILL}
ERRORS = {
    "crash": RuntimeError("planned crash"),
    "end-of-file": EOFError("planned end of a data file"),
    "full-disk": OSError(errno.ENOSPC, "No space left on device"),
    "out-of-memory": OutOfMemoryError("tried to allocate 2.00 GiB"),
}
