"""How wishes are written on the command line."""

from __future__ import annotations

import time
from datetime import datetime
from typing import Any

import pytest

from autotune.cli.steer import end_of, parse_range, parse_settings
from autotune.core.errors import UserError


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("optim.muon_lr=0.02", {"optim.muon_lr": 0.02}),
        ('"optim.muon_lr" = 1e-2, model.dropout=0.1', {"optim.muon_lr": 0.01, "model.dropout": 0.1}),
        ('layers = 4, name = "a, b", bias = true', {"layers": 4, "name": "a, b", "bias": True}),
        ("", {}),
    ],
)
def test_settings_of_a_trial(text: str, settings: dict[str, Any]) -> None:
    assert parse_settings(text) == settings


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("lr=0.01..0.05", ("lr", [0.01, 0.05])),
        ("optim.muon_lr = 1e-4 .. 1", ("optim.muon_lr", [0.0001, 1])),
        ('"optim.muon_lr"=-2..-1', ("optim.muon_lr", [-2, -1])),
        ("layers=4,8", ("layers", [4, 8])),
        ("layers=[4, 8]", ("layers", [4, 8])),
        ("kind=adam, muon", ("kind", ["adam", "muon"])),
        ('kind="adam, w"', ("kind", ["adam, w"])),
        ("layers=4", ("layers", [4])),
    ],
)
def test_a_range_or_choices(text: str, values: tuple[str, list[Any]]) -> None:
    assert parse_range(text) == values


@pytest.mark.parametrize("text", ["lr", "lr=", "=1..2", "lr=low..high"])
def test_what_is_no_range_is_told_with_its_form(text: str) -> None:
    with pytest.raises(UserError, match=r"write SETTING=LOW\.\.HIGH, or SETTING=CHOICE,CHOICE"):
        parse_range(text)


def test_what_are_no_settings_is_told_with_their_form() -> None:
    with pytest.raises(UserError, match=r"--add 'lr 0.02': this is no TOML; write SETTING=VALUE, SETTING=VALUE"):
        parse_settings("lr 0.02")


def test_an_end_is_a_whole_minute_of_today_or_tomorrow_or_hours_from_now() -> None:
    assert end_of(None, None) is None
    until = end_of(None, "06:30")
    assert until is not None
    then = datetime.fromtimestamp(until)
    assert (then.hour, then.minute, then.second) == (6, 30, 0) and 0 < until - time.time() <= 86_400
    assert end_of(2.0, None) == pytest.approx(time.time() + 7_200, abs=600)
    with pytest.raises(UserError, match='--until: "6:30" is not a time of day'):
        end_of(None, "6:30")
