"""What is searched by now: ranges that the edge rule has widened, and those that a person has set, in that order."""

from __future__ import annotations

from autotune.core.attributes import StudyAttributes
from autotune.core.requests import ranges_set
from autotune.search.space import SearchSpace


def present_space(space: SearchSpace, attributes: StudyAttributes) -> SearchSpace:
    """Return what is searched at present.

    Args:
        space: What the study file searches.
        attributes: What is stored with the study.
    """
    attributes = attributes.at_present()
    set_by_hand = {wish.path: wish.values for wish in ranges_set(attributes.requests)}
    return space.with_ranges(attributes.ranges).with_ranges(set_by_hand)


def whole_space(space: SearchSpace, attributes: StudyAttributes) -> SearchSpace:
    """Return all that was searched at any time of the study; every trial lies in it.

    Optuna wants the choices of a setting to stay the same from the first trial to the last, so these are what is stored
    with each trial, however few of them are proposed.

    Args:
        space: What the study file searches.
        attributes: What is stored with the study.
    """
    attributes = attributes.at_present()
    whole = space.with_ranges(attributes.ranges)
    for wish in ranges_set(attributes.requests):
        whole = whole.including({wish.path: (*wish.before, *wish.values)})
    return whole
