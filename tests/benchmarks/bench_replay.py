"""Device time to good settings on recorded tables: the engine's own search, Optuna as it ships, and other tools.

usage: python tests/benchmarks/bench_replay.py [TABLE ...] [--way both] [--default both] [--repeats 30] [--trials 100]
       [--peers] [--slow] [--only REGEX] [--variant TEXT ...] [--choose] [--jobs 1] [--append]

A TABLE is what `autotune record` wrote, or a folder of such files; without one, the project's own two are taken. Every
search is simulated on their exact rows. Device time is what a row took as far as it was trained, and is told in whole
trainings. No training begins after that of `--trials` whole ones, and a search that never found what it looked for
counts as so many. The seeds of each method are 0, 1, ...; rows and defaults drawn are the same for all methods.

`--way nearest`: a proposal becomes the nearest row not yet taken. `--way pool`: proposals are rows that are left. What
a sampler maximises is maximised over them, and random search draws one of them. Methods that cannot do that are left
out. `--default middle`: the first training has the table's own default. `--default random`: it has a row drawn from
those that were trained to their end; `good`: from their best tenth, less the best fiftieth; `poor`: from the middle
fifth; `wrong`: from the worst tenth. `--default both` is middle and random. Methods that put trainings aside (top 3 of
27, NePS) go on with them without another set-up; top 3 of 27 trains the default to its end before its first round.

"Times as fast" is the time of TPE + MedianPruner as Optuna ships them, divided by that of the method: the geometric
mean over tables, with a 95 % bootstrap interval over tables. The time on one table is the geometric mean over its
searches. "Found" is the mean over tables of the share of searches that found it; "trainings" is the geometric mean
over tables of the median search. In the table of tables, "to" is the median time with the share that found it, "after"
the median distance from the best after so many whole trainings, and "thinking" the wall clock for each training begun:
sampler, pruner, and the replay's own book-keeping, which is nearly all that random search without a pruner has.

`--peers` adds the tools of peer_tools.py that are installed, `--slow` those that think for minutes in each search.
`--only` takes the methods whose name contains a regular expression, besides ours, random search and the reference.
`--variant 'NAME: sampler={name="gp", ...} pruner={...}'` adds the engine's search with another sampler, pruner or both,
as a study file has them. `--choose` chooses among the variants for each table by all other tables, and tells how good
that is: a choice by the table itself would flatter.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import math
import os
import platform
import re
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

# The models of these methods are so small that a second thread only waits; set before anything loads a library.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import optuna
import peer_tools
import peers
import replay_report
from replay_run import get_ready, run, table_at
from replay_task import Default, Task, Way
from results import publish

from autotune.core.errors import UserError
from autotune.replay import algorithms
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

HERE = Path(__file__).parent
OWN_TABLES = (HERE / "overnight_h100.json", HERE / "quickstart_cpu.json")
PACKAGES = ("syne-tune", "ray", "neural-pipeline-search")
HEADINGS = {
    "nearest": "A proposal becomes the nearest row",
    "pool": "Proposals are rows that are left",
    "middle": "the table's own default first",
    "random": "a row drawn at random first",
    "good": "a row of the best tenth first",
    "poor": "a row of the middle fifth first",
    "wrong": "a row of the worst tenth first",
}


def table_paths(given: Sequence[Path]) -> dict[str, Path]:
    """Return the tables to replay by their files' names; the project's own if none is given.

    Args:
        given: Files and folders of files.

    Raises:
        UserError: If a file or folder holds none, or two have the same name.
    """
    paths = []
    for path in given or OWN_TABLES:
        found = sorted(path.glob("*.json")) if path.is_dir() else [path]
        if not found:
            raise UserError(f"{path}: no .json file in this folder; name one with tables of `autotune record`")
        paths += found

    tables: dict[str, Path] = {}
    for path in paths:
        if path.stem in tables:
            raise UserError(f"{path}: {tables[path.stem]} has the same name; rename one, or name it once")
        algorithms.check(table_at(path), SamplerSpec(), PrunerSpec())
        tables[path.stem] = path
    return tables


def parse_variant(text: str, tables: Sequence[Path]) -> peers.Method:
    """Read a variant of the engine's search from the command line.

    Args:
        text: A name, a colon, and `sampler=...`, `pruner=...` or both, each a name or an inline table of a study file.
        tables: What it is to be tried on.

    Raises:
        UserError: If it is written otherwise, there is no such sampler, pruner or option, or a table refuses it.
    """
    name, _, rest = text.partition(":")
    before, *given = re.split(r"(?:^|\s)(sampler|pruner)=", rest)
    values = dict(zip(given[::2], given[1::2], strict=True))
    if before.strip() or not name.strip() or not values or 2 * len(values) < len(given):
        raise UserError(f'--variant {text!r}: write \'NAME: sampler={{name = "gp"}} pruner={{name = "median"}}\'')

    sampler = algorithms.parse_sampler(values["sampler"].strip()) if "sampler" in values else SamplerSpec()
    pruner = algorithms.parse_pruner(values["pruner"].strip()) if "pruner" in values else PrunerSpec()
    for path in tables:
        algorithms.check(table_at(path), sampler, pruner)
    return peers.Method(name.strip(), partial(peers.engine_search, sampler=sampler, pruner=pruner))


def chosen_methods(
    variants: Sequence[peers.Method], only: re.Pattern[str], with_tools: bool, with_slow: bool
) -> tuple[list[peers.Method], list[str]]:
    """Return the methods to run, ours first, and why tools were left out.

    Args:
        variants: Variants of ours; all of them are run.
        only: What the names of others contain.
        with_tools: Whether the tools that are installed are run as well.
        with_slow: Whether those that think for long are among them.

    Raises:
        UserError: If two methods have the same name.
    """
    tools, missing = peer_tools.available(peer_tools.TOOLS if with_tools else ())
    others = (*peers.OTHERS, *(tool for tool in tools if with_slow or not tool.is_slow))
    asked = (method for method in others if only.search(method.name))
    methods = [peers.OURS, *variants, peers.REFERENCE, peers.RANDOM, *asked]

    names = [method.name for method in methods]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"--variant {name!r}: another method has this name; give it one of its own")
    return methods, missing


def measured(args: argparse.Namespace) -> list[str]:
    """Run what the command line asks for, and return its figures as lines of Markdown.

    Raises:
        UserError: If it asks for what cannot be run.
    """
    tables = table_paths(args.tables)
    variants = [parse_variant(text, list(tables.values())) for text in args.variant]
    if args.choose and (len(variants) < 2 or len(tables) < 2):
        raise UserError(
            f"--choose has {len(variants)} --variant and {len(tables)} tables to choose by; give it two or more of each"
        )

    methods, missing = chosen_methods(variants, args.only, args.peers, args.slow)
    print("\n".join(missing))
    ways = get_args(Way) if args.way == "both" else (args.way,)
    defaults = ("middle", "random") if args.default == "both" else (args.default,)
    for way, path in itertools.product(ways, tables.values()):
        # Nothing begins in no time, but what cannot propose in this way says so.
        for method in methods:
            if way in method.ways and not method.package:
                method.search(Task(table_at(path), 0, 0.0, way))

    lines = [
        f"{versions()}. {args.repeats} searches each, of up to {args.trials:g} whole trainings.",
        "",
        *(replay_report.describe(name, table_at(path)) for name, path in tables.items()),
        "",
    ]
    with ProcessPoolExecutor(args.jobs, initializer=get_ready) as executor:
        for way, default in itertools.product(ways, defaults):
            able = [method for method in methods if way in method.ways]
            options = {"way": way, "default": default, "repeats": args.repeats, "trainings": args.trials}
            cells = run(executor, tables, able, **options)

            lines += [f"### {HEADINGS[way]}; {HEADINGS[default]}", ""]
            if unable := [method.name for method in methods if way not in method.ways]:
                lines += [f"Left out, since their proposals cannot be rows: {'; '.join(unable)}.", ""]
            lines += [*replay_report.over_tables(cells), *replay_report.by_table(cells)]
            if args.choose:
                lines += replay_report.leave_one_out(cells, [variant.name for variant in variants])
    return lines[:-1]


def versions() -> str:
    """Return the versions of Python, Optuna and the tools that are installed."""
    words = [f"Python {platform.python_version()}", f"optuna {optuna.__version__}"]
    for package in PACKAGES:
        try:
            words.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(words)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _trainings(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 1 <= float(text) < math.inf:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 up")


def _pattern(text: str) -> re.Pattern[str]:
    try:
        return re.compile(text)
    except re.error as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no regular expression: {error}") from None


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", metavar="TABLE", type=Path, nargs="*")
    parser.add_argument("--way", choices=(*get_args(Way), "both"), default="both")
    parser.add_argument("--default", choices=(*get_args(Default), "both"), default="both")
    parser.add_argument("--repeats", type=_count, default=30, help="searches of each method on each table")
    parser.add_argument("--trials", type=_trainings, default=100.0, help="device time of a search, in whole trainings")
    parser.add_argument("--peers", action="store_true", help="also the tools of peer_tools.py that are installed")
    parser.add_argument("--slow", action="store_true", help="of these also the ones that think for long")
    parser.add_argument("--only", type=_pattern, default="", help="methods whose name contains this regular expression")
    parser.add_argument("--variant", action="append", default=[], help="a variant of ours, as said above")
    parser.add_argument("--choose", action="store_true", help="choose among the variants, for each table by the others")
    parser.add_argument("--jobs", type=_count, default=1, help="searches simulated at once")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_intermixed_args()

    try:
        lines = measured(args)
    except UserError as error:
        parser.exit(error.exit_code, f"{parser.prog}: {error}\n")

    heading = f"## {datetime.now(UTC):%Y-%m-%d}: device time to good settings, on recorded tables"
    publish([heading, "", *lines], append=args.append)


if __name__ == "__main__":
    main()
