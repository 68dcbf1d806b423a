"""How a study stands, in a word or two."""

from __future__ import annotations

from dataclasses import replace

import pytest
import study_builder

from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialStatus
from autotune.promotion.standing import State, state_of


@pytest.mark.parametrize(
    ("status", "state"),
    [
        (TrialStatus.FINISHED, "done"),
        (TrialStatus.INTERRUPTED, "parked"),
        (TrialStatus.WAITING, "parked"),
        (TrialStatus.DIVERGED, "full run failed"),
        (TrialStatus.CRASHED, "full run failed"),
    ],
)
def test_the_full_run_decides_once_there_is_one(status: TrialStatus, state: State) -> None:
    full = FullRunRecord(str(status), tokens=8_000)
    assert state_of(study_builder.with_attributes(study_builder.study(), full=full.to_json())) == state


def test_before_it_the_verdict_and_the_trials_decide() -> None:
    study = study_builder.study()
    assert state_of(study) == "done"
    assert state_of(study_builder.failed_study()) == "failed"
    assert state_of(replace(study, verdict=None)) == "parked"
    assert state_of(replace(study, verdict=None, trials=())) == "not begun"
    assert state_of(study_builder.running_study()) == "running"
