"""The baseline's seeds come before the search, and the finals go on until they decide."""

from __future__ import annotations

import pytest
from study_folder import StudyFolder

from autotune.core.records import VerdictWord


def test_noise_is_measured_first_and_its_runs_are_half_of_the_pairs(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 4}, base={"sigma": 0.02}, finals={"prove_seeds": 3, "max_seeds": 3})
    run = folder.run()
    assert run.end() == 0, run.text
    started = [training.seed for training in folder.started() if training.tokens == 100_000]
    assert started[:5] == [1, 1002, 1003, 1004, 1], "the baseline, its seeds, the search"
    record = folder.record()
    assert [(each.arm, each.seed) for each in record.finals[:3]] == [(0, 1002), (0, 1003), (0, 1004)]
    assert len({(each.arm, each.seed, each.stage) for each in record.finals}) == len(record.finals)
    assert record.verdict is not None and record.verdict.seeds == (1002, 1003, 1004)
    noise = record.attributes.noise
    assert noise.sigma == pytest.approx(record.verdict.sigma)
    assert (noise.seeds, noise.pairs) == (3, 3)
    assert "noise: across 3 seeds the default's loss has a standard deviation of" in run.text
    again = folder.run()
    assert again.end() == 0, again.text
    assert folder.record().finals == record.finals


def test_undecided_pairs_are_added_to(folder: StudyFolder) -> None:
    """The gain lies far below the noise, and what is worth having far below that: no number of pairs decides."""
    folder.write(
        budget={"trials": 3},
        base={"sigma": 0.5, "lr": 0.01},
        space={"lr": {"choices": [0.01, 0.010001]}},
        finals={"finalists": 1, "prove_seeds": 2, "max_seeds": 6, "min_gain_frac": 0.000001},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    verdict = folder.record().verdict
    assert verdict is not None and verdict.word is VerdictWord.INCONCLUSIVE
    assert len(verdict.seeds) == 6


def test_a_plain_gain_needs_no_second_look(folder: StudyFolder) -> None:
    folder.write(
        budget={"trials": 3},
        base={"sigma": 0.0001},
        space={"gain": {"choices": [0.0, 0.5]}},
        finals={"finalists": 1, "prove_seeds": 3, "max_seeds": 0},
    )
    run = folder.run()
    assert run.end() == 0, run.text
    verdict = folder.record().verdict
    assert verdict is not None
    assert (verdict.word, len(verdict.seeds)) == (VerdictWord.BETTER, 3)


def test_without_finals_no_seed_is_spent_on_noise(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 3}, finals={"finalists": 0})
    run = folder.run()
    assert run.end() == 0, run.text
    record = folder.record()
    assert record.finals == () and record.attributes.noise is None
    assert record.verdict is not None
    assert record.verdict.reason == "nothing was proved on fresh seeds, since finals.finalists is 0"
