"""Whether stored weights have the shape that is said of them, found out before anything of that size is made.

A folder from elsewhere may say anything. What is made after its word is never larger than the weights that lie in it.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import psutil
import torch
from torch import Tensor

from model.config import ModelConfig
from model.transformer import Transformer, padded_vocab_size

_MAX_SEQ_LEN = 131_072
"""Longest context, in tokens: no weight tells it, and the tables of rotary positions grow with it."""
_MAX_LAYERS = 1_000
"""Most layers. A module is made for each of them, which takes about a millisecond."""
_BYTES = 4
"""Of a number; weights are read as fp32."""

NamesOnDisk = Callable[[str, Tensor], Iterable[tuple[str, Tensor]]]
"""Takes a weight of the model and returns what is stored of it, by name."""


def as_they_are(name: str, weight: Tensor) -> Iterable[tuple[str, Tensor]]:
    """Return a weight under its own name, as checkpoints store it."""
    return [(name, weight)]


def model_of_shape(
    config: ModelConfig,
    vocab_size: int,
    stored: Mapping[str, Sequence[int]],
    names_on_disk: NamesOnDisk = as_they_are,
    normalises: bool | None = None,
) -> Transformer:
    """Return a model, with any values, whose weights are those that are stored.

    Args:
        config: The model's shape, as the folder says it.
        vocab_size: Tokens of its vocabulary, as the folder says it.
        stored: Shapes of what is stored, by name.
        names_on_disk: How the model's weights are named there.
        normalises: As `Transformer` takes it.

    Raises:
        ValueError: They are another model's, or this machine cannot hold them.
    """
    if config.seq_len > _MAX_SEQ_LEN:
        raise ValueError(f"a context of {config.seq_len} tokens is longer than {_MAX_SEQ_LEN:,}, the longest there is")
    if config.num_layers > _MAX_LAYERS:
        raise ValueError(f"it says {config.num_layers} layers; {_MAX_LAYERS:,} are the most")

    num_stored = sum(math.prod(shape) for shape in stored.values())
    num_said = _num_weights(config, padded_vocab_size(vocab_size))
    if num_said != num_stored:
        raise ValueError(f"it says a model of {num_said} weights, but {num_stored} are stored")

    num_bytes = _BYTES * num_stored
    memory_bytes = psutil.virtual_memory().total
    if num_bytes > memory_bytes:
        raise ValueError(
            f"its weights take {num_bytes / 2**30:,.0f} GiB of memory, and this machine has {memory_bytes / 2**30:,.0f}"
        )

    with torch.random.fork_rng([]):  # what is drawn here is overwritten
        model = Transformer(config, vocab_size, normalises=normalises)
    expected = {}
    for name, weight in model.named_parameters():
        expected |= {stored_name: list(part.shape) for stored_name, part in names_on_disk(name, weight)}
    _require_equal(expected, {name: list(shape) for name, shape in stored.items()})
    return model


def _num_weights(config: ModelConfig, padded_vocab: int) -> int:
    """Return the weights of a model, counted without making it."""
    kv_width = config.num_kv_heads * config.head_dim
    attention = 2 * config.d_model * (config.d_model + kv_width) + 2 * config.head_dim
    experts = config.num_experts * config.d_model * (1 + 3 * config.d_ff)
    norms = 2 * config.d_model
    return padded_vocab * config.d_model + config.num_layers * (attention + experts + norms) + config.d_model


def _require_equal(expected: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]]) -> None:
    for name, shape in expected.items():
        if name not in stored:
            raise ValueError(f"the weight {name} is missing")
        if stored[name] != shape:
            raise ValueError(f"the weight {name} has the shape {stored[name]}, but the model that it names has {shape}")

    extra = next(iter(stored.keys() - expected.keys()), None)
    if extra is not None:
        raise ValueError(f"the weight {extra} belongs to no model of ours")
