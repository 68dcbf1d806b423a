import math

import pytest

from reports import formats


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("two\nlines\tand  spaces", "two lines and spaces"),
        ("bell\x07 and escape\x1b[31m", "bell\ufffd and escape\ufffd[31m"),
        ("left\u202eright", "left\ufffdright"),
        ("half\ud800pair", "half\ufffdpair"),
        ("x" * 400, "x" * 299 + "…"),
        (12, "12"),
    ],
)
def test_plain_is_one_short_line_without_control_characters(text: object, expected: str) -> None:
    assert formats.plain(text) == expected


def test_label_leaves_nothing_that_plotly_would_read_as_html_or_template() -> None:
    assert formats.label("<a href='x'>&lt;%{y}") == "&lt;a href='x'&gt;&amp;lt;%\u200b{y}"


def test_markdown_escapes_tables_links_and_html() -> None:
    assert formats.markdown("a|b <i>[x](y)`") == "a\\|b &lt;i&gt;\\[x\\](y)\\`"


@pytest.mark.parametrize("value", [None, True, "4.2", math.nan, math.inf, -math.inf, [1.0]])
def test_finite_refuses_what_is_no_finite_number(value: object) -> None:
    assert formats.finite(value) is None


def test_finite_takes_whole_numbers() -> None:
    assert formats.finite(3) == 3.0


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(12.4, "12 s"), (600.0, "10 min"), (9000.0, "2.5 h"), (None, "not reported"), (math.nan, "not reported")],
)
def test_duration_takes_the_unit_of_a_person(seconds: float | None, expected: str) -> None:
    assert formats.duration(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, "on"),
        (0.0, "0"),
        (0.031234, "0.0312"),
        (0.9996, "0.9996"),
        (1.0, "1"),
        (1000.5, "1000.5"),
        (2e6, "2e+06"),
        (49152, "49,152"),
        (8, "8"),
        (None, "not reported"),
        ("a", "a"),
    ],
)
def test_setting_is_written_as_a_person_would(value: object, expected: str) -> None:
    assert formats.setting(value) == expected


@pytest.mark.parametrize(
    ("amount", "expected"),
    [
        (950, "950 tokens"),
        (8_000, "8K tokens"),
        (6_100_000, "6.1M tokens"),
        (2.5e9, "2.5B tokens"),
        (999_900, "1M tokens"),
        (999_999_999, "1B tokens"),
        (1.5e12, "1,500B tokens"),
    ],
)
def test_tokens_are_shortened(amount: float, expected: str) -> None:
    assert formats.tokens(amount) == expected


@pytest.mark.parametrize(
    ("amount", "size"), [(0.0, "0.0"), (-7.55, "7.5"), (0.05, "0.1"), (-0.0423, "0.04"), (2e-6, "2e-06")]
)
def test_a_change_that_is_there_is_never_said_to_be_nothing(amount: float, size: str) -> None:
    assert formats.change_size(amount) == size


def test_small_words() -> None:
    assert formats.count(1, "trial") == "1 trial"
    assert formats.count(1200, "trial") == "1,200 trials"
    assert (formats.signed_percent(-0.076), formats.signed_percent(0.0)) == ("−7.6 %", "+0.0 %")
    assert formats.percent(0.2154) == "21.5 %"
    assert formats.gibibytes(2**31) == "2.0 GiB"
    assert formats.local_time("not a time") is None
