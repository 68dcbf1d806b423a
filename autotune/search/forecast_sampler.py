"""The default sampler: a Gaussian process that learns from stopped trials too, by what they would have ended with."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from autotune.core.attributes import StudyAttributes, TrialAttributes
from autotune.search.fine_ranges import as_continuous, on_grid
from autotune.search.forecast import Forecaster
from autotune.search.gaussian_process import GaussianProcess
from autotune.search.ranges import CurrentRanges
from autotune.search.searched import present_space
from autotune.search.space import SearchSpace
from autotune.search.unit_cube import UnitCube

N_STARTUP_TRIALS = 2
"""Trials before the first proposal that is not random: the baseline and a random one, unless a study file says."""
_MOST_LEARNED = 1_000
"""Ended trials that a proposal learns from; the time for one grows with their cube."""
_EVERYWHERE = 1_000
_NEAR_EACH = 60
_BEST = 5
_DISTANCES = (0.02, 0.1, 0.3)
"""A proposal is the best of so many positions drawn anywhere, and of so many around each of the best trials: at each of
these distances, in units of a range."""
_MOVED_FRAC = 0.3
"""Share of the settings in which a position around a trial differs from it; at least one is expected to."""


class ForecastSampler(CurrentRanges):
    """Proposes where the loss is expected to fall furthest below the best one (expected improvement).

    Most trials of a good search are stopped, so each counts with the loss that it is forecast to have ended with. One
    that diverged or ran out of memory counts as the worst of all. A setting whose condition does not hold counts with
    its base value, so that all are proposed together.

    Source: Jones, Schonlau and Welch (1998) for the expected improvement.

    Args:
        inner: Optuna's Gaussian process, which is asked where trials are judged by several values.
        space: What the study file searches.
        base: The nested base config.
        n_startup_trials: Trials before the first proposal that is not random.
        is_exact: Whether a setting's loss is taken to be free of noise.
        seed: Of the positions that are weighed.
    """

    def __init__(
        self,
        inner: BaseSampler,
        space: SearchSpace,
        base: Mapping[str, Any],
        *,
        n_startup_trials: int = N_STARTUP_TRIALS,
        is_exact: bool = False,
        seed: int,
    ) -> None:
        super().__init__(inner, space)
        self._defaults = space.defaults(base)
        self._n_startup_trials = n_startup_trials
        self._is_exact = is_exact
        self._rng = np.random.default_rng(seed)
        self._process: GaussianProcess | None = None
        self._placed_in: list[tuple[str, BaseDistribution]] = []
        self._placed: dict[int, tuple[FrozenTrial, np.ndarray | None]] = {}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """See optuna.samplers.BaseSampler."""
        if _has_several_values(study):
            return self._inner.infer_relative_search_space(study, trial)

        return super().infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """See optuna.samplers.BaseSampler."""
        if _has_several_values(study):
            return self._by_several_values(study, trial, search_space)
        if not search_space:
            return {}

        space = present_space(self._space, StudyAttributes(study))
        choices = {path: space[path].choices for path in search_space.keys() & space.root.keys()}
        cube = UnitCube(search_space, {path: some for path, some in choices.items() if some is not None})
        known = self._known(study, trial, cube, search_space)
        if known is None:
            return {}  # there is nothing to learn from yet, so each setting is drawn independently

        positions, losses = known
        drawn = cube.snapped(self._drawn(positions[np.argsort(losses)[:_BEST]]))
        improvement = self._log_improvement(cube, positions, losses, drawn)
        return cube.params(drawn[_first_untried(improvement, drawn, positions)])

    def choose(self, study: optuna.Study, trial: FrozenTrial, candidates: Sequence[Mapping[str, Any]]) -> int:
        """Return which of some settings to try next, by its place; 0 while there is nothing to learn from.

        Args:
            study: With one value for each trial.
            trial: The one to propose for.
            candidates: Settings by dotted path.
        """
        search_space = self.infer_relative_search_space(study, trial)
        cube = UnitCube(search_space)
        known = self._known(study, trial, cube, search_space)
        if known is None:
            return 0

        positions = cube.positions([{**self._defaults, **settings} for settings in candidates])
        return int(self._log_improvement(cube, *known, positions).argmax())

    def reseed_rng(self) -> None:
        """See optuna.samplers.BaseSampler."""
        super().reseed_rng()
        self._rng = np.random.default_rng()

    def _by_several_values(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return what Optuna's Gaussian process proposes; then no trial is stopped, so there is nothing to forecast."""
        if not study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)):
            return {}

        _use_one_thread()
        proposed = self._inner.sample_relative(study, trial, as_continuous(search_space))
        return on_grid(proposed, search_space)

    def _known(
        self, study: optuna.Study, trial: FrozenTrial, cube: UnitCube, search_space: Mapping[str, BaseDistribution]
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the positions and expected losses of what was tried; None if that is too little to learn from.

        A running trial has no loss yet, which is NaN. All losses are to be lowered, whatever the study's direction.
        """
        states = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
        trials = [each for each in study.get_trials(deepcopy=False, states=states) if each.number != trial.number]

        positions = self._positions(trials, cube, search_space)
        shown = [each for each in trials if positions[each.number] is not None]
        ended = [each for each in shown if each.state is not TrialState.RUNNING]
        if not any(each.state is TrialState.COMPLETE for each in ended) or len(ended) < self._n_startup_trials:
            return None

        sign = -1.0 if study.direction is StudyDirection.MAXIMIZE else 1.0
        expected = expected_losses(trials, sign)
        is_running = np.array([each.state is TrialState.RUNNING for each in shown])
        losses = np.where(is_running, np.nan, [expected[each.number] for each in shown])
        return np.array([positions[each.number] for each in shown]), losses

    def _positions(
        self, trials: Sequence[FrozenTrial], cube: UnitCube, search_space: Mapping[str, BaseDistribution]
    ) -> Mapping[int, np.ndarray | None]:
        """Return the position of each trial by its number, None if it has none.

        Settings outside of a range that was narrowed have a position too, beyond its ends. A trial that has ended never
        changes, and Optuna gives out the same object then, so its position is computed once for a space.
        """
        axes = list(search_space.items())
        if self._placed_in != axes:
            self._placed_in, self._placed = axes, {}
        placed = self._placed

        news = [each for each in trials if each.number not in placed or placed[each.number][0] is not each]
        settings = [{**self._defaults, **each.params} for each in news]
        fits = [
            bool(each.params) and _has_position(its, search_space) for each, its in zip(news, settings, strict=True)
        ]
        found = iter(cube.positions(list(itertools.compress(settings, fits))))
        for trial, fit in zip(news, fits, strict=True):
            placed[trial.number] = trial, next(found) if fit else None
        return {number: position for number, (_, position) in placed.items()}

    def _drawn(self, best: np.ndarray) -> np.ndarray:
        """Return positions to weigh, shape (n, settings)."""
        num_settings = best.shape[1]
        moved_frac = max(_MOVED_FRAC, 1 / num_settings)
        drawn = [self._rng.random((_EVERYWHERE, num_settings))]

        for position in best:
            for distance in _DISTANCES:
                steps = self._rng.normal(0.0, distance, (_NEAR_EACH, num_settings))
                drawn.append(position + steps * (self._rng.random(steps.shape) < moved_frac))
        return np.concatenate(drawn)

    def _log_improvement(
        self, cube: UnitCube, positions: np.ndarray, losses: np.ndarray, candidates: np.ndarray
    ) -> np.ndarray:
        """Return the logarithm of the expected improvement at candidates, shape (n,)."""
        if self._process is None or self._process.dimensions != cube.dimensions:
            self._process = GaussianProcess(cube.dimensions, self._is_exact)
        process = self._process

        is_running = np.isnan(losses)
        values = np.full(len(losses), np.nan)
        values[~is_running] = flattened(losses[~is_running])

        learned = _learned(values)
        positions, values, is_running = positions[learned], values[learned], is_running[learned]
        points = cube.points(positions)
        posterior = process.fit(points[~is_running], values[~is_running])

        # A running trial is believed to end as expected, so that the next one goes elsewhere (Ginsbourger et al. 2010).
        if is_running.any():
            values[is_running] = posterior.predict(points[is_running])[0]
            posterior = process.fit(points, values)

        mean, sigma = posterior.predict(cube.points(candidates))
        # A better one outside of a range that was narrowed is no mark to aim at within it.
        is_inside = np.isclose(cube.snapped(positions), positions).all(axis=1)
        best = values[is_inside].min() if is_inside.any() else values.min()
        return log_expected_improvement(mean, sigma, float(best))


def expected_losses(trials: Sequence[FrozenTrial], sign: float = 1.0) -> dict[int, float]:
    """Return the final loss of each trial by its number, measured or forecast.

    Args:
        trials: Of one study.
        sign: -1 where what is called a loss here is to be raised.

    Returns:
        The worst of all for a trial that tells nothing else, as one that diverged or ran out of memory.
    """
    curves = {
        each.number: {tokens: sign * loss for tokens, loss in each.intermediate_values.items()} for each in trials
    }
    finished = [each for each in trials if each.state is TrialState.COMPLETE and each.value is not None]
    finals = [sign * float(each.value or 0.0) for each in finished]
    forecaster = Forecaster([curves[each.number] for each in finished if each.intermediate_values])
    best_loss = min(finals, default=0.0)

    expected: dict[int, float | None] = {each.number: None for each in trials}
    for trial in trials:
        if trial.state is TrialState.PRUNED and TrialAttributes(trial).stopped_at is not None and trial.last_step:
            forecast = forecaster.final_loss(trial.last_step, curves[trial.number][trial.last_step])
            # A stopped trial never counts as better than the best one that was trained to its end.
            expected[trial.number] = None if forecast is None else max(forecast, best_loss)
    expected.update(zip((each.number for each in finished), finals, strict=True))

    worst = max((loss for loss in expected.values() if loss is not None), default=0.0)
    return {number: worst if loss is None else loss for number, loss in expected.items()}


def flattened(losses: np.ndarray) -> np.ndarray:
    """Return losses on a scale without their long upper tail, with standard deviation 1.

    How bad a bad setting is does not matter, and a few losses of 10 would make all good ones look alike. So it is the
    mean of two scales: losses of which none is above the median, and the normal scores of their ranks (Blom 1958).

    Args:
        losses: Finite, shape (n,).
    """
    from scipy.special import ndtri

    clipped = np.minimum(losses, np.median(losses))
    ascending = np.sort(losses)
    lower, not_higher = (np.searchsorted(ascending, losses, side) for side in ("left", "right"))
    ranks = (lower + not_higher + 1) / 2  # the mean of those that equal losses share
    scores = ndtri((ranks - 0.375) / (len(losses) + 0.25))

    return _standardised(_standardised(clipped) + scores)


def _standardised(values: np.ndarray) -> np.ndarray:
    sigma = float(values.std())
    return np.asarray((values - values.mean()) / (sigma if sigma > 0 else 1.0))


def _learned(values: np.ndarray) -> np.ndarray:
    """Return the places of the trials to learn from, in their order: all that run, and not too many that have ended.

    Of too many, half are the best, around which proposals lie; the others are spread evenly over the ranks of the rest.

    Args:
        values: Losses, NaN where a trial runs, shape (n,).
    """
    ended = np.flatnonzero(~np.isnan(values))
    if len(ended) <= _MOST_LEARNED:
        return np.arange(len(values))

    by_rank = ended[np.argsort(values[ended], kind="stable")]
    num_best = _MOST_LEARNED // 2
    best, rest = by_rank[:num_best], by_rank[num_best:]
    spread = rest[np.linspace(0, len(rest) - 1, _MOST_LEARNED - num_best).astype(int)]
    return np.sort(np.concatenate([best, spread, np.flatnonzero(np.isnan(values))]))


def log_expected_improvement(mean: np.ndarray, sigma: np.ndarray, best: float) -> np.ndarray:
    """Return the logarithm of the expected improvement of normal values below the best one.

    Args:
        mean: Of each, shape (n,).
        sigma: Standard deviation of each, above 0, shape (n,).
        best: The lowest value so far.

    Source: Ament et al. (2023) for why it is the logarithm, with their asymptote where the improvement vanishes.
    """
    from scipy.special import ndtr

    z = (best - mean) / sigma
    log_density = -0.5 * z**2 - 0.5 * np.log(2 * np.pi)

    likely = np.maximum(z, -5.0)
    improvement = likely * ndtr(likely) + np.exp(-0.5 * likely**2) / np.sqrt(2 * np.pi)
    log_improvement = np.where(z > -5.0, np.log(improvement), log_density - 2 * np.log(np.maximum(-z, 1.0)))
    return np.asarray(log_improvement + np.log(sigma))


def _first_untried(improvement: np.ndarray, candidates: np.ndarray, tried: np.ndarray) -> int:
    """Return the place of the best candidate that is not among the positions tried, or of the best one of all."""
    known = {position.tobytes() for position in tried}
    order = np.argsort(-improvement)
    return int(next((place for place in order if candidates[place].tobytes() not in known), order[0]))


def _has_several_values(study: optuna.Study) -> bool:
    """Return whether trials are judged by several values."""
    return len(study.directions) > 1


def _use_one_thread() -> None:
    """Keep the Gaussian process that Optuna computes with torch off the other cores.

    Its matrices are tiny, and threads may cost more than they compute: on a host of 32 cores 0.8 s passed between two
    trials, where two cores take 0.1 s for a proposal.
    """
    import torch

    torch.set_num_threads(1)


def _has_position(settings: Mapping[str, Any], search_space: Mapping[str, BaseDistribution]) -> bool:
    """Return whether settings can be placed among those of a space, perhaps beyond its ends."""
    for path, distribution in search_space.items():
        if isinstance(distribution, CategoricalDistribution):
            if settings[path] not in distribution.choices:
                return False
        elif isinstance(distribution, FloatDistribution | IntDistribution) and distribution.log and settings[path] <= 0:
            return False
    return True
