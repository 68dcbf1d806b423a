"""What a person asks of a running study: records that are read back in their order, and said in plain sentences."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from pydantic import ValidationError

from autotune.core.attributes import Snapshot, StudyAttributes
from autotune.core.requests import (
    AddTrial,
    Answer,
    Request,
    SetEnd,
    SetRange,
    SetTrials,
    StopTrial,
    Wish,
    ranges_set,
    stopped_trials,
    trials_wanted,
)

AT = datetime(2026, 11, 30, 23, 10).astimezone()
END = AT + timedelta(hours=7, minutes=20)
RANGE = SetRange(path="lr", values=(0.01, 0.05), before=(0.003, 0.1), is_range=True)
ADD = AddTrial(settings={"lr": 0.02, "layers": 2, "bias": True, "name": "a"}, named=("lr", "bias"))


def request(wish: Wish, answer: Answer | None = None) -> Request:
    return Request(id="1.0000", at=AT.isoformat(), wish=wish, answer=answer)


def test_what_is_asked_is_read_back_from_a_storage_in_its_order_with_its_answers() -> None:
    study = optuna.create_study(storage=optuna.storages.RDBStorage("sqlite://"))
    attributes = StudyAttributes(study)
    wishes: list[Wish] = [StopTrial(trial=12), ADD, RANGE, SetTrials(trials=40, before=60), SetEnd(ends_at=1.5)]
    attributes.ask(wishes[:3])
    attributes.ask(wishes[3:])

    stored = attributes.requests
    assert [each.wish for each in stored] == wishes
    assert [each.id for each in stored] == sorted(each.id for each in stored)
    assert all(each.answer is None for each in stored)
    assert type(stored[1].wish.settings["layers"]) is int  # type: ignore[union-attr]

    attributes.answer(stored[1], Answer(trial=14))
    attributes.answer(stored[4], Answer(why="it was too late"))
    again = attributes.requests
    assert [each.is_done for each in again] == [False, True, False, False, False]
    assert [each.is_refused for each in again] == [False] * 4 + [True]


def test_damage_of_what_was_asked_is_found() -> None:
    study = StudyAttributes(Snapshot())
    study.ask([StopTrial(trial=12)])
    assert study.unreadable() == ""
    (name,) = study.holder.user_attrs
    study.holder.set_user_attr(name, {**study.holder.user_attrs[name], "wishes": [{"kind": "stop trial"}]})
    assert study.unreadable() == "asked"
    with pytest.raises(ValidationError):
        study.requests  # noqa: B018


FEWER = SetRange(path="heads", values=(4, 8), before=(4, 8, 16), is_range=False)
MOVED = SetRange(path="lr", values=(0.05, 0.5), before=(0.003, 0.1), is_range=True)
WIDER = SetRange(path="lr", values=(0.001, 0.1), before=(0.003, 0.1), is_range=True)


@pytest.mark.parametrize(
    ("wish", "answer", "sentence"),
    [
        (StopTrial(trial=12), Answer(), "At 23:10 you stopped trial 12."),
        (
            StopTrial(trial=12),
            None,
            "At 23:10 you asked to stop trial 12; the study has not taken that up yet.",
        ),
        (
            StopTrial(trial=12),
            Answer(why="it had ended before (pruned)"),
            "At 23:10 you asked to stop trial 12, but it had ended before (pruned).",
        ),
        (ADD, Answer(trial=14), "At 23:10 you added trial 14 with lr = 0.02, bias = true."),
        (RANGE, Answer(), "At 23:10 you narrowed lr to 0.01 to 0.05 (before: 0.003 to 0.1)."),
        (WIDER, Answer(), "At 23:10 you widened lr to 0.001 to 0.1 (before: 0.003 to 0.1)."),
        (MOVED, Answer(), "At 23:10 you moved lr to 0.05 to 0.5 (before: 0.003 to 0.1)."),
        (FEWER, Answer(), "At 23:10 you narrowed heads to 4, 8 (before: 4, 8, 16)."),
        (SetTrials(trials=40, before=60), Answer(), "At 23:10 you lowered the number of trials from 60 to 40."),
        (SetEnd(ends_at=END.timestamp()), Answer(), "At 23:10 you moved the end to 06:30."),
    ],
)
def test_it_is_said_in_a_sentence(wish: Wish, answer: Answer | None, sentence: str) -> None:
    assert request(wish, answer).sentence() == sentence


def test_another_days_request_is_told_with_its_day() -> None:
    said = request(StopTrial(trial=12), Answer()).sentence((AT - timedelta(days=1)).isoformat())
    assert said == "On Mon 30 Nov at 23:10 you stopped trial 12."


def test_what_was_refused_or_is_not_taken_up_yet_does_not_count() -> None:
    done, refused = Answer(instead_of="60"), Answer(why="it was too late")
    asked: list[tuple[Any, Answer | None]] = [
        (StopTrial(trial=1), None), (StopTrial(trial=2), done), (StopTrial(trial=3), refused),
        (RANGE, done), (FEWER, refused), (MOVED, None),
        (SetTrials(trials=40, before=60), done), (SetTrials(trials=50, before=40), refused),
        (SetTrials(trials=70, before=40), None),
    ]  # fmt: skip
    requests = [request(*each) for each in asked]
    assert stopped_trials(requests) == {1, 2}
    assert ranges_set(requests) == [RANGE]
    assert trials_wanted(60, requests) == 40
    # A start with another number is a later word.
    assert trials_wanted(80, requests) == 80


def test_a_record_is_json() -> None:
    assert Request.model_validate(json.loads(request(ADD).model_dump_json())) == request(ADD)
