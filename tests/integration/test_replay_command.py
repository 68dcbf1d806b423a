"""The real `autotune replay` in a process of its own, on a written table and on a real short study."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
from study_folder import Run, StudyFolder

from autotune.core.records import TrialStatus
from autotune.replay import table
from autotune.replay.arms import run_arm
from autotune.replay.sources import Rows
from autotune.replay.surrogate import Surrogate
from autotune.replay.table import Row, Table
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.spec import StudySpec

ROWS = 48
# A search ends long before its table does: 12 whole trials, each 2 + 1000/100 + 5 * 0.1 seconds.
SHORT = ("--repeats", "3", "--hours", str(12 * 12.5 / 3600), "--within", "0.02")


def recorded() -> Table:
    """Settings of a smooth function; the greatest rates diverge."""
    spec = StudySpec.model_validate(
        {
            "name": "night",
            "trainer": "fake_trainer:train",
            "budget": {"tokens": 1_000},
            "base": {"lr": 0.001, "layers": 2},
            "space": {"lr": {"low": 0.0001, "high": 1.0, "log": True}, "layers": {"low": 1, "high": 4}},
        }
    )
    rng = random.Random(3)
    places = [(0.001, 2), *((10 ** rng.uniform(-4, 0), rng.randint(1, 4)) for _ in range(ROWS - 1))]
    return Table(
        spec, {"provenance": {}}, (200, 400, 600, 800, 1_000), tuple(_row(lr, layers) for lr, layers in places)
    )


def _row(lr: float, layers: int) -> Row:
    end = 3.0 + math.log10(lr / 0.01) ** 2 / 4 + (layers - 3) ** 2 / 10
    curve = [end + 2 * math.exp(-share) for share in (1, 2, 3, 4)] + [end]
    params = {"lr": lr, "layers": layers}
    if lr > 0.7:
        return Row(params, TrialStatus.DIVERGED, (*curve[:2], math.nan), 100.0, 0.1, 2.0)
    return Row(params, TrialStatus.FINISHED, tuple(curve), 100.0, 0.1, 2.0)


@pytest.fixture
def tabled(folder: StudyFolder) -> StudyFolder:
    """A folder whose study is a table file."""
    folder.file = folder.root / "table.json"
    table.write(recorded(), folder.file)
    return folder


def _lines(run: Run) -> list[str]:
    assert run.end() == 0, run.text
    return run.text.splitlines()


def _answer(run: Run, **how: Any) -> dict[str, Any]:
    """Returns the JSON object that a command ends with; what it told people before went to the same file."""
    text = run.text
    return dict(json.loads(text[text.index("\n{\n") :], **how))


def test_each_sampler_with_each_pruner_is_a_line(tabled: StudyFolder) -> None:
    options = (
        "--sampler",
        "random",
        "--sampler",
        '{name="tpe", n_startup_trials=4}',
        "--pruner",
        "none",
        "--pruner",
        "median",
    )
    head, *arms = _lines(tabled.run("replay", *options, *SHORT))
    finished = len(recorded().finished())
    assert finished < ROWS
    assert head.startswith(f"night: {ROWS} rows, {finished} finished, 5 evaluations each; best loss ")
    assert head.endswith("; 2 min of device time per search")
    assert [arm.partition(":")[0] for arm in arms] == [
        "random + none",
        "random + median",
        "tpe n_startup_trials=4 + none",
        "tpe n_startup_trials=4 + median",
    ]
    assert all(" of 3 searches, median " in arm for arm in arms)


def test_without_options_it_is_the_defaults_on_60_trials(tabled: StudyFolder) -> None:
    head, *arms = _lines(tabled.run("replay", "--repeats", "2"))
    assert head.endswith("; 12 min of device time per search")  # 60 * 12.5 s
    assert len(arms) == 1
    assert arms[0].startswith("gp + rank: good settings found in ") and " of 2 searches" in arms[0]


def test_figures_for_programs_are_strict_json(tabled: StudyFolder) -> None:
    run = tabled.run("replay", "--json", "--sampler", "random", "--pruner", "none", "--pruner", "median", *SHORT)
    assert run.end() == 0, run.text

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    arms = _answer(run, parse_constant=refuse)["arms"]
    assert [arm["name"] for arm in arms] == ["random + none", "random + median"]
    best = recorded().finished()[0].losses[-1]
    for arm in arms:
        assert arm["target"] == pytest.approx(1.02 * best, abs=1e-4)
        assert arm["searches"] == len(arm["seconds"]) == len(arm["best"]) == 3
    reached = [arm["seconds"].count(None) for arm in arms]
    assert [arm["reached_frac"] for arm in arms] == pytest.approx([1 - missed / 3 for missed in reached])


def test_the_same_command_says_the_same(tabled: StudyFolder) -> None:
    """Each in an interpreter of its own, since forks of one order sets of texts alike."""
    first, second = (tabled.run("replay", *SHORT, plainly=True).text for _ in range(2))
    assert first == second


def test_a_target_that_is_out_of_reach_is_never_found(tabled: StudyFolder) -> None:
    run = tabled.run("replay", "--sampler", "random", "--repeats", "2", "--hours", "0.001", "--within", "0")
    assert _lines(run)[-1].endswith("found in 0% of 2 searches, median never (95 % interval never to never)")


def test_the_surrogate_says_how_far_off_it_is(tabled: StudyFolder) -> None:
    head, error, arm = _lines(tabled.run("replay", "--surrogate", "--sampler", "random", "--pruner", "none", *SHORT))
    assert head.startswith("night: ")
    assert error.startswith("interpolated: the final loss predicted for rows left out is 0.0")
    assert error.endswith(", rank correlation 1.00")
    assert arm.startswith("random + none: good settings found in ")


@pytest.mark.parametrize("surrogate", [False, True])
def test_the_figures_are_those_of_the_searches_run_here(tabled: StudyFolder, surrogate: bool) -> None:
    options = ("--json", "--sampler", "random", "--pruner", "none", *(["--surrogate"] if surrogate else []))
    run = tabled.run("replay", *options, *SHORT)
    assert run.end() == 0, run.text
    found = table.read(tabled.file)
    expected = run_arm(
        found,
        lambda: Surrogate(found) if surrogate else Rows(found),
        SamplerSpec(name="random"),
        PrunerSpec(name="none"),
        repeats=3,
        budget_s=12 * 12.5,
        within_frac=0.02,
    )
    [arm] = _answer(run)["arms"]
    assert arm["seconds"] == pytest.approx([each if math.isfinite(each) else None for each in expected.seconds])
    assert arm["best"] == pytest.approx([search.best for search in expected.searches])
    assert arm["target"] == pytest.approx(expected.target)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--sampler", "tpee"), "tpee: there is no sampler 'tpee' (did you mean \"tpe\"?); the samplers are tpe, "),
        (("--pruner", "mean"), "mean: there is no pruner 'mean'"),
        (("--sampler", "{seed=1}"), "{seed=1}: sampler 'gp' has no parameter 'seed'; it takes "),
        (("--pruner", '{name="none"'), '{name="none": Unclosed inline table'),
        (("--repeats", "0"), "--repeats"),
        (("--within", "-1"), "--within"),
    ],
)
def test_what_is_refused(tabled: StudyFolder, options: tuple[str, ...], message: str) -> None:
    run = tabled.run("replay", *options)
    assert run.end() == 2, run.text
    assert message in run.text
    assert "Traceback" not in run.text
    assert "night: " not in run.text


@pytest.mark.parametrize("name", ["none.json", "nothing"])
def test_what_is_not_there_is_said(tabled: StudyFolder, name: str) -> None:
    tabled.file = Path(name)
    run = tabled.run("replay")
    assert run.end() == 2, run.text
    assert name in run.text
    assert "Traceback" not in run.text


def test_a_study_that_ran_is_replayed_by_its_name_its_file_or_its_directory(folder: StudyFolder) -> None:
    folder.write(budget={"trials": 6}, pruner={"name": "none"}, finals={"finalists": 0})
    run = folder.run()
    assert run.end() == 0, run.text
    best = min(trial.loss for trial in folder.record().trials if trial.loss is not None)

    said = []
    for study in (folder.file, Path("fake"), Path("runs/fake")):
        folder.file = study
        said.append(_lines(folder.run("replay", "--repeats", "2", "--sampler", "random", "--pruner", "none")))
    assert said[0] == said[1] == said[2]
    head, arm = said[0]
    assert head.startswith(f"fake: 6 rows, 6 finished, 5 evaluations each; best loss {best:#.5g}, median ")
    assert arm.startswith("random + none: good settings found in 100% of 2 searches, median ")

    refused = folder.run("replay", "--surrogate")
    assert refused.end() == 2, refused.text
    assert refused.text == "a surrogate needs 20 finished rows, and the table has 6; record more\n"
