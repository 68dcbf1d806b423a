"""What to do next, what changed and what the words mean: the page's plain language."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from autotune.core.config_paths import get_path
from autotune.core.records import TrialStatus, Verdict, VerdictWord
from autotune.core.study_results import FullRunRecord
from autotune.store.study_store import StudyRecord
from reports import attribution, summary, tables
from reports.formats import MISSING, duration, finite, gibibytes, setting, tokens

# A full run that names no budget: what the study file's promote.tokens = 0 stands for.
FULL_RUN_FACTOR = 8
# Seeds past this many cost more than another search would.
MAX_SEEDS = 32
# Pairs needed for a one-sided 5 % test with 80 % power are this times (sigma / gain) squared.
# Source: two-sample normal approximation, 2 (1.645 + 0.842)^2.
SEEDS_FACTOR = 12.4

EXPLANATIONS = {
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
    "interval (95 %)": "A range made so that it contains the true value in 95 of 100 such studies.",
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
class NextStep:
    """What to do now.

    Args:
        sentence: Why.
        command: One command to copy.
        expected: Expected hours and memory in words, or "".
    """

    sentence: str
    command: str
    expected: str = ""


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


def next_step(record: StudyRecord) -> NextStep:
    """Returns the one thing to do after reading the page.

    Args:
        record: The study.
    """
    verdict = record.verdict
    if verdict is None:
        if summary.is_at_work(record):
            return NextStep("Wait for the verdict; this says how far it is.", record.run.command("status"))
        return NextStep("The study was stopped before its verdict; this goes on with it.", _run(record))
    if summary.is_parked(record) and attribution.is_missing(record):
        return NextStep("The study was stopped before it knew which change gave what; this goes on.", _run(record))
    if record.attributes.full_run is not None:
        return _after_full_run(record, record.attributes.full_run)
    if verdict.word is VerdictWord.FAILED:
        return _after_failure(record)
    if verdict.word is VerdictWord.INCONCLUSIVE:
        return _more_seeds(record, verdict)
    sentence = "Train the full model with the settings found."
    if verdict.word is VerdictWord.NO_CLEAR_GAIN:
        sentence = "Keep the default settings and train the full model with them."
    return NextStep(sentence, record.run.command("promote"), _full_run_words(record, full_run_tokens(record)))


def _after_failure(record: StudyRecord) -> NextStep:
    """A machine that is at fault shows in crashes; where all that ended diverged, the settings are."""
    ended = {trial.status for trial in record.trials if trial.result is not None}
    if ended == {TrialStatus.DIVERGED}:
        sentence = (
            "The steps of the training were too big: lower the learning rates in the study file, those of [base] and "
            "those of [space], and run it under a new name. This shows what they are."
        )
        return NextStep(sentence, record.run.command("plan"))
    return NextStep("Check the machine and the study file, then read in the report what failed.", "autotune doctor")


def _after_full_run(record: StudyRecord, full: FullRunRecord) -> NextStep:
    if full.status == TrialStatus.RUNNING:
        return NextStep("The full run is in progress; this says how far it is.", record.run.command("status"))
    if full.status != TrialStatus.FINISHED:
        return NextStep("The full run has not finished; this goes on with it.", record.run.command("promote"))
    more = 2 * (full.tokens or full_run_tokens(record))
    sentence = "To go further, train on twice as many tokens."
    command = record.run.command("promote", "--tokens", str(more))
    return NextStep(sentence, command, _full_run_words(record, more))


def full_run_tokens(record: StudyRecord) -> int:
    """Returns the training tokens of the full run that the study file asks for."""
    return record.spec.promote.tokens or FULL_RUN_FACTOR * record.spec.budget.tokens


def _full_run_words(record: StudyRecord, amount: int) -> str:
    best = tables.best_trial(record)
    result = best.result if best else None
    if result is None or not result.points or result.seconds <= 0 or result.points[-1].tokens_seen <= 0:
        return f"{tokens(amount)}; the time is not known"
    seconds = result.seconds * amount / result.points[-1].tokens_seen
    words = f"{tokens(amount)}, about {duration(seconds)}"
    peak = finite(result.points[-1].metrics.get("peak_memory_bytes"))
    return words if peak is None else f"{words}, {gibibytes(peak)} of memory"


def _more_seeds(record: StudyRecord, verdict: Verdict) -> NextStep:
    if finite(verdict.gain) is None:
        return NextStep(
            "The finals measured nothing; read in the report what failed, and check the machine.", "autotune doctor"
        )
    wanted = seeds_needed(verdict)
    if wanted is None or wanted > MAX_SEEDS:
        return _longer_trials(record)
    sentence = f"A gain of this size would show with about {wanted} seeds; this repeats the study with as many."
    command = _repeat(record, "more-seeds", f"finals.max_seeds={max(wanted, record.spec.finals.prove_seeds)}")
    return NextStep(sentence, command, _repeat_words(record, wanted))


def _longer_trials(record: StudyRecord) -> NextStep:
    amount = 2 * record.spec.budget.tokens
    sentence = "More seeds would hardly settle it. Give each trial more text, so that settings differ more."
    spent_s = sum(trial.result.seconds for trial in (*record.trials, *record.finals) if trial.result)
    return NextStep(sentence, _repeat(record, "longer", f"budget.tokens={amount}"), f"about {duration(2 * spent_s)}")


def _run(record: StudyRecord, *changes: str) -> str:
    return record.run.command("run", *(word for change in changes for word in ("--set", change)))


def _repeat(record: StudyRecord, suffix: str, change: str) -> str:
    return _run(record, f'name="{f"{record.spec.name}-{suffix}"[:64]}"', change)


def _repeat_words(record: StudyRecord, seeds: int) -> str:
    search_s = sum(trial.result.seconds for trial in record.trials if trial.result)
    finals_s = [trial.result.seconds for trial in record.finals if trial.result]
    if not finals_s:
        return ""
    return f"about {duration(search_s + 2 * seeds * sum(finals_s) / len(finals_s))}"


def seeds_needed(verdict: Verdict) -> int | None:
    """Returns the pairs of runs that would settle a gain of the size measured, or None if that is unknown.

    Args:
        verdict: The finals' verdict.

    Returns:
        At least one more than were used. Source: n = 12.4 (sigma / gain)^2, see `SEEDS_FACTOR`.
    """
    gain, sigma = finite(verdict.gain), finite(verdict.sigma)
    if not gain or sigma is None or gain <= 0:
        return None
    return max(math.ceil(SEEDS_FACTOR * (sigma / gain) ** 2), len(verdict.seeds) + 1)


def changes(record: StudyRecord) -> list[Change]:
    """Returns every searched setting, default against the best known settings; what changed comes first, then ties.

    Args:
        record: The study.

    Returns:
        [] when nothing has finished.
    """
    params = attribution.best_settings(record)
    if params is None:
        return []
    left, shares = attribution.left_at_default(record), attribution.shares(record)
    found = [_change(record, path, params) for path in record.spec.space]
    for place, change in enumerate(found):
        if change.path in left:
            found[place] = replace(change, direction="left at default")
        elif change.path in shares:
            found[place] = replace(change, direction=f"{change.direction}, {shares[change.path]}")
    return sorted(found, key=lambda change: (not change.changed, change.path not in left))


def _change(record: StudyRecord, path: str, params: Mapping[str, Any]) -> Change:
    try:
        before = get_path(record.spec.base, path)
    except KeyError:
        before = None
    after = params.get(path, before)
    text = EXPLANATIONS.get(path, "A setting of the trainer.")
    return Change(path, before, after, before != after, _direction(before, after), text)


def _direction(before: Any, after: Any) -> str:
    if before == after:
        return "kept"
    old, new = finite(before), finite(after)
    if old is None or new is None:
        return "changed"
    word = "raised" if new > old else "lowered"
    if old > 0 and new > 0:
        return f"{word} to {new / old:.2g} times"
    return word


def change_words(change: Change) -> str:
    """Returns a change as "0.02 → 0.05", or the kept value."""
    before = MISSING if change.before is None else setting(change.before)
    return f"{before} → {setting(change.after)}" if change.changed else setting(change.after)
