"""What a study expects and finds out, in the form in which it is stored with the study: plan, noise, attribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.core.metric import Metric

Interval = tuple[float, float, float]
"""A difference in loss with the ends of its interval, nats per token."""


@dataclass(frozen=True)
class Plan:
    """What the night will look like, before it begins.

    Args:
        trial_s: Seconds of one whole trial.
        trials: Trials if none is stopped early, by the study file or by the time there is.
        most_trials: Trials if as many are stopped early as usual.
        search_s: Seconds of the search if nothing is pruned.
        finals_s: Seconds of the finals and of telling which change gave what.
        full_s: Seconds of the automatic full run, the shorter ones before it and its export; 0 without one.
        total_s: Everything, if nothing is pruned.
        likely_s: Everything, if as many trials are stopped early as usual.
        slots: Devices that train at once.
        tokens_per_s: Measured training speed; 0 if the trainer reports none.
        peak_bytes: Measured peak memory of the baseline.
        max_pass_sequences: Most sequences of one pass, chosen for speed within memory; 0 if not chosen.
        energy_kwh: At the device's power limit; 0 without a GPU.
        run_tokens: Tokens, about, of an automatic full run that takes what the search leaves of the night; 0 if the
            study file names them, or without a deadline.
        epochs: How often each trial reads the text that it is given less of, so that this is as often as in the full
            run; 0 if it is given all of it.
        disk_bytes: What the study will take, an automatic full run included if the trainer tells what that takes.
        final_runs: Trainings that choose the winner and prove its gain.
        attributing_runs: The most trainings that find out which change gave what.
        cuts: What is left out for lack of time, in words; "" if nothing is.
        refusal: Why the time is too short for the study at all, in words; "" if it is not.
        taken: Trials of earlier studies that count here, beside those that are planned.
    """

    trial_s: float = 0.0
    trials: int = 0
    most_trials: int = 0
    search_s: float = 0.0
    finals_s: float = 0.0
    full_s: float = 0.0
    total_s: float = 0.0
    likely_s: float = 0.0
    slots: int = 0
    tokens_per_s: float = 0.0
    peak_bytes: int = 0
    max_pass_sequences: int = 0
    energy_kwh: float = 0.0
    run_tokens: int = 0
    epochs: float = 0.0
    disk_bytes: float = 0.0
    final_runs: int = 0
    attributing_runs: int = 0
    cuts: str = ""
    refusal: str = ""
    taken: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Plan:
        """Read what `to_json` wrote."""
        return cls(**raw)


@dataclass(frozen=True)
class DevicePlan:
    """What was measured for devices of one class, where the study's plan was made on another.

    Args:
        trial_s: Seconds of one whole trial.
        max_pass_sequences: Most sequences of one pass, chosen for speed within memory; 0 if not chosen.
        cost_model: Fields of the `CostModel` that probes were fitted to; None if the trainer counts nothing.
    """

    trial_s: float
    max_pass_sequences: int = 0
    cost_model: Mapping[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> DevicePlan:
        """Read what `to_json` wrote."""
        return cls(**raw)


@dataclass(frozen=True)
class TakenFrom:
    """Which trial of another study one was that counts here.

    Args:
        study: The other study.
        number: Its trial there.
        seconds: What it took there.
    """

    study: str
    number: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TakenFrom:
        """Read what `to_json` wrote."""
        return cls(**raw)

    @property
    def words(self) -> str:
        """What it was, such as "overnight's trial 7"."""
        return f"{self.study}'s trial {self.number}"


@dataclass(frozen=True)
class TakenAlong:
    """What was taken along from an earlier study.

    Args:
        study: Its name.
        taken: Trials that count here.
        seconds: What they took there.
        left: Counts of those that do not count, by the reason.
    """

    study: str
    taken: int
    seconds: float
    left: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        return asdict(self)

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> TakenAlong:
        """Read what `to_json` wrote."""
        return cls(**raw)


@dataclass(frozen=True)
class Noise:
    """How much the baseline's loss changes with the seed, and what can be proved in spite of it.

    Args:
        sigma: Standard deviation between seeds, nats per token.
        seeds: Seeds that it was measured on.
        baseline_loss: Their mean, nats per token.
        pairs: Most pairs that the finals may train.
        provable_gain: Smallest gain that so many pairs prove four times in five, nats per token.
    """

    sigma: float
    seeds: int
    baseline_loss: float
    pairs: int
    provable_gain: float

    def to_json(self) -> dict[str, float]:
        """Return a JSON-able form."""
        return asdict(self)

    def describe(self, metric: Metric) -> str:
        """Return it in a sentence for a person.

        Args:
            metric: What the trainer reports.
        """
        share = ""
        if self.baseline_loss:
            share = f" ({100 * self.provable_gain / abs(self.baseline_loss):.1f} %)"
        return (
            f"noise: across {self.seeds} seeds the default's {metric.name} has a standard deviation of "
            f"{metric.difference(self.sigma)}; {self.pairs} pairs of runs, the most that may be trained, can prove a "
            f"gain of {metric.difference(self.provable_gain)}{share} or more"
        )


@dataclass(frozen=True)
class AttributedChange:
    """One setting's part in the winner's gain.

    Args:
        path: The setting.
        before: Its default.
        after: The winner's value.
        gain: What making it brought on the path, with its interval, nats per token; None if an arm failed.
        harm: What taking it back from the winner costs, likewise; None if the winner does not train without it.
        is_tie: Whether neither shows a gain above the noise.
    """

    path: str
    before: Any
    after: Any
    gain: Interval | None
    harm: Interval | None
    is_tie: bool


@dataclass(frozen=True)
class Attribution:
    """What each change gave, and the settings that are left when ties go back to their default.

    Args:
        winner: Search trial number of the winner.
        changes: In the order of the path.
        seeds: Fresh seeds that every arm was trained on.
        params: Settings to promote, by dotted path.
        loss: Their mean loss on those seeds, nats per token.
        winner_loss: That of the winner with all its changes.
        baseline_loss: That of the default.
        note: One sentence on what became of the ties.
        gain: How much lower their loss is than the default's, with its interval; None in studies that kept none.
    """

    winner: int
    changes: tuple[AttributedChange, ...]
    seeds: tuple[int, ...]
    params: Mapping[str, Any]
    loss: float
    winner_loss: float
    baseline_loss: float
    note: str
    gain: Interval | None = None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-able form; `from_json` reads it back."""
        content = asdict(self)
        if self.gain is None:
            del content["gain"]

        return content

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> Attribution:
        """Read what `to_json` wrote."""

        def interval(values: Sequence[float] | None) -> Interval | None:
            if values is None:
                return None
            return (values[0], values[1], values[2])

        def change(stored: Mapping[str, Any]) -> AttributedChange:
            intervals = {"gain": interval(stored["gain"]), "harm": interval(stored["harm"])}
            return AttributedChange(**{**stored, **intervals})

        changes = tuple(change(stored) for stored in raw["changes"])
        gain = interval(raw.get("gain"))
        return cls(**{**raw, "changes": changes, "seeds": tuple(raw["seeds"]), "gain": gain})
