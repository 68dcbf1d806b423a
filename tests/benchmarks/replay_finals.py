"""The finals of a simulated study: finalists, seeds, looks and verdict are the engine's, losses are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from autotune.core.records import TrialRecord, Verdict, VerdictWord
from autotune.finals.verdict import FinalRun, choose_winner, finalists, judge, noise_runs, proving_runs, selection_runs
from autotune.study.spec import FinalsSpec

SEED = 1


def verdict_of(
    search: Sequence[TrialRecord],
    baseline: TrialRecord,
    spec: FinalsSpec,
    trained: Callable[[FinalRun], TrialRecord],
) -> Verdict:
    """Run the finals of a study as the engine does, and return its verdict.

    Args:
        search: The finished trials of the search.
        baseline: The one of them that has the default.
        spec: As in a study file.
        trained: Gives the record of a run of the finals.
    """
    runs: list[TrialRecord] = []

    def train(wanted: Sequence[FinalRun]) -> None:
        there = {(each.arm, each.seed) for each in runs}
        runs.extend(trained(each) for each in wanted if (each.arm, each.seed) not in there)

    train(noise_runs(baseline, spec, SEED, spec.prove_seeds))
    arms = finalists(search, baseline, spec.finalists)
    train(selection_runs(arms, spec, SEED))

    winner = choose_winner(arms, runs)
    for look, pairs in enumerate(spec.looks):
        train(proving_runs(baseline, winner, spec, SEED, pairs))
        verdict = judge(baseline, winner, runs, spec, look)
        if verdict.word is not VerdictWord.INCONCLUSIVE:
            break
    return verdict
