"""What is given away when the best settings of a short run are carried to a longer one, on a table of public runs.

usage: python tests/benchmarks/bench_transfer.py TABLE [--loss "smooth loss"] [--model N h numl] [--least 5] [--append]

A TABLE is a CSV file with a row for each run: its learning rate `lr`, its batch `bs`, its training tokens `D`, a column
with its loss, and columns that tell models apart. For every two lengths of one model of which one is at least `--least`
times the other, the best learning rate and batch of the shorter one are carried to the longer one by a rule. Their loss
there is interpolated between its runs (linear over the logarithms of both; outside of them, that of the nearest), and
is told in per cent above the lowest one there.

Rules: "as it is" changes nothing. "The engine's" is what a full run would get without brackets. "Powers" multiply batch
and learning rate by a power of the length's factor: those that are best on all models together, and, for each model,
those that are best on the others.
"""

from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from results import publish
from scipy.interpolate import LinearNDInterpolator, NearestNDInterpolator

from autotune.promotion.horizon import Horizon
from autotune.study.trainer_interface import Rule

BATCH_POWERS = tuple(np.round(np.arange(0.0, 1.01, 0.05), 2))
RATE_POWERS = tuple(np.round(np.arange(-0.5, 0.71, 0.05), 2))
RULES: dict[str, Rule] = {"lr": "learning_rate", "bs": "batch"}
"""What the engine is told of the two settings."""
Settings = tuple[float, float]
"""Learning rate and batch."""
Carry = Callable[[Settings, float, float], Settings]
"""Takes settings, the shorter and the longer length in tokens, and returns the settings for the longer one."""


class Length:
    """All runs of one model and length.

    Args:
        tokens: Training tokens of each.
        settings: Learning rate and batch, shape (n, 2), above 0.
        losses: Shape (n,).
    """

    def __init__(self, tokens: float, settings: np.ndarray, losses: np.ndarray) -> None:
        self.tokens = tokens
        self.lowest = float(losses.min())
        self.best: Settings = tuple(settings[losses.argmin()])
        logs = np.log(settings)
        self._between = LinearNDInterpolator(logs, losses, rescale=True)
        self._nearest = NearestNDInterpolator(logs, losses, rescale=True)

    def loss(self, settings: Settings) -> float:
        """Return the loss of settings.

        Args:
            settings: Learning rate and batch.
        """
        point = np.log(settings)
        between = float(self._between(*point))
        return between if math.isfinite(between) else float(self._nearest(*point))


@dataclass(frozen=True)
class Pair:
    """A short and a long length of one model.

    Args:
        model: Its name.
        short: Whose best settings are carried.
        long: Where they are judged.
    """

    model: str
    short: Length
    long: Length

    def given_away(self, carry: Carry) -> float:
        """Return how far above the lowest loss the settings end that a rule carries, as a share of it."""
        carried = carry(self.short.best, self.short.tokens, self.long.tokens)
        return self.long.loss(carried) / self.long.lowest - 1


def pairs_of(table: pd.DataFrame, loss: str, model: Sequence[str], least: float) -> list[Pair]:
    """Return all pairs of lengths.

    Args:
        table: A row for each run.
        loss: The column with losses.
        model: Columns that tell models apart.
        least: Least factor between two lengths.
    """
    pairs = []
    for name, runs in table.dropna(subset=[loss]).groupby(list(model)):
        lengths = [
            Length(float(tokens), same[["lr", "bs"]].to_numpy(float), same[loss].to_numpy(float))
            for tokens, same in runs.groupby("D")
        ]
        pairs += [
            Pair(str(name), short, long)
            for short, long in itertools.combinations(lengths, 2)
            if long.tokens >= least * short.tokens
        ]
    return pairs


def as_it_is(settings: Settings, short: float, long: float) -> Settings:
    """Change nothing."""
    return settings


def by_engine(settings: Settings, short: float, long: float) -> Settings:
    """Change what the engine changes for a full run without brackets."""
    config = dict(zip(("lr", "bs"), settings, strict=True))
    carried = Horizon(config, RULES, int(short))
    for change in carried.changes(int(long), carried.expected(int(long))):
        config[change.path] = change.after
    return config["lr"], config["bs"]


def by_powers(batch_power: float, rate_power: float) -> Carry:
    """Return the rule that multiplies batch and learning rate by powers of the length's factor."""

    def carry(settings: Settings, short: float, long: float) -> Settings:
        rate, batch = settings
        return rate * (long / short) ** rate_power, batch * (long / short) ** batch_power

    return carry


def best_powers(pairs: Sequence[Pair]) -> tuple[float, float]:
    """Return the powers of batch and learning rate that give least away in the mean.

    Args:
        pairs: At least one.
    """

    def mean(powers: tuple[float, float]) -> float:
        return float(np.mean([pair.given_away(by_powers(*powers)) for pair in pairs]))

    return min(itertools.product(BATCH_POWERS, RATE_POWERS), key=mean)


def measured(pairs: Sequence[Pair]) -> list[str]:
    """Return what every rule gives away, as lines of Markdown.

    Args:
        pairs: Of two models at least.
    """
    lines = ["| rule | mean | worst |", "|---|---|---|"]

    def add(rule: str, shares: Sequence[float]) -> None:
        lines.append(f"| {rule} | {np.mean(shares):.2%} | {max(shares):.2%} |")

    add("as it is", [pair.given_away(as_it_is) for pair in pairs])
    add("the engine's", [pair.given_away(by_engine) for pair in pairs])

    batch_power, rate_power = best_powers(pairs)
    chosen = [pair.given_away(by_powers(batch_power, rate_power)) for pair in pairs]
    add(f"batch x r^{batch_power:g}, rate x r^{rate_power:g}", chosen)

    shares, words = [], []
    for model in dict.fromkeys(pair.model for pair in pairs):
        powers = best_powers([pair for pair in pairs if pair.model != model])
        words.append(f"{powers[0]:g}/{powers[1]:g}")
        shares += [pair.given_away(by_powers(*powers)) for pair in pairs if pair.model == model]
    add(f"powers by the other models ({', '.join(words)})", shares)
    return lines


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE", type=Path)
    parser.add_argument("--loss", default="smooth loss", help="the column with losses")
    parser.add_argument("--model", nargs="+", default=["N", "h", "numl"], help="columns that tell models apart")
    parser.add_argument("--least", type=float, default=5.0, help="least factor between two lengths")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()

    table = pd.read_csv(args.table)
    missing = {"lr", "bs", "D", args.loss, *args.model} - set(table.columns)
    if missing:
        parser.error(f"{args.table} has no column {', '.join(sorted(missing))}; it has {', '.join(table.columns)}")
    pairs = pairs_of(table, args.loss, args.model, args.least)
    if len({pair.model for pair in pairs}) < 2:
        parser.error(f"{args.table} has too few models with lengths {args.least:g} times apart; two are needed")

    models = len({pair.model for pair in pairs})
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: short runs' best settings in longer ones",
        "",
        f"{args.table.name}: {len(table)} runs, {models} models, {len(pairs)} pairs of lengths at least {args.least:g} "
        "times apart. Above the lowest loss there; r is the factor of the length:",
        "",
        *measured(pairs),
    ]

    publish(lines, append=args.append)


if __name__ == "__main__":
    main()
