"""What is to be said of text that is read more than once."""

from __future__ import annotations

import math

_HALF_WORTH_EPOCHS = 15.39
"""Decay constant, in repeated readings, of what a further reading of the same text is worth.
Source: R*_D of Muennighoff et al. 2023, arXiv 2305.16264, section 5."""
_GOOD_EPOCHS = 4
"""Readings up to which repeated text is worth almost as much as fresh text. Source: the same. On prose, three readings
left the order of settings as it was for fresh text, and six turned it round (tests/benchmarks/RESULTS.md)."""
_SAME_EPOCHS = 1.25
"""Factor up to which two trainings read their text about as often."""


def repeats(train_tokens: int, tokens: int) -> bool:
    """Return whether a run reads its text so often that overfitting moves its best settings.

    Args:
        train_tokens: Tokens of the run's training text; 0 if that is not known.
        tokens: Tokens that the run trains on.
    """
    return bool(train_tokens) and tokens > most_good_tokens(train_tokens)


def most_good_tokens(train_tokens: int) -> int:
    """Return the longest run in which reading the text again is worth almost as much as fresh text, in tokens.

    Args:
        train_tokens: Tokens of the run's training text.
    """
    return _GOOD_EPOCHS * train_tokens


def most_worth_tokens(train_tokens: int) -> int:
    """Return the longest run that is chosen without being asked for, in tokens.

    Then a further reading is worth a third of fresh text, and falls from there.

    Args:
        train_tokens: Tokens of the run's training text.
    """
    return round((1 + _HALF_WORTH_EPOCHS) * train_tokens)


def as_often(epochs: float, others: float) -> bool:
    """Return whether two trainings read their text about equally often.

    Args:
        epochs: How often one of them reads it, > 0.
        others: How often the other does, > 0.
    """
    return 1 / _SAME_EPOCHS <= epochs / others <= _SAME_EPOCHS


def repetition(train_tokens: int, tokens: int, trial_epochs: float) -> str:
    """Return what is to be said where a run repeats its text, or where the trials did so more often; else "".

    Args:
        train_tokens: Tokens of the run's training text; 0 if that is not known.
        tokens: Tokens that the run trains on.
        trial_epochs: How often a trial read the text that it was given.
    """
    epochs = tokens / train_tokens if train_tokens else 0.0
    if not epochs or max(epochs, trial_epochs) <= 1:
        return ""

    words = f"the run reads its text {epochs:.1f} times, "
    if as_often(epochs, trial_epochs):
        words += "and so do the trials, which are given less text"
    else:
        words += (
            f"and a trial {trial_epochs:.1f} times: the best settings of the trials need not be the best of the run, "
            "since dropout and lower learning rates help where text repeats"
        )

    if epochs > 1:
        worth = 1 + _HALF_WORTH_EPOCHS * (1 - math.exp(-(epochs - 1) / _HALF_WORTH_EPOCHS))
        words += f". In published experiments this was worth about {worth:.1f} times as much fresh text, read once"
    if epochs > _GOOD_EPOCHS:
        words += ". More text would be better"

    return words
