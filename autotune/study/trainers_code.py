"""The code of a trainer, run in this process: whatever it does ends in a sentence, and not the command."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from pydantic import ValidationError

from autotune.core.errors import UserError
from autotune.core.text import duration, reason, shortened

LONGEST_S = 300.0
"""Seconds that an import, a validation or a count may take: importing torch from a cold disk takes one or two minutes,
and what takes longer belongs into the training."""


class _TooLong(BaseException):
    """The code has not ended in time; no `except Exception` of its own takes it."""


class _Ends(BaseException):
    """The code asks for the end of the process in a way that nobody could answer."""


@contextlib.contextmanager
def faults_told(name: str, what: str, hint: str = "") -> Iterator[None]:
    """Turn whatever the code of a trainer does into a `UserError`: it may hang, or ask for the end of the process.

    Args:
        name: The trainer's name.
        what: What of it fails.
        hint: What may be done about it.
    """
    asked = _Asked()
    try:
        with asked, _kept_alive(), _in_time(LONGEST_S):
            yield
    except (UserError, ValidationError):
        raise
    except BaseException as error:
        # Ctrl-C is for the whole command. A KeyboardInterrupt that nobody asked for is the trainer's own.
        if isinstance(error, KeyboardInterrupt) and asked.by_signal:
            raise
        if isinstance(error, GeneratorExit) and not hint:
            raise
        raise _fault(name, what, error, hint) from error


@contextlib.contextmanager
def end_told(name: str, what: str) -> Iterator[None]:
    """Turn a trainer's wish to end the process into a `UserError`, and let everything else through.

    Args:
        name: The trainer's name.
        what: What of it has the wish.
    """
    try:
        with _kept_alive():
            yield
    except (SystemExit, _Ends) as error:
        raise _fault(name, what, error) from error


def _fault(name: str, what: str, error: BaseException, hint: str = "") -> UserError:
    return UserError(f'trainer = "{shortened(name, 120)}": {what}: {_why(error, hint)}')


def _why(error: BaseException, hint: str) -> str:
    if isinstance(error, _TooLong):
        return f"it has not ended after {error}; what takes long, or waits for input, belongs into the training"
    if isinstance(error, _Ends):
        return f"it ends the process ({error})"
    if isinstance(error, SystemExit):
        return f"it ends the process ({reason(error)}){hint}"
    return shortened(str(error) if isinstance(error, ImportError) else reason(error), 400) + hint


@contextlib.contextmanager
def _in_time(longest_s: float) -> Iterator[None]:
    """Raise `_TooLong` in the code of a block that is not left in time; it may even wait for input."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    is_over = False

    def give_up(_: int, __: FrameType | None) -> None:
        if not is_over:
            raise _TooLong(duration(longest_s))

    before = signal.signal(signal.SIGALRM, give_up)
    # Again each second: the code may go on after the first.
    timer = signal.setitimer(signal.ITIMER_REAL, longest_s, 1.0)
    try:
        yield
    finally:
        is_over = True
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def _kept_alive() -> Iterator[None]:
    """Raise `_Ends` where the code of a block calls `os._exit` or `os.abort`, which leave nobody to say anything.

    Its own children, and other threads, may.
    """
    pid = os.getpid()
    is_over = False

    def is_ours() -> bool:
        return not is_over and os.getpid() == pid and threading.current_thread() is threading.main_thread()

    ends, aborts = os._exit, os.abort

    def _exit(status: int) -> NoReturn:
        if is_ours():
            raise _Ends(f"os._exit({status})")
        ends(status)

    def abort() -> NoReturn:
        if is_ours():
            raise _Ends("os.abort()")
        aborts()

    os._exit, os.abort = _exit, abort
    try:
        yield
    finally:
        # The code may have kept them.
        is_over = True
        os._exit, os.abort = ends, aborts


class _Asked:
    """Notes whether a KeyboardInterrupt came from a signal, as long as it is entered."""

    def __init__(self) -> None:
        self.by_signal = False
        self._before: Any = None

    def __enter__(self) -> None:
        is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if is_usual and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._note)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _note(self, *_: object) -> None:
        self.by_signal = True
        raise KeyboardInterrupt
