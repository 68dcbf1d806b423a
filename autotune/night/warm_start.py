"""What is taken over from earlier studies: their best settings to try first, and trials that teach the sampler.

A trial of an earlier study counts as one of this study only where nothing but the searched settings, the seed and the
hardware may differ: same trainer, objective, budget, data and base values; and never where seconds count, which differ
from machine to machine. Elsewhere its settings are still worth a try.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.core.attributes import PRIOR, StudyAttributes, TrialAttributes
from autotune.core.config_paths import flatten
from autotune.core.errors import UserError
from autotune.core.objectives import comparable_tokens
from autotune.core.records import TrialRecord
from autotune.core.study_results import Plan
from autotune.finals.verdict import ranked
from autotune.night.text_share import matched_epochs
from autotune.promotion.repetition import as_often
from autotune.promotion.run_length import full_tokens
from autotune.promotion.selection import select_trial_to_promote
from autotune.store.study_record import StudyRecord, read_study
from autotune.study.fingerprints import trainer_code
from autotune.study.spec import StudySpec
from autotune.study.study_file import Study
from autotune.study.trainer import Trainer

if TYPE_CHECKING:
    import optuna

_GOOD = 3
"""Good settings of each earlier study that are tried first: what it promoted, then its best trials."""


@dataclass(frozen=True)
class Prior:
    """A finished trial of an earlier study, as the sampler is taught it.

    Args:
        settings: By dotted path.
        loss: Its final loss, nats per token; the mean over its seeds.
        reported: Losses that it reported, under what this study's trials report them by: tokens, or counts of seeds.
        seed: The seed that it trained with, the first of several.
    """

    settings: Mapping[str, Any]
    loss: float
    reported: Mapping[int, float]
    seed: int = 0


@dataclass(frozen=True)
class Earlier:
    """What is taken over from one earlier study.

    Args:
        name: The study.
        good: Settings to try first, the best first.
        priors: Finished trials that teach the sampler.
        differs: Why no trial teaches the sampler, or "".
    """

    name: str
    good: tuple[dict[str, Any], ...]
    priors: tuple[Prior, ...]
    differs: str

    def describe(self) -> str:
        """Return it in a sentence for a person."""
        taught = f"{len(self.priors)} of its trials teach the sampler"
        if not self.priors:
            taught = f"its trials do not teach the sampler: {self.differs or 'none fits this space'}"
        return f"warm start from {self.name}: tries {len(self.good)} of its best settings first; {taught}"


def read(study: Study, data_hash: str = "", plan: Plan | None = None) -> Iterator[Earlier]:
    """Read the studies that a study starts from.

    Args:
        study: The study, with its base config resolved.
        data_hash: Hash of its data; "" if that is not known.
        plan: The plan of its night; None before there is one.

    Raises:
        UserError: If one of them is not there.
    """
    spec = study.spec
    for path in spec.warm_start:
        record = read_study(Path(path), spec.storage)
        differs = difference(study, record, data_hash, plan)
        priors = [] if differs else _priors(spec, record)
        yield Earlier(record.spec.name, tuple(_good(spec, record)), tuple(priors), differs)


def difference(study: Study, record: StudyRecord, data_hash: str = "", plan: Plan | None = None) -> str:
    """Return the first thing that makes an earlier study's losses incomparable, or "" if nothing does."""
    spec = study.spec
    trainer = study.trainer

    # Settings may name the same file when another text is in it.
    if data_hash and record.attributes.probe_facts.get("data_hash", data_hash) != data_hash:
        return "the data have changed since"
    code = record.attributes.provenance.get("trainer_code")
    if code and code != trainer_code(spec.trainer, spec.command):
        return "the trainer's code has changed since"

    must_agree = (
        ("trainer", spec.trainer, record.spec.trainer),
        ("metric", trainer.metric.describe(), record.attributes.metric.describe()),
        ("objective", spec.objective, record.spec.objective),
        ("budget.tokens", spec.budget.tokens, record.spec.budget.tokens),
        # Trials report by tokens with one seed and by seeds with several, and the noise of their losses differs.
        ("budget.seeds", spec.budget.seeds, record.spec.budget.seeds),
    )
    for name, now, then in must_agree:
        if now != then:
            return f"{name} is {now!r} here and {then!r} there"

    if spec.objective != "loss_at_equal_tokens":
        return f"{spec.objective} depends on seconds, and those of another night cannot be compared"

    here = _epochs(spec, plan, trainer, record)
    there = _epochs(record.spec, record.attributes.plan, trainer, record)
    if not as_often(here or 1, there or 1):
        return f"trials read their text {here or 1:.1f} times here and {there or 1:.1f} times there"

    now_base = flatten(spec.base)
    then_base = flatten(record.spec.base)
    for path in sorted(now_base.keys() | then_base.keys()):
        is_searched = path in spec.space.root or path in record.spec.space.root
        if is_searched or path.startswith(trainer.untrained_settings):
            continue

        value = now_base.get(path)
        earlier_value = then_base.get(path)
        if value != earlier_value:
            return f"{path} is {value!r} here and {earlier_value!r} there"

    return ""


def _epochs(spec: StudySpec, plan: Plan | None, trainer: Trainer, record: StudyRecord) -> float:
    """Return how often the trials of a study on an earlier one's text are to read theirs; 0 for all of it, once."""
    return matched_epochs(spec, trainer, record.attributes.probe_facts, full_tokens(spec, plan))


def _good(spec: StudySpec, record: StudyRecord) -> list[dict[str, Any]]:
    trials = ranked(record.trials)
    with contextlib.suppress(UserError):  # it has no verdict, or nothing finished
        trials.insert(0, select_trial_to_promote(record)[0])

    good: list[dict[str, Any]] = []
    for trial in trials:
        possible = _possible_settings(spec, _values(record, trial))
        settings = spec.space.active(possible, spec.base)
        if settings and settings not in good and settings != spec.space.baseline(spec.base):
            good.append(settings)

    return good[:_GOOD]


def _priors(spec: StudySpec, record: StudyRecord) -> list[Prior]:
    # What was searched there and is fixed here: a trial counts only where it had this study's value.
    searched_there = {path: value for path, value in flatten(spec.base).items() if path in record.spec.space.root}
    fixed_here = {path: value for path, value in searched_there.items() if path not in spec.space.root}

    priors = []
    for trial in record.trials:
        values = _values(record, trial)
        settings = _possible_settings(spec, values)
        is_elsewhere = any(values[path] != value for path, value in fixed_here.items())
        if trial.loss is None or is_elsewhere or len(settings) < len(spec.space):
            continue

        active = spec.space.active(settings, spec.base)
        priors.append(Prior(active, trial.loss, reported(record.spec, trial), trial.seed))

    return priors


def _possible_settings(spec: StudySpec, values: Mapping[str, Any]) -> dict[str, Any]:
    return {path: values[path] for path in spec.space if _is_possible(spec, path, values)}


def reported(spec: StudySpec, trial: TrialRecord) -> Mapping[int, float]:
    """Return what a trial reported to Optuna: losses by the baseline's tokens, or by the count of its seeds.

    Args:
        spec: Its study.
        trial: The trial.
    """
    if spec.budget.seeds > 1:
        return dict(enumerate(trial.seed_losses, start=1))

    baseline_tokens = spec.budget.tokens
    own_tokens = trial.budget_tokens or baseline_tokens
    return {comparable_tokens(tokens, own_tokens, baseline_tokens): loss for tokens, loss in trial.values.items()}


def _values(record: StudyRecord, trial: TrialRecord) -> dict[str, Any]:
    """Return all settings of an earlier trial, also those that were not searched."""
    return {**flatten(record.spec.base), **trial.params}


def _is_possible(spec: StudySpec, path: str, values: Mapping[str, Any]) -> bool:
    dimension = spec.space[path]
    return path in values and dimension.contains(values[path]) and dimension.is_on_grid(values[path])


def teach(study: optuna.Study, spec: StudySpec, earlier: Earlier) -> bool:
    """Add an earlier study's trials to an Optuna study, whose own they are not, unless they are there.

    Args:
        study: The search.
        spec: The study.
        earlier: What was read.

    Returns:
        Whether this was the first time.
    """
    from optuna.trial import create_trial

    attributes = StudyAttributes(study)
    taught = attributes.warm_start
    if earlier.name in taught:
        return False

    stored = study.get_trials(deepcopy=False)
    there = [trial.params for trial in stored if TrialAttributes(trial).role == PRIOR]
    for prior in earlier.priors:
        if prior.settings in there:  # a kill may have come in between
            continue

        trial = create_trial(
            value=prior.loss,
            params=dict(prior.settings),
            distributions={path: spec.space[path].distribution() for path in prior.settings},
            intermediate_values=dict(prior.reported),
            user_attrs={"role": PRIOR, "study": earlier.name, "seed": prior.seed},
        )
        study.add_trial(trial)

    attributes.warm_start = (*taught, earlier.name)
    return True
