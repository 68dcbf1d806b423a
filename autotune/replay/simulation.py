"""A recorded table instead of training: one simulated search, and the device time that it takes.

The search is simulated as the engine runs it on one device: baseline first and never pruned, evaluations reported
by tokens, divergence told as pruned. What a trial measures comes from the table, either of its nearest row that was
not yet tried (`sources.Rows`), or of a surrogate fitted to all of them (`surrogate.Surrogate`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.core.records import TrialStatus
from autotune.replay.sources import Source
from autotune.replay.table import Row, Table
from autotune.search.pruners import build_pruner
from autotune.search.pruning import should_continue
from autotune.search.samplers import build_sampler
from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec
from autotune.study.spec import StudySpec

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class Search:
    """A simulated search.

    Args:
        ends_s: Device time at the end of each trial.
        losses: Final loss of each trial, nats per token; infinite if it did not finish.
    """

    ends_s: tuple[float, ...]
    losses: tuple[float, ...]

    def seconds_to(self, loss: float) -> float:
        """Return the device time at which a trial had finished at a loss or below; infinite if none did.

        Args:
            loss: Nats per token.
        """
        for end_s, reached in zip(self.ends_s, self.losses, strict=True):
            if reached <= loss:
                return end_s
        return math.inf

    def best_by(self, seconds: float) -> float:
        """Return the lowest final loss of the trials that ended by then; infinite if none finished.

        Args:
            seconds: Device time.
        """
        ended = [loss for end_s, loss in zip(self.ends_s, self.losses, strict=True) if end_s <= seconds]
        return min(ended, default=math.inf)

    @property
    def best(self) -> float:
        """The lowest final loss; infinite if nothing finished."""
        return min(self.losses, default=math.inf)


def simulate(
    table: Table, source: Source, sampler: SamplerSpec, pruner: PrunerSpec, seed: int, budget_s: float
) -> Search:
    """Run one search on a table.

    Args:
        table: Gives the space, the base config and the token grid.
        source: What trials measure.
        sampler: As in a study file.
        pruner: As in a study file.
        seed: Of the sampler and of what is audited.
        budget_s: Device time after which no trial begins.
    """
    study, spec = new_study(table, sampler, pruner, seed)
    return search(study, spec, table, source, budget_s)


def new_study(table: Table, sampler: SamplerSpec, pruner: PrunerSpec, seed: int) -> tuple[optuna.Study, StudySpec]:
    """Return an Optuna study for a search on a table, and the spec that goes with it.

    Args:
        table: Gives the space and the base config.
        sampler: As in a study file.
        pruner: As in a study file.
        seed: Of the sampler and of what is audited.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    spec = table.spec.model_copy(update={"sampler": sampler, "pruner": pruner, "seed": seed})

    with warnings.catch_warnings():
        # Optuna marks several of its parts as experimental.
        warnings.simplefilter("ignore")
        study = optuna.create_study(
            study_name=f"{spec.name}-{seed}",  # Hyperband draws its brackets from it
            sampler=build_sampler(sampler.name, sampler.options, spec.space, spec.base, seed),
            pruner=build_pruner(pruner.name, pruner.options, spec.budget.tokens),
        )

    return study, spec


def search(study: optuna.Study, spec: StudySpec, table: Table, source: Source, budget_s: float) -> Search:
    """Run a new Optuna study on a table, whatever its sampler and pruner.

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
            is_baseline = not losses
            row = source.take(_proposal(study, spec, is_baseline))
            if row is None:
                break

            trial = _enqueued_trial(study, spec, row, is_baseline)
            evaluations = _train(study, trial, row, table.tokens, spec)

            now_s += row.seconds(table.tokens[evaluations - 1], evaluations)
            ends_s.append(now_s)
            losses.append(_final_loss(row, evaluations, table))

    return Search(tuple(ends_s), tuple(losses))


def _proposal(study: optuna.Study, spec: StudySpec, is_baseline: bool) -> dict[str, Any]:
    """Return what the sampler would train; the asking itself leaves no trace that it could learn from."""
    from optuna.trial import TrialState

    if is_baseline:
        return dict(spec.space.baseline(spec.base))

    trial = study.ask()
    params = spec.space.suggest(trial, spec.base)
    study.tell(trial, state=TrialState.FAIL)

    return dict(params)


def _enqueued_trial(study: optuna.Study, spec: StudySpec, row: Row, is_baseline: bool) -> optuna.Trial:
    """Return a trial that has exactly the row's settings."""
    role = "baseline" if is_baseline else "search"
    study.enqueue_trial(dict(row.params), user_attrs={"role": role})
    trial = study.ask()
    spec.space.suggest(trial, spec.base)
    return trial


def _should_continue(trial: optuna.Trial, tokens: int, spec: StudySpec) -> bool:
    pruner = spec.pruner
    return should_continue(trial, tokens, pruner_name=pruner.name, audit_frac=pruner.audit_frac, seed=spec.seed)


def _train(study: optuna.Study, trial: optuna.Trial, row: Row, grid_tokens: Sequence[int], spec: StudySpec) -> int:
    """Report a row's losses as its trial would have, and return how many evaluations that took."""
    from optuna.trial import TrialState

    for evaluation, (tokens, loss) in enumerate(zip(grid_tokens, row.losses, strict=False), 1):
        has_diverged = not math.isfinite(loss)
        if not has_diverged:
            trial.report(loss, tokens)

        # At the end of the grid there is nothing left to stop.
        is_last = evaluation == len(grid_tokens)
        if has_diverged or (not is_last and not _should_continue(trial, tokens, spec)):
            study.tell(trial, state=TrialState.PRUNED)
            return evaluation

    if row.status is TrialStatus.FINISHED:
        study.tell(trial, row.losses[-1])
    else:
        study.tell(trial, state=TrialState.PRUNED)

    return max(1, len(row.losses))


def _final_loss(row: Row, evaluations: int, table: Table) -> float:
    """Return a row's final loss, or infinity where its trial was stopped or did not finish."""
    if row.status is TrialStatus.FINISHED and evaluations == len(table.tokens):
        return row.losses[-1]
    return math.inf
