"""A night of the overnight study on each card whose published figures are known: the README's table.

usage: python tests/benchmarks/bench_plans.py
"""

from __future__ import annotations

from pathlib import Path

from autotune.engine.cost_model import Counts
from autotune.engine.deadline import Deadline
from autotune.machine.cards import CARDS, Card
from autotune.night.absent_card import survey_of
from autotune.night.capacity import BatchPaths
from autotune.night.probing import config_on
from autotune.study.study_file import load

STUDY = Path(__file__).parents[2] / "studies" / "overnight.toml"
HOURS = 8.0
FACTS = {"vocab_size": 49_152, "train_tokens": 285_000_000}
"""Of the study's tokenizer, and of its text without what is held out."""
MEASURED = {"H200": 1_180_000}
"""Tokens per second that the planner measured on a card with this study (RESULTS.md, "A study from there")."""
HEAD = """\
| card | tokens/s, reasoned | measured | a pass | memory | trials in 8 hours | full run |
|---|---|---|---|---|---|---|"""


class Night(Deadline):
    """Eight hours that do not run while they are planned, so that a slow machine says the same."""

    @property
    def seconds_left(self) -> float:
        """Return all of them."""
        return 3600 * HOURS


def row(card: Card) -> str:
    """Return a card's row: speed, sequences of a pass, memory, trials and full run."""
    study, profile = load(STUDY), card.profile()
    survey = survey_of(study, profile, FACTS, Night())
    paths, plan = BatchPaths.of(study), survey.plan
    assert paths is not None and survey.model is not None, "the study's trainer counts its work"

    largest = {paths.max_pass: plan.max_pass_sequences, paths.accumulation: 16, "model.num_experts": 16}
    heaviest = study.trainer.counts(config_on(study, profile, largest), survey.baseline.facts)
    memory_bytes = survey.model.peak_bytes(Counts.of(heaviest))

    trials = f"{plan.trials} to {plan.most_trials}" if plan.trials < plan.most_trials else f"{plan.trials}"
    cells = [
        card.name,
        f"{_two_digits(plan.tokens_per_s):,}",
        f"{MEASURED[card.name]:,}" if card.name in MEASURED else "",
        f"{plan.max_pass_sequences} sequences",
        f"{memory_bytes / 2**30:.1f} GiB",
        trials,
        f"{plan.run_tokens / 1e9:.2g}G tokens",
    ]
    return f"| {' | '.join(cells)} |"


def _two_digits(speed: float) -> int:
    """Return a speed without digits that nobody knows."""
    return int(float(f"{speed:.2g}"))


def table() -> str:
    """Return the whole table."""
    return "\n".join([HEAD, *(row(card) for card in CARDS.values())])


if __name__ == "__main__":
    print(table())
