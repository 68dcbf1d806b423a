"""The GPU's kernels, compiled for cards that are not there: a training on tensors that have shapes and no numbers.

Triton generates code for any card and brings NVIDIA's assembler, so that neither a GPU nor a driver is needed.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

from autotune.core.config_paths import with_paths
from autotune.study.study_file import load
from model.config import TrainConfig
from model.ops import fused, grouped
from model.optim import MuonAdamW
from model.training.learner import Learner

SHARED_KIB = {75: 64, 80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
"""Most shared memory of a block, by compute capability: T4, A100, RTX 30, RTX 40 with L4, H100, B200, RTX 50.
Source: CUDA C++ Programming Guide, table of technical specifications per compute capability."""
SHAPES = {"overnight, 8 experts": 8, "overnight, 16 experts": 16, "quickstart": 4}
"""Studies that ship, with a number of experts that they search."""


@dataclass(frozen=True)
class Compiled:
    """A kernel, assembled for one card.

    Args:
        name: Of the function.
        ptx: Its instructions, before they were assembled.
        shared_bytes: Shared memory of a block.
        registers: Of a thread.
        stack_bytes: Of a thread; what does not fit into registers lies there.
    """

    name: str
    ptx: str
    shared_bytes: int
    registers: int
    stack_bytes: int


class _AbsentCard:
    """Answers what Triton asks a driver before it compiles."""

    def __init__(self, capability: int) -> None:
        self._capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._capability, 32)

    def get_current_device(self) -> int:
        return self._capability  # kernels are kept by device

    def get_current_stream(self, device: int) -> int:
        return 0


def usual_dtype(capability: int) -> torch.dtype:
    """Return the number format of passes on a card, as `model.ops.precision.choose_dtype` chooses it."""
    return torch.bfloat16 if capability >= 80 else torch.float16


def compiled_kernels(shape: str, capability: int, dtype: torch.dtype) -> list[Compiled]:
    """Return every kernel that a pass, an update and an evaluation launch, each once.

    Args:
        shape: One of `SHAPES`.
        capability: Compute capability of the card, 75 for 7.5.
        dtype: Number format of passes.
    """
    study = load(Path(__file__).parents[2] / "studies" / f"{shape.partition(',')[0]}.toml")
    config = TrainConfig.model_validate(with_paths(study.spec.base, {"model.num_experts": SHAPES[shape]}))

    # Of products with several tiles to choose from, all are assembled at one shape, for the oldest and the newest card
    # with the least shared memory: each takes seconds.
    all_tiles = shape == next(iter(SHAPES)) and capability in (86, 120)
    with _on_absent_card(capability, all_tiles) as kernels, torch.device("meta"):
        learner = Learner(config, config.data.vocab_size, torch.device("meta"), dtype)
        if dtype != torch.float32:
            learner.optimizer.muon.dtype = torch.float16  # as on a GPU

        tokens = torch.zeros(config.pass_sequences, config.model.seq_len, dtype=torch.int32)
        learner.accumulate(tokens, tokens)
        learner.update(1.0)
        learner.model.eval()
        learner.score(tokens, tokens)

    return [_assembled(kernel) for kernel in kernels.values()]


@contextlib.contextmanager
def _on_absent_card(capability: int, all_tiles: bool) -> Iterator[dict[str, triton.compiler.CompiledKernel]]:
    """Compile what is launched, for a card, and launch nothing; what is compiled is kept by its hash."""
    kernels: dict[str, triton.compiler.CompiledKernel] = {}
    launch = JITFunction.run

    def compile_only(self: JITFunction, *args: object, warmup: bool, **settings: object) -> None:
        kernel = launch(self, *args, warmup=True, **settings)
        kernels[kernel.hash] = kernel

    def each_config(self: Autotuner, *args: object, **settings: object) -> None:
        for config in self.configs if all_tiles else self.configs[:1]:
            self.fn.run(*args, **settings, **config.all_kwargs())

    def grouped_shape(a: Tensor, b: Tensor, offs: Tensor) -> Tensor:
        is_by_rows = b.dim() == 3
        return a.new_empty(len(a), b.shape[-1]) if is_by_rows else a.new_empty(len(offs), len(a), b.shape[1])

    before = driver._active
    driver.set_active(_AbsentCard(capability))
    try:
        with (
            mock.patch.object(JITFunction, "run", compile_only),
            mock.patch.object(Autotuner, "run", each_config),
            mock.patch.object(fused, "available", return_value=True),
            mock.patch.object(grouped, "way", lambda _, dtype: grouped.way_on(divmod(capability, 10), dtype)),
            # What has no kernel of ours: torch's own knows only shapes of bf16, or none.
            mock.patch.object(torch.nn.functional, "grouped_mm", grouped_shape),
            mock.patch.object(MuonAdamW, "_update_rest", autospec=True),
            mock.patch.object(Learner, "start", autospec=True),
        ):
            yield kernels
    finally:
        driver.set_active(before)


def _assembled(kernel: triton.compiler.CompiledKernel) -> Compiled:
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(kernel.asm["cubin"])
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", str(cubin)]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    name, shared_bytes = kernel.metadata.name, kernel.metadata.shared
    return Compiled(name, kernel.asm["ptx"], shared_bytes, int(found[1]), int(found[2]))
