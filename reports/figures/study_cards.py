"""The figure cards of a study's page, in their order."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from autotune.core import objectives
from autotune.store.study_record import StudyRecord
from reports.figures import loss_cards, machine_cards, setting_cards
from reports.figures.figure_cards import Card, Drawn, draw_card
from reports.figures.study_tables import StudyTables
from reports.sentences import attribution, promotion

# Title and drawing of each card by its key, in the order of the page.
CARDS: dict[str, tuple[str, Callable[[StudyTables], Drawn]]] = {
    "best-so-far": ("Best so far", loss_cards.best_so_far),
    "finals": ("The finals: default against the best", loss_cards.finals),
    "which-change": (attribution.TITLE, setting_cards.which_change),
    "learning-curves": ("Learning curves", loss_cards.learning_curves),
    "settings": ("Each setting against the result", setting_cards.each_setting),
    "importance": ("Which settings mattered", setting_cards.importance),
    "pairs": ("Settings two at a time", setting_cards.pairs),
    "pruning": ("Was early stopping right?", loss_cards.pruning),
    "timeline": ("The night", machine_cards.timeline),
    "gpu": ("Health of the GPU", machine_cards.gpu),
    "speed": ("Quality against speed", loss_cards.speed),
    "front": ("Quality against training time", loss_cards.pareto_front),
    "parallel": ("What the best trials have in common", setting_cards.parallel),
    "promotion": (promotion.TITLE, setting_cards.long_run),
    "full-run": ("The full run", machine_cards.full_run),
}


def draw_cards(record: StudyRecord) -> list[Card]:
    """Return every figure card in the order of the page.

    Args:
        record: The study.
    """
    study = StudyTables(record)
    left_out = _keys_left_out(record)

    cards = []
    for key, (title, draw) in CARDS.items():
        if key not in left_out:
            cards.append(draw_card(key, title, partial(draw, study)))

    return cards


def _keys_left_out(record: StudyRecord) -> set[str]:
    """Return the cards of what this study does not have."""
    left_out = set()

    if not record.attributes.full_run:
        left_out.add("full-run")
    if not record.attributes.promotion:
        left_out.add("promotion")
    if objectives.num_values(record.spec.objective) == 1:
        left_out.add("front")

    return left_out
