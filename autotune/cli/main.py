"""The command line: doctor profile plan run record replay promote train, and what `studies` and `model` have."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import model, replay, studies
from autotune.cli.launch import announce, make_options
from autotune.cli.options import (
    RUNS,
    DeviceOption,
    EmulateOption,
    HoursOption,
    JsonOption,
    OnFinishOption,
    RunsOption,
    SeedOption,
    SetOption,
    StudyArgument,
    TrialsOption,
    UntilOption,
    WebhookOption,
    deadline_of,
    default_study,
    known_studies,
    load_study,
    require_begun,
    run_directory,
)
from autotune.cli.studies import finish_report
from autotune.core.errors import UserError
from autotune.core.text import plain, say, seldom
from autotune.machine.nvml import NvmlError

if TYPE_CHECKING:
    from autotune.machine.hardware import HardwareProfile

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds good settings for a small language model overnight, proves them, and trains the winner.",
)

for further_commands in (studies.app, model.app):
    app.add_typer(further_commands)


@app.command()
def doctor(out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Checks this machine: ok, warn or fail, and what to do."""
    from autotune.machine import doctor as examination

    findings = examination.diagnose(out)
    if as_json:
        typer.echo(json.dumps(examination.to_json(findings), indent=2))
    else:
        typer.echo(examination.render(findings))
    raise typer.Exit(examination.exit_code(findings))


@app.command()
def profile(
    study: Annotated[
        str | None, typer.Option("--study", help="Also find the largest micro-batch that fits with this study's model.")
    ] = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Measures this machine: its speed, memory and limits."""
    taken = _measured_hardware(device, emulate)
    measured = taken.to_json()
    if study:
        measured |= {"largest_micro_batch": largest_micro_batch(study, taken)}

    if as_json:
        typer.echo(json.dumps(measured, indent=2))
        return

    for line in _hardware_lines(measured):
        say(line)


def _measured_hardware(device: str, emulate: str, quick: bool = False) -> HardwareProfile:
    """Measure the machine and return its hardware profile.

    Raises:
        UserError: With exit code 3 and the reason, if it cannot be measured.
    """
    from autotune.machine import hardware

    try:
        return hardware.profile(emulate, quick=quick, device=device)
    except hardware.HardwareError as error:
        raise UserError(str(error), 3) from None


def largest_micro_batch(study: str, taken: HardwareProfile) -> int:
    """Return the largest micro-batch of a study's baseline that fits, by a few short trainings; 0 if unknown."""
    from autotune.night import capacity, opening

    loaded = load_study(study, RUNS, None)
    slot = opening.slots_of(taken)[0]
    return capacity.largest_micro_batch(loaded, taken, slot)


def _hardware_lines(taken: dict[str, Any]) -> list[str]:
    """Return a hardware profile in a few lines for a person.

    Args:
        taken: `HardwareProfile.to_json()`.
    """
    speeds = ", ".join(f"{dtype} {flops / 1e12:.3g}" for dtype, flops in taken["matmul_flops"].items())
    lines = [
        f"device      {taken['name'] or taken['cpu_name']} ({taken['device']})",
        f"memory      {taken['memory_bytes'] / 2**30:.1f} GiB, {taken['cpu_count']} CPU cores",
        f"matmul      {speeds} TFLOP/s measured",
        f"copy        {taken['copy_bytes_per_s'] / 1e9:.0f} GB/s measured",
        f"trains in   {taken['dtype']}, flash attention {'on' if taken['flash_attention'] else 'off'}",
    ]

    if taken["device"] == "cuda":
        throttle = ", ".join(taken["throttle_reasons"]) or "none"
        lines.append(f"power       {taken['power_limit_w']:.0f} W limit; throttled by: {throttle}")

    if "largest_micro_batch" in taken:
        lines.append(f"micro-batch up to {taken['largest_micro_batch'] or 'unknown'}")
    return lines


@app.command()
def plan(
    study: StudyArgument,
    hours: HoursOption = None,
    until: UntilOption = None,
    trials: TrialsOption = None,
    change: SetOption = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    out: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Says what a study will take, after a few steps; keeps nothing."""
    from autotune.core.config_paths import flatten
    from autotune.core.files import free_bytes
    from autotune.night import opening, planner
    from autotune.night.preparation import prepare_study

    def tell(line: str) -> None:
        if not as_json:
            say(line)

    loaded = load_study(study, out, change, trials=trials)
    prepare_study(loaded, tell, seldom(tell))

    tell("profiling the hardware ...")
    taken = _measured_hardware(device, emulate, quick=True)

    tell("probing the baseline ...")
    seconds_left = deadline_of(loaded, hours, until).seconds_left
    survey = planner.survey(loaded, taken, opening.slots_of(taken), seconds_left, preparing=seldom(tell))
    lines = survey.lines(loaded.spec, taken, free_bytes(out), datetime.now().astimezone())

    settings = flatten(loaded.spec.base)
    # What is searched is taken out of the settings; what is left is the same in all trials.
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
    for path, (dimension, value) in space.items():
        say(f"  searches {path}: {dimension.describe()}, by default {json.dumps(value)}")

    say("everything else, the same in all trials:")
    for path, value in settings.items():
        say(f"  {path} = {json.dumps(value)}")


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            metavar="STUDY",
            help="A study file or name; picked by the machine if not given.",
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
    on_finish: OnFinishOption = "",
    webhook: WebhookOption = "",
) -> None:
    """Runs a study to its report, or goes on where it was left."""
    from autotune.cli.notify import check_webhook
    from autotune.night.session import Session

    check_webhook(webhook)
    loaded = load_study(study or default_study(), out, change, trials=trials, seed=seed)
    session = Session(loaded, make_options(loaded, out, device, emulate, hours, until))

    code = 1  # of an end that nobody expected
    try:
        code = session.work()
    except UserError as error:
        code = error.exit_code
        raise
    finally:
        if session.run.spec.exists() and session.began:
            lines = finish_report(session.run.root)
            announce(session.run.root, code, lines, on_finish, webhook)

    raise typer.Exit(code)


# The help lists the commands in the order in which they are registered.
app.command()(replay.record)
app.command()(replay.replay)


@app.command()
def promote(
    study: StudyArgument,
    tokens: Annotated[
        int | None,
        typer.Option(help="Length of the full run; else what fits into --hours, or the study file's.", min=1),
    ] = None,
    trial: Annotated[int | None, typer.Option(help="Promote this trial instead of the proven winner.")] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Copy the settings, without rescaling them.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it begins.")] = False,
    hours: HoursOption = None,
    until: UntilOption = None,
    out: RunsOption = RUNS,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    on_finish: OnFinishOption = "",
    webhook: WebhookOption = "",
) -> None:
    """Trains a study's winner for longer, to weights and a sample.

    Killed, it goes on; learning rates are fitted to the length.
    """
    from autotune.cli.notify import check_webhook
    from autotune.night.session import Session
    from autotune.promotion import horizon

    check_webhook(webhook)

    # A study that several machines share may have been begun on another of them.
    is_shared = Path(study).is_file() and load_study(study, out, None).spec.storage
    if not is_shared:
        require_begun(run_directory(study, out))
    loaded = load_study(study, out, None)
    # The hours of the study file are the night's; a full run has its own.
    session = Session(loaded, make_options(None, out, device, emulate, hours, until))

    if tokens is None and hours is None and until is None:
        tokens = horizon.full_tokens(loaded.spec)

    def agree(cost: str) -> bool:
        say(cost)
        return yes or not sys.stdin.isatty() or typer.confirm("go on?", default=True)

    code = session.promote(tokens, trial, as_is, agree)
    lines = finish_report(session.run.root)
    announce(session.run.root, code, lines, on_finish, webhook)
    raise typer.Exit(code)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="A best_config.toml, edited or not.")],
    tokens: Annotated[int | None, typer.Option(help="Instead of the file's own.")] = None,
    folder: Annotated[Path | None, typer.Option(help="Where checkpoints and weights go.")] = None,
) -> None:
    """Trains one configuration file, resumable."""
    from autotune.promotion.best_config import train_file

    raise typer.Exit(train_file(config, tokens, folder, say))


def main() -> None:
    """Run the `autotune` command."""
    try:
        app()
    except UserError as error:
        sys.stdout.flush()
        typer.echo(plain(str(error)), err=True)
        raise SystemExit(error.exit_code) from None
    except NvmlError as error:
        typer.echo(f"{error}; see `autotune doctor`", err=True)
        raise SystemExit(3) from None
