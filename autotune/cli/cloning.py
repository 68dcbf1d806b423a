"""`autotune clone`: a study like another but for some changes, which takes its trials along where they count."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import (
    RUNS,
    HoursOption,
    JsonOption,
    RunsOption,
    SetOption,
    StorageOption,
    StudyArgument,
    TrialsOption,
    UntilOption,
    read_named,
)
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.files import write_text
from autotune.core.secrets import to_be_stored
from autotune.core.text import say
from autotune.store.run_directory import RunDirectory

if TYPE_CHECKING:
    from autotune.night.taking_along import Account
    from autotune.store.study_record import StudyRecord
    from autotune.study.study_file import Study

_LITTLE_LEFT = 4
"""Fewer further trials than these are hardly a search."""


def clone(
    study: StudyArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the new study.")],
    change: SetOption = None,
    hours: HoursOption = None,
    until: UntilOption = None,
    trials: TrialsOption = None,
    out: RunsOption = RUNS,
    storage: StorageOption = "",
    run: Annotated[bool, typer.Option("--run", help="Run it at once.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Makes a study like another, and takes its trials along.

    It writes the new study's file, which may be edited, and says which trials still mean the same and are taken along,
    and why others are not.
    Its winner is proved on seeds that the other study has not seen.
    """
    record = read_named(study, out, storage)
    made = make_clone(record, name, out, limits_as_changes(change, hours, until, trials))
    for line in made.lines():
        say(line)

    if run:
        from autotune.cli.main import run as run_study

        run_study(name, out=out, as_json=as_json)
    if as_json:
        from autotune.cli.answers.studies import Cloned

        answer(Cloned(**made.to_json()))


def limits_as_changes(
    changes: Sequence[str] | None, hours: float | None, until: str | None, trials: int | None
) -> list[str]:
    """Return changes of a study file with those that options of their own make.

    Args:
        changes: `--set` assignments.
        hours: `--hours`, or None.
        until: `--until`, or None.
        trials: `--trials`, or None.
    """
    limits = {"hours": hours, "until": None if until is None else f'"{until}"', "trials": trials}
    return [*(changes or []), *(f"budget.{key}={value}" for key, value in limits.items() if value is not None)]


@dataclass(frozen=True)
class Clone:
    """A study that was made from another.

    Args:
        of: The other study.
        study: The new one.
        run: Its run directory, which holds its study file alone.
        account: Which trials of the other count in it.
    """

    of: StudyRecord
    study: Study
    run: RunDirectory
    account: Account

    def lines(self) -> list[str]:
        """Return what a person is told."""
        wanted = self.study.spec.most_trials
        left = max(0, wanted - self.account.record.taken)
        lines = [f"wrote {self.run.study_file}, a clone of {self.of.name}: edit it as you like", *self.account.lines()]
        counted = f"{left} more can be tried: budget.trials = {self.study.spec.budget.trials} counts those too"
        if left < _LITTLE_LEFT:
            counted += "; for a longer search, raise it (--trials)"
        return [*lines, counted, f"next: {self.run.command('run')}"]

    def to_json(self) -> dict[str, Any]:
        """Return what programs are told."""
        stored = self.account.record
        return {
            "study": self.run.name,
            "file": str(self.run.study_file),
            "of": self.of.name,
            "taken": stored.taken,
            "taken_s": stored.seconds,
            "left": dict(stored.left),
            "trials_wanted": self.study.spec.most_trials,
            "next": self.run.command("run"),
        }


def make_clone(record: StudyRecord, name: str, out: Path, changes: Sequence[str]) -> Clone:
    """Write the study file of a clone into its run directory.

    Args:
        record: The study that it is made from.
        name: Of the new study.
        out: Folder of the run directories.
        changes: `--set` assignments.

    Raises:
        UserError: If there is a study of that name, or a change is wrong.
    """
    import tomli_w

    from autotune.night.taking_along import account, seeds_to_skip
    from autotune.study.errors import parse
    from autotune.study.stored_function import carry_along, make_importable
    from autotune.study.study_file import load_text

    kept = record.run.study_file
    if not kept.is_file():
        raise UserError(f"{kept} is missing: copy the study's file there, with the settings that it was begun with")

    raw = parse(kept.read_text(encoding="utf-8-sig"), str(kept))
    raw |= {"name": name, "trials_from": [str(record.run.root)]}
    _widen(raw["space"], record)
    make_importable(record.run.root, record.spec.trainer)
    # The seed may be changed too, from which the fresh ones are counted.
    seed = load_text(tomli_w.dumps(raw), Path(name), changes).spec.seed
    raw["finals"] = {**raw.get("finals", {}), "skip_seeds": seeds_to_skip(seed, record)}
    study = load_text(tomli_w.dumps(raw), Path(name), changes)
    if study.spec.name != name:
        raise UserError(f"--set name: the clone is named {name!r} as the command says; leave the name out of --set")

    run = RunDirectory(out / name)
    if run.study_file.exists() or run.spec.exists():
        raise UserError(f"{run.root} is there already, and is left as it is; choose another name")
    write_text(run.study_file, to_be_stored(_header(record, name, changes) + study.text, study.spec.storage))
    carry_along(run.root, study.spec.trainer)
    return Clone(record, study, run, account(study, record))


def _widen(space: dict[str, Any], record: StudyRecord) -> None:
    """Let ranges that the study has widened be searched as widely from the beginning."""
    for path, ends in record.attributes.ranges.items():
        entry = space.get(path)
        if isinstance(entry, Mapping) and "low" in entry and len(ends) == 2:
            space[path] = {**entry, "low": ends[0], "high": ends[1]}


def _header(record: StudyRecord, name: str, changes: Sequence[str]) -> str:
    assigned = [word for change in changes for word in ("--set", " ".join(change.split()))]
    command = shlex.join(["autotune", "clone", record.name, name, *assigned])
    return (
        f"# A clone of {record.name}, made on {date.today().isoformat()} by: {command}\n"
        "# trials_from: trials of that study count here where all but the space is the same.\n"
        "# finals.skip_seeds: its finals have seen these seeds, so the winner here is proved on others.\n"
    )
