"""Health checks: whether the night can be trusted, and what to do where it cannot."""

from __future__ import annotations

import contextlib
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.files import read_lines
from autotune.core.records import TrialStatus
from autotune.promotion.selection import contender
from autotune.store.run_directory import RunDirectory
from autotune.store.study_record import StudyRecord, read_study
from reports.formats import count, finite, number, percent, plain, setting, was_or_were
from reports.tables.comparable import mismatches
from reports.tables.machine import gpu_table
from reports.tables.pruning import pruning_audit
from reports.tables.ranges import edge, found_nothing_beyond, settings_at_edges
from reports.tables.trials import best_so_far_table, trials_table

_MIN_SPEARMAN = 0.5
# Heat or power that slowed the card for less than this share of the samples changes no conclusion.
_MAX_THROTTLED_FRAC = 0.05
_MAX_WASTED_FRAC = 0.3
# A best trial found in this last share of the search suggests that the search had not run dry.
_LATE_FRAC = 0.2
_MIN_SEARCH_TRIALS = 10
# If more of the stopped trials than this may have been good ones, too few were run on to call early stopping right.
_MOST_LOST_FRAC = 0.5
_OF_TEXT = "Repeated text and dropout"


@dataclass(frozen=True)
class Check:
    """One health check.

    Args:
        name: What was checked.
        status: "pass", "warn" or "skip" (nothing to judge by).
        finding: What was found, one sentence.
        action: What to do about a warning, else "".
    """

    name: str
    status: str
    finding: str
    action: str = ""


def health_checks(record: StudyRecord) -> list[Check]:
    """Return every check in the order of the page; one that fails itself says so.

    Args:
        record: The study.
    """
    asked = dict(CHECKS)
    if not record.attributes.metric.of_text:
        del asked[_OF_TEXT]
    return [_safely(name, check, record) for name, check in asked.items()]


def _safely(name: str, check: Callable[[str, StudyRecord], Check], record: StudyRecord) -> Check:
    try:
        return check(name, record)
    except Exception as error:  # noqa: BLE001 - one check must not cost the reader the page
        return Check(name, "skip", f"Could not be checked: {plain(error) or type(error).__name__}.")


def _fresh_seeds(name: str, record: StudyRecord) -> Check:
    verdict = record.verdict
    if verdict is None or not verdict.seeds:
        return Check(name, "skip", "There is no measured gain yet.")

    of_trials = {trial.seed for trial in record.trials}
    of_selection = {run.seed for run in record.finals if run.stage == "select"}
    shared = sorted((of_trials | of_selection).intersection(verdict.seeds))
    if shared:
        return Check(
            name, "warn", f"Seeds {', '.join(map(str, shared))} also took part in choosing the winner.",
            "Read the gain as an upper limit; repeat the finals on other seeds.",
        )  # fmt: skip

    seeds = count(len(verdict.seeds), "seed")
    return Check(name, "pass", f"The gain rests on {seeds} that played no part in choosing the winner.")


def _noise(name: str, record: StudyRecord) -> Check:
    verdict = record.verdict
    gain = finite(verdict.gain) if verdict else None
    sigma = finite(verdict.sigma) if verdict else None
    if gain is None or sigma is None:
        return Check(name, "skip", "Noise and gain are known only after the finals.")

    metric = record.attributes.metric
    finding = f"The gain is {metric.signed(gain)}, the noise of a single run {metric.difference(sigma)}."
    if sigma >= gain:
        return Check(name, "warn", finding, "Do not trust single runs of this size; use more seeds or longer trials.")
    return Check(name, "pass", finding)


def _edge(name: str, record: StudyRecord) -> Check:
    # The search's best, whether it was proved or not: a range that was too narrow for it hid something.
    best = contender(record)
    if best is None:
        return Check(name, "skip", "No trial has finished.")

    edges = settings_at_edges(record, best.params)
    if not edges:
        return Check(name, "pass", _inside(record, best.params))

    places = []
    options = []
    for path, side in edges.items():
        places.append(f"{path} = {setting(best.params[path])} (the {side} end)")
        options.append(_widened(record, path, side))

    widen = " ".join(options)
    return Check(
        name, "warn", f"The best settings reach the edge of their range: {', '.join(places)}.",
        f"Something better may lie beyond. Give the next study a new name and wider ranges: `{widen}`",
    )  # fmt: skip


def _inside(record: StudyRecord, params: Mapping[str, Any]) -> str:
    """Return that no range was too narrow, and what widening one has shown."""
    said = []
    for path, dimension in record.spec.space.root.items():
        side = edge(dimension, params.get(path))
        beyond = found_nothing_beyond(record, path, side, params[path]) if side else 0
        if beyond:
            said.append(
                f"{plain(path)} = {setting(params[path])} lies at the {side} end, where the search widened its range: "
                f"none of {count(beyond, 'trial')} beyond it was better."
            )

    return " ".join(said) or "The best settings lie well inside their ranges."


def _widened(record: StudyRecord, path: str, side: str) -> str:
    dimension = record.spec.space[path]
    low = dimension.low or 0
    high = dimension.high or 0

    if dimension.log:
        below, above = low / 3, high * 3
    else:
        step = dimension.step or (1 if dimension.is_integer else 0)
        half_span = (high - low) / 2
        if step:
            half_span = math.ceil(half_span / step) * step
        below, above = low - half_span, high + half_span
        # A range without negative values gets none.
        if low >= 0:
            below = max(0, below)

    value = below if side == "low" else above
    if dimension.is_integer:
        # One that counts things goes on counting some.
        least = 1 if low > 0 else value
        return "--set " + shlex.quote(f'space."{path}".{side}={max(least, math.floor(value))}')

    # As many digits as it takes to lie beyond the end.
    shown = (f"{value:.{digits}g}" for digits in range(3, 18))
    beyond = next((text for text in shown if not low <= float(text) <= high), repr(value))
    return "--set " + shlex.quote(f'space."{path}".{side}={beyond}')


def _prune_later(record: StudyRecord) -> str:
    if record.spec.pruner.name == "rank":
        return "prune less (a smaller pruner.lost_frac)"
    key = "n_startup_steps" if record.spec.budget.seeds > 1 else "warmup_frac"
    return f"prune later (pruner.{key})"


def _early_ranking(name: str, record: StudyRecord) -> Check:
    audit = pruning_audit(record)
    if audit is None or audit.spearman is None:
        return Check(name, "skip", "Too few finished trials to compare early with final results.")

    rung = plain(audit.rung_words(record.attributes.metric))
    finding = (
        f"The order of the trials at {rung} and their order at the end have a rank correlation of "
        f"{number(audit.spearman, 2)} (1 means the same order)."
    )
    if audit.spearman < _MIN_SPEARMAN:
        return Check(name, "warn", finding, f"Early results said little about the final ones: {_prune_later(record)}.")
    return Check(name, "pass", finding)


def _good_trials_pruned(name: str, record: StudyRecord) -> Check:
    audit = pruning_audit(record)
    if audit is None or not audit.pruned or audit.spearman is None:
        return Check(name, "skip", "Nothing was pruned, or too little finished to judge by.")

    quarter = count(audit.best_quarter, "finished trial")
    finding = f"Of the best quarter ({quarter}), {was_or_were(audit.at_risk)} behind when pruning began."
    if audit.audited:
        finding += f" Of {count(audit.audited, 'trial')} run on as a check, {audit.audited_good} ended in that quarter."

    half_at_risk = audit.at_risk > 0 and 2 * audit.at_risk >= audit.best_quarter
    if audit.audited_good or half_at_risk:
        return Check(name, "warn", finding, f"Trials just as good may have been stopped: {_prune_later(record)}.")
    if audit.lost is None:
        return Check(name, "skip", f"{finding} None that would have been stopped was run on as a check.")

    _, low, high = audit.lost
    finding += f" So {number(low, 0)} to {number(high, 0)} of the {audit.pruned} stopped may have been that good."
    if high > _MOST_LOST_FRAC * audit.pruned:
        return Check(name, "skip", f"{finding} That is too wide to judge by.")
    return Check(name, "pass", finding)


def _throttling(name: str, record: StudyRecord) -> Check:
    gpu = gpu_table(record)
    if gpu.empty:
        return Check(name, "skip", "No samples of a GPU were stored.")

    throttled = float(gpu["throttled"].mean())
    finding = f"Heat or power supply slowed the GPU in {percent(throttled)} of the samples."
    if throttled > _MAX_THROTTLED_FRAC:
        lost = f"Results stay comparable (equal {plain(record.attributes.metric.budget_unit)})"
        if record.spec.objective != "loss_at_equal_tokens":
            lost = "Speeds count in this study, and some may have been measured while the GPU was slow"
        return Check(name, "warn", finding, f"{lost}; improve the cooling.")
    return Check(name, "pass", finding)


def _crashes(name: str, record: StudyRecord) -> Check:
    crashed = [trial for trial in record.trials if trial.status is TrialStatus.CRASHED]
    if not crashed:
        return Check(name, "pass", "No trial crashed.")

    numbers = ", ".join(str(trial.number) for trial in crashed[:5])
    more = ", …" if len(crashed) > 5 else ""
    return Check(
        name, "warn", f"{count(len(crashed), 'trial')} crashed: {numbers}{more}.",
        "See what failed below, and run: autotune doctor.",
    )  # fmt: skip


def _wasted(name: str, record: StudyRecord) -> Check:
    ended = [trial for trial in record.trials if trial.result is not None]
    if not ended:
        return Check(name, "skip", "No trial has ended.")

    lost = sum(trial.status.blames_settings for trial in ended)
    finding = f"{lost} of {count(len(ended), 'trial')} diverged or ran out of memory."
    if lost > _MAX_WASTED_FRAC * len(ended):
        return Check(name, "warn", finding, "Lower the upper ends of the learning rates and of the model's size.")
    return Check(name, "pass", finding)


def _repeated_data(name: str, record: StudyRecord) -> Check:
    best = contender(record)
    epochs = finite(best.result.facts.get("epochs")) if best and best.result else None
    if best is None or epochs is None:
        return Check(name, "skip", "The trainer did not report how often the text was read.")

    settings = flatten(record.spec.base) | dict(best.params)
    dropped = [path for path in settings if path.rpartition(".")[2] == "dropout"]
    is_set = any(finite(settings[path]) for path in dropped)
    is_searched = any(path in record.spec.space for path in dropped)

    finding = f"The training text was read {number(epochs, 2)} times in each trial."
    if epochs > 1 and (is_set or is_searched):
        return Check(
            name, "warn", finding,
            "Dropout helps when text repeats: its best value holds only for a full run that reads it about as often.",
        )  # fmt: skip
    return Check(name, "pass", finding)


def _full_run(name: str, record: StudyRecord) -> Check:
    full = record.attributes.full_run
    if full is None or not full.points:
        return Check(name, "skip", "There is no full run yet.")

    if not full.warnings:
        return Check(name, "pass", f"Nothing looked wrong in its {count(len(full.points), 'evaluation')}.")

    said = []
    advised = []
    for warning in full.warnings:
        action = plain(warning.action)
        at = plain(record.attributes.metric.budget(warning.tokens_seen))
        said.append(f"At {at} {plain(warning.finding)}.")
        advised.append(f"{action[:1].upper()}{action[1:]}.")

    return Check(name, "warn", " ".join(said), " ".join(advised))


def _more_trials(name: str, record: StudyRecord) -> Check:
    best = best_so_far_table(trials_table(record))
    if len(best) < _MIN_SEARCH_TRIALS:
        return Check(name, "skip", f"It takes {_MIN_SEARCH_TRIALS} finished trials to judge.")

    # The first that finished is the best until another is better.
    improved = best["best"].diff().fillna(-1) < 0
    last = int(best.loc[improved, "number"].max())

    metric = record.attributes.metric
    best_of_all = f"{metric.best} {plain(metric.name)}"
    finding = f"The {best_of_all} of {count(len(record.trials), 'trial')} came with trial {last}."
    if last >= (1 - _LATE_FRAC) * len(record.trials):
        more = 2 * len(record.trials)
        return Check(name, "warn", finding, f"The search was still improving: go on with --trials {more}.")
    return Check(name, "pass", finding)


def _last_study(name: str, record: StudyRecord) -> Check:
    before = _study_before(record)
    if before is None:
        return Check(name, "skip", "There is no earlier study in this folder.")

    last = plain(before.name)
    unequal = mismatches(before, record)
    if unequal:
        verb = "differs" if len(unequal) == 1 else "differ"
        named = ", ".join(unequal)
        return Check(
            name, "warn", f"The results of {last} do not mean the same as this study's: {named} {verb}.",
            "Compare the gains of the two, not their results. Those need the same data, budget and evaluation.",
        )  # fmt: skip

    command = plain(record.run.command("compare", last))
    return Check(name, "pass", f"The results of this study and of {last} can be compared: `{command}` shows both.")


def _study_before(record: StudyRecord) -> StudyRecord | None:
    """Return the study that was begun last before this one in the same folder and can be read, or None."""
    own = record.run.root
    # By what happened first: reading each database for its date would take seconds where there are many.
    began = {}
    for path in own.parent.glob("*/spec.json"):
        events = read_lines(RunDirectory(path.parent).events)
        if events:
            began[path.parent] = float(events[0]["time"])

    earlier = [root for root, time in began.items() if time < began.get(own, 0.0)]
    for root in sorted(earlier, key=began.__getitem__, reverse=True):
        # A damaged study, or somebody else's with a database elsewhere, is none that this one builds upon.
        with contextlib.suppress(UserError):
            return read_study(root, record.storage_url)
    return None


CHECKS: dict[str, Callable[[str, StudyRecord], Check]] = {
    "Gain on fresh seeds": _fresh_seeds,
    "Gain against noise": _noise,
    "Ranges wide enough": _edge,
    "Early against final results": _early_ranking,
    "Good trials pruned": _good_trials_pruned,
    "Enough trials": _more_trials,
    "Speed of the GPU": _throttling,
    "Crashed trials": _crashes,
    "Wasted trials": _wasted,
    _OF_TEXT: _repeated_data,
    "The full run as it trained": _full_run,
    "Comparable with the last study": _last_study,
}
