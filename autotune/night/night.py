"""An open study, with everything that works on it, and the lead of it where several processes share one."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes
from autotune.core.config_paths import drop_unknown_paths
from autotune.core.errors import UserError
from autotune.core.files import now_iso
from autotune.core.peers import Peer, Refusal, Stage
from autotune.core.study_results import DevicePlan
from autotune.engine.assignment import hardware_overrides
from autotune.engine.deadline import Deadline
from autotune.engine.event_loop import EventLoop
from autotune.engine.session_end import SessionEnd
from autotune.engine.worker import Slot
from autotune.machine.hardware import HardwareProfile
from autotune.night.preparation import expected_data
from autotune.progress.mirroring import Mirroring
from autotune.progress.observer import RunObserver
from autotune.store.membership import Membership
from autotune.store.run_directory import RunDirectory
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


_OF_ONE_MACHINE = (3, 130)
"""Exit codes of what another machine need not meet: a full disk, a lost network, Ctrl-C."""


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
        session: When the session ends, which may be before the deadline.
        mirror: What keeps a mirror of the study; None for none.
        again: The options of the commands that go on with it, by the command's name.
        is_worker: Whether it trains for a shared study alone, and never coordinates it.
    """

    out: Path = Path("runs")
    device: str = "auto"
    emulate: str = ""
    say: Callable[[str], None] = print
    deadline: Deadline = field(default_factory=Deadline)
    refresh: Callable[[Path], None] | None = None
    session: SessionEnd = field(default_factory=SessionEnd)
    mirror: Mirroring | None = None
    again: Mapping[str, Sequence[str]] = field(default_factory=dict)
    is_worker: bool = False


@dataclass(frozen=True)
class StoredSearch:
    """The search of a study in its storage.

    Args:
        study: The study file and its trainer, under the name that it has in the storage.
        storage: The study's storage.
        optuna_study: The search.
        membership: The place of this process among those that work on it.
        stops_before: Ids of the requests to stop it that this process came after.
    """

    study: Study
    storage: RDBStorage
    optuna_study: optuna.Study
    membership: Membership
    stops_before: frozenset[str] = frozenset()

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with the search: what the study found out."""
        return StudyAttributes(self.optuna_study)


class StoppedError(Exception):
    """Ends the work of the process that coordinates a study: nothing has failed."""


@dataclass(frozen=True)
class Night:
    """An open study, with everything that works on it.

    Args:
        study: The study file and its trainer.
        options: What the command line says.
        run: The run directory.
        search: The search in its storage.
        profile: The hardware.
        slots: Devices that train at once.
        loop: What trains on them.
        peer: What is told of this process where several share the study.
    """

    study: Study
    options: Options
    run: RunDirectory
    search: StoredSearch
    profile: HardwareProfile
    slots: Sequence[Slot]
    loop: EventLoop
    peer: Peer

    @property
    def spec(self) -> StudySpec:
        """What the study file says."""
        return self.study.spec

    @property
    def attributes(self) -> StudyAttributes:
        """What is stored with the search: what the study found out."""
        return self.search.attributes

    @property
    def device_class(self) -> str:
        """Class of this process's device in a mixed study; "" where all that share it are alike."""
        return self.peer.device_class if self.spec.mixed else ""

    @property
    def judged_on(self) -> str:
        """In a mixed study, the class of devices on which everything on fresh seeds is trained; "" elsewhere."""
        if not self.device_class:
            return ""
        return self.attributes.judged_on or self._begun_on

    @property
    def _begun_on(self) -> str:
        terms = self.attributes.terms
        return self.device_class if terms is None or terms.setup is None else terms.setup.device

    def judge_here(self) -> None:
        """Let everything on fresh seeds be trained on this process's class of devices from now on."""
        is_first = self.device_class == self._begun_on
        self.attributes.judged_on = "" if is_first else self.device_class

    @property
    def own_plan(self) -> DevicePlan | None:
        """What was measured on this process's device, where the study was planned on one of another class."""
        return self.attributes.plan_on(self.device_class) if self.device_class else None

    def trial_s_on(self, device_class: str) -> float:
        """Return the seconds of a whole trial as they were planned for devices of a class; 0 if none was."""
        attributes = self.attributes
        own = attributes.plan_on(device_class)
        if own is not None:
            return own.trial_s
        is_planned = attributes.plan is not None and attributes.planned_on == device_class
        return attributes.plan.trial_s if attributes.plan is not None and is_planned else 0.0

    @property
    def observer(self) -> RunObserver:
        """What is told of everything that happens."""
        return self.loop.observer

    @property
    def deadline(self) -> Deadline:
        """When everything must be done."""
        return self.options.deadline

    @property
    def membership(self) -> Membership:
        """The place of this process among those that work on the study."""
        return self.search.membership

    @property
    def is_stopped(self) -> bool:
        """Whether the user wants the run to end."""
        return self.loop.stop.level > 0

    def heeds_stop(self) -> bool:
        """Take up what was asked of the study meanwhile, and return whether this run is to end."""
        self.loop.steering.tick()
        self.loop.heed_session()
        return self.is_stopped

    def take_the_lead(self) -> None:
        """Let this process be the one that coordinates the study.

        Raises:
            StoppedError: If the user wants this run to end.
        """
        if self.is_stopped:
            raise StoppedError
        if not self.membership.is_shared:
            return

        attributes = self.attributes
        if attributes.stage is not Stage.NONE and attributes.coordinator not in ("", self.membership.id):
            self.observer.note("fleet", f"this process coordinates the study now, after peer {attributes.coordinator}")
        attributes.coordinator = self.membership.id

    def require_lead(self) -> None:
        """Go on only as the process that coordinates the study: asked before whatever must be done once.

        Raises:
            StoppedError: If the user wants this run to end, or another process coordinates by now.
        """
        is_latest = not self.membership.is_shared or self.attributes.coordinator == self.membership.id
        if not self.is_stopped and not (is_latest and self.membership.confirm()):
            self.loop.stop.step_down()
        if self.is_stopped:
            raise StoppedError

    def enter(self, stage: Stage) -> None:
        """Let the study be at a stage of its night, if this process leads it.

        Args:
            stage: The stage.

        Raises:
            StoppedError: As `require_lead`.
        """
        self.require_lead()
        if self.membership.is_shared:
            self.attributes.stage = stage
            self.tell(stage.name.lower())

    @contextlib.contextmanager
    def refusing(self, takes_over: bool) -> Iterator[None]:
        """Tell the peers of a shared study why the block cannot plan it, and do not try what one of them has tried.

        Args:
            takes_over: Whether another process has coordinated the night before this one.

        Raises:
            UserError: What the block raises, or what it raised for a peer on such a device.
        """
        refusal = self.attributes.refusal
        if refusal is not None and takes_over and refusal.device == self.profile.name:
            raise UserError(refusal.words, refusal.exit_code)
        if refusal is not None:
            self.attributes.refusal = None

        try:
            yield
        except UserError as error:
            if self.membership.is_shared and error.exit_code not in _OF_ONE_MACHINE:
                self.attributes.refusal = Refusal(str(error), error.exit_code, self.profile.name)
            raise

    def end(self) -> None:
        """Let the night of a shared study be over, for all of its processes.

        Raises:
            StoppedError: As `require_lead`.
        """
        self.require_lead()
        if self.membership.is_shared:
            self.attributes.ended_at = now_iso()
            self.attributes.stage = Stage.NONE
            self.leave()

    def leave(self) -> None:
        """Have no part any more in the night that is over: who comes while files are still written begins another."""
        self.attributes.keep_peer(replace(self.peer, doing="ending", waits=True))

    def tell(self, doing: str) -> None:
        """Store what this process of a shared study is at, where that is no training.

        Args:
            doing: In a few words.
        """
        if self.membership.is_shared:
            self.attributes.keep_peer(replace(self.peer, doing=doing))

    @property
    def overrides(self) -> dict[str, Any]:
        """What the hardware and the plan fill into each config, by dotted path."""
        overrides = hardware_overrides(self.study, self.profile.overrides())
        plan = self.own_plan or self.attributes.plan
        if plan is not None and plan.max_pass_sequences:
            chosen = self.study.trainer.by_path({"max_pass_sequences": plan.max_pass_sequences})
            overrides |= drop_unknown_paths(self.spec.base, chosen)
        return overrides | expected_data(self.study, self.attributes)
