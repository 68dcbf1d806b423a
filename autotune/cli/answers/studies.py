"""What the commands on studies answer."""

from __future__ import annotations

from typing import Any, Literal

from autotune.cli.answers.base import Answer, Part
from autotune.core.requests import Wish

State = Literal["preparing", "not begun", "running", "parked", "failed", "full run failed", "done"]


class MetricFields(Part):
    """What trainings report and are judged by."""

    name: str
    unit: str
    maximize: bool
    """Whether higher is better."""
    of_text: bool
    """Whether it is the cross-entropy of a language model in nats per token."""
    also: dict[str, str]
    """What else is reported, and in which words it is shown."""
    budget_unit: str
    """What budgets count, and every key with "tokens" in it: tokens, steps, epochs, rows."""


class AcceptedWish(Part):
    """What a person asked of a running study, and what will come of it."""

    says: str
    """It in a sentence."""
    wish: Wish


class SteeredWish(AcceptedWish):
    """What a person asked of a running study, and what came of it."""

    at: str
    """When it was asked, ISO 8601."""
    done: bool | None
    """Whether it was done; null if the study has not taken it up yet."""


class PeerAtWork(Part):
    """A process that works on a study that machines share."""

    id: str
    host: str
    device: str
    """Name of what it trains on; "" as long as that is being measured."""
    since: str
    """When it began, ISO 8601."""
    role: Literal["coordinator", "worker"]
    """Whether it plans, concludes and promotes for all: one does."""
    doing: str


class MachineShare(Part):
    """What one of the machines that share a study has trained of the search and on fresh seeds."""

    host: str
    device: str
    """Card and dtype and, where they are not the study's, versions and the trainer's code."""
    trials: int
    finals: int
    seconds: float
    """Of all its trainings."""
    energy_j: float | None
    """What its GPUs used in them; null where they have no counter."""
    median_loss: float | None
    """Of its finished trials, as the trainer reports it."""
    best_loss: float | None


class Standing(Answer):
    """How a study stands. Gains are positive for the better, in the unit of the metric."""

    study: str
    """Its name on the command line."""
    state: State
    """Whether it runs, and if not, how it ended: "parked" goes on by the same command."""
    running_pid: int | None
    """The process that runs it; null if none does, and of a study that machines share."""
    peers: tuple[PeerAtWork, ...] = ()
    """Of a study that machines share: the processes that work on it now, the coordinator first."""
    machines: tuple[MachineShare, ...] = ()
    """What each machine has trained, where there was more than one."""
    trials_wanted: int | None = None
    """Trials at most."""
    trials: dict[str, int]
    """Counts of trials by how they stand."""
    trials_taken_along: int = 0
    """Those of them that an earlier study has trained."""
    seeds_per_trial: int | None = None
    best_trial: int | None = None
    """The finished trial with the best value."""
    best_loss: float | None = None
    """Its value, as the trainer reports it."""
    finals_finished: int = 0
    """Finished trainings on fresh seeds."""
    finals: int = 0
    """Those that there are so far."""
    verdict: Literal["better", "no clear gain", "inconclusive", "failed"] | None = None
    gain: float | None = None
    """Of the winner with all its changes, over the default settings."""
    gain_low: float | None = None
    """Lower end of its 95 % interval."""
    gain_high: float | None = None
    """Upper end of it."""
    promoted_gain: float | None = None
    """Of the settings in best_config.toml, as measured on fresh seeds."""
    promoted_loss: float | None = None
    left_at_default: tuple[str, ...] = ()
    """Changes of the winner that are not promoted, by dotted path."""
    full_run: str | None = None
    """How the full run stands."""
    full_run_tokens: int | None = None
    """Length that was asked for."""
    full_run_seen_tokens: int | None = None
    full_run_end_tokens: int | None = None
    """Where it ends so as to be done in time; null for its whole length."""
    full_run_done_at: float | None = None
    """When it will be done, seconds since 1970."""
    metric: MetricFields | None = None
    steered: tuple[SteeredWish, ...] = ()
    """What a person asked of it as it ran, in that order."""
    next: str | None = None
    """The command to type next."""
    next_why: str | None = None
    last_event: str | None = None


class Status(Standing):
    """The progress and the results of a study; what is not known yet is null."""

    schema_name: Literal["autotune.status/1"] = "autotune.status/1"


class Ended(Standing):
    """How a study stands after a command that trained."""

    exit_code: int
    """What the command ends with: 0 done, 1 the full run failed, 4 no trial finished, 130 parked."""
    says: list[str]
    """The last lines that a person is told: verdict, gain, what to do next."""
    report: str | None
    """The page; null if there is nothing to report."""


class Run(Ended):
    """What became of a study."""

    schema_name: Literal["autotune.run/1"] = "autotune.run/1"


class Promote(Ended):
    """What became of a full run."""

    schema_name: Literal["autotune.promote/1"] = "autotune.promote/1"


class Record(Ended):
    """What became of a recording."""

    schema_name: Literal["autotune.record/1"] = "autotune.record/1"

    table: str | None
    """The table for `autotune replay`; null if no trial finished."""
    table_trials: int
    """Trials in it."""


class PlanFigures(Part):
    """What a night is expected to look like; 0 where it is not known."""

    trial_s: float | None
    """Seconds of a whole trial."""
    trials: int
    """Trials that fit for certain."""
    most_trials: int
    """Trials that fit if others are stopped early as usual."""
    search_s: float | None
    finals_s: float | None
    full_s: float | None
    """Seconds of the full run."""
    total_s: float | None
    """Seconds of everything at most."""
    likely_s: float | None
    """Seconds of everything if trials are stopped early as usual."""
    slots: int
    """Devices that train at once."""
    tokens_per_s: float | None
    peak_bytes: int
    """Memory of the device at its peak."""
    max_pass_sequences: int
    energy_kwh: float | None
    run_tokens: int
    """Length of an automatic full run that takes what the search leaves."""
    epochs: float | None
    """How often trials read a part of the text; 0 if they are given all of it."""
    disk_bytes: float | None
    final_runs: int
    attributing_runs: int
    cuts: str
    """What is left out for lack of time; "" if nothing."""
    refusal: str
    """Why the time is too short for the study at all; "" if it is not."""
    taken: int = 0
    """Trials of earlier studies that count here, beside those that are planned."""


class Planned(Answer):
    """A study's trials, time, memory and disk space. Where `plan.refusal` says something, the exit code is 2."""

    schema_name: Literal["autotune.plan/1"] = "autotune.plan/1"

    plan: PlanFigures
    says: list[str]
    """What a person is told."""
    left: dict[str, list[Any]]
    """What is left of the choices of settings, where not all fit into memory; by dotted path."""
    searches: dict[str, dict[str, Any]]
    """What is searched, as in a study file, and its default, by dotted path."""
    config: dict[str, Any]
    """The settings that are the same in all trials, by dotted path."""


class Stopped(Answer):
    """What was asked of a running study; `status` shows when it is parked."""

    schema_name: Literal["autotune.stop/1"] = "autotune.stop/1"

    study: str
    pid: int | None = None
    """The process that was asked; null of a study that machines share."""
    peers: tuple[str, ...] = ()
    """Of a study that machines share: the ids of the processes that were asked."""
    now: bool
    """Whether it stops at once, and not after the next evaluation."""


class Steered(Answer):
    """What was asked of a study, all of which it will do; `status` shows what has come of it."""

    schema_name: Literal["autotune.steer/1"] = "autotune.steer/1"

    study: str
    running: bool
    """Whether it runs now; what is asked counts once it goes on, if not."""
    accepted: list[AcceptedWish]


class Reported(Answer):
    """What was written of a study."""

    schema_name: Literal["autotune.report/1"] = "autotune.report/1"

    study: str
    says: list[str]
    report: str
    """The page."""
    pictures: list[str]
    """PNG files of its figures."""
    no_pictures_why: str
    """Why there are none, "" if there are."""


class StudyFigures(Part):
    """One study among others; fractions are of what the default came to."""

    study: str
    created_at: str
    """ISO 8601."""
    verdict: str
    before: float | None
    """What the default came to on fresh seeds, as the trainer reports it."""
    after: float | None
    """That of the promoted settings, or of the winner where none are."""
    gain_frac: float | None
    gain_low_frac: float | None
    gain_high_frac: float | None
    trials: int
    busy_s: float | None
    """Seconds of training."""
    key_change: str
    says: str
    """One line of it."""


class Compared(Answer):
    """Studies side by side, oldest first."""

    schema_name: Literal["autotune.compare/1"] = "autotune.compare/1"

    studies: list[StudyFigures]
    page: str


class TimelineEntry(StudyFigures):
    """One study of a folder."""

    kind: str
    """A letter; losses can be compared where letters are equal."""


class Timeline(Answer):
    """All studies of a folder, oldest first."""

    schema_name: Literal["autotune.timeline/1"] = "autotune.timeline/1"

    studies: list[TimelineEntry]
    kinds: dict[str, str]
    """What each letter stands for."""
    unreadable: dict[str, str]
    """Studies that could not be read, and why."""
    page: str
    pictures: list[str]


class Arm(Part):
    """One sampler with one pruner, tried on recorded trials."""

    name: str
    target: float | None
    """What counts as found, in the metric's own sign."""
    searches: int
    reached_frac: float | None
    """Share of the searches that found it."""
    median_s: float | None
    """Device time until it is found; null if half of them never did."""
    interval_s: list[float | None]
    """The median's 95 % interval."""
    seconds: list[float | None]
    """Device time of each search until it is found."""
    best: list[float | None]
    """What each search reached at best."""


class Replayed(Answer):
    """What samplers and pruners came to on recorded trials."""

    schema_name: Literal["autotune.replay/1"] = "autotune.replay/1"

    says: list[str]
    """Of the table that they were tried on."""
    arms: list[Arm]


class Cloned(Answer):
    """A study that was made from another, and is not begun yet."""

    schema_name: Literal["autotune.clone/1"] = "autotune.clone/1"

    study: str
    file: str
    """Its study file, which may be edited before it is run."""
    of: str
    """The study that it was made from."""
    taken: int
    """Trials of that which count in the new one, as it stands now."""
    taken_s: float
    """What they took there, seconds; here they take none."""
    left: dict[str, int]
    """Counts of those that do not count, by the reason."""
    trials_wanted: int
    """Trials of the new study at most, those taken along included."""
    next: str
    """The command to type next."""


class Submitted(Answer):
    """What `autotune submit` submitted, or would submit."""

    schema_name: Literal["autotune.submit/1"] = "autotune.submit/1"

    study: str
    workers: int
    """Processes of the study at once."""
    text: str
    """The script for sbatch, or the command of a Ray job."""
    said: str | None
    """What the scheduler answered; null if it was only asked for the text."""


class Begun(Answer):
    """What `autotune init` wrote."""

    schema_name: Literal["autotune.init/1"] = "autotune.init/1"

    written: list[str]
    next: str
    """The command to type next."""
