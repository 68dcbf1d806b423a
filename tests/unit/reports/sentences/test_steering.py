"""What a person changed as the study ran is said on the page, and beside the verdict what it means there."""

from __future__ import annotations

from typing import Any

import study_builder

from autotune.core.requests import AddTrial, Answer, SetRange, StopTrial, answered, asked, requests_in
from autotune.store.study_record import StudyRecord
from reports.exports import report_json
from reports.markdown import report_markdown
from reports.page import study_page
from reports.sentences.how_sure import how_sure
from reports.sentences.steering import steering_doubts, steering_lines

RANGE = SetRange(path="optim.muon_lr", values=(0.01, 0.05), before=(0.001, 0.1), is_range=True)


def steered(*answers: Answer | None, winner: int = 6) -> StudyRecord:
    """The finished study; three wishes were answered, or not."""
    wishes = [StopTrial(trial=8), RANGE, AddTrial(settings={"optim.muon_lr": 0.05}, named=("optim.muon_lr",))]
    name, content = asked(wishes)
    stored: dict[str, Any] = {name: content}
    for request, answer in zip(requests_in(stored), answers, strict=False):
        if answer is not None:
            stored |= [answered(request, answer)]
    return study_builder.with_attributes(study_builder.study(verdict=study_builder.verdict(winner=winner)), **stored)


def test_it_is_said_in_order_on_the_page_and_in_its_twins() -> None:
    record = steered(Answer(), Answer(why="the search was over by then"))
    said = [line.partition(" you ")[2] for line in steering_lines(record)]
    assert said == [
        "stopped trial 8.",
        "asked to search optim.muon_lr in 0.01 to 0.05, but the search was over by then.",
        "asked to add a trial with optim.muon_lr = 0.05; the study has not taken that up yet.",
    ]
    page = study_page(record)
    assert 'id="steered"' in page and 'id="steered"' not in study_page(study_builder.study())
    for words in said:
        assert words in page and words in report_json(record)
    assert "## What you changed as it ran" in report_markdown(record)


def test_what_it_means_stands_beside_the_verdict() -> None:
    assert steering_doubts(study_builder.study()) == [] == steering_doubts(steered())
    record = steered(Answer(), Answer(), Answer(trial=6))
    doubts = steering_doubts(record)
    assert doubts[0].startswith("The winner, trial 6, is one that you added by hand.")
    assert doubts[1].startswith("You stopped 1 trial by hand")
    assert doubts[2].startswith("You changed what was searched while it was")
    assert how_sure(record)[-3:] == doubts
    assert len(steering_doubts(steered(None, None, Answer(trial=7)))) == 0
