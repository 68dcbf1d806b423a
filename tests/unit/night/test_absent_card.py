"""A plan for a card that is not there, by hand-worked numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from capacity_case import counting_study

from autotune.core.errors import UserError
from autotune.engine.deadline import Deadline
from autotune.machine.cards import CARDS
from autotune.machine.hardware import HardwareProfile
from autotune.night.absent_card import survey_of
from autotune.study.study_file import Study
from autotune.study.trainer import load_trainer


def card(name: str) -> HardwareProfile:
    """One of a million operations and a million bytes a second."""
    profile = CARDS[name].profile()
    return replace(profile, matmul_flops={profile.dtype: 1e6}, copy_bytes_per_s=1e6)


def reasoned(folder: Path) -> Study:
    return replace(counting_study(folder), trainer=load_trainer("reasoned_trainer:train"))


def test_operations_and_bytes_add_up(tmp_path: Path) -> None:
    """A pass of 8 sequences of 10 tokens: 8e6 operations in 8 s and 2e6 bytes in 2 s; an update: 4 and 1 s."""
    baseline = survey_of(reasoned(tmp_path), card("A100"), {"train_tokens": 7}, Deadline()).baseline
    assert baseline.tokens_per_s == pytest.approx(80 / (10 + 5))
    assert baseline.eval_s == pytest.approx(5 * 10)
    assert (baseline.facts["train_tokens"], baseline.facts["dtype"]) == (7, "bfloat16")


def test_a_host_that_is_slower_than_the_card_decides(tmp_path: Path) -> None:
    fast = replace(card("T4"), matmul_flops={"fp16": 1e12}, copy_bytes_per_s=1e12)
    baseline = survey_of(reasoned(tmp_path), fast, {}, Deadline()).baseline
    assert baseline.tokens_per_s == pytest.approx(80 / 0.5, rel=1e-3)


def test_the_plan_reckons_with_the_passes_that_it_chooses(tmp_path: Path) -> None:
    """The host takes half a second for a pass of any size, so that the trials' passes are larger than the probe's."""
    study, fast = reasoned(tmp_path), replace(card("T4"), matmul_flops={"fp16": 1e12}, copy_bytes_per_s=1e12)
    study = replace(study, spec=study.spec.model_copy(update={"base": _accumulating(study)}))
    survey = survey_of(study, fast, {}, Deadline())
    assert survey.plan.max_pass_sequences == 32
    assert survey.plan.tokens_per_s == pytest.approx(4 * survey.baseline.tokens_per_s, rel=1e-3)


def _accumulating(study: Study) -> dict[str, dict[str, int]]:
    return {**study.spec.base, "optim": {"grad_accum_steps": 4}}


def test_a_trainer_that_counts_too_little_is_told_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs pass_moved_bytes, .*run `autotune plan` on the card itself"):
        survey_of(counting_study(tmp_path), card("A100"), {}, Deadline())
