"""A whole study followed by a tracker: every training with its settings, curve and end, and the verdict."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from study_folder import StudyFolder

SMALL: dict[str, Any] = {
    "trackers": ["tensorboard"],
    "budget": {"trials": 3, "seeds": 2},
    "pruner": {"name": "none"},
    "promote": {"tokens": 200_000, "automatic": True},
}


def curves(board: Path) -> dict[str, list[tuple[int, float]]]:
    """The held-out loss of each run of a TensorBoard, by tokens."""
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
    from tensorboard.util.tensor_util import make_ndarray

    runs = EventMultiplexer().AddRunsFromDirectory(str(board))
    runs.Reload()
    return {
        run: [(event.step, make_ndarray(event.tensor_proto).item()) for event in runs.Tensors(run, "val_loss")]
        for run in runs.Runs()
        if run != "study"
    }


def test_every_training_is_tracked_as_it_is_stored(folder: StudyFolder) -> None:
    run = folder.write(**SMALL).run()
    assert run.end() == 0, run.text
    record = folder.record()
    stored = {f"trials-{trial.number:04d}": trial.result for trial in record.trials}
    stored |= {f"finals-{trial.number:04d}": trial.result for trial in record.finals}
    found = curves(folder.directory().root / "tensorboard")
    assert set(found) == {*stored, "full-0000"}
    assert len(found) > 6
    for name, result in stored.items():
        # Of several seeds their mean, which is what a trial is judged by.
        assert result is not None
        assert found[name] == [(point.tokens_seen, pytest.approx(point.val_loss)) for point in result.points]
    assert found["full-0000"][-1][0] == 200_000
    (verdict,) = (folder.directory().root / "tensorboard" / "study").iterdir()
    assert b"better: " in verdict.read_bytes()
    assert (folder.directory().root / "tensorboard.log").read_text() == ""
    folder.wait_until_empty()


def test_a_study_goes_on_without_a_tracker_that_fails(folder: StudyFolder) -> None:
    board = folder.directory().root / "tensorboard"
    board.parent.mkdir(parents=True)
    board.write_text("no folder")
    run = folder.write(**SMALL | {"budget": {"trials": 2}, "promote": {}}).run()
    assert run.end() == 0, run.text
    assert run.text.count("tracker tensorboard failed and is no longer used") == 1
    assert folder.record().verdict is not None
