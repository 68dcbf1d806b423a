"""The commands on recorded trials: record replay."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.launch import make_options
from autotune.cli.options import (
    RUNS,
    DeviceOption,
    EmulateOption,
    JsonOption,
    RunsOption,
    SetOption,
    StorageOption,
    StudyArgument,
    above_zero,
    deadline_of,
    load_study,
    read_named,
)
from autotune.cli.output import answer
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.replay.table import Table


def record(
    study: StudyArgument,
    trials: Annotated[int, typer.Option(help="Trials to record; the first has the default settings.")] = 300,
    evaluations: Annotated[int, typer.Option(help="Evaluations in each trial.")] = 20,
    tokens: Annotated[
        int | None, typer.Option(help="Training tokens of each trial; by default those of the study.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="An earlier table: train its settings again, evenly spread from best to worst."),
    ] = None,
    out: RunsOption = RUNS,
    change: SetOption = None,
    device: DeviceOption = "auto",
    emulate: EmulateOption = "",
    as_json: JsonOption = False,
) -> None:
    """Records many whole trials as a table for `autotune replay`.

    The settings are spread over the whole space, and no trial is stopped early. If it is interrupted, the same command
    resumes it.
    """
    from autotune.cli import status
    from autotune.night.session import PARKED, Session
    from autotune.replay import table
    from autotune.store.study_record import read_study

    changes = list(change or [])
    if tokens is not None:
        changes.append(f"budget.tokens={tokens}")
    again = []
    if rows:
        again = [row.params for row in table.read(rows).spread(trials)]

    # Settings of a table are trained beside the baseline, which begins every study and may be one of them.
    as_written = load_study(study, out, changes)
    baseline = as_written.spec.space.baseline(as_written.spec.base)
    again = [params for params in again if params != baseline]
    changes += table.recording_changes(as_written, len(again) + 1 if rows else trials, evaluations, again)
    loaded = load_study(study, out, changes)

    session = Session(loaded, make_options(loaded, out, device, emulate, deadline_of(loaded, None, None)))
    code = session.work()

    trained = read_study(session.run.root, loaded.spec.storage)
    path, rows_written = session.run.root / "table.json", 0
    if any(trial.loss is not None for trial in trained.trials):
        recorded = table.from_record(trained)
        table.write(recorded, path)
        rows_written = len(recorded.rows)
        say(f"table of {rows_written} trials: {path}")

    if code == PARKED:
        say("the same `autotune record` command resumes it and adds to the table")
    if as_json:
        from autotune.cli.answers.studies import Record

        state = {**status.summarize(trained), "exit_code": code, "says": [], "report": None}
        answer(Record(**state, table=str(path) if rows_written else None, table_trials=rows_written))
    raise typer.Exit(code)


def replay(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A table that `autotune record` wrote, or a finished study.")
    ],
    sampler: Annotated[
        list[str] | None,
        typer.Option(help="A name, or a table as in a study file: '{name=\"tpe\", n_startup_trials=5}'."),
    ] = None,
    pruner: Annotated[
        list[str] | None, typer.Option(help="A name or a table too; every pruner is tried with every sampler.")
    ] = None,
    repeats: Annotated[
        int, typer.Option(help="Searches with each sampler and pruner; each has its own seed.", min=1)
    ] = 30,
    hours: Annotated[
        float | None,
        typer.Option(help="Device time of a search; by default that of 60 whole trials.", callback=above_zero),
    ] = None,
    within: Annotated[
        float, typer.Option(help="How much worse than the best trial, as a fraction, still counts as found.", min=0)
    ] = 0.005,
    surrogate: Annotated[
        bool, typer.Option("--surrogate", help="Estimate what settings between the recorded ones would reach.")
    ] = False,
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    as_json: JsonOption = False,
) -> None:
    """Tries samplers and pruners on recorded trials, without training."""
    from autotune.replay import algorithms, arms
    from autotune.replay.sources import Rows
    from autotune.replay.surrogate import Surrogate
    from autotune.study.algorithm_spec import PrunerSpec, SamplerSpec

    recorded = _recorded_table(study, out, storage)
    samplers = [algorithms.parse_sampler(text) for text in sampler or [SamplerSpec().name]]
    pruners = [algorithms.parse_pruner(text) for text in pruner or [PrunerSpec().name]]
    pairs = list(itertools.product(samplers, pruners))
    for chosen, stopper in pairs:
        algorithms.check(recorded, chosen, stopper)

    source = Surrogate(recorded) if surrogate else None
    budget_s = arms.WHOLE_TRIALS * arms.trial_s(recorded)
    if hours is not None:
        budget_s = 3600 * hours
    described = arms.describe_table(recorded, source, budget_s)
    for line in described:
        say(line)

    tried = []
    for chosen, stopper in pairs:
        arm = arms.run_arm(
            recorded,
            lambda: source or Rows(recorded),
            chosen,
            stopper,
            repeats=repeats,
            budget_s=budget_s,
            within_frac=within,
        )
        tried.append(arm)
        say(arms.describe(arm))

    if as_json:
        from autotune.cli.answers.studies import Replayed

        answer(Replayed(says=described, arms=[arms.to_json(arm) for arm in tried]))


def _recorded_table(study: str, out: Path, storage: str) -> Table:
    """Return a table file's content, or the table of a study's trials that were trained to the end."""
    from autotune.replay import table

    if Path(study).suffix == ".json":
        return table.read(Path(study))
    return table.from_record(read_named(study, out, storage))
