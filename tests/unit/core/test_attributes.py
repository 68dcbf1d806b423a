"""What is stored with studies and trials is read back as what it was, and under names that never change."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import optuna
import pytest

from autotune.core.attributes import Snapshot, Stored, StudyAttributes, TrialAttributes
from autotune.core.metric import Metric
from autotune.core.peers import Refusal, Stage, Terms
from autotune.core.promotion_results import Bracket, EarlyWarning, FullRunRecord, LengthChange, Promotion, Scaling
from autotune.core.records import EvalPoint, TrialResult, TrialStatus, Verdict, VerdictWord
from autotune.core.setups import Setup
from autotune.core.study_results import AttributedChange, Attribution, Noise, Plan, TakenAlong, TakenFrom

WARNING = EarlyWarning("divergence", 3_000, "the loss rises", "stop it")
STUDY: dict[str, Any] = {
    "spec": {"name": "night"},
    "created_at": "2026-11-29T21:00:00+00:00",
    "metric": Metric("r2", maximize=True, also={"mae": "mean error"}),
    "ranges": {"lr": (0.001, 0.1)},
    "probe_facts": {"train_tokens": 5_000},
    "length_rules": {"lr": "learning_rate"},
    "cost_model": {"flops_per_s": 1e9},
    "provenance": {"data_hash": "abc", "versions": {"python": "3.11"}},
    "plan": Plan(trial_s=30.0, trials=12, epochs=1.5),
    "run_tokens": 64_000,
    "worked_s": 39_600.5,
    "warm_start": ("first", "second"),
    "taken_along": {"runs/first": TakenAlong("first", 2, 60.5, {"it crashed": 1})},
    "speeds": {"0f3a": 0.5},
    "search_ended": True,
    "hears_requests": True,
    "exhausted": True,
    "noise": Noise(0.01, 3, 2.5, 16, 0.02),
    "verdict": Verdict(VerdictWord.BETTER, "because", 3, {"lr": 0.1}, (1_001, 1_002), gain=0.1),
    "attribution": Attribution(
        3, (AttributedChange("lr", 0.01, 0.1, (0.1, 0.05, 0.15), None, False),), (7, 8), {"lr": 0.1}, 2.4, 2.3, 2.5, ""
    ),
    "why_no_attribution": "no time was left",
    "promotion": Promotion(
        3, 1_000, 8_000, Scaling(0.5, 0.3, 0.8, 0.33, 0.1), (LengthChange("lr", 0.1, 0.05, "longer"),),
        (Bracket(2_000, (0.5, 1.0, 2.0), (2.5, 2.4, None)),), "", "twice",
    ),
    "terms": Terms(
        {"heartbeat_s": 5}, 1_796_000_000.5, None, "hours None, until None", Setup("Tesla T4", "fp16"), True
    ),
    "planned_on": "NVIDIA A10 in bf16",
    "judged_on": "Tesla T4 in fp16",
    "stage": Stage.FINALS,
    "coordinator": "0f3a77c1",
    "checked": (3, 8_000),
    "refusal": Refusal("it does not fit", 2, "Tesla T4"),
    "ended_at": "2026-11-30T06:00:00+00:00",
    "full_run": FullRunRecord("running", "", 3, 8_000, 4_000, points=(EvalPoint(4_000, 2.2),), warnings=(WARNING,)),
}  # fmt: skip
TRIAL: dict[str, Any] = {
    "role": "final",
    "needs_bytes": 2**34,
    "arm": 3,
    "stage": "prove",
    "seed": 1_001,
    "params": {"lr": 0.1},
    "result": TrialResult(TrialStatus.FINISHED, points=(EvalPoint(500, 3.0), EvalPoint(1_000, 2.0))),
    "budget_tokens": 900,
    "peer": "0f3a77c1",
    "curve": {500: 3.0},
    "audited_at": 500,
    "passed_over": True,
    "stopped_at": 600,
    "request": "01.0000",
    "taken_from": TakenFrom("first", 7, 30.5),
    "end_tokens": 7_000,
    "early_warnings": (WARNING,),
}


def _names(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if isinstance(value, Stored)}


@pytest.mark.parametrize(("kind", "values"), [(StudyAttributes, STUDY), (TrialAttributes, TRIAL)])
def test_every_value_is_read_back_from_a_storage_as_it_was(kind: Any, values: dict[str, Any]) -> None:
    study = optuna.create_study(storage=optuna.storages.RDBStorage("sqlite://"))
    holder = study if kind is StudyAttributes else study.ask()
    attributes = kind(holder)
    assert _names(kind) == set(values)

    for name, value in values.items():
        setattr(attributes, name, value)

    again = kind(study if kind is StudyAttributes else study.get_trials()[0])
    assert {name: getattr(again, name) for name in values} == values


def test_nothing_stored_is_read_as_nothing() -> None:
    study, trial = StudyAttributes(Snapshot()), TrialAttributes(Snapshot())
    assert (study.plan, study.noise, study.full_run, study.exhausted) == (None, None, None, False)
    assert (trial.role, trial.arm, trial.seed, trial.curve) == ("search", None, 0, {})


def test_the_names_in_the_storage_are_those_of_earlier_versions() -> None:
    stored = {value.name for value in vars(StudyAttributes).values() if isinstance(value, Stored)}
    assert stored == set(STUDY) - {"full_run"} | {"full"}
    assert {value.name for value in vars(TrialAttributes).values() if isinstance(value, Stored)} == set(TRIAL)


def test_a_full_run_of_an_earlier_version_is_read_without_what_it_did_not_store() -> None:
    stored = FullRunRecord("finished", tokens=8_000).to_json()
    kept = {name: stored[name] for name in ("status", "tokens", "points")}
    assert FullRunRecord.from_json(json.loads(json.dumps(kept))) == FullRunRecord("finished", tokens=8_000)
    optional = {"val_accuracy", "val_bpb", "at", "done_at", "tokens_per_s"}
    assert {field.name for field in fields(FullRunRecord)} - optional == set(stored)
