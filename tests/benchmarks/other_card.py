"""The GPU's kernels as another card would have them, run on the card at hand."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from triton.backends.nvidia.compiler import CUDABackend
from triton.runtime import driver


def pretend(capability: int) -> None:
    """Make this process choose kernels and generate their code for another compute capability, from now on.

    Triton's instructions for an older card are assembled for the one at hand, which can run them; what libraries do
    inside, they still do for the card at hand.

    Args:
        capability: 75 for 7.5; not above that of the card at hand.
    """
    major, minor = torch.cuda.get_device_capability()
    assemble = CUDABackend.make_cubin

    def answer(device: object = None) -> tuple[int, int]:
        return divmod(capability, 10)

    def assemble_for_this_card(self: CUDABackend, source: str, metadata: object, options: object, _: int) -> bytes:
        return assemble(self, source, metadata, options, 10 * major + minor)

    torch.cuda.get_device_capability = answer
    driver.active.get_device_capability = answer
    CUDABackend.make_cubin = assemble_for_this_card
    # What is assembled here does not run on the other card itself.
    cache = Path(tempfile.gettempdir()) / f"triton-{capability}-on-{major}{minor}-{os.getuid()}"
    os.environ["TRITON_CACHE_DIR"] = str(cache)
