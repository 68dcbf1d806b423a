"""A study in a notebook's cell: short, escaped, without scripts."""

from __future__ import annotations

import re
from html import unescape

import pytest
import study_builder

from reports.card import study_card


@pytest.mark.parametrize("name", study_builder.STUDIES)
def test_every_kind_of_study_has_a_short_card_without_scripts(name: str) -> None:
    html = study_card(study_builder.STUDIES[name](), "done")
    assert len(html) < 8_000
    assert set(re.findall(r"<(\w+)", html)) == {"div", "style", "p", "code"}
    # No rule reaches beyond the card.
    style = html.partition("<style>")[2].partition("</style>")[0]
    assert all(rule.startswith(".autotune-card") for rule in style.split("}") if rule)


def test_a_card_says_what_the_console_says() -> None:
    html = unescape(study_card(study_builder.study(), "done"))
    assert re.search(r'class="autotune-verdict">✓ better: ', html)
    assert "<code>autotune promote night" in html and "95 % interval" in html


def test_names_stay_text() -> None:
    record = study_builder.study(spec=study_builder.spec(title="<script>alert(1)</script>&"))
    assert "<script>" not in study_card(record, "done")
