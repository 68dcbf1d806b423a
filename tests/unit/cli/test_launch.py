"""Where the lines of a run go: to a screen on a terminal, and plainly to a notebook's cell."""

from __future__ import annotations

from pathlib import Path

import pytest

from autotune.cli.launch import Hosting, is_in_notebook, keeping_what_was_trained
from autotune.core.errors import UserError
from autotune.night.session import Options, Session
from autotune.study.study_file import load

TERMINAL = {"TERM": "xterm-256color", "SHELL": "/bin/bash"}


@pytest.mark.parametrize(
    "environment",
    [
        {"JPY_PARENT_PID": "84"},
        {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
        {"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat", "CLICOLOR": "1"},
    ],
)
def test_the_terminal_of_a_cell_is_known_by_what_a_kernel_sets(environment: dict[str, str]) -> None:
    assert is_in_notebook({**TERMINAL, **environment})


@pytest.mark.parametrize(
    "environment",
    [{}, {"PAGER": "cat", "GIT_PAGER": "cat"}, {"TERM": "xterm-color"}, {"TERM": "xterm-color", "PAGER": "less"}],
)
def test_other_terminals_are_terminals(environment: dict[str, str]) -> None:
    assert not is_in_notebook({**TERMINAL, **environment})


def test_a_ctrl_c_after_the_study_parked_says_what_is_true_then(tmp_path: Path) -> None:
    """Several in a row: the first parks the study, and a later one comes as its report is written."""
    session = Session(load(Path(__file__).parents[3] / "studies/quickstart.toml"), Options(tmp_path))
    with pytest.raises(KeyboardInterrupt), keeping_what_was_trained(session):
        raise KeyboardInterrupt  # before anything began

    session.began = True
    words = r"what was trained is kept: see autotune status quickstart --out "
    with pytest.raises(UserError, match=words) as stopped, keeping_what_was_trained(session):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130


@pytest.mark.parametrize(
    ("out", "mirror"), [("runs", "drive"), ("elsewhere", f"{Path.cwd()}/drive"), ("there/runs", f"{Path.cwd()}/drive")]
)
def test_a_mirror_is_found_from_where_the_next_command_is_typed(out: str, mirror: str) -> None:
    assert Hosting(mirror=Path("drive")).arguments(Path(out)) == ("--mirror", mirror)
