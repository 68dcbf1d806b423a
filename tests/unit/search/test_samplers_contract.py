"""Optuna's own contract suites on the samplers that we define, built as they are for a study.

The study searches a setting of its own beside those of the suites ("x", "y", ...), because a suite asks for the same
name in many ranges and kinds, which a study never does. A proposal for the study's own setting is made all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import optuna
import pytest
from optuna.samplers import BaseSampler
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase, RelativeSamplerTestCase

from autotune.search.forecast_sampler import ForecastSampler
from autotune.search.ranges import CurrentRanges
from autotune.search.samplers import build_sampler
from autotune.search.space import SearchSpace

# The suites wrap a sampler in PartialFixedSampler, which Optuna marks as experimental.
pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

LR = {"low": 0.1, "high": 1.0, "log": True, "limits": [0.01, 10.0]}
XY = {"low": -10.0, "high": 10.0, "limits": [-20.0, 20.0]}


def build(name: str, dimensions: dict[str, object], **options: int) -> BaseSampler:
    space = SearchSpace.model_validate(dimensions)
    return build_sampler(name, options, space, dict.fromkeys(dimensions, 0.5), seed=0)


class Suites(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    """What a sampler must do that proposes settings together, for one value of a trial or for several."""


class TestForecastSampler(Suites):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: build("gp", {"lr": LR}, n_startup_trials=0)


class TestCurrentRanges(Suites):
    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        return lambda: build("tpe", {"lr": LR}, n_startup_trials=0)


@pytest.mark.parametrize(("name", "wrapper"), [("gp", ForecastSampler), ("tpe", CurrentRanges)])
class TestOnTheStudysOwnSettings:
    """The suites' settings as those of the study, where the suites' ranges are the study's."""

    def test_it_is_the_wrapper_that_a_study_gets(self, name: str, wrapper: type[BaseSampler]) -> None:
        assert type(build(name, {"x": XY, "y": XY})) is wrapper

    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_trial_relative_params(self, name: str, wrapper: type[BaseSampler], n_jobs: int) -> None:
        suite = RelativeSamplerTestCase()
        suite.test_trial_relative_params(n_jobs, lambda: build(name, {"x": XY, "y": XY}, n_startup_trials=0))

    def test_settings_are_proposed_together_once_a_trial_has_finished(
        self, name: str, wrapper: type[BaseSampler]
    ) -> None:
        study = optuna.create_study(sampler=build(name, {"x": XY, "y": XY}, n_startup_trials=1))

        first = study.ask()
        study.tell(first, first.suggest_float("x", -10, 10) + first.suggest_float("y", -10, 10))
        second = study.ask()
        second.suggest_float("x", -10, 10)

        assert first.relative_params == {}
        assert second.relative_params.keys() == {"x", "y"}
