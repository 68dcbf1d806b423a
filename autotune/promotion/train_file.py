"""One configuration file, trained in this process; running it again goes on from the last checkpoint."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import signal
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.disk_faults import is_full
from autotune.core.errors import UserError, exit_code_of
from autotune.core.files import nearest_existing
from autotune.core.metric import Metric
from autotune.core.text import seldom
from autotune.engine.deadline import StopRequest
from autotune.promotion.best_config import card_lines
from autotune.store.faults import explained
from autotune.study import command_trainer
from autotune.study.preparation import prepare
from autotune.study.stored_function import make_importable
from autotune.study.trainer import Trainer, load_trainer

_MOST_TOKENS = 2**63 - 1
"""Longest training: what a file can hold as a number."""


@dataclass(frozen=True)
class Outcome:
    """What became of the training of one configuration file.

    Args:
        exit_code: 0 done, 130 stopped by Ctrl-C.
        folder: Where checkpoints and weights are.
        tokens: Length that was asked for.
        seen_tokens: Where the last evaluation was; 0 before the first.
        loss: Held-out loss there; None before the first.
        next: The command that goes on; None if it is done.
        speaks: Whether this process is the one, of those that train together, which speaks.
    """

    exit_code: int
    folder: str
    tokens: int
    seen_tokens: int
    loss: float | None
    next: str | None
    speaks: bool

    def to_json(self) -> dict[str, Any]:
        """Return what is told of it."""
        return {name: value for name, value in asdict(self).items() if name != "speaks"}


def train_file(path: Path, tokens: int | None, folder: Path | None, say: Callable[[str], None]) -> Outcome:
    """Train one configuration file in this process; running it again goes on from the last checkpoint.

    Args:
        path: A `best_config.toml`.
        tokens: Length of the training instead of the file's own, or None.
        folder: Where checkpoints and weights go; beside the file if None.
        say: Takes a line for a person.

    Returns:
        What became of it.

    Raises:
        UserError: If the file cannot be read, the trainer refuses it, or the training diverges (exit code 1).
    """
    # torchrun runs this once for each GPU; only the first process speaks.
    speaks = os.environ.get("RANK", "0") == "0"
    if not speaks:
        say = _nothing

    go_on = _command(path, tokens, folder)
    training = _prepared(path, tokens, folder, say)
    stop = StopRequest()
    points: list[Mapping[str, float]] = []
    with _ctrl_c_raising(stop, say):
        try:
            _train(training, stop, say, points.append)
            say(f"stopped; go on with: {go_on}" if stop.level else f"done: {training.folder}")
        except KeyboardInterrupt:
            stop.raise_level()
            say(f"stopped at once; what came after the last checkpoint is trained again by: {go_on}")

    last = points[-1] if points else {}
    return Outcome(
        exit_code=130 if stop.level else 0,
        folder=str(training.folder),
        tokens=training.tokens,
        seen_tokens=int(last.get("tokens_seen", 0)),
        loss=training.metric.value(last["val_loss"]) if last else None,
        next=go_on if stop.level else None,
        speaks=speaks,
    )


def _nothing(line: str) -> None:
    """Take a line and say nothing."""


def _command(path: Path, tokens: int | None, folder: Path | None) -> str:
    """Return the command that trains the same again."""
    length = [] if tokens is None else ["--tokens", str(tokens)]
    where = [] if folder is None else ["--folder", str(folder)]
    return shlex.join(["autotune", "train", str(path), *length, *where])


@contextlib.contextmanager
def _ctrl_c_raising(stop: StopRequest, say: Callable[[str], None]) -> Iterator[None]:
    """Let Ctrl-C ask for the end after the next evaluation, and a second one for the end at once."""

    def on_signal(*_: object) -> None:
        stop.raise_level()
        if stop.level > 1:
            raise KeyboardInterrupt
        with contextlib.suppress(RuntimeError):  # a signal in the midst of printing cannot print as well
            say("stopping after the next evaluation; Ctrl-C again stops at once")

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@dataclass(frozen=True)
class _Training:
    """What one configuration file asks for.

    Args:
        path: The file.
        trainer: What trains it.
        config: The settings, with the folder in them.
        tokens: For how long.
        folder: Where checkpoints and weights go.
    """

    path: Path
    trainer: Trainer
    config: Mapping[str, Any]
    tokens: int
    folder: Path

    @property
    def metric(self) -> Metric:
        """What its trainer reports, or the program that it runs."""
        program = self.config.get(command_trainer.SECTION)
        if self.trainer.name == command_trainer.NAME and isinstance(program, Mapping):
            return Metric(**program["metric"])
        return self.trainer.metric


def _prepared(path: Path, tokens: int | None, folder: Path | None, say: Callable[[str], None]) -> _Training:
    """Read the file and make its data ready; Ctrl-C ends this at once, since what is ready of them is kept."""
    trainer, config, length, provenance = _read_config(path, tokens)
    folder = folder or path.parent / "full" / f"{path.stem}-{length}-tokens"
    _require_folder(folder)

    lines = [*card_lines(provenance), f"trained from: {path.name}, which may have been edited since it was written"]
    output = trainer.by_path({"output_dir": str(folder), "provenance": lines})
    config = with_paths(config, drop_unknown_paths(config, output))

    prepare(trainer, [config], length, say, seldom(say), lambda setting: f"{path}: config.{setting}")
    return _Training(path, trainer, config, length, folder)


def _train(
    training: _Training, stop: StopRequest, say: Callable[[str], None], keep: Callable[[Mapping[str, float]], None]
) -> None:
    """Train until the end, or until somebody asks to stop; `keep` takes each evaluation."""
    heard = seldom(say)

    def preparing(words: str) -> None:
        heard(words)
        if stop.level:
            raise KeyboardInterrupt

    def report(point: Mapping[str, float]) -> bool:
        loss, metric = point["val_loss"], training.metric
        keep(point)
        say(f"{point['tokens_seen'] / training.tokens:5.0%}  {metric.words(loss)}")
        if not math.isfinite(loss):
            # Raised here, so that nothing of it is kept: the checkpoints before it stay.
            raise FloatingPointError(
                f"the training has diverged: its {metric.name} is {metric.value(loss)} after "
                f"{metric.budget(point['tokens_seen'])}. Nothing is exported; lower its learning rates and train again"
            )
        return stop.level == 0

    report.preparing = preparing  # type: ignore[attr-defined]
    with _faults_told(training.path, training.folder):
        # As for a full run: a trainer need not make the folder that it is given.
        training.folder.mkdir(parents=True, exist_ok=True)
        training.trainer.run(training.config, training.tokens, report)


@contextlib.contextmanager
def _faults_told(path: Path, folder: Path) -> Iterator[None]:
    """Turn what a training raises for its user into a `UserError`.

    Args:
        path: The configuration file.
        folder: Where checkpoints and weights go.
    """
    try:
        yield
    except FloatingPointError as error:
        raise UserError(f"{path}: {error}", 1) from None
    except ValueError as error:
        raise UserError(f"{path}: {error}", exit_code_of(error, 2)) from error
    except Exception as error:
        # Safetensors tells of a full disk in an error of its own.
        if is_full(error):
            raise UserError(f"{explained(error, folder)}, which goes on from the last checkpoint", 3) from error
        if not isinstance(error, OSError):
            raise
        raise UserError(
            f"{folder}: {error.strerror or error}; run again to go on from the last checkpoint", 3
        ) from error


def _require_folder(folder: Path) -> None:
    """Refuse a file where a folder is needed, before anything is trained."""
    nearest = nearest_existing(folder)
    if not nearest.is_dir():
        raise UserError(f"--folder {folder}: {nearest} is a file; name a folder, there or not")


def _parse(path: Path) -> dict[str, Any]:
    """Return the content of a TOML file; OSError passes.

    Raises:
        UserError: If it is none.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of TOML, of UTF-8, and of numbers and tables without an end
        raise UserError(f"{path}: cannot be read as TOML: {error}") from None


def _read_config(path: Path, tokens: int | None) -> tuple[Trainer, dict[str, Any], int, Mapping[str, Any]]:
    try:
        content = _parse(path)
        make_importable(path.parent, str(content["trainer"]))
        trainer = load_trainer(str(content["trainer"]))
        length = content["tokens"] if tokens is None else tokens
        if not isinstance(length, int) or isinstance(length, bool) or not 1 <= length <= _MOST_TOKENS:
            raise UserError(f"{path}: tokens is {length!r}; write how many tokens to train on, such as 1_000_000")

        # A person may have left it out, or written something else there.
        provenance = content.get("provenance")
        if not isinstance(provenance, Mapping):
            provenance = {}

        return trainer, trainer.complete(content["config"]), length, provenance
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `autotune run` writes a best_config.toml") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]} is missing; a best_config.toml has trainer, tokens and config"
        ) from None
    except ValidationError as error:
        lines = [f"{path}: config.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError("\n".join(lines)) from None
