"""What commands have in common: options by name, and how a name leads to its study."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.study.study_file import Study

RUNS = Path("runs")


def _known_device(device: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,4})?", device):
        raise typer.BadParameter(f'there is no device "{device}": use auto, cpu, cuda, or cuda:1 for the second GPU')
    return device


def _known_card(emulate: str) -> str:
    if emulate not in ("", "t4"):
        raise typer.BadParameter(f'"{emulate}" cannot be emulated: the only card that can is "t4"')
    return emulate


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
    """Return names of studies in runs/, and study files, that begin so: what the shell completes.

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
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", callback=_known_device)]
EmulateOption = Annotated[
    str, typer.Option(help='"t4" treats a larger GPU as a T4: 15 GiB, fp16, no flash attention.', callback=_known_card)
]
HoursOption = Annotated[float | None, typer.Option(help="Hours in which everything must be done.")]
UntilOption = Annotated[str | None, typer.Option(help='Time of day at which everything must be done, "07:00".')]
TrialsOption = Annotated[int | None, typer.Option(help="Trials at most.", min=1)]
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
RunsOption = Annotated[Path, typer.Option("--out", help="Folder of the run directories.", callback=usable_folder)]
JsonOption = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


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
    candidates = [Path(name), out / name / "study.toml", Path("studies") / f"{name}.toml"]
    # os.path.isfile also answers for a name that is too long to be one.
    path = next((candidate for candidate in candidates if os.path.isfile(candidate)), Path(name))
    return load(path, all_changes)


def default_study() -> str:
    """Return the study for this machine: a night's work on a GPU, a few minutes' on a CPU."""
    from autotune.machine.nvml import visible_devices

    if visible_devices():
        seen = "a GPU"
        name = "overnight"
    else:
        seen = "no GPU"
        name = "quickstart"

    say(f"{seen} found: running studies/{name}.toml")
    return str(Path("studies") / f"{name}.toml")


def run_directory(name: str, out: Path) -> Path:
    """Return the run directory, there or not, of a study named by its name, its directory or its file."""
    path = Path(name)
    if not name.strip():
        raise UserError("the name of the study is empty; name a study that was run")
    if path.suffix == ".toml" and os.path.isfile(path):
        study = load_study(name, out, None)
        return out / str(study.spec.name)
    if os.path.isfile(path / "spec.json"):
        return path
    return out / name


def require_begun(root: Path) -> None:
    """End with the names of the studies that there are, if there is none in a run directory.

    Args:
        root: The run directory.

    Raises:
        UserError: If there is none.
    """
    from autotune.store.run_directory import RunDirectory
    from autotune.store.study_store import read_study

    if not RunDirectory(root).spec.is_file():
        read_study(root)  # it raises, and tells the studies that there are


def deadline_of(study: Study | None, hours: float | None, until: str | None) -> Any:
    """Return the deadline: the command line's, or else the study file's if there is one."""
    from pydantic import ValidationError

    from autotune.engine.deadline import Deadline
    from autotune.study.errors import explain_validation_error
    from autotune.study.spec import BudgetSpec

    if hours is None and until is None and study is not None:
        hours = study.spec.budget.hours
        until = study.spec.budget.until

    try:
        BudgetSpec(tokens=1, hours=hours, until=until)
    except ValidationError as error:
        lines = [f"--{detail['loc'][0]}: {explain_validation_error(detail, ())}" for detail in error.errors()]
        raise UserError("\n".join(lines)) from None

    return Deadline(hours, until)
