"""The page that is served: to this machine only, drawn anew, and nothing else of the disk."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from autotune.cli import page_server, studies
from autotune.cli.page_server import PageServer
from autotune.cli.studies import read_log
from autotune.core.errors import UserError


class Pages:
    """Draws a page with a number, or fails."""

    def __init__(self) -> None:
        self.count = 0
        self.broken = False

    def __call__(self) -> str:
        if self.broken:
            raise OSError("database is locked")
        self.count += 1
        return f"<p>page {self.count} \ud800</p>"


@pytest.fixture
def pages() -> Pages:
    return Pages()


@pytest.fixture
def server(pages: Pages) -> Iterator[PageServer]:
    with PageServer(pages, 0) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def ask(server: PageServer, path: str = "/", method: str = "GET", **headers: str) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    connection.request(method, path, headers=headers)
    return connection.getresponse()


def test_the_page_is_served_and_not_kept_by_the_browser(server: PageServer) -> None:
    answer = ask(server)

    assert answer.status == 200
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert answer.read() == b"<p>page 1 ?</p>"
    assert server.address == f"http://127.0.0.1:{server.server_port}/"


def test_it_is_drawn_anew_but_not_at_every_request(
    server: PageServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [ask(server).read()[3:9] for _ in range(2)] == [b"page 1", b"page 1"]
    monkeypatch.setattr(page_server, "FRESH_S", 0.0)
    assert ask(server).read()[3:9] == b"page 2"


def test_a_page_that_cannot_be_drawn_now_is_the_last_one(
    server: PageServer, pages: Pages, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_server, "FRESH_S", 0.0)
    ask(server).read()
    pages.broken = True
    assert ask(server).read()[3:9] == b"page 1"


@pytest.mark.parametrize("path", ["/study.db", "/../../etc/passwd", "//evil/", "/index.html/x"])
def test_nothing_else_is_served(server: PageServer, path: str) -> None:
    assert ask(server, path).status == 404


def test_a_head_request_has_no_body(server: PageServer) -> None:
    answer = ask(server, method="HEAD")
    assert (answer.status, answer.read()) == (200, b"")


def test_another_name_for_this_address_is_refused(server: PageServer) -> None:
    assert ask(server, Host="evil.example").status == 421
    assert ask(server, Host=f"localhost:{server.server_port}").status == 200


def test_writing_is_not_possible(server: PageServer) -> None:
    assert ask(server, method="POST").status == 501


def test_a_taken_port_is_told_with_the_way_out(server: PageServer) -> None:
    with pytest.raises(UserError, match=r"port \d+ of 127.0.0.1: .*--port, 0 takes a free one") as refusal:
        PageServer(Pages(), server.server_port)
    assert refusal.value.exit_code == 3


# --- clients that mean no good ---


def raw(server: PageServer, sent: bytes) -> bytes:
    """Everything that the server answers to some bytes."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        connection.sendall(sent)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize(
    "host",
    [
        "[::1",
        "]",
        "a" * 5000,
        "127.0.0.1:port",
        "evil@127.0.0.1",
        "127.0.0.1.evil",
        "http://127.0.0.1",
        "\xff",
        " ",
        "",
    ],
    ids=range(10),
)
def test_a_host_header_that_is_none_of_ours_is_answered(server: PageServer, host: str) -> None:
    sent = f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode("latin-1")
    assert raw(server, sent).startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize(
    "headers", [b"", b"Host: localhost\r\nHost: evil.example\r\n", b"Host: evil\r\nHost: localhost\r\n"]
)
def test_no_host_and_two_hosts_are_refused(server: PageServer, headers: bytes) -> None:
    assert raw(server, b"GET / HTTP/1.1\r\n" + headers + b"\r\n").startswith(b"HTTP/1.0 421 ")


@pytest.mark.parametrize("host", [b"LOCALHOST", b"127.0.0.1:80", b"[::1]:8642"])
def test_names_of_this_machine_are_served(server: PageServer, host: bytes) -> None:
    assert b"page 1" in raw(server, b"GET /?x=[ HTTP/1.1\r\nHost: " + host + b"\r\n\r\n")


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\x16\x03\x01\r\n\r\n",
        b"GET //[ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"G" * 70_000,
    ],
    ids=range(5),
)
def test_requests_that_are_none_are_ended_without_a_word(
    server: PageServer, sent: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(ConnectionError):
        raw(server, sent)
    assert b"page 1" in ask(server).read()
    assert capfd.readouterr() == ("", "")


def test_clients_that_are_slow_keep_nobody_waiting(server: PageServer) -> None:
    """More of them than there is room for: those that have been slow for longest are closed."""
    with contextlib.ExitStack() as stack:
        for _ in range(page_server.MAX_CONNECTIONS + 20):
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.server_port), timeout=20))
            connection.sendall(b"GET / HT")
            assert len(server._due_s) <= page_server.MAX_CONNECTIONS
        assert ask(server).read() == b"<p>page 1 ?</p>"


def test_a_request_that_drips_has_an_end(server: PageServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "REQUEST_S", 0.3)
    address = ("127.0.0.1", server.server_port)
    with contextlib.suppress(ConnectionError), socket.create_connection(address, timeout=20) as connection:
        while True:
            connection.sendall(b"G")
            time.sleep(0.02)
    assert ask(server).status == 200


def test_an_answer_that_nobody_takes_has_an_end(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_server, "ANSWER_S", 0.3)
    with PageServer(lambda: "x" * 50_000_000, 0) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            connection.recv(10)
            while server._due_s:
                time.sleep(0.02)
        server.shutdown()
        thread.join()


def test_a_page_that_was_never_drawn_is_said(
    server: PageServer, pages: Pages, capfd: pytest.CaptureFixture[str]
) -> None:
    pages.broken = True
    answer = ask(server)
    assert (answer.status, answer.reason) == (503, "The page cannot be drawn now")
    assert capfd.readouterr() == ("", "")


def test_many_clients_get_one_drawing(server: PageServer, pages: Pages) -> None:
    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask(server).read(), range(60)))
    assert set(answers) == {b"<p>page 1 ?</p>"}


# --- logs of trials ---


def test_a_trials_log_is_served_as_text_and_nothing_beside_it(pages: Pages, tmp_path: Path) -> None:
    (tmp_path / "study/trials/0007").mkdir(parents=True)
    (tmp_path / "study/trials/0007/log.txt").write_text("<script>said</script>")
    (tmp_path / "study/trials/0007/config.json").write_text("{}")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "study/trials/0008").mkdir()
    (tmp_path / "study/trials/0008/log.txt").symlink_to(tmp_path / "secret.txt")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/log.txt").write_text("secret")
    (tmp_path / "study/trials/0009").symlink_to(tmp_path / "elsewhere")

    with PageServer(pages, 0, lambda trial: read_log(tmp_path / "study", trial)) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        answer = ask(made, "/trials/0007/log.txt")
        assert (answer.status, answer.read()) == (200, b"<script>said</script>")
        assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"

        head = ask(made, "/trials/0007/log.txt", method="HEAD")
        assert (head.status, head.read(), head.headers["Content-Length"]) == (200, b"", "21")

        others = (
            "0008/log.txt",
            "0009/log.txt",
            "0010/log.txt",
            "0007/config.json",
            "../trials/0007/log.txt",
            "7/log.txt",
        )
        for path in (*others, "%30007/log.txt", "0007/log.txt/", "-007/log.txt"):
            assert ask(made, f"/trials/{path}").status == 404, path
        assert ask(made, "/trials/0007/log.txt", Host="evil.example").status == 421
        made.shutdown()
        thread.join()


def test_of_a_long_log_its_end_is_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(studies, "_MOST_LOG_BYTES", 4)
    (tmp_path / "trials/0001").mkdir(parents=True)
    (tmp_path / "trials/0001/log.txt").write_bytes(b"begin end")
    assert read_log(tmp_path, "0001") == b" end"
