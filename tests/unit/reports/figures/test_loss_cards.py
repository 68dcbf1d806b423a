from collections.abc import Sequence

import pytest
import study_builder

from autotune.core.records import TrialRecord
from reports.figures import study_cards

PARAMS = study_builder.settings(0.02, 0.0, 8, 1)


def trained(number: int, losses: Sequence[float]) -> TrialRecord:
    values = {250 * place: loss for place, loss in enumerate(losses, start=1)}
    return study_builder.trial(number, "finished", losses, PARAMS, values=values)


def said(trials: Sequence[TrialRecord]) -> str:
    drawn = {card.key: card for card in study_cards.draw_cards(study_builder.study(trials=tuple(trials)))}
    return str(drawn["pruning"].sentence)


def test_the_card_tells_from_where_on_early_orders_could_be_trusted() -> None:
    """At a quarter of the training the order is upside down, at half of it two neighbours of four are exchanged."""
    curves = ([6.4, 5.2, 4.6, 4.1], [6.3, 5.1, 4.7, 4.2], [6.2, 5.3, 4.8, 4.3], [6.1, 5.4, 4.9, 4.4])
    text = said([trained(number, curve) for number, curve in enumerate(curves)])
    assert (
        "Among 4 trials that pruning did not select, the order agreed with the final one from 50 % of the training on "
        "(rank correlation 0.80)."
    ) in text


def test_the_card_says_so_if_no_early_order_could_be_trusted() -> None:
    curves = ([6.4, 5.4, 4.9, 4.1], [6.3, 5.3, 4.8, 4.2], [6.2, 5.2, 4.7, 4.3], [6.1, 5.1, 4.6, 4.4])
    text = said([trained(number, curve) for number, curve in enumerate(curves)])
    assert "Among 4 trials that pruning did not select, no early order agreed with the final one." in text


@pytest.mark.parametrize("count", [1, 2])
def test_the_card_says_nothing_of_it_on_too_few_trials(count: int) -> None:
    text = said([trained(number, [6.0, 5.0, 4.5, 4.0 + number]) for number in range(count)])
    assert "pruning did not select" not in text
