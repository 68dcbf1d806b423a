"""Cards by their data sheets: names that people write, and the profile that a plan reckons with."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotune.core.errors import UserError
from autotune.machine.cards import CARDS, card_named, card_of


@pytest.mark.parametrize(
    ("name", "card"), [("T4", "T4"), ("t4", "T4"), ("rtx  4090", "RTX 4090"), ("3060", "RTX 3060"), ("h200", "H200")]
)
def test_a_card_is_known_by_its_name_or_the_end_of_it(name: str, card: str) -> None:
    assert card_named(name) is CARDS[card]


def test_an_unknown_card_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r'no figures of a card "rtx 4080" are known; did you mean "rtx 4090"\?.*A100'):
        card_named("rtx 4080")


def test_a_profile_has_what_of_the_published_rates_is_reached() -> None:
    profile = CARDS["A100"].profile()
    assert (profile.device, profile.dtype, profile.flash_attention) == ("cuda", "bf16", True)
    assert profile.matmul_flops == {"bf16": pytest.approx(0.72 * 312e12)}
    assert profile.copy_bytes_per_s == pytest.approx(0.58 * 1_555e9)


def test_a_t4_has_no_bf16_and_is_held_by_its_power() -> None:
    profile = CARDS["T4"].profile()
    assert (profile.dtype, profile.flash_attention) == ("fp16", False)
    assert profile.matmul_flops == {"fp16": 25e12}


def test_newer_cards_have_flash_attention() -> None:
    assert CARDS["RTX 5090"].profile().flash_attention


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ("Tesla T4", "T4"),
        ("NVIDIA A100-SXM4-40GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A10G", None),
        ("NVIDIA GeForce RTX 3080", None),
    ],
)
def test_a_measured_device_is_known_by_its_name(name: str, card: str | None) -> None:
    assert card_of(replace(CARDS["T4"].profile(), name=name)) is CARDS.get(card or "")
