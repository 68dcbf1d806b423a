"""Studies that the tests of the reports share."""

from __future__ import annotations

import pytest
import study_builder

from autotune.store.study_record import StudyRecord


@pytest.fixture
def night() -> StudyRecord:
    """A finished study of 12 trials whose numbers can be worked out by hand."""
    return study_builder.study()


@pytest.fixture(scope="session")
def forty() -> StudyRecord:
    """A finished study of 40 trials, enough for importance."""
    return study_builder.large_study(40, 20)
