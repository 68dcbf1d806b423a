"""Every number of a study file at its oddest: refused with file, line and key, or planned without an overflow."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import tomli_w
from capacity_case import Machine
from pydantic import BaseModel
from study_folder import StudyFolder

from autotune.core.errors import UserError
from autotune.engine.probes import Probe
from autotune.night.planner import Survey, make_plan
from autotune.search import pruners, samplers
from autotune.study.spec import StudySpec
from autotune.study.study_file import load

ODD = (
    *(math.inf, -math.inf, math.nan, 1e308, 1e300, -1e308, 1e-320, 5e-324, -1e-320, 0.0, -0.0, 0.5, -0.5, 1e18, 1e15),
    *(2**63 - 1, -(2**63), 2**53, 2**53 + 1, 2**32, 2**31, 10**6, 1, 0, -1, -5),
)
PROBE = Probe(tokens_per_s=100.0, eval_s=2.0, evaluations=5, seconds=7.0, tokens=40, peak_bytes=3, facts={})
STUDY: dict[str, Any] = {
    "name": "night",
    "trainer": "odd_trainers:lenient",
    "budget": {"tokens": 100_000, "trials": 8},
    "space": {"lr": {"low": 0.01, "high": 1.0}},
    "sampler": {"name": "random"},
}


def _numeric(annotation: Any) -> bool:
    return annotation in (int, float) or any(_numeric(part) for part in get_args(annotation))


def _keys(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """Every numeric key of a table and of the tables within it."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel) and inner.model_fields.keys() != {"root"}:
            yield from ((name, *rest) for rest in _keys(inner))
        elif _numeric(inner):
            yield (name,)


def _with(path: tuple[str, ...], value: object, **tables: Any) -> dict[str, Any]:
    content = {key: dict(entry) if isinstance(entry, dict) else entry for key, entry in (STUDY | tables).items()}
    table = content
    for key in path[:-1]:
        table = table.setdefault(key, {})
    table[path[-1]] = value
    return content


def _load_and_plan(file: Path, content: dict[str, Any], key: str) -> str:
    """Loads a study and plans it, and returns why it was refused, "" if it was not."""
    file.write_text(tomli_w.dumps(content))
    refused = ""
    try:
        study = load(file)
    except UserError as error:
        refused = str(error)
    if refused:
        for line in refused.splitlines():
            assert line.startswith(f"{file}:"), line
        assert key in refused
        return refused

    profile: Any = Machine(0.0)
    for seconds_left in (math.inf, 3600.0):
        plan = make_plan(study, PROBE, 1, seconds_left, profile)
        for _, line in Survey(plan, PROBE).lines(study.spec, profile, 10**9, datetime.now(UTC)):
            assert "nan" not in line, line
    return ""


KEYS = [path for path in _keys(StudySpec) if path[0] != "seed"]


def test_the_keys_are_found() -> None:
    assert len(KEYS) >= 18
    assert {("limits", "hang_s"), ("budget", "hours"), ("pruner", "audit_frac")} <= set(KEYS)


@pytest.mark.parametrize("path", KEYS, ids=".".join)
def test_numbers_of_the_engine(path: tuple[str, ...], tmp_path: Path) -> None:
    for value in ODD:
        _load_and_plan(tmp_path / "night.toml", _with(path, value), path[-1])


@pytest.mark.parametrize("key", ["low", "high", "step"])
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "real"])
def test_numbers_of_the_space(key: str, whole: bool, tmp_path: Path) -> None:
    setting = "num_layers" if whole else "lr"
    dimension = {"low": 1, "high": 9} if whole else {"low": 0.01, "high": 1.0}
    for value in ODD:
        for log in (False, True):
            space = {setting: {**dimension, "log": log, key: value}}
            _load_and_plan(tmp_path / "night.toml", {**STUDY, "space": space}, setting)


OPTIONS = [("sampler", name) for name in samplers.SAMPLERS if name not in ("grid", "brute_force")]
OPTIONS += [("pruner", name) for name in pruners.PRUNERS]


@pytest.mark.parametrize(("table", "name"), OPTIONS)
def test_numbers_of_samplers_and_pruners(table: str, name: str, tmp_path: Path) -> None:
    module: Any = samplers if table == "sampler" else pruners
    for option, types in module.parameters(name).items():
        if not {"int", "float"} & set(types):
            continue
        for value in ODD:
            tables: dict[str, Any] = {table: {"name": name, option: value}}
            if name == "wilcoxon":
                tables["budget"] = {"tokens": 100_000, "seeds": 5}
            refused = _load_and_plan(tmp_path / "night.toml", STUDY | tables, table)

            # No count is negative; a pruner may stop what lies below a negative loss.
            is_negative = math.isfinite(value) and value < 0 and option not in ("lower", "upper", "inc_popsize")
            if is_negative or not math.isfinite(value):
                assert re.search(rf"{option}:? must be ", refused), f"{option} = {value}: {refused}"


@pytest.mark.parametrize("hang_s", [1e308, 1e300])
def test_patience_without_end_is_no_trouble_to_a_night(folder: StudyFolder, hang_s: float) -> None:
    limits = {"hang_s": hang_s, "crashes": 2**63 - 1, "retries": 2**63 - 1, "min_free_bytes": 0, "heartbeat_s": 86_400}
    folder.write(limits=limits, budget={"trials": 2, "hours": 1e5}, finals={"min_gain_frac": 5e-324})
    run = folder.run()
    assert run.end() == 0, run.text
