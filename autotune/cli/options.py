"""What commands have in common: their options, and which study a name means."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.study.study_file import Study

RUNS = Path("runs")
MOST_TOKENS = 2**63 - 1
"""Most tokens that a database can hold as a number."""


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


def _known_device(device: str) -> str:
    """Return the device that is asked for, which may not be there.

    Raises:
        UserError: If there is no such kind of device.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
        raise UserError(f"--device {device}: there is no such kind; give auto, cpu, cuda or cuda:1")
    return device


DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:1.", callback=_known_device)]
EmulateOption = Annotated[
    str, typer.Option(help='"t4" uses a larger GPU as if it were a T4: 15 GiB, fp16, no flash attention.')
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
SeedOption = Annotated[int | None, typer.Option(help="Seed of the search trials.")]
RunsOption = Annotated[Path, typer.Option("--out", help="Folder that holds one run directory for each study.")]
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

    candidates = [Path(name), out / name / "study.toml", Path("studies") / f"{name}.toml"]
    path = next((candidate for candidate in candidates if candidate.is_file()), Path(name))
    return load(path, all_changes)


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
    return str(Path("studies") / f"{name}.toml")


def run_directory(name: str, out: Path) -> Path:
    """Return the run directory of a study, whether it exists or not.

    Args:
        name: The study's name, its run directory or its file.
        out: Folder of the run directories.
    """
    path = Path(name)
    if path.suffix == ".toml" and path.is_file():
        study = load_study(name, out, None)
        return out / str(study.spec.name)
    if (path / "spec.json").is_file():
        return path
    return out / name


def require_begun(root: Path) -> None:
    """Refuse a run directory in which no study was begun.

    Args:
        root: The run directory.

    Raises:
        UserError: If there is no study in it; it names those that there are.
    """
    from autotune.store.run_directory import RunDirectory
    from autotune.store.study_store import read_study

    if not RunDirectory(root).spec.is_file():
        read_study(root)  # it raises, and names the studies that there are


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
