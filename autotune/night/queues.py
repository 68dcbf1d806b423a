"""The queues of a night: what the trainings of each kind are made of, and where they are stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.records import TrainingKind, TrialRecord
from autotune.core.setups import Device
from autotune.engine.assignment import TrainingPlan
from autotune.engine.cost_model import CostModel, Counts
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.queue import Queue
from autotune.engine.trial_store import TrialStore
from autotune.night.night import Night
from autotune.night.probing import Place, probe, probe_length
from autotune.night.text_share import matched_epochs, train_tokens_override
from autotune.promotion.full_run import evaluations
from autotune.promotion.run_length import AS_IS_SUFFIX, slowness
from autotune.store.study_store import class_hash, finals_name, long_name, open_fixed

if TYPE_CHECKING:
    import optuna


def equal_seconds(night: Night) -> EqualSeconds | None:
    """Return what gives each configuration its own token budget; None if the objective asks for equal tokens.

    Without a cost model the baseline is probed by each process anew: speeds of two machines, or of two nights, are not
    to be divided by each other. Devices of several classes have a cost model and speeds each.

    Args:
        night: The open study, planned.

    Raises:
        UserError: If the baseline does not train, or with exit code 130 if it was stopped.
    """
    study, overrides = night.study, night.overrides
    if study.spec.objective != "loss_at_equal_seconds":
        return None

    facts = night.attributes.probe_facts
    own = night.own_plan
    stored = night.attributes.cost_model if own is None else own.cost_model
    baseline = with_paths(study.spec.base, overrides)
    if stored is None:
        model = None
        place = Place(study, night.profile, night.slots[0], lambda: night.is_stopped, night.observer.preparing)
        speed = probe(place, overrides).speed
    else:
        model = CostModel(**stored)
        speed = model.tokens_per_s(Counts.of(study.trainer.counts(baseline, facts) or {}))

    budgets = EqualSeconds(
        study=study,
        optuna_study=night.search.optuna_study,
        storage=night.search.storage,
        facts=facts,
        model=model,
        baseline_per_s=speed,
        probe_length=probe_length(study.spec, night.profile),
        device_class=night.device_class,
    )
    budgets.keep(study.spec.space.baseline(study.spec.base), baseline, speed)
    return budgets


@dataclass(frozen=True)
class Queues:
    """Opens the queues of a night; those of trials and finals once the night is planned.

    Args:
        night: The open study.
        equal_seconds: Gives each configuration of trials and finals its own budget; None if all have the same.
    """

    night: Night
    equal_seconds: EqualSeconds | None = None

    def search(self) -> Queue:
        """Open the search, which ends with the trials that the study file wants."""
        return self._open(self._search_plan(self.night.spec.budget.trials), self.night.search.optuna_study)

    def baseline(self) -> Queue:
        """Open the search for what was put into it beforehand alone: the baseline."""
        return self._open(self._search_plan(target=None), self.night.search.optuna_study)

    def finals(self) -> Queue:
        """Open the finals, which a study without finals never has; in a mixed study those of one class of devices."""
        night = self.night
        moved_to = night.attributes.judged_on
        folder = f"{TrainingKind.FINALS}-{class_hash(moved_to)}" if moved_to else ""
        plan = replace(self._short_plan(TrainingKind.FINALS), only_on=night.judged_on, folder=folder)
        return self._open(plan, open_fixed(night.search.storage, finals_name(night.spec.name, moved_to)))

    def bracket(self, trial: TrialRecord, tokens: int, run_tokens: int) -> Queue:
        """Open the trainings of a trial's settings that precede a full run.

        Args:
            trial: The trial.
            tokens: Their length.
            run_tokens: Length of the full run, whose text they read as often.
        """
        facts = self.night.attributes.probe_facts
        epochs = matched_epochs(self.night.spec, self.night.study.trainer, facts, run_tokens)
        text = train_tokens_override(self.night.study, tokens, epochs)
        # Runs that repeat their text more or less often are preceded by other trainings.
        suffix = "".join(f"-on-{size}" for size in text.values())
        if self.night.device_class:
            # Whoever takes over on another card compares trainings of that card alone.
            suffix += f"-{class_hash(self.night.device_class)}"
        plan = self._long_plan(TrainingKind.BRACKET, trial, tokens, suffix, text)
        return self._open_long(plan, trial, suffix)

    def full(self, trial: TrialRecord, tokens: int, as_is: bool, card: Sequence[str]) -> Queue:
        """Open the full run of a trial's settings, with checkpoints, weights and a model card.

        Args:
            trial: The trial.
            tokens: Length of the full run.
            as_is: Whether the trial's settings are copied, which are rescaled otherwise.
            card: Lines of the model card that say where the settings come from.
        """
        study = self.night.study
        suffix = AS_IS_SUFFIX if as_is else ""
        plan = self._long_plan(TrainingKind.FULL, trial, tokens, suffix, evaluations(study, tokens))
        folder = str(self.night.run.root / plan.folder)
        output = study.trainer.by_path({"output_dir": folder, "provenance": list(card)})
        overrides = {**plan.overrides, **drop_unknown_paths(study.spec.base, output)}
        return self._open_long(replace(plan, overrides=overrides), trial, suffix)

    def _search_plan(self, target: int | None) -> TrainingPlan:
        plan = self._short_plan(TrainingKind.SEARCH)
        return replace(plan, target=target, seeds=self.night.spec.budget.seeds)

    def _short_plan(self, kind: TrainingKind) -> TrainingPlan:
        """Return the plan of trainings of a trial's length, which read their text as often as the full run."""
        stored = self.night.attributes.plan
        assert stored is not None, "a queue is opened after the night is planned"

        tokens = self.night.spec.budget.tokens
        text = train_tokens_override(self.night.study, tokens, stored.epochs)
        return TrainingPlan(kind, tokens, {**self.night.overrides, **text}, equal_seconds=self.equal_seconds)

    def _long_plan(
        self, kind: TrainingKind, trial: TrialRecord, tokens: int, suffix: str, more: Mapping[str, Any]
    ) -> TrainingPlan:
        """Return the plan of trainings of one trial's settings at another length."""
        return TrainingPlan(
            kind=kind,
            budget_tokens=tokens,
            overrides={**self.night.overrides, **more},
            folder=f"{kind}/trial-{trial.number:04d}-{tokens}-tokens{suffix}",
            slowness=slowness(self.night.spec, trial),
        )

    def _open_long(self, plan: TrainingPlan, trial: TrialRecord, suffix: str) -> Queue:
        name = long_name(self.night.spec.name, plan.kind, trial.number, plan.budget_tokens) + suffix
        return self._open(plan, open_fixed(self.night.search.storage, name))

    def _open(self, plan: TrainingPlan, optuna_study: optuna.Study) -> Queue:
        night = self.night
        device = Device(night.device_class, night.profile.memory_bytes)
        store = TrialStore(optuna_study, night.search.storage, night.run, night.study, night.membership.id, device)
        return Queue(plan, store, night.observer.note)
