import pytest
import study_builder

from autotune.store.study_record import StudyRecord
from reports.sentences.how_sure import how_sure


def test_how_sure_names_seeds_interval_and_noise(night: StudyRecord) -> None:
    text = " ".join(how_sure(night))

    assert "3 pairs of runs" in text
    assert "+0.3800; 95 % interval +0.3552 to +0.4048" in text
    assert "±0.0100; the gain is 38.0 times that" in text
    assert "lies above zero" in text


def test_how_sure_tells_what_could_be_proved_at_all(night: StudyRecord) -> None:
    noise = {"sigma": 0.01, "seeds": 4, "baseline_loss": 5.0, "pairs": 16, "provable_gain": 0.0123}
    said = "With this noise, 16 pairs of runs, the most that this study trains, can prove a gain of 0.0123 or more."

    assert said in how_sure(study_builder.with_attributes(night, noise=noise))
    assert said not in how_sure(night)
    running = study_builder.running_study()
    assert how_sure(study_builder.with_attributes(running, noise=noise))[0] == said


@pytest.mark.parametrize(
    ("low", "high", "part"), [(-0.1, 0.1, "contains zero"), (-0.3, -0.1, "lies below zero"), (None, None, "Noise")]
)
def test_how_sure_reads_the_interval(low: float | None, high: float | None, part: str) -> None:
    said = how_sure(study_builder.study(verdict=study_builder.verdict(gain_low=low, gain_high=high)))

    assert part in " ".join(said)
    assert "lies above zero" not in " ".join(said)


def test_an_unproven_minimum_comes_with_its_warning() -> None:
    said = how_sure(study_builder.running_study())

    assert "best loss of 3 finished trials is 4.8000 (trial 1)" in said[0] and "not a result yet" in said[0]
    assert "too little" in how_sure(study_builder.empty_study())[0]
