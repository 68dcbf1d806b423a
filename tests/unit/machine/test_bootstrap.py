"""Setting up: which torch is kept, what is pinned, what an old Python is told."""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from autotune.machine import bootstrap


@pytest.mark.parametrize(
    ("version", "recent"),
    [("2.9.1+cu126", False), ("2.10.0", True), ("2.13.0+cpu", True), ("3.0.0a0", True), ("unknown", False)],
)
def test_only_a_torch_with_grouped_products_is_kept(version: str, recent: bool) -> None:
    assert bootstrap.is_recent(version) is recent


def test_every_version_is_exact_and_torch_gives_way_to_the_machines_own() -> None:
    pinned = bootstrap.constraints(keep_torch=False).splitlines()[1:]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[^+\s]+", line) for line in pinned)
    assert set(pinned) - set(bootstrap.constraints(keep_torch=True).splitlines()) == {
        line for line in pinned if line.startswith(("torch==", "triton=="))
    }


def test_a_torch_without_a_gpu_does_not_count() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a working GPU torch")
    assert bootstrap.working_gpu_torch() is None


def test_an_environment_sees_the_packages_beside_torch_after_its_own(tmp_path: Path) -> None:
    """The folder stands for another virtual environment's, which `system_site_packages` would not show."""
    packages = tmp_path / "elsewhere"
    for name in ("pip", "machine_only"):
        (packages / name).mkdir(parents=True)
        (packages / name / "__init__.py").write_text("")
    venv.create(tmp_path / "env", with_pip=True)
    bootstrap.share_packages(tmp_path / "env", packages)
    code = "import machine_only, pip; print(machine_only.__file__, pip.__file__, sep='\\n')"
    python = str(tmp_path / "env" / "bin" / "python")
    seen = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    shared, own = seen.stdout.split()
    assert shared.startswith(str(packages))
    assert own.startswith(str(tmp_path / "env"))


def test_lock_writes_exact_versions_without_local_parts(tmp_path: Path) -> None:
    bootstrap.lock(tmp_path / "constraints.txt")
    text = (tmp_path / "constraints.txt").read_text()
    assert re.search(r"^optuna==5", text, flags=re.MULTILINE)
    assert "+cpu" not in text
    assert "autotune" not in text


def test_an_old_python_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "MIN_PYTHON", (99, 0))
    with pytest.raises(SystemExit, match=r"too old: 99\.0 or newer is needed; try: make PYTHON=python99\.0"):
        bootstrap.main([".venv", "."])


def test_a_failing_install_ends_with_the_command(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, bootstrap.__file__, str(tmp_path / "venv"), "./no-such-folder"],
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert ended.returncode == 1
    assert "setting up failed" in ended.stderr


def test_an_environment_without_pip_gets_this_pythons_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Colab, whose Python lacks ensurepip."""
    (tmp_path / "packages").mkdir()
    monkeypatch.setattr(bootstrap, "_has_ensurepip", lambda: False)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "packages"))
    with pytest.raises(subprocess.CalledProcessError) as failed:
        bootstrap.create(tmp_path / "venv", ".")
    python = str(tmp_path / "venv" / "bin" / "python")
    assert failed.value.cmd == [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"]
    assert not (tmp_path / "venv" / "bin" / "pip").exists()
