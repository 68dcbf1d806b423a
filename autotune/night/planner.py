"""The plan of a night: what a study will take in time, power and disk, from what was measured of its trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from autotune.core.study_results import Plan
from autotune.core.text import done_by, duration, in_bytes
from autotune.engine.cost_model import CostModel
from autotune.engine.deadline import REPORT_S, Deadline
from autotune.engine.probes import Probe
from autotune.engine.worker import Slot
from autotune.finals.allotment import Allotment
from autotune.machine.hardware import HardwareProfile
from autotune.night import capacity, taking_along
from autotune.night.foresight import require_memory, require_time
from autotune.night.probing import Place, config_on, probe
from autotune.night.shares import TimeShares
from autotune.night.text_share import matched_epochs, text_tokens
from autotune.promotion.repetition import repetition
from autotune.promotion.run_length import full_tokens
from autotune.search.dimension import Value
from autotune.search.ranges import CHANGING_RANGE_SAMPLERS
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

WHOLE_TRIALS = 8
"""Trials that end before any is stopped, about: in searches replayed on the two recorded tables with the default
pruner, where 32 trials took as long as 15 to 21 whole ones and 80 as long as 40."""
_STOPPED_SHARE = 0.45
"""Share of a whole trial that each later one takes, in the same replays."""
_STUDY_BYTES = 6e6
"""Disk of a study's page and database, rounded up from a study of 18 trials with 20 evaluations."""
_EVALUATION_BYTES = 3_500
"""Disk of each evaluation, in files and two copies of the database, rounded up from the same study."""
_JOULES_PER_KWH = 3.6e6


def make_plan(
    study: Study, probe: Probe, slots: int, seconds_left: float, profile: HardwareProfile, taken: int = 0
) -> Plan:
    """Plan the night from one probe: what is still to be trained.

    Args:
        study: The study.
        probe: A short training of the baseline.
        slots: Devices that train at once.
        seconds_left: Seconds until the deadline; infinite without one.
        profile: The hardware.
        taken: Trials of earlier studies that count as if they had been trained here.
    """
    study = replace(study, spec=study.spec.less(taken))
    spec = study.spec
    shares = TimeShares(study, probe, slots, seconds_left)
    full_run, finals = shares.full_run_and_finals()
    trials, most_trials, likely_trials = _counts_of_trials(spec, finals)

    search_s = trials * shares.trial_s
    later_s = finals.finals_s + full_run.seconds + REPORT_S
    total_s = search_s + later_s

    trainings = most_trials * spec.budget.seeds + finals.final_runs + finals.attributing_runs
    return Plan(
        trial_s=shares.trial_s * slots,
        trials=trials,
        most_trials=most_trials,
        search_s=search_s,
        finals_s=finals.finals_s,
        full_s=full_run.seconds,
        total_s=total_s,
        likely_s=min(total_s, likely_trials * shares.trial_s + later_s),
        slots=slots,
        tokens_per_s=probe.tokens_per_s,
        peak_bytes=probe.peak_bytes,
        max_pass_sequences=0,
        energy_kwh=profile.power_limit_w * slots * total_s / _JOULES_PER_KWH,
        run_tokens=full_run.tokens if full_run.takes_rest else 0,
        epochs=matched_epochs(spec, study.trainer, probe.facts, full_run.tokens),
        disk_bytes=_STUDY_BYTES + trainings * probe.evaluations * _EVALUATION_BYTES,
        final_runs=finals.final_runs,
        attributing_runs=finals.attributing_runs,
        cuts=finals.describe_cuts(),
        refusal=finals.refusal() if finals.is_too_short else "",
        taken=taken,
    )


def _counts_of_trials(spec: StudySpec, finals: Allotment) -> tuple[int, int, float]:
    """Return how many trials fit if none is stopped early.

    Also how many if as many are as usual, and how many whole ones those take as long as.
    """
    share = 1.0 if spec.pruner.name == "none" else _STOPPED_SHARE
    whole = finals.whole_trials
    fitting = min(whole, WHOLE_TRIALS) + max(0.0, whole - WHOLE_TRIALS) / share

    most = int(min(spec.most_trials, fitting))
    return int(min(spec.most_trials, whole)), most, min(most, WHOLE_TRIALS) + share * max(0, most - WHOLE_TRIALS)


@dataclass(frozen=True)
class Survey:
    """What was measured before a night, and what follows from it.

    Args:
        plan: The night.
        baseline: A short training of the baseline.
        model: What optimizer steps cost; None if that is not known.
        left: What is left of settings of which some values cannot fit, by dotted path.
    """

    plan: Plan
    baseline: Probe
    model: CostModel | None = None
    left: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    unit: str = "tokens"

    def lines(self, spec: StudySpec, profile: HardwareProfile, free_bytes: int, now: datetime) -> list[tuple[str, str]]:
        """Return what a person is told, with the kind of event that each line is.

        Args:
            spec: The study.
            profile: The hardware.
            free_bytes: Disk that is free.
            now: Local time at which the night begins.
        """
        lines = [("ranges", capacity.describe_left(spec, path, left, profile)) for path, left in self.left.items()]
        lines.append(("plan", describe(self.plan, spec, self.unit)))
        for words in (_small_space(spec), self.plan.cuts, self._repetition(spec), self._lack_of_disk(spec, free_bytes)):
            if words:
                lines.append(("plan", words))
        lines.append(("plan", done_by(self.plan.total_s, now, self.plan.likely_s)))
        return lines

    def _repetition(self, spec: StudySpec) -> str:
        """Return how often a full run reads its text, where that is worth a word; else ""."""
        train_tokens = self.baseline.facts.get("train_tokens", 0)
        if not train_tokens:
            return ""

        tokens = full_tokens(spec, self.plan)
        trial_epochs = self.plan.epochs or spec.budget.tokens / train_tokens
        repeats = repetition(train_tokens, tokens, trial_epochs)
        return f"full run of {tokens:,} {self.unit}: {repeats}" if repeats else ""

    def _lack_of_disk(self, spec: StudySpec, free_bytes: int) -> str:
        """Return what to do where the disk is too small for the study; else ""."""
        kept = spec.limits.min_free_bytes
        if free_bytes >= self.plan.disk_bytes + kept:
            return ""
        return (
            f"only {in_bytes(free_bytes)} of disk space is free, of which {in_bytes(kept)} stay unused: make room, "
            "or choose another folder with --out; otherwise the study parks when the disk is full"
        )


def survey(
    study: Study,
    profile: HardwareProfile,
    slots: Sequence[Slot],
    deadline: Deadline,
    stopped: Callable[[], bool] = lambda: False,
    preparing: Callable[[str], None] = lambda words: None,
) -> Survey:
    """Measure the trainer by short trainings, and plan the night.

    Args:
        study: The study.
        profile: The hardware.
        slots: Devices that train at once.
        deadline: When everything must be done.
        stopped: Whether the user wants it to end.
        preparing: Takes what the trainer says of the preparation of its data.

    Raises:
        UserError: If the baseline does not train or does not fit, or with exit code 130 if it was stopped.
    """
    require_memory(study, profile)
    require_time(study, profile, deadline.seconds_left, len(slots))
    place = Place(study, profile, slots[0], stopped, preparing, deadline, len(slots))
    with place.worker() as worker:
        baseline = probe(place, worker=worker)
        model = capacity.cost_model(place, baseline, worker) if profile.device == "cuda" else None

    # Last: what was measured before has taken its time as well.
    return planned(study, profile, len(slots), deadline.seconds_left, baseline, model)


def planned(
    study: Study, profile: HardwareProfile, slots: int, seconds_left: float, baseline: Probe, model: CostModel | None
) -> Survey:
    """Plan the night by what is known of its trainings.

    Args:
        study: The study.
        profile: The hardware.
        slots: Devices that train at once.
        seconds_left: Seconds until the deadline; infinite without one.
        baseline: A short training of the baseline.
        model: What optimizer steps cost; None if that is not known.
    """
    size, left = 0, dict[str, tuple[Value, ...]]()
    trials = baseline
    if model is not None:
        # Samplers that cannot cope with changed ranges go through what the study file says, whatever comes of it.
        if study.spec.sampler.name in CHANGING_RANGE_SAMPLERS:
            left = capacity.fitting(study, model, profile, baseline.facts)
        size = capacity.choose_pass(study, model, profile, baseline.facts, left)
        faster = capacity.speedup(study, model, profile, baseline.facts, size)
        trials = replace(baseline, tokens_per_s=faster * baseline.tokens_per_s)

    def plan_of(taken: int) -> Plan:
        return make_plan(study, trials, slots, seconds_left, profile, taken)

    plan = plan_of(0)
    taken = taking_along.foreseen(study, plan, baseline.facts, profile)
    if taken:
        plan = plan_of(taken)
    unit = study.trainer.metric.budget_unit
    disk_bytes = plan.disk_bytes
    if study.spec.promote.automatic:
        counted = study.trainer.counts(config_on(study, profile, {}), baseline.facts) or {}
        disk_bytes += counted.get("disk_bytes", 0.0)
    return Survey(replace(plan, disk_bytes=disk_bytes, max_pass_sequences=size), baseline, model, left, unit)


def _small_space(spec: StudySpec) -> str:
    """Return why there are fewer trials than the study file asks for, "" if there are not."""
    if spec.most_trials == spec.budget.trials:
        return ""
    return f"the space has {spec.most_trials} settings, so there are no more than as many trials (budget.trials)"


def _describe_trials(plan: Plan) -> str:
    if plan.taken and not plan.most_trials:
        return f"no trial beside the {plan.taken} taken along,"

    trials = f"{plan.trials} to {plan.most_trials} trials"
    if plan.most_trials == plan.trials:
        trials = f"up to {plan.trials} trial{'s' * (plan.trials != 1)}"
    return f"{trials} beside the {plan.taken} taken along," if plan.taken else trials


def describe(plan: Plan, spec: StudySpec, unit: str = "tokens") -> str:
    """Return the plan in one line for a person.

    Args:
        plan: What was found.
        spec: The study.
        unit: What a training's budget counts.
    """
    length = f"{spec.budget.tokens:,} {unit}"
    if spec.objective == "loss_at_equal_seconds":
        length = f"the time that the default takes for {length}"

    parts = [f"plan: {_describe_trials(plan)} of {length} ({duration(plan.trial_s)} each)"]
    if plan.final_runs:
        runs = plan.attributing_runs
        attributing = f" and up to {runs} to tell which change gave what" if runs else ""
        parts.append(f"{plan.final_runs} final runs{attributing}")
    if plan.full_s:
        rest = " in the time that the search leaves" if plan.run_tokens else ""
        parts.append(f"a full run of {full_tokens(spec, plan):,} {unit}{rest}")
    line = ", ".join(parts) + f": at most {duration(plan.total_s)}"

    if plan.energy_kwh:
        line += f", {plan.energy_kwh:.1f} kWh"
    line += f", {in_bytes(plan.disk_bytes)} of disk"
    if plan.tokens_per_s:
        line += f"; {plan.tokens_per_s:,.0f} {unit}/s"
    if plan.epochs:
        line += f"; each reads {text_tokens(spec.budget.tokens, plan.epochs):,} tokens of text"
    if plan.max_pass_sequences:
        line += f"; up to {plan.max_pass_sequences} sequences at a time"
    return line
