import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Matrices here are tiny; a second thread only waits, and for long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
