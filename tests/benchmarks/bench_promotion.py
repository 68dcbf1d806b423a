"""Is the learning rate that a promotion chooses the best one of the longer run?

usage: python tests/benchmarks/bench_promotion.py FOLDER [--seeds 2] [--device auto]

FOLDER is the run directory of a study that was promoted. Its winner is trained at the length of the full run as it is,
as promoted, and with each of seven learning rates, half an octave apart, whose other settings follow the promotion's
rules. A loss is the mean over seeds, none of them the study's own.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from autotune.core.config_paths import flatten, with_paths
from autotune.core.promotion_results import Promotion
from autotune.night.session import Options, Session
from autotune.promotion import horizon
from autotune.promotion.selection import select_trial_to_promote
from autotune.store.study_store import StudyRecord, read_study
from autotune.study.study_file import load

FACTORS = [2.0 ** (step / 2) for step in range(-5, 2)]
"""Of the trial's learning rates: from a sixth to one and a half."""
FIRST_SEED = 900
PROMOTED, AS_IS = "as promoted", "as it is"


def candidates(record: StudyRecord, promotion: Promotion) -> dict[str, dict[str, Any]]:
    """Returns the settings of each candidate by its name.

    Args:
        record: The study.
        promotion: What it made of its winner.
    """
    study = load(record.run.study_file)
    trial, _ = select_trial_to_promote(record)
    config, rules = with_paths(study.spec.base, trial.params), study.trainer.length_rules
    changes = {PROMOTED: promotion.changes, AS_IS: ()}
    for factor in FACTORS:
        found = horizon.changes(config, rules, promotion.trial_tokens, promotion.tokens, factor)
        changes[f"x {factor:.3g}"] = tuple(found)
    moved = {change.path for each in changes.values() for change in each}
    start = {path: flatten(config)[path] for path in sorted(moved | set(trial.params))}
    return {name: {**start, **{one.path: one.after for one in each}} for name, each in changes.items()}


def trained(record: StudyRecord, tokens: int, settings: Mapping[str, Mapping[str, Any]], seeds: int, options: Options):
    """Trains all candidates as the trials of a study and returns their losses by name."""
    spec = load(record.run.study_file).spec
    changes = [
        f'name="{spec.name}-sweep"',
        f"seed={FIRST_SEED}",
        f"budget={{tokens = {tokens}, trials = {len(settings) + 1}, seeds = {seeds}}}",
        "budget={ends_early = false, match_epochs = false}",
        'sampler={name="random"}',
        'pruner={name="none"}',
        "finals.finalists=0",
        "promote.automatic=false",
        tomli_w.dumps({"enqueue": list(settings.values()), "warm_start": []}),
    ]
    for path in next(iter(settings.values())):
        values = [one[path] for one in settings.values()]
        if min(values) < max(values):  # whatever the study's range is
            ends = min(0.0, *values), max(*values, flatten(spec.base)[path])
            changes.append(f'space."{path}"={{low = {ends[0]}, high = {ends[1]}, log = false, limits = {list(ends)}}}')
    study = load(record.run.study_file, changes)
    Session(study, options).work()
    found = read_study(options.out / study.spec.name).trials
    losses = {}
    for name, wanted in settings.items():
        losses[name] = next(trial.loss for trial in found if dict(trial.params) == dict(wanted))
    return losses


def vertex(losses: Mapping[str, float | None]) -> tuple[float, float]:
    """Returns the best factor and its loss: of the parabola through the best of the sweep and its two neighbours."""
    swept = [losses[f"x {factor:.3g}"] for factor in FACTORS]
    best = min(range(len(FACTORS)), key=lambda index: swept[index] or math.inf)
    near = slice(max(0, best - 1), best + 2)
    if len(FACTORS[near]) < 3 or None in swept[near]:
        return FACTORS[best], float(swept[best] or math.nan)
    curve = np.polynomial.Polynomial.fit(np.log(FACTORS[near]), swept[near], 2)
    at = float(curve.deriv().roots()[0])
    return math.exp(at), float(curve(at))


def main() -> None:
    """Prints the comparison as a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    record = read_study(args.folder)
    promotion = record.attributes.promotion
    settings = candidates(record, promotion)
    with tempfile.TemporaryDirectory() as folder:
        options = Options(out=Path(folder), device=args.device)
        losses = trained(record, promotion.tokens, settings, args.seeds, options)
    factor, least = vertex(losses)
    print(promotion.describe())
    print(f"{promotion.brackets}\n\n| learning rate | loss | above the best |\n|---|---|---|")
    for name, loss in losses.items():
        print(f"| {name} | {loss:.4f} | {loss / least - 1:+.2%} |" if loss else f"| {name} | - | - |")
    print(f"\nbest x {factor:.3g}, loss {least:.4f}", end="")
    print(f"; promoted x {promotion.scaling.factor:.3g}" if promotion.scaling else "")


if __name__ == "__main__":
    main()
