"""The command line: run promote init train schema, and the commands of the modules beside it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from autotune.cli import cloning, history, machine, model, output, planning, replay, steer, studies, submit
from autotune.cli.ending import Commands, explain_failures
from autotune.cli.launch import (
    MIRROR_MINUTES,
    Hosting,
    announce,
    keeping_what_was_trained,
    make_options,
    night_options,
)
from autotune.cli.options import (
    MOST_TOKENS,
    RUNS,
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
    WorkerOption,
    deadline_of,
    default_study,
    folder_to_run,
    known_studies,
    load_study,
    require_begun,
    run_directory,
)
from autotune.cli.streams import prepare_streams, restore_help
from autotune.cli.studies import ended, finish_report, say_words, try_to_report
from autotune.core.errors import UserError
from autotune.core.text import say
from autotune.machine.host import choose_thread_waiting
from autotune.store.absence import Patience, patient

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

for further_commands in (studies.app, history.app, model.app):
    app.add_typer(further_commands)

# The help lists the commands in the order in which they are registered.
app.command()(machine.doctor)
app.command()(machine.profile)
app.command()(planning.plan)


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
    worker: WorkerOption = False,
    on_finish: OnFinishOption = "",
    webhook: WebhookOption = "",
    as_json: JsonOption = False,
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
    options = make_options(loaded, out, device, emulate, deadline, hosting, night_options(hours, until), worker)
    hosting.adopt(root)
    session = Session(loaded, options, root)

    failure: UserError | None = None
    code = 1  # of an end that nobody expected
    with keeping_what_was_trained(session):
        try:
            code = session.work()
        except UserError as error:
            failure, code = error, error.exit_code
        finally:
            if session.began:
                # Who has stopped it does not wait for a database that is away.
                with patient(None if failure else Patience(say_words)):
                    lines, no_report = try_to_report(session.run.root, loaded.spec.storage)
                failure = failure or no_report
                if failure is not None:
                    code = failure.exit_code
                    lines = lines or str(failure).splitlines()
                hosting.finish()
                announce(session.run.root, code, lines, on_finish, webhook)

    if failure is not None:
        raise failure
    if as_json:
        from autotune.cli.answers.studies import Run

        output.answer(Run(**ended(session.run.root, loaded.spec.storage, code, lines)))
    raise typer.Exit(code)


app.command()(submit.submit)
app.command()(steer.steer)
app.command()(cloning.clone)
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
    as_json: JsonOption = False,
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
        return yes or as_json or not sys.stdin.isatty() or typer.confirm("start the full run?", default=True)

    with keeping_what_was_trained(session):
        try:
            code = session.promote(tokens, trial, as_is, agree)
            with patient(Patience(say_words)):
                lines = finish_report(session.run.root, loaded.spec.storage)
        finally:
            hosting.finish()
        announce(session.run.root, code, lines, on_finish, webhook)
    if as_json:
        from autotune.cli.answers.studies import Promote

        output.answer(Promote(**ended(session.run.root, loaded.spec.storage, code, lines)))
    raise typer.Exit(code)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Of the study; its file is NAME.toml.")] = "my-study",
    text: Annotated[str, typer.Option(help="The text to train on: a file, a folder or a glob.")] = "",
    trainer: Annotated[
        Path | None, typer.Option(help="Write an example of a trainer of one's own to this Python file, and its study.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Writes a study file to begin with.

    It is for this machine and a text, or for a trainer of one's own.
    """
    from autotune.cli import init

    written = init.of_a_trainer(name, trainer) if trainer else init.of_a_text(name, text)
    following = f"autotune run {written[-1]}"
    say(f"wrote {' and '.join(map(str, written))}; next: {following}")
    if as_json:
        from autotune.cli.answers.studies import Begun

        output.answer(Begun(written=[str(path) for path in written], next=following))


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="A best_config.toml; you may have edited it.")],
    tokens: Annotated[
        int | None, typer.Option(help="Training tokens; by default as many as the file says.", min=1, max=MOST_TOKENS)
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="Folder for checkpoints and weights; by default full/ beside the file.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Trains a model with the settings of one configuration file.

    If it is interrupted, the same command resumes it.
    """
    from autotune.promotion.train_file import train_file

    trained = train_file(config, tokens, folder, say)
    if as_json and trained.speaks:
        from autotune.cli.answers.models import Trained

        output.answer(Trained(**trained.to_json()))
    raise typer.Exit(trained.exit_code)


@app.command()
def schema(
    command: Annotated[
        str, typer.Argument(metavar="[COMMAND]", help='Of this command alone; "error" for what any may answer.')
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Prints the JSON schemas of what commands answer with --json."""
    from autotune.cli.answers.catalogue import schemas

    known = schemas()
    if command and command not in known:
        raise UserError(f"{command}: no command answers under this name; those that do are {', '.join(known)}")
    with contextlib.suppress(BrokenPipeError):
        output.write(json.dumps(known[command] if command else known, indent=2) + "\n")


def main() -> None:
    """Run the `autotune` command."""
    choose_thread_waiting(os.environ)
    prepare_streams()
    parts = (app, studies.app, history.app, model.app)
    restore_help(command.callback for part in parts for command in part.registered_commands)
    with output.for_programs(output.FLAG in sys.argv[1:]), explain_failures():
        app()
