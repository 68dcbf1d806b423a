"""Study files that are wrong in every way that we could think of: each is answered with its line, its key and why."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from bad_studies import Fault, faults, text, write_modules

from autotune.core.text import plain
from autotune.study.errors import StudyFileError
from autotune.study.study_file import load

FAULTS = list(faults())
LONGEST_LINE = 800
"""Characters of an answer: whatever is written in a study file, the answer stays readable."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the modules that are no trainers."""
    made = tmp_path_factory.mktemp("faults")
    write_modules(made)
    return made


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])


def test_the_faults_differ_and_a_file_without_one_is_right() -> None:
    assert len({name for name, *_ in FAULTS}) == len(FAULTS) >= 160
    Path("right.toml").write_text(text())
    assert load(Path("right.toml")).spec.name == "night"


@pytest.mark.parametrize("fault", FAULTS, ids=[re.sub(r"[^ -~]", "?", name) for name, *_ in FAULTS])
def test_fault(fault: Fault) -> None:
    _, content, wanted = fault
    Path("bad.toml").write_text(content, newline="")
    with pytest.raises(StudyFileError) as caught:
        load(Path("bad.toml"))

    assert caught.value.exit_code == 2
    answer = plain(str(caught.value))
    assert wanted in answer
    for line in answer.split("\n"):
        assert re.match(r"bad\.toml:\d+(:| )", line)
        assert len(line) <= LONGEST_LINE


def test_numbers_that_people_write_differently_are_taken() -> None:
    content = text(budget="tokens = 1e6\nhours = 7", more="[limits]\nhang_s = 60\n[finals]\nprove_seeds = 3.0")
    Path("right.toml").write_text(content)
    spec = load(Path("right.toml")).spec
    assert (spec.budget.tokens, spec.budget.hours, spec.limits.hang_s, spec.finals.prove_seeds) == (10**6, 7, 60, 3)


def test_conditions_that_may_hold_are_taken() -> None:
    space = (
        "layers = {choices = [1, 2, 3]}\n"
        "heads = {choices = [2, 4], when = {layers = [2, 3]}}\n"
        "sigma = {low = 0.0, high = 0.1, when = {layers = 1, heads = 2}}\n"  # heads keeps its base value, 2
        "lr = {low = 0.001, high = 0.1, when = {heads = 4, evaluations = 5}}"
    )
    Path("right.toml").write_text(text(space=space))
    assert load(Path("right.toml")).spec.space.is_conditional


def test_ten_thousand_keys_that_do_not_exist_are_told_with_their_lines() -> None:
    keys = "\n".join(f'"setting.{number}" = {{low = 1, high = 2}}' for number in range(10_000))
    Path("long.toml").write_text(text(space=keys))
    with pytest.raises(StudyFileError) as caught:
        load(Path("long.toml"))
    lines = str(caught.value).split("\n")
    assert len(lines) == 10_000
    assert lines[-1].startswith('long.toml:10007 space.setting.9999: the trainer has no setting "setting.9999"')


def test_what_a_module_prints_goes_to_stderr_and_where_it_goes_we_do_not(
    capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    Path("noisy_trainer.py").write_text(
        "import os\nprint('hello')\nos.chdir('/')\ndef train(config: dict, budget_tokens, report): pass\n"
    )
    Path("right.toml").write_text(text(top='name = "night"\ntrainer = "noisy_trainer:train"'))
    load(Path("right.toml"))
    assert capsys.readouterr() == ("", "hello\n")
    assert Path.cwd() == folder
