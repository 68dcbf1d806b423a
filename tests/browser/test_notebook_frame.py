"""A study's page in the frame that a notebook shows: it draws, and reaches nothing around it."""

from __future__ import annotations

from pathlib import Path

import study_builder
from playwright.sync_api import Browser

from autotune.core.page_frame import PageFrame
from reports.card import study_card
from reports.page import study_page


def test_the_page_draws_in_its_frame_below_the_card(browser: Browser, tmp_path: Path) -> None:
    record = study_builder.study()
    notebook = tmp_path / "notebook.html"
    html = study_card(record, "done") + PageFrame(study_page(record), 600)._repr_html_()
    notebook.write_text(f"<!doctype html><meta charset=utf-8><body>{html}</body>", encoding="utf-8")

    page = browser.new_page(viewport={"width": 900, "height": 1000})
    told: list[str] = []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.goto(notebook.as_uri())

    frame = page.frames[1]
    frame.wait_for_selector(".plot-container")
    assert frame.evaluate("window.origin") == "null"
    assert told == []
    page.close()
