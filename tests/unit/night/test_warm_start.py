"""What is taken over from earlier studies: settings to try first, and trials that teach the sampler."""

from __future__ import annotations

from pathlib import Path

import optuna
import pytest
from study_case import make_queue, make_study, result

from autotune.core.attributes import PRIOR, StudyAttributes
from autotune.core.records import Verdict, VerdictWord
from autotune.core.study_results import Plan
from autotune.night.warm_start import Earlier, Prior, difference, read, teach
from autotune.store.database import open_storage
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.study_file import Study

SEVERAL = ("budget.seeds=3", 'pruner.name="none"')
LOSSES = {0.001: 3.0, 0.01: 2.5, 0.05: 2.7}


def earlier(folder: Path, *changes: str) -> StudyRecord:
    """A study with three finished trials in a folder of its own; with several seeds, their losses scatter."""
    folder.mkdir()
    study = make_study(folder, "base.lr=0.001", *changes)
    queue = make_queue(folder, study)
    for lr, loss in LOSSES.items():
        queue.enqueue({"lr": lr}, role="baseline" if lr == 0.001 else "search")
        assignment = queue.take()
        assert assignment is not None
        outcome = result(loss=loss)
        if queue.plan.seeds > 1:
            for count, off in enumerate((-0.2, 0.1, 0.1), start=1):
                queue.report_seed(assignment, count, loss + off)
        else:
            for point in outcome.points:
                queue.report(assignment, point)
        queue.tell(assignment.trial, outcome, assignment.folder)
    return read_study(queue.run.root)


def later(folder: Path, record: StudyRecord, *changes: str) -> Study:
    folder.mkdir()
    return make_study(folder, "base.lr=0.001", f'warm_start=["{record.run.root}"]', *changes)


def taken(study: Study) -> Earlier:
    (one,) = read(study)
    return one


def test_finished_trials_teach_with_what_they_reported(tmp_path: Path) -> None:
    one = taken(later(tmp_path / "later", earlier(tmp_path / "earlier")))
    assert one.differs == ""
    assert one.priors == tuple(
        Prior({"lr": lr}, loss, {500: loss + 1, 1_000: loss}, seed=1) for lr, loss in LOSSES.items()
    )
    assert one.describe() == (
        "warm start from night: tries 2 of its best settings first; 3 of its trials teach the sampler"
    )


def test_another_text_under_the_same_settings_teaches_nothing(tmp_path: Path) -> None:
    record = earlier(tmp_path / "earlier")
    study = later(tmp_path / "later", record)
    storage = open_storage(record.run, "", 60)
    StudyAttributes(optuna.load_study(study_name=record.spec.name, storage=storage)).probe_facts = {"data_hash": "a"}
    record = read_study(record.run.root)

    assert difference(study, record, "a") == ""
    assert difference(study, record) == ""
    assert difference(study, record, "b") == "the data have changed since"


def test_nights_of_about_the_same_length_teach_each_other(tmp_path: Path) -> None:
    """Runs that take the rest of their nights read the text, of 1,000 tokens, 3.4 and 3.9 or 6 times."""
    record = earlier(tmp_path / "earlier")
    storage = open_storage(record.run, "", 60)
    attributes = StudyAttributes(optuna.load_study(study_name=record.spec.name, storage=storage))
    attributes.probe_facts, attributes.plan = {"train_tokens": 1_000}, Plan(run_tokens=3_400)
    record = read_study(record.run.root)
    study = later(tmp_path / "later", record)

    assert difference(study, record, plan=Plan(run_tokens=3_900)) == ""
    assert difference(study, record, plan=Plan(run_tokens=6_000)) == (
        "trials read their text 6.0 times here and 3.4 times there"
    )


@pytest.mark.parametrize(
    ("then", "now", "why"),
    [
        (SEVERAL, (), "budget.seeds is 1 here and 3 there"),
        ((), SEVERAL, "budget.seeds is 3 here and 1 there"),
        ((), ("budget.tokens=2000",), "budget.tokens is 2000 here and 1000 there"),
        ((), ('objective="loss_at_equal_seconds"',), "objective is 'loss_at_equal_seconds' here and"),
    ],
)
def test_trials_that_mean_something_else_teach_nothing(
    tmp_path: Path, then: tuple[str, ...], now: tuple[str, ...], why: str
) -> None:
    """Losses by counts of seeds are no losses by tokens, whatever the numbers."""
    record = earlier(tmp_path / "earlier", *then)
    study = later(tmp_path / "later", record, *now)
    assert difference(study, record).startswith(why)
    one = taken(study)
    assert one.priors == ()
    assert one.good == ({"lr": 0.01}, {"lr": 0.05}), "its settings are worth a try all the same"
    assert f"do not teach the sampler: {why}" in one.describe()


def test_a_trial_of_several_seeds_teaches_its_mean_and_not_its_last_seed(tmp_path: Path) -> None:
    one = taken(later(tmp_path / "later", earlier(tmp_path / "earlier", *SEVERAL), *SEVERAL))
    prior = one.priors[1]
    assert (prior.settings, prior.loss) == ({"lr": 0.01}, 2.5)
    assert prior.reported == {1: pytest.approx(2.3), 2: pytest.approx(2.6), 3: pytest.approx(2.6)}

    study = optuna.create_study()
    again = later(tmp_path / "again", earlier(tmp_path / "other", *SEVERAL), *SEVERAL)
    assert teach(study, again.spec, one)
    assert [trial.value for trial in study.trials] == list(LOSSES.values())


def test_what_was_promoted_is_tried_before_the_lowest_loss(tmp_path: Path) -> None:
    record = earlier(tmp_path / "earlier")
    queue = make_queue(tmp_path / "earlier", make_study(tmp_path / "earlier", "base.lr=0.001"))
    StudyAttributes(queue.optuna_study).verdict = Verdict(VerdictWord.BETTER, "", 2, {"lr": 0.05})
    assert taken(later(tmp_path / "later", record)).good == ({"lr": 0.05}, {"lr": 0.01})


def test_a_trial_outside_the_new_range_is_left_out(tmp_path: Path) -> None:
    record = earlier(tmp_path / "earlier")
    one = taken(later(tmp_path / "later", record, "space.lr.high=0.02"))
    assert [prior.settings["lr"] for prior in one.priors] == [0.001, 0.01]
    assert one.good == ({"lr": 0.01},)


def test_teaching_is_done_once_and_after_a_kill_without_doubles(tmp_path: Path) -> None:
    later_study = later(tmp_path / "later", earlier(tmp_path / "earlier"))
    spec = later_study.spec
    one, study = taken(later_study), optuna.create_study()
    assert teach(study, spec, one)
    assert {trial.user_attrs["role"] for trial in study.trials} == {PRIOR}
    assert not teach(study, spec, one)
    assert len(study.trials) == 3

    # Killed after the trials and before the name was kept.
    StudyAttributes(study).warm_start = ()
    assert teach(study, spec, one)
    assert len(study.trials) == 3
    assert StudyAttributes(study).warm_start == ("night",)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    assert study.best_params == {"lr": 0.01}
