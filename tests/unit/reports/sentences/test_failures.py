"""What failed, grouped by its kind, with causes and logs."""

from dataclasses import replace

import study_builder

from autotune.store.study_record import StudyRecord
from reports.sentences.failures import failures


def test_failures_are_grouped_with_causes(night: StudyRecord) -> None:
    by_status = {failure.status: failure for failure in failures(night)}

    assert list(by_status) == ["diverged", "out of memory", "crashed", "interrupted"]
    assert by_status["out of memory"].causes == ("trial 5: needed 20 GiB of 15 (log: trials/0005/log.txt)",)
    assert failures(study_builder.empty_study()) == []


def test_many_failures_list_a_few_causes() -> None:
    trials = tuple(study_builder.trial(number, "crashed", [], {}, cause="boom") for number in range(9))
    [failure] = failures(study_builder.study(trials=trials))

    assert failure.trials == 9 and len(failure.causes) == 5


def test_a_failed_run_without_a_result_says_so() -> None:
    trial = study_builder.trial(3, "crashed", [], {})
    [failure] = failures(study_builder.study(trials=(replace(trial, result=None),)))

    assert failure.causes == ("trial 3: no cause stored",)


def test_failures_of_the_finals_are_told_as_such() -> None:
    lost = study_builder.trial(2, "crashed", [], {}, cause="boom")
    [failure] = failures(study_builder.study(trials=(), finals=(lost,)))

    assert failure.trials == 1
    assert failure.causes[0].startswith("final run 2: boom")
