"""What is told at the end of a run, by a real shell and to a real server; nothing of it raises or takes long."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from autotune.cli import notify
from autotune.core.errors import UserError

ENDING = notify.Ending(
    "night", 0, ["✓ better: 5 % less", "next: autotune promote night"], Path("runs/night/index.html")
)


class Hook(HTTPServer):
    """Keeps what it is sent; answers with `status` after `pause_s`."""

    status, pause_s = 200, 0.0

    def __init__(self) -> None:
        self.taken: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Answer)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/secret"


class _Answer(BaseHTTPRequestHandler):
    server: Hook

    def do_POST(self) -> None:
        self.server.taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        time.sleep(self.server.pause_s)
        self.send_response(self.server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook() -> Iterator[Hook]:
    with Hook() as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_command_finds_the_ending_in_its_environment(tmp_path: Path) -> None:
    file = tmp_path / "told"
    line = '"$AUTOTUNE_STUDY|$AUTOTUNE_EXIT_CODE|$AUTOTUNE_VERDICT|$AUTOTUNE_TEXT"'
    assert notify.run_command(f"printf %s {line} > {file}", ENDING) == ""

    assert file.read_text() == (
        "night|0|✓ better: 5 % less|autotune: night is done\n✓ better: 5 % less\nnext: autotune promote night"
    )


def test_text_in_names_is_not_run(tmp_path: Path) -> None:
    ending = notify.Ending(f"$(touch {tmp_path / 'ran'})", 1, ["`false`\0"], Path("x"))
    assert notify.run_command('test "$AUTOTUNE_STUDY" -a "$AUTOTUNE_VERDICT"', ending) == ""
    assert not (tmp_path / "ran").exists()


def test_a_command_that_fails_is_told() -> None:
    assert notify.run_command("exit 3", ENDING) == "--on-finish ended with exit code 3: exit 3"


def test_a_command_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    said = notify.run_command(f"(sleep 2; touch {tmp_path / 'late'}) & sleep 60", ENDING, limit_s=0.2)
    assert said.startswith("--on-finish was killed after 0 s: ")
    assert time.monotonic() - began < 30
    time.sleep(2.5)
    assert not (tmp_path / "late").exists()


def test_a_webhook_gets_json_that_chats_understand(hook: Hook) -> None:
    assert notify.call_webhook(hook.url, ENDING) == ""

    (taken,) = hook.taken
    assert (taken["study"], taken["exit_code"], taken["lines"]) == ("night", 0, list(ENDING.lines))
    assert taken["text"] == taken["content"] == ENDING.text


def test_a_webhook_that_refuses_is_told_without_its_secret(hook: Hook) -> None:
    hook.status = 403
    assert notify.call_webhook(hook.url, ENDING) == "--webhook was answered with HTTP status 403"


def test_a_webhook_that_is_silent_or_not_there_is_given_up(hook: Hook) -> None:
    hook.pause_s = 1.0
    assert notify.call_webhook(hook.url, ENDING, limit_s=0.2).startswith("--webhook could not be reached: ")
    assert notify.call_webhook("http://127.0.0.1:9/secret", ENDING).startswith("--webhook could not be reached: ")


@pytest.mark.parametrize("url", ["example.org/hook", "file:///etc/passwd", "https://"])
def test_what_is_no_address_is_refused_at_once(url: str) -> None:
    with pytest.raises(UserError, match=r"--webhook .* is not a web address"):
        notify.check_webhook(url)


def test_no_webhook_and_a_good_one_pass() -> None:
    assert notify.check_webhook("") == ""
    assert notify.check_webhook("https://example.org/hook") == "https://example.org/hook"


@pytest.mark.parametrize(("code", "words"), [(130, "is parked"), (4, "ended with exit code 4")])
def test_the_text_says_how_it_ended(code: int, words: str) -> None:
    assert notify.Ending("night", code, [], Path("x")).text == f"autotune: night {words}"
