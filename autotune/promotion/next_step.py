"""What to do next with a study: the one answer that `autotune status`, the console and the report give."""

from __future__ import annotations

import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from autotune.core.attributes import StudyAttributes
from autotune.core.peers import lack_coordinator
from autotune.core.promotion_results import FullRunRecord
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.finals.power import pairs_to_settle
from autotune.finals.verdict import failed_seeds, ranked
from autotune.promotion.run_cost import run_cost
from autotune.promotion.run_length import AS_IS_SUFFIX, full_tokens
from autotune.promotion.selection import best_settings
from autotune.store.study_record import StudyRecord

_FEWEST_TRIALS = 8
"""Trials that a search is told to go on to where it had none but the default."""
_MAX_PAIRS = 32
"""Largest number of pairs that is proposed; beyond it another search costs less."""
_MORE_SELECT_SEEDS = 2
"""Number of selection seeds that are added after a winner has failed on a proving seed."""
_MAX_NAME = 64
"""Longest name of a study, in characters."""


@dataclass(frozen=True)
class Expected:
    """What a command is expected to take.

    Args:
        seconds: Its time; None if that is not known.
        tokens: Training tokens, of a full run; 0 for a study.
        peak_bytes: Memory of the device; None if that is not known.
        bracket_s: Its share of the time that shorter runs take, which find the settings of a full run.
    """

    seconds: float | None = None
    tokens: int = 0
    peak_bytes: float | None = None
    bracket_s: float = 0.0


@dataclass(frozen=True)
class NextStep:
    """What to do now.

    Args:
        what: What the command does and why, a sentence or two.
        command: One command to copy.
        expected: What it takes; None where there is nothing to tell.
    """

    what: str
    command: str
    expected: Expected | None = None


def is_at_work(record: StudyRecord) -> bool:
    """Return whether a process is working on a study now.

    The database of a study that several machines share knows those on other machines.

    Args:
        record: The study.
    """
    return any(not peer.waits for peer in record.peers) or record.run.running_pid() is not None


def next_step(record: StudyRecord) -> NextStep:
    """Return the one thing to do with a study as it stands.

    Args:
        record: The study.
    """
    verdict = record.verdict
    attributes = record.attributes
    full = attributes.full_run
    if is_at_work(record):
        return _while_at_work(record)
    if verdict is None and not record.has_trained:
        return NextStep("Nothing of the study has been trained yet; this begins it.", _run(record))
    if verdict is None:
        return NextStep("The study was stopped before its verdict; this resumes it.", _run(record))
    if full is not None:
        return _after_full_run(record, full)
    if verdict.word is VerdictWord.FAILED:
        return _after_failure(record)
    # What another machine has written is in that machine's folder.
    is_written = record.run.best_config.exists() or (record.spec.storage and attributes.promotion is not None)
    if not is_written:
        return _before_best_config(record, verdict)
    if verdict.word is VerdictWord.INCONCLUSIVE:
        return _after_inconclusive(record, verdict)

    what = "Train the full model with the settings found."
    if verdict.word is VerdictWord.NO_CLEAR_GAIN:
        what = "Keep the default settings and train the full model with them."
    return NextStep(what, record.run.command("promote"), _of_full_run(record, _full_tokens(record)))


def _while_at_work(record: StudyRecord) -> NextStep:
    if lack_coordinator(record.peers):
        what = "Only workers are at it: they train what is queued, and wait for a process that coordinates."
        return NextStep(f"{what} This starts one.", _run(record))

    full = record.attributes.full_run
    what = "The study is running"
    if full is not None and full.status == TrialStatus.RUNNING:
        what = "The full run is in progress"

    stop = record.run.command("stop")
    return NextStep(f"{what}; this shows its page live ({stop} parks it).", record.run.command("watch"))


def _before_best_config(record: StudyRecord, verdict: Verdict) -> NextStep:
    attributes: StudyAttributes = record.attributes
    is_explained = attributes.attribution is not None or bool(attributes.why_no_attribution)
    is_wanted = verdict.word is VerdictWord.BETTER and record.spec.finals.attribute_seeds > 0
    before = "its best settings were written"
    if is_wanted and not is_explained:
        before = "it was known which change gave what"

    return NextStep(f"The study was stopped before {before}; this resumes it.", _run(record))


def _after_failure(record: StudyRecord) -> NextStep:
    # A faulty machine shows in crashes. If every trial diverged, the settings are at fault.
    ended = {trial.status for trial in record.trials if trial.result is not None}
    if ended == {TrialStatus.DIVERGED}:
        what = (
            "Every trial diverged, so the learning rates are probably too high: lower them in [base] and in [space] of "
            "the study file, and run it under a new name. This shows the present ones."
        )
        return NextStep(what, record.run.command("plan"))

    return NextStep("Check the machine and the study file, then see in the report what failed.", "autotune doctor")


# --- after a full run ---------------------------------------------------------------------------------------


def _after_full_run(record: StudyRecord, full: FullRunRecord) -> NextStep:
    if full.status == TrialStatus.DIVERGED:
        return _after_divergence(record, full.trial, full.tokens)

    tokens = full.tokens or _full_tokens(record)
    if full.status == TrialStatus.FINISHED:
        command = _promote(record, full, 2 * tokens)
        expected = _of_full_run(record, 2 * tokens, full.trial, full.folder.endswith(AS_IS_SUFFIX))
        unit = record.attributes.metric.budget_unit
        return NextStep(f"To go further, train on twice as many {unit}.", command, expected)

    return NextStep("The full run has not finished; this resumes it.", _promote(record, full, tokens))


def _after_divergence(record: StudyRecord, number: int | None, tokens: int) -> NextStep:
    """Return what to do when a full run has diverged, since the same run would diverge again.

    Args:
        record: The study.
        number: The search trial whose settings it trained; None if that is not known.
        tokens: Its length.
    """
    order = ranked(record.trials)
    diverged = next((trial for trial in order if trial.number == number), None)
    # Only the trials after it, so that a second divergence does not lead back to the first.
    later = order[order.index(diverged) + 1 :] if diverged else []
    others = [trial for trial in later if diverged and dict(trial.params) != dict(diverged.params)]

    if others:
        length = [] if tokens in (0, _full_tokens(record)) else ["--tokens", str(tokens)]
        command = record.run.command("promote", "--trial", str(others[0].number), *length)
        what = (
            "The full run diverged, and would do so again. This trains the next best trial instead; you can also train "
            f"a copy of {record.run.best_config} with a lower learning rate (autotune train)."
        )
        return NextStep(what, command, _of_full_run(record, tokens or _full_tokens(record), others[0].number))

    what = (
        f"The full run diverged, and would do so again. Lower the learning rates in {record.run.best_config} first; "
        "this then trains what is in it."
    )
    return NextStep(what, shlex.join(["autotune", "train", str(record.run.best_config)]))


def _promote(record: StudyRecord, full: FullRunRecord, tokens: int) -> str:
    """Return the command that trains the settings of a full run for so many tokens."""
    best = best_settings(record)
    arguments = [] if tokens == _full_tokens(record) else ["--tokens", str(tokens)]
    if full.trial is not None and (best is None or full.trial != best.trial.number):
        arguments += ["--trial", str(full.trial)]
    if full.folder.endswith(AS_IS_SUFFIX):
        arguments.append("--as-is")

    return record.run.command("promote", *arguments)


def _full_tokens(record: StudyRecord) -> int:
    return full_tokens(record.spec, record.attributes.plan, record.attributes.run_tokens)


def _of_full_run(record: StudyRecord, tokens: int, number: int | None = None, as_is: bool = False) -> Expected:
    """Return what a full run takes, as `autotune promote` reckons it.

    Args:
        record: The study.
        tokens: Length of the run.
        number: Search trial that it trains for longer; None for the best.
        as_is: Whether the trial's settings are copied.
    """
    best = best_settings(record)
    trial = next((trial for trial in record.trials if trial.number == number), best.trial if best else None)
    if trial is None:
        return Expected(None, tokens)

    cost = run_cost(record, trial, tokens, as_is)
    last = trial.result.points[-1] if trial.result and trial.result.points else None
    peak_bytes = last.metrics.get("peak_memory_bytes") if last else None
    if cost is None:
        return Expected(None, tokens, peak_bytes)

    return Expected(cost.seconds, tokens, peak_bytes, cost.bracket_s)


# --- after a verdict that settles nothing -------------------------------------------------------------------


def _after_inconclusive(record: StudyRecord, verdict: Verdict) -> NextStep:
    finals = record.spec.finals
    baseline = record.baseline
    if not finals.runs:
        what = "The study file asks for no finals (finals.finalists = 0). This repeats the study with them."
        return NextStep(what, _repeat(record, "proved", "finals.finalists=2"), _of_study(record, 0))
    if verdict.winner is None and not any(trial.status.is_failure for trial in record.trials):
        trials = max(_FEWEST_TRIALS, 2 * len(record.trials))
        what = "No trial but the default was trained to its end, so nothing was compared. This searches on."
        return NextStep(what, record.run.command("run", "--trials", str(trials)))
    if verdict.winner is None or verdict.gain is None or baseline is None:
        what = "The finals measured nothing; see in the report what failed, and check the machine."
        return NextStep(what, "autotune doctor")
    if failed_seeds(verdict.winner, record.finals):
        return _after_failed_winner(record)

    pairs = pairs_to_settle(baseline.number, verdict.winner, record.finals, finals)
    # Stopped by the deadline, not by what the study file allows.
    if len(verdict.seeds) < finals.looks[-1] and (pairs is None or pairs <= finals.looks[-1]):
        what = "There was no time for all pairs of runs that this study may train; this trains the others."
        return NextStep(what, _run(record))
    if pairs is None or pairs > _MAX_PAIRS:
        return _longer_trials(record)

    what = f"A gain of this size would show with about {pairs} pairs of runs; this repeats the study with that many."
    command = _repeat(record, "more-seeds", f"finals.max_seeds={pairs}")
    return NextStep(what, command, _of_study(record, 2 * pairs))


def _after_failed_winner(record: StudyRecord) -> NextStep:
    finals = record.spec.finals
    seeds = finals.select_seeds + _MORE_SELECT_SEEDS
    finalists = max(2, finals.finalists) + 1
    what = (
        "More pairs would not make these settings reliable. This repeats the study and chooses among "
        f"{finalists} finalists on {seeds} seeds, so that settings that fail on one of them are passed over."
    )
    command = _repeat(record, "reliable", f"finals.select_seeds={seeds}", f"finals.finalists={finalists}")
    return NextStep(what, command, _of_study(record, finalists * seeds + 2 * finals.prove_seeds))


def _longer_trials(record: StudyRecord) -> NextStep:
    tokens = 2 * record.spec.budget.tokens
    metric = record.attributes.metric
    more = "more text" if metric.of_text else f"more {metric.budget_unit}"
    what = f"More seeds would hardly settle it. Give each trial {more}, so that settings differ more."
    trainings = (*record.trials, *record.finals)
    return NextStep(what, _repeat(record, "longer", f"budget.tokens={tokens}"), Expected(2 * _seconds(trainings)))


def _of_study(record: StudyRecord, runs: int) -> Expected:
    """Return what another such study takes, with so many runs on fresh seeds."""
    durations = [run.result.seconds for run in record.finals if run.result]
    if runs and not durations:
        return Expected()

    finals_s = runs * statistics.fmean(durations) if runs else 0.0
    return Expected(_seconds(record.trials) + finals_s)


def _seconds(trainings: Sequence[TrialRecord]) -> float:
    """Return what trainings took, wherever: another study may have to train those again that this one took along."""
    taken_s = sum(training.taken_from.seconds for training in trainings if training.taken_from)
    return taken_s + sum(training.result.seconds for training in trainings if training.result)


def _run(record: StudyRecord, *changes: str) -> str:
    arguments = []
    for change in changes:
        arguments += ["--set", change]

    return record.run.command("run", *arguments)


def _repeat(record: StudyRecord, suffix: str, *changes: str) -> str:
    # A folder may be renamed to what no study file may say.
    allowed = re.sub(r"[^a-z0-9._-]+", "-", record.name.lower()).lstrip("._-") or "study"
    name = f"{allowed[: _MAX_NAME - len(suffix) - 1]}-{suffix}"
    return _run(record, f'name="{name}"', *changes)
