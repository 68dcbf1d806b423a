"""Signals that ask a run to end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

from autotune.engine.deadline import StopRequest


@contextlib.contextmanager
def signals_raising(stop: StopRequest, say: Callable[[str], None], grace_s: float) -> Iterator[None]:
    """Let Ctrl-C and the signals of a system that shuts down raise a stop request.

    SIGTERM comes from what kills this process soon after: a scheduler, a container's host, a service manager.
    Python gives signals to the main thread alone: a study in another one is stopped by its `StopRequest`.

    Args:
        stop: What they raise.
        say: Takes a line for a person.
        grace_s: Seconds after SIGTERM for which the next evaluation is waited for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def on_signal(number: int, _: object) -> None:
        if number == signal.SIGTERM:
            stop.end_within(grace_s)
            otherwise = f"if none comes within {grace_s:g} s, at once"
        else:
            stop.raise_level()
            otherwise = "press Ctrl-C again to stop at once"
        if stop.level == 1:
            with contextlib.suppress(RuntimeError):  # a signal in the midst of printing cannot print as well
                say(f"stopping after the next evaluation; {otherwise} (nothing is lost)")

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
