"""Samplers whose proposals are rows: what is proposed, and by what it is chosen."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial
from recorded_tables import CONDITIONAL, CONDITIONAL_BASE, bowl_table, row, table
from replay_pool import PoolSampler

from autotune.core.errors import UserError
from autotune.replay.sources import Rows
from autotune.replay.table import Table
from autotune.search.samplers import build_sampler


def asked(study: optuna.Study, recorded: Table) -> dict[str, Any]:
    """What is proposed next."""
    trial = study.ask()
    params = recorded.spec.space.suggest(trial, recorded.spec.base)
    study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return dict(params)


def told(study: optuna.Study, recorded: Table, rows: Rows, params: Mapping[str, Any]) -> None:
    """A row is trained to its end."""
    trained = rows.take(params)
    study.enqueue_trial(dict(trained.params))
    trial = study.ask()
    recorded.spec.space.suggest(trial, recorded.spec.base)
    study.tell(trial, trained.losses[-1])


def samplers(recorded: Table) -> dict[str, BaseSampler]:
    spec = recorded.spec
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return {
            "random": RandomSampler(seed=0),
            "TPE": TPESampler(seed=0),
            "GP": GPSampler(seed=0),
            "the engine's TPE": build_sampler("tpe", {}, spec.space, spec.base, 0),
            "the engine's GP": build_sampler("gp", {}, spec.space, spec.base, 0),
        }


MIXED = {
    "lr": {"low": 0.001, "high": 1.0, "log": True},
    "kind": {"choices": ["a", "b", "c"]},
    "layers": {"low": 1, "high": 8},
    "batch": {"low": 1, "high": 64, "log": True},
    "fixed": {"low": 0.5, "high": 0.5},
}
MIXED_BASE = {"lr": 0.01, "kind": "a", "layers": 2, "batch": 8, "fixed": 0.5}


def mixed_table(count: int) -> Table:
    rng = np.random.default_rng(1)
    rows = []
    for _ in range(count):
        settings = {
            "lr": float(10 ** rng.uniform(-3, 0)),
            "kind": str(rng.choice(["a", "b", "c"])),
            "layers": int(rng.integers(1, 9)),
            "batch": int(rng.integers(1, 65)),
            "fixed": 0.5,
        }
        loss = 2 + abs(np.log10(settings["lr"] / 0.03)) + (settings["kind"] != "b") + 0.1 * settings["layers"]
        rows.append(row(settings, (loss + 1, loss)))
    return table(rows, MIXED, MIXED_BASE)


@pytest.mark.parametrize("name", ["random", "TPE", "GP", "the engine's TPE", "the engine's GP"])
def test_every_proposal_is_a_row_that_is_left(name: str) -> None:
    recorded = mixed_table(30)
    rows = Rows(recorded)
    study = optuna.create_study(sampler=PoolSampler(samplers(recorded)[name], rows, recorded.spec.space, 0))

    told(study, recorded, rows, recorded.spec.space.baseline(recorded.spec.base))
    while rows.left:
        proposed = asked(study, recorded)
        left = [each.params for each in rows.left]
        # The Gaussian process gives numbers back with rounding errors of their scale.
        nearest = min(left, key=lambda params: abs(np.log(params["lr"] / proposed["lr"])))
        assert proposed == {**nearest, "lr": pytest.approx(nearest["lr"], rel=1e-12)}

        told(study, recorded, rows, proposed)
        assert nearest not in [each.params for each in rows.left]

    assert set(asked(study, recorded)) == set(MIXED)


@pytest.mark.parametrize("name", ["TPE", "GP", "the engine's TPE", "the engine's GP"])
def test_a_model_finds_good_rows_sooner_than_draws_do(name: str) -> None:
    """The mean loss of 15 rows that are proposed after 40 others, of 200; the function's own least is 2."""
    recorded = bowl_table(200)

    def losses(sampler: BaseSampler) -> float:
        rows = Rows(recorded)
        study = optuna.create_study(sampler=PoolSampler(sampler, rows, recorded.spec.space, 0))
        for each in recorded.rows[:40]:
            told(study, recorded, rows, each.params)
        for _ in range(15):
            told(study, recorded, rows, asked(study, recorded))
        return float(np.mean([trial.value for trial in study.trials if trial.value is not None][40:]))

    by_name = samplers(recorded)
    assert losses(by_name[name]) < losses(by_name["random"]) - 0.2


class Choosing(RandomSampler):
    """Takes the candidate with the lowest learning rate, and remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.shown: list[list[Mapping[str, Any]]] = []

    def choose(self, study: optuna.Study, trial: FrozenTrial, candidates: Sequence[Mapping[str, Any]]) -> int:
        assert isinstance(trial, FrozenTrial) and trial.number == study.trials[-1].number
        self.shown.append(list(candidates))
        return min(range(len(candidates)), key=lambda index: candidates[index]["lr"])


def test_a_sampler_that_can_choose_is_asked_to() -> None:
    recorded = table([row({"lr": lr}) for lr in (0.3, 0.01, 0.1)])
    rows, chooser = Rows(recorded), Choosing()
    study = optuna.create_study(sampler=PoolSampler(chooser, rows, recorded.spec.space, 0))
    proposed = []
    while rows.left:
        proposed.append(asked(study, recorded))
        told(study, recorded, rows, proposed[-1])
    assert proposed == [{"lr": 0.01}, {"lr": 0.1}, {"lr": 0.3}]
    assert [sorted(params["lr"] for params in shown) for shown in chooser.shown] == [
        [0.01, 0.1, 0.3],
        [0.1, 0.3],
        [0.3],
    ]


def test_rows_are_drawn_evenly() -> None:
    recorded = table([row({"lr": lr}) for lr in (0.001, 0.0011, 0.0012, 1.0)])
    drawn = []
    for seed in range(400):
        sampler = PoolSampler(RandomSampler(seed=seed), Rows(recorded), recorded.spec.space, seed)
        drawn.append(asked(optuna.create_study(sampler=sampler), recorded)["lr"])
    # To the nearest row, two thirds of the draws on the log scale would be two rows.
    assert all(70 <= drawn.count(each.params["lr"]) <= 130 for each in recorded.rows)


def test_what_cannot_propose_rows_is_refused() -> None:
    recorded = bowl_table(5)
    with pytest.raises(UserError, match=r"NSGAIISampler cannot be asked for rows; use --way nearest"):
        PoolSampler(optuna.samplers.NSGAIISampler(seed=0), Rows(recorded), recorded.spec.space, 0)

    conditional = table([row({"name": "sgd"})], CONDITIONAL, CONDITIONAL_BASE)
    with pytest.raises(UserError, match="has conditions"):
        PoolSampler(TPESampler(seed=0), Rows(conditional), conditional.spec.space, 0)
    PoolSampler(RandomSampler(seed=0), Rows(conditional), conditional.spec.space, 0)
