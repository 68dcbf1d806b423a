"""Figures as PNG files: drawn by a real browser, skipped with the reason where there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import study_builder
from playwright.sync_api import Browser

from reports import page
from reports.figures import pictures, study_cards

SIGNATURE = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def figures() -> dict[str, object]:
    drawn = study_cards.draw_cards(study_builder.large_study(40, 20))
    return pictures.of_cards([card for card in drawn if card.key in ("best-so-far", "settings")])


def test_each_figure_has_a_file_name_of_its_own(figures: dict[str, object]) -> None:
    assert list(figures) == ["best-so-far.png", "settings.png", "settings-2.png", "settings-3.png", "settings-4.png"]


def test_pictures_are_written_where_a_browser_is(browser: Browser, figures: dict[str, object], tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    assert pictures.write_pictures(figures, tmp_path / "new") == ""

    written = sorted((tmp_path / "new").iterdir())
    assert [path.name for path in written] == sorted(figures)
    for path in written:
        content = path.read_bytes()
        assert content.startswith(SIGNATURE)
        assert int.from_bytes(content[16:20]) == pictures.WIDTH


def test_without_a_browser_the_reason_is_said_and_nothing_is_left(
    figures: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("kaleido")
    monkeypatch.setenv("BROWSER_PATH", str(tmp_path / "nothing"))
    said = pictures.write_pictures(figures, tmp_path / "new")

    assert said.startswith("PNG skipped: ") and "autotune doctor" in said
    assert list((tmp_path / "new").iterdir()) == []


def test_without_the_package_the_reason_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "find_spec", lambda name: None)
    assert pictures.write_pictures({}, tmp_path / "new").startswith("PNG skipped: the Python package kaleido")


def test_a_report_shows_its_pictures(browser: Browser, tmp_path: Path) -> None:
    pytest.importorskip("kaleido")
    assert page.add_pictures(study_builder.study(), tmp_path) == ""

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    assert "best-so-far.png" in shown and sorted(shown) == sorted(path.name for path in tmp_path.glob("*.png"))
