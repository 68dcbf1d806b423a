"""Where the lines of a run go: to a screen on a terminal, and plainly to a notebook's cell."""

from __future__ import annotations

import pytest

from autotune.cli.launch import is_in_notebook

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
