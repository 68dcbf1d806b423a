"""The checkpoints of one training run: when the next one is due, what it holds, and how a run resumes from it."""

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.config import OutputConfig, TrainConfig
from model.training import checkpoint
from model.training.learner import Learner

_OTHER_RUNS = (
    "the checkpoints in {folder} are of another run, or of a version that gave the single expert of a token the "
    "weight 1, where it is its probability now; the run begins anew"
)


def run_identity(
    config: TrainConfig, budget_tokens: int, data_hash: str, device: torch.device, dtype: torch.dtype
) -> str:
    """Return a name for what makes two runs the same run; outputs, caches and memory caps do not count.

    Args:
        config: The configuration as the caller gave it.
        budget_tokens: Training tokens.
        data_hash: Hash of the tokens of both splits.
        device: Where the run computes; only its type counts.
        dtype: Number format of forward and backward passes.

    Returns:
        12 hexadecimal digits.
    """
    fields = config.model_dump(mode="json", exclude={"output": True, "data": {"cache_dir", "expected_hash"}})
    fields["system"] |= {"memory_bytes": 0, "device": device.type, "dtype": str(dtype)}
    if config.data.split == "train":
        del fields["data"]["split"]  # runs of before that setting have none, and go on
    if not config.model.normalises_weights:
        fields["normalises"] = False  # unlike the runs of a version that normalised always
    text = json.dumps([fields, budget_tokens, data_hash], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class RunCheckpoints:
    """Where and when one run saves its state.

    Args:
        output: Folder, intervals and how many checkpoints to keep. Without a folder nothing is ever due.
        identity: What `run_identity` returns for the run.
    """

    def __init__(self, output: OutputConfig, identity: str) -> None:
        self._output = output
        self._identity = identity
        self._folder = Path(output.dir) / "checkpoints"
        self._saved_tokens = 0
        self._saved_s = time.perf_counter()

    @property
    def enabled(self) -> bool:
        """Whether the run keeps checkpoints."""
        return bool(self._output.dir)

    def due(self, tokens_seen: int) -> bool:
        """Tell whether enough tokens or seconds have passed since the last checkpoint."""
        if not self.enabled:
            return False

        every_tokens = self._output.checkpoint_every_tokens
        if every_tokens and tokens_seen // every_tokens > self._saved_tokens // every_tokens:
            return True

        return time.perf_counter() - self._saved_s >= self._output.checkpoint_every_s

    def save(self, learner: Learner, sequences: int, tokens_seen: int, state: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Args:
            learner: Its tensors are saved.
            sequences: Sequences trained so far; part of the file's name.
            tokens_seen: Tokens trained so far.
            state: The rest of the run, JSON values.
        """
        tensors = {}
        for part, named in learner.state_tensors().items():
            for name, tensor in named.items():
                tensors[f"{part}/{name}"] = tensor

        state = {**state, "pending": learner.pending}
        if not learner.config.model.normalises_weights:
            state["normalises"] = False
        checkpoint.save(self._folder, self._identity, sequences, tensors, state, self._output.keep_checkpoints)
        self._saved_tokens = tokens_seen
        self._saved_s = time.perf_counter()

    def load_newest(self, learner: Learner) -> tuple[dict[str, Any] | None, list[str]]:
        """Load the newest checkpoint's tensors into the learner.

        Returns:
            What was given to `save` as the run's state, or None where there is no checkpoint, and a notice for each
            damaged checkpoint that was passed over.
        """
        newest, notices = checkpoint.load_newest(self._folder, self._identity)
        if newest is None:
            if not learner.config.model.normalises_weights and any(self._folder.glob(f"*{checkpoint.SUFFIX}")):
                notices.append(_OTHER_RUNS.format(folder=self._folder))
            return None, notices

        parts: dict[str, dict[str, Tensor]] = {}
        for path, tensor in newest.tensors.items():
            part, name = path.split("/", 1)
            parts.setdefault(part, {})[name] = tensor

        learner.load_state_tensors({**parts}, newest.state["pending"])
        return newest.state, notices

    def resumed_at(self, tokens_seen: int) -> None:
        """Count the tokens until the next checkpoint from here."""
        self._saved_tokens = tokens_seen


def convert_sums(learner: Learner, ratio: float, keep: bool) -> None:
    """Count what was summed over passes of another size in passes of this run's, once among all processes.

    Args:
        learner: One that has loaded the checkpoint's tensors.
        ratio: Sequences of a pass of the run that wrote the checkpoint, over those of a pass of this run.
        keep: Whether this process keeps the sums; the others begin with none.
    """
    learner.pending *= ratio
    if not keep:
        learner.weights.clear_gradients()
        learner.clear_meters()

    # Not the experts' load, which counts tokens and not passes.
    gradients = [group.grad for group in learner.weights.groups.values()]
    for total in (*gradients, learner.meters["loss"], learner.meters["aux_loss"]):
        total.mul_(ratio)
