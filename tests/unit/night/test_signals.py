"""Signals that ask a run to end, sent to this process."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

from autotune.engine.deadline import StopRequest
from autotune.night.signals import signals_raising

GRACE_S = 900.0


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    before = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for name, handler in before.items():
        signal.signal(name, handler)


def send(name: signal.Signals) -> None:
    os.kill(os.getpid(), name)


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_a_request_and_the_first_is_answered(name: signal.Signals) -> None:
    stop, said = StopRequest(), []
    with signals_raising(stop, said.append, GRACE_S):
        send(name)
        assert stop.level == 1
        send(name)
        send(name)
    assert stop.level == 2
    otherwise = (
        "if none comes within 900 s, at once" if name == signal.SIGTERM else "press Ctrl-C again to stop at once"
    )
    assert said == [f"stopping after the next evaluation; {otherwise} (nothing is lost)"]


def test_what_ends_this_process_is_not_kept_waiting_beyond_its_grace() -> None:
    stop = StopRequest()
    with signals_raising(stop, lambda line: None, 0.2):
        send(signal.SIGTERM)
        assert stop.level == 1
        time.sleep(0.3)
    assert stop.level == 2


def test_what_signals_did_before_they_do_again() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    stop = StopRequest()
    with signals_raising(stop, lambda line: None, GRACE_S):
        pass
    send(signal.SIGTERM)
    assert heard == [signal.SIGTERM] and stop.level == 0


def test_a_terminal_that_closes_under_nohup_stops_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    stop = StopRequest()
    with signals_raising(stop, lambda line: None, GRACE_S):
        send(signal.SIGHUP)
    assert stop.level == 0


def test_a_signal_in_the_midst_of_printing_is_a_request_all_the_same() -> None:
    def printing(line: str) -> None:
        raise RuntimeError("reentrant call")

    stop = StopRequest()
    with signals_raising(stop, printing, GRACE_S):
        send(signal.SIGINT)
    assert stop.level == 1


def test_another_thread_than_the_main_one_takes_no_signals() -> None:
    def work() -> None:
        with signals_raising(StopRequest(), lambda line: None, GRACE_S):
            seen.append(signal.getsignal(signal.SIGINT))

    seen: list[object] = []
    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
