"""What the next step takes, what changed and what the words mean: the page's plain language."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.config_paths import get_path
from autotune.core.statistics import CONFIDENCE, INTERVAL
from autotune.promotion.next_step import NextStep
from autotune.promotion.selection import best_settings, contender
from autotune.store.study_store import StudyRecord
from reports import attribution
from reports.formats import MISSING, duration, finite, gibibytes, setting, tokens

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

GLOSSARY = {
    "accuracy": "The share of tokens for which the model's first guess of the next token is right.",
    "batch": "Pieces of text that are read together, before one update of the weights or a part of one.",
    "bits per byte": "The loss for each byte of text. It allows comparing models that cut text into different tokens.",
    "default (baseline)": "The settings as they were before the study: what everything is compared with.",
    "diverged": "A training whose loss ran away instead of falling, most often because its steps were too big.",
    "dropout": "Switching off a random share of signals in training, so that the model does not learn text by heart.",
    "epoch": "One pass over the training text. More than one means that text was read repeatedly.",
    "experts": "Specialist parts of the model. For each token a router picks a few of them.",
    "finals": "The best settings and the default, trained again on fresh seeds, for a fair comparison.",
    "fresh seed": "A seed that no trial has used, so that a result on it owes nothing to having been chosen.",
    "full run": "The long training after the study, with the settings that were found. It makes the model to keep.",
    "gain": "How much lower the loss is with the best settings than with the default, on fresh seeds.",
    INTERVAL: f"A range made so that it contains the true value in {100 * CONFIDENCE:.0f} of 100 such studies.",
    "learning rate": "How big a step the training takes at each update.",
    "loss": "How surprised the model is by text that it has not seen, in nats per token. Lower is better.",
    "nat": "The unit of the loss, as the metre is that of length. A nat is 1.44 bits.",
    "noise (sigma)": "How much the loss changes when nothing but the random seed changes.",
    "out of memory": "The settings needed more memory than the GPU has.",
    "perplexity": "The loss in another form: about how many next tokens the model hesitates between.",
    "promoted": "Taken over into best_config.toml and the full run.",
    "pruned": "Stopped early, since it was behind the other trials at the same point.",
    "rank correlation (Spearman)": "Whether two lists are in the same order: 1 the same, 0 unrelated, −1 reversed.",
    "seed": "The number that fixes all chance in a training: the first weights and the order of the text.",
    "throttling": "The GPU slowing itself down, because of heat or too little power.",
    "tie": "A change for which no difference in loss could be measured: it stays at its default.",
    "token": "A piece of text, a short word or part of one. Models read and write tokens.",
    "trial": "One training with one choice of settings.",
    "update": "One step of the training: all weights are changed a little, so that the loss falls.",
    "warm-up": "The first part of a training, in which the learning rate grows from zero.",
    "weights": "The numbers inside a model. Training changes them; saved, they are the trained model.",
    "winner": "The trial that did best in the finals. Its gain is what the verdict is about.",
}


@dataclass(frozen=True)
class Change:
    """One searched setting, default against best.

    Args:
        path: Dotted config path.
        before: The default's value; None if the base config does not have it.
        after: The best settings' value.
        changed: Whether they differ.
        direction: "raised to 2.5 times", "lowered ...", "kept", "left at default" or "changed"; its share of the gain.
        explanation: One plain sentence.
    """

    path: str
    before: Any
    after: Any
    changed: bool
    direction: str
    explanation: str


def expected_words(step: NextStep) -> str:
    """Return what the next step is expected to take: "8K tokens, about 27 min, 2.0 GiB of memory", or ""."""
    expected = step.expected
    if expected is None:
        return ""

    parts = [tokens(expected.tokens)] if expected.tokens else []
    if expected.seconds is not None:
        parts.append(f"about {duration(expected.seconds)}")
    elif expected.tokens:
        return f"{tokens(expected.tokens)}; the time is not known"

    peak_bytes = finite(expected.peak_bytes)
    if peak_bytes is not None:
        parts.append(f"{gibibytes(peak_bytes)} of memory")

    return ", ".join(parts)


def changes(record: StudyRecord) -> list[Change]:
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
    shares = attribution.shares(record)

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

    word = "raised" if new > old else "lowered"
    if old > 0 and new > 0:
        return f"{word} to {new / old:.2g} times"
    return word


def change_words(change: Change) -> str:
    """Return a change as "0.02 → 0.05", or the kept value."""
    after = setting(change.after)
    if not change.changed:
        return after

    before = MISSING if change.before is None else setting(change.before)
    return f"{before} → {after}"
