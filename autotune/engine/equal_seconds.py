"""Token budgets that take equal seconds: the speed of each configuration against the baseline's, settled once for all.

Seconds would make a trial's length depend on what else the machine does meanwhile, and a schedule needs to know its
end. So the seconds of the baseline's budget are turned into tokens before a configuration is trained for the first
time: by the planner's cost model, or else by a probe of its own right before its first trial. The factor is kept in the
study for every configuration of the same counted work, so that a resumed run, a peer and the finals train as long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import StudyAttributes
from autotune.engine.cost_model import CostModel, Counts
from autotune.store.absence import again_if_cut_off
from autotune.store.database import exclusive
from autotune.study.study_file import Study

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage


@dataclass(frozen=True)
class EqualSeconds:
    """Turns the seconds of the baseline's budget into tokens of other configurations.

    Args:
        study: The study file and trainer.
        optuna_study: Where speeds are kept.
        storage: Its storage.
        facts: What the trainer returned for a probe, for its counting.
        model: Predicts speeds; None if they must be probed.
        baseline_per_s: The baseline's tokens per second, from where the others' come: the model or this process' probe.
        probe_length: Token budget of a probe and the evaluations after which it ends.
        device_class: Of this process, where devices of several share the study: each has speeds of its own.
    """

    study: Study
    optuna_study: optuna.Study
    storage: RDBStorage
    facts: Mapping[str, Any]
    model: CostModel | None
    baseline_per_s: float
    probe_length: tuple[int, int]
    device_class: str = ""

    def tokens(self, params: Mapping[str, Any], config: Mapping[str, Any]) -> int | None:
        """Return a configuration's token budget, or None if its speed has to be probed first.

        Args:
            params: Its settings by dotted path.
            config: The resolved configuration.
        """
        known = self._speeds().get(self.key(params, config))
        if known is not None:
            return self._budget(known)
        if self.model is None:
            return None

        counts = self.study.trainer.counts(config, self.facts)
        assert counts is not None, "the model was fitted to such counts"
        return self.keep(params, config, self.model.tokens_per_s(Counts.of(counts)))

    @again_if_cut_off
    def keep(self, params: Mapping[str, Any], config: Mapping[str, Any], tokens_per_s: float) -> int:
        """Keep a configuration's speed, unless a peer was first, and return its token budget.

        Args:
            params: Its settings by dotted path.
            config: The resolved configuration.
            tokens_per_s: Its speed, tokens per second, measured as the baseline's was.
        """
        with exclusive(self.storage, self.study.spec.name):
            speeds = dict(StudyAttributes(self.optuna_study).speeds)
            measured = tokens_per_s / self.baseline_per_s
            relative = speeds.setdefault(self.key(params, config), measured)
            StudyAttributes(self.optuna_study).speeds = speeds

        return self._budget(relative)

    def key(self, params: Mapping[str, Any], config: Mapping[str, Any]) -> str:
        """Return a name for what decides a configuration's speed: its counted work, or else all of its settings."""
        counts = self.study.trainer.counts(config, self.facts)
        decisive = params if counts is None else counts

        text = json.dumps(decisive, sort_keys=True, default=str)
        return f"{self._prefix}{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def _prefix(self) -> str:
        return f"{self.device_class}: " if self.device_class else ""

    @property
    def slowest(self) -> float:
        """Seconds of a token of the slowest configuration so far, as a multiple of the baseline's."""
        return 1 / min([1.0, *self._speeds().values()])

    def _speeds(self) -> dict[str, float]:
        """Return the stored speeds of this class of devices by key, as multiples of the baseline's."""
        speeds = StudyAttributes(self.optuna_study).speeds
        return {key: speed for key, speed in speeds.items() if key.startswith(self._prefix)}

    def _budget(self, relative: float) -> int:
        return max(1, round(self.study.spec.budget.tokens * relative))
