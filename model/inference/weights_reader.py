"""Reading trained weights: from a folder that `export` wrote, from a run's folder, or from one of its checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer
from torch import Tensor

from model.config import TrainConfig
from model.data.errors import CorpusError
from model.data.tokenizer import for_plain_text, vocabulary_size
from model.inference.card import RESULTS
from model.inference.export import WEIGHTS, load_model, stored_normalises
from model.inference.shape_check import model_of_shape
from model.inference.training_tokens import training_data
from model.training import checkpoint
from model.transformer import padded_vocab_size

_MAX_BATCH_SEQUENCES = 2**20
"""Most sequences of a batch that are believed; finding its passes takes as many divisions."""
_MESSAGE_CHARS = 400
"""Most characters of another library's error that are repeated."""


@dataclass(frozen=True)
class Trained:
    """Weights and what is known of their training.

    Args:
        where: Where the weights are, for people.
        path: The export folder or the checkpoint itself.
        config: The configuration; of an export without results.json only the shape, the rest being defaults.
        weights: fp32, by the model's names.
        vocab_size: Tokens of the tokenizer; of an export without results.json, padding included.
        eos_id: End-of-text token.
        tokenizer_path: None if the training's data are token ids without a tokenizer.
        device: Kind of device that trained them, "" if not known.
        data_hash: Hash of the data, "" if not known.
        evaluation: What the training measured last, under the names of `evaluate_weights`; empty if not known.
        normalises: Whether the weights of a token's experts are divided by their sum, as the weights were trained.
    """

    where: str
    path: Path
    config: TrainConfig
    weights: Mapping[str, Tensor]
    vocab_size: int
    eos_id: int | None
    tokenizer_path: Path | None
    device: str
    data_hash: str
    evaluation: Mapping[str, float]
    normalises: bool


def find_weights(path: Path) -> Path:
    """Return the export folder or the checkpoint that a path leads to.

    Args:
        path: An export folder, the folder of a run (its export, else its newest checkpoint) or a checkpoint.

    Raises:
        FileNotFoundError: There is no trained model at the path.
    """
    if path.is_file():
        return path.parent if path.name == WEIGHTS else path

    for folder in (path, path / "export"):
        if (folder / WEIGHTS).is_file() and (folder / "config.json").is_file():
            return folder

    pattern = f"*{checkpoint.SUFFIX}"
    checkpoints = [*path.glob(pattern), *(path / "checkpoints").glob(pattern)]
    if checkpoints:
        return max(checkpoints, key=lambda file: file.stat().st_mtime_ns)

    if path.is_dir():
        raise FileNotFoundError(f"{path}: holds no trained model: neither an export nor a checkpoint")
    raise FileNotFoundError(f"{path}: no such file or folder")


def read_weights(path: Path) -> Trained:
    """Return the weights that a path leads to.

    Nothing there is run, and what is made after its word is bounded by the weights that are there.

    Args:
        path: As `find_weights` takes it.

    Raises:
        FileNotFoundError: There is no trained model at the path.
        CorpusError: The weights are a checkpoint's, and its training's tokens are not there any more.
        ValueError: The weights cannot be read, or are no finite numbers.
    """
    place = find_weights(path)
    try:
        trained = _read_export(place) if place.is_dir() else _read_checkpoint(place)
    except CorpusError:
        raise
    except Exception as error:  # each layer has errors of its own for a torn file
        raise ValueError(f"{place} cannot be read: {type(error).__name__}: {_short(error)}") from error

    for name, weight in trained.weights.items():
        if not torch.isfinite(weight).all():
            raise ValueError(f"{place}: the weight {name} is not finite: its training has diverged; train it again")
    return trained


def _short(error: Exception) -> str:
    """Return the beginning of an error's text, which may repeat a whole file."""
    text = str(error)
    return text if len(text) <= _MESSAGE_CHARS else f"{text[:_MESSAGE_CHARS]} ..."


class _Known(BaseModel):
    """A part of results.json; what else is in it does not matter here."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class _Training(_Known):
    vocab_size: Annotated[int, Field(ge=1)] | None = None
    device: str = ""
    data_hash: str = ""


class _Evaluation(_Known):
    tokens: int | None = None
    loss: float | None = None


class _Results(_Known):
    """What results.json says that is used here."""

    config: TrainConfig
    training: _Training = _Training()
    evaluation: _Evaluation = _Evaluation()


def _read_export(folder: Path) -> Trained:
    model = load_model(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = folder / "tokenizer.json"

    # The shape is that of the weights; settings that change no output, such as dropout, are the file's.
    results = _Results(config=TrainConfig(model=model.config))
    if (folder / RESULTS).is_file():
        results = _Results.model_validate_json((folder / RESULTS).read_bytes())
    config = results.config.model_copy(update={"model": model.config})
    _require_batch(config)

    padded_vocab = len(model.embed_tokens.weight)
    vocab_size = results.training.vocab_size or padded_vocab
    if padded_vocab_size(vocab_size) != padded_vocab:
        raise ValueError(f"{RESULTS} says a vocabulary of {vocab_size} tokens; the weights have {padded_vocab}")

    evaluation = results.evaluation.model_dump(exclude_none=True)
    return Trained(
        where=str(folder),
        path=folder,
        config=config,
        weights=dict(model.named_parameters()),
        vocab_size=vocab_size,
        eos_id=_checked_eos(fields["eos_token_id"], vocab_size),
        tokenizer_path=tokenizer if tokenizer.is_file() else None,
        device=_device_kind(results.training.device),
        data_hash=results.training.data_hash,
        evaluation=evaluation if "loss" in evaluation else {},
        normalises=stored_normalises(fields),
    )


def _checked_eos(eos_id: object, vocab_size: int) -> int | None:
    if eos_id is None:
        return None
    if not isinstance(eos_id, int) or not 0 <= eos_id < vocab_size:
        raise ValueError(f"eos_token_id = {eos_id!r} is no token of a vocabulary of {vocab_size}")
    return eos_id


def _require_batch(config: TrainConfig) -> None:
    """Refuse a batch that nobody trains with: the passes of an evaluation are parts of it."""
    if config.batch_sequences > _MAX_BATCH_SEQUENCES:
        raise ValueError(
            f"it says batches of {config.batch_sequences} sequences; {_MAX_BATCH_SEQUENCES:,} are the most"
        )


def open_tokenizer(trained: Trained) -> Tokenizer:
    """Return the tokenizer of a trained model, as its training read texts with it.

    Args:
        trained: A model that has one.

    Raises:
        ValueError: It cannot be read, or is another model's.
    """
    try:
        tokenizer = for_plain_text(Tokenizer.from_file(str(trained.tokenizer_path)))
        size = vocabulary_size(tokenizer)
    except Exception as error:  # tokenizers raises plain Exception
        raise ValueError(f"{trained.tokenizer_path} cannot be read: {_short(error)}") from error

    padded_vocab = padded_vocab_size(trained.vocab_size)
    if size > padded_vocab:
        raise ValueError(
            f"{trained.tokenizer_path} has tokens up to {size - 1}, and the weights know {padded_vocab}: "
            "it is another model's; put back the one that was exported with them"
        )
    return tokenizer


def _device_kind(name: str) -> str:
    """Return "cuda" for the name of a GPU; "cpu" and "" (not known) stay."""
    return name if name in ("", "cpu") else "cuda"


def _read_checkpoint(path: Path) -> Trained:
    stored = checkpoint.read(path)
    state = stored.state
    if "config" not in state:
        raise ValueError("it was written by an earlier version, which did not store the configuration")

    weights = {}
    for name, tensor in stored.tensors.items():
        if name.startswith("weight/"):
            weights[name.removeprefix("weight/")] = tensor

    config = TrainConfig.model_validate(state["config"])
    padded_vocab = len(weights["embed_tokens.weight"])
    model_of_shape(config.model, padded_vocab, {name: tensor.shape for name, tensor in weights.items()})
    _require_batch(config)

    corpus = training_data(config.data, state["data_hash"], padded_vocab, path)
    if padded_vocab_size(corpus.vocab_size) != padded_vocab:
        raise ValueError(f"its training's tokens have a vocabulary of {corpus.vocab_size}; the weights {padded_vocab}")
    tokens_seen = min(state["sequences"] * config.model.seq_len, state["budget_tokens"])

    return Trained(
        where=f"{path} ({tokens_seen:,} of {state['budget_tokens']:,} tokens)",
        path=path,
        config=config,
        weights=weights,
        vocab_size=corpus.vocab_size,
        eos_id=corpus.eos_id,
        tokenizer_path=corpus.tokenizer_path,
        device=state["device"],
        data_hash=state["data_hash"],
        evaluation={},  # the last point may be of earlier weights
        normalises=bool(state.get("normalises", True)),  # in an earlier version all were
    )
