"""Ways of telling someone that a run has ended: a command and a webhook.

Neither can fail the run or delay it for long.
"""

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

# Seconds after which a command is killed.
_COMMAND_S = 60.0
# Seconds without an answer after which a webhook is given up.
_WEBHOOK_S = 10.0


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
        known_ends = {0: "is done", 130: "is parked"}
        end = known_ends.get(self.exit_code, f"ended with exit code {self.exit_code}")
        return "\n".join([f"autotune: {self.study} {end}", *self.lines])

    def environment(self) -> dict[str, str]:
        """Return the ending as environment variables for a command."""
        verdict = self.lines[0] if self.lines else ""
        values = {
            "AUTOTUNE_STUDY": self.study,
            "AUTOTUNE_EXIT_CODE": str(self.exit_code),
            "AUTOTUNE_VERDICT": verdict,
            "AUTOTUNE_TEXT": self.text,
            "AUTOTUNE_REPORT": str(self.report.absolute()),
        }

        # A variable of an environment ends at a zero byte.
        return {name: value.replace("\0", "\N{REPLACEMENT CHARACTER}") for name, value in values.items()}

    def payload(self) -> Mapping[str, object]:
        """Return the ending, JSON-able; Slack and Mattermost show `text`, Discord shows `content`."""
        return {
            "study": self.study,
            "exit_code": self.exit_code,
            "lines": list(self.lines),
            "report": str(self.report),
            "text": self.text,
            "content": self.text,
        }


def check_webhook(url: str) -> str:
    """Return a webhook's address, checked before anything begins.

    Args:
        url: The address; "" for none.

    Raises:
        UserError: If it is not an HTTP address.
    """
    parts = urlsplit(url)
    is_callable = parts.scheme in ("http", "https") and parts.hostname
    if url and not is_callable:
        raise UserError(f'--webhook {url!r} is not a web address; write it as "https://host/path"')
    return url


def run_command(command: str, ending: Ending, limit_s: float = _COMMAND_S) -> str:
    """Run a shell command that gets the ending in its environment (AUTOTUNE_STUDY, AUTOTUNE_TEXT, ...).

    Args:
        command: For the shell.
        ending: What it is told.
        limit_s: Seconds after which it is killed with all that it started, > 0.

    Returns:
        "" when it ended well, else what went wrong.
    """
    environment = {**os.environ, **ending.environment()}
    try:
        process = subprocess.Popen(
            command, shell=True, stdin=subprocess.DEVNULL, env=environment, start_new_session=True
        )
    except (OSError, ValueError) as error:
        return f"--on-finish could not be run: {error}"

    try:
        exit_code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        # The command leads a session of its own, so its group is all that it started.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return f"--on-finish was killed after {limit_s:.0f} s: {command}"

    if exit_code != 0:
        return f"--on-finish ended with exit code {exit_code}: {command}"

    return ""


def call_webhook(url: str, ending: Ending, limit_s: float = _WEBHOOK_S) -> str:
    """Post the ending as JSON.

    Args:
        url: Where to, http or https.
        ending: What is posted.
        limit_s: Seconds without an answer after which it is given up, > 0.

    Returns:
        "" when it was accepted, else what went wrong; the address, which may hold a secret, is not repeated.
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
