"""The command line: doctor profile plan run record replay status stop report watch compare timeline promote train.

`cli_model` has the commands that use a trained model.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune import cli_model
from autotune.cli_model import RUNS, JsonOption, RunsOption
from autotune.console import plain, say
from autotune.nvml import NvmlError
from autotune.records import UserError

if TYPE_CHECKING:
    from autotune.hardware import HardwareProfile
    from autotune.orchestrator import Options
    from autotune.spec import Study
    from autotune.table import Table

app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Finds good settings for a small language model overnight, proves them, and trains the winner.",
)

# An open page of `autotune watch` is loaded anew so often.
WATCHED_S = 15


def known_studies(begun: str) -> list[str]:
    """Returns names of studies in runs/, and study files, that begin so: what the shell completes.

    Args:
        begun: What is typed already.
    """
    names = sorted(path.parent.name for path in RUNS.glob("*/spec.json"))
    names += sorted(str(path) for path in Path("studies").glob("*.toml"))
    return [name for name in names if name.startswith(begun)]


StudyArgument = Annotated[
    str,
    typer.Argument(metavar="STUDY", help="A study file, or the name of a study.", autocompletion=known_studies),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help='Changes the study, in TOML: space."optim.muon_lr".high=0.05'),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.")]
EmulateOption = Annotated[str, typer.Option(help='"t4" treats a larger GPU as a T4: 15 GiB, fp16, no flash attention.')]
HoursOption = Annotated[float | None, typer.Option(help="Hours in which everything must be done.")]
UntilOption = Annotated[str | None, typer.Option(help='Time of day at which everything must be done, "07:00".')]
TrialsOption = Annotated[int | None, typer.Option(help="Trials at most.")]
OnFinishOption = Annotated[
    str,
    typer.Option(
        metavar="CMD", help="Shell command run at the end; it finds AUTOTUNE_TEXT and more in its environment."
    ),
]
WebhookOption = Annotated[
    str, typer.Option(metavar="URL", help="Gets the result as JSON at the end (Slack, Discord, ...).")
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of the search trials.")]
app.add_typer(cli_model.app)


@app.command()
def doctor(out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Checks this machine: ok, warn or fail, and what to do."""
    from autotune import doctor as examination

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
    """Measures this machine: speed by data type, bandwidth, memory, limits."""
    taken = measured_hardware(device, emulate)
    found = taken.to_json() | ({"largest_micro_batch": largest_micro_batch(study, taken)} if study else {})
    if as_json:
        typer.echo(json.dumps(found, indent=2))
        return
    for line in hardware_lines(found):
        say(line)


def measured_hardware(device: str, emulate: str, quick: bool = False) -> HardwareProfile:
    """Returns the hardware profile, or ends with exit code 3 and the reason."""
    from autotune import hardware

    try:
        return hardware.profile(emulate, quick=quick, device=device)
    except hardware.HardwareError as error:
        raise UserError(str(error), 3) from None


def largest_micro_batch(study: str, taken: HardwareProfile) -> int:
    """Returns the largest micro-batch of a study's baseline that fits, by a few short trainings; 0 if unknown."""
    from autotune import orchestrator, planner

    return planner.largest_micro_batch(load_study(study, RUNS, None), taken, orchestrator.slots_of(taken)[0])


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
) -> None:
    """Profiles a few steps and says what a study will take; nothing is kept."""
    from autotune import orchestrator, planner
    from autotune.space import flatten

    loaded = load_study(study, RUNS, change, trials=trials)
    say("profiling the hardware ...")
    taken = measured_hardware(device, emulate, quick=True)
    slots = orchestrator.slots_of(taken)
    say("probing the baseline ...")
    measured = planner.probe(loaded, taken, slots[0])
    left = deadline_of(loaded, hours, until).seconds_left
    night = planner.make_plan(loaded.spec, measured, len(slots), left, taken)
    say(planner.describe(night, loaded.spec))
    say(planner.done_by(night.total_s, datetime.now()))
    settings = flatten(loaded.spec.base)
    for path, dimension in loaded.spec.space.root.items():
        say(f"  searches {path}: {dimension.describe()}, by default {json.dumps(settings.pop(path))}")
    say("everything else, the same in all trials:")
    for path, value in settings.items():
        say(f"  {path} = {json.dumps(value)}")


@app.command()
def run(
    study: Annotated[
        str,
        typer.Argument(
            metavar="[STUDY]",
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
    from autotune.notify import check_webhook
    from autotune.orchestrator import Session

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
    """Trains many settings to the end and keeps their curves as a table to replay; resumable."""
    from autotune import table
    from autotune.orchestrator import PARKED, Session
    from autotune.storage import read_study

    changes = [*(change or []), *([f"budget.tokens={tokens}"] if tokens else [])]
    again = [row.params for row in table.read(rows).spread(trials)] if rows else []
    plain_spec = load_study(study, out, changes).spec
    # Settings of a table are trained beside the baseline, which begins every study.
    changes += table.recording_changes(plain_spec, trials + bool(again), evaluations, again)
    loaded = load_study(study, out, changes)
    session = Session(loaded, make_options(loaded, out, device, emulate, None, None))
    code = session.work()
    trained = read_study(session.run.root)
    if any(trial.loss is not None for trial in trained.trials):
        path, found = session.run.root / "table.json", table.from_record(trained)
        table.write(found, path)
        say(f"{len(found.rows)} rows: {path}")
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
    from autotune import replay as simulation
    from autotune.spec import PrunerSpec, SamplerSpec

    recorded = recorded_table(study, out)
    samplers = [simulation.parse_sampler(text) for text in sampler or [SamplerSpec().name]]
    pruners = [simulation.parse_pruner(text) for text in pruner or [PrunerSpec().name]]
    for chosen, stopper in itertools.product(samplers, pruners):
        simulation.check(recorded, chosen, stopper)
    source = simulation.Surrogate(recorded) if surrogate else None
    budget_s = 3600 * hours if hours else simulation.WHOLE_TRIALS * simulation.trial_s(recorded)
    if not as_json:
        for line in simulation.describe_table(recorded, source, budget_s):
            say(line)
    arms = []
    for chosen, stopper in itertools.product(samplers, pruners):
        arms.append(
            simulation.run_arm(
                recorded,
                lambda: source or simulation.Rows(recorded),
                chosen,
                stopper,
                repeats=repeats,
                budget_s=budget_s,
                within_frac=within,
            )
        )
        if not as_json:
            say(simulation.describe(arms[-1]))
    if as_json:
        typer.echo(json.dumps([simulation.to_json(arm) for arm in arms], indent=2))


def recorded_table(study: str, out: Path) -> Table:
    """Returns a table file's content, or the table of a study's trials that were trained to the end."""
    from autotune import table
    from autotune.storage import read_study

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
    """Trains a study's winner for longer, resumable, to weights and a sample; learning rates fitted to the length."""
    from autotune import planner
    from autotune.notify import check_webhook
    from autotune.orchestrator import Session

    check_webhook(webhook)
    loaded = load_study(study, out, None)
    # The hours of the study file are the night's; a full run has its own.
    session = Session(loaded, make_options(None, out, device, emulate, hours, until))
    if tokens is None and hours is None and until is None:
        tokens = planner.full_tokens(loaded.spec)

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
    from autotune.promote import train_file

    raise typer.Exit(train_file(config, tokens, folder, say))


@app.command()
def status(study: StudyArgument, out: RunsOption = RUNS, as_json: JsonOption = False) -> None:
    """Shows how a study stands, also while it runs."""
    from autotune import standing
    from autotune.storage import read_study

    record = read_study(run_directory(study, out))
    stands = standing.of(record)
    typer.echo(json.dumps(stands, indent=2, default=str)) if as_json else say(standing.describe(stands))


@app.command()
def stop(
    study: StudyArgument,
    out: RunsOption = RUNS,
    now: Annotated[bool, typer.Option("--now", help="End running trials at once; they are queued again.")] = False,
) -> None:
    """Asks a running study to park; nothing is lost."""
    import signal

    from autotune.run_directory import RunDirectory

    run_dir = RunDirectory(run_directory(study, out))
    pid = run_dir.running_pid()
    if pid is None:
        raise UserError(f"{run_dir.root.name} is not running", 2)
    # Two of the same kind in quick succession may arrive as one.
    for name in (signal.SIGINT, signal.SIGTERM) if now else (signal.SIGINT,):
        os.kill(pid, name)
    say(f"asked PID {pid} to {'stop now' if now else 'park after the next evaluation'}")


@app.command()
def report(study: StudyArgument, out: RunsOption = RUNS) -> None:
    """Writes the report of a study from its stored records, and its figures as PNG where a browser is there."""
    from autotune.storage import read_study
    from reports.page import add_pictures

    root = run_directory(study, out)
    finish_report(root)
    say(add_pictures(read_study(root), root / "report") or f"pictures: {root / 'report'}/*.png")


@app.command()
def watch(
    study: StudyArgument,
    out: RunsOption = RUNS,
    port: Annotated[int, typer.Option(help="Port of 127.0.0.1; 0 takes a free one.", min=0, max=65535)] = 8642,
) -> None:
    """Serves a study's page to this machine's browser, anew while the study works; Ctrl-C ends the watching only."""
    from autotune.storage import read_study
    from autotune.watch import PageServer
    from reports.page import study_page

    root = run_directory(study, out)
    read_study(root)
    for name in (signal.SIGINT, signal.SIGTERM):  # a shell may have left the first ignored
        signal.signal(name, signal.default_int_handler)
    with PageServer(lambda: study_page(read_study(root), WATCHED_S), port) as server:
        say(f"{root.name}: {server.address}  (Ctrl-C ends the watching; a study that runs goes on)")
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


@app.command()
def compare(
    studies: Annotated[
        list[str],
        typer.Argument(metavar="STUDY STUDY...", help="Two studies or more.", autocompletion=known_studies),
    ],
    out: RunsOption = RUNS,
    folder: Annotated[Path, typer.Option(help="Where the page goes.")] = RUNS / "compare",
) -> None:
    """Puts studies side by side."""
    from autotune.storage import read_study
    from reports.compare import compare_table, write_compare

    if len(studies) < 2:
        raise UserError("name two studies or more to compare")
    records = [read_study(run_directory(study, out)) for study in studies]
    path = write_compare(records, folder)
    for row in compare_table(records):
        say(f"{row.name}: {row.sentence}  [{row.trials} trials, {row.hours:.2f} h]")
    say(f"page: {path}")


@app.command()
def timeline(
    out: RunsOption = RUNS,
    folder: Annotated[Path, typer.Option(help="Where the page, timeline.md and pictures go.")] = RUNS / "timeline",
    into: Annotated[
        Path | None, typer.Option(help="A Markdown file, a README say, that takes the section; renewed if it is there.")
    ] = None,
) -> None:
    """Tells all studies in order: what changed, loss before and after, how sure."""
    from autotune.run_directory import write_text
    from reports import pictures
    from reports import timeline as history

    found = history.read_timeline(out)
    figures = history.write_timeline(found, folder)
    skipped = pictures.write_pictures(figures, folder)
    shown = () if skipped else tuple(figures)
    write_text(folder / "timeline.md", history.timeline_markdown(found, shown))
    if into is not None:
        beside = [os.path.relpath(folder / name, into.parent) for name in shown]
        text = into.read_text(encoding="utf-8") if into.exists() else ""
        write_text(into, history.put_into(text, history.timeline_markdown(found, beside)))
    for line in history.summary(found):
        say(line)
    say(skipped or f"pictures: {len(figures)} PNG files in {folder}")
    say(f"page: {folder / 'index.html'}")


def load_study(
    name: str, out: Path, changes: list[str] | None, trials: int | None = None, seed: int | None = None
) -> Study:
    """Finds and loads a study file, with the changes that the command line makes.

    Args:
        name: A path, the name of a study that was run, or of a file in studies/.
        out: Folder of the run directories.
        changes: `--set` assignments.
        trials: `--trials`, or None.
        seed: `--seed`, or None.
    """
    from autotune.spec import load

    every = list(changes or [])
    every += [f"budget.trials={trials}"] if trials is not None else []
    every += [f"seed={seed}"] if seed is not None else []
    candidates = [Path(name), out / name / "study.toml", Path("studies") / f"{name}.toml"]
    path = next((candidate for candidate in candidates if candidate.is_file()), Path(name))
    return load(path, every)


def default_study() -> str:
    """Returns the study for this machine: a night's work on a GPU, a few minutes' on a CPU."""
    from autotune.hardware import visible_devices

    gpu = bool(visible_devices())
    name = "overnight" if gpu else "quickstart"
    say(f"{'a GPU' if gpu else 'no GPU'} found: running studies/{name}.toml")
    return str(Path("studies") / f"{name}.toml")


def run_directory(name: str, out: Path) -> Path:
    """Returns the run directory of a study named by its name, its directory or its file."""
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        return out / str(load_study(name, out, None).spec.name)
    if (path / "spec.json").is_file():
        return path
    return out / name


def deadline_of(study: Study | None, hours: float | None, until: str | None) -> Any:
    """Returns the deadline: the command line's, or else the study file's if there is one."""
    from pydantic import ValidationError

    from autotune.deadline import Deadline
    from autotune.faults import in_words
    from autotune.spec import BudgetSpec

    if hours is None and until is None and study is not None:
        hours, until = study.spec.budget.hours, study.spec.budget.until
    try:
        BudgetSpec(tokens=1, hours=hours, until=until)
    except ValidationError as error:
        raise UserError("\n".join(f"--{fault['loc'][0]}: {in_words(fault, ())}" for fault in error.errors())) from None
    return Deadline(hours, until)


def make_options(
    study: Study | None, out: Path, device: str, emulate: str, hours: float | None, until: str | None
) -> Options:
    """Returns the options of one run; those that are not given come from the study file, if there is one."""
    from autotune.orchestrator import Options

    return Options(out, device, emulate, audience(), deadline_of(study, hours, until), refresh_report)


def audience() -> Callable[[str], None]:
    """Returns what takes the lines of a run: a screen on a terminal, plain lines anywhere else."""
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return say
    from autotune.screen import Screen

    return Screen()


def refresh_report(root: Path) -> None:
    """Writes the report of a study that is running."""
    from autotune.listener import REFRESH_EVERY_S
    from autotune.storage import read_study
    from reports.page import write_report

    write_report(read_study(root), root / "report", round(REFRESH_EVERY_S))


def finish_report(root: Path) -> list[str]:
    """Writes a study's report, says the verdict, the next command and the page's path, and returns what it said."""
    from autotune.storage import read_study
    from reports.page import summary_lines, write_report

    record = read_study(root)
    path = write_report(record, root / "report")
    lines = summary_lines(record)
    for line in ["", *lines, f"report: {path}"]:
        say(line)
    return lines


def announce(root: Path, code: int, lines: Sequence[str], on_finish: str, webhook: str) -> None:
    """Tells whoever asked for it that a run has ended; what goes wrong with that is said and changes nothing."""
    from autotune import notify

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
