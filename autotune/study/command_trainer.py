"""The trainer of a study that sweeps a program through its command line: what it prints are its evaluations."""

from __future__ import annotations

import collections
import contextlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

from autotune.core.child import end_with_parent
from autotune.core.config_paths import flatten
from autotune.core.metric import Metric
from autotune.study.trainer import reported
from autotune.study.trainer_interface import Report

NAME = "autotune.study.command_trainer:train"
SECTION = "command"
"""Table of the config that says how to run the program; all else are settings that its command line names."""
BUDGET = "budget"
"""What a command line calls the length of a training."""
_PLACEHOLDER = re.compile(r"\{([^{}\s]+)\}")
_LAST_LINES = 5
_PATIENCE_S = 10.0
"""Seconds that a program has to end by itself when it is stopped."""

untrained_settings = ("seed",)


def placeholders(line: str) -> list[str]:
    """Return the settings that a command line names, such as "lr" in "python train.py --lr {lr}"."""
    return _PLACEHOLDER.findall(line)


def arguments(line: str, config: Mapping[str, Any], budget_tokens: int) -> list[str]:
    """Return a command line as a list of arguments, with the settings in their places; no shell reads them.

    Args:
        line: With the dotted paths of settings in braces, and {budget}.
        config: The nested config.
        budget_tokens: Length of the training.
    """
    values = {**flatten(config), BUDGET: budget_tokens}
    return [_PLACEHOLDER.sub(lambda found: str(values[found[1]]), part) for part in shlex.split(line)]


def train(config: dict[str, Any], budget_tokens: int, report: Report) -> None:
    """Run the program, and report each line that it prints as an evaluation, if it is one.

    Args:
        config: Settings, and how to run the program in the table `command`: `line`, `pattern` and `metric`.
        budget_tokens: Length of the training; a program that is not told it is stopped there.
        report: As every trainer's.

    Raises:
        RuntimeError: The program ended with an error; the last that it said is told.
    """
    asked = config[SECTION]
    metric = Metric(**asked["metric"])
    is_told_its_length = BUDGET in placeholders(asked["line"])
    said: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
    is_over = False

    with _started(arguments(asked["line"], config, budget_tokens)) as program:
        assert program.stdout is not None
        for line in program.stdout:
            print(line, end="")
            said.append(line.strip())
            point = evaluation(line, asked["pattern"], metric)
            if point is None or is_over:
                continue

            point = reported(metric, point)
            is_over = point["tokens_seen"] >= budget_tokens
            goes_on = report(point | {"tokens_seen": min(point["tokens_seen"], budget_tokens)})
            if not goes_on or (is_over and not is_told_its_length):
                return
        code = program.wait()

    if code:
        raise RuntimeError(f"{shlex.split(asked['line'])[0]} ended with exit code {code}: {' | '.join(said)}")


def evaluation(line: str, pattern: str, metric: Metric) -> dict[str, float] | None:
    """Return the numbers of a line that a program has printed, None if it is no evaluation.

    Args:
        line: An object in JSON, or what the pattern finds in it.
        pattern: A regular expression whose named groups are the numbers; "" for JSON.
        metric: What has to be among them.
    """
    if pattern:
        found = re.search(pattern, line)
        content = found.groupdict() if found else None
    else:
        content = _json(line)
    if not isinstance(content, dict) or not {metric.name, metric.budget_unit} <= content.keys():
        return None

    numbers = {}
    for key, value in content.items():
        with contextlib.suppress(TypeError, ValueError):
            numbers[key] = float(value)
    # JSON has no NaN: who writes one makes it null.
    if content[metric.name] is None and not pattern:
        numbers[metric.name] = math.nan
    return numbers if {metric.name, metric.budget_unit} <= numbers.keys() else None


def _json(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Start a program, and end it when the block is left; it does not outlive this process."""
    program = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C is for the study, which then ends the program when it suits
        preexec_fn=_die_with_parent,
    )
    try:
        yield program
    finally:
        _end(program)
        if program.stdout is not None:
            program.stdout.close()


def _end(program: subprocess.Popen[str]) -> None:
    """End a program with all that it has started: first with a word, then at once."""
    for name in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(program.pid, name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            program.wait(_PATIENCE_S)
            return


def _die_with_parent() -> None:
    end_with_parent()
    # What this process ignores its children would ignore as well.
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_DFL)
