"""Device time to good settings on a recorded table: the engine's own search, Optuna as it ships, and other tools.

usage: python tests/benchmarks/bench_replay.py TABLE [--repeats 30] [--trials 100] [--peers] [--slow] [--only REGEX]
       [--jobs 1] [--append]

TABLE is what `autotune record` wrote. Every search is simulated on its exact rows: a proposal becomes the nearest row
that was not yet taken, device time is what that row took as far as it was trained, and no trial begins after the
device time of `--trials` whole ones. Every method, ours too, begins with the baseline, which the engine and most
tools can be told; top 3 of 27 trains it to the end before its first round. Methods that put trainings aside (top 3 of
27, NePS) go on with them without another set-up. Seeds 0, 1, ... of each method; the rows are the same for all.

"Found" is a whole training that ended within 0.5 % of the table's best loss. Intervals are 95 % bootstrap intervals
of the median. The last columns are the median distance from the table's best, of the best training that had ended
after the device time of so many whole trials. `--peers` adds the tools of peers.py that are installed, `--slow` those
that think for minutes in each search. `--only` takes the methods whose name contains a regular expression.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

# The models of these methods are so small that a second thread only waits; set before anything loads a library.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import optuna
import peers

from autotune.replay import arms
from autotune.replay.arms import Arm
from autotune.replay.simulation import Search, simulate
from autotune.replay.sources import Rows
from autotune.replay.table import Table, read
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

HERE = Path(__file__).parent
WITHIN_FRAC = 0.005
BUDGETS_TRIALS = (5, 10, 20, 40)
PACKAGES = {"syne_tune": "syne-tune", "ray": "ray", "neps": "neural-pipeline-search"}


def ours(table: Table, seed: int, budget_s: float, sampler: str = "", pruner: str = "") -> Search:
    """Simulate the engine's default search, or with another sampler or pruner of the engine."""
    samplers = SamplerSpec(name=sampler) if sampler else SamplerSpec()
    pruners = PrunerSpec(name=pruner) if pruner else PrunerSpec()
    return simulate(table, Rows(table), samplers, pruners, seed, budget_s)


OURS = (
    peers.Method("ours", ours),
    peers.Method("ours, TPE instead", partial(ours, sampler="tpe")),
    peers.Method("ours, nothing pruned", partial(ours, pruner="none")),
)


@cache
def _read(path: Path) -> Table:
    return read(path)


def _one(path: Path, method: peers.Method, seed: int, budget_s: float) -> Search:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return method.search(_read(path), seed, budget_s)


def run(
    path: Path, methods: Sequence[peers.Method], repeats: int, trials: float, jobs: int
) -> dict[str, tuple[Search, ...]]:
    """Return the searches of each method, by its name."""
    budget_s = trials * arms.trial_s(_read(path))
    target = _read(path).finished()[0].losses[-1] * (1 + WITHIN_FRAC)
    found = {}
    with ProcessPoolExecutor(jobs) as pool:
        pending = {
            method.name: [pool.submit(_one, path, method, seed, budget_s) for seed in range(repeats)]
            for method in methods
        }
        for name, searches in pending.items():
            found[name] = tuple(search.result() for search in searches)
            print(f"{datetime.now():%H:%M:%S} {arms.describe(Arm(name, found[name], target))}", flush=True)
    return found


def figures(table: Table, found: Mapping[str, tuple[Search, ...]]) -> list[str]:
    """Return the figures of all methods as rows of Markdown; multiples are of the first method's median."""
    best, trial_s = table.finished()[0].losses[-1], arms.trial_s(table)
    compared = [Arm(name, searches, best * (1 + WITHIN_FRAC)) for name, searches in found.items()]
    first = compared[0].median_s
    budgets = " | ".join(f"{count} trials" for count in BUDGETS_TRIALS)
    rows = [f"| method | found | minutes (95 % interval) | / {compared[0].name} | {budgets} |"]
    rows.append("|---" * (4 + len(BUDGETS_TRIALS)) + "|")
    for arm in compared:
        low, high = (_number(seconds / 60) for seconds in arm.interval_s())
        above = [_percent(_above(arm.searches, best, count * trial_s)) for count in BUDGETS_TRIALS]
        ratio = f"{arm.median_s / first:.2f}" if math.isfinite(arm.median_s) and first else "-"
        cells = (arm.name, f"{arm.reached_frac:.0%}", f"{_number(arm.median_s / 60)} ({low}-{high})", ratio, *above)
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _above(searches: Sequence[Search], best: float, seconds: float) -> float:
    """Return the median distance from the table's best loss after some device time, as a share of it."""
    return statistics.median_high(search.best_by(seconds) for search in searches) / best - 1


def _number(value: float) -> str:
    return f"{value:.2f}" if math.isfinite(value) else "never"


def _percent(value: float) -> str:
    return f"{value:.2%}" if math.isfinite(value) else "-"


def describe(table: Table, repeats: int, trials: float) -> str:
    """Return what the methods were tried on, in a paragraph."""
    finished = table.finished()
    best = finished[0].losses[-1]
    near = sum(row.losses[-1] <= best * (1 + WITHIN_FRAC) for row in finished)
    return (
        f"{table.spec.name}: {len(table.rows)} rows, {len(finished)} finished, {len(table.tokens)} evaluations each; "
        f"best loss {best:.4f}, median {finished[len(finished) // 2].losses[-1]:.4f}, baseline "
        f"{table.rows[0].losses[-1]:.4f}; {near} rows within {WITHIN_FRAC:.1%} of the best. A whole trial takes "
        f"{arms.trial_s(table):.1f} s of device time. {repeats} searches each, of up to {trials:g} whole trials."
    )


def versions() -> str:
    """Return the versions of Python, Optuna and the tools that are installed."""
    words = [f"Python {platform.python_version()}", f"optuna {optuna.__version__}"]
    for package in PACKAGES.values():
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(words)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--trials", type=float, default=100.0, help="device time of a search, in whole trials")
    parser.add_argument("--peers", action="store_true", help="also the tools of peers.py that are installed")
    parser.add_argument("--slow", action="store_true", help="of these also the ones that think for long")
    parser.add_argument("--only", default="", help="methods whose name contains this regular expression")
    parser.add_argument("--jobs", type=int, default=1, help="searches simulated at once")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()
    table = _read(args.table)
    tools, missing = peers.available(peers.TOOLS if args.peers else ())
    print("\n".join(missing))
    asked = (*peers.OPTUNA, *(tool for tool in tools if args.slow or not tool.is_slow))
    methods = [*OURS, *(method for method in asked if re.search(args.only, method.name))]
    found = run(args.table, methods, args.repeats, args.trials, args.jobs)
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: device time to good settings, on a recorded table",
        "",
        f"{versions()}.",
    ]
    lines += [describe(table, args.repeats, args.trials), "", *figures(table, found)]
    text = "\n".join(lines)
    print(text)
    if args.append:
        with (HERE / "RESULTS.md").open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


if __name__ == "__main__":
    main()
