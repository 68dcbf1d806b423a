"""Command lines that are wrong: each ends with a sentence on stderr, an exit code that says whose fault it is, and no
traceback; and nothing is begun."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from bad_studies import text

from autotune.cli.main import main

PLAN_AND_RUN = ("plan", "run")
BEGUN = text(
    top='name = "begun"\ntrainer = "fake_trainer:train"',
    budget="tokens = 100_000\ntrials = 1",
    more="[finals]\nfinalists = 0\n[limits]\nmin_free_bytes = 0",
)


def _wrong_changes() -> dict[str, str]:
    """Wrong `--set` assignments, and what must be said of them."""
    return {
        "": 'assigns nothing; write KEY=VALUE', " ": "assigns nothing", "# seed = 3": "assigns nothing",
        "[budget]": "assigns nothing", "seed": "not valid TOML", "=": "not valid TOML", "seed=": "not valid TOML",
        "seed=abc": "not valid TOML", "seed=1 2": "not valid TOML", "seed==1": "not valid TOML",
        ".=1": "not valid TOML",
        "seed=true": "seed: must be", 'seed="1"': "seed: must be", "sede=1": 'did you mean "seed"?',
        "budget.trials=0": "budget.trials: must be", "budget=3": "must be a table",
        "budget.hours=inf": "must be finite",
        "space.lr=3": "must be a table", "space.lr.high=nan": "must be finite",
        "space.layers.low=1": "needs low and high",
        "base.lr=true\nbase.layers={}": "base.layers", "base.lr=[[[]]]": "base.lr", "seed=1\nseed=2": "given twice",
        'name="a/b"': "cannot be a name", 'name="compare"': "used by autotune itself",
        'trainer="builtins:exit"': "three",
        "seed=" + "9" * 20: "the largest whole number", "seed=" + "9" * 5000: "the largest whole number",
        "base=" + "[" * 3000: "nested more than 20 deep", "base." + "a." * 1000 + "b=1": "nested more than 20 deep",
        'storage="x"': "storage: must be a URL", "{}=1": "not valid TOML", '"{}"=1': "unknown key",
        '"%s%d"=1': "unknown key", '"[bold]"=1': "unknown key", "\x1b[31m=1": "not valid TOML",
    }  # fmt: skip


def _wrong_options() -> dict[tuple[str, ...], str]:
    """Wrong options of commands that train, and what must be said of them."""
    return {
        ("--device", "tpu"): 'no device "tpu"', ("--device", ""): "no device", ("--device", "cuda:x"): "no device",
        ("--device", "cuda:"): "no device", ("--device", "CPU"): "no device",
        ("--emulate", "a100"): "cannot be emulated",
        ("--hours", "inf"): "--hours: must be finite", ("--hours", "nan"): "--hours: must be finite",
        ("--hours", "-1"): "--hours: must be", ("--hours", "0"): "--hours: must be",
        ("--hours", "1e300"): "--hours: must",
        ("--hours", "soon"): "--hours", ("--until", "25:00"): "--until: ", ("--until", "7am"): "--until: ",
        ("--until", ""): "--until: ", ("--trials", "0"): "--trials", ("--trials", "-3"): "--trials",
        ("--trials", "1.5"): "--trials", ("--trials", "9" * 20): "the largest whole number",
        ("--trials", "many"): "--trials",
        ("--out", "a-file"): "a-file is a file", ("--out", "a-file/below"): "a-file is a file",
    }  # fmt: skip


COMMANDS: dict[tuple[str, ...], tuple[int, str]] = {
    **{("run", "right.toml", "--set", change): (2, said) for change, said in _wrong_changes().items()},
    **{
        (verb, "right.toml", *options): (2, said)
        for verb in PLAN_AND_RUN
        for options, said in _wrong_options().items()
    },
    ("run", "begun", "--device", "tpu"): (2, 'no device "tpu"'),
    ("run", "begun", "--device", "cuda:7"): (3, 'no device "cuda:7"'),
    ("run", "right.toml", "--seed", "-1"): (2, "seed: must be"),
    ("run", "right.toml", "--seed", "9" * 20): (2, "the largest whole number"),
    ("run", " "): (2, "the name of the study is empty"),
    ("plan", ""): (2, "the name of the study is empty"),
    ("plan", "x" * 5000): (2, "cannot be read: File name too long"),
    ("plan", "runs"): (2, "cannot be read: Is a directory"),
    ("plan", "rihgt.toml"): (2, 'did you mean "right.toml"?'),
    ("plan", "right.toml", "--card", "T44"): (2, 'no figures of a card "T44" are known; did you mean "t4"?'),
    ("profile", "--device", "tpu"): (2, 'no device "tpu"'),
    ("profile", "--emulate", "h100"): (2, "cannot be emulated"),
    ("profile", "--device", "cpu", "--emulate", "t4"): (3, "cannot emulate a T4 on the CPU"),
    ("status", ""): (2, "the name of the study is empty"),
    ("status", "x" * 5000): (2, "no study at "),
    ("status", "bgun"): (2, "the studies there are begun"),
    ("status", "begun", "--out", "a-file"): (2, "a-file is a file"),
    ("report", "nothing"): (2, "no study at runs/nothing"),
    ("stop", "begun"): (2, "is not running"),
    ("compare", "begun"): (2, "needs the names of two studies or more"),
    ("compare", "begun", "nothing"): (2, "no study at runs/nothing"),
    ("compare", "begun", "begun", "--folder", "a-file"): (2, "a-file is a file"),
    ("timeline", "--folder", "a-file/below"): (2, "a-file is a file"),
    ("timeline", "--into", "runs"): (2, "--into runs is a folder"),
    ("timeline", "--into", "latin.md"): (2, "--into latin.md is no UTF-8 text (byte 3), and would be damaged"),
    ("record", "begun", "--tokens", "0"): (2, "budget.tokens: must be greater than 0"),
    ("replay", "begun", "--hours", "inf"): (2, "inf is not a number above 0"),
    ("init", "My Study"): (2, '"My Study" cannot be a name'),
    ("init", "timeline", "--trainer", "mine.py"): (2, 'the name "timeline" is used by autotune itself'),
    ("init", "mine", "--trainer", "/tmp/mine.py"): (2, "name a Python file to write in this folder"),
    ("watch", "begun", "--port", "99999"): (2, "--port"),
    ("doctor", "--out", "a-file"): (2, "a-file is a file"),
    ("sleep",): (2, "No such command"),
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, hardware: dict[str, Any]) -> Path:
    """Holds a study file, a study that was begun, and a file where a folder is expected."""
    made = tmp_path_factory.mktemp("commands")
    (made / "a-file").touch()
    (made / "latin.md").write_bytes("café".encode("latin-1"))
    (made / "right.toml").write_text(text())
    (made / "begun.toml").write_text(BEGUN)
    (made / "runs" / "begun").mkdir(parents=True)
    (made / "runs" / "begun" / "hardware.json").write_text(json.dumps(hardware))
    return made


def _call(*arguments: str) -> int:
    """Runs `autotune` in this process and returns its exit code."""
    before = sys.argv
    sys.argv = ["autotune", *arguments]
    try:
        main()
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def begun(folder: Path) -> Path:
    """The folder after the study in it has run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert _call("run", "begun.toml", "--device", "cpu") == 0
    return folder


@pytest.mark.parametrize(
    "arguments", COMMANDS, ids=lambda arguments: " ".join(arguments)[:60].encode("unicode_escape").decode()
)
def test_command(
    arguments: tuple[str, ...], begun: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(begun)
    monkeypatch.setenv("COLUMNS", "1000")
    before = [path for path in sorted(begun.rglob("*.*")) if "study.db" not in path.name]

    exit_code, said = COMMANDS[arguments]
    assert _call(*arguments) == exit_code
    assert said in capsys.readouterr().err
    if exit_code == 2:
        assert [path for path in sorted(begun.rglob("*.*")) if "study.db" not in path.name] == before


def test_there_are_many() -> None:
    assert len(COMMANDS) >= 90
