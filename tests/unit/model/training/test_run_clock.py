"""A run's clock: what counts as training, and what a later attempt takes over."""

import time

import torch

from model.training.run_clock import RunClock

CPU = torch.device("cpu")


def test_the_clock_stands_still_between_stop_and_go():
    clock = RunClock(CPU)
    clock.go()
    clock.stop()
    trained_s = clock.interval_s
    before_s = clock.elapsed_s

    time.sleep(0.01)  # an evaluation
    assert clock.interval_s == trained_s
    assert clock.elapsed_s > before_s

    clock.begin_interval()
    assert clock.interval_s == 0.0


def test_a_later_attempt_goes_on_from_what_was_counted():
    clock = RunClock(CPU)
    clock.resume(interval_s=1000.0, elapsed_s=5000.0)
    assert clock.elapsed_s >= 5000.0

    clock.go()
    clock.stop()
    assert clock.interval_s >= 1000.0
