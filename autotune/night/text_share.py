"""How much of their text shorter trainings are given, so that they repeat it as often as the full run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.core.config_paths import drop_unknown_paths, flatten
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study
from autotune.study.trainer import Trainer


def matched_epochs(spec: StudySpec, trainer: Trainer, facts: Mapping[str, Any], run_tokens: int) -> float:
    """Return how often shorter trainings are to read their text before a full run.

    Args:
        spec: The study.
        trainer: Its trainer.
        facts: What the trainer said of a run that was given the whole text.
        run_tokens: Length of the full run.

    Returns:
        As often as the full run; 0 if they are to read all of the text.
    """
    path = trainer.path_of("train_tokens")
    if path not in flatten(spec.base) or not spec.budget.match_epochs or not facts.get("train_tokens"):
        return 0.0

    epochs = float(run_tokens / facts["train_tokens"])
    return epochs if epochs > 1 else 0.0


def text_tokens(tokens: int, epochs: float) -> int:
    """Return how many tokens of text a training is given.

    Args:
        tokens: Length of the training.
        epochs: How often it is to read that text; 0 for all of it.

    Returns:
        0 for all of it.
    """
    return max(1, round(tokens / epochs)) if epochs else 0


def train_tokens_override(study: Study, tokens: int, epochs: float) -> dict[str, Any]:
    """Return how much text a training is given, under the dotted path of the setting that says so.

    Args:
        study: The study.
        tokens: Length of the training.
        epochs: How often it is to read that text; 0 for all of it.

    Returns:
        Nothing for all of the text, or if the trainer has no such setting.
    """
    if not epochs:
        return {}
    by_path = study.trainer.by_path({"train_tokens": text_tokens(tokens, epochs)})
    return drop_unknown_paths(study.spec.base, by_path)
