"""A study on a real terminal: bars while it works, lines that stay, Ctrl-C from the keyboard."""

from __future__ import annotations

import os
import pty
import re
import threading
from collections.abc import Iterator

import pytest
from study_folder import StudyFolder, wait_for

COLUMNS = {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}


class Terminal:
    """A pseudo-terminal whose whole output is kept."""

    def __init__(self) -> None:
        self.keyboard, self.slave = pty.openpty()
        self._output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while chunk := os.read(self.keyboard, 65536):
                self._output += chunk
        except OSError:
            return  # the last process that held it has left

    @property
    def text(self) -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self._output.decode(errors="replace"))

    def end(self) -> None:
        os.close(self.slave)
        self._reader.join(10)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name, value in COLUMNS.items():
        monkeypatch.setenv(name, value)
    made = Terminal()
    yield made
    os.close(made.keyboard)


def test_bars_are_drawn_and_the_result_stays(folder: StudyFolder, terminal: Terminal) -> None:
    folder.write(budget={"trials": 5}, base={"seconds": 0.6})
    run = folder.start(stdout=terminal.slave, stderr=terminal.slave)
    assert run.end() == 0
    terminal.end()
    shown = terminal.text

    assert re.search(r"all +━", shown) and "searching: " in shown and "testing on fresh seeds: " in shown
    assert re.search(r"trial \d ━+.* \d+%  loss \d", shown)
    assert "best so far: loss " in shown
    assert "Traceback" not in shown
    assert "verdict: " in shown


def test_ctrl_c_parks_and_gives_the_terminal_back(folder: StudyFolder, terminal: Terminal) -> None:
    folder.write(budget={"trials": 4}, base={"fault": "gate", "fault_budget": 100_000})
    run = folder.start(stdout=terminal.slave, stderr=terminal.slave)
    folder.wait_at_gate()
    run.process.send_signal(2)
    folder.open_gate()
    assert run.end() == 130
    terminal.end()

    assert "stopping after the next evaluation" in terminal.text
    assert "parked, nothing is lost; resume with: autotune run " in terminal.text
    assert terminal._output.rstrip().rfind(b"\x1b[?25h") > terminal._output.rfind(b"\x1b[?25l")  # the cursor is back


def test_a_name_cannot_steer_the_terminal(folder: StudyFolder, terminal: Terminal) -> None:
    folder.write(budget={"trials": 2}, base={"lr": 0.001}, title="\x1b[2J[red]x[/red]", finals={"finalists": 0})
    run = folder.start(stdout=terminal.slave, stderr=terminal.slave)
    wait_for(lambda: run.process.poll() is not None)
    terminal.end()

    assert b"\x1b[2J" not in terminal._output
