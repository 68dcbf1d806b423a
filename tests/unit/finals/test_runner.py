"""The finals as they go from step to step: what is trained, when they end, and what is kept of that."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from fake_loop import FakeLoop, Loss
from study_case import make_queue, make_study, result

from autotune.core.attributes import StudyAttributes
from autotune.core.records import TrainingKind, TrialStatus, Verdict, VerdictWord
from autotune.engine.assignment import TrainingPlan
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.finals.runner import NO_TIME, NOT_ALL_ENDED, FinalsRunner
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import finals_name, open_fixed

SPACE = "lr = {low = 0.0001, high = 0.1, log = true}\nlayers = {low = 1, high = 8}"
DEFAULT = {"lr": 0.001, "layers": 4}
SECOND = {"lr": 0.02, "layers": 4}
BEST = {"lr": 0.01, "layers": 2}
NOISE = (0.001, -0.002, 0.0015, -0.0005, 0.002, -0.001, 0.0005)


def quality(params: Mapping[str, Any], seed: int, tokens: int = 1_000) -> float:
    """A loss that the learning rate decides, with a noise that differs with seed and settings."""
    base = {0.001: 3.0, 0.02: 2.85, 0.01: 2.8}[params["lr"]]
    return base + NOISE[(3 * seed + int(1_000 * params["lr"])) % len(NOISE)]


def hopeless(params: Mapping[str, Any], seed: int, tokens: int = 1_000) -> float:
    """A gain that is worth having, lost in a noise that is larger by far."""
    gain = 0.0 if params["lr"] == 0.001 else 0.03
    return 3.0 - gain + 0.2 * (-1) ** (seed + (params["lr"] == 0.001))


def failing_on(failing_seed: int, loss: Loss) -> Loss:
    """A loss with which the best settings diverge on one seed."""

    def fails(params: Mapping[str, Any], seed: int, tokens: int) -> float:
        return math.inf if (params, seed) == (BEST, failing_seed) else loss(params, seed, tokens)

    return fails


class Case:
    """A study of the fake trainer whose search is done: the default and two trials."""

    def __init__(self, folder: Path, *changes: str) -> None:
        self.study = make_study(folder, "base.lr=0.001", "base.layers=4", *changes, space=SPACE)
        self.search = make_queue(folder, self.study)
        self.run: RunDirectory = self.search.run
        for params, loss, role in ((DEFAULT, 3.0, "baseline"), (SECOND, 2.84, "search"), (BEST, 2.82, "search")):
            self.search.enqueue(params, role=role)
            assignment = self.search.take()
            assert assignment is not None
            self.search.tell(assignment.trial, result(loss=loss), assignment.folder)

    @property
    def attributes(self) -> StudyAttributes:
        return StudyAttributes(self.search.optuna_study)

    def open_queue(self) -> Queue:
        optuna_study = open_fixed(self.search.storage, finals_name("night"))
        store = TrialStore(optuna_study, self.search.storage, self.run, self.study)
        return Queue(TrainingPlan(TrainingKind.FINALS, 1_000), store)

    def runner(self, loop: FakeLoop, later_s: float = 0.0) -> FinalsRunner:
        return FinalsRunner(self.study.spec, self.search.optuna_study, self.open_queue, loop, 1, lambda: later_s)  # type: ignore[arg-type]

    def loop(self, loss: Any = quality, **more: Any) -> FakeLoop:
        return FakeLoop(self.run, loss, **more)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path)


def test_the_finalists_are_chosen_among_and_the_winner_is_proved_in_pairs(case: Case) -> None:
    loop = case.loop()
    verdict = case.runner(loop).verdict()

    assert (verdict.word, verdict.params) == (VerdictWord.BETTER, BEST)
    assert verdict.gain == pytest.approx(0.2, abs=0.005)
    # A selection seed for each of the two finalists, and four pairs on others.
    assert loop.trained[:2] == [(BEST, 1_001), (SECOND, 1_001)]
    assert loop.trained[2:] == [(params, seed) for seed in range(1_002, 1_006) for params in (DEFAULT, BEST)]


def test_running_again_trains_nothing_again(case: Case) -> None:
    first = case.runner(case.loop()).verdict()
    # The settings of a longer run follow from it: measured by a later process, it would begin another such run.
    assert case.attributes.noise is not None
    again = case.loop()
    assert case.runner(again).verdict() == first
    assert again.trained == []


def test_an_interrupted_proof_trains_only_what_is_missing(case: Case) -> None:
    def stopping(params: Mapping[str, Any], seed: int, tokens: int) -> float:
        if len(cut.trained) >= 5:
            cut.stop.raise_level()
        return quality(params, seed)

    cut = case.loop(stopping)
    assert case.runner(cut).verdict().word is VerdictWord.INCONCLUSIVE
    rest = case.loop()
    assert case.runner(rest).verdict().word is VerdictWord.BETTER
    assert len(cut.trained) == 5 and len(rest.trained) == 5


def test_pairs_that_decide_nothing_are_added_to_until_the_last_look(case: Case) -> None:
    loop = case.loop(hopeless)
    verdict = case.runner(loop).verdict()
    assert verdict.word is VerdictWord.INCONCLUSIVE
    assert len(verdict.seeds) == 16 == case.study.spec.finals.looks[-1]


def test_another_look_begins_only_if_all_of_it_fits(case: Case) -> None:
    # The first look's trainings start one by one in 5 s; the second's eight take 8 s with nothing to spare.
    verdict = case.runner(case.loop(hopeless, seconds_left=5.0)).verdict()
    assert len(verdict.seeds) == 4
    kept_for_later = case.runner(case.loop(hopeless, seconds_left=100.0), later_s=95.0).verdict()
    assert len(kept_for_later.seeds) == 4


def test_a_winner_that_fails_on_a_proving_seed_is_not_proved_on_more(case: Case) -> None:
    loop = case.loop(failing_on(1_003, hopeless))
    verdict = case.runner(loop).verdict()
    assert verdict.word is VerdictWord.INCONCLUSIVE and "failed on 1 of its fresh seeds" in verdict.reason
    assert len(loop.trained) == 2 + 8


def test_a_finalist_that_fails_on_a_selection_seed_is_passed_over(tmp_path: Path) -> None:
    case = Case(tmp_path, "finals.select_seeds=2")
    loop = case.loop(failing_on(1_002, quality))
    assert case.runner(loop).verdict().params == SECOND


def test_after_a_stop_nothing_is_trained(case: Case) -> None:
    loop = case.loop()
    loop.stop.raise_level()
    case.runner(loop).verdict()
    assert loop.trained == []


def test_without_a_finished_baseline_there_is_nothing_to_compare(tmp_path: Path) -> None:
    study = make_study(tmp_path, "base.lr=0.001")
    queue = make_queue(tmp_path, study)
    loop = FakeLoop(queue.run, quality)
    runner = FinalsRunner(study.spec, queue.optuna_study, lambda: queue, loop, 1, lambda: 0.0)  # type: ignore[arg-type]
    assert runner.verdict().word is VerdictWord.FAILED

    queue.enqueue({"lr": 0.01}, role="search")
    assignment = queue.take()
    assert assignment is not None
    queue.tell(assignment.trial, result(), assignment.folder)
    verdict = runner.verdict()
    assert (verdict.word, verdict.winner) == (VerdictWord.INCONCLUSIVE, 0)
    assert "baseline is missing" in verdict.reason


# --- the noise before the search ---


def test_the_noise_is_measured_once_on_runs_that_the_proof_uses_again(case: Case) -> None:
    loop = case.loop()
    case.runner(loop).noise()
    assert loop.trained == [(DEFAULT, seed) for seed in range(1_002, 1_006)]
    noise = case.attributes.noise
    assert noise is not None and noise.seeds == 4 and noise.pairs == 16

    proof = case.loop()
    case.runner(proof).verdict()
    assert [params for params, _ in proof.trained].count(DEFAULT) == 0
    assert case.attributes.noise == noise


def test_noise_takes_a_tenth_of_the_time_and_is_left_out_if_that_is_too_little(case: Case) -> None:
    short = case.loop(seconds_left=19.0)
    case.runner(short).noise()
    assert short.trained == [] and case.attributes.noise is None
    longer = case.loop(seconds_left=25.0)
    case.runner(longer).noise()
    assert len(longer.trained) == 2


# --- which change gave what ---


@pytest.fixture
def proved(case: Case) -> tuple[Case, Verdict]:
    return case, case.runner(case.loop()).verdict()


def test_changes_are_taken_back_one_by_one_and_the_idle_one_stays_at_its_default(proved: tuple[Case, Verdict]) -> None:
    case, verdict = proved
    case.runner(case.loop()).attribute(verdict)
    attribution = case.attributes.attribution
    assert attribution is not None and attribution.params == {"lr": 0.01, "layers": 4}
    again = case.loop()
    case.runner(again).attribute(verdict)
    assert again.trained == []
    assert case.attributes.why_no_attribution == ""


def test_why_it_is_not_known_is_kept(proved: tuple[Case, Verdict]) -> None:
    case, verdict = proved
    case.runner(case.loop(seconds_left=2.0)).attribute(verdict)
    assert case.attributes.attribution is None
    assert case.attributes.why_no_attribution == NO_TIME
    case.runner(case.loop(most=1)).attribute(verdict)
    assert case.attributes.why_no_attribution == NOT_ALL_ENDED
    # With time it is found out after all.
    case.runner(case.loop()).attribute(verdict)
    assert case.attributes.attribution is not None


def test_a_stop_is_no_reason_why_it_could_not_be_found_out(proved: tuple[Case, Verdict]) -> None:
    case, verdict = proved

    def stopping(params: Mapping[str, Any], seed: int, tokens: int) -> float:
        loop.stop.raise_level()
        return quality(params, seed)

    loop = case.loop(stopping, most=1)
    case.runner(loop).attribute(verdict)
    assert case.attributes.why_no_attribution == ""


def test_nothing_is_explained_that_was_not_proved(proved: tuple[Case, Verdict]) -> None:
    case, _ = proved
    loop = case.loop()
    case.runner(loop).attribute(Verdict(VerdictWord.INCONCLUSIVE, "", 2, BEST, (1_002, 1_003)))
    assert loop.trained == []
    assert all(run.status is TrialStatus.FINISHED for run in case.open_queue().records())
