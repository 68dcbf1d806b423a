"""Telling someone that a run has ended: a command, a webhook. Neither can fail the run or hold it up for long."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from autotune.core.errors import UserError

COMMAND_S = 60.0
WEBHOOK_S = 10.0


@dataclass(frozen=True)
class Ending:
    """What is told of a run that has ended.

    Args:
        study: Its name.
        exit_code: As the command line's.
        lines: The console's last lines: verdict, before and after, how sure, next command; may be empty.
        report: Path of the page.
    """

    study: str
    exit_code: int
    lines: Sequence[str]
    report: Path

    @property
    def text(self) -> str:
        """All of it in a few lines."""
        end = {0: "is done", 130: "is parked"}.get(self.exit_code, f"ended with exit code {self.exit_code}")
        return "\n".join([f"autotune: {self.study} {end}", *self.lines])

    def environment(self) -> dict[str, str]:
        """Returns it as variables for a command."""
        values = {
            "AUTOTUNE_STUDY": self.study,
            "AUTOTUNE_EXIT_CODE": str(self.exit_code),
            "AUTOTUNE_VERDICT": self.lines[0] if self.lines else "",
            "AUTOTUNE_TEXT": self.text,
            "AUTOTUNE_REPORT": str(self.report.absolute()),
        }
        # The environment of a process ends at a zero byte.
        return {name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, value in values.items()}

    def payload(self) -> Mapping[str, object]:
        """Returns it as JSON; Slack and Mattermost show `text`, Discord `content`."""
        return {
            "study": self.study, "exit_code": self.exit_code, "lines": list(self.lines), "report": str(self.report),
            "text": self.text, "content": self.text,
        }  # fmt: skip


def check_webhook(url: str) -> str:
    """Returns a webhook's address, before anything begins.

    Args:
        url: The address; "" for none.

    Raises:
        UserError: If it is none that could be called.
    """
    parts = urlsplit(url)
    if url and (parts.scheme not in ("http", "https") or not parts.hostname):
        raise UserError(f'--webhook {url!r} is no address; write it as "https://host/path"')
    return url


def run_command(command: str, ending: Ending, limit_s: float = COMMAND_S) -> str:
    """Runs a command of the shell that knows the ending by its environment (AUTOTUNE_STUDY, AUTOTUNE_TEXT, ...).

    Args:
        command: For the shell.
        ending: What it is told.
        limit_s: Seconds after which it is ended with all that it started, > 0.

    Returns:
        "" when it ended well, else what went wrong.
    """
    try:
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, env={**os.environ, **ending.environment()},
            start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        return f"--on-finish could not be run: {error}"
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"--on-finish was ended after {limit_s:.0f} s: {command}"
    return "" if code == 0 else f"--on-finish ended with exit code {code}: {command}"


def call_webhook(url: str, ending: Ending, limit_s: float = WEBHOOK_S) -> str:
    """Posts the ending as JSON.

    Args:
        url: Where to, http or https.
        ending: What is posted.
        limit_s: Seconds without an answer after which it is given up, > 0.

    Returns:
        "" when it was taken, else what went wrong; the address, which may hold a secret, is not repeated.
    """
    body = json.dumps(ending.payload()).encode()
    try:
        request = urllib.request.Request(url, body, {"Content-Type": "application/json"}, method="POST")
        with urllib.request.urlopen(request, timeout=limit_s):
            return ""
    except urllib.error.HTTPError as error:
        return f"--webhook was answered with HTTP status {error.code}"
    except (OSError, ValueError) as error:
        return f"--webhook could not be reached: {getattr(error, 'reason', error)}"
