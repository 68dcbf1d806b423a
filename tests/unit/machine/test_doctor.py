"""The doctor: its real answer for this machine, and hand cases for machines that are not here."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.machine import doctor
from autotune.machine.doctor import diagnose, exit_code, render, to_json
from autotune.machine.doctor_gpu import Finding, Machine

# ---- this machine -------------------------------------------------------------------------------------------------


def test_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed_port()}")
    findings = diagnose(tmp_path / "runs" / "not-there-yet")
    levels = {finding.subject: finding.level for finding in findings}
    assert levels["python"] == levels["torch"] == levels["writing"] == "ok"
    assert levels["hub"] == "warn"
    assert not [finding for finding in findings if "check itself failed" in finding.message]
    assert all(finding.remedy for finding in findings if finding.level != "ok")
    assert list(tmp_path.iterdir()) == []
    assert len(render(findings).splitlines()) == len(findings)
    assert json.loads(json.dumps(to_json(findings)))["findings"][0]["subject"] == "python"


def test_crashing_check_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def check_broken_thing(machine: Machine) -> list[Finding]:
        raise KeyError("surprise")

    monkeypatch.setattr(doctor, "CHECKS", (doctor.check_python, check_broken_thing, doctor.check_ram))
    findings = diagnose(tmp_path)
    assert [finding.subject for finding in findings] == ["python", "broken thing", "ram"]
    assert findings[1].level == "warn"
    assert "KeyError: 'surprise'" in findings[1].message
    assert exit_code(findings) == 0


def test_python_version() -> None:
    assert doctor.python_finding((3, 11, 0)).level == "ok"
    assert doctor.python_finding((3, 10, 14)).level == "fail"


# ---- disk, network, browser ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("free_bytes", "level"), [(5 * 10**8, "fail"), (5 * 10**9, "warn"), (5 * 10**10, "ok")])
def test_free_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, free_bytes: int, level: str) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free_bytes))
    (finding,) = doctor.check_disk(Machine(tmp_path))
    assert finding.level == level


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    path.write_text("not a folder")
    for folder in (path, path / "study"):
        (finding,) = doctor.check_writing(Machine(folder))
        assert finding.level == "fail"
        assert finding.message == f"cannot write in {path}: Not a directory"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_read_only_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    (finding,) = doctor.check_writing(Machine(tmp_path))
    assert finding.level == "fail"


def test_slow_disk_is_a_warning(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_SLOW_WRITE_S", 0.0)
    assert doctor.check_writing(Machine(tmp_path))[0].level == "warn"


def closed_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Hub(BaseHTTPRequestHandler):
    """Answers HEAD: 200 at the root, 503 elsewhere."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


def test_hub_reached_refused_and_silent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with HTTPServer(("127.0.0.1", 0), Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert hub_finding(monkeypatch, f"{address}/").level == "ok"
        assert "HTTP status 503" in hub_finding(monkeypatch, f"{address}/down").message
        server.shutdown()
    refused = hub_finding(monkeypatch, f"http://127.0.0.1:{closed_port()}")
    assert "refused" in refused.message
    assert "work offline" in refused.remedy
    monkeypatch.setattr(doctor, "_HUB_TIMEOUT_S", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        assert hub_finding(monkeypatch, f"http://127.0.0.1:{silent.getsockname()[1]}").level == "warn"


def hub_finding(monkeypatch: pytest.MonkeyPatch, address: str) -> Finding:
    monkeypatch.setenv("HF_ENDPOINT", address)
    (finding,) = doctor.check_hub(Machine(Path()))
    return finding


def test_browser(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("BROWSER_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = doctor.check_browser(Machine(tmp_path))
    assert finding.level == "warn"
    assert finding.message.startswith("PNG skipped: ")
    browser = tmp_path / "chromium"
    browser.write_text("#!/bin/sh\n")
    browser.chmod(0o755)
    (tmp_path / "kaleido.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.check_browser(Machine(tmp_path)) == [Finding("ok", "browser", f"PNG export through {browser}")]


# ---- what is printed -----------------------------------------------------------------------------------------------


def test_lines_are_aligned_and_harmless() -> None:
    findings = [
        Finding("ok", "ram", "8.0 GiB free"),
        Finding("warn", "browser", "PNG skipped", "install \x1b[31mit"),
        Finding("fail", "disk", "full\nfake line", "free some"),
    ]
    assert render(findings) == (
        "ok    ram:     8.0 GiB free\n"
        "warn  browser: PNG skipped  -> install ?[31mit\n"
        "fail  disk:    full?fake line  -> free some"
    )
    assert render([]) == ""


def test_only_a_failure_changes_the_exit_code() -> None:
    assert exit_code([]) == exit_code([Finding("ok", "a", ""), Finding("warn", "b", "", "c")]) == 0
    assert exit_code([Finding("ok", "a", ""), Finding("fail", "b", "", "c")]) == 3
    assert to_json([Finding("fail", "b", "m", "c")]) == {
        "exit_code": 3,
        "findings": [{"level": "fail", "subject": "b", "message": "m", "remedy": "c"}],
    }
