"""From the settings of a short trial to those of a long run: what moves, by how much, and how sure that is.

The best batch grows with the length of a run, and the best learning rate follows the batch. Both laws are priors, which
a study's own trainings at two lengths correct (`valley.py`, `brackets.py`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.promotion_results import Bracket, Kind, LengthChange, Scaling
from autotune.core.text import short_number
from autotune.promotion.valley import Law, Valley, posterior
from autotune.study.trainer_interface import Rule

_BATCH = Law(0.55, 0.12, 0.4)
"""How the best batch grows where text is read once. Li et al. 2025, arXiv 2503.04715, publish 0.57, their runs give
0.53 to 0.63 by model, and 0.55 gives the least away on them (tests/benchmarks/bench_transfer.py). From 1 to 16 million
tokens of prose and code it was 0.6 (tests/benchmarks/RESULTS.md). There the best eight of forty settings were 0.4 away
from the best batch of a trial's length."""
_RATE = Law(-0.25, 0.2, 0.4)
"""How the best learning rate moves at a batch that stays. On the same published runs -0.2 gives the least away; Bjorck
et al. 2024, arXiv 2409.19913, publish -0.32. From 1 to 16 million tokens of prose and code it was about -0.36 with the
power below. Among the best 16 of 320 settings of tests/benchmarks/overnight_h100.json the spread is 0.45 for Muon's
learning rate and 0.57 for AdamW's."""
_BATCH_REPEATED = Law(0.55, 0.3, 0.4)
"""The same where the run reads its text many times. The mean is that of text that is read once, and the spread is wide:
of our own trainings that read their text six times, those of a small model still liked the smallest batches at four
times the length, and a larger one's best grew with a power of 0.75 or more (tests/benchmarks/RESULTS.md)."""
_RATE_REPEATED = Law(-0.3, 0.35, 0.4)
"""The same for learning rates; from 1 to 8 million tokens of prose, read eight times, it was -0.67."""
_RATE_FORGOTTEN = Law(0.0, 0.15, 0.4)
"""The same where text repeats and the trainer sees to it that a whole run forgets a given share of its weights. How far
a step turns weights that decay depends on the product of learning rate and decay alone (Kosson et al. 2023, arXiv
2305.17212), which then follows the number of steps by itself. So the rate hardly matters, and follows neither length
nor batch: half and double the rate cost 0.5 % at most at two lengths, and beside five batches a quarter of it was the
best or within 0.1 % (tests/benchmarks/RESULTS.md)."""
_LEAST_OWN, _LEAST_OWN_SD = -1.0, 0.8
"""Distance from a winner's batch to the best one of the trial's length where it is the smallest that was searched, as a
natural logarithm: mean and standard deviation. In two studies whose smallest batch won, the best one was about an
eighth and two thirds of it (tests/benchmarks/RESULTS.md)."""
_FOLLOWING = 0.7
"""Power of the batch by which the best learning rate follows it. On the same published runs it takes the best rate of a
batch that stays to the best one beside the best batch. Between neighbouring batches of one length it is 0.4 there, and
0.5 by Malladi et al. 2022, arXiv 2205.10287; so near the best batch the loss is too flat for this to matter."""
_BATCH_CURVATURES = (0.005, 0.026)
"""Share of the loss that a batch costs which is a factor of e away from the best, with its own best learning rate: on
the published runs, and at 16 million tokens of prose and code (tests/benchmarks/RESULTS.md)."""
_TIMESCALE_EXPONENT = 0.473
"""Power of the run's length by which the tokens grow over which weight decay forgets. Source: Bergsma et al. 2025,
arXiv 2505.13738, by which they fall with the power of 0.527 as a share of the run."""
_MIN_WARMUP_FRAC = 0.01
"""Shortest warm-up that is chosen here, as a share of the run."""
FACTORS = (0.5, 1.0, 2.0)
"""Multiples of what is expected to be best that a bracket trains at first."""
ONE_SEED_SIGMA = 0.002
"""Standard deviation of a loss between seeds, as a share of the loss; used where a study has not measured its own."""


@dataclass(frozen=True)
class Multiples:
    """What a trial's settings are multiplied by.

    Args:
        batch: Of the tokens of an optimizer step.
        rate: Of the learning rates.
    """

    batch: float = 1.0
    rate: float = 1.0


@dataclass(frozen=True)
class Horizon:
    """How one trial's settings move with the length of a run.

    Args:
        config: The trial's nested config.
        rules: Which settings depend on the length, by dotted path; at most one of them is the batch.
        trial_tokens: Length of the trial.
        repeats: Whether the full run reads its text so often that overfitting counts.
        best_batch: Multiple of the trial's batch that the best of its length is expected to be.
        has_least_batch: Whether the trial's batch is the smallest that was searched, so that the best may be smaller.
        most_batch: Highest multiple of the trial's batch that fits into memory.
    """

    config: Mapping[str, Any]
    rules: Mapping[str, Rule]
    trial_tokens: int
    repeats: bool = False
    best_batch: float = 1.0
    has_least_batch: bool = False
    most_batch: float = math.inf

    @property
    def _run_forgets(self) -> bool:
        """Whether weights decay by what a whole run is to forget, which the trainer sees to."""
        values = flatten(self.config)
        decays = [values[path] for path, rule in self.rules.items() if rule == "weight_decay"]
        return self.repeats and any(isinstance(decay, str) for decay in decays)

    @property
    def _rate_law(self) -> Law:
        if self._run_forgets:
            return _RATE_FORGOTTEN
        return _RATE_REPEATED if self.repeats else _RATE

    @property
    def _following(self) -> float:
        """Power of the batch by which learning rates follow it."""
        return 0.0 if self._run_forgets else _FOLLOWING

    def batch(self, tokens: int, brackets: Sequence[Bracket] = (), sigma: float = 0.0) -> Scaling | None:
        """Return what the batch is best multiplied by in a run of so many tokens; None if it stays.

        Args:
            tokens: Length of the run.
            brackets: What the study has trained to find out.
            sigma: Standard deviation of a loss between seeds, nats per token.
        """
        if "batch" not in self.rules.values():
            return None

        valleys = [Valley(each.tokens, each.factors, each.losses) for each in brackets if each.setting == "batch"]
        law = replace(_BATCH_REPEATED if self.repeats else _BATCH, own=math.log(self.best_batch))
        if self.has_least_batch:
            law = replace(law, own=_LEAST_OWN, own_sd=_LEAST_OWN_SD)
        return posterior(law, self.trial_tokens, tokens, valleys, sigma)

    def rate(self, tokens: int, batch: float, brackets: Sequence[Bracket] = (), sigma: float = 0.0) -> Scaling:
        """Return what learning rates are best multiplied by in a run of so many tokens.

        Args:
            tokens: Length of the run.
            batch: What its batch is multiplied by.
            brackets: What the study has trained to find out.
            sigma: Standard deviation of a loss between seeds, nats per token.
        """
        # The law is that of a batch which stays: what follows from the batch is taken out, and put in again.
        valleys = []
        for each in brackets:
            if each.setting == "learning_rate":
                factors = [factor / each.batch**self._following for factor in each.factors]
                valleys.append(Valley(each.tokens, factors, each.losses))

        kept = posterior(self._rate_law, self.trial_tokens, tokens, valleys, sigma)
        followed = batch**self._following
        return Scaling(
            followed * kept.factor, followed * kept.low, followed * kept.high, kept.exponent, kept.exponent_sd
        )

    def expected(self, tokens: int) -> Multiples:
        """Return what the laws alone say of a run of so many tokens."""
        batch = self.batch(tokens)
        multiple = 1.0 if batch is None else self.whole_batch(batch.factor)
        return Multiples(multiple, self.rate(tokens, multiple).factor)

    def arms(self, setting: Kind, middle: Multiples) -> list[Multiples]:
        """Return what a bracket trains at first, from low to high.

        Args:
            setting: What it moves.
            middle: The one in the middle.
        """
        # Of whole steps, several multiples may be the same one.
        arms = {self.moved(setting, middle, factor) for factor in FACTORS}
        return sorted(arms, key=lambda arm: (arm.batch, arm.rate))

    def moved(self, setting: Kind, multiples: Multiples, factor: float) -> Multiples:
        """Return multiples with one kind of setting multiplied further; the same ones where a batch cannot be moved.

        Args:
            setting: What moves; learning rates follow a batch.
            multiples: What is moved.
            factor: By how much.
        """
        if setting == "learning_rate":
            return replace(multiples, rate=multiples.rate * factor)
        batch = self.whole_batch(multiples.batch * factor)
        return Multiples(batch, multiples.rate * (batch / multiples.batch) ** self._following)

    def whole_batch(self, multiple: float) -> float:
        """Return the multiple of the trial's batch that is next to one, of whole steps where it is a whole number."""
        before = next(flatten(self.config)[path] for path, rule in self.rules.items() if rule == "batch")
        multiple = min(multiple, self.most_batch)
        if not isinstance(before, int):
            return multiple

        nearest = round(before * multiple)
        if nearest > before * self.most_batch:
            nearest -= 1
        return max(1, nearest) / before

    def changes(self, tokens: int, multiples: Multiples) -> list[LengthChange]:
        """Return which settings a run of another length takes otherwise than the trial.

        The batch and learning rates are multiplied. Weight decay changes so that the tokens over which weights are
        forgotten grow as published; they are those of a step over learning rate times decay (Wang and Aitchison 2024,
        arXiv 2405.13698). The half-life of the second moment stays as many tokens (Marek et al. 2025, arXiv
        2507.07101). Warm-up keeps its tokens, down to 1 % of the run. What is a share of the run otherwise, such as
        the decay of the schedule, stays one (Haegele et al. 2024, arXiv 2405.18392).

        Args:
            tokens: Length of the run.
            multiples: Of the batch and of learning rates.
        """
        values = flatten(self.config)
        length_changes = []
        for path, rule in self.rules.items():
            if isinstance(values[path], str):
                continue  # such as "auto": the trainer finds a value for each run

            before = float(values[path])
            after, why = self._changed(rule, before, tokens, multiples)

            # Three digits are enough for a person who reads the file, and a change of fewer is none.
            is_whole = rule == "batch" and isinstance(values[path], int)
            after = round(after) if is_whole else _in_three_digits(after)
            if after != (before if is_whole else _in_three_digits(before)):
                length_changes.append(LengthChange(path, before, after, why))

        return length_changes

    def _changed(self, rule: Rule, before: float, tokens: int, multiples: Multiples) -> tuple[float, str]:
        """Return the new value of a setting, and why."""
        longer = tokens / self.trial_tokens
        match rule:
            case "batch":
                return before * multiples.batch, "a longer run has a larger best batch"
            case "learning_rate":
                return before * multiples.rate, f"learning rate x {multiples.rate:.2f}"
            case "weight_decay":
                forgets = longer**_TIMESCALE_EXPONENT
                after = before * multiples.batch / (multiples.rate * forgets)
                return after, f"so that weights are forgotten over {forgets:.2g} times the length of the trial"
            case "beta2":
                return before**multiples.batch, "as long as in the trial, with another batch"
            case "warmup_frac":
                kept = before / longer
                after = max(kept, min(before, _MIN_WARMUP_FRAC))
                floor = f"at least {_MIN_WARMUP_FRAC:.0%} of the run"
                return after, "as long as in the trial" if after == kept else floor


def _in_three_digits(value: float) -> float:
    """Return a number in three digits, or in as many as it takes to stay below 1: no optimizer takes a beta of 1."""
    short = float(f"{value:.3g}")
    return float(short_number(value)) if short == 1 else short


def batch_worth(batch: float) -> tuple[float, float]:
    """Return what another batch is worth beside the trial's, as shares of the loss: of flat and of steep valleys.

    Args:
        batch: What the batch is multiplied by, which is taken to be the best one.
    """
    flat, steep = (curvature * math.log(batch) ** 2 for curvature in _BATCH_CURVATURES)
    return flat, steep
