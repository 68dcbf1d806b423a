"""What is told at the end of a run, by a real shell and to a real server; nothing of it raises or takes long."""

from __future__ import annotations

import contextlib
import json
import socket
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


class Rude:
    """A server of one answer after another, none of which HTTP knows an end for."""

    def __init__(self, first: bytes, again: bytes = b"", pause_s: float = 0.0) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._first, self._again, self._pause_s = first, again, pause_s
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/secret"
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with contextlib.suppress(OSError), connection:
                    connection.recv(65536)
                    connection.sendall(self._first)
                    while self._again:
                        connection.sendall(self._again)
                        time.sleep(self._pause_s)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


OK = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "again", "pause_s"),
    [
        (b"", b"H", 0.05),  # a status line that drips
        (OK, b"X: y\r\n", 0.05),  # headers that drip
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),  # and never the answer itself
        (b"", b"HTTP/1.1 103 Early Hints\r\n\r\n", 0.01),
    ],
)
def test_a_server_without_an_end_is_given_up_as_a_whole(first: bytes, again: bytes, pause_s: float) -> None:
    server = Rude(first, again, pause_s)
    said = notify.call_webhook(server.url, ENDING, limit_s=0.5)
    server.close()
    assert said.startswith("--webhook ") and "secret" not in said


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/9.9 200 OK\r\n\r\n",
        OK + b"X" * 100_000 + b"\r\n\r\n",
        OK + b"X: y\r\n" * 200 + b"\r\n",
        b"HTTP/1.1 999 \x1b[31m\r\n\r\n",
        b"\x16\x03\x01\x00\x00",
    ],
    ids=range(8),
)
def test_answers_that_are_none_are_told(answer: bytes) -> None:
    server = Rude(answer)
    said = notify.call_webhook(server.url, ENDING, limit_s=5)
    server.close()
    assert said.startswith("--webhook ") and "secret" not in said and "\x1b" not in said


@pytest.mark.parametrize("body", [b"z" * 65536, b"10\r\n0123456789abcdef\r\n"])
def test_an_endless_body_is_not_waited_for(body: bytes) -> None:
    kind = b"Transfer-Encoding: chunked\r\n" if body[:1] == b"1" else b""
    server = Rude(OK + kind + b"\r\n", body)
    assert notify.call_webhook(server.url, ENDING, limit_s=20) == ""
    server.close()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_not_followed(hook: Hook, status: int) -> None:
    server = Rude(b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, hook.url.encode()))
    assert notify.call_webhook(server.url, ENDING) == f"--webhook was answered with HTTP status {status}"
    server.close()
    assert hook.taken == []


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:1/secret\n",
        "http://127.0.0.1:1/secr et",
        "http://127.0.0.1:1/secr\x00et",
        "http://127.0.0.1:1/s\u00e9cret",
        "http://[::1/secret",
        "http://[::zz]/secret",
        "http://127.0.0.1:secret/",
        "http://127.0.0.1:99999999/secret",
        "http://user:secret@127.0.0.1:1/",
        "http://a..secret/",
        f"http://{'a' * 70}.example/secret",
        "http://.../secret",
        "http:///secret",
        "//127.0.0.1/secret",
        "ftp://127.0.0.1/secret",
        "data:text/plain,secret",
        "javascript:secret",
        "HTTP://[::1]:1/secret",
        "http://[fe80::1%25lo]:1/secret",
        "http://127.0.0.1:0/secret",
        "http://secret.invalid/",
        "http://" + "[" * 5000,
    ],
    ids=range(22),
)
def test_no_address_fails_a_night(url: str) -> None:
    """Most of these are refused before it; what is not is told at its end, and never with what may be a secret."""
    refusal = ""
    try:
        notify.check_webhook(url)
    except UserError as error:
        refusal = str(error)
    assert "secret" not in refusal
    said = notify.call_webhook(url, ENDING, limit_s=3)
    assert said.startswith("--webhook ") and "secret" not in said


def test_a_name_that_is_looked_up_for_ever_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    found = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found.wait(30) and [])
    assert "could not be reached: no whole answer" in notify.call_webhook("http://example.org/", ENDING, limit_s=0.2)
    found.set()


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
