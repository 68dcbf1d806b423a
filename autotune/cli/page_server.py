"""A server of one page for this machine's own browser, which draws the page anew when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

from autotune.core.errors import UserError

_HOST = "127.0.0.1"
# A page that was drawn less than this many seconds ago is given out again.
FRESH_S = 5.0


class PageServer(HTTPServer):
    """Serves one page at "/", to this machine only.

    Args:
        draw: Returns the page as HTML.
        port: Of 127.0.0.1; 0 takes a free one.

    Raises:
        UserError: If the port is taken or may not be used.
    """

    def __init__(self, draw: Callable[[], str], port: int) -> None:
        self._draw = draw
        self._page = b""
        self._drawn_s = float("-inf")

        try:
            super().__init__((_HOST, port), _PageRequest)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"port {port} of {_HOST}: {reason}; choose another with --port, 0 takes a free one", 3
            ) from None

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{_HOST}:{self.server_port}/"

    def page(self) -> bytes:
        """Return the page, drawn anew unless that was a moment ago; the last one if it cannot be drawn now."""
        is_fresh = time.monotonic() - self._drawn_s < FRESH_S
        if is_fresh:
            return self._page

        try:
            self._page = self._draw().encode("utf-8", "replace")
        except Exception:
            # A database that is locked for a moment must not cost the reader the page that there was.
            if not self._page:
                raise
        self._drawn_s = time.monotonic()

        return self._page


class _PageRequest(BaseHTTPRequestHandler):
    server: PageServer
    # A browser that opens a connection and says nothing must not keep the others waiting.
    timeout = 5.0

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the page's headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        # Another site that a browser has open may not read the page by a name of its own for this address.
        asked_host = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if asked_host not in (_HOST, "localhost"):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return

        if urlsplit(self.path).path not in ("/", "/index.html"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return

        page = self.server.page()
        self._send_headers(len(page))
        if with_body:
            self.wfile.write(page)

    def _send_headers(self, length_bytes: int) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(length_bytes))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is a person's."""
