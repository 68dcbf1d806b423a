"""Settings as points of the unit cube, and back."""

from __future__ import annotations

import numpy as np
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from autotune.search.unit_cube import UnitCube

SPACE: dict[str, BaseDistribution] = {
    "lr": FloatDistribution(1e-4, 1.0, log=True),
    "dropout": FloatDistribution(0.0, 0.2),
    "layers": IntDistribution(2, 10, step=4),
    "batch": IntDistribution(1, 16, log=True),
    "experts": CategoricalDistribution([4, 8, 16]),
    "optimizer": CategoricalDistribution(["adamw", "muon", "sgd"]),
}
SETTINGS = {"lr": 1e-2, "dropout": 0.05, "layers": 6, "batch": 4, "experts": 16, "optimizer": "muon"}


def test_positions_lie_on_the_scale_of_each_setting() -> None:
    assert UnitCube(SPACE).positions([SETTINGS]) == pytest.approx(np.array([[0.5, 0.25, 0.5, 0.5, 1.0, 0.5]]))


def test_choices_without_an_order_are_as_far_from_each_other_as_the_ends_of_a_range() -> None:
    cube = UnitCube({"optimizer": SPACE["optimizer"], "experts": SPACE["experts"]})
    points = cube.points(cube.positions([{"optimizer": name, "experts": 4} for name in ("adamw", "muon", "sgd")]))
    distances = [np.linalg.norm(points[one] - points[other]) for one, other in ((0, 1), (0, 2), (1, 2))]
    assert (cube.settings, cube.dimensions, points.shape) == (2, 4, (3, 4))
    assert distances == pytest.approx([1.0, 1.0, 1.0])


def test_a_position_becomes_the_settings_that_it_came_from() -> None:
    cube = UnitCube(SPACE)
    (position,) = cube.positions([SETTINGS])
    params = cube.params(position)
    assert params == pytest.approx({**SETTINGS, "optimizer": params["optimizer"]}) and params["optimizer"] == "muon"


def test_every_position_becomes_settings_that_the_space_has_and_stays_there() -> None:
    cube = UnitCube(SPACE)
    snapped = cube.snapped(np.random.default_rng(0).normal(0.5, 1.0, (200, cube.settings)))
    for position in snapped:
        params = cube.params(position)
        assert all(each._contains(each.to_internal_repr(params[path])) for path, each in SPACE.items())
        assert cube.positions([params])[0] == pytest.approx(position, abs=0.02)  # whole numbers of a log range


def test_a_range_of_one_value_is_the_middle() -> None:
    cube = UnitCube({"lr": FloatDistribution(0.5, 0.5), "layers": IntDistribution(3, 3)})
    assert cube.positions([{"lr": 0.5, "layers": 3}]).tolist() == [[0.5, 0.5]]
    assert cube.params(np.array([0.9, 0.1])) == {"lr": 0.5, "layers": 3}


def test_a_number_that_a_person_wrote_comes_back_to_the_last_digit() -> None:
    """Otherwise a setting of the default counts as changed, and is taken back in trainings of its own."""
    cube = UnitCube({"muon_lr": FloatDistribution(0.003, 0.1, log=True), "lr": FloatDistribution(1 / 3, 1.0, log=True)})
    written = {"muon_lr": 0.014, "lr": 1 / 3}
    assert cube.params(cube.positions([written])[0]) == written
