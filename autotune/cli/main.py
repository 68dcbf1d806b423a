"""The command line: plan run promote train, and the commands of `machine`, `replay`, `studies` and `model`."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from autotune.cli import machine, model, replay, studies
from autotune.cli.ending import Commands, explain_failures
from autotune.cli.launch import MIRROR_MINUTES, Hosting, announce, make_options, night_options
from autotune.cli.machine import measured_hardware
from autotune.cli.options import (
    MOST_TOKENS,
    RUNS,
    CardOption,
    DeviceOption,
    EmulateOption,
    HoursOption,
    JsonOption,
    MirrorMinutesOption,
    MirrorOption,
    OnFinishOption,
    RunsOption,
    SeedOption,
    SessionHoursOption,
    SetOption,
    StudyArgument,
    TrialsOption,
    UntilOption,
    WebhookOption,
    deadline_of,
    default_study,
    folder_to_run,
    known_studies,
    load_study,
    require_begun,
    run_directory,
)
from autotune.cli.streams import prepare_streams, restore_help
from autotune.cli.studies import finish_report, try_to_report
from autotune.core.errors import UserError
from autotune.core.text import say, seldom
from autotune.machine.host import choose_thread_waiting

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    cls=Commands,
    help=(
        "Searches for good training settings of a small language model overnight, tests the best on fresh seeds, "
        "and trains the model with them for longer."
    ),
)

for further_commands in (studies.app, model.app):
    app.add_typer(further_commands)

# The help lists the commands in the order in which they are registered.
app.command()(machine.doctor)
app.command()(machine.profile)


@app.command()
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

    def tell(line: str) -> None:
        if not as_json:
            say(line)

    loaded = load_study(study, out, change, trials=trials)
    deadline = deadline_of(loaded, hours, until)
    absent = card_named(card) if card else None
    prepared = prepare_study(loaded, tell, seldom(tell))

    if absent:
        tell(f"reasoned from published figures of the {absent.name}, and not measured:")
        taken = absent.profile()
        survey = absent_card.survey_of(loaded, taken, prepared, deadline)
    else:
        tell("profiling the hardware ...")
        taken = measured_hardware(device, emulate, quick=True)
        tell("probing the baseline ...")
        survey = planner.survey(loaded, taken, opening.slots_of(taken), deadline, preparing=seldom(tell))
    now = datetime.now().astimezone()
    lines = survey.lines(loaded.spec, taken, free_bytes(out), now)
    lines += Hosting(session_hours).session.lines(survey.plan.total_s, now)

    settings = flatten(loaded.spec.base)
    # Settings that are searched are taken out; the others are the same in all trials.
    space = {path: (dimension, settings.pop(path)) for path, dimension in loaded.spec.space.root.items()}

    if as_json:
        searches = {}
        for path, (dimension, value) in space.items():
            searches[path] = dimension.model_dump(exclude_none=True) | {"default": value}
        told = {"plan": survey.plan.to_json(), "says": [line for _, line in lines], "left": survey.left}
        typer.echo(json.dumps(told | {"searches": searches, "config": settings}, indent=2))
        return

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


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A study file, or the name of a study; by default overnight on a GPU and quickstart on a CPU.",
            autocompletion=known_studies,
        ),
    ] = "",
    hours: HoursOption = None,
    until: UntilOption = None,
    trials: TrialsOption = None,
    seed: SeedOption = None,
    out: RunsOption = RUNS,
    change: SetOption = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    session_hours: SessionHoursOption = None,
    mirror: MirrorOption = None,
    mirror_minutes: MirrorMinutesOption = MIRROR_MINUTES,
    on_finish: OnFinishOption = "",
    webhook: WebhookOption = "",
) -> None:
    """Runs a study from its search to its report, or resumes it.

    Ctrl-C parks it: it stops after the next evaluation, and the same command resumes it.
    """
    from autotune.cli.notify import check_webhook
    from autotune.night.session import Session

    check_webhook(webhook)
    study = study or default_study()
    hosting = Hosting(session_hours, mirror, mirror_minutes)
    hosting.adopt_named(study, out)
    loaded = load_study(study, out, change, trials=trials, seed=seed)
    root = folder_to_run(study, out, loaded, change)
    deadline = deadline_of(loaded, hours, until)
    options = make_options(loaded, out, device, emulate, deadline, hosting, night_options(hours, until))
    hosting.adopt(root)
    session = Session(loaded, options, root)

    failure: UserError | None = None
    code = 1  # of an end that nobody expected
    try:
        code = session.work()
    except UserError as error:
        failure, code = error, error.exit_code
    finally:
        if session.began:
            lines, no_report = try_to_report(session.run.root, loaded.spec.storage)
            failure = failure or no_report
            if failure is not None:
                code = failure.exit_code
                lines = lines or str(failure).splitlines()
            hosting.finish()
            announce(session.run.root, code, lines, on_finish, webhook)

    if failure is not None:
        raise failure
    raise typer.Exit(code)


app.command()(replay.record)
app.command()(replay.replay)


@app.command()
def promote(
    study: StudyArgument,
    tokens: Annotated[
        int | None,
        typer.Option(
            help="Training tokens; by default as many as fit into --hours, or as the study file says.",
            min=1,
            max=MOST_TOKENS,
        ),
    ] = None,
    trial: Annotated[
        int | None, typer.Option(help="Use the settings of this trial instead of the study's best.")
    ] = None,
    as_is: Annotated[
        bool, typer.Option("--as-is", help="Use the settings unchanged, not fitted to the longer run.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Start without asking.")] = False,
    hours: HoursOption = None,
    until: UntilOption = None,
    out: RunsOption = RUNS,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    session_hours: SessionHoursOption = None,
    mirror: MirrorOption = None,
    mirror_minutes: MirrorMinutesOption = MIRROR_MINUTES,
    on_finish: OnFinishOption = "",
    webhook: WebhookOption = "",
) -> None:
    """Trains a study's best settings for longer: the full run.

    Learning rates, weight decay and warm-up are fitted to the longer run. It leaves the model's weights and a sample of
    its text. If it is interrupted, the same command resumes it.
    """
    from autotune.cli.notify import check_webhook
    from autotune.night.session import Session

    check_webhook(webhook)

    hosting = Hosting(session_hours, mirror, mirror_minutes)
    if study.strip():
        hosting.adopt(run_directory(study, out))

    # A study that several machines share may have been begun on another of them.
    is_shared = os.path.isfile(study) and load_study(study, out, None).spec.storage
    if not is_shared:
        require_begun(run_directory(study, out))
    loaded = load_study(study, out, None)
    # The hours of the study file are the night's; a full run has its own.
    root = folder_to_run(study, out, loaded)
    options = make_options(loaded, out, device, emulate, deadline_of(None, hours, until), hosting)
    session = Session(loaded, options, root)

    def agree(cost: str) -> bool:
        say(cost)
        return yes or not sys.stdin.isatty() or typer.confirm("start the full run?", default=True)

    try:
        code = session.promote(tokens, trial, as_is, agree)
        lines = finish_report(session.run.root, loaded.spec.storage)
    finally:
        hosting.finish()
    announce(session.run.root, code, lines, on_finish, webhook)
    raise typer.Exit(code)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Of the study; its file is NAME.toml.")] = "my-study",
    text: Annotated[str, typer.Option(help="The text to train on: a file, a folder or a glob.")] = "",
    trainer: Annotated[
        Path | None, typer.Option(help="Write an example of a trainer of one's own to this Python file, and its study.")
    ] = None,
) -> None:
    """Writes a study file to begin with, for this machine and a text, or for a trainer of one's own."""
    from autotune.cli import init

    written = init.of_a_trainer(name, trainer) if trainer else init.of_a_text(name, text)
    say(f"wrote {' and '.join(map(str, written))}; next: autotune run {written[-1]}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="A best_config.toml; you may have edited it.")],
    tokens: Annotated[
        int | None, typer.Option(help="Training tokens; by default as many as the file says.", min=1, max=MOST_TOKENS)
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and weights; by default full/ beside the file.")
    ] = None,
) -> None:
    """Trains a model with the settings of one configuration file.

    If it is interrupted, the same command resumes it.
    """
    from autotune.promotion.train_file import train_file

    raise typer.Exit(train_file(config, tokens, folder, say))


def main() -> None:
    """Run the `autotune` command."""
    choose_thread_waiting(os.environ)
    prepare_streams()
    restore_help(command.callback for part in (app, studies.app, model.app) for command in part.registered_commands)
    with explain_failures():
        app()
