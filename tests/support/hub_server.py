"""A small server that answers as the Hugging Face hub does, for the real clients to be pointed at by HF_ENDPOINT.

It serves repositories from memory: information and trees of files by the REST interface, files by `resolve` with ETags,
HEAD and ranges, behind a redirect as large files have it. Faults are switched on by setting an attribute.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

_CHUNK_BYTES = 1 << 16
_COMMIT = "c0ffee" + "0" * 34
_REFUSALS: Mapping[str, tuple[int, str]] = {
    "gated": (403, "GatedRepo"),
    "unauthorized": (401, "RepoNotFound"),
    "too many requests": (429, ""),
    "proxy": (407, ""),
    "down": (503, ""),
}
"""What the hub answers, as status and X-Error-Code."""


@dataclass
class HubServer:
    """A hub on a free port of this machine; a context manager.

    Args:
        datasets: Content of files by path, for each data set by name.
        models: The same for models.
        refusal: "" to answer; else a key of `_REFUSALS`, for everything.
        refused_requests: How many requests are refused; None for all of them.
        bytes_per_s: Speed at which files are sent, of each connection; 0 for no limit.
        drop_after_bytes: A connection is cut once all of them have sent so many bytes, again and again; 0 for never.
        requests: Requests answered, by method and path.
        sent_bytes: Bytes of files sent.
    """

    datasets: dict[str, dict[str, bytes]] = field(default_factory=dict)
    models: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refusal: str = ""
    refused_requests: int | None = None
    bytes_per_s: float = 0.0
    drop_after_bytes: int = 0
    requests: Counter[tuple[str, str]] = field(default_factory=Counter)
    sent_bytes: int = 0
    _port: int = 0
    _server: ThreadingHTTPServer | None = None
    _undropped_bytes: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Its address, for HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Begin to answer, on the port of before if there was one."""
        hub = self

        class Handler(_Handler):
            server_hub = hub

        ThreadingHTTPServer.allow_reuse_address = True
        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        """Answer no more; connections are refused."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def environment(self, cache: Any) -> dict[str, str]:
        """Return the variables that point the clients here.

        Args:
            cache: Folder of their caches.
        """
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(cache),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }

    def refuse(self) -> tuple[int, str] | None:
        """Count one request, and return how it is refused, None if it is answered."""
        with self._lock:
            if not self.refusal or self.refused_requests == 0:
                return None
            if self.refused_requests is not None:
                self.refused_requests -= 1
            return _REFUSALS[self.refusal]

    def count(self, size_bytes: int) -> bool:
        """Count bytes that were sent, and return whether the connection is cut now."""
        with self._lock:
            self.sent_bytes += size_bytes
            self._undropped_bytes += size_bytes
            if self.drop_after_bytes and self._undropped_bytes >= self.drop_after_bytes:
                self._undropped_bytes = 0
                return True
            return False


class _Handler(BaseHTTPRequestHandler):
    server_hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub = self.server_hub
        address = urllib.parse.urlsplit(self.path)
        path = urllib.parse.unquote(address.path)
        size_bytes = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size_bytes)
        hub.requests[self.command, path] += 1

        refused = hub.refuse()
        if refused is not None:
            status, code = refused
            self._send_json({"error": code or "refused"}, status, {"X-Error-Code": code} if code else {})
            return

        try:
            self._route(path, body)
        except KeyError:
            # The file may be missing, or the whole repository.
            known = any(f"/{name}/" in f"{path}/" for name in (*hub.datasets, *hub.models))
            code = "EntryNotFound" if known else "RepoNotFound"
            self._send_json({"error": "not found"}, 404, {"X-Error-Code": code, "X-Repo-Commit": _COMMIT})
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, path: str, body: bytes) -> None:
        hub = self.server_hub
        kind, repositories = "models", hub.models
        parts = path.strip("/").split("/")
        if parts[0] == "cdn":
            kind, repositories = parts[1], getattr(hub, parts[1])
            self._send_file(repositories["/".join(parts[2:4])]["/".join(parts[4:])])
        elif parts[0] == "api":
            repositories = getattr(hub, parts[1]) if parts[1] in ("datasets", "models") else {}
            self._send_api("/".join(parts[2:4]), repositories, parts[4:], body)
        else:
            if parts[0] == "datasets":
                kind, repositories, parts = "datasets", hub.datasets, parts[1:]
            name, file = "/".join(parts[:2]), "/".join(parts[4:])
            if parts[2] != "resolve":
                raise KeyError(path)
            self._send_resolved(kind, name, file, repositories[name][file])

    def _send_api(self, name: str, repositories: dict[str, dict[str, bytes]], rest: list[str], body: bytes) -> None:
        files = repositories[name]
        if not rest or rest[0] == "revision":
            siblings = [{"rfilename": file} for file in files]
            self._send_json(
                {"id": name, "sha": _COMMIT, "private": False, "gated": False, "tags": [], "siblings": siblings}
            )
        elif rest[0] == "tree":
            self._send_json(_tree(files, "/".join(rest[2:]), "recursive=true" in self.path.lower()))
        elif rest[0] == "paths-info":
            asked = urllib.parse.parse_qs(body.decode())
            if self.headers.get("Content-Type", "").startswith("application/json"):
                asked = json.loads(body)
            everything = _tree(files, "", True)
            self._send_json([entry for entry in everything if entry["path"] in asked["paths"]])
        else:
            raise KeyError(name)

    def _send_resolved(self, kind: str, name: str, file: str, content: bytes) -> None:
        headers = {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": _COMMIT, "Accept-Ranges": "bytes"}
        if not file.endswith((".parquet", ".gz", ".zst")):
            self._send_file(content, headers)
            return

        # Large files lie on another host; what they are is told here.
        headers["X-Linked-ETag"] = headers["ETag"]
        headers["X-Linked-Size"] = str(len(content))
        headers["Location"] = (
            f"{self.server_hub.url.replace('127.0.0.1', 'localhost')}/cdn/{kind}/{name}/{urllib.parse.quote(file)}"
        )
        self._start(302, 0, headers)

    def _send_file(self, content: bytes, headers: Mapping[str, str] | None = None) -> None:
        status, part, more = 200, content, dict(headers or {})
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes="):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            start = int(first)
            stop = min(len(content), int(last) + 1 if last else len(content))
            status, part = 206, content[start:stop]
            more["Content-Range"] = f"bytes {start}-{stop - 1}/{len(content)}"

        self._start(status, len(part), more)
        if self.command == "HEAD":
            return
        for begin in range(0, len(part), _CHUNK_BYTES):
            chunk = part[begin : begin + _CHUNK_BYTES]
            self.wfile.write(chunk)
            if self.server_hub.bytes_per_s:
                time.sleep(len(chunk) / self.server_hub.bytes_per_s)
            if self.server_hub.count(len(chunk)):
                self.close_connection = True
                return

    def _send_json(self, value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        content = json.dumps(value).encode()
        self._start(status, len(content), {"Content-Type": "application/json", **(headers or {})})
        if self.command != "HEAD":
            self.wfile.write(content)

    def _start(self, status: int, size_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()


def _etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _tree(files: Mapping[str, bytes], folder: str, recursive: bool) -> list[dict[str, Any]]:
    """Return what a tree request answers: files and folders below a folder, those inside of it alone unless recursive.

    Raises:
        KeyError: There is no such folder.
    """
    prefix = f"{folder}/" if folder else ""
    entries: dict[str, dict[str, Any]] = {}
    for path, content in sorted(files.items()):
        if not path.startswith(prefix):
            continue
        below = path.removeprefix(prefix).split("/")
        for depth in range(1, len(below)):
            name = prefix + "/".join(below[:depth])
            if recursive or depth == 1:
                entries[name] = {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
        if recursive or len(below) == 1:
            oid = _etag(content)[:40]
            entries[path] = {"type": "file", "path": path, "oid": oid, "size": len(content)}

    if not entries and folder:
        raise KeyError(folder)
    return list(entries.values())
