"""Files of a run: whole or not at all, and one holder at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.core.errors import UserError
from autotune.core.files import read_lines
from autotune.store.run_directory import RunDirectory, log_event


def test_events_carry_their_kind_and_details(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    log_event(run, "started", "trial 0", slot="cpu")
    [event] = read_lines(run.events)
    assert {key: event[key] for key in ("kind", "message", "slot")} == {
        "kind": "started",
        "message": "trial 0",
        "slot": "cpu",
    }


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    assert run.running_pid() is None
    with run.held():
        assert run.running_pid() == os.getpid()
        with (
            pytest.raises(UserError, match=rf"night has been running since .* \(PID {os.getpid()}\); wait") as caught,
            run.held(),
        ):
            pass
        assert caught.value.exit_code == 5
        assert run.running_pid() == os.getpid()
    assert run.running_pid() is None
    with run.held():
        pass


def test_the_hold_ends_with_a_killed_process(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    code = "import sys, time; from pathlib import Path; from autotune.store.run_directory import RunDirectory\n"
    code += "with RunDirectory(Path(sys.argv[1])).held(): print('held', flush=True); time.sleep(600)"
    with subprocess.Popen([sys.executable, "-c", code, str(run.root)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        assert run.running_pid() == process.pid
        process.kill()
        process.wait()
    assert run.running_pid() is None
    with run.held():
        assert run.running_pid() == os.getpid()


def test_folders_of_trials(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).trial("finals", 7) == tmp_path / "finals" / "0007"


def test_a_command_on_a_study_can_be_copied() -> None:
    assert RunDirectory(Path("runs/night")).command("promote", "--tokens", "5") == "autotune promote night --tokens 5"
    elsewhere = RunDirectory(Path("/big disk/studies/night"))
    assert elsewhere.command("run") == "autotune run night --out '/big disk/studies'"


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL])
def test_a_disk_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    run = RunDirectory(tmp_path / "night")
    with run.held():
        monkeypatch.setattr(fcntl, "flock", no_locks)
        assert run.running_pid() == os.getpid()  # by what the holder wrote
        monkeypatch.undo()

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(UserError, match=r"its disk has no locks .* with --out") as caught, run.held():
        pass
    assert caught.value.exit_code == 3
    assert run.running_pid() is None

    assert run.has_locks()
    monkeypatch.setattr(fcntl, "lockf", no_locks)
    assert not run.has_locks()


def test_files_of_an_unknown_training_are_set_aside(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "night")
    folder = run.trial("trials", 3)
    assert run.set_aside(folder) is None
    for name in ("trials-0003", "trials-0003-2"):
        folder.mkdir(parents=True)
        (folder / "metrics.jsonl").write_text("{}")
        assert run.set_aside(folder) == run.root / "set_aside" / name
        assert not folder.exists()


def test_commands_that_train_have_the_options_that_the_study_was_started_with(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "night")
    assert run.command("run") == "autotune run night", "before it was started"
    run.keep_options({"run": ["--hours", "20", "--mirror", "my drive"], "promote": ["--mirror", "my drive"]})
    assert run.command("run") == "autotune run night --hours 20 --mirror 'my drive'"
    assert run.command("promote", "--trial", "3") == "autotune promote night --trial 3 --mirror 'my drive'"
    assert run.command("watch") == "autotune watch night"

    run.keep_options({"promote": []})
    assert run.command("promote") == "autotune promote night"
    assert run.command("run") == "autotune run night --hours 20 --mirror 'my drive'", "a full run has hours of its own"


@pytest.mark.parametrize("content", ["", "[]", '{"run": "--hours"}', '{"run": ['])
def test_damaged_options_are_left_out(tmp_path: Path, content: str) -> None:
    run = RunDirectory(tmp_path / "runs" / "night")
    run.root.mkdir(parents=True)
    run.options.write_text(content)
    assert run.command("run") == "autotune run night"
