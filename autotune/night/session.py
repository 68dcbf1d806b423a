"""A whole study from its file to the full run: profile, plan, search, finals, verdict, promotion.

Every step looks at what is stored and does what is missing, so that running again is resuming.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.core import objectives
from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import present
from autotune.core.errors import UserError
from autotune.core.files import free_bytes, read_json, write_json, write_text
from autotune.core.records import TrialRecord, Verdict, VerdictWord
from autotune.core.study_results import FullRunRecord, Noise, Plan, Promotion
from autotune.engine.deadline import MARGIN, REPORT_S, Deadline
from autotune.engine.equal_seconds import EqualSeconds
from autotune.engine.event_loop import EventLoop, StopRequest
from autotune.engine.queue import Queue, hardware_overrides
from autotune.engine.worker import Slot
from autotune.finals.runner import Proving
from autotune.machine.gpu_monitor import GpuMonitor
from autotune.machine.hardware import HardwareError, HardwareProfile, profile
from autotune.machine.nvml import visible_devices, visible_gpus
from autotune.night import capacity, planner, warm_start
from autotune.night.search_end import SearchEnd
from autotune.progress.observer import Listener
from autotune.promotion import horizon
from autotune.promotion.best_config import card_lines, choice, provenance, write_best_config
from autotune.promotion.brackets import Promoting
from autotune.promotion.early_end import EXPORT_S
from autotune.promotion.full_run import FullRun, evaluations
from autotune.search.pruners import build_pruner
from autotune.search.samplers import build_sampler
from autotune.store.database import back_up, exclusive, explain_storage_errors, open_storage
from autotune.store.run_directory import RunDirectory
from autotune.store.study_store import finals_name, long_name, open_fixed, open_study, read_study
from autotune.study.study_file import Study

DONE, FAULT, NOTHING_FINISHED, PARKED = 0, 1, 4, 130


@dataclass(frozen=True)
class Options:
    """What the command line says about one run.

    Args:
        out: Folder of the run directories.
        device: "auto", "cpu", "cuda" or "cuda:1".
        emulate: "" or "t4".
        say: Takes a line for a person.
        deadline: When everything must be done.
        refresh: Takes the run directory, now and then while the study runs, and writes its report anew; None for none.
    """

    out: Path = Path("runs")
    device: str = "auto"
    emulate: str = ""
    say: Callable[[str], None] = print
    deadline: Deadline = field(default_factory=Deadline)
    refresh: Callable[[Path], None] | None = None


class Session:
    """One `autotune run`: holds the study's storage, workers and deadline while it works through the steps.

    Args:
        study: The study file and its trainer.
        options: What the command line says.
    """

    def __init__(self, study: Study, options: Options) -> None:
        self.study = study
        self.spec = study.spec
        self.options = options
        self.run = RunDirectory(options.out / self.spec.name)
        self.stop = StopRequest()
        self.began = False
        self.equal_seconds: EqualSeconds | None = None

    def work(self) -> int:
        """Goes through the study, taking up what an earlier run left.

        Returns:
            The exit code: 0 done, 4 no trial finished, 130 parked.

        Raises:
            UserError: If the study cannot go on; what was done before stays usable.
        """
        with self._opened() as loop:
            self._search(loop)
            if self.stop.level:
                return self._parked()
            proving = self._proving(loop)
            verdict = proving.verdict()
            if self.stop.level:
                return self._parked()
            self._conclude(verdict)
            proving.attribute(verdict)
            if self.stop.level:
                return self._parked()
            if verdict.word is VerdictWord.FAILED:
                return NOTHING_FINISHED
            tokens = planner.full_tokens(self.spec)
            if self.spec.promote.automatic:
                self._full(loop, tokens, None, as_is=False)
            else:
                self._write_best_config(*self._promotion(loop, tokens, None, as_is=False, has_time=lambda _: False))
        return self._parked() if self.stop.level else DONE

    def promote(
        self,
        tokens: int | None,
        number: int | None,
        as_is: bool = False,
        agree: Callable[[str], bool] = lambda cost: True,
    ) -> int:
        """Trains the study's winner, or a chosen trial, for longer.

        Args:
            tokens: Length of the full run; None for what fits until the deadline.
            number: Search trial to promote, or None for the verdict's choice.
            as_is: Whether to copy the trial's settings, which are rescaled for the longer run otherwise.
            agree: Takes what it will cost, in words, and returns whether to go on.
        """
        with self._opened() as loop:
            trial, _ = choice(read_study(self.run.root), number)
            self._expect_pace(loop, trial)
            promoting = self._promoting(loop)
            tokens = tokens or promoting.fitting_tokens(trial, self.options.deadline.seconds_left, as_is)
            if agree(promoting.cost(trial, tokens, as_is)):
                self._full(loop, tokens, number, as_is)
        return self._parked("promote") if self.stop.level else DONE

    # --- opening and closing ---

    @contextlib.contextmanager
    def _opened(self) -> Iterator[EventLoop]:
        held = contextlib.nullcontext() if self.spec.storage else self.run.held()
        with held, self._signals():
            self.storage = open_storage(self.run, self.spec.storage, self.spec.limits.heartbeat_s)
            self.optuna_study = open_study(self.storage, self.study, self._sampler(), self._pruner())
            self._freeze()
            self.began = True
            self.profile = self._hardware()
            self.overrides = hardware_overrides(self.study, self.profile.overrides())
            planned = self._attributes.plan
            self.overrides |= self._pass_override(planned.max_pass_sequences if planned else 0)
            self.listener = Listener(
                self.run, self.options.say, self._monitor(), self.options.refresh, self.spec.trackers
            )
            self.slots = slots_of(self.profile)
            loop = EventLoop(
                self.slots,
                self.spec.trainer,
                self.run,
                self.spec.limits,
                self.stop,
                self.options.deadline,
                self.listener,
            )
            try:
                with explain_storage_errors():
                    yield loop
            finally:
                loop.close()
                self.listener.close()
                if not self.spec.storage:
                    back_up(self.run)

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        names = [signal.SIGINT, signal.SIGTERM]
        # Under nohup a run must outlive its terminal, which is what the ignored signal asks for.
        names += [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []
        before = {name: signal.signal(name, self._on_signal) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _on_signal(self, *_: object) -> None:
        self.stop.raise_level()
        if self.stop.level == 1:
            with contextlib.suppress(RuntimeError):  # a signal in the midst of printing cannot print as well
                self.options.say("stopping after the next evaluation; once more to stop at once (nothing is lost)")

    def _sampler(self) -> Any:
        sampler = self.spec.sampler
        return build_sampler(sampler.name, sampler.options, self.spec.space, self.spec.base, self._sampler_seed())

    def _sampler_seed(self) -> int:
        """Differs between restarts, which would repeat their first draws, and between peers.

        Of a low-discrepancy sequence all have to draw from the same one; the study keeps its place in it.
        """
        import optuna

        if self.spec.sampler.name == "qmc":
            return self.spec.seed

        names = optuna.get_all_study_names(self.storage)
        drawn = (
            len(optuna.load_study(study_name=self.spec.name, storage=self.storage).trials)
            if (self.spec.name in names)
            else 0
        )
        peer = os.getpid() if self.spec.storage else 0
        return (self.spec.seed * 1_000_003 + drawn * 7919 + peer) % 2**32

    def _pruner(self) -> Any:
        pruner = self.spec.pruner
        return build_pruner(pruner.name, pruner.options, self.spec.budget.tokens)

    def _freeze(self) -> None:
        write_text(self.run.study_file, self.study.text)
        write_json(self.run.spec, self.spec.model_dump(mode="json"))

    def _hardware(self) -> HardwareProfile:
        """Returns the stored profile, or takes one; refuses a device that would make trials incomparable."""
        stored = read_json(self.run.hardware)
        if stored is not None:
            with contextlib.suppress(HardwareError):
                before = HardwareProfile.from_json(stored)
                now = "cpu" if self.options.device == "cpu" or not visible_devices() else "cuda"
                if (before.device, before.emulate) == (now, self.options.emulate):
                    return before
                raise UserError(
                    f"{self.spec.name} was begun on {_device_words(before.device, before.emulate)} and this is "
                    f"{_device_words(now, self.options.emulate)}: their losses and times are not comparable; "
                    'use the same device, or give the study another name (--set name="...")'
                )
        self.options.say("profiling the hardware ...")
        try:
            taken = profile(self.options.emulate, device=self.options.device)
        except HardwareError as error:
            raise UserError(str(error), 3) from None
        write_json(self.run.hardware, taken.to_json())
        return taken

    def _monitor(self) -> GpuMonitor | None:
        return GpuMonitor(self.profile.index) if self.profile.device == "cuda" else None

    # --- the steps ---

    def _queue(self, kind: str, optuna_study: Any, tokens: int, target: int | None, **more: Any) -> Queue:
        overrides = {**self.overrides, **present(self.spec.base, more)}
        queue = Queue(
            kind, optuna_study, self.storage, self.run, self.study, overrides, tokens, target, self.listener.note
        )
        queue.equal_seconds = self.equal_seconds if kind in ("trials", "finals") else None
        return queue

    def _short_queue(self, kind: str, optuna_study: Any, target: int | None) -> Queue:
        """Opens a queue of trainings of a trial's length, which read their text as often as the full run."""
        tokens = self.spec.budget.tokens
        epochs = self._plan_made().epochs
        return self._queue(kind, optuna_study, tokens, target, **planner.text(tokens, epochs))

    def _search(self, loop: EventLoop) -> None:
        spec = self.spec
        self._plan(loop)
        where = self.study, self.profile, self.slots[0], self.optuna_study, self.storage, self.overrides
        self.equal_seconds = capacity.equal_seconds(*where, stopped=lambda: self.stop.level > 0)
        queue = self._short_queue("trials", self.optuna_study, spec.budget.trials)
        earlier = list(warm_start.read(spec))
        with exclusive(self.storage, spec.name):
            queue.enqueue(spec.space.baseline(spec.base), role="baseline")
            for study in earlier:
                if warm_start.teach(self.optuna_study, spec, study):
                    self.listener.note("warm start", study.describe())

        proving = self._proving(loop)

        # Asked again at each start: the finals cost what the trials turn out to cost.
        def reserve_s() -> float:
            return proving.reserve_s() + proving.later_s()

        has_time = self.options.deadline.has_time(reserve_s)
        # The baseline by itself: a peer that finds another at it goes on.
        loop.run(self._short_queue("trials", self.optuna_study, None), has_time, awaits_peers=False)
        proving.noise()
        with exclusive(self.storage, spec.name):
            for settings in [*spec.enqueue, *(good for study in earlier for good in study.good)]:
                queue.enqueue(settings, role="search")
        fit = self._plan_made().trials
        end = SearchEnd(queue, self.options.deadline, reserve_s, self._noise, self.listener, fit)
        loop.run(queue, end.may_start)
        if not self.stop.level and not self.spec.storage:
            back_up(self.run)

    def _noise(self) -> Noise | None:
        """Returns what gain can be proved, if it was measured and may end the search: a gain in loss alone may not."""
        stored = self._attributes.noise
        may_end = self.spec.budget.ends_early and objectives.num_values(self.spec.objective) == 1
        return stored if may_end else None

    def _proving(self, loop: EventLoop) -> Proving:
        def open_queue() -> Queue:
            study = open_fixed(self.storage, finals_name(self.spec.name))
            return self._short_queue("finals", study, None)

        def later_s() -> float:
            return self._full_s(loop) + REPORT_S

        return Proving(self.spec, self.optuna_study, open_queue, loop, len(self.slots), later_s)

    def _plan(self, loop: EventLoop) -> None:
        """Measures the pace before the first trial and says what is to be expected."""
        stored = self._attributes.plan
        if stored is not None:
            loop.pace.expect(self.spec.budget.seeds * self.spec.budget.tokens, stored.trial_s)
            done = sum(trial.status.teaches for trial in read_study(self.run.root).trials)
            self.listener.note("resumed", f"going on: {done} of {self.spec.budget.trials} trials are done")
            return
        self.options.say("probing the baseline ...")
        deadline_s = self.options.deadline.seconds_left
        found = planner.survey(self.study, self.profile, self.slots, deadline_s, lambda: self.stop.level > 0)
        plan = found.plan
        self.overrides |= self._pass_override(plan.max_pass_sequences)
        loop.pace.expect(self.spec.budget.seeds * self.spec.budget.tokens, plan.trial_s)

        attributes = self._attributes
        attributes.probe_facts = dict(found.baseline.facts)
        if found.model is not None:
            attributes.cost_model = asdict(found.model)
            attributes.ranges = found.left
        attributes.provenance = provenance(self.spec, self.profile.to_json(), found.baseline.facts)
        # The plan comes last: where it is, everything is.
        attributes.plan = plan

        for kind, line in found.lines(self.spec, self.profile, free_bytes(self.run.root), datetime.now()):
            self.listener.note(kind, line)

    def _plan_made(self) -> Plan:
        plan = self._attributes.plan
        assert plan is not None, "a queue is opened after the plan is made"
        return plan

    @property
    def _attributes(self) -> StudyAttributes:
        return StudyAttributes(self.optuna_study)

    def _pass_override(self, size: int) -> dict[str, Any]:
        return present(self.spec.base, {capacity.MAX_PASS: size}) if size else {}

    def _full_s(self, loop: EventLoop) -> float:
        slowest = 1.0 if self.equal_seconds is None else self.equal_seconds.slowest
        tokens = planner.full_tokens(self.spec)
        seconds = loop.pace.usual_seconds(tokens) + self._promoting(loop).seconds(self.spec.budget.tokens, tokens)
        return MARGIN * slowest * seconds + EXPORT_S if self.spec.promote.automatic else 0.0

    def _conclude(self, verdict: Verdict) -> None:
        self._attributes.verdict = verdict
        self.listener.concluded(verdict, objectives.TERMS[self.spec.objective])

    def _write_best_config(self, trial: TrialRecord, why: str, promotion: Promotion) -> None:
        path = write_best_config(self.run, read_study(self.run.root), trial, why, promotion)
        self.listener.note("best", f"{path}: trial {trial.number} ({why})")

    def _promotion(
        self, loop: EventLoop, tokens: int, number: int | None, as_is: bool, has_time: Callable[[float], bool]
    ) -> tuple[TrialRecord, str, Promotion]:
        """Chooses the trial, finds out what its settings become in a run of so many tokens, and stores and says it."""
        trial, why = choice(read_study(self.run.root), number)
        promotion = self._promoting(loop).promotion(trial, tokens, as_is, has_time)
        whole = self._attributes.probe_facts.get("train_tokens", 0)
        own = trial.result.facts.get("train_tokens", 0) if trial.result else 0
        if own:
            repeats = horizon.repetition(whole, tokens, promotion.trial_tokens / own)
            promotion = replace(promotion, repeats=repeats)
        self._attributes.promotion = promotion
        self.listener.note("promotion", promotion.describe())
        if promotion.repeats:
            self.listener.note("promotion", promotion.repeats)
        return trial, why, promotion

    def _promoting(self, loop: EventLoop) -> Promoting:
        return Promoting(self.study, loop, self._bracket_queue, self._sigma())

    def _sigma(self) -> float | None:
        """Returns the standard deviation of a loss between seeds; None if it was not measured."""
        noise = self._attributes.noise
        return None if noise is None else noise.sigma

    def _bracket_queue(self, trial: TrialRecord, tokens: int, run_tokens: int) -> Queue:
        facts = self._attributes.probe_facts
        text = planner.text(tokens, planner.matched_epochs(self.spec, facts, run_tokens))
        # Runs that repeat their text more or less often are preceded by other trainings.
        suffix = "".join(f"-on-{size}" for size in text.values())
        return self._long_queue(trial, tokens, "bracket", suffix, **text)

    def _long_queue(self, trial: TrialRecord, tokens: int, kind: str, suffix: str = "", **more: Any) -> Queue:
        """Opens the queue of trainings of one trial's settings at another length."""
        folder = f"{kind}/trial-{trial.number:04d}-{tokens}-tokens{suffix}"
        if kind == "full":
            card = card_lines(self.run.best_config)
            more |= {"output.dir": str(self.run.root / folder), "output.provenance": card}
            more |= evaluations(self.spec, tokens)
        study = open_fixed(self.storage, long_name(self.spec.name, kind, trial.number, tokens) + suffix)
        queue = self._queue(kind, study, tokens, None, **more)
        queue.folder = folder
        if trial.budget_tokens is not None:
            queue.slowness = self.spec.budget.tokens / trial.budget_tokens
        return queue

    def _expect_pace(self, loop: EventLoop, trial: TrialRecord) -> None:
        if not loop.pace.seconds(1) and trial.result is not None:
            loop.pace.learn(trial.budget_tokens or self.spec.budget.tokens, trial.result.seconds)

    def _full(self, loop: EventLoop, tokens: int, number: int | None, as_is: bool) -> None:
        """Trains the chosen settings for longer, with checkpoints, and stores what came of it."""
        deadline = self.options.deadline
        before_run = deadline.has_time(lambda: MARGIN * loop.pace.usual_seconds(tokens) + EXPORT_S + REPORT_S)
        trial, why, promotion = self._promotion(loop, tokens, number, as_is, before_run)
        if self.stop.level:
            return
        self._write_best_config(trial, why, promotion)
        queue = self._long_queue(trial, tokens, "full", "-as-is" if as_is else "")
        params = {**trial.params, **{change.path: change.after for change in promotion.changes}}
        with exclusive(self.storage, self.spec.name):
            queue.enqueue(params, role="full", arm=trial.number, seed=self.spec.seed)

        def keep(shown: FullRunRecord) -> None:
            self._attributes.full_run = shown

        folder = self.run.root / queue.folder
        FullRun(queue, params, folder, deadline, self.listener, self._sigma(), keep).train(loop)

    def _parked(self, command: str = "run") -> int:
        given = {"--device": self.options.device, "--emulate": self.options.emulate}
        kept = [word for flag, value in given.items() if value not in ("", Options.device) for word in (flag, value)]
        again = self.run.command(command, *kept)
        self.listener.note("parked", f"parked, nothing is lost; go on with: {again}")
        return PARKED


def slots_of(hardware: HardwareProfile) -> list[Slot]:
    """Returns a slot per visible GPU of the profiled kind, or one for the CPU.

    Args:
        hardware: The profile of the device to use.
    """
    if hardware.device == "cpu":
        return [Slot("cpu", {"CUDA_VISIBLE_DEVICES": ""})]
    gpus = visible_gpus()
    same = [gpu for gpu in gpus if gpu.name == hardware.name] or gpus
    return [Slot(f"cuda:{position}", {"CUDA_VISIBLE_DEVICES": gpu.uuid}) for position, gpu in enumerate(same)]


def _device_words(device: str, emulate: str) -> str:
    return f"{device} emulating {emulate}" if emulate else device
