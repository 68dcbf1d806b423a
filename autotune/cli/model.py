"""The commands that use a trained model: generate evaluate. What they do is the trainer's own; see `trainer`."""

from __future__ import annotations

import math
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.options import RUNS, JsonOption, RunsOption
from autotune.cli.output import answer
from autotune.core.errors import UserError
from autotune.core.text import say

if TYPE_CHECKING:
    from autotune.store.run_directory import RunDirectory
    from autotune.study.trainer import Trainer

app = typer.Typer()

_DEFAULT_TRAINER = "model.train:train"
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A study's name (its latest full run), the folder of a run, its export, or a checkpoint."
    ),
]
TrainerOption = Annotated[
    str, typer.Option(help='Who trained it, "package.module:function", code you trust; else this project\'s.')
]


@app.command()
def generate(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue; read from a pipe if there is one. None begins a document.")
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens at most.", min=1)] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token each time.", min=0)] = 0.8,
    top_k: Annotated[int, typer.Option(help="Choose among so many likeliest tokens; 0 for all.", min=0)] = 50,
    seed: Annotated[int, typer.Option(help="Another seed, another text.", min=0, max=2**63 - 1)] = 0,
    trainer: TrainerOption = "",
    out: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Writes text with a trained model, as it comes."""
    if not math.isfinite(temperature):
        raise UserError(
            f"--temperature {temperature}: give a number such as 0.8; 0 takes the likeliest token each time"
        )
    path, who = find_model(model, out, trainer)
    if who.writer is None:
        raise UserError(f'trainer = "{who.name}" writes no text: put a function generate_text beside it')

    if prompt is None:
        prompt = "" if sys.stdin.isatty() else sys.stdin.read().removesuffix("\n")
    unsaid = prompt  # until the first piece comes: loading the model may still fail
    pieces: list[str] = []

    def write(piece: str) -> None:
        nonlocal unsaid
        pieces.append(piece)
        say(unsaid + piece, end="")
        unsaid = ""

    try:
        with faults_in_words(path, trainer):
            who.writer(path, prompt, write, num_tokens=tokens, temperature=temperature, top_k=top_k, seed=seed)
    except KeyboardInterrupt:
        say("")
        if as_json:
            raise UserError("stopped while the text was written", 130) from None
        raise typer.Exit(130) from None
    say(unsaid)
    if as_json:
        from autotune.cli.answers.models import Generated

        answer(Generated(model=str(path), prompt=prompt, text="".join(pieces)))


@app.command()
def evaluate(
    model: ModelArgument,
    data: Annotated[
        str, typer.Option(help="A file, folder or glob of text, jsonl, parquet or token ids; else the held-out text.")
    ] = "",
    tokens: Annotated[int, typer.Option(help="Tokens to predict at most; 0 for all of them.", min=0)] = 0,
    trainer: TrainerOption = "",
    out: RunsOption = RUNS,
    as_json: JsonOption = False,
) -> None:
    """Measures a trained model on your text, or the held-out one."""
    path, who = find_model(model, out, trainer)
    if who.evaluator is None:
        raise UserError(f'trainer = "{who.name}" measures no model: put a function evaluate_weights beside it')

    with faults_in_words(path, trainer):
        measured = dict(who.evaluator(path, data, num_tokens=tokens))

    if as_json:
        from autotune.cli.answers.models import Evaluated

        answer(Evaluated(**measured))
        return

    width = max(map(len, measured), default=0)
    for name, value in measured.items():
        words = _in_words(value)
        if name == "accuracy" and isinstance(value, float):
            words = f"{100 * value:.1f} %"
        say(f"{name.replace('_', ' '):{width}}  {words}")


def _in_words(value: Any) -> str:
    """Return a value for a person: whole numbers with separators, others with four decimals."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return str(value)


@contextmanager
def faults_in_words(path: Path, trainer: str) -> Iterator[None]:
    """Turn what a trainer's function raises for its user into a `UserError`.

    Args:
        path: The model that it was given.
        trainer: The trainer that the user named, or "".
    """
    try:
        yield
    except FileNotFoundError as error:
        hint = "`autotune promote STUDY` or `autotune train CONFIG.toml` trains one"
        other = "" if trainer else _other_trainer(path)
        if other:
            hint = f"the study names another trainer, which is code: if you trust it, add --trainer {other}"
        raise UserError(f"{error}; {hint}") from None
    except (ValueError, OSError) as error:
        raise UserError(str(error)) from None


def find_model(name: str, out: Path, trainer: str) -> tuple[Path, Trainer]:
    """Return what a name means, and whose code may use it.

    A folder is never believed who trained it: importing what its spec.json names would run code that came with it.

    Args:
        name: A path, or the name of a study.
        out: Folder of the run directories.
        trainer: "package.module:function" as the user names it, or "" for the project's own.

    Raises:
        UserError: If there is nothing of that name, or the study has no full run.
    """
    from autotune.store.run_directory import RunDirectory
    from autotune.study.trainer import load_trainer

    path = Path(name) if os.path.lexists(name) else out / name
    if not os.path.exists(path):
        raise UserError(
            f"{name}: no such folder, checkpoint or study in {out}; `autotune promote STUDY` trains a model"
        )

    try:
        if RunDirectory(path).spec.is_file():
            path = _latest_full_run(RunDirectory(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; see whether you may", 3) from None

    return path, load_trainer(trainer or _DEFAULT_TRAINER, from_here=bool(trainer))


def _other_trainer(path: Path) -> str:
    """Return the trainer that the study around a model names, if it is not the project's own; else "".

    Args:
        path: Something in the run directory of a study, or elsewhere.
    """
    from autotune.core.files import read_json
    from autotune.store.run_directory import RunDirectory

    specs = [RunDirectory(folder).spec for folder in (path, *path.absolute().parents)]
    spec = next((file for file in specs if file.is_file()), None)
    stored = read_json(spec) if spec else None
    named = stored.get("trainer") if isinstance(stored, dict) else None

    is_a_name = isinstance(named, str) and re.fullmatch(r"[\w.]{1,200}:\w{1,200}", named)
    return str(named) if is_a_name and named != _DEFAULT_TRAINER else ""


def _latest_full_run(run: RunDirectory) -> Path:
    """Return the folder of a study's full run that was changed last.

    Raises:
        UserError: If there is none yet.
    """
    # Folders with a number are the engine's own: the record of the training, without its weights.
    folders = [folder for folder in run.full.glob("*") if folder.is_dir() and not folder.name.isdigit()]
    if not folders:
        raise UserError(f"{run.root.name} has no full run yet; `{run.command('promote')}` trains one")

    def changed_at(folder: Path) -> int:
        return max(file.lstat().st_mtime_ns for file in (folder, *folder.glob("*")))

    return max(folders, key=changed_at)
