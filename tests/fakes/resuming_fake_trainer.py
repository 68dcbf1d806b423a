"""The fake trainer with a checkpoint at each evaluation, where it is given a folder: it goes on from the last one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import fake_trainer
from fake_trainer import FakeConfig


def train(
    config: FakeConfig, budget_tokens: int, report: Callable[[Mapping[str, float]], bool | int]
) -> Mapping[str, object]:
    """Train as the fake trainer does, and leave out the evaluations up to the last checkpoint.

    Each training with a folder writes a line to `log_dir/begun_at.txt`: the tokens of the checkpoint that it found.
    """
    if not config.output.dir:
        return fake_trainer.train(config, budget_tokens, report)

    checkpoint = Path(config.output.dir) / "checkpoint.txt"
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    begun_at_tokens = float(checkpoint.read_text()) if checkpoint.exists() else 0.0
    with (Path(config.log_dir) / "begun_at.txt").open("a") as log:
        log.write(f"{begun_at_tokens:.0f}\n")

    def report_what_is_new(point: Mapping[str, float]) -> bool | int:
        if point["tokens_seen"] <= begun_at_tokens:
            return True

        # As large as a page, and whole or not there, as checkpoints are.
        written = checkpoint.with_suffix(".new")
        written.write_text(str(point["tokens_seen"]).ljust(4096))
        written.replace(checkpoint)
        return report(point)

    return fake_trainer.train(config, budget_tokens, report_what_is_new)


def generate_text(path: Path, prompt: str, write: Callable[[str], None], **settings: object) -> None:
    """Write how many tokens the model in a folder was trained on."""
    write(f"{prompt}trained on {float((path / 'checkpoint.txt').read_text()):.0f} tokens")
