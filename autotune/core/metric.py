"""What a trainer's trials are judged by, and how it is told to a person."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Metric:
    """The number that a trainer reports on held-out data.

    Inside the project it is a loss: lower is better, and a metric that is to be maximised has its sign turned where a
    report comes in (`study/trainer.py`) and where a number is shown (here).

    Args:
        name: What the trainer calls it in its reports, and the page calls it.
        unit: After each value, or "".
        maximize: Whether higher is better.
        of_text: Whether it is the cross-entropy of a language model in nats per token, so that it has a perplexity.
        also: What else of a report is shown beside it, and in which words, by its name in the reports.
        budget_unit: What a training's budget counts: tokens, steps, epochs, rows.
    """

    name: str = "loss"
    unit: str = ""
    maximize: bool = False
    of_text: bool = False
    also: Mapping[str, str] = field(default_factory=dict)
    budget_unit: str = "tokens"

    def value(self, loss: float) -> float:
        """Return what the trainer reported, from the loss that is stored of it."""
        return -loss if self.maximize else loss

    def values(self, losses: Iterable[float]) -> list[float]:
        """Return what the trainer reported, from the losses that are stored of it."""
        return [self.value(loss) for loss in losses]

    @property
    def better(self) -> str:
        """Where the better of two values lies: "lower" or "higher"."""
        return "higher" if self.maximize else "lower"

    @property
    def worse(self) -> str:
        """Where the worse of two values lies: "higher" or "lower"."""
        return "lower" if self.maximize else "higher"

    @property
    def best(self) -> str:
        """Where the best of all values lies: "lowest" or "highest"."""
        return "highest" if self.maximize else "lowest"

    @property
    def title(self) -> str:
        """Its name with its unit, such as "loss (nats per token)" or "accuracy"."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    def number(self, loss: float) -> str:
        """Return a value in digits: four places of a language model's loss, else five significant digits."""
        value = self.value(loss)
        return f"{value:.4f}" if self.of_text else f"{value:#.5g}".rstrip(".")

    def words(self, loss: float) -> str:
        """Return a value with its name and unit, such as "loss 4.0163" or "error 0.00027 m"."""
        return f"{self.name} {self.number(loss)}{self._unit()}"

    def compared(self, gain: float) -> str:
        """Return on which side of another value a better or a worse one lies: "above" or "below"."""
        return "above" if (gain > 0) is self.maximize else "below"

    def difference(self, losses: float) -> str:
        """Return how far two values are apart, without a sign, in digits."""
        return f"{abs(losses):.4f}" if self.of_text else f"{abs(losses):#.3g}".rstrip(".")

    def signed(self, gain: float) -> str:
        """Return a gain, which is positive for the better, in digits with its sign."""
        sign = "\N{MINUS SIGN}" if gain < 0 else "+"
        return sign + self.difference(gain)

    def budget(self, count: float) -> str:
        """Return a length of training in words, such as "163,840 tokens"."""
        return f"{count:,.0f} {self.budget_unit}"

    def describe(self) -> str:
        """Return what is reported in a few words, such as "r2 (higher is better) by epochs"."""
        return f"{self.name} ({'higher' if self.maximize else 'lower'} is better) by {self.budget_unit}"

    def _unit(self) -> str:
        return f" {self.unit}" if self.unit and not self.of_text else ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Metric:
        """Read what `to_json` wrote."""
        return cls(**raw)


TEXT_LOSS = Metric(unit="nats per token", of_text=True)
"""Of a language model; and of studies that were stored before trainers could declare another one."""
