"""`autotune plan`: what a study will take, before it is run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any

import typer

from autotune.cli.launch import Hosting
from autotune.cli.machine import measured_hardware
from autotune.cli.options import (
    RUNS,
    CardOption,
    DeviceOption,
    EmulateOption,
    HoursOption,
    JsonOption,
    RunsOption,
    SessionHoursOption,
    SetOption,
    StudyArgument,
    TrialsOption,
    UntilOption,
    deadline_of,
    load_study,
)
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.text import say, seldom


def plan(
    study: StudyArgument,
    hours: HoursOption = None,
    until: UntilOption = None,
    trials: TrialsOption = None,
    change: SetOption = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    card: CardOption = "",
    session_hours: SessionHoursOption = None,
    out: RunsOption = RUNS,
    everything: Annotated[
        bool, typer.Option("--all", help="Show the settings that are the same in all trials, too.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Estimates a study's trials, time, memory and disk space.

    It trains for a few seconds to measure the speed, and saves nothing. With --card it trains nothing either.
    """
    from autotune.core.config_paths import flatten
    from autotune.core.files import free_bytes
    from autotune.machine.cards import card_named
    from autotune.night import absent_card, opening, planner
    from autotune.night.preparation import prepare_study

    loaded = load_study(study, out, change, trials=trials)
    deadline = deadline_of(loaded, hours, until)
    absent = card_named(card) if card else None
    prepared = prepare_study(loaded, say, seldom(say))

    if absent:
        say(f"reasoned from published figures of the {absent.name}, and not measured:")
        taken = absent.profile()
        survey = absent_card.survey_of(loaded, taken, prepared, deadline)
    else:
        say("profiling the hardware ...")
        taken = measured_hardware(device, emulate, quick=True)
        say("probing the baseline ...")
        survey = planner.survey(loaded, taken, opening.slots_of(taken), deadline, preparing=seldom(say))
    now = datetime.now().astimezone()
    lines = survey.lines(loaded.spec, taken, free_bytes(out), now)
    lines += Hosting(session_hours).session.lines(survey.plan.total_s, now)

    settings = flatten(loaded.spec.base)
    # Settings that are searched are taken out; the others are the same in all trials.
    space = {path: (dimension, settings.pop(path)) for path, dimension in loaded.spec.space.root.items()}

    if as_json:
        from autotune.cli.answers.studies import Planned

        searches = {}
        for path, (dimension, value) in space.items():
            searches[path] = dimension.model_dump(exclude_none=True) | {"default": value}
        says = [line for _, line in lines]
        figures = survey.plan.to_json()
        answer(Planned(plan=figures, says=says, left=survey.left, searches=searches, config=settings))
        raise typer.Exit(2 if survey.plan.refusal else 0)

    for _, line in lines:
        say(line)
    if survey.plan.refusal:
        raise UserError(survey.plan.refusal)
    for path, (dimension, value) in space.items():
        say(f"  searches {path}: {dimension.describe()}, by default {json.dumps(value)}")
    _say_others(settings, everything)


def _say_others(settings: Mapping[str, Any], everything: bool) -> None:
    """Say the settings that are the same in all trials, or how many they are."""
    if not everything:
        say(f"  {len(settings)} other settings are the same in all trials: --all shows them")
        return

    say("everything else, the same in all trials:")
    for path, value in settings.items():
        say(f"  {path} = {json.dumps(value)}")
