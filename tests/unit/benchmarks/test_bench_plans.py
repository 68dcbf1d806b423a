"""The README's table of cards is what the planner says today."""

from __future__ import annotations

from pathlib import Path

import bench_plans


def test_the_readme_has_the_table() -> None:
    readme = (Path(__file__).parents[3] / "README.md").read_text(encoding="utf-8")
    assert bench_plans.table() in readme
