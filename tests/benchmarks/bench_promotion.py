"""Are the batch and the learning rate that a promotion chooses the best ones of the longer run?

usage: python tests/benchmarks/bench_promotion.py FOLDER [--seeds 1] [--gpus 0] [--jobs 1]
       [--batches 1 2 4 8 16] [--rates 0.25 0.5 1 2 4]

FOLDER is the run directory of a study that was promoted. Its winner is trained at the length of the full run as it is,
as promoted, and with every pair of a batch and a learning rate that are multiples of the trial's, whose other settings
follow the promotion's rules. A loss is the mean over seeds, none of them the study's own.
"""

from __future__ import annotations

import argparse
import itertools
import math
import multiprocessing
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from bench_recipe import MERGED, train_one

from autotune.core.config_paths import flatten, with_paths
from autotune.core.promotion_results import Promotion
from autotune.promotion.horizon import Horizon, Multiples
from autotune.promotion.run_length import length_rules
from autotune.promotion.selection import select_trial_to_promote
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import load

BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0)
RATES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Multiples of the trial's."""
FIRST_SEED = 900
PROMOTED, AS_IS = "as promoted", "as it is"


def name_of(batch: float, rate: float) -> str:
    """Return the name of a pair."""
    return f"{batch:g} {rate:g}"


def candidates(
    record: StudyRecord, promotion: Promotion, batches: Sequence[float], rates: Sequence[float]
) -> dict[str, dict[str, Any]]:
    """Return the settings of each candidate by its name.

    Args:
        record: The study.
        promotion: What it made of its winner.
        batches: What the trial's batch is multiplied by.
        rates: What its learning rates are multiplied by.
    """
    study = load(record.run.study_file)
    trial, _ = select_trial_to_promote(record)
    config, rules = with_paths(study.spec.base, trial.params), length_rules(study)
    horizon = Horizon(config, rules, promotion.trial_tokens)

    changes = {PROMOTED: promotion.changes, AS_IS: ()}
    if "batch" not in rules.values():
        batches = (1.0,)
    for batch, rate in itertools.product(batches, rates):
        changes[name_of(batch, rate)] = tuple(horizon.changes(promotion.tokens, Multiples(batch, rate)))

    moved = {change.path for each in changes.values() for change in each}
    start = {path: flatten(config)[path] for path in sorted(moved | set(trial.params))}
    return {name: {**start, **{one.path: one.after for one in each}} for name, each in changes.items()}


def trained(
    record: StudyRecord, tokens: int, settings: Mapping[str, Mapping[str, Any]], seeds: int, gpus: int, jobs: int
) -> dict[str, float]:
    """Train all candidates and return the mean of their last losses by name.

    Args:
        record: The study.
        tokens: Training tokens of each.
        settings: Of each candidate, by dotted paths.
        seeds: How many trainings each has.
        gpus: Cards to train on; 0 for the machine's own choice.
        jobs: Trainings at a time.
    """
    base = load(record.run.study_file).spec.base
    pairs = list(itertools.product(settings, range(FIRST_SEED, FIRST_SEED + seeds)))
    works = [(with_paths(base, {**MERGED, **settings[name], "seed": seed}), tokens, gpus) for name, seed in pairs]

    losses: dict[str, list[float]] = {name: [] for name in settings}
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        for (name, seed), (loss, _) in zip(pairs, pool.imap(train_one, works), strict=True):
            print(f"{name}, seed {seed}: {loss:.4f}", file=sys.stderr, flush=True)
            losses[name].append(loss)
    return {name: statistics.fmean(each) for name, each in losses.items()}


def lowest(losses: Mapping[str, float]) -> tuple[float, float, float]:
    """Return batch, learning rate and loss of the lowest point of a bowl through what is within 3 % of the best pair.

    Args:
        losses: By name; of at least one pair.
    """
    swept = {tuple(map(float, name.split())): loss for name, loss in losses.items() if name[0].isdigit()}
    best = min(swept, key=lambda pair: swept[pair])
    near = [pair for pair, loss in swept.items() if loss <= 1.03 * swept[best]]

    x, y = np.log(np.array(near)).T
    terms = np.stack([np.ones_like(x), x, y, x * x, x * y, y * y], axis=1)
    if len(near) < 7:
        return *best, swept[best]
    _, a, b, aa, ab, bb = np.linalg.lstsq(terms, np.array([swept[pair] for pair in near]), rcond=None)[0]
    bowl = np.array([[2 * aa, ab], [ab, 2 * bb]])
    if np.linalg.eigvalsh(bowl).min() <= 0:
        return *best, swept[best]

    at = np.linalg.solve(bowl, [-a, -b])
    seen = np.stack([x, y], axis=1)
    if (at < seen.min(0)).any() or (at > seen.max(0)).any():
        return *best, swept[best]
    return math.exp(at[0]), math.exp(at[1]), swept[best]


def main() -> None:
    """Print the comparison as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--batches", type=float, nargs="+", default=BATCHES)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    args = parser.parse_args()

    record = read_study(args.folder)
    promotion = record.attributes.promotion
    settings = candidates(record, promotion, args.batches, args.rates)
    losses = trained(record, promotion.tokens, settings, args.seeds, args.gpus, args.jobs)

    batch, rate, least = lowest(losses)
    print(promotion.describe())
    print(f"{promotion.brackets}\n\n| batch x, learning rate x | loss | above the best pair |\n|---|---|---|")
    for name, loss in losses.items():
        print(f"| {name} | {loss:.4f} | {loss / least - 1:+.2%} |")

    print(f"\nlowest at batch x {batch:.3g}, learning rate x {rate:.3g}; best pair {least:.4f}", end="")
    if promotion.scaling:
        chosen = promotion.batch.factor if promotion.batch else 1.0
        print(f"; promoted x {chosen:.3g} and x {promotion.scaling.factor:.3g}")


if __name__ == "__main__":
    main()
