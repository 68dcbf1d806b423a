"""Ways of telling someone that a run has ended: a command and a webhook.

Neither can fail the run or delay it for long.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

from autotune.core.errors import UserError

# Seconds after which a command is killed.
_COMMAND_S = 60.0
# Seconds after which a webhook is given up, whatever its server does meanwhile.
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
    fault = _fault(url) if url else ""
    if fault:
        # Only how it begins: the rest may be a secret, and this line may end in a log.
        begins = re.match(r"[\w.-]{0,80}", url, re.ASCII)
        shown = begins[0] if begins else ""
        raise UserError(f'--webhook {shown!r} is not a web address: {fault}; write it as "https://host/path"')
    return url


def _fault(url: str) -> str:
    """Return what is wrong with a webhook's address, "" if nothing is."""
    if not url.isascii() or not url.isprintable() or " " in url:
        return "it has spaces or other characters that an address writes as %20 and the like"

    try:
        parts = urlsplit(url)
        port = parts.port  # it raises for one that is no number up to 65535
    except ValueError:
        return "its host or port cannot be read"

    return _fault_of_parts(parts, port)


def _fault_of_parts(parts: SplitResult, port: int | None) -> str:
    if parts.scheme not in ("http", "https"):
        return "it begins with neither http:// nor https://"
    if not parts.hostname or port == 0:
        return "it names no host"
    if "@" in parts.netloc:
        return "a name and password before the host are not sent"
    if any(len(label) > 63 for label in parts.hostname.split(".")):
        return "its host cannot be read"
    return ""


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
    except (subprocess.TimeoutExpired, KeyboardInterrupt) as cause:
        # The command leads a session of its own, so its group is all that it started.
        with contextlib.suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        when = "by Ctrl-C" if isinstance(cause, KeyboardInterrupt) else f"after {limit_s:.0f} s"
        return f"--on-finish was killed {when}: {command}"

    if exit_code != 0:
        return f"--on-finish ended with exit code {exit_code}: {command}"

    return ""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect unfollowed: its status is then an error like any other."""

    def redirect_request(self, *_: object) -> None:
        """Make no further request."""


def call_webhook(url: str, ending: Ending, limit_s: float = _WEBHOOK_S) -> str:
    """Post the ending as JSON.

    Args:
        url: Where to, http or https.
        ending: What is posted.
        limit_s: Seconds after which it is given up, whatever has been answered by then, > 0.

    Returns:
        "" when it was accepted, else what went wrong; the address, which may hold a secret, is not repeated.
    """
    outcome = [f"--webhook could not be reached: no whole answer within {limit_s:.0f} s"]

    def post() -> None:
        outcome[0] = _post(url, ending, limit_s)

    # No timeout of a socket limits the whole: a name may be looked up, and an answer may drip, for ever.
    # The thread is left behind then, and ends with the process.
    thread = threading.Thread(target=post, name="webhook", daemon=True)
    thread.start()
    try:
        thread.join(limit_s)
    except KeyboardInterrupt:
        return "--webhook was given up: Ctrl-C"
    return outcome[0]


def _post(url: str, ending: Ending, limit_s: float) -> str:
    """Post and return what `call_webhook` returns."""
    headers = {"Content-Type": "application/json", "User-Agent": "autotune"}
    try:
        check_webhook(url)
        body = json.dumps(ending.payload()).encode()
        request = urllib.request.Request(url, body, headers, method="POST")
        # The body of an answer is not read.
        with urllib.request.build_opener(_NoRedirects).open(request, timeout=limit_s):
            return ""
    except UserError as error:
        return str(error)
    except urllib.error.HTTPError as error:
        error.close()
        return f"--webhook was answered with HTTP status {error.code}"
    except urllib.error.URLError as error:
        return f"--webhook could not be reached: {_reason(error.reason)}"
    except (OSError, HTTPException) as error:
        return f"--webhook could not be reached: {_reason(error)}"
    except Exception as error:  # noqa: BLE001 (whatever a server or an address brings up, the night is over and good)
        return f"--webhook could not be called: {type(error).__name__}"


def _reason(error: object) -> str:
    """Return why in words that hold nothing of the address or the answer."""
    if isinstance(error, TimeoutError):
        return "timed out"
    return getattr(error, "strerror", None) or type(error).__name__
