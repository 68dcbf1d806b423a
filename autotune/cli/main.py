"""The command line: doctor profile plan run record replay promote train, and what `studies` and `model` have."""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli import model, studies
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
from autotune.cli.studies import finish_report, refresh_report
from autotune.core.errors import UserError
from autotune.core.text import plain, say
from autotune.machine.nvml import NvmlError

if TYPE_CHECKING:
    from autotune.machine.hardware import HardwareProfile
    from autotune.night.session import Options
    from autotune.replay.table import Table
    from autotune.study.study_file import Study

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds good settings for a small language model overnight, proves them, and trains the winner.",
)

for more in (studies.app, model.app):
    app.add_typer(more)


@app.command()
def doctor(out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Checks this machine: ok, warn or fail, and what to do."""
    from autotune.machine import doctor as examination

    findings = examination.diagnose(out)
    typer.echo(json.dumps(examination.to_json(findings), indent=2) if as_json else examination.render(findings))
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
    taken = measured_hardware(device, emulate)
    measured = taken.to_json() | ({"largest_micro_batch": largest_micro_batch(study, taken)} if study else {})
    if as_json:
        typer.echo(json.dumps(measured, indent=2))
        return
    for line in hardware_lines(measured):
        say(line)


def measured_hardware(device: str, emulate: str, quick: bool = False) -> HardwareProfile:
    """Returns the hardware profile, or ends with exit code 3 and the reason."""
    from autotune.machine import hardware

    try:
        return hardware.profile(emulate, quick=quick, device=device)
    except hardware.HardwareError as error:
        raise UserError(str(error), 3) from None


def largest_micro_batch(study: str, taken: HardwareProfile) -> int:
    """Returns the largest micro-batch of a study's baseline that fits, by a few short trainings; 0 if unknown."""
    from autotune.night import capacity, opening

    return capacity.largest_micro_batch(load_study(study, RUNS, None), taken, opening.slots_of(taken)[0])


def hardware_lines(taken: dict[str, Any]) -> list[str]:
    """Returns a hardware profile in a few lines for a person.

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

    def tell(line: str) -> None:
        if not as_json:
            say(line)

    loaded = load_study(study, out, change, trials=trials)
    tell("profiling the hardware ...")
    taken = measured_hardware(device, emulate, quick=True)
    tell("probing the baseline ...")
    seconds_left = deadline_of(loaded, hours, until).seconds_left
    survey = planner.survey(loaded, taken, opening.slots_of(taken), seconds_left)
    settings = flatten(loaded.spec.base)
    space = {path: (dimension, settings.pop(path)) for path, dimension in loaded.spec.space.root.items()}
    lines = survey.lines(loaded.spec, taken, free_bytes(out), datetime.now().astimezone())
    if as_json:
        searches = {
            path: each.model_dump(exclude_none=True) | {"default": value} for path, (each, value) in space.items()
        }
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
    code = 1
    try:
        code = session.work()
    except UserError as error:
        code = error.exit_code
        raise
    finally:
        if session.run.spec.exists() and session.began:
            announce(session.run.root, code, finish_report(session.run.root), on_finish, webhook)
    raise typer.Exit(code)


@app.command()
def record(
    study: StudyArgument,
    trials: Annotated[int, typer.Option(help="Settings to train, the baseline included.")] = 300,
    evaluations: Annotated[int, typer.Option(help="Evaluations in each trial.")] = 20,
    tokens: Annotated[int | None, typer.Option(help="Tokens of a trial; the study's if not given.")] = None,
    rows: Annotated[
        Path | None, typer.Option(help="Train settings of this table again, evenly spread over its ranks.")
    ] = None,
    out: RunsOption = RUNS,
    change: SetOption = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
) -> None:
    """Trains many settings to the end, for a table to replay; resumable."""
    from autotune.night.session import PARKED, Session
    from autotune.replay import table
    from autotune.store.study_store import read_study

    changes = [*(change or []), *([f"budget.tokens={tokens}"] if tokens else [])]
    again = [row.params for row in table.read(rows).spread(trials)] if rows else []
    plain = load_study(study, out, changes)
    # Settings of a table are trained beside the baseline, which begins every study.
    changes += table.recording_changes(plain, trials + bool(again), evaluations, again)
    loaded = load_study(study, out, changes)
    session = Session(loaded, make_options(loaded, out, device, emulate, None, None))
    code = session.work()
    trained = read_study(session.run.root)
    if any(trial.loss is not None for trial in trained.trials):
        path, recorded = session.run.root / "table.json", table.from_record(trained)
        table.write(recorded, path)
        say(f"{len(recorded.rows)} rows: {path}")
    if code == PARKED:
        say("the same `autotune record` command goes on, and adds to the table")
    raise typer.Exit(code)


@app.command()
def replay(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A table of `autotune record`, or a finished study.")],
    sampler: Annotated[
        list[str] | None, typer.Option(help="A name, or a study file's table: '{name=\"tpe\", n_startup_trials=5}'.")
    ] = None,
    pruner: Annotated[list[str] | None, typer.Option(help="Likewise; each is tried with each sampler.")] = None,
    repeats: Annotated[int, typer.Option(help="Searches of each, with other seeds.", min=1)] = 30,
    hours: Annotated[
        float | None, typer.Option(help="Device time of a search; that of 60 whole trials if none.", min=0.001)
    ] = None,
    within: Annotated[float, typer.Option(help="Found means within this share of the best loss.", min=0)] = 0.005,
    surrogate: Annotated[bool, typer.Option("--surrogate", help="Interpolate between rows: any settings.")] = False,
    out: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Tries samplers and pruners on recorded trials, without training."""
    from autotune.replay import algorithms, arms
    from autotune.replay.sources import Rows
    from autotune.replay.surrogate import Surrogate
    from autotune.study.spec import PrunerSpec, SamplerSpec

    recorded = recorded_table(study, out)
    samplers = [algorithms.parse_sampler(text) for text in sampler or [SamplerSpec().name]]
    pruners = [algorithms.parse_pruner(text) for text in pruner or [PrunerSpec().name]]
    for chosen, stopper in itertools.product(samplers, pruners):
        algorithms.check(recorded, chosen, stopper)
    source = Surrogate(recorded) if surrogate else None
    budget_s = 3600 * hours if hours else arms.WHOLE_TRIALS * arms.trial_s(recorded)
    if not as_json:
        for line in arms.describe_table(recorded, source, budget_s):
            say(line)
    tried = []
    for chosen, stopper in itertools.product(samplers, pruners):
        tried.append(
            arms.run_arm(
                recorded,
                lambda: source or Rows(recorded),
                chosen,
                stopper,
                repeats=repeats,
                budget_s=budget_s,
                within_frac=within,
            )
        )
        if not as_json:
            say(arms.describe(tried[-1]))
    if as_json:
        typer.echo(json.dumps([arms.to_json(arm) for arm in tried], indent=2))


def recorded_table(study: str, out: Path) -> Table:
    """Returns a table file's content, or the table of a study's trials that were trained to the end."""
    from autotune.replay import table
    from autotune.store.study_store import read_study

    path = Path(study)
    if path.suffix == ".json":
        return table.read(path)
    return table.from_record(read_study(run_directory(study, out)))


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
    if not (Path(study).is_file() and load_study(study, out, None).spec.storage):
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
    announce(session.run.root, code, finish_report(session.run.root), on_finish, webhook)
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


def make_options(
    study: Study | None, out: Path, device: str, emulate: str, hours: float | None, until: str | None
) -> Options:
    """Returns the options of one run; those that are not given come from the study file, if there is one."""
    from autotune.night.session import Options

    return Options(out, device, emulate, audience(), deadline_of(study, hours, until), refresh_report)


def audience() -> Callable[[str], None]:
    """Returns what takes the lines of a run: a screen on a terminal, plain lines anywhere else."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return say
    from autotune.progress.terminal import Screen

    return Screen()


def announce(root: Path, code: int, lines: Sequence[str], on_finish: str, webhook: str) -> None:
    """Tells whoever asked for it that a run has ended; what goes wrong with that is said and changes nothing."""
    from autotune.cli import notify

    ending = notify.Ending(root.name, code, lines, root / "report" / "index.html")
    trouble = [notify.run_command(on_finish, ending)] if on_finish else []
    trouble += [notify.call_webhook(webhook, ending)] if webhook else []
    for line in filter(None, trouble):
        say(line)


def main() -> None:
    """Entry point of the `autotune` command."""
    try:
        app()
    except UserError as error:
        sys.stdout.flush()
        typer.echo(plain(str(error)), err=True)
        raise SystemExit(error.exit_code) from None
    except NvmlError as error:
        typer.echo(f"{error}; see `autotune doctor`", err=True)
        raise SystemExit(3) from None
