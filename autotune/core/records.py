"""The values that pass between the packages: frozen, without input or output, and convertible to JSON.

Losses are nats per token; `_tokens`, `_s`, `_bytes`, `_frac` are units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from typing import Any

from autotune.core.study_results import TakenFrom


class TrialStatus(StrEnum):
    """How a trial stands; Optuna's own state knows fewer cases."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"
    PRUNED = "pruned"
    STOPPED = "stopped"
    """By a person, with `autotune steer`."""
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out of memory"
    CRASHED = "crashed"
    INTERRUPTED = "interrupted"

    @property
    def teaches(self) -> bool:
        """Whether the sampler learns from it: a fault of the machine says nothing about the settings."""
        return self in (self.FINISHED, self.PRUNED, self.STOPPED, self.DIVERGED, self.OUT_OF_MEMORY)

    @property
    def blames_settings(self) -> bool:
        """Whether the settings made the training fail: it diverged, or did not fit into memory."""
        return self in (self.DIVERGED, self.OUT_OF_MEMORY)

    @property
    def is_failure(self) -> bool:
        """Whether the training failed, by its settings or by a crash: it came to no result."""
        return self.blames_settings or self is self.CRASHED


class TrainingKind(StrEnum):
    """What a training is for. The values name its folder in the run directory and appear in stored events."""

    SEARCH = "trials"
    FINALS = "finals"
    BRACKET = "bracket"
    FULL = "full"


class VerdictWord(StrEnum):
    """The three honest answers, and the one for a study in which nothing could be compared."""

    BETTER = "better"
    NO_CLEAR_GAIN = "no clear gain"
    INCONCLUSIVE = "inconclusive"
    FAILED = "failed"


@dataclass(frozen=True)
class EvalPoint:
    """One evaluation on the held-out tokens, taken while a trial trains.

    Args:
        tokens_seen: Training tokens at the grid point; the same grid for every trial of a study.
        val_loss: What trials are judged by, on held-out data: lower is better (of a metric that is to be maximised its
            sign is turned); of a language model the cross-entropy in nats per token. It may be non-finite.
        metrics: Whatever else the trainer reported, by name (train_loss, val_accuracy, tokens_per_s, ...).
    """

    tokens_seen: int
    val_loss: float
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_report(cls, report: Mapping[str, float]) -> EvalPoint:
        """Build a point from what a trainer reported.

        Args:
            report: Must hold `tokens_seen` and `val_loss`.

        Raises:
            ValueError: If one of the two is missing, or `tokens_seen` is no count.
        """
        missing = [key for key in ("tokens_seen", "val_loss") if key not in report]
        if missing:
            raise ValueError(f"the trainer reported no {' and no '.join(missing)}; report(...) needs both")

        if not 0 <= report["tokens_seen"] < math.inf:
            raise ValueError(
                f"the trainer reported tokens_seen = {report['tokens_seen']}; it must be a count, 0 or more"
            )

        rest = {key: float(value) for key, value in report.items() if key not in ("tokens_seen", "val_loss")}
        return cls(int(report["tokens_seen"]), float(report["val_loss"]), rest)

    def to_json(self) -> dict[str, float | None]:
        """Return one flat mapping; a non-finite number becomes null, since JSON and PostgreSQL have none."""
        flat = {"tokens_seen": self.tokens_seen, "val_loss": self.val_loss, **self.metrics}
        return {key: value if math.isfinite(value) else None for key, value in flat.items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, float | None]) -> EvalPoint:
        """Read what `to_json` wrote."""
        report = {key: math.nan if value is None else value for key, value in raw.items()}
        return cls.from_report(report)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended and what it measured.

    Args:
        status: The true cause, finer than Optuna's state.
        cause: One sentence for a person; empty when the trial simply finished.
        points: Evaluations in the order of tokens.
        facts: What the trainer returned about its run (parameters, tokens, data hash, ...).
        started_at: Start, ISO 8601 with zone.
        seconds: Duration by the monotonic clock.
        config: The resolved configuration it trained with, nested.
        log: Path of its log, relative to the run directory.
        host: Name of the machine that ran it.
        device: The device slot, "cuda:0" or "cpu".
        worker_died: Whether its own training process died under it. Every other interruption comes from
            outside (a stop, the deadline, a kill of the run) and says nothing against the settings.
        energy_j: Joules that its GPU used meanwhile, by the GPU's own counter; None where it has none.
    """

    status: TrialStatus
    cause: str = ""
    points: tuple[EvalPoint, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    started_at: str = ""
    seconds: float = 0.0
    config: Mapping[str, Any] = field(default_factory=dict)
    log: str = ""
    host: str = ""
    device: str = ""
    worker_died: bool = False
    energy_j: float | None = None

    @property
    def last_finite(self) -> EvalPoint | None:
        """The last point with a finite loss, or None."""
        return next((point for point in reversed(self.points) if math.isfinite(point.val_loss)), None)

    @property
    def training_s(self) -> float:
        """Seconds of training alone, by the trainer's own speeds; of a trainer that tells none, all but evaluations."""
        counts = [0, *(point.tokens_seen for point in self.points)]
        speeds = [point.metrics.get("tokens_per_s", 0.0) for point in self.points]

        if speeds and all(0 < speed < math.inf for speed in speeds):
            stretches = [after - before for before, after in pairwise(counts)]
            return sum(tokens / speed for tokens, speed in zip(stretches, speeds, strict=True))

        evaluations_s = sum(point.metrics.get("eval_s", 0.0) for point in self.points)
        return max(self.seconds - evaluations_s, 1e-9)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return {**asdict(self), "points": [point.to_json() for point in self.points]}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TrialResult:
        """Read what `to_json` wrote."""
        points = tuple(EvalPoint.from_json(point) for point in raw["points"])
        return cls(**{**raw, "status": TrialStatus(raw["status"]), "points": points})


@dataclass(frozen=True)
class TrialRecord:
    """A stored trial: the settings asked for and, once it has ended, its result.

    Args:
        number: Optuna's trial number within its queue.
        params: Settings by dotted config path.
        result: None while it waits or runs.
        status: As `result.status`, or waiting / running.
        role: "baseline", "search" or "final".
        seed: The seed it trains with.
        arm: In the finals, the number of the search trial whose settings are repeated; else None.
        values: Losses reported so far, by its own training tokens: the curve of a trial that may still be running.
        seed_losses: Where a trial trains several seeds, their final losses so far; it then has no `values`.
        retry_of: Number of the interrupted trial that this one repeats, or None.
        stage: In the finals "select" or "prove"; else "".
        audited_at: Tokens at which the pruner would have stopped it, had it not been kept as an audit.
        stopped_at: Tokens at which the pruner did stop it.
        budget_tokens: Its own token budget, where trials have equal seconds; None where all have the study's.
        taken_from: Which trial of an earlier study it was, if it was taken along; its result then took no seconds.
        peer: In a study that machines share, the id of the process that trains it, or did.
        needs_bytes: Memory of a device that it did not fit into, in an earlier attempt; 0 if there was none.
    """

    number: int
    params: Mapping[str, Any]
    status: TrialStatus
    result: TrialResult | None = None
    role: str = "search"
    seed: int = 0
    arm: int | None = None
    values: Mapping[int, float] = field(default_factory=dict)
    seed_losses: tuple[float, ...] = ()
    retry_of: int | None = None
    stage: str = ""
    audited_at: int | None = None
    stopped_at: int | None = None
    budget_tokens: int | None = None
    taken_from: TakenFrom | None = None
    peer: str = ""
    needs_bytes: int = 0

    @cached_property
    def loss(self) -> float | None:
        """Final held-out loss in nats per token, of a finished trial alone."""
        if self.result is None or self.status is not TrialStatus.FINISHED or not self.result.points:
            return None
        return self.result.points[-1].val_loss

    @cached_property
    def trained_tokens(self) -> int:
        """Tokens at its last evaluation, once it has ended; 0 if there was none."""
        return self.result.points[-1].tokens_seen if self.result and self.result.points else 0

    @property
    def excused(self) -> bool:
        """Whether it was interrupted from outside: it is then repeated however often that happens."""
        return self.status is TrialStatus.INTERRUPTED and not (self.result and self.result.worker_died)


@dataclass(frozen=True)
class Verdict:
    """What the finals prove about the winner against the baseline, on seeds that chose neither.

    Args:
        word: better / no clear gain / inconclusive / failed.
        reason: One sentence for a person.
        winner: Search trial number of the winner, or None when there is none.
        params: The winner's settings by dotted path.
        seeds: Seeds of the pairs compared.
        baseline_loss: Mean over the seeds, nats per token.
        winner_loss: Mean over the seeds, nats per token.
        gain: baseline_loss - winner_loss, nats per token; positive is better.
        gain_low: Lower end of its 95 % interval.
        gain_high: Upper end of its 95 % interval.
        sigma: Standard deviation of the baseline's loss between seeds, nats per token.
        min_gain: Smallest gain that the study calls worth having, nats per token.
        baseline_metrics: Means of the baseline's last evaluations.
        winner_metrics: Means of the winner's last evaluations.
    """

    word: VerdictWord
    reason: str
    winner: int | None = None
    params: Mapping[str, Any] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    baseline_loss: float | None = None
    winner_loss: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    sigma: float | None = None
    min_gain: float | None = None
    baseline_metrics: Mapping[str, float] = field(default_factory=dict)
    winner_metrics: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Verdict:
        """Read what `to_json` wrote."""
        return cls(**{**raw, "word": VerdictWord(raw["word"]), "seeds": tuple(raw["seeds"])})
