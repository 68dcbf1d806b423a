"""From the settings of a short trial to those of a long run: what is rescaled, by how much, and how sure that is.

The best learning rate falls with the length of a run as a power of it. How fast, and whether the trial's own was the
best of its length, is a guess that a study can correct: it trains the settings with half and double the learning rate
at two lengths, and where their losses are lowest corrects the guess.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.core.config_paths import flatten
from autotune.core.statistics import normal_reach
from autotune.core.study_results import Bracket, LengthChange, Scaling
from autotune.study.spec import StudySpec
from autotune.study.trainer import Rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

EXPONENT, EXPONENT_SD = 0.32, 0.25
"""Of the best learning rate over tokens at a fixed batch: Bjorck et al. 2024, arXiv 2409.19913, for AdamW; the same for
Muon in arXiv 2603.28743. Theirs are runs of billions of tokens, and 0.15 is their spread. It is wider here, since from
1 to 8 million tokens of prose the best learning rates hardly moved (tests/benchmarks/RESULTS.md)."""
TRIAL_LR_SD = 0.4
"""How far a search's winner is from the best learning rate of its length, as a natural logarithm: the spread among the
best 16 of 320 settings of tests/benchmarks/overnight_h100.json is 0.45 for Muon's and 0.57 for AdamW's."""
FACTORS = (0.5, 1.0, 2.0)
"""Of the learning rates in a bracket."""
LEAST_CURVATURE = 0.003
"""Of the loss over the natural logarithm of the learning rates' factor, squared, as a share of it: less would be no
valley. On prose brackets gave 0.01 to 0.04 (tests/benchmarks/RESULTS.md)."""
GRID_SDS, GRID_POINTS = 4.0, 161
"""Reach of the grid in standard deviations of what was expected, and its points that way."""
MIN_SIGMA = 1e-5
"""Noise in nats per token below which nothing is taken to be sharper."""
MIN_LENGTHENING = 8
"""Times as long as a trial that a run must be for brackets: their trainings then cost as much as the run itself, and
ever less the longer it is, while the learning rate that they decide on is a factor of two away from the trial's."""
MIN_WARMUP_FRAC = 0.01
"""Shortest warm-up that is chosen here."""
ONE_SEED_SIGMA = 0.002
"""Standard deviation of a loss between seeds, as a share of it, where a study has not measured its own."""
AS_IS_SUFFIX = "-as-is"
"""What the folder of a full run ends with whose settings are copied from the trial as they are."""
DEFAULT_FULL_FACTOR = 8
"""Length of a full run in trials, where the study file names none."""


def full_tokens(spec: StudySpec) -> int:
    """Return the training tokens of the full run that a study file asks for."""
    return spec.promote.tokens or DEFAULT_FULL_FACTOR * spec.budget.tokens


def scaling(trial_tokens: int, tokens: int, brackets: Sequence[Bracket] = (), sigma: float = 0.0) -> Scaling:
    """Returns the factor for a run of so many tokens.

    With m the logarithm of the best factor at the trial's own length and b the exponent, the best one at r times that
    length is m - b ln r. Both have a normal prior, the losses of each bracket are noise about a valley there, and the
    answer is the posterior mean, summed over a grid.

    Args:
        trial_tokens: Length of the trial.
        tokens: Length of the run.
        brackets: What the study has trained to find out.
        sigma: Standard deviation of a loss between seeds, nats per token.
    """
    import numpy as np

    steps = np.linspace(-GRID_SDS, GRID_SDS, GRID_POINTS)
    own, exponent = np.meshgrid(TRIAL_LR_SD * steps, EXPONENT + EXPONENT_SD * steps)
    fit = -(steps[:, None] ** 2 + steps**2) / 2
    for bracket in brackets:
        best = own - exponent * math.log(bracket.tokens / trial_tokens)
        fit = fit + _log_likelihood(bracket, best, sigma)
    weights = np.exp(fit - fit.max())

    def moments(values: NDArray[np.float64]) -> tuple[float, float]:
        mean = float(np.average(values, weights=weights))
        return mean, math.sqrt(float(np.average((values - mean) ** 2, weights=weights)))

    log, spread = moments(own - exponent * math.log(tokens / trial_tokens))
    reach = normal_reach() * spread
    return Scaling(math.exp(log), math.exp(log - reach), math.exp(log + reach), *moments(exponent))


def _log_likelihood(bracket: Bracket, best: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Returns how well the losses fit a valley about each of several places, up to a constant.

    Over the logarithm of the factor a valley is a parabola, here of any height, and of the curvature that fits
    best. Losses that noise drowns fit a valley anywhere.

    Args:
        best: Natural logarithms of factors, of any shape.
        sigma: Standard deviation of a loss between seeds, nats per token.
    """
    import numpy as np

    known = [(math.log(factor), loss) for factor, loss in zip(bracket.factors, bracket.losses, strict=True) if loss]
    if len(known) < 2:
        return np.zeros_like(best)
    at, losses = np.array(known).T
    shape = (at - best[..., None]) ** 2
    shape -= shape.mean(-1, keepdims=True)
    losses = losses - (height := losses.mean())
    fitting = (shape @ losses) / np.maximum((shape**2).sum(-1), np.finfo(float).tiny)
    curvature = np.maximum(fitting, LEAST_CURVATURE * height)
    misfit = ((losses - curvature[..., None] * shape) ** 2).sum(-1)
    fit: NDArray[np.float64] = -misfit / (2 * max(sigma, MIN_SIGMA) ** 2)
    return fit


def bracket_tokens(trial_tokens: int, tokens: int) -> tuple[int, ...]:
    """Returns the lengths at which brackets are trained before a run: the trial's, and half of the way in factors.

    Args:
        trial_tokens: Length of the trial.
        tokens: Length of the run.
    """
    if tokens < MIN_LENGTHENING * trial_tokens:
        return ()
    return trial_tokens, round(math.sqrt(trial_tokens * tokens))


def longest(trial_tokens: int, tokens: int) -> int:
    """Returns the longest run that is trained on so many tokens together with its brackets, or all where none fit.

    Args:
        trial_tokens: Length of the trial.
        tokens: Tokens in all.
    """
    # With u the root of the run's length in trials: u^2 + 3 u + 3 of them in all.
    count = len(FACTORS)
    root = (math.sqrt(count**2 - 4 * (count - tokens / trial_tokens)) - count) / 2 if tokens > trial_tokens else 0.0
    run = int(trial_tokens * root**2) if root > 0 else 0
    return run if run >= MIN_LENGTHENING * trial_tokens else tokens


def changes(
    config: Mapping[str, Any], rules: Mapping[str, Rule], trial_tokens: int, tokens: int, factor: float
) -> list[LengthChange]:
    """Returns which settings a run of another length takes otherwise than the trial.

    Learning rates are multiplied. Weight decay is divided by the same factor, so that it forgets over as many tokens
    as in the trial (Wang and Aitchison 2024, arXiv 2405.13698: that time is the inverse of learning rate times decay).
    Warm-up keeps its tokens, down to 1 % of the run. What is a share of the run otherwise, such as the decay of the
    schedule, stays one (Haegele et al. 2024, arXiv 2405.18392).

    Args:
        config: The trial's nested config.
        rules: Which settings depend on the length, by dotted path.
        trial_tokens: Length of the trial.
        tokens: Length of the run.
        factor: For the learning rates.
    """
    values = flatten(config)
    length_changes = []
    for path, rule in rules.items():
        before = float(values[path])
        if rule == "learning_rate":
            after, why = before * factor, f"learning rate x {factor:.2f}"
        elif rule == "weight_decay":
            after, why = before / factor, "so that it forgets over as many tokens as in the trial"
        else:
            kept = before * trial_tokens / tokens
            after = max(kept, min(before, MIN_WARMUP_FRAC))
            why = "as many tokens as in the trial" if after == kept else f"{MIN_WARMUP_FRAC:.0%} of the run at least"
        after = float(f"{after:.3g}")
        if after != before:
            length_changes.append(LengthChange(path, before, after, why))
    return length_changes


# --- text that is read more than once ----------------------------------------------------------------------

HALF_WORTH_EPOCHS = 15.39
"""How slowly repeated text loses its worth: R*_D of Muennighoff et al. 2023, arXiv 2305.16264, section 5."""
GOOD_EPOCHS = 4
"""Readings up to which repeated text is worth almost as much as fresh text, of the same source."""


SAME_EPOCHS = 1.25
"""Factor up to which two trainings read their text about as often."""


def repetition(train_tokens: int, tokens: int, trial_epochs: float) -> str:
    """Returns what is to be said where a run repeats its text, or where the trials did so more often; else "".

    Args:
        train_tokens: Tokens of the run's training text; 0 if that is not known.
        tokens: Tokens that the run trains on.
        trial_epochs: How often a trial read the text that it was given.
    """
    epochs = tokens / train_tokens if train_tokens else 0.0
    if not epochs or max(epochs, trial_epochs) <= 1:
        return ""
    words = f"the run reads its text {epochs:.1f} times, "
    if 1 / SAME_EPOCHS <= epochs / trial_epochs <= SAME_EPOCHS:
        words += "and so do the trials with the less that they are given"
    else:
        words += (
            f"a trial {trial_epochs:.1f} times: what wins trials need not win there, since dropout and gentler steps "
            "pay where text repeats"
        )
    if epochs > 1:
        worth = 1 + HALF_WORTH_EPOCHS * (1 - math.exp(-(epochs - 1) / HALF_WORTH_EPOCHS))
        words += f". By published runs, that is worth about as much as {worth:.1f} times as much fresh text"
    if epochs > GOOD_EPOCHS:
        words += f". More text (data.max_tokens) is better, or a shorter run: --tokens {GOOD_EPOCHS * train_tokens}"
    return words
