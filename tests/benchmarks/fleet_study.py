"""The study of `bench_fleet.py`: of a trainer that sleeps, with finished trials that nobody trained."""

from __future__ import annotations

import json
import random
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import tomli_w
from fake_trainer import FakeConfig, loss

from autotune.core.config_paths import with_paths
from autotune.core.records import EvalPoint, TrialResult, TrialStatus
from autotune.search.pruners import build_pruner
from autotune.search.samplers import build_sampler
from autotune.store.database import open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import open_study
from autotune.study.study_file import Study

TOKENS = 100_000
EVALUATIONS = 5


def write_study(path: Path, url: str, sampler: str, seconds: float) -> None:
    """Write the study file of one process, or of the first, which has a URL of its own."""
    content: dict[str, Any] = {
        "name": "fleet",
        "trainer": "fake_trainer:train",
        "storage": url,
        "budget": {"tokens": TOKENS, "trials": 1_000_000, "ends_early": False},
        "base": {"lr": 0.001, "seconds": seconds, "evaluations": EVALUATIONS},
        "space": {
            "lr": {"low": 1e-4, "high": 1.0, "log": True},
            "gain": {"low": 0.0, "high": 0.1},
            "sigma": {"low": 0.001, "high": 0.1, "log": True},
            "layers": {"low": 1, "high": 32},
            "heads": {"low": 1, "high": 16},
            "experts": {"choices": [1, 2, 4, 8]},
        },
        "sampler": {"name": sampler},
        "pruner": {"name": "none"},
        "finals": {"finalists": 0},
        "limits": {"min_free_bytes": 0},
    }
    path.write_text(tomli_w.dumps(content), encoding="utf-8")


def begin_study(study: Study, url: str, finished: int) -> None:
    """Store a study with so many finished trials of random settings."""
    from sqlalchemy import insert, text

    spec = study.spec
    with tempfile.TemporaryDirectory() as folder:
        storage = open_storage(RunDirectory(Path(folder)), url)
        sampler = build_sampler("random", {}, spec.space, spec.base, seed=1)
        open_study(storage, study, sampler, build_pruner("none", {}, TOKENS))

    with storage.engine.begin() as connection:
        for model, rows in _rows(study, finished).items():
            connection.execute(insert(model), rows)
        connection.execute(text("SELECT setval('trials_trial_id_seq', :last)"), {"last": finished})
        connection.execute(text("ANALYZE"))
    storage.engine.dispose()


def _rows(study: Study, finished: int) -> dict[Any, list[dict[str, Any]]]:
    """Return the rows of finished trials by table; the study is the first one of its database."""
    from optuna.distributions import distribution_to_json
    from optuna.storages._rdb import models
    from optuna.trial import TrialState

    rng = random.Random(1)
    rows: dict[Any, list[dict[str, Any]]] = {
        models.TrialModel: [],
        models.TrialParamModel: [],
        models.TrialValueModel: [],
        models.TrialIntermediateValueModel: [],
        models.TrialUserAttributeModel: [],
    }
    distributions = {path: study.spec.space[path].distribution() for path in study.spec.space}
    end = datetime.now() - timedelta(hours=1)

    for number in range(finished):
        of_trial = {"trial_id": number + 1}
        settings = study.spec.space.propose(lambda path, distribution: _drawn(rng, distribution), study.spec.base)
        result = _result(study, settings, number)
        times = {"datetime_start": end - timedelta(minutes=1), "datetime_complete": end}
        trial = {**of_trial, "number": number, "study_id": 1, "state": TrialState.COMPLETE, **times}
        rows[models.TrialModel].append(trial)

        for path, value in settings.items():
            stored = distributions[path].to_internal_repr(value)
            shape = distribution_to_json(distributions[path])
            param = {"param_name": path, "param_value": stored, "distribution_json": shape}
            rows[models.TrialParamModel].append({**of_trial, **param})

        finite = models.TrialValueModel.TrialValueType.FINITE
        final = {"objective": 0, "value": result.points[-1].val_loss, "value_type": finite}
        rows[models.TrialValueModel].append({**of_trial, **final})
        finite_at = models.TrialIntermediateValueModel.TrialIntermediateValueType.FINITE
        for point in result.points:
            at = {"step": point.tokens_seen, "intermediate_value": point.val_loss}
            rows[models.TrialIntermediateValueModel].append({**of_trial, **at, "intermediate_value_type": finite_at})
        for key, value in {"seed": study.spec.seed, "role": "search", "result": result.to_json()}.items():
            rows[models.TrialUserAttributeModel].append({**of_trial, "key": key, "value_json": json.dumps(value)})
    return rows


def _drawn(rng: random.Random, distribution: Any) -> Any:
    from optuna.distributions import CategoricalDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return rng.choice(distribution.choices)
    if isinstance(distribution, IntDistribution):
        return rng.randint(distribution.low, distribution.high)
    if distribution.log:
        return distribution.low * (distribution.high / distribution.low) ** rng.random()
    return rng.uniform(distribution.low, distribution.high)


def _result(study: Study, settings: Any, number: int) -> TrialResult:
    config = with_paths(study.spec.base, settings)
    points = []
    for evaluation in range(1, EVALUATIONS + 1):
        share = evaluation / EVALUATIONS
        val_loss = loss(FakeConfig(**config), share, TOKENS)
        points.append(EvalPoint(round(share * TOKENS), val_loss, {"val_accuracy": 0.1}))
    return TrialResult(
        status=TrialStatus.FINISHED,
        points=tuple(points),
        facts={"data_hash": "fake"},
        started_at=datetime.now(UTC).isoformat(),
        seconds=60.0,
        config=config,
        log=f"trials/{number:04d}/log.txt",
        host="elsewhere",
        device="cpu",
    )
