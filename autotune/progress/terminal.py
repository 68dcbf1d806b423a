"""A running study on a terminal: nested bars, the best so far, the GPU, the last trials; other lines scroll above."""

from __future__ import annotations

import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from autotune.core.records import TrainingKind
from autotune.core.text import plain, say
from autotune.progress.board import Board, Training

_REDRAW_S = 0.25
"""Least seconds between two drawings of the board; more often is of no use to the eye."""
_BAR_WIDTH = 24
"""Width of a bar in characters."""


class Screen:
    """Takes lines, as `say` does, and a board that is drawn below them.

    Args:
        console: Where it is drawn; the terminal if None.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False)
        self._live: Live | None = None
        self._drawn = 0.0

    def __call__(self, line: str) -> None:
        """Print one line above the board; names cannot steer the terminal, and neither can rich's markup in them."""
        if self._live is None:
            say(line)
            return

        try:
            self._console.print(Text(plain(line)))
        except OSError:
            self._leave()

    def show(self, board: Board) -> None:
        """Draw the board, unless it was drawn a moment ago."""
        if time.monotonic() - self._drawn < _REDRAW_S:
            return

        try:
            if self._live is None:
                # The event loop redraws it, not a thread; what others print must not be taken over.
                self._live = Live(
                    console=self._console,
                    auto_refresh=False,
                    transient=True,
                    redirect_stdout=False,
                    redirect_stderr=False,
                )
                self._live.start()
            self._live.update(draw(board), refresh=True)
        except OSError:
            self._leave()

        self._drawn = time.monotonic()

    def close(self) -> None:
        """Take the board from the terminal; lines are still printed."""
        if self._live is None:
            return

        try:
            self._live.stop()
        except OSError:
            self._leave()
        self._live = None

    def _leave(self) -> None:
        """Give up the terminal, which was closed: the night goes on without an audience, as it does in `say`."""
        self._live = None
        self._drawn = float("inf")
        say("")


def draw(board: Board) -> RenderableType:
    """Return a board as rich draws it.

    Args:
        board: The study at this moment.
    """
    bars = Table.grid(padding=(0, 1))
    bars.add_column(no_wrap=True)
    bars.add_column(width=_BAR_WIDTH)
    bars.add_column()

    if board.kind not in (None, TrainingKind.FULL):
        done_frac = min(1.0, board.done / max(1, board.total))
        bars.add_row(_text("all"), _bar(done_frac), _text(board.headline()))

    for training in board.running.values():
        bars.add_row(_text(training.title), _bar(training.done_frac), _text(_words(training, board)))

    below = [_text(words) for words in (board.preparing, board.best_words(), board.gpu_words()) if words]
    last = [Text(plain(line), style="dim", no_wrap=True, overflow="ellipsis") for line in board.last]
    return Group(
        Rule(style="dim"),
        *last,
        bars,
        *below,
        Text("Ctrl-C parks the study; the same command resumes it.", style="dim"),
    )


def _words(training: Training, board: Board) -> str:
    words = f"{training.done_frac:4.0%}"
    if training.loss is not None:
        words += f"  {board.metric.words(training.loss)}"

    left_s = training.left_s(board.clock())
    if left_s is not None:
        words += f"  {_left(left_s)} left"
    return words


def _text(words: str) -> Text:
    return Text(plain(words))


def _bar(done_frac: float) -> ProgressBar:
    return ProgressBar(total=1.0, completed=done_frac, width=_BAR_WIDTH)


def _left(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes}:{seconds:02.0f}"
