"""Shared by every kind of test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# A test asserts no speed: an example that waited for a busy machine is no fault.
settings.register_profile("no speed", deadline=None)
settings.load_profile("no speed")


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Matrices in tests are tiny; a second thread only waits, and for long on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
