"""Figure cards about the settings of a study: what each did, which mattered, and what the long run changes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pandas as pd

from autotune.promotion.selection import attribution_of, best_settings
from autotune.store.study_record import StudyRecord
from reports.figures import changes, settings
from reports.figures.brackets import brackets
from reports.figures.figure_cards import Drawn, NothingToDrawError, require
from reports.figures.scale import Scale
from reports.figures.settings import SearchedSetting
from reports.figures.study_tables import StudyTables
from reports.formats import plain
from reports.sentences import attribution, promotion
from reports.tables.attribution import attribution_table, attribution_words
from reports.tables.in_metric import in_metric
from reports.tables.promotion import bracket_table, promotion_table
from reports.tables.ranges import parallel_table, settings_at_edges
from reports.tables.roles import single_run

# Settings shown in pairs: three pictures.
_MAX_PAIRED = 3


def which_change(study: StudyTables) -> Drawn:
    """Return what the card of the winner's changes shows.

    Args:
        study: Its tables.
    """
    measured = attribution_of(study.record)
    if measured is None:
        raise NothingToDrawError(attribution.why_none(study.record))

    rows = attribution_table(measured)
    require(len(rows) > 0, "the winner changes nothing")

    sentence = " ".join([*attribution.sentences(measured, study.metric), attribution.READING])
    figure = changes.which_change(rows, measured.baseline_loss - measured.winner_loss, study.metric)
    return sentence, [figure], attribution_words(rows, study.metric)


def _best_params(record: StudyRecord) -> Mapping[str, Any]:
    best = best_settings(record)
    return best.trial.params if best else {}


def _best_words(record: StudyRecord) -> str:
    """Return whose value a dotted line shows."""
    best = best_settings(record)
    if best is None or not best.is_decided:
        return f"that of the {single_run(record.attributes.metric)} so far"
    return "what is promoted"


def each_setting(study: StudyTables) -> Drawn:
    """Return what the card of each setting against the metric shows.

    Args:
        study: Its tables.
    """
    trials = study.trials
    require(bool(trials["loss"].notna().any()), "no trial has finished")

    best = _best_params(study.record)
    edges = settings_at_edges(study.record, best)
    plots = []
    for path, dimension in study.record.spec.space.root.items():
        searched = SearchedSetting(path, dimension, best.get(path), edges.get(path, ""))
        plots.append(settings.setting_against_loss(searched, study.settings[path], trials, study.metric))

    metric = study.metric
    sentence = (
        f"One picture for each setting: where did good values come from? For {plain(metric.name)}, {metric.better} is "
        "better. The dotted line is "
        f"{_best_words(study.record)}; a red flag says that it lies at the end of the range that was allowed. "
        f"{Scale.of(trials['loss'].dropna(), metric=metric).note}"
    )
    return sentence, plots, _finished(study).join(study.settings, on="number")


def _finished(study: StudyTables) -> pd.DataFrame:
    """Return number and result of the finished trials, best first."""
    finished = study.trials.loc[study.trials["loss"].notna(), ["number", "loss"]]
    return in_metric(finished.sort_values("loss"), study.metric)


def importance(study: StudyTables) -> Drawn:
    """Return what the card of the settings' importance shows.

    Args:
        study: Its tables.
    """
    shares = study.importance
    sentence = (
        "How strongly each setting tells the best trials from all the others (the method is called PED-ANOVA). It says "
        "what made trials differ within the ranges searched, which is not the same question as what brought the "
        f"winner's gain: see “{attribution.TITLE}” above for that. Settings that only some trials had are left out."
    )
    return sentence, [settings.importance(shares)], shares


def pairs(study: StudyTables) -> Drawn:
    """Return what the card of settings two at a time shows.

    Args:
        study: Its tables.
    """
    paths = list(study.importance["path"][:_MAX_PAIRED])
    require(len(paths) > 1, "fewer than two settings were varied in every trial")

    best = _best_params(study.record)
    space = study.record.spec.space
    searched = [SearchedSetting(path, space[path], best.get(path)) for path in paths]
    plots = []
    for along_x, along_y in itertools.combinations(searched, 2):
        plots.append(settings.pair(along_x, along_y, study.settings, study.trials, study.metric))

    sentence = (
        f"The {len(paths)} settings that mattered most, two at a time; each mark is a finished trial. Green diamonds "
        "are the best quarter, red crosses the worst, hollow circles the rest. Diamonds along a slanted line say that "
        "two settings belong together: one must be changed with the other. The dotted lines are "
        f"{_best_words(study.record)}."
    )
    return sentence, plots, _finished(study).join(study.settings[paths], on="number")


def parallel(study: StudyTables) -> Drawn:
    """Return what the card of the best trials' settings shows.

    Args:
        study: Its tables.
    """
    table = parallel_table(study.record, study.trials, study.settings)
    require(len(table) > 1, "fewer than two trials have finished")

    sentence = (
        f"The best {len(table)} trials, one line each, through the range of every setting from its low end (left) to "
        "its high end (right). Where the green lines meet, the good trials agree."
    )
    figure = settings.parallel_coordinates(table, study.record.spec.space.root, study.metric)
    return sentence, [figure], in_metric(table, study.metric)


def long_run(study: StudyTables) -> Drawn:
    """Return what the card of the settings for the long run shows.

    Args:
        study: Its tables.
    """
    promoted = study.record.attributes.promotion
    if promoted is None:
        raise NothingToDrawError("the study has not reached its full run yet")

    sentence = " ".join(promotion.sentences(promoted, study.metric))
    if not promoted.brackets:
        return sentence, [], promotion_table(promoted)
    return sentence, brackets(promoted, study.metric), in_metric(bracket_table(promoted), study.metric)
