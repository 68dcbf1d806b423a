"""Experiment trackers, read back with their own readers, and what happens when one fails, hangs or is missing."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from study_case import make_study, result

from autotune.core.records import EvalPoint, TrialStatus, Verdict, VerdictWord
from autotune.progress import tracker_feed
from autotune.progress.tracker_feed import Tracking
from autotune.store.run_directory import RunDirectory
from autotune.study.errors import StudyFileError
from autotune.study.spec import TRACKERS, is_installed

VERDICT = Verdict(VerdictWord.BETTER, "the loss fell", winner=1, gain=0.25, baseline_loss=3.0, winner_loss=2.75)


def track(root: Path, name: str) -> list[str]:
    """Tells a tracker of two trials that run at once, a final and a verdict, as the engine does; returns complaints."""
    said: list[str] = []
    run = RunDirectory(root / "night")
    run.root.mkdir()
    told = Tracking([name], run, "night", lambda kind, message: said.append(f"{kind}: {message}"))
    told.started("trials", 0, {"optim.muon_lr": 0.02, "optim.schedule": "wsd", "seed": 1})
    told.started("trials", 1, {"optim.muon_lr": 0.05, "optim.schedule": "cosine", "seed": 1})
    for tokens, loss in ((500, 4.0), (1000, 3.0)):
        told.point("trials", 0, EvalPoint(tokens, loss, {"val_accuracy": loss / 100}))
        told.point("trials", 1, EvalPoint(tokens, loss + 1))
    told.ended("trials", 1, result(TrialStatus.PRUNED, cause="behind the other trials"))
    told.ended("trials", 0, result(seconds=1.5))
    told.started("finals", 0, {"optim.muon_lr": 0.02, "seed": 7})
    told.point("finals", 0, EvalPoint(1000, float("nan")))
    told.ended("finals", 0, result(TrialStatus.CRASHED, cause="a fault"))
    told.concluded(VERDICT)
    told.close()
    return said


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("board")
    assert track(root, "tensorboard") == []
    return root / "night" / "tensorboard"


def runs_of(board: Path):  # type: ignore[no-untyped-def]
    from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer

    runs = EventMultiplexer().AddRunsFromDirectory(str(board))
    runs.Reload()
    return runs


def test_tensorboard_has_a_run_of_curves_for_each_training(board: Path) -> None:
    from tensorboard.util.tensor_util import make_ndarray

    runs = runs_of(board)
    assert set(runs.Runs()) == {"trials-0000", "trials-0001", "finals-0000", "study"}
    curves = {
        (run, tag): [(event.step, make_ndarray(event.tensor_proto).item()) for event in runs.Tensors(run, tag)]
        for run, tag in (("trials-0000", "val_loss"), ("trials-0001", "val_loss"), ("trials-0000", "val_accuracy"))
    }
    assert curves == {
        ("trials-0000", "val_loss"): [(500, 4.0), (1000, 3.0)],
        ("trials-0001", "val_loss"): [(500, 5.0), (1000, 4.0)],
        ("trials-0000", "val_accuracy"): [(500, pytest.approx(0.04)), (1000, pytest.approx(0.03))],
    }
    assert runs.SummaryMetadata("trials-0000", "val_loss").plugin_data.plugin_name == "scalars"


def test_tensorboards_hparams_tab_has_the_settings_and_ends(board: Path) -> None:
    from tensorboard.plugins.hparams import api_pb2, metadata

    runs = runs_of(board)

    def stored(run: str, tag: str):  # type: ignore[no-untyped-def]
        return runs.SummaryMetadata(run, tag).plugin_data.content

    start = metadata.parse_session_start_info_plugin_data(stored("trials-0001", metadata.SESSION_START_INFO_TAG))
    assert start.hparams["optim.muon_lr"].number_value == 0.05
    assert start.hparams["optim.schedule"].string_value == "cosine"
    assert start.hparams["group"].string_value == "trials"
    ends = {
        run: metadata.parse_session_end_info_plugin_data(stored(run, metadata.SESSION_END_INFO_TAG)).status
        for run in ("trials-0000", "trials-0001", "finals-0000")
    }
    assert ends == {
        "trials-0000": api_pb2.STATUS_SUCCESS,
        "trials-0001": api_pb2.STATUS_SUCCESS,
        "finals-0000": api_pb2.STATUS_FAILURE,
    }


def test_tensorboard_says_how_trials_ended_and_the_verdict(board: Path) -> None:
    runs = runs_of(board)

    def text(run: str, tag: str) -> str:
        assert runs.SummaryMetadata(run, tag).plugin_data.plugin_name == "text"
        (event,) = runs.Tensors(run, tag)
        return str(event.tensor_proto.string_val[0].decode())

    assert "| status | pruned |\n| cause | behind the other trials |" in text("trials-0001", "end")
    assert "| status | finished |\n| seconds | 1.5 |" in text("trials-0000", "end")
    assert text("study", "verdict").startswith("better: the loss fell\n")
    assert "| gain | 0.25 |" in text("study", "verdict")


def test_wandb_keeps_offline_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    assert track(tmp_path, "wandb") == []
    files = sorted((tmp_path / "night" / "wandb").glob("offline-run-*/*.wandb"))
    stored = b"".join(file.read_bytes() for file in files)
    assert len(files) == 4
    for part in (
        b"trials-0001",
        b"optim.muon_lr",
        b"0.05",
        b"val_loss",
        b"pruned",
        b"behind the other",
        b"the loss fell",
    ):
        assert part in stored, part


def test_trackio_keeps_a_local_database(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    assert track(tmp_path, "trackio") == []
    database = sqlite3.connect(tmp_path / "night" / "trackio" / "night.db")
    rows = database.execute("SELECT run_name, step, metrics FROM metrics ORDER BY id").fetchall()
    configs = dict(database.execute("SELECT run_name, config FROM configs").fetchall())
    database.close()
    losses = [(run, step, json.loads(metrics)["val_loss"]) for run, step, metrics in rows if b"val_loss" in metrics]
    assert [loss for loss in losses if loss[0] == "trials-0001"] == [
        ("trials-0001", 500, 5.0),
        ("trials-0001", 1000, 4.0),
    ]
    assert json.loads(configs["trials-0001"])["optim.muon_lr"] == 0.05
    ends = {run: json.loads(metrics) for run, _, metrics in rows if b"status" in metrics}
    assert ends["trials-0001"]["status"] == "pruned"
    assert ends["verdict"]["verdict"] == "better: the loss fell"


# --- trackers that do not do their work ---


def test_a_tracker_that_fails_is_named_once_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "tensorboard").write_text("a file where its folder should be")
    said: list[str] = []
    told = Tracking(["tensorboard"], RunDirectory(tmp_path / "kept"), "kept", lambda kind, text: said.append(text))
    told.started("trials", 0, {"seed": 1})
    told._feeds[0]._process.wait(60)
    for number in range(3):
        told.point("trials", number, EvalPoint(1, 1.0))
    told.close()
    (line,) = said
    assert re.match(
        r"tracker tensorboard failed and is no longer used: \w+Error: .*; see .*kept/tensorboard\.log$", line
    )


def test_a_tracker_that_hangs_holds_nothing_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracker_feed, "PATIENCE_S", 0.5)
    run = RunDirectory(tmp_path)
    said: list[str] = []
    told = Tracking(["tensorboard"], run, "night", lambda kind, text: said.append(text))
    process = told._feeds[0]._process
    os.kill(process.pid, signal.SIGSTOP)
    told.started("trials", 0, {"text": "far more than a pipe holds" * 100_000})
    told.close()
    assert process.returncode == -signal.SIGKILL
    assert "did not end within 0.5 s and was stopped" in said[0]


def test_a_tracker_ends_with_the_engine_however_that_ends(tmp_path: Path) -> None:
    code = f"""
import os, signal, time
from pathlib import Path
from autotune.store.run_directory import RunDirectory
from autotune.progress.tracker_feed import Tracking
told = Tracking(["tensorboard"], RunDirectory(Path({str(tmp_path)!r})), "night", print)
told.started("trials", 0, {{"seed": 1}})
while not Path({str(tmp_path / "tensorboard" / "trials-0000")!r}).exists():
    time.sleep(0.01)
print(told._feeds[0]._process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    # Its input has ended with the engine.
    subprocess.run(["tail", f"--pid={ended.stdout.strip()}", "-f", "/dev/null"], timeout=60, check=True)
    assert (tmp_path / "tensorboard.log").read_text() == ""


# --- by name ---


def test_unknown_and_missing_trackers_are_refused_when_the_file_is_read(tmp_path: Path) -> None:
    with pytest.raises(
        StudyFileError, match=r'there is no tracker "tensorbord" \(did you mean "tensorboard"\?\); the trackers are '
    ):
        make_study(tmp_path, 'trackers=["tensorbord"]')
    assert make_study(tmp_path, 'trackers=["tensorboard"]').spec.trackers == ("tensorboard",)
    absent = [name for name in TRACKERS if not is_installed(name)]
    for name in absent:
        with pytest.raises(StudyFileError, match=rf"{name} is not installed; run .*python\S* -m pip install {name}$"):
            make_study(tmp_path, f'trackers=["{name}"]')


def test_a_folder_of_runs_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs_of_a_tracker").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert not is_installed("runs_of_a_tracker")
    assert is_installed("tensorboard")


def test_trackers_may_change_while_a_study_goes_on(tmp_path: Path) -> None:
    before, after = make_study(tmp_path), make_study(tmp_path, 'trackers=["tensorboard"]')
    assert before.spec.fingerprint() == after.spec.fingerprint()


def test_none_is_imported_unless_asked_for() -> None:
    code = "import sys, autotune.cli.main, autotune.night.session, autotune.progress.trackers; print(*sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert not set(TRACKERS) & set(ended.stdout.split())
