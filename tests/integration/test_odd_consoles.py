"""Consoles that show few characters, streams that are closed, Python without docstrings, folders with odd names: real
commands, each in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from bad_studies import text

FAKES = Path(__file__).parents[1] / "fakes"
COMMAND = "from autotune.cli.main import main; main()"
STUDY = text(
    top='name = "night"\ntitle = "\u00fcber \u2192 \u732b"\ntrainer = "fake_trainer:train"',
    budget="tokens = 100_000\ntrials = 2",
    more="[finals]\nfinalists = 0\n[limits]\nmin_free_bytes = 0",
)
ODD_FOLDER = "a?b#c%20d {x} {} [y]* \u732b"


@pytest.fixture
def folder(tmp_path: Path, hardware: dict[str, Any]) -> Path:
    """Holds the study file, and a hardware profile for each of two folders of run directories."""
    (tmp_path / "night.toml").write_text(STUDY, encoding="utf-8")
    for out in ("runs", ODD_FOLDER):
        (tmp_path / out / "night").mkdir(parents=True)
        (tmp_path / out / "night" / "hardware.json").write_text(json.dumps(hardware))
    return tmp_path


def _environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(FAKES), *sys.path])
    return {**os.environ, "PYTHONPATH": path, **more}


def _command(folder: Path, *arguments: str, shell: str = "", **more: str) -> subprocess.CompletedProcess[bytes]:
    """Runs `autotune` through a shell, which may close or redirect its streams."""
    script = f'exec "$0" -c "{COMMAND}" "$@" {shell}'
    return subprocess.run(
        ["bash", "-c", script, sys.executable, *arguments],
        cwd=folder,
        env=_environment(**more),
        capture_output=True,
        timeout=240,
        check=False,
    )


def _num_trials(folder: Path, out: str = "runs") -> int:
    return len(list((folder / out / "night" / "trials").glob("*/result.json")))


def test_a_night_in_an_old_terminal(folder: Path) -> None:
    encoding = "latin-1"
    done = _command(folder, "run", "night.toml", "--device", "cpu", PYTHONIOENCODING=encoding)
    assert done.returncode == 0, done.stderr
    assert _num_trials(folder) == 2

    shown = _command(folder, "status", "night", PYTHONIOENCODING=encoding, TERM="dumb", NO_COLOR="1")
    assert shown.returncode == 0 and not shown.stderr
    assert b"night" in shown.stdout


@pytest.mark.thorough
def test_a_night_with_every_stream_closed_and_without_docstrings(folder: Path) -> None:
    """As a service manager or a cron job may start it; what it prints must not end up in the database."""
    run = ("run", "night.toml", "--device", "cpu")
    done = _command(folder, *run, shell="<&- >&- 2>&-", PYTHONOPTIMIZE="2")
    assert done.returncode == 0
    assert _num_trials(folder) == 2

    for shell in (">&-", "2>&-", "<&-", ">/dev/full"):
        again = _command(folder, "status", "night", shell=shell)
        assert again.returncode == 0, (shell, again.stderr)
        assert b"Traceback" not in again.stderr
    helped = _command(folder, "--help", PYTHONOPTIMIZE="2")
    assert b"Runs a study from its search to its report" in helped.stdout


@pytest.mark.thorough
def test_folders_that_look_like_something_else(folder: Path) -> None:
    """Optuna takes braces in a URL for a template, SQLAlchemy ? for a query, others * and [ for a pattern."""
    done = _command(folder, "run", "night.toml", "--device", "cpu", "--out", ODD_FOLDER)
    assert done.returncode == 0, done.stderr
    assert _num_trials(folder, ODD_FOLDER) == 2
    assert (folder / ODD_FOLDER / "night" / "study.db").stat().st_size > 0
    assert sorted(path.name for path in folder.iterdir()) == sorted([ODD_FOLDER, "runs", "night.toml"])

    for command in ("status", "report"):
        assert _command(folder, command, "night", "--out", ODD_FOLDER).returncode == 0


@pytest.mark.parametrize("command", [("profile",), ("run", "night.toml"), ("plan", "night.toml")])
def test_ctrl_c_while_the_hardware_is_measured(folder: Path, command: tuple[str, ...]) -> None:
    (folder / "runs" / "night" / "hardware.json").unlink()
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *command, "--device", "cpu"],
        cwd=folder,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not _is_measuring(process.pid) and process.poll() is None:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: all of the group

    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "stopped" in errors and "nothing is lost" in errors
    assert errors.count("\n") == 1


def _is_measuring(pid: int) -> bool:
    """Returns whether a process has a child that measures."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return any("torch_answers" in " ".join(child.cmdline()) for child in psutil.Process(pid).children())
    return False
