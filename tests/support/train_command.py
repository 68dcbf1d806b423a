"""`autotune train` on a file, in processes of its own, and what it leaves in its folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import tomli_w

from model.config import TrainConfig
from model.training import checkpoint

# Far beyond what anything here takes on a slow and busy machine: it only ends a test that hangs.
PATIENCE_S = 120.0


class TrainCommand:
    """One configuration file and the folder that it is trained in, again and again.

    Args:
        folder: An empty folder.
        config: What to train; its output folder is the command's.
        tokens: For how long.
    """

    def __init__(self, folder: Path, config: TrainConfig, tokens: int) -> None:
        self.file, self.out = folder / "best_config.toml", folder / "out"
        fields = config.model_dump(mode="json", exclude_none=True)
        self.file.write_text(tomli_w.dumps({"trainer": "model.train:train", "tokens": tokens, "config": fields}))

    def start(self, processes: int = 1) -> subprocess.Popen[str]:
        """Start it, by torchrun if there are to be several processes."""
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        command = [sys.executable, *(launcher if processes > 1 else []), "-m", "autotune", "train", str(self.file)]
        return subprocess.Popen(
            [*command, "--folder", str(self.out)],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, processes: int = 1) -> str:
        """Run it to its end and return what it says."""
        process = self.start(processes)
        text, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0, text
        return text

    def kept(self) -> list[int]:
        """Return the numbers of sequences at which there are checkpoints, in order."""
        return sorted(int(path.stem.split("-")[1]) for path in (self.out / "checkpoints").glob("*.safetensors"))

    def wait_until_kept(self, process: subprocess.Popen[str], sequences: int) -> None:
        """Wait until a running process has kept a checkpoint of so many sequences or more."""
        end = time.monotonic() + PATIENCE_S
        while not self.kept() or self.kept()[-1] < sequences:
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < end, "waited in vain"
            time.sleep(0.001)

    def curve(self) -> list[dict[str, float]]:
        """Return all points of a finished run but the last: those in its newest checkpoint."""
        newest = max((self.out / "checkpoints").glob("*.safetensors"))
        points: list[dict[str, float]] = checkpoint.read(newest).state["points"]
        return points

    def final(self) -> dict[str, Any]:
        """Return the last evaluation of a finished run: loss, accuracy and more."""
        evaluation: dict[str, Any] = json.loads((self.out / "export" / "results.json").read_text())["evaluation"]
        return evaluation

    def weights(self) -> Path:
        """Return the exported weights' file."""
        return self.out / "export" / "model.safetensors"


def ranks_of(process: subprocess.Popen[str]) -> dict[int, psutil.Process]:
    """Return the processes that a torchrun has started, by rank."""
    return {int(child.environ()["RANK"]): child for child in psutil.Process(process.pid).children()}
