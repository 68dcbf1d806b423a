"""What changed: each searched setting, default against best, and what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.config_paths import get_path
from autotune.promotion.selection import best_settings, contender
from autotune.store.study_record import StudyRecord
from reports.formats import MISSING, finite, plain, setting
from reports.sentences import attribution

_EXPLANATIONS = {
    "optim.muon_lr": "How big a step the training takes with the main weight matrices at each update.",
    "optim.adamw_lr": "How big a step the training takes with the word tables and other small weights.",
    "optim.muon_momentum": "How much of the earlier steps' direction is carried into the next one.",
    "optim.adamw_beta1": "How long the small weights' steps remember their direction.",
    "optim.adamw_beta2": "How long the small weights' steps remember how uneven they were.",
    "optim.weight_decay": "How strongly the weights are pulled back towards zero.",
    "optim.grad_clip": "The largest push that one update may give; it holds back rare jolts.",
    "optim.grad_accum_steps": "How many small batches of text are read before each update of the weights.",
    "optim.schedule": "The shape in which the step size rises and falls over the training.",
    "optim.warmup_frac": "The share of the training in which the step size grows from zero.",
    "optim.decay_frac": "The share of the training, at its end, in which the step size shrinks.",
    "optim.final_lr_frac": "What is left of the step size at the very end.",
    "model.num_layers": "How many layers the text passes through, one after another.",
    "model.d_model": "How many numbers describe each token inside the model.",
    "model.num_heads": "How many places in the text each layer can look at in parallel.",
    "model.num_kv_heads": "How many of those views keep a memory of their own.",
    "model.d_ff": "How wide each expert is.",
    "model.num_experts": "How many specialist parts each layer can choose from.",
    "model.top_k": "How many of the specialists work on each token.",
    "model.seq_len": "How many tokens of text the model sees at once.",
    "model.dropout": "The share of signals dropped at random, which helps when the same text is read repeatedly.",
    "model.aux_loss_coef": "How strongly the work is spread evenly over the experts.",
    "model.z_loss_coef": "How strongly the expert chooser is kept from extreme scores.",
    "model.rope_theta": "How far apart two tokens can be and still be told apart by position.",
    "model.init_std": "How large the random weights are at the start.",
    "model.norm_eps": "A tiny number that keeps a division safe.",
    "system.micro_batch_size": "How many pieces of text are read at the same time.",
}


@dataclass(frozen=True)
class Change:
    """One searched setting, default against best.

    Args:
        path: Dotted config path.
        before: The default's value; None if the base config does not have it.
        after: The best settings' value.
        changed: Whether they differ.
        direction: "2.5 times the default", "raised", "lowered", "kept", "left at default" or "changed"; then its share
            of the gain.
        explanation: One plain sentence.
    """

    path: str
    before: Any
    after: Any
    changed: bool
    direction: str
    explanation: str


def setting_changes(record: StudyRecord) -> list[Change]:
    """Return every searched setting, default against the best settings; what changed comes first, then ties.

    Args:
        record: The study.

    Returns:
        [] when nothing has finished.
    """
    best = best_settings(record)
    if best is None:
        return []

    left = best.left_at_default
    shares = attribution.shares_of_gain(record)

    settings = []
    for path in record.spec.space:
        change = _change(record, path, best.trial.params)
        if path in left:
            change = replace(change, direction="left at default")
        elif path in shares:
            change = replace(change, direction=f"{change.direction}, {shares[path]}")
        settings.append(change)

    return sorted(settings, key=lambda change: (not change.changed, change.path not in left))


def changes_tried(record: StudyRecord) -> list[Change]:
    """Return what the finals' winner changes where it was not proved better, so that it is not promoted.

    Args:
        record: The study.

    Returns:
        The settings that differ from the default; [] where the winner is promoted, or there is none.
    """
    best = best_settings(record)
    tried = contender(record)
    if best is None or tried is None:
        return []
    if not best.is_decided or best.trial.number == tried.number:
        return []

    settings = [_change(record, path, tried.params) for path in record.spec.space]
    return [change for change in settings if change.changed]


def _change(record: StudyRecord, path: str, params: Mapping[str, Any]) -> Change:
    try:
        before = get_path(record.spec.base, path)
    except KeyError:
        before = None

    after = params.get(path, before)
    text = _EXPLANATIONS.get(path, "A setting of the trainer.")
    return Change(path, before, after, before != after, _direction(before, after), text)


def _direction(before: Any, after: Any) -> str:
    if before == after:
        return "kept"

    old = finite(before)
    new = finite(after)
    if old is None or new is None:
        return "changed"

    times = float(f"{new / old:.2g}") if old > 0 and new > 0 else 1.0
    if times != 1:
        return f"{times:,.10g} times the default"
    return "raised" if new > old else "lowered"


def change_words(change: Change) -> str:
    """Return a change as "0.02 → 0.05", or the kept value."""
    after = setting(change.after)
    if not change.changed:
        return after

    before = MISSING if change.before is None else setting(change.before)
    if before == after:
        # They differ in digits that a person would leave out.
        before, after = plain(change.before), plain(change.after)
    return f"{before} → {after}"
