"""Trials per hour through the real engine, and where the rest of a trial's time goes.

usage: python tests/benchmarks/bench_search.py [STUDY] [--trials 12] [--device cpu] [--emulate t4] [--append]

Runs a study's search (no finals, no full run, nothing pruned) with the real trainer in the real worker. Of each
trial it takes the seconds of training and of evaluation as the trainer reports them; "set-up" is the rest of the
trainer's own time (waiting for the engine's answers too), "between" the time from one trial's end to the next one's
start as the engine noted both. A shape is the model, the pass and whether there is dropout. One device.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from results import publish

from autotune.core.records import TrialRecord, TrialResult
from autotune.night.session import Options, Session
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import load

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Times:
    """Seconds of one trial."""

    training: float
    evaluation: float
    set_up: float
    is_new_shape: bool


def run(study: Path, trials: int, device: str, emulate: str, folder: Path) -> StudyRecord:
    """Run the search and return what was stored of it."""
    changes = [f"budget.trials={trials}", 'pruner={name="none"}', "promote.automatic=false", "finals.finalists=0"]
    loaded = load(study, changes)
    session = Session(loaded, Options(out=folder, device=device, emulate=emulate, say=print))
    session.work()
    return read_study(folder / loaded.spec.name)


def times_of(trials: Sequence[TrialRecord]) -> list[Times]:
    """Return where the time of each finished trial went; the first has no trial before it and is left out."""
    results = [trial.result for trial in trials if trial.result is not None and trial.result.points]
    seen = {_shape(results[0])}
    found = []
    for result in results[1:]:
        training, tokens = 0.0, 0
        for point in result.points:
            training += (point.tokens_seen - tokens) / point.metrics["tokens_per_s"]
            tokens = point.tokens_seen
        evaluation = sum(point.metrics["eval_s"] for point in result.points)
        set_up = result.seconds - training - evaluation
        found.append(Times(training, evaluation, set_up, _shape(result) not in seen))
        seen.add(_shape(result))
    return found


def between(events: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds from each trial's end to the next one's start."""
    noted = [event for event in events if event["kind"] in ("started", "ended")]
    return [
        after["time"] - before["time"]
        for before, after in itertools.pairwise(noted)
        if (before["kind"], after["kind"]) == ("ended", "started")
    ]


def _shape(result: TrialResult) -> tuple[object, ...]:
    model = {name: value for name, value in result.config["model"].items() if name != "dropout"}
    return str(model), result.facts["pass_sequences"], result.config["model"]["dropout"] > 0


def table(times: Sequence[Times], gaps: Sequence[float]) -> list[str]:
    """Return the figures as rows of Markdown."""
    old, new = ([each for each in times if each.is_new_shape is kind] for kind in (False, True))
    whole = statistics.mean(each.training + each.evaluation + each.set_up for each in times) + statistics.mean(gaps)
    rows = ["| what | figure |", "|---|---|", f"| trials an hour | {3600 / whole:,.0f} |"]
    rows.append(f"| training, median | {statistics.median(each.training for each in times):.2f} s |")
    rows.append(f"| evaluation, median | {statistics.median(each.evaluation for each in times):.2f} s |")
    rows.append(f"| between trials, median | {1000 * statistics.median(gaps):.0f} ms |")
    for name, group in (("seen before", old), ("new", new)):
        if group:
            seconds = [each.set_up for each in group]
            figure = f"{1000 * statistics.median(seconds):.0f} ms (at most {1000 * max(seconds):.0f} ms)"
            rows.append(f"| set-up, shape {name}, {len(group)} trials, median | {figure} |")
    return rows


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", type=Path, default=ROOT / "studies" / "quickstart.toml")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--emulate", default="")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        record = run(args.study, args.trials, args.device, args.emulate, Path(folder))
    trials, machine = record.trials, record.hardware
    name = machine["name"] or machine["cpu_name"]
    lines = [f"## {datetime.now(UTC):%Y-%m-%d}: trials through the engine", ""]
    lines += [f"{name}, Python {platform.python_version()}, torch {torch.__version__}; {args.study.name}, "]
    lines[-1] += (
        f"{len(trials)} trials{f', --emulate {args.emulate}' if args.emulate else ''}; `make bench BENCH=search`"
    )
    publish([*lines, "", *table(times_of(trials), between(record.events))], append=args.append)


if __name__ == "__main__":
    main()
