"""`autotune steer`: a hand on the wheel of a study that runs."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import typer

from autotune.cli.options import (
    RUNS,
    JsonOption,
    RunsOption,
    StorageOption,
    StudyArgument,
    begun_folder,
    deadline_of,
    load_study,
    named_storage,
    require_begun,
    run_directory,
)
from autotune.cli.output import answer
from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.text import say

_NUMBER = r"[^\s,\[\]\"']+?"
_RANGE = re.compile(rf"\s*({_NUMBER})\s*\.\.\s*({_NUMBER})\s*")


def steer(
    study: StudyArgument,
    stop_trial: Annotated[
        list[int] | None,
        typer.Option(help="End this trial after its next evaluation; it is not trained again.", min=0),
    ] = None,
    add: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SETTINGS",
            help='Train a trial with these settings next, such as "optim.muon_lr=0.02, model.dropout=0.1"; the others '
            "are the default's.",
        ),
    ] = None,
    change_range: Annotated[
        list[str] | None,
        typer.Option(
            "--range",
            metavar="SETTING=LOW..HIGH",
            help='Search a setting there from now on: "optim.muon_lr=0.01..0.05"; "model.num_experts=4,8" for choices.',
        ),
    ] = None,
    trials: Annotated[int | None, typer.Option(help="Search at most this many trials.", min=1)] = None,
    hours: Annotated[float | None, typer.Option(help="Finish everything within this many hours from now.")] = None,
    until: Annotated[str | None, typer.Option(help='Finish everything by this time of day, such as "07:00".')] = None,
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    as_json: JsonOption = False,
) -> None:
    """Changes a running study: its trials, ranges or end.

    All that is asked at once is checked before any of it counts. A study that is parked takes it up when it goes on.
    """
    from autotune.night.steer import Orders
    from autotune.night.steer import steer as ask
    from autotune.promotion.next_step import is_at_work
    from autotune.store.study_record import read_study

    root, url = run_directory(study, out), named_storage(study, out, storage)
    # Of a study that other machines run nothing need be here but its file.
    source = partial(load_study, str(root), root.parent, None)
    if not url:
        require_begun(root)
    elif begun_folder(study, out) is None:
        source = partial(load_study, study, out, None)
    orders = Orders(
        stop=stop_trial or (),
        add=[parse_settings(text) for text in add or ()],
        ranges=dict(map(parse_range, change_range or ())),
        trials=trials,
        ends_at=end_of(hours, until),
    )
    accepted = ask(root, url, source, orders)

    record = read_study(root, url)
    at_work = is_at_work(record)
    for each in accepted:
        say(each.says)
    if not at_work:
        say(f"{record.name} is not running: this counts once it goes on, with {record.run.command('run')}")
    if as_json:
        from autotune.cli.answers.studies import AcceptedWish, Steered

        wishes = [AcceptedWish(says=each.says, wish=each.wish) for each in accepted]
        answer(Steered(study=record.name, running=at_work, accepted=wishes))


def end_of(hours: float | None, until: str | None) -> float | None:
    """Return when everything is to be done, seconds since 1970; None if nothing is said of it.

    Args:
        hours: Hours from now, or None.
        until: Local time of day "HH:MM", the next one to come, or None; the earlier of the two counts.

    Raises:
        UserError: If one of them means no time.
    """
    if hours is None and until is None:
        return None
    # A time of day is a whole minute.
    return float(round(time.time() + deadline_of(None, hours, until).seconds_left))


def parse_settings(text: str) -> Mapping[str, Any]:
    """Return settings by dotted path, as `--add` names them.

    Args:
        text: Such as 'optim.muon_lr=0.02, model.dropout=0.1': the inside of a TOML table.

    Raises:
        UserError: If it is none.
    """
    return flatten(_parsed(f"x = {{{text}}}", f"--add {text!r}", "SETTING=VALUE, SETTING=VALUE"))


def parse_range(text: str) -> tuple[str, Sequence[Any]]:
    """Return a setting by its dotted path, and the two ends of its range, or its choices, as `--range` names them.

    Args:
        text: Such as "optim.muon_lr=0.01..0.05" or "model.num_experts=4,8".

    Raises:
        UserError: If it is neither.
    """
    path, sign, values = text.partition("=")
    form = "SETTING=LOW..HIGH, or SETTING=CHOICE,CHOICE"
    if not sign or not path.strip() or not values.strip():
        raise UserError(f"--range {text!r}: write {form}", 2)

    ends = _RANGE.fullmatch(values)
    inner = f"{ends[1]}, {ends[2]}" if ends else values.strip().removeprefix("[").removesuffix("]")
    name = path.strip().strip("\"'")
    try:
        return name, list(_parsed(f"x = [{inner}]", "", form))
    except UserError:
        if ends:
            raise UserError(f"--range {text!r}: {ends[1]} and {ends[2]} are no numbers; write {form}", 2) from None
        return name, [part.strip() for part in inner.split(",")]


def _parsed(toml: str, source: str, form: str) -> Any:
    import tomllib

    try:
        return tomllib.loads(toml)["x"]
    except (tomllib.TOMLDecodeError, RecursionError, ValueError):
        raise UserError(f"{source}: this is no TOML; write {form}, and text in quotes", 2) from None
