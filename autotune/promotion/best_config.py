"""From the verdict to a configuration a person may edit, and to the full run that trains it."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from autotune.core.config_paths import present, with_paths
from autotune.core.errors import UserError
from autotune.core.files import now_iso, write_text
from autotune.core.records import TrialRecord, TrialStatus, Verdict, VerdictWord
from autotune.core.study_results import Promotion
from autotune.engine.deadline import StopRequest
from autotune.store.study_store import StudyRecord
from autotune.study.spec import StudySpec
from autotune.study.trainer import Trainer, load_trainer

PACKAGES = ("torch", "optuna", "transformers", "datasets", "tokenizers", "numpy", "pandas", "plotly")


def provenance(spec: StudySpec, hardware: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Returns where a study's numbers come from.

    Args:
        spec: The study.
        hardware: Its hardware profile as JSON.
        facts: What the trainer said about a run, for the hash of the data.
    """
    return {
        "study": spec.name,
        "spec_hash": spec.fingerprint(),
        "git_commit": git_commit(),
        "data_hash": facts.get("data_hash", ""),
        "gpu": hardware.get("name", ""),
        "driver": hardware.get("driver_version", ""),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def git_commit() -> str:
    """Returns the commit of this checkout, with "+changes" when files differ from it; "" outside of git."""
    here = Path(__file__).parent
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
    return f"{commit}+changes" if changed else commit


def choice(record: StudyRecord, number: int | None = None) -> tuple[TrialRecord, str]:
    """Returns the trial to promote and why.

    Only a proven winner replaces the baseline, and of its changes those that made no difference go back to their
    default; what is not proven stays there.

    Args:
        record: The study.
        number: A search trial chosen by the user, or None.

    Raises:
        UserError: If there is no such trial, or nothing has finished.
    """
    if number is not None:
        trial = next((trial for trial in record.trials if trial.number == number), None)
        if trial is None:
            known = ", ".join(str(trial.number) for trial in record.trials)
            hint = f"it has {known}" if known else "none has begun yet"
            raise UserError(f"{record.spec.name} has no trial {number}; {hint}")
        if trial.status not in (TrialStatus.FINISHED, TrialStatus.PRUNED):
            raise UserError(f"trial {number} of {record.spec.name} is {trial.status}; choose one that trained soundly")
        return trial, "chosen by hand"
    verdict, baseline = record.verdict, record.baseline
    if verdict is None:
        again = record.run.command("run")
        raise UserError(f"{record.spec.name} has no verdict yet; finish it with `{again}`, or name a --trial", 4)
    winner = next((trial for trial in record.trials if trial.number == verdict.winner), None)
    if winner is not None and (verdict.word is VerdictWord.BETTER or baseline is None or baseline.loss is None):
        found = record.attributes.attribution
        if found is None or found.winner != winner.number:
            return winner, verdict.reason
        return replace(winner, params=found.params), f"{verdict.reason}; {found.note}"
    if baseline is None or baseline.loss is None:
        raise UserError(f"no trial of {record.spec.name} finished; its report says why: {record.run.report}", 4)
    return baseline, f"the default settings: {verdict.reason}"


def write_best_config(
    trainer: Trainer, record: StudyRecord, trial: TrialRecord, why: str, promotion: Promotion
) -> Path:
    """Writes `best_config.toml`, which `autotune train` reads and a person may edit.

    Args:
        trainer: The study's trainer.
        record: The study.
        trial: The trial whose settings it holds.
        why: Why this one.
        promotion: The length of the full run and what changes on the way to it.

    Returns:
        Its path.
    """
    changed = {change.path: change.after for change in promotion.changes}
    run = record.run
    seed = present(record.spec.base, trainer.by_path({"seed": record.spec.seed}))
    config = with_paths(record.spec.base, {**trial.params, **changed, **seed})
    content = {
        "trainer": record.spec.trainer,
        "tokens": promotion.tokens,
        "config": config,
        "provenance": {
            **record.attributes.provenance,
            "trial": trial.number,
            "why": why,
            "search_loss": trial.loss,
            "written_at": now_iso(),
            **_proof(record.verdict, trial),
        },
        "promotion": promotion.to_json(),
    }
    header = f"# Settings of trial {trial.number} of study {record.spec.name}: {_one_line(why)}\n"
    header += "".join(
        f"# {change.path}: {change.before:.4g} in the trial; {change.why}\n" for change in promotion.changes
    )
    header += f"# Train them with: autotune train {run.best_config}\n\n"
    write_text(run.best_config, header + tomli_w.dumps(_without_none(content)))
    return run.best_config


def card_lines(best_config: Path) -> list[str]:
    """Returns the provenance of a `best_config.toml` as lines for a model card; none if it has no provenance."""
    known = tomllib.loads(best_config.read_text(encoding="utf-8")).get("provenance")
    if not isinstance(known, Mapping):
        return []
    return [f"{name.replace('_', ' ')}: {_in_a_line(value)}" for name, value in known.items() if value != ""]


def _in_a_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else _one_line(str(value))


def _proof(verdict: Verdict | None, trial: TrialRecord) -> dict[str, Any]:
    if verdict is None or verdict.winner != trial.number:
        return {}
    names = ("word", "seeds", "baseline_loss", "winner_loss", "gain", "gain_low", "gain_high")
    return {name: getattr(verdict, name) for name in names}


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without_none(value: Any) -> Any:
    """Returns a copy without None, which TOML does not have."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return str(value) if isinstance(value, VerdictWord) else value


def train_file(path: Path, tokens: int | None, folder: Path | None, say: Callable[[str], None]) -> int:
    """Trains one configuration file in this process; running it again goes on from the last checkpoint.

    Args:
        path: A `best_config.toml`.
        tokens: Instead of the file's own length, or None.
        folder: Where checkpoints and weights go; beside the file if None.
        say: Takes a line for a person.

    Returns:
        The exit code: 0 done, 130 stopped by Ctrl-C.

    Raises:
        UserError: If the file cannot be read or the trainer refuses it.
    """
    trainer, config, length = _read_config(path, tokens)
    folder = folder or path.parent / "full" / f"{path.stem}-{length}-tokens"
    lines = [*card_lines(path), f"trained from: {path.name}, which may have been edited since it was written"]
    output = trainer.by_path({"output_dir": str(folder), "provenance": lines})
    config = with_paths(config, present(config, output))
    stop = StopRequest()
    before = signal.signal(signal.SIGINT, stop.raise_level)

    def report(point: Mapping[str, float]) -> bool:
        say(f"{point['tokens_seen'] / length:5.0%}  loss {point['val_loss']:.4f}")
        return stop.level == 0

    try:
        trainer.run(config, length, report)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    finally:
        signal.signal(signal.SIGINT, before)
    if os.environ.get("RANK", "0") != "0":  # torchrun runs this once for each GPU; the first one speaks
        return 130 if stop.level else 0
    say(f"stopped; go on with: autotune train {path}" if stop.level else f"done: {folder}")
    return 130 if stop.level else 0


def _read_config(path: Path, tokens: int | None) -> tuple[Trainer, dict[str, Any], int]:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        trainer = load_trainer(str(content["trainer"]))
        length = tokens or content["tokens"]
        if not isinstance(length, int) or length < 1:
            raise UserError(f"{path}: tokens is {length!r}; write how many tokens to train on, such as 1_000_000")
        return trainer, trainer.complete(content["config"]), length
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `autotune run` writes a best_config.toml") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path}: cannot be read as TOML: {error}") from None
    except KeyError as error:
        raise UserError(
            f"{path}: {error.args[0]} is missing; a best_config.toml has trainer, tokens and config"
        ) from None
    except ValidationError as error:
        lines = [f"{path}: config.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()]
        raise UserError("\n".join(lines)) from None
