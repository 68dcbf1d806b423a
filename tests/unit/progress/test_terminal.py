"""What is drawn on a terminal, and that nothing in a name steers it."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from autotune.core.records import TrainingKind
from autotune.machine.gpu_monitor import GpuSample
from autotune.progress.board import Board
from autotune.progress.observer import Display
from autotune.progress.terminal import Screen, draw


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None, highlight=False)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def at_work() -> Board:
    board = Board(clock=lambda: 100.0)
    board.enter(TrainingKind.SEARCH, 3, 10)
    board.start(TrainingKind.SEARCH, 3)
    board.progress(TrainingKind.SEARCH, 3, 0.5, 4.5, 20_000.0)
    board.running[TrainingKind.SEARCH, 3].began = 0.0
    board.best = (4.25, 2)
    board.last.append("✓ trial 2 finished  loss 4.2500  [9 s]  lr=[red]0.1[/red]\x1b[2J")
    board.gpu = GpuSample(0.0, 61.0, 250.0, 1.5e9, None, None, None, None, ())
    return board


def test_a_board_shows_bars_best_gpu_and_the_last_trials(console: Console) -> None:
    console.print(draw(at_work()))
    shown = text(console)

    assert "searching: 3 of 10" in shown
    assert "50%  loss 4.5000  1:40 left" in shown
    assert "best so far: loss 4.2500 (trial 2, one seed)" in shown
    assert "GPU: 61 °C, 250 W, 1.50 GHz, 20,000 tokens/s" in shown
    assert "lr=[red]0.1[/red]\N{REPLACEMENT CHARACTER}[2J" in shown


def test_a_full_run_has_one_bar(console: Console) -> None:
    board = Board(clock=lambda: 7400.0)
    board.enter(TrainingKind.FULL, 0, 1)
    board.start(TrainingKind.FULL, 0)
    board.running[TrainingKind.FULL, 0].began = 0.0
    board.progress(TrainingKind.FULL, 0, 0.5, 4.0, None)
    console.print(draw(board))

    assert text(console).count("full run") == 1
    assert "2 h 03 min left" in text(console)


def test_lines_are_printed_above_the_board_and_it_goes_in_the_end(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    screen = Screen(console)
    assert isinstance(screen, Display)
    screen("before")
    screen.show(at_work())
    screen("[bold]above[/bold]\x1b[2J")
    screen.close()
    screen("after")

    assert capsys.readouterr().out == "before\nafter\n"
    assert "[bold]above[/bold]\N{REPLACEMENT CHARACTER}[2J" in text(console)
    assert text(console).count("searching: 3 of 10") >= 1
    assert text(console).endswith("\x1b[2K") or "\x1b[?25h" in text(console)  # erased; the cursor is back


def test_a_terminal_that_was_closed_does_not_end_the_study(capsys: pytest.CaptureFixture[str]) -> None:
    class Gone(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError("Input/output error")

    screen = Screen(Console(file=Gone(), force_terminal=True))
    screen.show(at_work())
    screen.show(at_work())
    screen("goes on")
    screen.close()

    assert "goes on" in capsys.readouterr().out
