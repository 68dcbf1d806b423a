"""What commands say to programs: their keys stay, and every command that says something has an answer."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from autotune.cli.answers.catalogue import ANSWERS, schemas
from autotune.cli.answers.events import TrialEnded
from autotune.cli.main import app
from autotune.core.records import TrialStatus

KEPT = Path(__file__).with_name("schemas.json")
RENEW = "autotune schema > tests/unit/cli/answers/schemas.json"
_MEANS_NOTHING = (
    *("title", "description", "default", "discriminator", "$defs", "$ref"),
    *("properties", "required", "enum", "oneOf"),  # looked at one by one
)


def broken(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yields what a reader of the earlier schema would miss, or take for something else, in the present one."""
    yield from _broken(before, now, before, now, "")


def _broken(before: Any, now: Any, whole_before: Any, whole_now: Any, at: str) -> Iterator[str]:
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, (old, new) in enumerate(zip(before, now, strict=True)):
            yield from _broken(old, new, whole_before, whole_now, f"{at}[{place}]")
        return
    if not isinstance(before, dict) or not isinstance(now, dict):
        if before != now:
            yield f"{at}: {before} became {now}"
        return

    before, now = _resolved(before, whole_before), _resolved(now, whole_now)
    for key, old in before.get("properties", {}).items():
        if key not in now.get("properties", {}):
            yield f"{at}.{key}: gone"
        else:
            yield from _broken(old, now["properties"][key], whole_before, whole_now, f"{at}.{key}")
    yield from (f"{at}.{key}: not always there any more" for key in _missing("required", before, now))
    yield from (f"{at}: never says {word!r} any more" for word in _missing("enum", before, now))
    # Kinds of events, of which there may be more, are told apart by their names.
    yield from (f"{at}: {gone['$ref']} is gone" for gone in _missing("oneOf", before, now))
    for one in before.get("oneOf", []):
        yield from _broken(one, one, whole_before, whole_now, f"{at}{one['$ref']}")
    for word in (before.keys() | now.keys()) - set(_MEANS_NOTHING):
        yield from _broken(before.get(word), now.get(word), whole_before, whole_now, f"{at} {word}")


def _resolved(schema: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    return schema if reference is None else whole["$defs"][reference.rpartition("/")[2]]


def _missing(word: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Any]:
    return [value for value in before.get(word, []) if value not in now.get(word, [])]


@pytest.mark.parametrize("command", list(json.loads(KEPT.read_text())))
def test_the_keys_of_an_answer_stay(command: str) -> None:
    """A further key is welcome, and is guarded too once the copy is renewed."""
    kept = json.loads(KEPT.read_text())[command]
    assert command in ANSWERS, f"{command} answers nothing any more"
    wrong = list(broken(kept, schemas()[command]))
    assert not wrong, (
        f"readers of `autotune {command} --json` would break:\n"
        + "\n".join(wrong)
        + "\nput it back; or, where it must "
        f"be, raise the number at the end of the answer's schema, and renew the copy: {RENEW}"
    )


def test_the_guard_sees_keys_that_go_or_change_and_lets_new_ones_pass() -> None:
    kept = schemas()["plan"]
    assert list(broken(kept, kept)) == []

    grown = copy.deepcopy(kept)
    grown["$defs"]["PlanFigures"]["properties"]["more_s"] = {"type": "number"}
    grown["$defs"]["PlanFigures"]["required"].append("more_s")
    grown["properties"]["more"] = {"type": "string"}
    assert list(broken(kept, grown)) == []
    assert list(broken(grown, kept)) == [".plan.more_s: gone", ".plan.more_s: not always there any more", ".more: gone"]

    changed = copy.deepcopy(kept)
    changed["$defs"]["PlanFigures"]["properties"]["trials"] = {"type": "string"}
    changed["properties"]["says"]["items"] = {"type": "integer"}
    assert list(broken(kept, changed)) == [
        ".plan.trials type: integer became string",
        ".says items type: string became integer",
    ]

    watch = schemas()["watch"]
    fewer = copy.deepcopy(watch)
    parked = fewer["oneOf"].pop(next(i for i, one in enumerate(fewer["oneOf"]) if one["$ref"].endswith("/Parked")))
    assert list(broken(fewer, watch)) == []
    assert list(broken(watch, fewer)) == [f": {parked['$ref']} is gone"]
    del fewer["$defs"]["Note"]["properties"]["says"]
    assert list(broken(watch, fewer))[1:] == ["#/$defs/Note.says: gone"]

    renamed = copy.deepcopy(kept)
    renamed["properties"]["schema"]["const"] = "autotune.plan/2"
    assert list(broken(kept, renamed)) == [".schema const: autotune.plan/1 became autotune.plan/2"]


def test_every_command_answers_programs() -> None:
    group = typer.main.get_command(app)
    for name, command in group.commands.items():  # type: ignore[attr-defined]
        options = [option for parameter in command.params for option in parameter.opts]
        if name != "schema":
            assert "--json" in options, f"autotune {name} has no --json"
            assert name in ANSWERS, f"autotune {name} --json has no schema"


def test_answers_are_named_after_their_commands_and_keep_open_to_further_keys() -> None:
    found = schemas()
    events = found.pop("watch")["$defs"]
    assert all(
        event["properties"]["schema"]["const"] == "autotune.event/1"
        for event in events.values()
        if "event" in event["properties"]
    )
    for command, schema in found.items():
        assert schema["properties"]["schema"]["const"] == f"autotune.{command}/1"
        assert "additionalProperties" not in schema or command == "evaluate"
        assert "schema" in schema["required"]


def test_events_know_every_way_in_which_a_trial_ends() -> None:
    told = set(get_args(TrialEnded.model_fields["status"].annotation))
    assert told == set(TrialStatus) - {TrialStatus.WAITING, TrialStatus.RUNNING}
