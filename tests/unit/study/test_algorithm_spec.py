"""The sampler and the pruner that a study file names: what are parameters of theirs."""

from __future__ import annotations

from autotune.study.algorithm_spec import PrunerSpec


def test_what_the_engine_does_with_a_pruner_is_none_of_its_own_parameters() -> None:
    given = PrunerSpec.model_validate({"name": "median", "n_startup_trials": 4, "audit_frac": 0.25})
    assert (given.options, given.audit_frac) == ({"n_startup_trials": 4}, 0.25)
    assert (PrunerSpec().options, PrunerSpec().audit_frac) == ({}, 0.03)
