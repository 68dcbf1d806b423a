import pytest

from model.schedule import lr_factor


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
