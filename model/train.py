"""The one trainer, for trials and for the full run: config and budget in, points of the loss curve out."""

import torch

from model.config import SystemConfig, TrainConfig
from model.config import length_rules as length_rules  # part of the trainer's interface
from model.config import setting_roles as setting_roles  # part of the trainer's interface
from model.config import untrained_settings as untrained_settings  # part of the trainer's interface
from model.counts import counts as counts  # part of the trainer's interface
from model.data.corpus import load
from model.inference.evaluate_text import evaluate_weights as evaluate_weights  # part of the trainer's interface
from model.inference.generate import generate_text as generate_text  # part of the trainer's interface
from model.ops import cpu
from model.ops.precision import choose_device
from model.training import distributed, learner_cache
from model.training.distributed import Ranks
from model.training.preparation import prepare_training as prepare_training  # part of the trainer's interface
from model.training.training_run import Report, TrainingRun

metric = {
    "unit": "nats per token",
    "of_text": True,
    "also": {"val_accuracy": "accuracy", "val_bpb": "bits per byte"},
}
"""What it reports, as part of the trainer's interface: the cross-entropy of held-out text."""


def train(config: TrainConfig, budget_tokens: int, report: Report) -> dict[str, object]:
    """Train one model on `budget_tokens`, reporting its loss at `num_evals` evenly spaced numbers of tokens.

    With `config.output.dir` set, checkpoints are kept there, and a later call with the same config and budget resumes
    from the newest one. It first reports again all points that were reported before, so that the caller sees the
    whole curve.

    Args:
        config: The whole configuration.
        budget_tokens: Training tokens, at least 1; the schedule ends exactly there.
        report: Called with each point (plain floats). False stops the training. A number of tokens, more than those of
            the point and less than the budget, asks the run to end there, with its learning rate brought down to the
            floor by then. What `report.preparing` is, if anything, takes sentences that say how far the text is
            prepared, before the first point.

    Returns:
        Facts about the run, all JSON values.

    Raises:
        CorpusError: The data cannot be used.
        FloatingPointError: The training has diverged.
        ValueError: The budget is below 1, or the device does not exist.
    """
    if budget_tokens < 1:
        raise ValueError(f"budget_tokens = {budget_tokens}; give at least 1")

    with distributed.joined(config.system) as ranks:
        return _train(config, budget_tokens, report, ranks)


def _train(config: TrainConfig, budget_tokens: int, report: Report, ranks: Ranks) -> dict[str, object]:
    device = choose_device(config.system)
    cuda_devices = []
    if device.type == "cuda":
        cuda_devices = [device]
        _cap_memory(config.system, device)

    # The caller's random state is restored afterwards: a training must not change what the caller draws.
    with cpu.fast_products(device), torch.random.fork_rng(cuda_devices):
        try:
            corpus = load(config.data, getattr(report, "preparing", None))
            return TrainingRun(config, budget_tokens, corpus, device, ranks).run(report)
        except torch.OutOfMemoryError:
            learner_cache.clear()
            raise


def _cap_memory(system: SystemConfig, device: torch.device) -> None:
    """Limit this process to `memory_bytes` of the GPU; lift the limit of an earlier call where that is 0."""
    cap_frac = 1.0
    if system.memory_bytes:
        total_bytes = torch.cuda.get_device_properties(device).total_memory
        cap_frac = min(1.0, system.memory_bytes / total_bytes)

    torch.cuda.set_per_process_memory_fraction(cap_frac, device)
    torch.cuda.reset_peak_memory_stats(device)
