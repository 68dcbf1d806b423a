"""Malformed study files: each has its golden message beside it, in study_files/."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from autotune.core.text import plain
from autotune.study.errors import StudyFileError
from autotune.study.study_file import load

HERE = Path(__file__).parent
FILES = HERE / "study_files"
NAMES = sorted(path.stem for path in FILES.glob("*.toml"))
# Through the real command line: one of each kind of fault.
BY_COMMAND = (
    "base_outside_the_range",
    "choices_and_range",
    "corner_refused",
    "empty_space",
    "impossible_budget",
    "invalid_toml",
    "key_twice",
    "log_from_zero",
    "low_above_high",
    "many_faults",
    "name_absolute",
    "name_climbing",
    "name_control",
    "no_choices",
    "not_utf8",
    "nothing_given",
    "one_proving_seed",
    "sampler_parameter_refused",
    "trainer_breaks_at_import",
    "trainer_no_module",
    "unknown_base_key",
    "unknown_key",
    "unknown_pruner",
    "unknown_sampler",
    "unknown_setting",
    "unknown_table",
    "when_names_a_later_setting",
)


def golden(name: str) -> str:
    return (FILES / f"{name}.txt").read_text(encoding="utf-8")


def test_every_file_has_its_golden_message_and_no_golden_is_left_over() -> None:
    assert len(NAMES) >= 24
    assert sorted(path.stem for path in FILES.glob("*.txt")) == NAMES
    assert set(BY_COMMAND) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_message(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    with pytest.raises(StudyFileError) as caught:
        load(Path(f"{name}.toml"))
    assert plain(f"{caught.value}\n") == golden(name)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("name", NAMES)
def test_every_line_names_the_file_and_a_line_in_it_and_the_lines_ascend(name: str) -> None:
    length = len((FILES / f"{name}.toml").read_bytes().splitlines())
    numbers = []
    for message in golden(name).splitlines():
        file, number = re.split("[: ]", message)[:2]
        numbers.append(int(number))
        assert file == f"{name}.toml"
        assert 1 <= numbers[-1] <= length
    assert numbers == sorted(numbers)


# Runs `autotune run` on each file in a process of its own; they are forked from one that has read torch already.
FORKING = """
import os, sys
import autotune.night.session, model.train
from autotune.cli.main import main
answers, runs, *names = sys.argv[1:]
for name in names:
    if not (child := os.fork()):
        for number, stream in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{answers}/{name}.{stream}", os.O_CREAT | os.O_WRONLY), number)
        sys.argv[1:] = ["run", f"{name}.toml", "--out", f"{runs}/{name}"]
        try:
            main()
        except SystemExit as end:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(end.code)  # taking torch apart would take longer than all before
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, str]]:
    """What `autotune run` said to each file: exit code, stdout and stderr."""
    answers = tmp_path_factory.mktemp("commands")
    paths = [str(HERE.parents[1] / "fakes")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONDONTWRITEBYTECODE": "1"}
    before = sorted(FILES.iterdir())
    command = [sys.executable, "-c", FORKING, str(answers), str(answers / "runs"), *BY_COMMAND]
    done = subprocess.run(command, cwd=FILES, env=environment, capture_output=True, text=True, timeout=240, check=True)
    assert not (answers / "runs").exists(), "a refused study must leave nothing behind"
    assert sorted(FILES.iterdir()) == before

    def said(name: str, stream: str) -> str:
        return (answers / f"{name}.{stream}").read_text(encoding="utf-8")

    codes = map(int, done.stdout.split())
    return {name: (code, said(name, "out"), said(name, "err")) for name, code in zip(BY_COMMAND, codes, strict=True)}


@pytest.mark.parametrize("name", BY_COMMAND)
def test_command_says_it_on_stderr_alone_and_ends_with_2(name: str, commands: dict[str, tuple[int, str, str]]) -> None:
    assert commands[name] == (2, "", golden(name))


def test_missing_file_names_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FILES)
    with pytest.raises(
        StudyFileError, match=r'unknown_ky.toml: no such study file \(did you mean "unknown_key.toml"\?\)'
    ):
        load(Path("unknown_ky.toml"))


def test_missing_study_names_those_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "studies").mkdir()
    for name in ("night", "warmup"):
        (tmp_path / "studies" / f"{name}.toml").touch()
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyFileError) as caught:
        load(Path("xyz"))
    assert (
        str(caught.value) == "xyz: no such study file; the study files here are studies/night.toml, studies/warmup.toml"
    )
    with pytest.raises(StudyFileError) as caught:
        load(Path("nigth"))
    assert str(caught.value) == 'nigth: no such study file (did you mean "night"?)'


def test_folder_instead_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(StudyFileError, match="cannot be read: Is a directory"):
        load(tmp_path)


def test_golden_names_no_place_of_this_machine() -> None:
    assert not any(str(Path.home()) in golden(name) or str(HERE) in golden(name) for name in NAMES)
