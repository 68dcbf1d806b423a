"""The last step of a night: from the verdict's choice to a configuration file and a full run."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.errors import UserError
from autotune.core.promotion_results import FullRunRecord, Promotion
from autotune.core.records import TrialRecord, TrialStatus
from autotune.engine.deadline import MARGIN, REPORT_S
from autotune.engine.queue import Queue
from autotune.night.night import Night
from autotune.night.probing import Place, careful_length, probe
from autotune.night.queues import Queues
from autotune.progress.sharing import Sharing
from autotune.promotion.best_config import BestConfig, best_config_of
from autotune.promotion.brackets import BracketRunner
from autotune.promotion.early_end import END_MARGIN, EXPORT_S
from autotune.promotion.full_run import FullRun, evaluations
from autotune.promotion.repetition import repetition
from autotune.promotion.run_length import Check, full_tokens, slowness
from autotune.promotion.selection import select_trial_to_promote
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive
from autotune.store.study_record import read_study


@dataclass(frozen=True)
class Order:
    """A full run that is asked for.

    Args:
        tokens: Its length.
        number: Search trial to promote, None for the verdict's choice.
        as_is: Whether to copy the trial's settings, which are rescaled for the longer run otherwise.
        token_s: Seconds that it takes for each token, if they were measured; None for those of trials.
    """

    tokens: int
    number: int | None = None
    as_is: bool = False
    token_s: float | None = None


@dataclass(frozen=True)
class Chosen:
    """The trial that is promoted, why, and what its settings become."""

    trial: TrialRecord
    why: str
    promotion: Promotion


@dataclass(frozen=True)
class PromotionStep:
    """Chooses what is promoted, writes it, and trains it.

    Args:
        night: The open study.
        queues: Its queues.
    """

    night: Night
    queues: Queues

    @property
    def brackets(self) -> BracketRunner:
        """What finds the settings of a full run."""
        night = self.night
        record = read_study(night.run.root, night.spec.storage)
        return BracketRunner(night.study, night.loop, self.queues.bracket, record, self._train_tokens)

    @property
    def _train_tokens(self) -> int:
        """Tokens of the whole training text, by what the trainer said of its probe; 0 if it said nothing."""
        return int(self.night.attributes.probe_facts.get("train_tokens", 0))

    def seconds(self) -> float:
        """Return the seconds that an automatic full run takes with the shorter ones before it; 0 without one."""
        if not self.night.spec.promote.automatic:
            return 0.0

        # A run that takes what the search leaves is shortened where trials turn out slower than the plan says.
        plan = self.night.attributes.plan
        if plan is not None and plan.run_tokens:
            return END_MARGIN * (plan.full_s - EXPORT_S) + EXPORT_S if plan.full_s else 0.0

        equal_seconds = self.queues.equal_seconds
        slowest = 1.0 if equal_seconds is None else equal_seconds.slowest
        usual_seconds = self.night.loop.pace.usual_seconds
        tokens = full_tokens(self.night.spec, plan)
        check = Check.of(self.night.study, self._train_tokens, tokens)
        run_s = check.full_run_s(self.night.spec, tokens, usual_seconds, len(self.night.slots))
        return MARGIN * slowest * run_s + EXPORT_S

    def order(self) -> Order:
        """Return the full run of the night; one that takes what is left of it is measured out here, once."""
        night = self.night
        attributes, seconds_left = night.attributes, night.deadline.seconds_left
        plan, before = attributes.plan, attributes.full_run
        known = Order(full_tokens(night.spec, plan, attributes.run_tokens))
        takes_the_rest = plan is not None and plan.run_tokens > 0
        is_done = before is not None and before.status == TrialStatus.FINISHED
        if not takes_the_rest or is_done or math.isinf(seconds_left):
            return known

        trial, _ = select_trial_to_promote(read_study(night.run.root, night.spec.storage))
        token_s = self.measured_token_s(trial, as_is=False)
        if night.is_stopped:
            return known

        return Order(self._settled_tokens(trial, token_s), token_s=token_s)

    @again_if_cut_off
    def _settled_tokens(self, trial: TrialRecord, token_s: float | None) -> int:
        """Return the length of the full run that a peer has measured out, or measure it out for all."""
        night = self.night
        attributes = night.attributes

        with exclusive(night.search.storage, night.spec.name):
            measured = attributes.run_tokens
            tokens = full_tokens(night.spec, attributes.plan, measured)
            if not measured:
                # A run that turns out too long for the time is shortened; less than a trial would not be one.
                with contextlib.suppress(UserError):
                    tokens = self.brackets.fitting_tokens(trial, night.deadline.seconds_left, False, token_s)

                # Peers and later starts train the same run.
                attributes.run_tokens = tokens
        return tokens

    def measured_token_s(self, trial: TrialRecord, as_is: bool) -> float | None:
        """Return the seconds that a run of all the time left takes for a token, by a short training with its settings.

        Trials are no measure of it: their batch is smaller, and what happens once weighs more.

        Args:
            trial: The trial to promote.
            as_is: Whether to copy its settings.

        Returns:
            None if no run fits or if it cannot be measured.
        """
        night, pool = self.night, self.night.loop.pool
        try:
            tokens = self.brackets.fitting_tokens(trial, night.deadline.seconds_left, as_is)
        except UserError:
            return None

        params = trial.params if as_is else self.brackets.expected(trial, tokens)
        worker = pool.take()
        place = Place(night.study, night.profile, worker.slot, lambda: night.is_stopped, night.observer.preparing)
        try:
            measured = probe(place, {**night.overrides, **params}, worker, careful_length(night.spec))
        except UserError:
            pool.replace(worker)
            return None
        pool.give_back(worker)

        count = next(iter(evaluations(night.study, tokens).values()), None)
        return measured.seconds_for(tokens, count) / tokens

    def write(self, order: Order) -> None:
        """Write the configuration of a full run without training anything."""
        chosen = self._choose(order, has_time=lambda _: False, most_batch=math.inf)
        self._announce(chosen.promotion)
        self._write_best_config(chosen)

    def write_again(self) -> None:
        """Write the configuration that another process of a shared study has chosen, for this one's own folder."""
        promotion = self.night.attributes.promotion
        if promotion is not None:
            record = read_study(self.night.run.root, self.night.spec.storage)
            trial, why = select_trial_to_promote(record)
            if trial.number == promotion.trial:
                self._write_best_config(Chosen(trial, why, promotion))

    def train(self, order: Order, begins: Callable[[], None] = lambda: None) -> TrialStatus | None:
        """Train the chosen settings for longer, with checkpoints, and store what came of it.

        Args:
            order: What is asked for.
            begins: Called when the settings are known.

        Returns:
            How the full run stands; None if a stop came before it.
        """
        night = self.night
        pace = night.loop.pace
        record = read_study(night.run.root, night.spec.storage)
        own_slowness = slowness(night.spec, select_trial_to_promote(record, order.number)[0])
        token_s = order.token_s or own_slowness * pace.usual_seconds(1)
        run_s = token_s * order.tokens
        later_s = END_MARGIN * run_s + EXPORT_S + REPORT_S
        has_time = night.deadline.has_time(lambda: later_s)

        most_batch = math.inf
        while True:
            chosen = self._choose(order, has_time, most_batch)
            # What brackets that were cut short would have told is not known yet.
            if night.is_stopped:
                return None

            begins()
            self._announce(chosen.promotion)
            pace.begin_anew(order.tokens, run_s / own_slowness)  # the default's
            status = self._train(order, chosen)
            batch = chosen.promotion.batch
            if status is not TrialStatus.OUT_OF_MEMORY or batch is None or batch.factor <= 1 or night.is_stopped:
                return status

            # The trial's own batch fitted; nobody has trained the larger one before.
            most_batch = max(1.0, batch.factor / 2)
            night.observer.note("full", f"{batch.factor:.3g} times the trial's batch does not fit; trying less")

    def _train(self, order: Order, chosen: Chosen) -> TrialStatus:
        night = self.night
        best_config = self._write_best_config(chosen)
        trial = chosen.trial
        queue = self.queues.full(trial, order.tokens, order.as_is, best_config.card_lines())
        changed = {change.path: change.after for change in chosen.promotion.changes}
        params = {**trial.params, **changed}
        self._enqueue(queue, params, trial.number)

        folder = night.run.root / queue.plan.folder
        sigma = self.brackets.sigma(trial)
        keeper, fetch = night.options.mirror, None
        if isinstance(keeper, Sharing):
            fetch = functools.partial(keeper.fetch, night.run, str(queue.plan.folder))
        full_run = FullRun(queue, params, folder, night.deadline, night.observer, sigma, self._keep, fetch)
        return full_run.train(night.loop)

    @again_if_cut_off
    def _enqueue(self, queue: Queue, params: Mapping[str, Any], arm: int) -> None:
        with exclusive(queue.storage, self.night.spec.name):
            queue.enqueue(params, role="full", arm=arm, seed=self.night.spec.seed)

    def _keep(self, shown: FullRunRecord) -> None:
        self.night.attributes.full_run = shown

    def _choose(self, order: Order, has_time: Callable[[float], bool], most_batch: float) -> Chosen:
        """Choose the trial, and find out what its settings become in a run of that length."""
        night = self.night
        trial, why = select_trial_to_promote(read_study(night.run.root, night.spec.storage), order.number)
        if night.membership.is_shared and night.spec.promote.automatic and not order.as_is:
            night.attributes.checked = (trial.number, order.tokens)
        promotion = self.brackets.promotion(trial, order.tokens, order.as_is, has_time, most_batch)

        # What the trainer said of its text, in tokens: of the whole of it and of what the trial was given.
        own = trial.result.facts.get("train_tokens", 0) if trial.result else 0
        if own:
            words = repetition(self._train_tokens, order.tokens, promotion.trial_tokens / own)
            promotion = replace(promotion, repeats=words)

        return Chosen(trial, why, promotion)

    def _announce(self, promotion: Promotion) -> None:
        """Store and say what is trained."""
        night = self.night
        night.attributes.promotion = promotion
        night.observer.note("promotion", promotion.describe())
        if promotion.repeats:
            night.observer.note("promotion", promotion.repeats)

    def _write_best_config(self, chosen: Chosen) -> BestConfig:
        night = self.night
        record = read_study(night.run.root, night.spec.storage)
        best_config = best_config_of(night.study.trainer, record, chosen.trial, chosen.why, chosen.promotion)
        best_config.write(night.run.best_config)
        night.observer.note(
            "best", f"wrote {night.run.best_config} with the settings of trial {chosen.trial.number} ({chosen.why})"
        )
        return best_config
