"""A whole study from its file to the full run: profile, plan, search, finals, verdict, promotion.

Every step looks at what is stored and does what is missing, so that running again is resuming.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from autotune.core import objectives
from autotune.core.errors import UserError
from autotune.core.peers import Stage
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.core.text import seldom
from autotune.engine.deadline import StopRequest
from autotune.machine.hardware import HardwareProfile
from autotune.night import taking_along
from autotune.night.agreement import Agreement, agree, peer_with
from autotune.night.assisting import NOTHING_FINISHED, Steps, assist, exit_code
from autotune.night.night import Night, StoppedError, StoredSearch
from autotune.night.night import Options as Options  # the command line makes them
from autotune.night.opening import keep_study, open_night, open_search, patience_of, this_peer
from autotune.night.own_machine import measured_hardware, setup_of
from autotune.night.preparation import prepare_study, require_same_data
from autotune.night.promotion_step import Order, PromotionStep
from autotune.night.queues import Queues
from autotune.night.search_step import plan_night, search
from autotune.night.signals import signals_raising
from autotune.progress.mirroring import Mirroring
from autotune.progress.sharing import Sharing
from autotune.promotion.run_cost import TrainingPace
from autotune.promotion.run_length import full_tokens
from autotune.promotion.selection import select_trial_to_promote
from autotune.store.absence import patient
from autotune.store.by_machine import trained_on
from autotune.store.faults import explain_storage_errors
from autotune.store.run_directory import RunDirectory, log_event
from autotune.store.study_record import read_study
from autotune.study.study_file import Study

PARKED = 130
"""Exit code of a run that was stopped."""


class Session:
    """One `autotune run` or `autotune promote`, step by step.

    Args:
        study: The study file and its trainer.
        options: What the command line says.
        root: The run directory of a study that was begun, which may be renamed since; None for that of its name.
    """

    def __init__(self, study: Study, options: Options, root: Path | None = None) -> None:
        self.study = study
        self.options = options
        self.run = RunDirectory(root or options.out / study.spec.name)
        self.stop = StopRequest()
        self.began = False

    def work(self) -> int:
        """Go through the study, taking up what an earlier run left.

        Of the processes that share a study one coordinates: it plans, concludes and promotes. The others train what it
        queues, and one of them takes over when it has died.

        Returns:
            The exit code: 0 done, 1 if the full run failed, 4 no trial finished, 130 parked.

        Raises:
            UserError: If the study cannot go on; what was done before stays usable.
        """
        with self._opened() as (night, agreed):
            self._count_hours(night)
            for note in agreed.notes:
                night.observer.note("fleet", note)
            night.loop.steering.begin("run")

            steps = Steps(night, agreed.elapsed_s)
            takes_over = agreed.joined or not night.membership.is_coordinator
            if takes_over:
                self.run.keep_options(self.options.again)
            while True:
                with contextlib.suppress(StoppedError):
                    code = assist(night, steps, agreed.ended_at)
                    if code is None:
                        code = self._coordinate(night, steps, takes_over)
                    return code
                if not self.stop.goes_on():
                    return self._parked(night)
                takes_over = True

    def _coordinate(self, night: Night, steps: Steps, takes_over: bool) -> int:
        """Go through the night, from the stage that it is at if another process has coordinated it until now.

        Returns:
            The exit code.

        Raises:
            StoppedError: If the user wants the run to end, or another process coordinates by now.
        """
        attributes = night.attributes
        begun = attributes.stage if takes_over else Stage.NONE
        night.take_the_lead()
        if begun < Stage.SEARCH:
            night.enter(Stage.PLAN)
        with night.refusing(takes_over):
            plan_night(night)
        self.run.keep_options(self.options.again)  # hours that are refused are not to be given again

        if begun < Stage.FINALS:
            search(night, steps.queues, steps.finals)
            night.enter(Stage.FINALS)

        verdict = attributes.verdict
        if verdict is None or begun < Stage.ATTRIBUTION:
            verdict = steps.finals.verdict()
            night.require_lead()
            _conclude(night, verdict)

        if begun < Stage.PROMOTION:
            night.enter(Stage.ATTRIBUTION)
            steps.finals.attribute(verdict)
        full_run = None
        if verdict.word is not VerdictWord.FAILED:
            night.enter(Stage.PROMOTION)
            full_run = _promote(night, steps.promotion)

        night.end()
        if verdict.word is VerdictWord.FAILED:
            return NOTHING_FINISHED
        # What is still missing then, for lack of time, has the hours of a night of its own.
        attributes.worked_s = 0.0
        return exit_code(full_run)

    def promote(
        self,
        tokens: int | None,
        number: int | None,
        as_is: bool = False,
        agree: Callable[[str], bool] = lambda cost: True,
    ) -> int:
        """Train the study's winner, or a chosen trial, for longer.

        Args:
            tokens: Length of the full run; None for what fits until the deadline or, without one, for what the study
                file or the plan of its night says.
            number: Search trial to promote, or None for the verdict's choice.
            as_is: Whether to copy the trial's settings, which are rescaled for the longer run otherwise.
            agree: Takes what it will cost, in words, and returns whether to go on.

        Returns:
            The exit code: 0 done, 1 if the full run failed, 130 parked.

        Raises:
            UserError: If nothing can be promoted, or the run cannot go on.
        """
        with self._opened(is_night=False) as (night, _):
            if not night.membership.is_coordinator:
                raise UserError(f"{self.run.name} is at work on other machines; wait for it, or stop it first", 5)
            trial, _ = select_trial_to_promote(read_study(self.run.root, night.spec.storage), number)
            _expect_pace(night, trial)
            self.run.keep_options(self.options.again)
            self.options.session.bound(night.deadline)
            night.loop.steering.begin("promote")
            night.tell("full run")

            promotion = PromotionStep(night, Queues(night))
            brackets, seconds_left, token_s = promotion.brackets, night.deadline.seconds_left, None
            if tokens is None:
                tokens = full_tokens(night.spec, night.attributes.plan, night.attributes.run_tokens)
                if math.isfinite(seconds_left):
                    token_s = promotion.measured_token_s(trial, as_is)
                    tokens = brackets.fitting_tokens(trial, night.deadline.seconds_left, as_is, token_s)
            ended = None
            if not night.is_stopped and agree(brackets.cost(trial, tokens, as_is, token_s)):
                ended = promotion.train(Order(tokens, number, as_is, token_s))

            if night.is_stopped:
                return self._parked(night, "promote", *_arguments(tokens, number, as_is))
            return exit_code(ended)

    @contextlib.contextmanager
    def _opened(self, is_night: bool = True) -> Iterator[tuple[Night, Agreement]]:
        # Peers share a storage; without one, the run directory belongs to one process at a time.
        held = contextlib.nullcontext() if self.study.spec.storage else self.run.held()
        with explain_storage_errors(self.run.root), held:
            # Before the study is stored: one that cannot be trained leaves nothing that would have to be put back.
            prepared = prepare_study(self.study, self.options.say, seldom(self._preparing))
            signals = signals_raising(self.stop, self.options.say, self.study.spec.limits.grace_s)
            with signals, self._night(prepared, is_night) as opened:
                yield opened

    def _heed_stop(self) -> None:
        if self.stop.level:
            raise UserError(
                "stopped while it waited for a process that coordinates; nothing is lost: run again", PARKED
            )

    def _preparing(self, words: str) -> None:
        self._note("preparing", words)

    def _note(self, kind: str, words: str) -> None:
        log_event(self.run, kind, words)
        self.options.say(words)

    @contextlib.contextmanager
    def _night(self, prepared: Mapping[str, Any], is_night: bool) -> Iterator[tuple[Night, Agreement]]:
        options = self.options
        # An address that has never answered may be wrong, which is told at once.
        patience = patience_of(options, self.stop, self._note) if self.run.spec.exists() else None
        with patient(patience), open_search(self.study, self.run, self.stop, options.is_worker) as stored:
            agreed, hardware = Agreement(stored, this_peer(stored.membership, options.is_worker)), None
            if stored.membership.is_shared:
                # Who shares a study has to say what it trains on before it takes part.
                hardware = measured_hardware(stored.study.spec, options, self.run, self.stop)
                agreed = self._taking_part(stored, hardware, prepared, is_night)
            stored = agreed.search
            keep_study(stored.study, self.run)

            require_same_data(self.study, stored.attributes, prepared)
            taking_along.require_there(stored.study.spec, stored.attributes)
            self.began = True
            with self._kept_elsewhere(stored.attributes.created_at) as keeper:
                options = replace(options, mirror=keeper)
                if hardware is None:
                    hardware = measured_hardware(stored.study.spec, options, self.run, self.stop)
                with open_night(options, self.run, stored, agreed.peer, hardware, self.stop) as night:
                    yield night, agreed

    def _taking_part(
        self, stored: StoredSearch, hardware: HardwareProfile, prepared: Mapping[str, Any], is_night: bool
    ) -> Agreement:
        """Return what holds for this process among those that share the study."""
        options = self.options
        peer = this_peer(stored.membership, options.is_worker, hardware.name, hardware.memory_bytes)
        setup = setup_of(stored.study, hardware, prepared)
        if not is_night:
            return Agreement(stored, peer_with(peer, setup, stored.attributes))
        say_wait = functools.partial(self._note, "fleet")
        return agree(stored, peer, setup, options.deadline, options.session, self._heed_stop, say_wait)

    @contextlib.contextmanager
    def _kept_elsewhere(self, begun: str) -> Iterator[Mirroring | None]:
        """Keep a mirror, or put the files where the machines that share a database all reach them."""
        spec = self.study.spec
        if not spec.artifacts:
            if self.options.mirror is not None:
                self.options.mirror.start(self.run)
            yield self.options.mirror
            return

        sharing = Sharing(spec.artifacts, spec.name, begun, self.options.say)
        sharing.start(self.run)
        try:
            yield sharing
        finally:
            for line in sharing.finish():
                self.options.say(line)

    def _count_hours(self, night: Night) -> None:
        """Count the hours of a night over its sessions, where these end; without sessions each start has its own.

        Those of a shared study are the study's, whoever works on it.
        """
        session = self.options.session
        if session.hours is None or night.membership.is_shared:
            return

        worked_s = night.attributes.worked_s
        night.deadline.take_off(worked_s)

        def keep(seconds: float) -> None:
            night.attributes.worked_s = seconds

        session.count(worked_s, keep)
        session.bound(night.deadline)

    def _parked(self, night: Night, command: str = "run", *arguments: str) -> int:
        """Say how to go on, and return the exit code."""
        self.options.session.keep()
        again = self.run.command(command, *arguments)
        night.observer.note("parked", f"parked, nothing is lost; resume with: {again}")
        return PARKED


def _arguments(tokens: int, number: int | None, as_is: bool) -> list[str]:
    """Return the arguments of `autotune promote` that resume a full run."""
    arguments = ["--tokens", str(tokens)]
    if number is not None:
        arguments += ["--trial", str(number)]
    if as_is:
        arguments.append("--as-is")
    return arguments


def _promote(night: Night, promotion: PromotionStep) -> TrialStatus | None:
    order = promotion.order()
    night.require_lead()
    if night.spec.promote.automatic:
        return promotion.train(order, lambda: night.enter(Stage.FULL_RUN))

    promotion.write(order)
    return None


def _conclude(night: Night, verdict: Verdict) -> None:
    night.attributes.verdict = verdict
    night.observer.concluded(verdict, objectives.TERMS[night.spec.objective])


def _expect_pace(night: Night, trial: TrialRecord) -> None:
    """Take the pace from what devices like this one have trained, where this process has trained nothing yet."""
    pace = night.loop.pace
    record = trained_on(read_study(night.run.root, night.spec.storage), night.device_class)
    usual = TrainingPace.of(record, trial)
    if not pace.seconds(1) and usual is not None:
        tokens = trial.budget_tokens or night.spec.budget.tokens
        pace.expect(night.spec.budget.tokens, usual.seconds(tokens))  # of the default, which takes as long
