"""From the settings of a short trial to those of a long run: what is rescaled, by how much, and how sure that is.

The best learning rate falls with the length of a run as a power of it. The power, and whether the trial's own learning
rate was the best of its length, are guesses at first. A study can correct them: it trains the settings with half and
double the learning rate at two lengths, and the learning rates of lowest loss correct the guesses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.core.config_paths import flatten
from autotune.core.promotion_results import Bracket, LengthChange, Scaling
from autotune.core.statistics import normal_reach
from autotune.study.spec import StudySpec
from autotune.study.trainer_interface import Rule

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EXPONENT = 0.32
"""Power of the run's length, in tokens at a fixed batch, by which the best learning rate falls: the mean of its prior.
Source: Bjorck et al. 2024, arXiv 2409.19913, for AdamW; arXiv 2603.28743 gives the same for Muon."""
_EXPONENT_SD = 0.25
"""Standard deviation of the prior of that power. The published spread is 0.15, over runs of billions of tokens. It is
wider here, since from 1 to 8 million tokens of prose the best learning rates hardly moved
(tests/benchmarks/RESULTS.md)."""
_TRIAL_LR_SD = 0.4
"""Standard deviation of the distance between the learning rate of a search's winner and the best one of its length, as
a natural logarithm. Among the best 16 of 320 settings of tests/benchmarks/overnight_h100.json the spread is 0.45 for
Muon's learning rate and 0.57 for AdamW's."""
FACTORS = (0.5, 1.0, 2.0)
"""Multiples of the expected learning rates that a bracket trains."""
_LEAST_CURVATURE = 0.003
"""Minimum relative curvature; anything flatter is not a minimum. It is the coefficient of the squared natural logarithm
of the learning rates' factor, as a share of the loss. Brackets on prose gave 0.01 to 0.04
(tests/benchmarks/RESULTS.md)."""
_GRID_SDS = 4.0
"""Reach of the grid to each side of the prior mean, in standard deviations of the prior."""
_GRID_POINTS = 161
"""Points of the grid along each of its two axes."""
_MIN_SIGMA = 1e-5
"""Lower limit of the noise between seeds, nats per token; a smaller measured value is raised to it."""
MIN_LENGTHENING = 8
"""Shortest run, in lengths of a trial, before which brackets are trained. At this length their trainings cost as
much as the run itself, and the longer the run, the smaller their share; the learning rate that they decide on is then a
factor of two away from the trial's."""
_MIN_WARMUP_FRAC = 0.01
"""Shortest warm-up that is chosen here, as a share of the run."""
ONE_SEED_SIGMA = 0.002
"""Standard deviation of a loss between seeds, as a share of the loss; used where a study has not measured its own."""
AS_IS_SUFFIX = "-as-is"
"""Ending of the folder of a full run whose settings are copied from the trial unchanged."""
_DEFAULT_FULL_FACTOR = 8
"""Length of a full run, in lengths of a trial, where the study file names none."""


def full_tokens(spec: StudySpec) -> int:
    """Return the training tokens of the full run that a study file asks for."""
    return spec.promote.tokens or _DEFAULT_FULL_FACTOR * spec.budget.tokens


def full_run_s(spec: StudySpec, seconds_for: Callable[[int], float], has_rules: bool, slots: int) -> float:
    """Return the seconds that an automatic full run trains, with the shorter ones before it; 0 without one.

    Args:
        spec: The study.
        seconds_for: Takes a number of tokens and returns the seconds of a training of that length.
        has_rules: Whether the trainer says how its settings change with the length; else no shorter ones are trained.
        slots: Devices that train at once, >= 1.
    """
    if not spec.promote.automatic:
        return 0.0

    tokens = full_tokens(spec)
    bracket_s = 0.0
    if has_rules and spec.promote.bracket:
        bracket_s = len(FACTORS) * sum(map(seconds_for, bracket_tokens(spec.budget.tokens, tokens))) / slots
    return bracket_s + seconds_for(tokens)


def scaling(trial_tokens: int, tokens: int, brackets: Sequence[Bracket] = (), sigma: float = 0.0) -> Scaling:
    """Return the factor for a run of so many tokens.

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

    deviations = np.linspace(-_GRID_SDS, _GRID_SDS, _GRID_POINTS)
    own, exponent = np.meshgrid(_TRIAL_LR_SD * deviations, _EXPONENT + _EXPONENT_SD * deviations)

    log_posterior = -(deviations[:, None] ** 2 + deviations**2) / 2
    for bracket in brackets:
        best = own - exponent * math.log(bracket.tokens / trial_tokens)
        log_posterior = log_posterior + _log_likelihood(bracket, best, sigma)

    # The largest weight is 1, so that the exponential neither overflows nor vanishes everywhere.
    weights = np.exp(log_posterior - log_posterior.max())

    def moments(values: NDArray[np.float64]) -> tuple[float, float]:
        mean = float(np.average(values, weights=weights))
        variance = float(np.average((values - mean) ** 2, weights=weights))
        return mean, math.sqrt(variance)

    log_factor, spread = moments(own - exponent * math.log(tokens / trial_tokens))
    reach = normal_reach() * spread

    return Scaling(math.exp(log_factor), math.exp(log_factor - reach), math.exp(log_factor + reach), *moments(exponent))


def _log_likelihood(bracket: Bracket, best: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """Return how well the losses fit a valley about each of several places, up to a constant.

    Over the logarithm of the factor a valley is a parabola, here of any height, and of the curvature that fits
    best. If the noise is larger than the differences between the losses, they fit a valley at any place.

    Args:
        bracket: Factors of the learning rates and the losses that they gave.
        best: Natural logarithms of factors, of any shape.
        sigma: Standard deviation of a loss between seeds, nats per token.
    """
    import numpy as np

    measured = zip(bracket.factors, bracket.losses, strict=True)
    known = [(math.log(factor), loss) for factor, loss in measured if loss]
    if len(known) < 2:
        return np.zeros_like(best)

    log_factors, losses = np.array(known).T
    shape = (log_factors - best[..., None]) ** 2
    shape -= shape.mean(-1, keepdims=True)
    height = losses.mean()
    residuals = losses - height

    # Least squares for the curvature; the smallest positive number avoids a division by zero.
    fitting = (shape @ residuals) / np.maximum((shape**2).sum(-1), np.finfo(float).tiny)
    curvature = np.maximum(fitting, _LEAST_CURVATURE * height)
    misfit = ((residuals - curvature[..., None] * shape) ** 2).sum(-1)

    log_likelihood: NDArray[np.float64] = -misfit / (2 * max(sigma, _MIN_SIGMA) ** 2)
    return log_likelihood


def bracket_tokens(trial_tokens: int, tokens: int) -> tuple[int, ...]:
    """Return the lengths at which brackets are trained before a run: the trial's, and half of the way in factors.

    Args:
        trial_tokens: Length of the trial.
        tokens: Length of the run.

    Returns:
        Two lengths in tokens; none for a run of less than `MIN_LENGTHENING` trials.
    """
    if tokens < MIN_LENGTHENING * trial_tokens:
        return ()

    return trial_tokens, round(math.sqrt(trial_tokens * tokens))


def longest(trial_tokens: int, tokens: int) -> int:
    """Return the longest run that is trained on so many tokens together with its brackets, or all where none fit.

    Args:
        trial_tokens: Length of the trial.
        tokens: Tokens in all.
    """
    if tokens <= trial_tokens:
        return tokens

    # A run of u^2 trials has brackets of one trial and of u trials, each trained with every one of the 3 factors.
    # Together that is u^2 + 3 u + 3 trials, and u is the positive root where this equals the tokens in all.
    count = len(FACTORS)
    root = (math.sqrt(count**2 - 4 * (count - tokens / trial_tokens)) - count) / 2
    if root <= 0:
        return tokens

    run_tokens = int(trial_tokens * root**2)
    return run_tokens if run_tokens >= MIN_LENGTHENING * trial_tokens else tokens


def changes(
    config: Mapping[str, Any], rules: Mapping[str, Rule], trial_tokens: int, tokens: int, factor: float
) -> list[LengthChange]:
    """Return which settings a run of another length takes otherwise than the trial.

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
            after = before * factor
            why = f"learning rate x {factor:.2f}"
        elif rule == "weight_decay":
            after = before / factor
            why = "divided by the same factor, so that weights decay over as many tokens as in the trial"
        else:
            kept = before * trial_tokens / tokens
            after = max(kept, min(before, _MIN_WARMUP_FRAC))
            why = "as many tokens as in the trial" if after == kept else f"at least {_MIN_WARMUP_FRAC:.0%} of the run"

        # Three digits are enough for a person who reads the file.
        after = float(f"{after:.3g}")
        if after != before:
            length_changes.append(LengthChange(path, before, after, why))

    return length_changes


# --- text that is read more than once ----------------------------------------------------------------------

_HALF_WORTH_EPOCHS = 15.39
"""Decay constant, in repeated readings, of what a further reading of the same text is worth.
Source: R*_D of Muennighoff et al. 2023, arXiv 2305.16264, section 5."""
_GOOD_EPOCHS = 4
"""Readings up to which repeated text is worth almost as much as fresh text. Source: the same."""
_SAME_EPOCHS = 1.25
"""Factor up to which two trainings read their text about as often."""


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
    if 1 / _SAME_EPOCHS <= epochs / trial_epochs <= _SAME_EPOCHS:
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
        words += f". More text or a shorter run is better: --tokens {_GOOD_EPOCHS * train_tokens}"

    return words
