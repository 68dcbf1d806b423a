"""Reading a stored study."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_case import make_queue, make_study

from autotune.core.attributes import StudyAttributes
from autotune.core.errors import UserError
from autotune.core.records import TrialStatus, Verdict, VerdictWord
from autotune.core.study_results import Plan
from autotune.store.study_record import read_study


def test_read_study_reads_what_was_stored(tmp_path: Path) -> None:
    queue = make_queue(tmp_path, make_study(tmp_path))
    assert queue.take() is not None
    verdict = Verdict(VerdictWord.BETTER, "because", 0, {"lr": 0.1}, (1001,))
    StudyAttributes(queue.optuna_study).verdict = verdict
    StudyAttributes(queue.optuna_study).plan = Plan(trial_s=1.0)
    read = read_study(queue.run.root)
    assert (read.spec, read.verdict, read.attributes.plan) == (queue.study.spec, verdict, Plan(trial_s=1.0))
    assert [trial.status for trial in read.trials] == [TrialStatus.RUNNING]
    assert read.baseline is None
    assert read.created_at == queue.optuna_study.user_attrs["created_at"]


def test_a_missing_study_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study at .*nigth; start one with `autotune run studies/\.\.\.`"):
        read_study(tmp_path / "runs" / "nigth")
    make_queue(tmp_path, make_study(tmp_path))
    make_queue(tmp_path, make_study(tmp_path, 'name="other"'))
    with pytest.raises(UserError, match=r"no study at .*nigth; the studies there are night, other"):
        read_study(tmp_path / "runs" / "nigth")
    assert not (tmp_path / "runs" / "nigth").exists()
