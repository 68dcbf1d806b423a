"""Samplers and pruners as the command line writes them, and those that a table cannot replay."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
from recorded_tables import row, table

from autotune.core.errors import UserError
from autotune.replay import algorithms
from autotune.replay.algorithms import parse_pruner, parse_sampler
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

TPE = SamplerSpec(name="tpe")
NONE = PrunerSpec(name="none")


@pytest.mark.parametrize(
    ("text", "name", "options"),
    [
        ("random", "random", {}),
        ('{name = "tpe"}', "tpe", {}),
        ('{name="tpe", n_startup_trials=5}', "tpe", {"n_startup_trials": 5}),
        ("{n_startup_trials = 7}", "gp", {"n_startup_trials": 7}),
    ],
)
def test_samplers_that_can_be_written(text: str, name: str, options: dict[str, Any]) -> None:
    assert (parse_sampler(text).name, parse_sampler(text).options) == (name, options)


def test_pruners_that_can_be_written() -> None:
    assert parse_pruner("none") == NONE
    assert parse_pruner("rank") == PrunerSpec()
    pruner = parse_pruner('{name = "percentile", percentile = 25.0, audit_frac = 0.5}')
    assert (pruner.name, pruner.options, pruner.audit_frac) == ("percentile", {"percentile": 25.0}, 0.5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tpee", "tpee: there is no sampler 'tpee' (did you mean \"tpe\"?); the samplers are tpe, random, gp, "),
        ("zzz", "zzz: there is no sampler 'zzz'; the samplers are tpe, random, gp, "),
        ("", ": there is no sampler ''; the samplers are tpe, "),
        ("median", "median: there is no sampler 'median'; the samplers are tpe, "),
        ('{name = "zzz"}', "{name = \"zzz\"}: there is no sampler 'zzz'; the samplers are tpe, "),
        (
            "{n_startup = 5}",
            "{n_startup = 5}: sampler 'gp' has no parameter 'n_startup' (did you mean \"n_startup_trials\"?); it ",
        ),
        ("{seed = 5}", "{seed = 5}: sampler 'gp' has no parameter 'seed'; it takes "),
        ('{n_startup_trials = "5"}', "{n_startup_trials = \"5\"}: must be a whole number, but it is '5'"),
        ("{name = 5}", "{name = 5}: Input should be a valid string"),
        ('{name = "tpe"', '{name = "tpe": Unclosed inline table'),
        ("{name: tpe}", "{name: tpe}: "),
    ],
)
def test_samplers_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as refusal:
        parse_sampler(text)
    assert refusal.value.exit_code == 2


@pytest.mark.parametrize("text", ['{name = "tpe"', "{name: tpe}", "{n_startup_trials = 5} x"])
def test_what_is_no_toml_is_told_how_to_write_it(text: str) -> None:
    for parse in (parse_sampler, parse_pruner):
        with pytest.raises(UserError, match=re.escape("; write it as in a study file: '{name = \"tpe\"}'") + "$"):
            parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "medain",
            "medain: there is no pruner 'medain' (did you mean \"median\"?); the pruners are rank, median, ",
        ),
        ("tpe", "tpe: there is no pruner 'tpe'; the pruners are rank, median, "),
        ("{audit_frac = 2}", "{audit_frac = 2}: Input should be less than or equal to 1"),
        (
            "{lost = 0.1}",
            "{lost = 0.1}: pruner 'rank' has no parameter 'lost' (did you mean \"lost_frac\"?); it takes lost_frac",
        ),
        ('{name = "none", upper = 3}', "{name = \"none\", upper = 3}: pruner 'none' has no parameter 'upper'; "),
        (
            '{name = "median", n_startup_trials = 1.5}',
            '{name = "median", n_startup_trials = 1.5}: must be a whole number, but it is 1.5',
        ),
    ],
)
def test_pruners_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}") as refusal:
        parse_pruner(text)
    assert refusal.value.exit_code == 2


def test_every_fault_is_told_on_a_line_of_its_own() -> None:
    with pytest.raises(UserError) as refusal:
        parse_pruner("{name = 5, audit_frac = -1}")
    assert str(refusal.value).splitlines() == [
        "{name = 5, audit_frac = -1}: Input should be a valid string",
        "{name = 5, audit_frac = -1}: Input should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("sampler", "pruner", "message"),
    [
        ({"name": "grid"}, {"name": "none"}, "grid tries all combinations, whatever they measure"),
        ({"name": "brute_force"}, {"name": "none"}, "brute_force tries all combinations, whatever they measure"),
        ({"name": "tpe"}, {"name": "percentile"}, "percentile: it needs percentile; add percentile"),
        ({"name": "tpe"}, {"name": "wilcoxon"}, "wilcoxon compares trials by their seeds, and a table"),
        ({"name": "tpe"}, {"name": "median", "warmup_frac": 2.0}, "warmup_frac must be a share of the budget"),
    ],
)
def test_what_cannot_be_replayed_is_refused(sampler: dict[str, Any], pruner: dict[str, Any], message: str) -> None:
    recorded = table([row({"lr": 0.01})])
    with pytest.raises(UserError, match=message):
        algorithms.check(recorded, SamplerSpec.model_validate(sampler), PrunerSpec.model_validate(pruner))
    algorithms.check(recorded, TPE, NONE)


@pytest.mark.parametrize("objective", ["loss_at_equal_seconds", "loss_and_seconds"])
def test_a_replay_is_of_equal_tokens(objective: str) -> None:
    recorded = table([row({"lr": 0.01})])
    recorded = replace(recorded, spec=recorded.spec.model_copy(update={"objective": objective}))
    with pytest.raises(UserError, match=f"night has the objective {objective}, and a replay compares losses at equal"):
        algorithms.check(recorded, TPE, NONE)
