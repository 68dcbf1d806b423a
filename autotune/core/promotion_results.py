"""What a study says of the long run that follows it, in the form in which it is stored with the study."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from autotune.core.records import EvalPoint
from autotune.core.statistics import INTERVAL
from autotune.core.text import short_number

Kind = Literal["learning_rate", "batch"]
"""What brackets move: learning rates, all by one factor, or the batch."""


@dataclass(frozen=True)
class LengthChange:
    """A setting that differs between the trial and the long run.

    Args:
        path: The setting's dotted path.
        before: The trial's value.
        after: The run's.
        why: The rule, in words.
    """

    path: str
    before: float
    after: float
    why: str


@dataclass(frozen=True)
class Bracket:
    """The losses of one length with one kind of setting multiplied by several factors.

    Args:
        tokens: Length of each training.
        factors: Multiples of the trial's, rising.
        losses: Final losses in nats per token; None where a training did not finish.
        setting: What is multiplied: "learning_rate", or "batch", whose learning rates follow it.
        batch: Multiple of the trial's batch beside which learning rates were tried.
    """

    tokens: int
    factors: tuple[float, ...]
    losses: tuple[float | None, ...]
    setting: Kind = "learning_rate"
    batch: float = 1.0


@dataclass(frozen=True)
class Scaling:
    """How one kind of a trial's settings is multiplied for a longer run.

    Args:
        factor: What it is multiplied by.
        low, high: Its 95 % interval.
        exponent: Power of the tokens by which its best value grows; that of learning rates is for a batch that stays.
        exponent_sd: Its standard deviation.
    """

    factor: float
    low: float
    high: float
    exponent: float
    exponent_sd: float


@dataclass(frozen=True)
class Promotion:
    """What a study says of the long run that follows it; stored with it, for the report.

    Args:
        trial: The trial that is promoted.
        trial_tokens: Its length.
        tokens: The run's length.
        scaling: How its learning rates are multiplied; None if they are copied as they are.
        batch: How its batch is multiplied; None if it stays.
        batch_worth: What another batch is worth, as shares of the loss: of flat and of steep valleys.
        best_batch: Multiple of the trial's batch that the best of its length is expected to be, by the best trials.
        has_least_batch: Whether the trial's batch is the smallest that was searched.
        changes: The settings that are changed.
        brackets: What was trained to find out.
        note: Why nothing was measured, or is changed; else "".
        repeats: A sentence if the run reads its text more often than the trials did; else "".
        bracket_s: Seconds that the trainings of the brackets took.
    """

    trial: int
    trial_tokens: int
    tokens: int
    scaling: Scaling | None
    changes: tuple[LengthChange, ...] = ()
    brackets: tuple[Bracket, ...] = ()
    note: str = ""
    repeats: str = ""
    batch: Scaling | None = None
    batch_worth: tuple[float, float] | None = None
    best_batch: float = 1.0
    has_least_batch: bool = False
    bracket_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Promotion:
        """Read what `to_json` wrote."""
        scaling, batch = (stored.get(name) and Scaling(**stored[name]) for name in ("scaling", "batch"))
        brackets = [
            Bracket(**{**each, "factors": tuple(each["factors"]), "losses": tuple(each["losses"])})
            for each in stored["brackets"]
        ]
        return cls(
            trial=stored["trial"],
            trial_tokens=stored["trial_tokens"],
            tokens=stored["tokens"],
            scaling=scaling,
            batch=batch,
            changes=tuple(LengthChange(**change) for change in stored["changes"]),
            brackets=tuple(brackets),
            note=stored["note"],
            repeats=stored["repeats"],
            best_batch=stored.get("best_batch", 1.0),
            has_least_batch=stored.get("has_least_batch", False),
            bracket_s=stored.get("bracket_s", 0.0),
            batch_worth=tuple(stored["batch_worth"]) if stored.get("batch_worth") else None,
        )

    def describe(self) -> str:
        """Return it in a sentence or two for a person."""
        if self.scaling is None:
            words = f"the settings are those of trial {self.trial}"
            return f"{words}: {self.note}" if self.note else words

        grown = self.tokens / self.trial_tokens
        words = ", ".join(
            f"{each.path} {short_number(each.before)} -> {short_number(each.after)}" for each in self.changes
        )
        basis = "by what is known of other runs" + (f"; {self.note}" if self.note else "")
        if self.brackets:
            basis = "by this study's own runs at two lengths"

        multiples = [f"learning rates x {_interval(self.scaling)}"]
        if self.batch is not None:
            multiples.insert(0, f"batch x {_interval(self.batch)}")
        return f"for a run {grown:.3g} times as long as a trial: {words} ({', '.join(multiples)}, {basis})"


def _interval(scaling: Scaling) -> str:
    return f"{scaling.factor:.2f}, {INTERVAL} {scaling.low:.2f} to {scaling.high:.2f}"


@dataclass(frozen=True)
class EarlyWarning:
    """Something that looks wrong.

    Args:
        kind: "divergence", "plateau", "throttling" or "skipped steps".
        tokens_seen: When it was seen, in training tokens.
        finding: What was seen, a sentence without its full stop.
        action: What to do about it, likewise.
    """

    kind: str
    tokens_seen: int
    finding: str
    action: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form."""
        return asdict(self)


@dataclass(frozen=True)
class FullRunRecord:
    """How far the full run is, or what came of it.

    Args:
        status: That of its latest attempt: waiting, running, finished, interrupted, diverged, ...
        cause: Why it ended, one sentence; "" while it runs or where it simply finished.
        trial: Search trial whose settings it trains.
        tokens: Length that was asked for, training tokens.
        tokens_seen: Training tokens at its last evaluation.
        folder: Where its checkpoints, weights and sample are.
        seconds: Duration of its latest attempt; 0 while that runs.
        val_loss: Held-out loss at the last evaluation, nats per token.
        val_accuracy: Held-out accuracy there, 0 to 1; None if the trainer reports none.
        val_bpb: Held-out bits per byte there; likewise.
        points: Its evaluations.
        weights: Path of its weights; "" without.
        export: Path of its export; "" without.
        sample: Text that the trained model wrote; "" without.
        end_tokens: Tokens at which it ends so that it is done by its deadline; None for its whole length.
        warnings: What looked wrong as it trained.
        at: When it was evaluated last, seconds since 1970; None where it does not run.
        done_at: When it will be done at its present pace, likewise.
        tokens_per_s: Its present pace; likewise.
    """

    status: str
    cause: str = ""
    trial: int | None = None
    tokens: int = 0
    tokens_seen: int = 0
    folder: str = ""
    seconds: float = 0.0
    val_loss: float | None = None
    val_accuracy: float | None = None
    val_bpb: float | None = None
    points: tuple[EvalPoint, ...] = ()
    weights: str = ""
    export: str = ""
    sample: str = ""
    end_tokens: int | None = None
    warnings: tuple[EarlyWarning, ...] = ()
    at: float | None = None
    done_at: float | None = None
    tokens_per_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        content = {**asdict(self), "points": [point.to_json() for point in self.points]}

        known_while_training = ("val_accuracy", "val_bpb", "at", "done_at", "tokens_per_s")
        return {name: value for name, value in content.items() if value is not None or name not in known_while_training}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> FullRunRecord:
        """Read what `to_json` wrote."""
        points = tuple(EvalPoint.from_json(point) for point in raw.get("points", ()))
        warnings = tuple(EarlyWarning(**warning) for warning in raw.get("warnings", ()))
        return cls(**{**raw, "points": points, "warnings": warnings})
