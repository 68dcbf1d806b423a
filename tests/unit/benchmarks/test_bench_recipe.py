"""The benchmark of the default settings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_recipe import FIRST_SETTINGS, interval
from scipy.stats import ttest_1samp

from autotune.core.config_paths import flatten
from autotune.study.study_file import load


def test_an_interval_is_students() -> None:
    differences = np.array([0.1, 0.3, 0.2, 0.25])
    low, high = ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert interval(differences) == f"{differences.mean():+.4f} ± {(high - low) / 2:.4f}"


@pytest.mark.parametrize("study", ["overnight", "quickstart"])
def test_the_first_settings_are_settings_of_the_studies(study: str) -> None:
    assert FIRST_SETTINGS.keys() <= flatten(load(Path(f"studies/{study}.toml")).spec.base).keys()
