"""One page served to this machine's own browser, drawn anew when it is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.parse import urlsplit

from autotune.core.errors import UserError

HOST = "127.0.0.1"
# A page that was drawn so recently is given out again.
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
        self._drawn = float("-inf")
        try:
            super().__init__((HOST, port), _Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise UserError(
                f"port {port} of {HOST}: {why}; choose another with --port, 0 takes a free one", 3
            ) from None

    @property
    def address(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    def page(self) -> bytes:
        """Returns the page, drawn anew unless that was a moment ago; the last one if it cannot be drawn now."""
        if time.monotonic() - self._drawn >= FRESH_S:
            try:
                self._page = self._draw().encode("utf-8", "replace")
            except Exception:
                if not self._page:
                    raise
            self._drawn = time.monotonic()
        return self._page


class _Handler(BaseHTTPRequestHandler):
    server: PageServer
    # A browser that opens a connection and says nothing must not keep the others waiting.
    timeout = 5.0

    def do_GET(self) -> None:
        """Answers with the page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answers with its headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        # Another site that a browser has open may not read it by a name of its own for this address.
        if urlsplit(f"//{self.headers.get('Host', '')}").hostname not in (HOST, "localhost"):
            self.send_error(421)
        elif urlsplit(self.path).path not in ("/", "/index.html"):
            self.send_error(404)
        else:
            page = self.server.page()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(page)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            if with_body:
                self.wfile.write(page)

    def log_message(self, *_: object) -> None:
        """Says nothing: the terminal is a person's."""
