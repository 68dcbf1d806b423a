"""Shared by the tests of study files."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_text import TEXT


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The study file in a folder of its own."""
    file = tmp_path / "night.toml"
    file.write_text(TEXT)
    return file
