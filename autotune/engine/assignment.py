"""What is trained: what all trainings of a queue have in common, and one training that was drawn from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.config_paths import drop_unknown_paths
from autotune.core.records import TrainingKind
from autotune.core.setups import Device
from autotune.engine.equal_seconds import EqualSeconds
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna


@dataclass(frozen=True)
class TrainingPlan:
    """What all trainings of a queue have in common.

    Args:
        kind: What they are for.
        budget_tokens: Tokens of each training, or of the baseline's where equal seconds decide.
        overrides: What the engine fills into each config (device, dtype, ...), by dotted path.
        target: Trials that the search wants done; None for a queue that holds what was put into it beforehand.
        seeds: Seeds that each trial is trained with, one after the other.
        folder: Where the trials' files go, below the run directory; "" for the folder that the kind names.
        equal_seconds: Gives each configuration its own budget; None if all have the same.
        slowness: Seconds of a token of these trainings, as a multiple of the baseline's.
        only_on: Class of the devices that may train them; "" for any.
    """

    kind: TrainingKind
    budget_tokens: int
    overrides: Mapping[str, Any] = field(default_factory=dict)
    target: int | None = None
    seeds: int = 1
    folder: str = ""
    equal_seconds: EqualSeconds | None = None
    slowness: float = 1.0
    only_on: str = ""

    def is_for(self, device: Device) -> bool:
        """Return whether a process with some device may train them."""
        return not self.only_on or self.only_on == device.name

    @property
    def folder_name(self) -> str:
        """Folder of the trials, relative to the run directory."""
        return self.folder or self.kind.value

    @property
    def asks_sampler(self) -> bool:
        """Whether the sampler proposes settings; elsewhere they are given beforehand."""
        return self.kind is TrainingKind.SEARCH


@dataclass(frozen=True)
class Assignment:
    """A trial that was drawn and what it trains.

    Args:
        trial: The running Optuna trial.
        params: Its settings by dotted path.
        config: The resolved configuration.
        folder: Where its files go.
        budget_tokens: Tokens to train on.
        first_attempt: Number of the first attempt at these settings; its own unless it repeats an interrupted trial.
        seed: The seed of its first training.
        probe_points: None for the training itself. Otherwise a probe comes first, which decides the budget: the
            number of evaluations after which the probe ends, 0 for all of `budget_tokens`.
        seeds_left: Seeds that it is trained with after this one.
    """

    trial: optuna.Trial
    params: Mapping[str, Any]
    config: Mapping[str, Any]
    folder: Path
    budget_tokens: int
    first_attempt: int
    seed: int
    probe_points: int | None = None
    seeds_left: tuple[int, ...] = ()


def hardware_overrides(study: Study, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the hardware decides in each config, except what the study file sets itself.

    Args:
        study: The study.
        settings: `HardwareProfile.overrides()`: values by the role that a setting has.

    Returns:
        Values by dotted path, of those settings that the trainer has.
    """
    by_path = study.trainer.by_path(settings)
    left_open = {path: value for path, value in by_path.items() if path not in study.explicit}
    return drop_unknown_paths(study.spec.base, left_open)
