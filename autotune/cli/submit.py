"""`autotune submit`: a study's processes on a cluster, by the scheduler that is there."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from autotune import launchers
from autotune.cli.options import RUNS, JsonOption, RunsOption, StudyArgument, load_study
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.text import say

_SCRIPT = Path(launchers.__file__).parent / "slurm.sh"
_NO_UPLOAD = ["/runs/", "/.venv/", "/.git/"]
"""What Ray leaves out when it copies the present folder to its nodes."""

_STOP_S = "30"
"""Seconds after `ray job stop` until Ray kills what has not parked; by itself it waits for three."""


@dataclass(frozen=True)
class Submission:
    """What starts a study's processes.

    Args:
        command: The scheduler's command.
        script: What it reads from its standard input; "" for nothing.
    """

    command: Sequence[str]
    script: str = ""

    @property
    def text(self) -> str:
        """It as a person would type or keep it."""
        return self.script or f"{shlex.join(self.command)}\n"

    def submit(self) -> str:
        """Submit it.

        Returns:
            What the scheduler answered.

        Raises:
            UserError: With exit code 3 if its command is missing or refuses.
        """
        name = self.command[0]
        if shutil.which(name) is None:
            raise UserError(
                f"there is no command {name} here: submit on a machine of the cluster where it is, or add --print and "
                "carry the text there",
                3,
            )

        ended = subprocess.run(self.command, input=self.script, capture_output=True, text=True)
        said = (ended.stdout + ended.stderr).strip()
        if ended.returncode:
            raise UserError(f"{name} refused it with exit code {ended.returncode}: {said}", 3)
        return said


def submit(
    study: StudyArgument,
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- OPTION...]", help="Options of `autotune run`, after two dashes: -- --hours 8"),
    ] = None,
    slurm: Annotated[bool, typer.Option("--slurm", help="As an array of Slurm jobs.")] = False,
    ray: Annotated[bool, typer.Option("--ray", help="As a Ray job with a task for each process.")] = False,
    workers: Annotated[int, typer.Option(help="Processes of the study at once.", min=1, max=100_000)] = 1,
    gpus: Annotated[int, typer.Option(help="GPUs of each; 0 trains on CPUs.", min=0, max=64)] = 1,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="OPTION", help='Option of sbatch or ray job submit, such as "--time=04:00:00".'),
    ] = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Show what would be submitted, and submit nothing.")
    ] = False,
    out: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Starts a study's processes on a cluster, which share its PostgreSQL.

    Processes that the scheduler ends park, and go on at their next turn.
    """
    if slurm == ray:
        raise UserError("name one scheduler: --slurm or --ray")
    name = _shared_name(study, out)
    arguments = _arguments(study, out, more or [])

    if slurm:
        submission = Submission(["sbatch"], _slurm_script(name, workers, gpus, option or [], arguments))
    else:
        submission = Submission(_ray_command(workers, gpus, option or [], arguments))

    said = None
    if only_print:
        if not as_json:
            typer.echo(submission.text, nl=False)
    else:
        said = submission.submit()
        say(said)
    if as_json:
        from autotune.cli.answers.studies import Submitted

        answer(Submitted(study=name, workers=workers, text=submission.text, said=said))


def _shared_name(study: str, out: Path) -> str:
    """Return a study's name, and refuse one whose processes could not meet."""
    spec = load_study(study, out, None).spec
    if not spec.storage:
        raise UserError(
            f"{spec.name} keeps its records in a file of one machine: for several processes add "
            'storage = "postgresql://user@host/database" to the study file'
        )
    return spec.name


def _arguments(study: str, out: Path, more: Sequence[str]) -> list[str]:
    """Return what follows `autotune run`, once for all processes; what it would refuse is refused here.

    Raises:
        typer.BadParameter: For options that `autotune run` does not know.
    """
    from typer.main import get_command

    from autotune.cli.main import app

    arguments = [study, *([] if out == RUNS else ["--out", str(out)]), *more]
    commands = get_command(app)
    run = commands.get_command(typer.Context(commands), "run")  # type: ignore[attr-defined]
    run.make_context("autotune run", list(arguments))
    return arguments


def _slurm_script(name: str, workers: int, gpus: int, options: Sequence[str], arguments: Sequence[str]) -> str:
    lines = [*([f"--gpus={gpus}"] if gpus else []), *options]
    fields = {
        "NAME": name,
        "LAST": str(workers - 1),
        "OPTIONS": "".join(f"#SBATCH {line}\n" for line in lines),
        "COMMAND": shlex.join([sys.executable, "-m", "autotune", "run", *arguments]),
    }

    text = _SCRIPT.read_text(encoding="utf-8")
    for field, value in fields.items():
        text = text.replace(f"@{field}@", value)
    return text


def _ray_command(workers: int, gpus: int, options: Sequence[str], arguments: Sequence[str]) -> list[str]:
    from json import dumps

    environment = {"working_dir": ".", "excludes": _NO_UPLOAD, "env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": _STOP_S}}
    submitting = ["ray", "job", "submit", "--no-wait", "--runtime-env-json", dumps(environment), *options]
    return [*submitting, "--", "python", "-m", "autotune.launchers.ray_job", str(workers), str(gpus), *arguments]
