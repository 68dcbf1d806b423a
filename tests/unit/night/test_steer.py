"""What may be asked of a study, and why not: everything is checked before any of it is stored."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from study_case import make_queue, make_study, result

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus, Verdict, VerdictWord
from autotune.core.requests import AddTrial, Request, SetRange
from autotune.core.study_results import Plan
from autotune.engine.queue import Queue
from autotune.engine.steering import Steering
from autotune.night.steer import Orders, steer

SPACE = """lr = {low = 0.0001, high = 0.1, log = true, limits = [0.00001, 1.0]}
layers = {choices = [1, 2, 4]}
heads = {low = 1, high = 8, when = {layers = 4}}
gain = {low = 0.0, high = 0.5, step = 0.1}
sigma = {low = 0.0, high = 1.0}
"""


class Night:
    """A study with a finished trial, one that was pruned and one that runs."""

    def __init__(self, folder: Path, sampler: str = "tpe") -> None:
        self.study = make_study(folder, f'sampler.name="{sampler}"', space=SPACE)
        self.queue: Queue = make_queue(folder, self.study, target=9)
        self.queue.enqueue(self.study.spec.space.baseline(self.study.spec.base), role="baseline")
        for status in (TrialStatus.FINISHED, TrialStatus.PRUNED):
            drawn = self.queue.take()
            assert drawn is not None
            self.queue.tell(drawn.trial, result(status), drawn.folder)
        self.queue.take()

    def steer(self, **orders: Any) -> list[str]:
        asked = steer(self.queue.run.root, "", lambda: self.study, Orders(**orders))
        return [accepted.says for accepted in asked]

    def refusal(self, **orders: Any) -> str:
        before = len(self.requests)
        with pytest.raises(UserError) as refused:
            self.steer(**orders)
        assert refused.value.exit_code == 2
        assert len(self.requests) == before, "nothing is stored unless all of it can be done"
        return str(refused.value)

    @property
    def requests(self) -> tuple[Request, ...]:
        return self.queue.store.attributes.requests


@pytest.fixture
def night(tmp_path: Path) -> Night:
    return Night(tmp_path)


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Night:
    """A night of which nothing is asked that is not refused."""
    return Night(tmp_path_factory.mktemp("night"))


def test_several_wishes_are_stored_together_each_said_in_a_sentence(night: Night) -> None:
    says = night.steer(
        stop=[2],
        add=[{"lr": 0.02}],
        ranges={"lr": (0.001, 0.05), "layers": [2, 1]},
        trials=5,
        ends_at=time.time() + 7_200,
    )
    assert says == [
        "trial 2 ends after its next evaluation; it is not trained again",
        "lr is searched in 0.001 to 0.05 (log) from the next trial on (before: 0.0001 to 0.1 (log)); trials outside of "
        "that still teach",
        "layers is searched in one of 1, 2 from the next trial on (before: one of 1, 2, 4); trials outside of that "
        "still teach",
        "a trial with lr = 0.02 is trained as soon as a device is free; its other settings are the default's (layers = "
        "2, gain = 0.0, sigma = 0.01)",
        "the search ends after 5 trials at most (before: 3)",
        says[5],
    ]
    assert says[5].startswith("everything is to be done by ") and says[5].endswith(", in 2.0 h")
    kinds = [request.wish.kind for request in night.requests]
    assert kinds == ["stop trial", "range", "range", "add trial", "trials", "end"]
    added = night.requests[3].wish
    assert isinstance(added, AddTrial)
    assert added.settings == {"lr": 0.02, "layers": 2, "gain": 0.0, "sigma": 0.01} and added.named == ("lr",)


@pytest.mark.parametrize(
    ("orders", "words"),
    [
        ({}, "nothing is asked: name a trial"),
        ({"stop": [9]}, "trial 9: night has no such trial; its trials are 0 to 2"),
        ({"stop": [0]}, "trial 0: it has the default settings, without which nothing could be proved"),
        ({"stop": [1]}, "trial 1: it has ended already (pruned)"),
        ({"stop": [2, 2]}, "trial 2: that was asked before"),
        ({"add": [{}]}, "it names no setting"),
        ({"add": [{"lrr": 0.1}]}, 'this setting is not searched (did you mean "lr"?); name one of lr, layers'),
        ({"add": [{"lr": 0.2}]}, "trial with lr = 0.2: 0.2 is not within 0.0001 to 0.1 (log); change it, or widen"),
        ({"add": [{"lr": "fast"}]}, "'fast' is not within"),
        ({"add": [{"lr": float("nan")}]}, "nan is not within"),
        ({"add": [{"layers": 3}]}, "3 is not one of 1, 2, 4"),
        ({"add": [{"gain": 0.15}]}, "0.15 is not within 0.0 to 0.5 in steps of 0.1"),
        ({"add": [{"heads": 2}]}, "the condition (when) of heads does not hold for the settings beside it"),
        ({"add": [{"lr": 0.001}]}, "trial 0 has these settings (finished)"),
        ({"ranges": {"lrr": (0, 1)}}, "range of lrr: this setting is not searched"),
        ({"ranges": {"lr": (0.01,)}}, "it needs a low and a high end"),
        ({"ranges": {"lr": (0.05, 0.01)}}, "low 0.05 is above high 0.01; swap them"),
        ({"ranges": {"lr": (0.0, 0.01)}}, "log = true needs low above 0"),
        ({"ranges": {"lr": (0.01, 5.0)}}, "limits 1e-05 to 1.0 do not include the range 0.01 to 5.0"),
        ({"ranges": {"lr": ("a", "b")}}, "must be a number, but it is 'a'"),
        ({"ranges": {"lr": (0.0001, 0.1)}}, "0.0001 to 0.1 (log) is what is searched already"),
        ({"ranges": {"layers": [3]}}, "3 is not one of 1, 2, 4; a study goes on with choices that it began with"),
        ({"ranges": {"layers": [1, 1]}}, "lists a value twice"),
        ({"ranges": {"layers": []}}, "choices is empty"),
        ({"ranges": {"heads": (1.5, 4)}}, "it is searched in whole numbers, but its ends are 1.5 and 4"),
        ({"ranges": {"gain": (0.05, 0.35)}}, "0.05 is none of the steps of 0.1 from 0.0"),
        ({"trials": 0}, "trials: must be greater than or equal to 1"),
        ({"trials": 3}, "3 trials are what is wanted already"),
        ({"ends_at": 0.0}, "end: that is in 0 s; `autotune stop"),
    ],
)
def test_what_cannot_be_done_is_refused_with_its_reason(
    untouched: Night, orders: Mapping[str, Any], words: str
) -> None:
    assert words in untouched.refusal(**orders)


def test_all_that_is_wrong_is_said_at_once(untouched: Night) -> None:
    told = untouched.refusal(stop=[2, 9], add=[{"lr": 0.02}, {"lr": 7}], trials=50, ranges={"layers": [9]})
    assert [line.partition(":")[0] for line in told.splitlines()] == ["trial 9", "range of layers", "trial with lr = 7"]


def test_a_range_may_be_widened_where_the_trainer_takes_what_is_new(night: Night) -> None:
    assert night.steer(ranges={"sigma": (0, 3)}, add=[{"sigma": 2}])
    [wider, added] = [request.wish for request in night.requests]
    assert isinstance(wider, SetRange) and isinstance(added, AddTrial)
    assert wider.values == (0.0, 3.0) and added.settings["sigma"] == 2.0


def test_what_the_trainers_config_refuses_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "strict_trainer.py").write_text(
        "from pydantic import BaseModel, Field\n"
        "class C(BaseModel):\n    seed: int = 0\n    lr: float = Field(0.1, lt=2)\n    b: float = 1.0\n"
        "    def model_post_init(self, _):\n        assert self.lr < 1 or self.b < 1\n"
        "def train(config: C, budget_tokens, report): pass\n"
    )
    space = "lr = {low = 0.01, high = 0.9}\nb = {low = 0.5, high = 1.5}"
    study = make_study(tmp_path, 'trainer="strict_trainer:train"', space=space)
    queue = make_queue(tmp_path, study)
    queue.enqueue(study.spec.space.baseline(study.spec.base), role="baseline")
    root = queue.run.root
    with pytest.raises(UserError, match=r"range of lr: the trainer refuses lr = 3.0, b = 0.5, which the search may"):
        steer(root, "", lambda: study, Orders(ranges={"lr": (0.01, 3.0)}))
    assert queue.store.attributes.requests == ()


def test_a_range_that_was_set_is_what_the_next_one_changes(night: Night) -> None:
    night.steer(ranges={"lr": (0.001, 0.05), "layers": [1, 2]})
    Steering(night.queue.store).look()
    assert "is what is searched already" in night.refusal(ranges={"lr": (0.001, 0.05)})
    # It may be as wide again as it was.
    assert "before: one of 1, 2)" in night.steer(ranges={"layers": [1, 2, 4]})[0]
    assert night.steer(add=[{"lr": 0.1}])


def test_a_sampler_that_cannot_cope_keeps_its_ranges(tmp_path: Path) -> None:
    told = Night(tmp_path, sampler="nsga2").refusal(ranges={"lr": (0.001, 0.05)})
    assert 'the sampler "nsga2" cannot cope with a range that changes; tpe, gp, random can' in told


def test_after_the_search_only_the_end_can_be_moved_and_after_everything_nothing(night: Night) -> None:
    attributes = night.queue.store.attributes
    attributes.search_ended = True
    assert "the search of night is over" in night.refusal(trials=9, ends_at=time.time() + 7_200)
    assert night.steer(ends_at=time.time() + 7_200)
    attributes.verdict = Verdict(VerdictWord.NO_CLEAR_GAIN, "")
    assert "night is finished, so there is nothing to steer" in night.refusal(ends_at=time.time() + 7_200)


def test_a_study_that_an_earlier_version_runs_is_not_asked(night: Night) -> None:
    with night.queue.run.held():
        assert "is run by an earlier version of autotune" in night.refusal(stop=[2])
        Steering(night.queue.store).begin("run")
        assert night.steer(stop=[2])


def test_an_end_too_soon_for_the_proof_is_told_so(night: Night) -> None:
    night.queue.store.attributes.plan = Plan(finals_s=3_600.0)
    [says] = night.steer(ends_at=time.time() + 1_800)
    assert says.endswith("the runs on fresh seeds take about 60 min, so there may be no verdict by then")
