"""What tells the processes of a fleet apart, and what does not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autotune.core.setups import ALIKE, Device, Setup

OF_STUDY = Setup("NVIDIA A10", "bf16", {"torch": "2.8.0", "autotune-moe": "0.1.0"}, "c0de" * 4, "7e47" * 4)
T4 = replace(OF_STUDY, card="Tesla T4", dtype="fp16")


@pytest.mark.parametrize(
    ("here", "said"),
    [
        (OF_STUDY, ()),
        (T4, ("this machine trains on Tesla T4 in fp16, the study on NVIDIA A10 in bf16",)),
        (
            replace(OF_STUDY, dtype="fp16"),
            ("this machine trains on NVIDIA A10 in fp16, the study on NVIDIA A10 in bf16",),
        ),
        (replace(OF_STUDY, versions={"torch": "2.9.1"}), ("torch is 2.9.1 here, the study's is 2.8.0",)),
        (
            replace(OF_STUDY, code="beef" * 4, text="feed" * 4),
            (
                "the trainer's code is another one here: its hash is beefbeefbeef, the study's is c0dec0dec0de",
                "the text is another one here: its hash is feedfeedfeed, the study's is 7e477e477e47",
            ),
        ),
        # What is not known is not compared.
        (Setup("NVIDIA A10", "bf16"), ()),
    ],
)
def test_each_difference_is_one_sentence(here: Setup, said: tuple[str, ...]) -> None:
    assert here.differences(OF_STUDY) == said


def test_what_trains_alike_is_one_class() -> None:
    """Another code or version on the same card is another class, so that no pair of seeds is split over the two."""
    others = [T4, replace(OF_STUDY, code="beef" * 4), replace(OF_STUDY, versions={"torch": "2.9.1"})]
    names = [setup.device_class(OF_STUDY) for setup in (OF_STUDY, replace(OF_STUDY, text=""), *others)]
    assert names == [
        "NVIDIA A10 in bf16",
        "NVIDIA A10 in bf16",
        "Tesla T4 in fp16",
        "NVIDIA A10 in bf16, trainer's code beefbeefbeef",
        "NVIDIA A10 in bf16, torch 2.9.1",
    ]
    assert Setup("AMD EPYC").device_class(Setup("AMD EPYC")) == "AMD EPYC"
    assert Setup.from_json(OF_STUDY.to_json()) == OF_STUDY


def test_what_did_not_fit_needs_more_memory_than_that() -> None:
    small, large = Device("Tesla T4", 15), Device("NVIDIA A10", 22)
    assert small.is_enough_for(0) and not small.is_enough_for(15) and large.is_enough_for(15)
    # Where all are alike, nobody is spared.
    assert ALIKE.is_enough_for(15)
