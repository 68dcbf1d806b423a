"""Twenty real studies of the README's trainer: is the verdict right where something helps, and where nothing does?

usage: python tests/benchmarks/bench_own_trainer.py [--studies 10] [--jobs 1] [--append]

Each is `autotune run` on the trainer and the study that `autotune init --trainer` writes, on data of its own. Every
second one reports an r2, which is to be maximised, in place of the error.

"true": the study as it is written, whose ranges hold better settings than the default. "false": two settings are
searched that do nothing but change the luck of a training (its random numbers come from them and the seed), so that the
best trial is always a lucky one. What is true is measured beside the study: the means of default and winner over so
many trainings with seeds that no study has. A verdict is right if it says "better" of a true gain and never of another.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

# One thread: the products are tiny.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from results import publish

from autotune.cli.init import TRAINER
from autotune.core.metric import Metric

TRUTH_SEEDS = range(1_000_000, 1_000_200)
"""Far from the seeds of trials and finals."""
_R2 = {
    '"name": "error", "unit": "K"': '"name": "r2", "direction": "maximize"',
    '"error": error})': '"r2": 1 - error**2 / float(np.var(targets[500:]))})',
}
_LUCK = {
    'default_rng(config["seed"])': (
        'default_rng([config["seed"], *(int(1e6 * config[name]) for name in ("one", "other"))])'
    ),
}
_IDLE_SPACE = "[space]\none = {low = 0.0, high = 1.0}\nother = {low = 0.0, high = 1.0}\n"
_IDLE_BASE = "momentum = 0.0\none = 0.5\nother = 0.5"


@dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Args:
        helps: Whether something in its space helps.
        word: Its verdict.
        gain: What the winner gains in truth over the default, in units of the metric; positive is better.
        error: Standard error of that.
        interval: The study's own interval of the gain.
        runs: Of the finals.
    """

    helps: bool
    word: str
    gain: float
    error: float
    interval: tuple[float, float]
    runs: int

    @property
    def is_right(self) -> bool:
        """Whether the verdict is "better" exactly where the winner is better."""
        return (self.word == "better") is self.helps


def trainer(number: int, helps: bool) -> str:
    """Return a trainer's source.

    Args:
        number: Of the study: of its data, and whether an r2 is reported.
        helps: Whether settings matter.
    """
    changes = {"data = np.random.default_rng(0)": f"data = np.random.default_rng({number})"}
    if number % 2:
        changes |= _R2
    if not helps:
        changes |= _LUCK

    source = TRAINER
    for before, after in changes.items():
        assert before in source, before
        source = source.replace(before, after)
    return source


def run(number: int, helps: bool) -> Outcome:
    """Run one study and measure what is true of its winner.

    Args:
        number: Of the study.
        helps: Whether something in its space helps.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        autotune(folder, "init", "study", "--trainer", "my_trainer.py")
        source = trainer(number, helps)
        (folder / "my_trainer.py").write_text(source, encoding="utf-8")
        if not helps:
            study = (folder / "study.toml").read_text(encoding="utf-8").partition("[space]")[0]
            (folder / "study.toml").write_text(study.replace("momentum = 0.0", _IDLE_BASE) + _IDLE_SPACE)

        autotune(folder, "run", "study.toml", f"--seed={number}")
        report = json.loads((folder / "runs/study/report/report.json").read_text(encoding="utf-8"))

        default = report["config"]
        settings = {**default, **_winner(folder, report)}
        gains = [_gain(source, default, settings, seed) for seed in TRUTH_SEEDS]

    verdict = report["verdict"]
    interval = (verdict["gain_low"], verdict["gain_high"])
    error = float(np.std(gains, ddof=1)) / len(gains) ** 0.5
    runs = sum(arm["seeds"] for arm in report["finals"])
    return Outcome(helps, verdict["word"], float(np.mean(gains)), error, interval, runs)


def autotune(folder: Path, *arguments: str) -> None:
    """Run a command of the project in a folder."""
    command = [sys.executable, "-m", "autotune", *arguments]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""})


def _winner(folder: Path, report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of the finals' winner, by name; none of them where the default won."""
    number = report["verdict"]["winner"]
    if number is None:
        return {}
    trial = json.loads((folder / f"runs/study/trials/{number:04d}/config.json").read_text(encoding="utf-8"))
    return {name: trial[name] for name in ("lr", "momentum", "one", "other") if name in trial}


def _gain(source: str, default: Mapping[str, Any], settings: Mapping[str, Any], seed: int) -> float:
    module: dict[str, Any] = {}
    exec(source, module)
    metric = module["metric"]
    sign = 1 if metric.get("direction") == "maximize" else -1

    values = []
    for config in (default, settings):
        points: list[Mapping[str, float]] = []

        def report(point: Mapping[str, float], points: list[Mapping[str, float]] = points) -> bool:
            points.append(point)
            return True

        module["train"]({**config, "seed": seed}, 40, report)
        values.append(sign * points[-1][metric["name"]])
    return values[1] - values[0]


def line(number: int, outcome: Outcome) -> str:
    """Return an outcome as a row of a Markdown table."""
    digits = Metric()
    low, high = (digits.signed(end) for end in outcome.interval)
    truth = f"{digits.signed(outcome.gain)} ± {outcome.error:.2g}"
    kind = "true" if outcome.helps else "false"
    said = "right" if outcome.is_right else "WRONG"
    return f"| {number} | {kind} | {outcome.word} | {low} to {high} | {truth} | {outcome.runs} | {said} |"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=10, help="of each kind")
    parser.add_argument("--jobs", type=int, default=1, help="studies run at once")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()

    asked = [(number, helps) for helps in (True, False) for number in range(args.studies)]
    with ThreadPoolExecutor(args.jobs) as executor:
        outcomes = list(executor.map(run, *zip(*asked, strict=True)))

    right = sum(outcome.is_right for outcome in outcomes)
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: verdicts of real studies of a trainer of one's own",
        "",
        f"{os.cpu_count()} CPU cores, Python {platform.python_version()}, numpy {np.__version__}, optuna "
        f"{optuna.__version__}. `make bench BENCH=own_trainer`: the trainer and study of `autotune init --trainer`, "
        f"each time on other data. {right} of {len(outcomes)} verdicts are right.",
        "",
        "| data | improvement | verdict | 95 % interval of the gain | true gain of the winner | runs of the finals | |",
        "|---|---|---|---|---|---|---|",
        *(line(number, outcome) for (number, _), outcome in zip(asked, outcomes, strict=True)),
    ]
    publish(lines, append=args.append)


if __name__ == "__main__":
    main()
