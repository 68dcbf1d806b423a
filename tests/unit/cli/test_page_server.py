"""The page that is served: to this machine only, drawn anew, and nothing else of the disk."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator

import pytest

from autotune.cli import page_server
from autotune.cli.page_server import PageServer
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
