"""A recorded table instead of training: how much device time other samplers and pruners take to good settings.

The search is simulated as the engine runs it on one device: baseline first and never pruned, evaluations reported
by tokens, divergence told as pruned. What a trial measures comes from the table, either of its nearest row that was
not yet tried (`Rows`), or of a surrogate fitted to all of them (`Surrogate`).
"""

from __future__ import annotations

import math
import statistics
import tomllib
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from autotune.core.errors import UserError
from autotune.core.records import TrialStatus
from autotune.replay.table import Row, Table
from autotune.search.pruners import build_pruner
from autotune.search.pruning import rank_correlations, should_continue
from autotune.search.samplers import build_sampler
from autotune.study.checks import algorithm_errors
from autotune.study.spec import PrunerSpec, SamplerSpec, StudySpec

if TYPE_CHECKING:
    import optuna

Spec = TypeVar("Spec", SamplerSpec, PrunerSpec)

WHOLE_TRIALS = 60
"""Whole trials that a search's device time is worth, unless told otherwise."""
FOLDS = 10
EXPLAINED = 0.9995
"""Share of the curves' variance that the surrogate's components keep."""
SMOOTHINGS = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Tried in cross-validation; without any, settings that were trained twice would be singular."""
CONFIDENCE = 0.95
RESAMPLES = 2_000


class Source(Protocol):
    """What trials measure.

    Attributes:
        best: Lowest final loss of the table's rows, as this source has them.
    """

    best: float

    def take(self, params: Mapping[str, Any]) -> Row | None:
        """Returns what is trained instead of a proposal, or None when nothing is left."""


class Rows:
    """Exact rows: a proposal becomes its nearest row that was not yet taken.

    Args:
        table: The table.
    """

    def __init__(self, table: Table) -> None:
        self._positions = Positions(table)
        self._left = dict(enumerate(table.rows))
        self._points = np.array([self._positions.of(row.params) for row in table.rows])
        self.best = table.finished()[0].losses[-1]

    def take(self, params: Mapping[str, Any]) -> Row | None:
        """Returns the nearest row left, and takes it out; None when all are taken."""
        if not self._left:
            return None
        left = list(self._left)
        distances = np.linalg.norm(self._points[left] - self._positions.of(params), axis=1)
        return self._left.pop(left[int(distances.argmin())])


class Positions:
    """Settings as points of the unit cube, each on its own scale.

    Args:
        table: Whose space and base values are used.
    """

    def __init__(self, table: Table) -> None:
        self._space = table.spec.space
        self._base = self._space.defaults(table.spec.base)

    def of(self, params: Mapping[str, Any]) -> np.ndarray:
        """Returns the point of some settings; those that are not given are at their base value."""
        values = {**self._base, **params}
        return np.array([self._space[path].position(values[path]) for path in self._space])


class Surrogate:
    """Curves and speeds of any settings, interpolated between the rows that finished.

    The curves are taken apart into a few components, and each component and the logarithm of the speed are
    interpolated by cubic radial functions of the settings (Duchon 1977; scipy's `RBFInterpolator`); smoothing and
    error come from cross-validation.

    Args:
        table: At least 20 finished rows, and more for more than 9 settings.

    Attributes:
        best: Lowest final loss that it has for the table's own settings.
        error: Root mean squared error of the final loss on rows left out, nats per token.
        rank_correlation: Spearman's between those predictions and what was measured.

    Raises:
        UserError: If too few rows finished.
    """

    def __init__(self, table: Table) -> None:
        rows = table.finished()
        needed = 2 * max(FOLDS, len(table.spec.space) + 1)
        if len(rows) < needed:
            raise UserError(f"a surrogate needs {needed} finished rows, and the table has {len(rows)}; record more")
        self._positions = Positions(table)
        self._set_up_s = statistics.median(row.set_up_s for row in rows)
        self._eval_s = statistics.median(row.eval_s for row in rows)
        points = np.array([self._positions.of(row.params) for row in rows])
        curves = np.array([row.losses for row in rows])
        self._mean = curves.mean(axis=0)
        _, sizes, parts = np.linalg.svd(curves - self._mean, full_matrices=False)
        shares = np.cumsum(sizes**2) / max(np.sum(sizes**2), np.finfo(float).tiny)
        self._parts = parts[: int(np.searchsorted(shares, EXPLAINED)) + 1]
        targets = np.column_stack(
            [(curves - self._mean) @ self._parts.T, [[math.log(row.tokens_per_s)] for row in rows]]
        )
        self.error, self.rank_correlation, smoothing = self._validate(points, targets, curves)
        self._fit = _interpolator(points, targets, smoothing)
        self.best = float(self._curves(self._fit(points))[:, -1].min())

    def _validate(self, points: np.ndarray, targets: np.ndarray, curves: np.ndarray) -> tuple[float, float, float]:
        folds = np.random.default_rng(0).permutation(len(points)) % FOLDS
        found = []
        for smoothing in SMOOTHINGS:
            predicted = np.empty(len(points))
            for fold in range(FOLDS):
                fit = _interpolator(points[folds != fold], targets[folds != fold], smoothing)
                predicted[folds == fold] = self._curves(fit(points[folds == fold]))[:, -1]
            error = float(np.sqrt(np.mean((predicted - curves[:, -1]) ** 2)))
            found.append((error, rank_correlations(np.column_stack([predicted, curves[:, -1]]))[0], smoothing))
        return min(found)

    def _curves(self, values: np.ndarray) -> np.ndarray:
        curves: np.ndarray = self._mean + values[:, : len(self._parts)] @ self._parts
        return curves

    def take(self, params: Mapping[str, Any]) -> Row:
        """Returns the expected row of any settings."""
        values = self._fit(self._positions.of(params)[None])
        losses = tuple(map(float, self._curves(values)[0]))
        speed = math.exp(float(values[0, -1]))
        return Row(params, TrialStatus.FINISHED, losses, speed, self._eval_s, self._set_up_s)


def _interpolator(points: np.ndarray, targets: np.ndarray, smoothing: float) -> Callable[[np.ndarray], np.ndarray]:
    from scipy.interpolate import RBFInterpolator

    # A setting that never changes among these points would make the linear part singular: take the space they span.
    centre = points.mean(axis=0)
    _, sizes, axes = np.linalg.svd(points - centre, full_matrices=False)
    axes = axes[sizes > 1e-9 * max(sizes.max(), 1.0)]
    if not len(axes):
        return lambda wanted: np.repeat(targets.mean(axis=0)[None], len(wanted), axis=0)
    fit = RBFInterpolator((points - centre) @ axes.T, targets, smoothing=smoothing, kernel="cubic")

    def interpolate(wanted: np.ndarray) -> np.ndarray:
        values: np.ndarray = fit((wanted - centre) @ axes.T)
        return values

    return interpolate


@dataclass(frozen=True)
class Search:
    """A simulated search.

    Args:
        ends_s: Device time at the end of each trial.
        losses: Final loss of each trial; infinite if it did not finish.
    """

    ends_s: tuple[float, ...]
    losses: tuple[float, ...]

    def seconds_to(self, loss: float) -> float:
        """Returns the device time at which a trial had finished at a loss or below; infinite if none did."""
        return next((end for end, each in zip(self.ends_s, self.losses, strict=True) if each <= loss), math.inf)

    def best_by(self, seconds: float) -> float:
        """Returns the lowest final loss of the trials that ended by then; infinite if none finished."""
        return min(
            (loss for end, loss in zip(self.ends_s, self.losses, strict=True) if end <= seconds), default=math.inf
        )

    @property
    def best(self) -> float:
        """The lowest final loss; infinite if nothing finished."""
        return min(self.losses, default=math.inf)


def simulate(
    table: Table, source: Source, sampler: SamplerSpec, pruner: PrunerSpec, seed: int, budget_s: float
) -> Search:
    """Runs one search on a table.

    Args:
        table: Gives the space, the base config and the token grid.
        source: What trials measure.
        sampler: As in a study file.
        pruner: As in a study file.
        seed: Of the sampler and of what is audited.
        budget_s: Device time after which no trial begins.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = table.spec.model_copy(update={"sampler": sampler, "pruner": pruner, "seed": seed})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna marks several of its parts as experimental
        study = optuna.create_study(
            study_name=f"{spec.name}-{seed}",  # Hyperband draws its brackets from it
            sampler=build_sampler(sampler.name, sampler.options, spec.space, spec.base, seed),
            pruner=build_pruner(pruner.name, pruner.options, spec.budget.tokens),
        )
    return search(study, spec, table, source, budget_s)


def search(study: optuna.Study, spec: StudySpec, table: Table, source: Source, budget_s: float) -> Search:
    """Runs a new Optuna study on a table, whatever its sampler and pruner.

    Args:
        study: Where trials are asked for and told.
        spec: Gives the space, the base config and what is audited.
        table: Gives the token grid.
        source: What trials measure.
        budget_s: Device time after which no trial begins.
    """
    ends_s: list[float] = []
    losses: list[float] = []
    now_s = 0.0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        while now_s < budget_s:
            row = source.take(_proposal(study, spec, is_baseline=not losses))
            if row is None:
                break
            study.enqueue_trial(dict(row.params), user_attrs={"role": "search" if losses else "baseline"})
            trial = study.ask()
            spec.space.suggest(trial, spec.base)
            evaluations = _train(study, trial, row, table.tokens, spec)
            now_s += row.seconds(table.tokens[evaluations - 1], evaluations)
            ends_s.append(now_s)
            whole = evaluations == len(table.tokens) and row.status is TrialStatus.FINISHED
            losses.append(row.losses[-1] if whole else math.inf)
    return Search(tuple(ends_s), tuple(losses))


def _proposal(study: optuna.Study, spec: StudySpec, is_baseline: bool) -> dict[str, Any]:
    """Returns what the sampler would train; the asking itself leaves no trace that it could learn from."""
    from optuna.trial import TrialState

    if is_baseline:
        return dict(spec.space.baseline(spec.base))
    trial = study.ask()
    params = spec.space.suggest(trial, spec.base)
    study.tell(trial, state=TrialState.FAIL)
    return dict(params)


def _should_continue(trial: optuna.Trial, tokens: int, spec: StudySpec) -> bool:
    pruner = spec.pruner
    return should_continue(trial, tokens, pruner_name=pruner.name, audit_frac=pruner.audit_frac, seed=spec.seed)


def _train(study: optuna.Study, trial: optuna.Trial, row: Row, tokens: Sequence[int], spec: StudySpec) -> int:
    """Reports a row's losses as its trial would have, and returns how many evaluations that took."""
    from optuna.trial import TrialState

    for evaluation, (step, loss) in enumerate(zip(tokens, row.losses, strict=False), 1):
        if math.isfinite(loss):
            trial.report(loss, step)
        if not math.isfinite(loss) or (evaluation < len(tokens) and not _should_continue(trial, step, spec)):
            study.tell(trial, state=TrialState.PRUNED)
            return evaluation
    if row.status is TrialStatus.FINISHED:
        study.tell(trial, row.losses[-1])
    else:
        study.tell(trial, state=TrialState.PRUNED)
    return max(1, len(row.losses))


@dataclass(frozen=True)
class Arm:
    """A sampler and a pruner with the searches they were simulated in.

    Args:
        name: For a person.
        searches: One for each seed.
        target: Final loss that counts as found.
    """

    name: str
    searches: tuple[Search, ...]
    target: float

    @property
    def seconds(self) -> list[float]:
        """Device time to the target in each search, in order; infinite where it was not reached."""
        return sorted(search.seconds_to(self.target) for search in self.searches)

    @property
    def reached_frac(self) -> float:
        """Share of the searches that reached the target."""
        return sum(map(math.isfinite, self.seconds)) / len(self.searches)

    @property
    def median_s(self) -> float:
        """Median device time to the target; infinite if half of the searches did not reach it."""
        return statistics.median_high(self.seconds)

    def interval_s(self) -> tuple[float, float]:
        """Returns the 95 % bootstrap interval of the median (Efron 1979)."""
        drawn = np.random.default_rng(0).choice(np.array(self.seconds), (RESAMPLES, len(self.searches)))
        medians = np.sort(np.sort(drawn, axis=1)[:, len(self.searches) // 2])
        low, high = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)
        return float(medians[int(low * RESAMPLES)]), float(medians[int(high * RESAMPLES)])


def run_arm(
    table: Table,
    new_source: Callable[[], Source],
    sampler: SamplerSpec,
    pruner: PrunerSpec,
    *,
    repeats: int,
    budget_s: float,
    within_frac: float,
) -> Arm:
    """Simulates a sampler and a pruner with several seeds.

    Args:
        table: The table.
        new_source: Gives each search what its trials measure.
        sampler: As in a study file.
        pruner: As in a study file.
        repeats: Searches.
        budget_s: Device time of each.
        within_frac: A trial counts as found at this share above the source's best.
    """
    searches = tuple(simulate(table, new_source(), sampler, pruner, seed, budget_s) for seed in range(repeats))
    return Arm(name(sampler, pruner), searches, new_source().best * (1 + within_frac))


def name(sampler: SamplerSpec, pruner: PrunerSpec) -> str:
    """Returns both in words."""

    def words(name: str, options: Mapping[str, Any]) -> str:
        return name + "".join(f" {key}={value}" for key, value in options.items())

    given = pruner.model_dump(exclude_unset=True, exclude={"name"})
    return f"{words(sampler.name, sampler.options)} + {words(pruner.name, given)}"


def trial_s(table: Table) -> float:
    """Returns the median device time of a whole trial."""
    return statistics.median(row.seconds(table.tokens[-1], len(table.tokens)) for row in table.finished())


def check(table: Table, sampler: SamplerSpec, pruner: PrunerSpec) -> None:
    """Refuses what cannot be replayed on a table.

    Raises:
        UserError: Saying why.
    """
    if sampler.name in ("grid", "brute_force"):
        raise UserError(f"{sampler.name} goes through its combinations whatever happens; choose another --sampler")
    if pruner.name == "wilcoxon":
        raise UserError(
            "wilcoxon compares trials by their seeds, and a table's rows have one each; choose another --pruner"
        )
    spec = table.spec
    if spec.objective != "loss_at_equal_tokens":
        raise UserError(
            f"{spec.name} has the objective {spec.objective}, and a replay compares losses at equal tokens; record one "
            "with --set 'objective=\"loss_at_equal_tokens\"'"
        )
    errors = algorithm_errors(sampler, pruner, spec.space, spec.base, spec.budget.tokens)
    if errors:
        raise UserError("\n".join(error for _, error in errors))


def parse_sampler(text: str) -> SamplerSpec:
    """Reads a sampler from the command line: its name, or an inline table of a study file.

    Raises:
        UserError: If there is none like it.
    """
    return _parse(text, SamplerSpec)


def parse_pruner(text: str) -> PrunerSpec:
    """Reads a pruner from the command line, as `parse_sampler` does."""
    return _parse(text, PrunerSpec)


def _parse(text: str, kind: type[Spec]) -> Spec:
    from pydantic import ValidationError

    try:
        options = tomllib.loads(f"it = {text}")["it"] if text.startswith("{") else {"name": text}
        return kind(**options)
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{text}: {error}; write it as in a study file: '{{name = \"tpe\"}}'") from None
    except ValidationError as error:
        raise UserError("\n".join(f"{text}: {fault['msg']}" for fault in error.errors())) from None


def describe_table(table: Table, surrogate: Surrogate | None, budget_s: float) -> list[str]:
    """Returns what is replayed, in lines for a person."""
    rows, finished = len(table.rows), table.finished()
    lines = [
        f"{table.spec.name}: {rows} rows, {len(finished)} finished, {len(table.tokens)} evaluations each; "
        f"best loss {finished[0].losses[-1]:.4f}, median {finished[len(finished) // 2].losses[-1]:.4f}; "
        f"{budget_s / 60:.0f} min of device time a search"
    ]
    if surrogate is not None:
        lines.append(
            f"interpolated: on rows left out the final loss is {surrogate.error:.4f} off (root mean square), "
            f"rank correlation {surrogate.rank_correlation:.2f}"
        )
    return lines


def describe(arm: Arm) -> str:
    """Returns an arm's figures in a line for a person."""
    low, high = arm.interval_s()
    return (
        f"{arm.name}: found in {arm.reached_frac:.0%} of {len(arm.searches)} searches, "
        f"median {_minutes(arm.median_s)} (95 % interval {_minutes(low)} to {_minutes(high)})"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if math.isfinite(seconds) else "never"


def to_json(arm: Arm) -> dict[str, Any]:
    """Returns an arm's figures, JSON-able; a target that was not reached is null."""

    def number(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return {
        "name": arm.name,
        "target": arm.target,
        "searches": len(arm.searches),
        "reached_frac": arm.reached_frac,
        "median_s": number(arm.median_s),
        "interval_s": [number(value) for value in arm.interval_s()],
        "seconds": [number(value) for value in arm.seconds],
        "best": [number(search.best) for search in arm.searches],
    }
