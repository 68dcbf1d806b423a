"""Whole simulated studies, from the engine's own search to the verdict: false wins, and how true intervals are.

usage: python tests/benchmarks/bench_verdict.py [TABLE] [--studies 500] [--trainings 20] [--sigma 0.01] [--jobs 1]
       [--append]

A TABLE is what `autotune record` wrote; without one, the project's own of the overnight study. A study searches it with
the defaults for as much device time as so many whole trainings take, then holds its finals. Two seeds of one setting
differ by a normal draw with the standard deviation `--sigma` in nats per token (on the project's own table three seeds
differed by 0.01); all of a curve moves together, so that the luckiest settings are never stopped.

"A/A": every row has the default's curve, so that any win is a false one. "Real": rows are as they were recorded; a win
is false if the winner's true loss is not below the default's, and "covered" is the share of studies whose interval of
the gain holds the true one.
"""

from __future__ import annotations

import argparse
import os
import platform
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

# The models of the search are so small that a second thread only waits; set before anything loads a library.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState
from replay_finals import SEED, verdict_of
from results import publish
from scipy.stats import binomtest

from autotune.core.records import EvalPoint, TrialRecord, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.finals.verdict import FinalRun
from autotune.replay import arms, simulation
from autotune.replay.sources import Rows
from autotune.replay.table import Row, Table, read
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.spec import FinalsSpec

OWN_TABLE = Path(__file__).parent / "overnight_h100.json"


@dataclass(frozen=True)
class Outcome:
    """What a study came to.

    Args:
        verdict: The engine's.
        gain: By how much the winner's true loss is below the default's, nats per token.
        trials: Begun in the search.
    """

    verdict: Verdict
    gain: float
    trials: int

    @property
    def is_false_win(self) -> bool:
        """Whether a win was announced that is none."""
        return self.verdict.word is VerdictWord.BETTER and self.gain <= 0

    @property
    def is_covered(self) -> bool:
        """Whether the interval of the gain holds the true one."""
        low, high = self.verdict.gain_low, self.verdict.gain_high
        return low is not None and high is not None and low <= self.gain <= high


def same_settings(table: Table) -> Table:
    """Return a table all of whose finished rows have the default's curve.

    Args:
        table: Its first row is the default's.
    """
    curve = table.rows[0].losses
    return replace(table, rows=tuple(replace(row, losses=curve) for row in table.finished()))


def simulated(table: Table, trainings: float, sigma: float, seed: int) -> Outcome:
    """Run one study.

    Args:
        table: The true curves.
        trainings: Device time of the search, in whole trainings.
        sigma: Standard deviation of one setting's losses between seeds, nats per token.
        seed: Of the search and of all noise.
    """
    rng = np.random.default_rng(seed)
    truth = {_key(row.params): row.losses[-1] for row in table.finished()}
    seen = replace(table, rows=tuple(_moved(row, sigma * rng.standard_normal()) for row in table.rows))

    study, spec = simulation.new_study(seen, SamplerSpec(), PrunerSpec(), seed)
    simulation.search(study, spec, seen, Rows(seen), trainings * arms.trial_s(table))
    trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
    finished = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    search = {trial.number: _searched(trial) for trial in finished}

    def final(run: FinalRun) -> TrialRecord:
        settings = search[run.arm].params
        loss = truth[_key(settings)] + sigma * rng.standard_normal()
        record = TrialRecord(run.arm, settings, TrialStatus.FINISHED, _result(loss))
        return replace(record, arm=run.arm, seed=run.seed, stage=run.stage, role="final")

    baseline = next(iter(search.values()))
    verdict = verdict_of(list(search.values()), baseline, FinalsSpec(finalists=3), final)
    winner = baseline.params if verdict.winner is None else search[verdict.winner].params
    return Outcome(verdict, truth[_key(baseline.params)] - truth[_key(winner)], len(trials))


def line(name: str, outcomes: Sequence[Outcome]) -> str:
    """Return how studies came out, as a row of a Markdown table.

    Args:
        name: Of what they searched.
        outcomes: One for each study, at least one.
    """
    wins = sum(each.verdict.word is VerdictWord.BETTER for each in outcomes)
    counts = (sum(each.is_false_win for each in outcomes), sum(each.is_covered for each in outcomes))
    false_wins, covered = (_share(count, len(outcomes)) for count in counts)
    trials = sum(each.trials for each in outcomes) / len(outcomes)
    return f"| {name} | {trials:.0f} | {wins} of {len(outcomes)} | {false_wins} | {covered} |"


def _share(count: int, total: int) -> str:
    low, high = binomtest(count, total).proportion_ci()
    return f"{count / total:.1%} ({low:.1%}-{high:.1%})"


def _moved(row: Row, by: float) -> Row:
    return replace(row, losses=tuple(loss + by for loss in row.losses))


def _key(params: Mapping[str, Any]) -> frozenset[tuple[str, Any]]:
    return frozenset(params.items())


def _result(loss: float) -> TrialResult:
    return TrialResult(TrialStatus.FINISHED, points=(EvalPoint(100, loss),))


def _searched(trial: FrozenTrial) -> TrialRecord:
    assert trial.value is not None
    return TrialRecord(trial.number, trial.params, TrialStatus.FINISHED, _result(trial.value), seed=SEED)


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", metavar="TABLE", type=Path, nargs="?", default=OWN_TABLE)
    parser.add_argument("--studies", type=int, default=500, help="of each kind")
    parser.add_argument("--trainings", type=float, default=20.0, help="device time of a search, in whole trainings")
    parser.add_argument("--sigma", type=float, default=0.01, help="noise between seeds, nats per token")
    parser.add_argument("--jobs", type=int, default=1, help="studies simulated at once")
    parser.add_argument("--append", action="store_true", help="add the result to RESULTS.md")
    args = parser.parse_args()

    table = read(args.table)
    lines = [
        f"## {datetime.now(UTC):%Y-%m-%d}: false wins and coverage of whole simulated studies",
        "",
        f"{args.table.stem}, Python {platform.python_version()}, optuna {optuna.__version__}; searches of "
        f"{args.trainings:g} whole trainings, noise between seeds {args.sigma:g} nats.",
        "",
        "| | trials | wins | false wins | covered |",
        "|---|---|---|---|---|",
    ]
    with ProcessPoolExecutor(args.jobs) as executor:
        for name, shown in (("A/A", same_settings(table)), ("real", table)):
            one = partial(simulated, shown, args.trainings, args.sigma)
            lines.append(line(name, list(executor.map(one, range(args.studies), chunksize=4))))

    publish(lines, append=args.append)


if __name__ == "__main__":
    main()
