from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import OptimConfig
from model.schedule import Schedule, lr_factor


def factors(schedule, times, warmup_frac=0.2, decay_frac=0.4, final_lr_frac=0.0):
    return [lr_factor(t, 100, schedule, warmup_frac, decay_frac, final_lr_frac) for t in times]


@pytest.mark.parametrize(
    ("schedule", "final_lr_frac", "expected"),
    [
        ("wsd", 0.0, [0, 0.5, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]),
        ("wsd", 0.2, [0, 0.5, 1, 1, 1, 1, 1, 0.8, 0.6, 0.4, 0.2]),
        ("linear", 0.0, [0, 0.5, 1, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0]),
        ("linear", 0.2, [0, 0.5, 1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2]),
        # 0.5 + 0.5 cos(pi k / 8)
        ("cosine", 0.0, [0, 0.5, 1, 0.961940, 0.853553, 0.691342, 0.5, 0.308658, 0.146447, 0.038060, 0]),
        ("cosine", 0.5, [0, 0.5, 1, 0.980970, 0.926777, 0.845671, 0.75, 0.654329, 0.573223, 0.519030, 0.5]),
    ],
)
def test_every_factor(schedule, final_lr_frac, expected):
    times = range(0, 101, 10)
    assert factors(schedule, times, final_lr_frac=final_lr_frac) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine"])
def test_the_floor_holds_at_and_beyond_the_end(schedule):
    assert factors(schedule, [100, 101, 1000], final_lr_frac=0.05) == [0.05] * 3


@pytest.mark.parametrize("schedule", ["wsd", "linear", "cosine"])
def test_without_warmup_it_starts_at_the_peak(schedule):
    assert factors(schedule, [0], warmup_frac=0.0) == [1.0]


def test_wsd_without_decay_stays_at_the_peak():
    assert factors("wsd", [50, 100], decay_frac=0.0) == [1.0, 1.0]


def test_warmup_alone_ends_at_the_peak_just_before_the_end():
    assert factors("linear", [50, 99], warmup_frac=1.0) == pytest.approx([0.5, 0.99])


def test_unknown_name():
    with pytest.raises(ValueError, match='"step" is unknown'):
        lr_factor(50, 100, "step", 0.1, 0.1, 0.0)


# --- a run that is told to end sooner ---


def optim(schedule="wsd", **settings):
    return OptimConfig(**{"schedule": schedule, "warmup_frac": 0.2, "decay_frac": 0.4, **settings})


def shortened(end, seen, schedule="wsd", **settings):
    return Schedule(optim(schedule, **settings), 1000, 1000).ending_at(end, seen)


def test_a_stable_schedule_keeps_its_peak_until_its_usual_share_is_left():
    """Told at 300 to end at 500: the decay takes the last 40 % of it, 300 to 500."""
    short = shortened(500, 250)
    assert [short.factor(at) for at in (100, 250, 300, 400, 450, 500)] == pytest.approx([0.5, 1, 1, 0.5, 0.25, 0])


def test_told_of_a_later_end_in_time_it_keeps_its_peak_for_longer():
    later = shortened(500, 250).ending_at(800, 260)
    assert [later.factor(at) for at in (300, 480, 640, 800)] == pytest.approx([1, 1, 0.5, 0])


def test_told_late_it_comes_down_at_once():
    assert [shortened(500, 400).factor(at) for at in (400, 450, 500)] == pytest.approx([1, 0.5, 0])


def test_what_falls_already_goes_on_from_where_it_is():
    """Linear after a warm-up of 200: at 600 half is left, which the rest of the run halves and ends."""
    short = shortened(800, 600, "linear", final_lr_frac=0.1)
    assert [short.factor(at) for at in (600, 700, 800)] == pytest.approx([0.55, 0.325, 0.1])
    again = short.ending_at(900, 700)
    assert [again.factor(at) for at in (700, 800, 900)] == pytest.approx([0.325, 0.2125, 0.1])


def test_told_in_its_warmup_of_two_ends_it_does_not_jump():
    """At 2 it has begun to come down from 0.005, reached at 1."""
    again = shortened(3, 1).ending_at(201, 2)
    assert [again.factor(at) for at in (2, 201)] == pytest.approx([0.0025, 0])


def test_a_shortened_cosine_stays_below_the_whole_one():
    """Over the last tenth it is flatter than a straight line to a slightly earlier end."""
    short, whole = shortened(990, 900, "cosine"), Schedule(optim("cosine"), 1000, 1000)
    assert short.factor(950) == whole.factor(950)
    assert short.factor(990) == 0.0


@pytest.mark.parametrize("end", [0, 300, 1000, 2000])
def test_an_end_that_is_past_or_beyond_the_budget_changes_nothing(end):
    assert shortened(end, 300) == Schedule(optim(), 1000, 1000)


@given(
    schedule=st.sampled_from(["wsd", "linear", "cosine"]),
    floor=st.sampled_from([0.0, 0.1]),
    requests=st.lists(st.tuples(st.integers(1, 999), st.integers(1, 999)), min_size=1, max_size=4),
)
def test_it_goes_on_from_where_it_is_and_falls_to_its_floor(schedule, floor, requests):
    short = Schedule(optim(schedule, final_lr_frac=floor), 1000, 1000)
    for seen, end in sorted(requests):
        if seen < short.end_tokens:
            before, short = short, short.ending_at(end, seen)
            assert short.factor(seen) == pytest.approx(before.factor(seen))

    start = short.down_from if short.down_from is not None else 200
    factors = [short.factor(at) for at in range(start, short.end_tokens + 1)]

    assert all(later <= earlier + 1e-9 for earlier, later in pairwise(factors))

    whole = Schedule(optim(schedule, final_lr_frac=floor), 1000, 1000)
    assert all(short.factor(at) <= whole.factor(at) for at in range(short.end_tokens + 1))

    # Told in its warm-up to end there, it may never have come above the floor.
    reached = short.down_factor if short.down_from is not None else 1.0
    assert factors[-1] == min(floor, reached)
