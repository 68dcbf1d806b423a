"""Figure cards about what the trials of a study came to: its trials, its finals, its curves, and what they cost."""

from __future__ import annotations

import pandas as pd

from autotune.core.metric import Metric
from autotune.core.records import TrialStatus
from autotune.core.statistics import CONFIDENCE, INTERVAL
from reports.figures import losses, trade_offs
from reports.figures.figure_cards import Drawn, NothingToDrawError, require
from reports.figures.scale import Scale, off_the_scale
from reports.figures.study_tables import StudyTables
from reports.formats import count, duration, finite, number, percent, plain, was_or_were
from reports.sentences.pareto import front_words
from reports.tables.curves import curve_band
from reports.tables.finals import baseline_loss, finals_runs, finals_table
from reports.tables.fronts import front_table, speed_front
from reports.tables.in_metric import in_metric
from reports.tables.pruning import PruningAudit, pruning_audit
from reports.tables.roles import single_run


def best_so_far(study: StudyTables) -> Drawn:
    """Return what the card of all trials in their order shows.

    Args:
        study: Its tables.
    """
    trials = study.trials
    has_failed = trials["status"].isin([status.value for status in TrialStatus if status.is_failure])
    require(bool((trials["last_loss"].notna() | has_failed).any()), "no trial has been evaluated yet")

    verdict = study.record.verdict
    sigma = None
    if verdict is not None:
        sigma = finite(verdict.sigma)
    figure = losses.best_so_far(trials, baseline_loss(study.record), sigma, study.names, study.metric)

    metric = study.metric
    cut = losses.has_marks_off_the_scale(trials, baseline_loss(study.record))
    note = f"{off_the_scale(metric)} " if cut else ""
    sentence = (
        f"Each mark is one trial, in the order in which they ran; {metric.better} is better. The green line is the "
        f"{metric.best} {plain(metric.name)} so far, the dashed line the default settings. {note}"
        f"Rings say which trials matter: the winner won the finals on fresh seeds; the {single_run(metric)} may owe "
        "its place to luck."
    )
    return sentence, [figure], in_metric(trials[["number", "status", "loss", "last_loss", "seconds"]], metric)


def finals(study: StudyTables) -> Drawn:
    """Return what the card of the finals shows.

    Args:
        study: Its tables.
    """
    runs = finals_runs(study.record)
    require(len(runs) > 0, "the finals have not begun")
    arms = finals_table(runs)

    sentence = (
        "The default and the best trials of the search, trained again on fresh random seeds. The diamond is the mean; "
        f"the bar is where the true mean lies with {100 * CONFIDENCE:.0f} % confidence. Runs of the same seed are "
        "compared in pairs, so two bars may overlap although the gain is clear."
    )
    figure = losses.finals(runs, arms, study.names, study.metric)
    return sentence, [figure], in_metric(arms.drop(columns="arm"), study.metric)


def learning_curves(study: StudyTables) -> Drawn:
    """Return what the card of the learning curves shows.

    Args:
        study: Its tables.
    """
    require(len(study.curves) > 0, "no trial has been evaluated yet")
    figure = losses.learning_curves(study.curves, study.trials, study.baseline_number, study.names, study.metric)

    metric = study.metric
    sentence = (
        f"How the {plain(metric.name)} changed while each trial trained; {metric.better} is better. The grey band "
        f"holds most trials; the lines are {_best_curves(study)}the default, the winner and the "
        f"{single_run(metric)}."
    )
    if study.record.spec.objective == "loss_at_equal_seconds":
        sentence += " Trials have different speeds: each is drawn at the share of its training that it had done."
    return sentence, [figure], in_metric(curve_band(study.curves), metric)


def _best_curves(study: StudyTables) -> str:
    finished = int(study.trials["loss"].notna().sum())
    return f"the best {losses.BEST_CURVES}, " if finished > losses.BEST_CURVES else "those that finished, among them "


def pruning(study: StudyTables) -> Drawn:
    """Return what the card of early stopping shows.

    Args:
        study: Its tables.
    """
    audit = pruning_audit(study.record)
    if audit is None:
        raise NothingToDrawError("no finished trial has an early evaluation")

    agreement = "too few trials to say"
    if audit.spearman is not None:
        agreement = f"rank correlation {number(audit.spearman, 2)}"

    metric = study.metric
    worse = "left" if metric.maximize else "right"
    sentence = (
        f"Was it right to stop trials early? Each mark is a finished trial: its {plain(metric.name)} early on, when "
        "trials are first judged, against that at the end. The closer the marks lie to one rising line, the better: "
        f"{agreement}, where 1 is perfect. Stopping {audit.pruned} early saved about {duration(audit.saved_s)}. Of the "
        f"best quarter ({count(audit.best_quarter, 'trial')}), {was_or_were(audit.at_risk)} in the worse half early on "
        f"({worse} of the dotted line). {_reliable_from(audit)} {_audited(audit)} {_off_the_scale(audit.table, metric)}"
    )
    return sentence, [losses.pruning_audit(audit, metric)], in_metric(audit.table, metric)


def _off_the_scale(table: pd.DataFrame, metric: Metric) -> str:
    scales = [Scale.of(table[name]) for name in ("rung_loss", "final_loss")]
    if not any(scale.is_cut for scale in scales):
        return ""
    ends = "bottom or at the left" if metric.maximize else "top or at the right"
    return f"Marks at the {ends} are off the scale."


def _reliable_from(audit: PruningAudit) -> str:
    """Return in words from which point on the order of the trials could be trusted."""
    warm_up = audit.warm_up
    if warm_up is None:
        return ""

    trials = count(warm_up.trials, "trial")
    if warm_up.tokens >= audit.whole:
        return f"Among {trials} that pruning did not select, no early order agreed with the final one."

    start = percent(warm_up.tokens / audit.whole, 0)
    agreement = number(warm_up.rank_correlation, 2)

    return (
        f"Among {trials} that pruning did not select, the order agreed with the final one from {start} "
        f"of the training on (rank correlation {agreement})."
    )


def _audited(audit: PruningAudit) -> str:
    """Return in words what the audited trials say about those that were stopped."""
    if audit.lost is None:
        return "None of the trials to be stopped was run to its end as a check." if audit.pruned else ""

    estimate, low, high = audit.lost

    return (
        f"As a check, {count(audit.audited, 'trial')} that would have been stopped ran on to the end: "
        f"{audit.audited_good} of them ended in the best quarter. So of the {audit.pruned} stopped, about "
        f"{number(estimate, 0)} may have been that good ({INTERVAL} {number(low, 0)} to {number(high, 0)})."
    )


def speed(study: StudyTables) -> Drawn:
    """Return what the card of quality against speed shows.

    Args:
        study: Its tables.
    """
    trials = study.trials
    has_both = trials["loss"].notna() & trials["tokens_per_s"].notna()
    require(bool(has_both.any()), "no finished trial has a speed")

    metric = study.metric
    sentence = (
        f"Quality against speed: better is {metric.better}, faster is further right. On the dotted line no other "
        f"trial is both better and faster. {Scale.of(trials['loss'].dropna(), metric=metric).note}"
    )
    figure = trade_offs.speed_against_loss(trials, study.baseline_number, study.names, metric)
    return sentence, [figure], in_metric(speed_front(trials), metric)


def pareto_front(study: StudyTables) -> Drawn:
    """Return what the card of loss against training time shows.

    Args:
        study: Its tables.
    """
    table = front_table(study.record)
    require(len(table) > 0, "no trial has finished")

    metric = study.metric
    sentence = (
        f"Quality against training time: better is {metric.better}, faster is further left. On the dotted line no "
        f"other trial is both better and faster. {front_words(study.record)}"
    )
    figure = trade_offs.seconds_against_loss(study.trials, study.baseline_number, table, study.names, metric)
    return sentence, [figure], in_metric(table, metric)
