"""Signals that ask a run to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from autotune.engine.deadline import StopRequest


@contextlib.contextmanager
def signals_raising(stop: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C and the signals of a system that shuts down raise a stop request.

    Python gives signals to the main thread alone: a study in another one is stopped by its `StopRequest`.

    Args:
        stop: What they raise.
        say: Takes a line for a person.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(*_: object) -> None:
        stop.raise_level()
        if stop.level == 1:
            with contextlib.suppress(RuntimeError):  # a signal in the midst of printing cannot print as well
                say("stopping after the next evaluation; press Ctrl-C again to stop at once (nothing is lost)")

    names = [signal.SIGINT, signal.SIGTERM]
    # Under nohup a run must outlive its terminal, which is what the ignored signal asks for.
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        names.append(signal.SIGHUP)

    before = {name: signal.signal(name, on_signal) for name in names}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)
