"""What commands have in common: their options, and which study a name means."""

from __future__ import annotations

import math
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.engine.deadline import Deadline
    from autotune.store.study_record import StudyRecord
    from autotune.study.study_file import Study

RUNS = Path("runs")
STUDIES = Path(__file__).parents[2] / "studies"
"""The study files of the project, wherever it is installed."""
MOST_TOKENS = 2**63 - 1  # that a database can hold as a number


def known_device(device: str) -> str:
    """Return the name of a device ("auto", "cpu", "cuda" or "cuda:1"), or refuse one that means none."""
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        raise typer.BadParameter(f'there is no device "{device}": use auto, cpu, cuda, or cuda:1 for the second GPU')
    return device


def _known_card(emulate: str) -> str:
    if emulate not in ("", "t4"):
        raise typer.BadParameter(f'"{emulate}" cannot be emulated: the only card that can is "t4"')
    return emulate


def above_zero(number: float | None) -> float | None:
    """Refuse a number that is not above 0."""
    if number is not None and not 0 < number < math.inf:
        raise typer.BadParameter(f"{number} is not a number above 0")
    return number


def usable_folder(folder: Path | None) -> Path | None:
    """Refuse a folder of the command line that is a file, or would lie below one.

    Args:
        folder: The folder; None if it was not given.
    """
    if folder is None:
        return None

    for path in (folder, *folder.parents):
        if os.path.isfile(path):
            raise typer.BadParameter(f"{path} is a file; name a folder")
        if os.path.isdir(path):
            break
    return folder


def known_studies(begun: str) -> list[str]:
    """Return the names of studies in runs/, and the study files, that the shell may complete.

    Args:
        begun: What has been typed; a completion begins with it.
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
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help='Changes a setting of the study file, in TOML: space."optim.muon_lr".high=0.05',
    ),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", callback=known_device)]
EmulateOption = Annotated[
    str,
    typer.Option(
        help='"t4" uses a larger GPU as if it were a T4: 15 GiB, fp16, no flash attention.', callback=_known_card
    ),
]
CardOption = Annotated[
    str,
    typer.Option(help='A card that is not there, such as "T4" or "RTX 4090": reason from its published figures.'),
]
HoursOption = Annotated[float | None, typer.Option(help="Finish everything within this many hours.")]
UntilOption = Annotated[str | None, typer.Option(help='Finish everything by this time of day, such as "07:00".')]
TrialsOption = Annotated[int | None, typer.Option(help="Run at most this many trials.", min=1)]
OnFinishOption = Annotated[
    str,
    typer.Option(
        metavar="CMD", help="Shell command to run at the end; its environment has the result as AUTOTUNE_TEXT."
    ),
]
WebhookOption = Annotated[
    str, typer.Option(metavar="URL", help="Address to send the result to at the end, as JSON (Slack, Discord, ...).")
]
MirrorOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep snapshots of the study in this folder, of a mounted drive for example, and go on from them where it "
        "is not in the runs folder. What fails there costs nothing else.",
    ),
]
MirrorMinutesOption = Annotated[
    float, typer.Option(help="Minutes between two snapshots.", callback=above_zero, show_default=True)
]
SessionHoursOption = Annotated[
    float | None,
    typer.Option(
        help="The session ends within this many hours, as on hosted notebooks: park before. --hours then counts "
        "the hours of all sessions.",
        callback=above_zero,
    ),
]
WorkerOption = Annotated[
    bool,
    typer.Option(
        "--worker",
        help="Of a study that machines share: only train what another process queues; never plan, conclude or promote.",
    ),
]
SeedOption = Annotated[int | None, typer.Option(help="Seed of the search trials.")]
RunsOption = Annotated[
    Path, typer.Option("--out", help="Folder that holds one run directory for each study.", callback=usable_folder)
]
StorageOption = Annotated[
    str,
    typer.Option(
        "--storage",
        metavar="URL",
        help="The shared database of the study, if it has one; by default that of the study file, or OPTUNA_STORAGE.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for other programs.")]


def load_study(
    name: str, out: Path, changes: list[str] | None, trials: int | None = None, seed: int | None = None
) -> Study:
    """Find and load a study file, with the changes that the command line makes.

    Args:
        name: A path, the name of a study that was run, or of a file in studies/.
        out: Folder of the run directories.
        changes: `--set` assignments.
        trials: `--trials`, or None.
        seed: `--seed`, or None.
    """
    from autotune.study.study_file import load

    all_changes = list(changes or [])
    if trials is not None:
        all_changes.append(f"budget.trials={trials}")
    if seed is not None:
        all_changes.append(f"seed={seed}")

    if not name.strip():
        raise UserError("the name of the study is empty; name a study file, or a study that was run")

    begun = begun_folder(name, out)
    kept = (begun or out / name) / "study.toml"
    candidates = [Path(name), kept, Path("studies") / f"{name}.toml", STUDIES / f"{name}.toml"]
    # os.path.isfile also answers for a name that is too long to be one.
    path = next((candidate for candidate in candidates if os.path.isfile(candidate)), Path(name))
    if begun is not None and not os.path.isfile(path):
        raise UserError(f"{kept} is missing: copy the study's file there, with the settings that it was begun with")
    return load(path, all_changes)


def begun_folder(name: str, out: Path) -> Path | None:
    """Return the run directory of a begun study that a name means: the folder is the study, whatever its file says.

    Args:
        name: The folder's name, its path, or that of the study file that is kept in it.
        out: Folder of the run directories.

    Returns:
        None where the name means a study file, or nothing.
    """
    # os.path.isfile also answers for a name that is too long to be one.
    path = Path(name)
    if os.path.isfile(path):
        is_kept = path.name == "study.toml" and os.path.isfile(path.parent / "spec.json")
        return _named(path.parent) if is_kept else None

    for folder in (path, out / name):
        if any(os.path.isfile(folder / kept) for kept in ("spec.json", "study.toml")):
            return _named(folder)
    return None


def _named(folder: Path) -> Path:
    """Return a folder by a path that ends in its name, which "." and ".." do not."""
    return folder if folder.name not in ("", "..") else folder.resolve()


def folder_to_run(name: str, out: Path, study: Study, changes: list[str] | None = None) -> Path:
    """Return the run directory that a study is run in: its own if it was begun, else a new one of its name.

    Args:
        name: What the command line says.
        out: Folder of the run directories.
        study: The study, as `load_study` loaded it.
        changes: `--set` assignments; one of another name begins another study.
    """
    from autotune.study.errors import parse

    is_renamed = any("name" in parse(change, f"--set {change}") for change in changes or [])
    begun = begun_folder(name, out)
    if begun is None or is_renamed:
        return out / study.spec.name
    return begun


def default_study() -> str:
    """Return the study for this machine: a night's work on a GPU, a few minutes' on a CPU."""
    from autotune.machine.nvml import visible_devices

    if visible_devices():
        seen = "GPU"
        name = "overnight"
    else:
        seen = "no GPU"
        name = "quickstart"

    say(f"{seen} found: running studies/{name}.toml")
    here = Path("studies") / f"{name}.toml"
    return str(here if here.is_file() else STUDIES / here.name)


def run_directory(name: str, out: Path) -> Path:
    """Return the run directory of a study, whether it exists or not.

    Args:
        name: The name of its folder, the folder's path, or its file.
        out: Folder of the run directories.
    """
    begun = begun_folder(name, out)
    if begun is not None:
        return begun

    path = Path(name)
    if not name.strip():
        raise UserError("the name of the study is empty; name a study that was run")
    if path.suffix == ".toml" and os.path.isfile(path):
        return out / _name_in(path, out)
    return out / name


def _name_in(path: Path, out: Path) -> str:
    """Return the name of a study from its file; of one that machines share without its trainer, which may be absent."""
    from autotune.study.errors import parse

    content = parse(path.read_text(encoding="utf-8-sig"), str(path))
    name = content.get("name")
    if content.get("storage") and isinstance(name, str) and name == Path(name).name:
        return name
    return str(load_study(str(path), out, None).spec.name)


def named_storage(study: str, out: Path, storage: str) -> str:
    """Return the shared database that a command line names for a study, "" if none.

    A study file that is kept in a run directory is that folder's word, and not the user's.

    Args:
        study: What the command line says: a name, a folder or a study file.
        out: Folder of the run directories.
        storage: `--storage`, or "".
    """
    from autotune.study.errors import parse

    path = Path(study)
    if storage or path.suffix != ".toml" or not os.path.isfile(path) or begun_folder(study, out) is not None:
        return storage
    return str(parse(path.read_text(encoding="utf-8-sig"), study).get("storage", ""))


def is_shared(study: str, out: Path, storage: str) -> bool:
    """Return whether a command line means a study that machines share.

    Args:
        study: What it says: a name, a folder or a study file.
        out: Folder of the run directories.
        storage: `--storage`, or "".
    """
    from autotune.store.run_directory import RunDirectory
    from autotune.store.stored_spec import read_spec

    run = RunDirectory(run_directory(study, out))
    if os.path.isfile(run.spec):
        return bool(read_spec(run).storage)
    return bool(named_storage(study, out, storage))


def read_named(study: str, out: Path, storage: str) -> StudyRecord:
    """Read the study that a command line names, from the database that it names if the study has a shared one."""
    from autotune.store.study_record import read_study

    root = run_directory(study, out)
    _require_prepared(root)
    record = read_study(root, named_storage(study, out, storage))
    if not os.path.isfile(study) or begun_folder(study, out) is not None:
        return record
    return replace(record, run=replace(record.run, named=study))


def _require_prepared(root: Path) -> None:
    """Refuse a study of which nothing is stored yet, since its data is being made ready.

    Raises:
        UserError: It says how far that is.
    """
    from autotune.cli import status

    state = status.in_preparation(root)
    if state is not None:
        how_far = f" ({state['last_event']})" if state["last_event"] else ""
        raise UserError(
            f"{root.name} is still being prepared by PID {state['running_pid']}{how_far}: try again when its first "
            "trial has begun"
        )


def read_with_shared_files(study: str, out: Path, storage: str) -> StudyRecord:
    """Read the study that a command line names, with those files of other machines that are in reach.

    Args:
        study: What the command line says. A folder's word reaches no shared place: only a study file of the user's
            does.
        out: Folder of the run directories.
        storage: `--storage`, or "".
    """
    from autotune.core.disk_faults import explain_os_error
    from autotune.store.shared_files import SharedFiles

    record = read_named(study, out, storage)
    if not record.spec.artifacts or not named_storage(study, out, ""):
        return record

    try:
        SharedFiles(record.run, record.spec.artifacts, record.spec.name, record.created_at).fetch_records()
    except OSError as error:
        say(f"the shared place cannot be read, and the page has only what is here: {explain_os_error(error)}")
    return read_named(study, out, storage)


def require_begun(root: Path) -> None:
    """Refuse a run directory in which no study was begun.

    Args:
        root: The run directory.

    Raises:
        UserError: If there is no study in it; it names those that there are.
    """
    from autotune.store.run_directory import RunDirectory
    from autotune.store.study_record import read_study

    _require_prepared(root)
    if not os.path.isfile(RunDirectory(root).spec):
        read_study(root)  # it raises, and names the studies that there are


def deadline_of(study: Study | None, hours: float | None, until: str | None) -> Deadline:
    """Return the deadline: the command line's, or else the study file's if there is one."""
    from pydantic import ValidationError

    from autotune.engine.deadline import Deadline
    from autotune.study.errors import explain_validation_error
    from autotune.study.spec import BudgetSpec

    is_asked = hours is not None or until is not None
    if not is_asked and study is not None:
        hours = study.spec.budget.hours
        until = study.spec.budget.until

    try:
        BudgetSpec(tokens=1, hours=hours, until=until)
    except ValidationError as error:
        lines = [f"--{detail['loc'][0]}: {explain_validation_error(detail, ())}" for detail in error.errors()]
        raise UserError("\n".join(lines)) from None

    return Deadline(hours, until, is_asked)
