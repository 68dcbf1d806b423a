"""What a trainer's module may have, by name, and what the engine uses it for.

The whole interface is one call: `train(config, budget_tokens, report)`. The annotation of the first parameter says
what a config is: a pydantic model, a dataclass or a plain dict. Nothing else is required. Beside its trainer a module
may have:

- `counts(config, facts)` lets the planner predict cost and memory of any config (`Counter`);
- `length_rules`, a mapping of dotted paths to a `Rule`, lets these settings be rescaled for a full run
  (`promotion/horizon.py`);
- `setting_roles`, a mapping of roles to dotted paths, says which settings the engine may fill in (`Role`);
- `untrained_settings` names the settings that change no loss;
- `metric`, a mapping, says what the trainer reports and what of it is shown (`MetricDeclaration`);
- `prepare_training` gets ready, and checks, what trainings need before the first of them (`Preparer`);
- `generate_text` and `evaluate_weights` serve the commands that use a trained model (`Writer`, `Evaluator`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from pydantic import BaseModel, ConfigDict, Field

Rule = Literal["batch", "learning_rate", "weight_decay", "beta2", "warmup_frac"]
"""What a setting is, as far as it depends on the length of a run:

- `batch`: what the tokens of an optimizer step are a multiple of, of one setting at most. A whole number stays one.
  Best is gradient accumulation, which needs no more memory;
- `learning_rate`: a peak learning rate;
- `weight_decay`: decoupled decay, which is multiplied by the learning rate;
- `beta2`: the decay of the second moment, a step;
- `warmup_frac`: warm-up as a share of the run.
"""
RULES: tuple[str, ...] = get_args(Rule)
Role = Literal[
    "seed",
    "device",
    "dtype",
    "memory_bytes",
    "flash_attention",
    "micro_batch_size",
    "grad_accum_steps",
    "max_pass_sequences",
    "train_tokens",
    "num_evals",
    "output_dir",
    "provenance",
    "expected_data",
]
"""What the engine uses a setting for, if the trainer has such a setting:

- `seed`: seed of the training. A config that is a plain dict always has it, as `config["seed"]`; without it no gain can
  be proved on fresh seeds;
- `device`, `dtype`, `memory_bytes`, `flash_attention`: what the hardware decides, "cuda" or "cpu", "bf16", "fp16" or
  "fp32", a cap in bytes (0 for none), and whether the GPU has flash attention;
- `micro_batch_size`, `grad_accum_steps`, `max_pass_sequences`: the shape of a batch, in sequences, in
  micro-batches, and the most sequences of one pass (0 for a micro-batch), which the planner chooses;
- `train_tokens`: how much of the training text is read, 0 for all of it;
- `num_evals`: evaluations of a training;
- `output_dir`, `provenance`: folder of a full run's checkpoints and weights, and lines for its model card;
- `expected_data`: hash of the data that a training has to find, as the facts of a training name it ("data_hash").
"""
ROLES: tuple[str, ...] = get_args(Role)
CUSTOMARY_PATHS: Mapping[str, str] = {
    "seed": "seed",
    "device": "system.device",
    "dtype": "system.dtype",
    "memory_bytes": "system.memory_bytes",
    "flash_attention": "system.flash_attention",
    "micro_batch_size": "system.micro_batch_size",
    "grad_accum_steps": "optim.grad_accum_steps",
    "max_pass_sequences": "system.max_pass_sequences",
    "train_tokens": "data.train_tokens",
    "num_evals": "data.num_evals",
    "output_dir": "output.dir",
    "provenance": "output.provenance",
    "expected_data": "data.expected_hash",
}
"""Setting of each role for a trainer without `setting_roles`. Those that its config does not have are left alone."""
CUSTOMARY_UNTRAINED = ("seed", "system.", "output.", "data.cache_dir", "data.expected_hash")
"""Beginnings of the dotted paths of `untrained_settings` for a trainer that names none."""


class MetricDeclaration(BaseModel):
    """What trials are judged by, as a trainer declares it; a module without one reports a loss in training tokens.

    Args:
        name: Key of the number in each report, and its name on the page: "loss" if not given.
        unit: Shown after it, such as "m/s"; "" if not given.
        direction: "minimize", if not given, or "maximize".
        budget_unit: What budgets count, and the key in each report under which the trainer says how far it is:
            "tokens" if not given.
        also: Further numbers of a report that are worth showing, and their names on the page.
        of_text: Whether it is a language model's cross-entropy in nats per token, which has a perplexity.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field("loss", min_length=1)
    unit: str = ""
    direction: Literal["minimize", "maximize"] = "minimize"
    budget_unit: str = Field("tokens", min_length=1)
    also: Mapping[str, str] = {}
    of_text: bool = False


Report = Callable[[Mapping[str, float]], bool | int]
"""Takes an evaluation and answers what to do: see `TrainFunction`."""


class TrainFunction(Protocol):
    """Trains one configuration.

    Args:
        config: The resolved configuration, of the type that the function's annotation names. All that is random must
            follow from its seed, and differ with it.
        budget_tokens: How long to train, in tokens or in the trainer's own `budget_unit`; the schedule must end there.
        report: Takes a mapping after each evaluation with how far the training is, under `tokens_seen` or the name of
            its `budget_unit`, what trials are judged by, under `val_loss` or the name of its metric, and any further
            numbers, and answers what to do. False: stop at once. True: go on. A number of tokens, more than seen
            and less than the budget: end there. The trainer's own schedule then brings the run to that end, with a last
            evaluation whose `tokens_seen` is that number. A later number replaces an earlier one; a run that goes on
            from a checkpoint is told again. A trainer that takes numbers for True is stopped when its time is up.
            `report.preparing` takes a sentence that says how far the data is prepared, and answers nothing. Before the
            first evaluation it may be called as often as there is something new; it counts as a sign of life, and the
            training's time is counted from the last of them.

    Returns:
        Facts about the run, JSON-able, or None.

    Raises:
        FloatingPointError: The training has diverged; its settings are poor, and teach the sampler. A loss that is not
            finite, or worse than twice the first one, is taken for the same.
        Exception: Whatever else it is, it ends this training. One with an attribute `exit_code` of 2 (the study file is
            wrong) or 3 (the machine or the network is) says itself what to do, and a night that cannot begin for it
            ends with that code.
    """

    def __call__(self, config: Any, budget_tokens: int, report: Report, /) -> Mapping[str, Any] | None: ...


class Counter(Protocol):
    """Counts the work of one configuration without running it; beside the trainer, under the name `counts`.

    Args:
        config: As the trainer's.
        facts: What the trainer returned for a run on the same data and device; empty before the first one, to tell
            what cannot fit. A counter that needs them may raise then.

    Returns:
        At least the fields of `autotune.engine.cost_model.Counts`; for a plan on a card that is not there also those
        that `autotune/night/absent_card.py` names, with "memory_bytes" and "capability" of the card among the facts.
        Configurations with the same counts are taken to
        be equally fast where trials get equal seconds, so whatever changes the speed should change one of them.
    """

    def __call__(self, config: Any, facts: Mapping[str, Any], /) -> Mapping[str, float]: ...


class Preparer(Protocol):
    """Gets ready what trainings need; beside the trainer, under the name `prepare_training`.

    It is called in the engine's own process, before every start, and must neither train nor use a device.

    Args:
        configs: Configurations, as the trainer's: the baseline, then others that are going to be trained.
        budget_tokens: Tokens of each training.
        say: Takes a line for a person. `say.preparing` takes a sentence that says how far it is, as often as there is
            something new; it is what `report.preparing` is to a training.

    Returns:
        What is known by then of a training of the first configuration; "data_hash", if the trainer's facts have it,
        holds a study to the data that it was begun with.

    Raises:
        ValueError: No training can be made of a configuration. Its attribute `setting`, if there is one, is the dotted
            path of what has to be mended, and `exit_code` what the command ends with.
    """

    def __call__(
        self, configs: Sequence[Any], budget_tokens: int, say: Callable[[str], None], /
    ) -> Mapping[str, Any]: ...


class Writer(Protocol):
    """Continues a prompt with a trained model; beside the trainer, under the name `generate_text`.

    Args:
        path: What the trainer left: the folder of a full run, or what lies in it.
        prompt: Text to continue; may be empty.
        write: Takes each piece of new text as it comes.
        num_tokens: New tokens at most.
        temperature: 0 takes the most likely token.
        top_k: Sample among this many most likely tokens; 0 for all.
        seed: Seed of the draw.

    Raises:
        FileNotFoundError: Nothing trained is there.
        ValueError: It cannot be used; the message says why and what to do.
    """

    def __call__(
        self,
        path: Path,
        prompt: str,
        write: Callable[[str], None],
        /,
        *,
        num_tokens: int,
        temperature: float,
        top_k: int,
        seed: int,
    ) -> None: ...


class Evaluator(Protocol):
    """Measures a trained model on a text; beside the trainer, under the name `evaluate_weights`.

    Args:
        path: What the trainer left: the folder of a full run, or what lies in it.
        data: A file, folder or glob; "" for what the training held out.
        num_tokens: Tokens to predict at most; 0 for all.

    Returns:
        Names and values to show, JSON-able: `tokens`, `loss` and whatever else was measured.

    Raises:
        FileNotFoundError: Nothing trained is there.
        ValueError: It cannot be used; the message says why and what to do.
    """

    def __call__(self, path: Path, data: str, /, *, num_tokens: int) -> Mapping[str, Any]: ...
