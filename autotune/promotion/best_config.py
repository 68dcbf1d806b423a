"""From the verdict to a configuration a person may edit, and to the full run that trains it."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w

from autotune.core.config_paths import drop_unknown_paths, with_paths
from autotune.core.files import now_iso, write_text
from autotune.core.own_words import told
from autotune.core.promotion_results import Promotion
from autotune.core.records import TrialRecord, VerdictWord
from autotune.core.text import short_number
from autotune.promotion.selection import best_settings, measured_gain
from autotune.store.study_record import StudyRecord
from autotune.study.fingerprints import trainer_code
from autotune.study.spec import StudySpec
from autotune.study.trainer import Trainer

PACKAGES = ("torch", "optuna", "transformers", "datasets", "tokenizers", "numpy", "pandas", "plotly")
"""Packages whose versions are part of a provenance, where they are installed."""


def provenance(spec: StudySpec, hardware: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return where a study's numbers come from, by name.

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
        "trainer_code": trainer_code(spec.trainer, spec.command),
        "gpu": hardware.get("name", ""),
        "driver": hardware.get("driver_version", ""),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _versions() -> dict[str, str]:
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue

    return versions


def git_commit() -> str:
    """Return the commit of this checkout, with "+changes" when files differ from it; "" outside of git."""
    try:
        commit = _git_output("rev-parse", "HEAD")
        changed = _git_output("status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return ""

    return f"{commit}+changes" if changed else commit


def _git_output(*arguments: str) -> str:
    here = Path(__file__).parent
    ended = subprocess.run(["git", *arguments], cwd=here, capture_output=True, text=True, timeout=10, check=True)
    return ended.stdout.strip()


@dataclass(frozen=True)
class BestConfig:
    """What a `best_config.toml` holds: a configuration to train, and where it comes from.

    Args:
        trainer: "package.module:function".
        tokens: Length of the training.
        config: The nested configuration.
        provenance: Where it comes from, as TOML can hold it.
        promotion: What changes on the way from a trial to this length.
        comments: Lines at the top of the file.
    """

    trainer: str
    tokens: int
    config: Mapping[str, Any]
    provenance: Mapping[str, Any]
    promotion: Promotion
    comments: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Write the file, which `autotune train` reads and a person may edit."""
        content = {
            "trainer": self.trainer,
            "tokens": self.tokens,
            "config": self.config,
            "provenance": self.provenance,
            "promotion": self.promotion.to_json(),
        }

        command = shlex.join(["autotune", "train", str(path)])
        comments = [*self.comments, f"Train them with: {command}"]
        header = "".join(f"# {line}\n" for line in comments)
        write_text(path, f"{header}\n{tomli_w.dumps(_without_none(content))}")

    def card_lines(self) -> list[str]:
        """Return the provenance as lines for a model card."""
        return card_lines(self.provenance)


def best_config_of(
    trainer: Trainer, record: StudyRecord, trial: TrialRecord, why: str, promotion: Promotion
) -> BestConfig:
    """Return the configuration that promotes a trial.

    Args:
        trainer: The study's trainer.
        record: The study.
        trial: The trial, with the settings to promote.
        why: Why this one.
        promotion: The length of the full run and what changes on the way to it.
    """
    changed = {change.path: change.after for change in promotion.changes}
    seed = drop_unknown_paths(record.spec.base, trainer.by_path({"seed": record.spec.seed}))

    provenance = {
        **record.attributes.provenance,
        "trial": trial.number,
        "why": why,
        "search_loss": trial.loss,
        "written_at": now_iso(),
        **_proof(record, trial),
    }

    title = f"Settings of trial {trial.number} of study {record.name}: {_one_line(why)}"
    notes = [f"{change.path}: {short_number(change.before)} in the trial; {change.why}" for change in promotion.changes]

    return BestConfig(
        trainer=record.spec.trainer,
        tokens=promotion.tokens,
        config=with_paths(record.spec.base, {**trial.params, **changed, **seed}),
        provenance=_without_none(told(provenance, trainer.metric)),
        promotion=promotion,
        comments=(title, *notes),
    )


def card_lines(provenance: Mapping[str, Any]) -> list[str]:
    """Return a provenance as lines for a model card.

    Args:
        provenance: As `BestConfig` has it; {} gives no line.
    """
    return [f"{name.replace('_', ' ')}: {_in_a_line(value)}" for name, value in provenance.items() if value != ""]


def _in_a_line(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))

    return _one_line(str(value))


def _proof(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """Return what the finals measured of a trial: with all of the winner's changes, and with the promoted ones."""
    verdict = record.verdict
    if verdict is None or verdict.winner != trial.number:
        return {}

    names = ("word", "seeds", "baseline_loss", "winner_loss", "gain", "gain_low", "gain_high")
    proof = {name: getattr(verdict, name) for name in names}

    best = best_settings(record)
    measured = measured_gain(record)
    is_reduced = best is not None and bool(best.left_at_default) and best.trial.params == trial.params
    if is_reduced and measured is not None:
        proof |= {"promoted_seeds": measured.seeds, "promoted_loss": measured.loss, "promoted_gain": measured.gain}

    return proof


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _without_none(value: Any) -> Any:
    """Return a copy without None, which TOML does not have."""
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]

    return str(value) if isinstance(value, VerdictWord) else value
