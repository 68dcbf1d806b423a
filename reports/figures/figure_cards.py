"""The figure cards of the page: title, one sentence, figures and their table; a card that fails says why."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from autotune.core import objectives
from autotune.store.study_store import StudyRecord
from reports import analyses, attribution, pareto, promotion, summary, tables
from reports.figures import losses, machine, settings
from reports.formats import count, duration, finite, number, percent, plain, setting

# Rows of a figure's table in the page; trials.csv and curves.csv have all of them.
MAX_ROWS = 100
# Settings shown in pairs: three pictures.
MAX_PAIRED = 3


@dataclass(frozen=True)
class Card:
    """One figure card.

    Args:
        key: Its id in the page.
        title: A few words.
        sentence: What the figure shows, for someone who has never seen one like it.
        plots: Figures drawn in it, in order.
        columns: Headings of its table.
        rows: Cells of its table, as text.
        cut: Rows that were left out of the table.
        problem: Why there is no figure, or "".
        broken: Whether that is a fault of the report rather than a lack of data.
    """

    key: str
    title: str
    sentence: str
    plots: Sequence[go.Figure] = ()
    columns: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = field(default_factory=tuple)
    cut: int = 0
    problem: str = ""
    broken: bool = False


class StudyTables:
    """The tables of a study, each worked out once and only when a card wants it."""

    def __init__(self, record: StudyRecord) -> None:
        self.record = record

    @cached_property
    def trials(self) -> pd.DataFrame:
        """As `tables.trials_table`."""
        return tables.trials_table(self.record)

    @cached_property
    def settings(self) -> pd.DataFrame:
        """As `tables.settings_table`."""
        return tables.settings_table(self.record)

    @cached_property
    def curves(self) -> pd.DataFrame:
        """As `tables.curves_table`, of the search, at equal shares of the training."""
        return tables.curves_table(tables.at_equal_shares(self.record).trials)

    @cached_property
    def importance(self) -> pd.DataFrame:
        """As `analyses.importance`."""
        return analyses.importance(self.record)

    @property
    def baseline_number(self) -> int | None:
        """The default's trial number."""
        return self.record.baseline.number if self.record.baseline else None


class NothingToDrawError(Exception):
    """There is no data for a figure; the message is for the reader."""


Drawn = tuple[str, Sequence[go.Figure], pd.DataFrame]


def draw_cards(record: StudyRecord) -> list[Card]:
    """Returns every figure card in the order of the page.

    Args:
        record: The study.
    """
    study = StudyTables(record)
    idle = set() if record.attributes.full_run else {"full-run"}
    idle |= set() if promotion.found_in(record) else {"promotion"}
    idle |= {"front"} if objectives.num_values(record.spec.objective) == 1 else set()
    wanted = {key: card for key, card in CARDS.items() if key not in idle}
    return [draw_card(key, title, partial(draw, study)) for key, (title, draw) in wanted.items()]


def draw_card(key: str, title: str, draw: Callable[[], Drawn]) -> Card:
    """Returns one card; whatever goes wrong becomes a sentence in it.

    Args:
        key: Its id.
        title: Its title.
        draw: Returns sentence, figures and table.
    """
    try:
        sentence, plots, table = draw()
        columns, rows = [str(name) for name in table.columns], cells(table.head(MAX_ROWS))
        return Card(key, title, sentence, plots, columns, rows, max(0, len(table) - MAX_ROWS))
    except (NothingToDrawError, analyses.TooFewTrialsError) as reason:
        return Card(key, title, "", problem=f"Not drawn: {reason}.")
    except Exception as error:  # noqa: BLE001 - one figure must not cost the reader the page
        reason_text = plain(error) or type(error).__name__
        return Card(key, title, "", problem=f"Could not draw: {reason_text}", broken=True)


def cells(table: pd.DataFrame) -> list[list[str]]:
    """Returns a table's cells as text, "–" for what is missing."""
    return [[_cell(value) for value in row] for row in table.itertuples(index=False, name=None)]


def _cell(value: Any) -> str:
    if value is None or value is pd.NaT or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4f}".rstrip("0").rstrip(".")
    if hasattr(value, "strftime"):
        return str(value.strftime("%Y-%m-%d %H:%M"))
    return setting(value) if isinstance(value, bool) else plain(value)


def _need(condition: bool, reason: str) -> None:
    if not condition:
        raise NothingToDrawError(reason)


def _best_so_far(study: StudyTables) -> Drawn:
    trials = study.trials
    ended = trials[trials["last_loss"].notna() | trials["status"].isin([status.value for status in tables.FAILED])]
    _need(len(ended) > 0, "no trial has been evaluated yet")
    sigma = finite(study.record.verdict.sigma) if study.record.verdict else None
    figure = losses.best_so_far(trials, tables.baseline_loss(study.record), sigma)
    sentence = (
        "Each mark is one trial, in the order in which they ran; lower is better. The green line is the lowest loss "
        "so far, the dashed line the default settings. Marks on the upper edge had a higher loss still, or none."
    )
    return sentence, [figure], trials[["number", "status", "loss", "last_loss", "seconds"]]


def _finals(study: StudyTables) -> Drawn:
    runs = tables.finals_runs(study.record)
    _need(len(runs) > 0, "the finals have not begun")
    arms = tables.finals_table(runs)
    sentence = (
        "The default and the best settings, trained again on fresh random seeds. The diamond is the mean; the bar is "
        "where the true mean lies with 95 % confidence. Runs of the same seed are compared in pairs, so two bars may "
        "overlap and the gain still be clear."
    )
    return sentence, [losses.finals(runs, arms)], arms.drop(columns="arm")


def _which_change(study: StudyTables) -> Drawn:
    found = attribution.found_in(study.record)
    if found is None:
        raise NothingToDrawError(attribution.why_none(study.record))
    rows = attribution.rows(found)
    _need(len(rows) > 0, "the winner changes nothing")
    sentence = " ".join([*attribution.sentences(found), attribution.reading(found)])
    plot = settings.which_change(rows, found.baseline_loss - found.winner_loss)
    return sentence, [plot], attribution.words(rows)


def _learning_curves(study: StudyTables) -> Drawn:
    _need(len(study.curves) > 0, "no trial has been evaluated yet")
    figure = losses.learning_curves(study.curves, study.trials, study.baseline_number)
    sentence = (
        "How the loss fell while each trial trained. The grey band holds most trials; the lines are the best "
        f"{losses.BEST_CURVES} and the default."
    )
    if study.record.spec.objective == "loss_at_equal_seconds":
        sentence += " Trials read text at different speeds: each stands at the share of its training that it had done."
    return sentence, [figure], tables.curve_band(study.curves)


def _settings(study: StudyTables) -> Drawn:
    record, trials = study.record, study.trials
    _need(bool(trials["loss"].notna().any()), "no trial has finished")
    params: Mapping[str, Any] = attribution.best_settings(record) or {}
    sides = analyses.edges(record, params)
    plots = [
        settings.setting_against_loss(
            path, dimension, study.settings[path], trials, params.get(path), sides.get(path, "")
        )
        for path, dimension in record.spec.space.root.items()
    ]
    sentence = (
        "One picture for each setting: where did low losses come from? The dotted line is the best value; a red flag "
        "says that it lies at the end of the range that was allowed."
    )
    table = trials.loc[trials["loss"].notna(), ["number", "loss"]].join(study.settings, on="number")
    return sentence, plots, table.sort_values("loss")


def _importance(study: StudyTables) -> Drawn:
    shares = study.importance
    sentence = (
        "How strongly each setting tells the best trials from all the others (the method is called PED-ANOVA). It says "
        "what made trials differ within the ranges searched, which is another question than what brought the winner's "
        f"gain: see “{attribution.TITLE}” above for that. Settings that only some trials had are left out."
    )
    return sentence, [settings.importance(shares)], shares


def _pairs(study: StudyTables) -> Drawn:
    paths = list(study.importance["path"][:MAX_PAIRED])
    _need(len(paths) > 1, "fewer than two settings were varied in every trial")
    params: Mapping[str, Any] = attribution.best_settings(study.record) or {}
    space = study.record.spec.space
    pairs = list(itertools.combinations(paths, 2))
    plots = [
        settings.pair((x, y), (space[x], space[y]), study.settings, study.trials, (params.get(x), params.get(y)))
        for x, y in pairs
    ]
    sentence = (
        f"The {len(paths)} settings that mattered most, two at a time; each mark is a finished trial. Green diamonds "
        "are the best quarter, red crosses the worst, hollow circles the rest. Diamonds along a slant say that two "
        "settings belong together: one must be changed with the other. The dotted lines are the best values."
    )
    done = study.trials[study.trials["loss"].notna()]
    table = done[["number", "loss"]].join(study.settings[paths], on="number").sort_values("loss")
    return sentence, plots, table


def _pruning(study: StudyTables) -> Drawn:
    audit = analyses.pruning_audit(study.record)
    if audit is None:
        raise NothingToDrawError("no finished trial has an early evaluation")
    agreement = "too few trials to say" if audit.spearman is None else f"rank correlation {number(audit.spearman, 2)}"
    sentence = (
        "Was it right to stop trials early? Each mark is a finished trial: its loss early on, when trials are first "
        f"judged, against its loss at the end. The closer to one rising line, the better: {agreement}, 1 is perfect. "
        f"Stopping {audit.pruned} early saved about {duration(audit.saved_s)}. Of the best quarter "
        f"({count(audit.best_quarter, 'trial')}), {audit.at_risk} would have been in the worse half "
        f"early on (right of the dotted line). {_trusted(study.record, audit)} {_lost(audit)}"
    )
    return sentence, [losses.pruning_audit(audit)], audit.table


def _trusted(record: StudyRecord, audit: analyses.PruningAudit) -> str:
    """Returns in words from where on the order of the trials could be trusted."""
    found = audit.warm_up
    if found is None:
        return ""
    budget = record.spec.budget.tokens
    if found.tokens >= budget:
        return f"Among {count(found.trials, 'trial')} that no pruner chose, no early order agreed with the final one."
    start, agreement = percent(found.tokens / budget, 0), number(found.rank_correlation, 2)
    return (
        f"Among {count(found.trials, 'trial')} that no pruner chose, the order agreed with the final one from {start} "
        f"of the training on (rank correlation {agreement})."
    )


def _lost(audit: analyses.PruningAudit) -> str:
    """Returns in words what the audited trials say about those that were stopped."""
    if audit.lost is None:
        return "No trial that would have been stopped was run on as a check." if audit.pruned else ""
    estimate, low, high = audit.lost
    return (
        f"As a check, {count(audit.audited, 'trial')} that would have been stopped ran on to the end: "
        f"{audit.audited_good} of them ended in the best quarter. So of the {audit.pruned} stopped, about "
        f"{number(estimate, 0)} may have been that good (95 % interval {number(low, 0)} to {number(high, 0)})."
    )


def _timeline(study: StudyTables) -> Drawn:
    rows = tables.timeline(study.record)
    _need(len(rows) > 0, "no start times were stored")
    sentence = "When each trial ran, in this computer's time of day; a gap means that nothing was training."
    return sentence, [machine.timeline(rows)], rows


def _gpu(study: StudyTables) -> Drawn:
    gpu = tables.gpu_table(study.record)
    _need(len(gpu) > 0, "no GPU samples")
    speeds = tables.timeline(study.record).query("lane == 'search'").merge(study.trials[["number", "tokens_per_s"]])
    speeds = speeds[speeds["tokens_per_s"].notna()]
    figure = machine.gpu_health(gpu, speeds)
    sentence = (
        "Temperature, power and clock of the GPU, and training speed. Red stretches: heat or power supply slowed it "
        f"({percent(float(gpu['throttled'].mean()))} of the samples)."
    )
    columns = ["temperature_c", "power_w", "sm_clock_hz"]
    known = [name for name in columns if gpu[name].notna().any()]
    summary = gpu[known].agg(["min", "mean", "max"]).rename_axis("of all samples").reset_index() if known else gpu[[]]
    return sentence, [figure], summary


def _speed(study: StudyTables) -> Drawn:
    trials = study.trials
    done = trials["loss"].notna() & trials["tokens_per_s"].notna()
    _need(bool(done.any()), "no finished trial has a speed")
    sentence = (
        "Quality against speed: better is lower, faster is further right. On the dotted line no other trial is both "
        "better and faster."
    )
    figure = losses.speed_against_loss(trials, study.baseline_number)
    return sentence, [figure], analyses.pareto(trials)


def _front(study: StudyTables) -> Drawn:
    table = pareto.front_table(study.record)
    _need(len(table) > 0, "no trial has finished")
    sentence = (
        "Quality against training time: better is lower, faster is further left. On the dotted line no other trial is "
        f"both better and faster. {pareto.front_words(study.record)}"
    )
    return sentence, [pareto.loss_against_seconds(study.record)], table


def _parallel(study: StudyTables) -> Drawn:
    table = analyses.parallel_table(study.record, study.trials, study.settings)
    _need(len(table) > 1, "fewer than two trials have finished")
    sentence = (
        f"The best {len(table)} trials, one line each, through the range of every setting from its low end (left) to "
        "its high end (right). Where the green lines meet, the good trials agree."
    )
    plot = settings.parallel_coordinates(table, study.record.spec.space.root)
    return sentence, [plot], table


def _promotion(study: StudyTables) -> Drawn:
    found = promotion.found_in(study.record)
    if found is None:
        raise NothingToDrawError("the study has not come to its full run yet")
    plots = [promotion.learning_rates(found)] if found.brackets else []
    return " ".join(promotion.sentences(found)), plots, promotion.losses(found) if plots else promotion.rows(found)


def _full_run(study: StudyTables) -> Drawn:
    full = study.record.attributes.full_run
    if full is None or not full.points:
        raise NothingToDrawError("the full run has not been evaluated yet")
    curve = tables.curves_table(trial for trial in study.record.trials if trial.number == full.trial)
    points = [point.to_json() for point in full.points]
    table = pd.DataFrame(points)
    sentence = "The loss of the full run as it trained, beside the short trial that it grew from. "
    sentence += summary.full_run_lines(study.record)[0]
    return sentence, [machine.full_run(points, curve)], table


CARDS: dict[str, tuple[str, Callable[[StudyTables], Drawn]]] = {
    "best-so-far": ("Best so far", _best_so_far),
    "finals": ("The finals: default against the best", _finals),
    "which-change": (attribution.TITLE, _which_change),
    "learning-curves": ("Learning curves", _learning_curves),
    "settings": ("Each setting against the loss", _settings),
    "importance": ("Which settings mattered", _importance),
    "pairs": ("Settings two at a time", _pairs),
    "pruning": ("Was early stopping right?", _pruning),
    "timeline": ("The night", _timeline),
    "gpu": ("Health of the GPU", _gpu),
    "speed": ("Quality against speed", _speed),
    "front": ("Loss against training time", _front),
    "parallel": ("What the best trials have in common", _parallel),
    "promotion": (promotion.TITLE, _promotion),
    "full-run": ("The full run", _full_run),
}
