"""Trainers whose code hangs or ends the process: every command answers, in a sentence and in time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.core.errors import UserError
from autotune.study import trainers_code
from autotune.study.trainer import load_trainer

STUDY = """\
name = "night"
trainer = "strange:train"
[budget]
tokens = 1000
[space]
lr = {low = 0.1, high = 0.2}
"""
TRAINER = "def train(config: dict, budget_tokens, report): pass\n"
# The command, with less patience than a user's cold disk needs.
COMMAND = """
from autotune.study import trainers_code
trainers_code.LONGEST_S = 0.5
from autotune.cli.main import main
main()
"""
HANGS = ("while True: pass", "import time; time.sleep(1000)", "import os; os.read(os.pipe()[0], 1)", "input()")
TWICE = """
import time
try:
    time.sleep(1000)
except BaseException:
    time.sleep(1000)
"""


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs a command on the study; its input is one that never comes."""
    reading, writing = os.pipe()
    try:
        return subprocess.run(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdin=reading,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    finally:
        os.close(reading)
        os.close(writing)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a study of a trainer that is not written yet."""
    (tmp_path / "night.toml").write_text(STUDY)
    return tmp_path


@pytest.mark.parametrize("code", [*HANGS, TWICE])
def test_an_import_that_never_ends_is_given_up(folder: Path, code: str) -> None:
    (folder / "strange.py").write_text(f"{code}\n{TRAINER}")
    ended = command(folder, "run", "night.toml")
    assert ended.returncode == 2 and "Traceback" not in ended.stderr, ended.stderr
    assert 'night.toml:2 trainer: "strange:train": cannot import strange: it has not ended after' in ended.stderr


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os._exit(0)", "os._exit(0)"),
        ("from os import _exit; _exit(3)", "os._exit(3)"),
        ("import os; os.abort()", "os.abort()"),
        ("import sys; sys.exit()", "SystemExit"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "plan"])
def test_an_import_that_ends_the_process_is_told(folder: Path, code: str, words: str, verb: str) -> None:
    (folder / "strange.py").write_text(f"{code}\n{TRAINER}")
    ended = command(folder, verb, "night.toml")
    assert ended.returncode == 2, ended.stderr
    assert f"cannot import strange: it ends the process ({words}" in ended.stderr


@pytest.mark.parametrize("code", ["os._exit(0)", "sys.exit(0)"])
def test_a_preparation_that_ends_the_process_is_told(folder: Path, code: str) -> None:
    prepares = f"def prepare_training(configs, budget_tokens, say): {code}\n"
    trainer = "from pydantic import BaseModel\nclass C(BaseModel):\n    lr: float = 0.1\n    seed: int = 0\n" + TRAINER
    (folder / "strange.py").write_text(f"import os, sys\n{prepares}{trainer.replace('dict', 'C')}")
    ended = command(folder, "run", "night.toml")
    assert ended.returncode == 2, ended.stderr
    assert 'trainer = "strange:train": its function prepare_training fails: it ends the process' in ended.stderr


@pytest.mark.parametrize("code", ["while True: pass", "os._exit(0)"])
def test_a_config_type_is_held_to_the_same(folder: Path, code: str) -> None:
    (folder / "strange.py").write_text(
        "import os\nfrom pydantic import BaseModel, model_validator\n"
        "class C(BaseModel):\n    lr: float = 0.1\n"
        f"    @model_validator(mode='after')\n    def check(self):\n        {code}\n{TRAINER.replace('dict', 'C')}"
    )
    ended = command(folder, "plan", "night.toml")
    assert ended.returncode == 2, ended.stderr
    assert 'night.toml:2 trainer: "strange:train": the type of its config fails: it ' in ended.stderr


def test_what_a_trainer_keeps_is_the_real_thing_afterwards(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its training it may end its worker, and its children may end as they like at any time."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    (folder / "keeper.py").write_text(
        "import os\nfrom os import _exit\nchild = os.fork()\nif not child: _exit(5)\n"
        f"status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])\n{TRAINER}"
    )
    load_trainer("keeper:train")
    keeper = sys.modules["keeper"]
    assert keeper.status == 5

    child = os.fork()
    if not child:
        keeper._exit(6)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
    assert os._exit is not keeper._exit


def test_time_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers_code, "LONGEST_S", 0.05)
    before = signal.getsignal(signal.SIGALRM)
    timer_s, _ = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(UserError, match="fails: it has not ended after"):
        _wait_forever()
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == pytest.approx(timer_s, abs=30)


def _wait_forever() -> None:
    with trainers_code.faults_told("a:b", "fails"):
        while True:
            pass
