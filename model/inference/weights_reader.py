"""Reading trained weights: from a folder that `export` wrote, from a run's folder, or from one of its checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model.config import DataConfig, ModelConfig, TrainConfig
from model.data.corpus import Corpus, load
from model.data.sources import CorpusError
from model.inference.card import RESULTS
from model.inference.export import WEIGHTS, load_model
from model.training import checkpoint


@dataclass(frozen=True)
class Trained:
    """Weights and what is known of their training.

    Args:
        where: Where the weights are, for people.
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

    Args:
        path: As `find_weights` takes it.

    Raises:
        FileNotFoundError: There is no trained model at the path.
        CorpusError: The weights are a checkpoint's, and its training data cannot be read any more.
        ValueError: The weights cannot be read.
    """
    place = find_weights(path)
    try:
        if place.is_dir():
            return _read_export(place)
        return _read_checkpoint(place)
    except CorpusError:
        raise
    except Exception as error:  # each layer has errors of its own for a torn file
        raise ValueError(f"{place} cannot be read: {type(error).__name__}: {error}") from error


def _read_export(folder: Path) -> Trained:
    model = load_model(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = folder / "tokenizer.json"

    results = {}
    if (folder / RESULTS).is_file():
        results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    training = results.get("training", {})
    shape_alone = {"model": ModelConfig.model_dump(model.config, mode="json")}

    return Trained(
        where=str(folder),
        config=TrainConfig.model_validate(results.get("config", shape_alone)),
        weights=dict(model.named_parameters()),
        vocab_size=training.get("vocab_size", fields["vocab_size"]),
        eos_id=fields["eos_token_id"],
        tokenizer_path=tokenizer if tokenizer.is_file() else None,
        device=_device_kind(training.get("device", "")),
        data_hash=training.get("data_hash", ""),
        evaluation=results.get("evaluation", {}),
        normalises=bool(fields.get("norm_topk_prob", False)),
    )


def _device_kind(name: str) -> str:
    """Return "cuda" for the name of a GPU; "cpu" and "" (not known) stay."""
    return name if name in ("", "cpu") else "cuda"


def _read_checkpoint(path: Path) -> Trained:
    stored = checkpoint.read(path)
    state = stored.state
    if "config" not in state:
        raise ValueError("it was written by an earlier version, which did not store the configuration")

    config = TrainConfig.model_validate(state["config"])
    corpus = training_data(config.data, state["data_hash"])
    tokens_seen = min(state["sequences"] * config.model.seq_len, state["budget_tokens"])
    weights = {}
    for name, tensor in stored.tensors.items():
        if name.startswith("weight/"):
            weights[name.removeprefix("weight/")] = tensor

    return Trained(
        where=f"{path} ({tokens_seen:,} of {state['budget_tokens']:,} tokens)",
        config=config,
        weights=weights,
        vocab_size=corpus.vocab_size,
        eos_id=corpus.eos_id,
        tokenizer_path=corpus.tokenizer_path,
        device=state["device"],
        data_hash=state["data_hash"],
        evaluation={},  # the last point may be of earlier weights
        normalises=state.get("normalises", True),  # in an earlier version all were
    )


def training_data(config: DataConfig, data_hash: str) -> Corpus:
    """Return the corpus of a training.

    Args:
        config: The training's data section.
        data_hash: The hash of the training's tokens.

    Raises:
        CorpusError: The data cannot be read, or have changed since the training.
    """
    corpus = load(config)
    if corpus.data_hash != data_hash:
        place = f" at {config.path}" if config.path else ""
        raise CorpusError(
            f'the data of source "{config.source}"{place} have changed since the training: another part of them is '
            "held out now, and the model may have been trained on it"
        )
    return corpus
