"""What of a training can be checked, and made ready, before its first second: its data and whether it learns at all."""

import math
from collections.abc import Callable, Sequence

from model.config import DataConfig, TrainConfig
from model.data.corpus import Corpus, load
from model.data.errors import CorpusError
from model.schedule import Schedule


def prepare_training(
    configs: Sequence[TrainConfig], budget_tokens: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Read and tokenise the text that trainings need, and refuse what no training can be made of.

    Args:
        configs: Configurations that are going to be trained, the one that matters first.
        budget_tokens: Training tokens of each.
        say: Takes a line for a person. What `say.preparing` is, if anything, takes sentences that say how far the text
            is prepared.

    Returns:
        "data_hash" and "train_tokens" of the first, under the names of a training's facts.

    Raises:
        CorpusError: The data cannot be used, or a training of the first configuration would change no weight.
    """
    first = configs[0]
    corpora: dict[DataConfig, Corpus] = {}
    for config in configs:
        # How much of the text is read, and how often it is evaluated on, makes no other corpus.
        data = config.data
        if data not in corpora:
            corpora[data] = load(data, getattr(say, "preparing", None))
        _, notice = corpora[data].eval_starts(data.eval_tokens, config.model.seq_len)
        if config is first:
            for line in (*corpora[data].notices, notice):
                if line:
                    say(f"data: {line}")

    require_learning(first, budget_tokens)
    corpus = corpora[first.data]
    return {
        "data_hash": corpus.data_hash,
        "train_tokens": len(corpus.train_ids),
        "vocab_size": corpus.vocab_size,
    }


def require_learning(config: TrainConfig, budget_tokens: int) -> None:
    """Check that a training has an optimizer step with a learning rate above 0.

    The rate is that of the tokens at a step's end, so that a single batch is trained at the floor of the schedule.

    Args:
        config: The configuration.
        budget_tokens: Training tokens.

    Raises:
        CorpusError: It has none.
    """
    schedule = Schedule(config.optim, budget_tokens, budget_tokens)
    num_steps = math.ceil(budget_tokens / config.batch_tokens)
    ends = (min(number * config.batch_tokens, budget_tokens) for number in range(1, num_steps + 1))
    if any(schedule.factor(end) > 0 for end in ends):
        return

    batch = f"{config.batch_sequences} sequences of {config.model.seq_len} tokens"
    raise CorpusError(
        f"{budget_tokens:,} tokens are {num_steps} batch of {batch}, whose learning rate is 0, as at the end of the "
        f"schedule: nothing would be trained; give more than {config.batch_tokens:,} tokens, a smaller "
        "system.micro_batch_size or optim.grad_accum_steps, or an optim.final_lr_frac above 0",
        "system.micro_batch_size",
    )
