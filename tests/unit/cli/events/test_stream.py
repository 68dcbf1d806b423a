"""Moments that `--since` takes."""

from __future__ import annotations

import time
from datetime import datetime

import pytest

from autotune.cli.events.stream import moment
from autotune.core.errors import UserError


def test_moments_are_ago_or_at_a_time() -> None:
    assert moment("2h") == pytest.approx(time.time() - 7200, abs=60)
    assert moment("1796060000.5") == 1796060000.5
    assert moment("2026-01-31T22:00") == datetime(2026, 1, 31, 22).timestamp()
    assert moment("2026-01-31T22:00+00:00") == 1769896800


@pytest.mark.parametrize("text", ["", "soon", "2 h", "5y", "9" * 400, "nan"])
def test_other_words_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="--since"):
        moment(text)
