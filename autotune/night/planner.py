"""The plan of a night: what a study will take in time, power and disk, from what was measured of its trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from autotune.core.config_paths import present, with_paths
from autotune.core.study_results import Plan
from autotune.core.text import done_by, duration, in_bytes
from autotune.engine.cost_model import CostModel
from autotune.engine.deadline import REPORT_S
from autotune.engine.probes import Probe
from autotune.engine.queue import hardware_overrides
from autotune.engine.worker import Slot
from autotune.machine.hardware import HardwareProfile
from autotune.night import capacity
from autotune.promotion import horizon
from autotune.promotion.early_end import EXPORT_S
from autotune.search.dimension import Value
from autotune.search.ranges import CHANGING_RANGE_SAMPLERS
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study

TRAIN_TOKENS = "data.train_tokens"
DEFAULT_FULL_FACTOR = 8
WHOLE_TRIALS, STOPPED_SHARE = 8, 0.45
"""About so many trials end before any is stopped, and of a whole trial each later one takes this share: searches
replayed on the two recorded tables with the default pruner, where 32 trials took as long as 19 whole ones, 80 as 40."""
STUDY_BYTES, EVALUATION_BYTES = 6e6, 3_500
"""Disk of a study's page and database, and of each evaluation in files and two copies of the database, rounded up from
a study of 18 trials with 20 evaluations."""


def full_tokens(spec: StudySpec) -> int:
    """Returns the tokens of the promoted full run."""
    return spec.promote.tokens or DEFAULT_FULL_FACTOR * spec.budget.tokens


def matched_epochs(spec: StudySpec, facts: Mapping[str, Any], tokens: int) -> float:
    """Returns how often shorter trainings are to read their text before a run; 0 if they are to read all of it.

    Args:
        spec: The study.
        facts: What the trainer said of a run that was given the whole text.
        tokens: Length of the run.
    """
    epochs = tokens / facts["train_tokens"] if facts.get("train_tokens") else 0.0
    return epochs if epochs > 1 and spec.budget.match_epochs and present(spec.base, {TRAIN_TOKENS: 0}) else 0.0


def text(tokens: int, epochs: float) -> dict[str, int]:
    """Returns how much text a training is given, under the config path that says so; {} for all of it.

    Args:
        tokens: Length of the training.
        epochs: How often it is to read that text; 0 for all of it.
    """
    return {TRAIN_TOKENS: max(1, round(tokens / epochs))} if epochs else {}


def make_plan(
    spec: StudySpec,
    probe: Probe,
    slots: int,
    seconds_left: float,
    profile: HardwareProfile,
    depends_on_length: bool = False,
) -> Plan:
    """Plans the night from one probe.

    Args:
        spec: The study.
        probe: A short training of the baseline.
        slots: Devices that train at once.
        seconds_left: Seconds until the deadline; infinite without one.
        profile: The hardware.
        depends_on_length: Whether the trainer has settings that depend on a run's length, for which shorter runs are
            trained before an automatic full one.
    """
    training_s = max(probe.seconds_for(spec.budget.tokens), 1e-6)
    trial_s = spec.budget.seeds * training_s
    finals_s = (spec.finals.runs + spec.attributing_runs()) * training_s / slots
    full_s = 0.0
    if spec.promote.automatic:
        checked = horizon.bracket_tokens(spec.budget.tokens, full_tokens(spec)) if spec.promote.bracket else ()
        bracket_s = len(horizon.FACTORS) * sum(map(probe.seconds_for, checked)) / slots if depends_on_length else 0.0
        full_s = bracket_s + probe.seconds_for(full_tokens(spec)) + EXPORT_S
    reserve = finals_s + full_s + REPORT_S
    whole = max(0.0, seconds_left - reserve) / trial_s * slots
    possible = int(min(spec.budget.trials, whole))
    share = 1.0 if spec.pruner.name == "none" else STOPPED_SHARE
    most = int(
        min(spec.budget.trials, whole if whole <= WHOLE_TRIALS else WHOLE_TRIALS + (whole - WHOLE_TRIALS) / share)
    )
    search_s = possible * trial_s / slots
    total_s = search_s + reserve
    likely = min(most, WHOLE_TRIALS) + share * max(0, most - WHOLE_TRIALS)
    return Plan(
        trial_s=trial_s,
        trials=possible,
        most_trials=most,
        search_s=search_s,
        finals_s=finals_s,
        full_s=full_s,
        total_s=total_s,
        likely_s=min(total_s, likely * trial_s / slots + reserve),
        slots=slots,
        tokens_per_s=probe.tokens_per_s,
        peak_bytes=probe.peak_bytes,
        max_pass_sequences=0,
        energy_kwh=profile.power_limit_w * slots * total_s / 3.6e6,
        epochs=matched_epochs(spec, probe.facts, full_tokens(spec)),
        disk_bytes=STUDY_BYTES + (most + spec.finals.runs) * spec.budget.seeds * probe.evaluations * EVALUATION_BYTES,
    )


@dataclass(frozen=True)
class Survey:
    """What was measured before a night, and what follows from it.

    Args:
        plan: The night.
        baseline: A short training of the baseline.
        model: What steps cost; None if that is not known.
        left: What is left of settings of which some values cannot fit, by dotted path.
    """

    plan: Plan
    baseline: Probe
    model: CostModel | None = None
    left: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)

    def lines(self, spec: StudySpec, profile: HardwareProfile, free_bytes: int, now: datetime) -> list[tuple[str, str]]:
        """Returns what a person is told, with the kind of event that each line is.

        Args:
            spec: The study.
            profile: The hardware.
            free_bytes: Disk that is free.
            now: Local time at which the night begins.
        """
        found = [("ranges", capacity.describe_left(spec, path, left, profile)) for path, left in self.left.items()]
        found.append(("plan", describe(self.plan, spec)))
        full, train_tokens = full_tokens(spec), self.baseline.facts.get("train_tokens", 0)
        if train_tokens:
            repeats = horizon.repetition(train_tokens, full, self.plan.epochs or spec.budget.tokens / train_tokens)
            found += [("plan", f"in a full run of {full:,} tokens {repeats}")] if repeats else []
        kept = spec.limits.min_free_bytes
        if free_bytes < self.plan.disk_bytes + kept:
            words = f"only {in_bytes(free_bytes)} of disk are free, of which {in_bytes(kept)} are kept: make room, or "
            found.append(("plan", words + "choose another folder with --out; else the study parks when it is full"))
        found.append(("plan", done_by(self.plan.total_s, now, self.plan.likely_s)))
        return found


def survey(
    study: Study,
    profile: HardwareProfile,
    slots: Sequence[Slot],
    seconds_left: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Survey:
    """Measures the trainer by short trainings, and plans the night.

    Args:
        study: The study.
        profile: The hardware.
        slots: Devices that train at once.
        seconds_left: Seconds until the deadline; infinite without one.
        stopped: Whether the user wants it to end.

    Raises:
        UserError: If the baseline does not train, or with exit code 130 if it was stopped.
    """
    baseline = capacity.probe(study, profile, slots[0], stopped=stopped)
    depends_on_length = bool(study.trainer.length_rules)
    plan = make_plan(study.spec, baseline, len(slots), seconds_left, profile, depends_on_length)
    if study.spec.promote.automatic:
        config = with_paths(study.spec.base, hardware_overrides(study, profile.overrides()))
        counted = study.trainer.counts(config, baseline.facts) or {}
        plan = replace(plan, disk_bytes=plan.disk_bytes + counted.get("disk_bytes", 0.0))
    model = capacity.cost_model(study, profile, slots[0], baseline, stopped) if profile.device == "cuda" else None
    if model is None:
        return Survey(plan, baseline)
    # The others go through what the study file says, whatever comes of it.
    may_narrow = study.spec.sampler.name in CHANGING_RANGE_SAMPLERS
    left = capacity.fitting(study, model, profile, baseline.facts) if may_narrow else {}
    size = capacity.choose_pass(study, model, profile, baseline.facts, left)
    return Survey(replace(plan, max_pass_sequences=size), baseline, model, left)


def describe(plan: Plan, spec: StudySpec) -> str:
    """Returns the plan in one line for a person."""
    length = "the seconds of " if spec.objective == "loss_at_equal_seconds" else ""
    length += f"{spec.budget.tokens:,} tokens"
    trials = f"up to {plan.trials}" if plan.most_trials == plan.trials else f"{plan.trials} to {plan.most_trials}"
    parts = [f"plan: {trials} trials of {length} ({duration(plan.trial_s)} each)"]
    if spec.finals.runs:
        attributing = f" and up to {runs} to tell which change gave what" if (runs := spec.attributing_runs()) else ""
        parts.append(f"{spec.finals.runs} final runs{attributing}")
    if plan.full_s:
        parts.append(f"a full run of {full_tokens(spec):,} tokens")
    line = ", ".join(parts) + f": at most {duration(plan.total_s)}"
    if plan.energy_kwh:
        line += f", {plan.energy_kwh:.1f} kWh"
    line += f", {in_bytes(plan.disk_bytes)} of disk"
    if plan.tokens_per_s:
        line += f"; {plan.tokens_per_s:,.0f} tokens/s"
    for size in text(spec.budget.tokens, plan.epochs).values():
        line += f"; on {size:,} tokens of text each"
    if plan.max_pass_sequences:
        line += f"; up to {plan.max_pass_sequences} sequences at a time"
    return line
