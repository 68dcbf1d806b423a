"""Figures are printed, and kept only where that was asked for."""

from __future__ import annotations

from pathlib import Path

import pytest
import results


def test_figures_are_added_as_a_section_of_their_own_only_if_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "RESULTS.md"
    kept.write_text("# Measured\n")
    monkeypatch.setattr(results, "RESULTS", kept)

    results.publish(["## One", "1 ü"], append=False)
    assert kept.read_text() == "# Measured\n"

    results.publish(["## Two", "2 ü"], append=True)
    assert kept.read_text(encoding="utf-8") == "# Measured\n\n## Two\n2 ü\n"
    assert capsys.readouterr().out == "## One\n1 ü\n## Two\n2 ü\n"
