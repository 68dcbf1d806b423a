"""Functions in words: the same in each process as long as the function is, and others as soon as it is not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.study.fingerprints import trainer_code

SCRIPT = """
import math
import numpy as np
from dataclasses import dataclass
from autotune.study.fingerprints import described

@dataclass
class Config:
    lr: float = 0.1

RATE, NAMES, WEIGHTS = 0.5, {"a", "b", "c"}, np.arange(3.0)

def helper(x):
    return x * RATE

def made(power):
    def fit(config: Config, tokens: int, report):
        # a remark
        return helper(config.lr) ** power + math.pi + WEIGHTS.sum() + len(NAMES & {"a", "b"})
    return fit

def again(n):
    return again(n - 1) if n else fit

fit = made(2)
short = lambda c, b, r: helper(c)
"""
ENDING = "print(described(fit), described(short), described(again))"


def words(folder: Path, script: str, seed: str = "0") -> str:
    """Describes the functions of a script in a new process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONHASHSEED": seed}
    file = folder / "script.py"
    file.write_text(script + ENDING)
    command = [sys.executable, str(file)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.fixture(scope="module")
def usual(tmp_path_factory: pytest.TempPathFactory) -> str:
    return words(tmp_path_factory.mktemp("usual"), SCRIPT)


def test_a_function_is_told_alike_in_each_process(usual: str, tmp_path: Path) -> None:
    assert words(tmp_path, SCRIPT, seed="1") == usual
    assert "Name(id='RATE'" in usual and "op=Pow()" in usual


@pytest.mark.parametrize(
    ("before", "after"),
    [("# a remark", "# another"), ("import math\n", "\n\n\nimport math\n"), ("pi + WEIGHTS", "pi   +   WEIGHTS")],
)
def test_remarks_layout_and_place_do_not_count(usual: str, tmp_path: Path, before: str, after: str) -> None:
    assert words(tmp_path, SCRIPT.replace(before, after)) == usual


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("** power", "* power"),
        ("made(2)", "made(3)"),
        ("RATE, NAMES, WEIGHTS = 0.5", "RATE, NAMES, WEIGHTS = 0.6"),
        ("x * RATE", "x + RATE"),
        ("np.arange(3.0)", "np.arange(3.0) + 1"),
        ('"c"}', '"d"}'),
        ("lr: float = 0.1", "lr: float = 0.2"),
        ("lambda c, b, r: helper(c)", "lambda c, b, r: helper(b)"),
        ("if n else fit", "if n else None"),
    ],
)
def test_whatever_a_function_uses_counts(usual: str, tmp_path: Path, before: str, after: str) -> None:
    assert SCRIPT.replace(before, after) != SCRIPT
    assert words(tmp_path, SCRIPT.replace(before, after)) != usual


def test_the_code_of_a_trainer_is_all_of_its_package_or_what_a_program_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "own_package_of_code"
    package.mkdir()
    for name in ("__init__.py", "fit.py", "helper.py"):
        (package / name).write_text("a = 1\n")
    program = tmp_path / "train.py"
    program.write_text("print(1)\n")

    def hashes() -> tuple[str, str]:
        return trainer_code("own_package_of_code.fit:train"), trainer_code("ignored:x", f"python {program} --lr {{lr}}")

    before = hashes()
    assert all(len(code) == 16 for code in before) and hashes() == before
    (package / "helper.py").write_text("a = 2\n")
    assert hashes()[0] != before[0] and hashes()[1] == before[1]
    program.write_text("print(2)\n")
    assert hashes()[1] != before[1]
    assert trainer_code("no_such_module_anywhere:train") == trainer_code("", "nothing --here") == ""
