"""What a hosted notebook's cell does before it runs a study: a drive is mounted where there is one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autotune.machine import hosted

ON_DRIVE = "/content/drive/MyDrive/autotune"


@pytest.fixture
def colab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Colab's own package, as far as it is asked for: mounting is noted in a file, or refused."""
    package = tmp_path / "google" / "colab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "drive.py").write_text(
        "from pathlib import Path\n"
        f"here = Path({str(tmp_path)!r})\n"
        "def mount(folder, force_remount):\n"
        "    if (here / 'refused').exists():\n"
        "        raise ValueError('mount failed')\n"
        "    (here / 'mounted').write_text(folder)\n"
    )
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.colab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name == "google" or name.startswith("google.colab")]:
        del sys.modules[name]


def test_elsewhere_there_is_no_drive() -> None:
    assert hosted.mounted("auto") == ""
    assert hosted.mounted("/mnt/disk") == "/mnt/disk"


def test_on_colab_drive_is_mounted_for_a_mirror_on_it(colab: Path) -> None:
    assert hosted.mounted("/mnt/disk") == "/mnt/disk"
    assert hosted.mounted("") == ""
    assert not (colab / "mounted").exists()
    assert hosted.mounted("auto") == ON_DRIVE
    assert (colab / "mounted").read_text() == "/content/drive"


def test_a_drive_that_is_refused_costs_the_study_nothing_else(colab: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (colab / "refused").touch()
    assert hosted.mounted(ON_DRIVE) == ""
    assert "Google Drive is not mounted (mount failed)" in capsys.readouterr().out


def test_a_command_that_fails_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    study = hosted.HostedStudy("no-such-study", mirror="", options="--device cpu")
    assert study.run() is None
    said = capsys.readouterr().out
    assert "no-such-study" in said and "has ended with exit code 2" in said and "Traceback" not in said

    study.do("autotune status 'no such study'")
    assert "no study at runs/no such study" in capsys.readouterr().out
    assert study.folder == "" and study.page() is None
