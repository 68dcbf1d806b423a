"""Trained weights where they lie: in a folder that `export` wrote, in a run's folder, or in one of its checkpoints."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from model import checkpoint
from model.config import DataConfig, ModelConfig, TrainConfig
from model.data.corpus import Corpus, load
from model.data.sources import CorpusError
from model.inference.card import RESULTS
from model.inference.export import WEIGHTS, load_model


@dataclass(frozen=True)
class Trained:
    """Weights and what is known of their training.

    Args:
        where: For people.
        config: The configuration; of an export without results.json, the shape alone.
        weights: fp32, by the model's names.
        vocab_size: Tokens of the tokenizer; of an export without results.json, padded.
        eos_id: End-of-text token.
        tokenizer_path: None if the training's data are token ids alone.
        device: Kind of device that trained them, "" if not known.
        data_hash: Hash of the data, "" if not known.
        evaluation: What the training measured last, under the names of `evaluate_weights`; empty if not known.
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


def find_weights(path: Path) -> Path:
    """Return the export folder or the checkpoint that a path leads to.

    Args:
        path: An export folder, the folder of a run (its export, else its newest checkpoint) or a checkpoint.

    Raises:
        FileNotFoundError: Nothing trained is there.
    """
    if path.is_file():
        return path.parent if path.name == WEIGHTS else path
    for folder in (path, path / "export"):
        if (folder / WEIGHTS).is_file() and (folder / "config.json").is_file():
            return folder
    checkpoints = [file for folder in (path, path / "checkpoints") for file in folder.glob(f"*{checkpoint.SUFFIX}")]
    if checkpoints:
        return max(checkpoints, key=lambda file: file.stat().st_mtime_ns)
    missing = (
        "holds no trained model: neither an export nor a checkpoint" if path.is_dir() else "no such file or folder"
    )
    raise FileNotFoundError(f"{path}: {missing}")


def read_weights(path: Path) -> Trained:
    """Return the weights that a path leads to.

    Raises:
        FileNotFoundError: Nothing trained is there.
        ValueError: What is there cannot be read.
    """
    found = find_weights(path)
    try:
        return _read_export(found) if found.is_dir() else _read_checkpoint(found)
    except CorpusError:
        raise
    except Exception as error:  # torn files: every reader on the way has errors of its own
        raise ValueError(f"{found} cannot be read: {type(error).__name__}: {error}") from error


def _read_export(folder: Path) -> Trained:
    model = load_model(folder)
    fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tokenizer = folder / "tokenizer.json"
    path = folder / RESULTS
    known = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    training = known.get("training", {})
    shape = {"model": ModelConfig.model_dump(model.config, mode="json")}
    return Trained(
        where=str(folder),
        config=TrainConfig.model_validate(known.get("config", shape)),
        weights=dict(model.named_parameters()),
        vocab_size=training.get("vocab_size", fields["vocab_size"]),
        eos_id=fields["eos_token_id"],
        tokenizer_path=tokenizer if tokenizer.is_file() else None,
        device=_kind(training.get("device", "")),
        data_hash=training.get("data_hash", ""),
        evaluation=known.get("evaluation", {}),
    )


def _kind(device: str) -> str:
    return device if device in ("", "cpu") else "cuda"


def _read_checkpoint(path: Path) -> Trained:
    stored = checkpoint.read(path)
    state = stored.state
    if "config" not in state:
        raise ValueError("it was written by an earlier version, which did not note the configuration")
    config = TrainConfig.model_validate(state["config"])
    corpus = training_data(config.data, state["data_hash"])
    tokens = min(state["sequences"] * config.model.seq_len, state["budget_tokens"])
    return Trained(
        where=f"{path} ({tokens:,} of {state['budget_tokens']:,} tokens)",
        config=config,
        weights={
            name.removeprefix("weight/"): tensor
            for name, tensor in stored.tensors.items()
            if name.startswith("weight/")
        },
        vocab_size=corpus.vocab_size,
        eos_id=corpus.eos_id,
        tokenizer_path=corpus.tokenizer_path,
        device=state["device"],
        data_hash=state["data_hash"],
        evaluation={},  # its last point may be of earlier weights
    )


def training_data(config: DataConfig, data_hash: str) -> Corpus:
    """Return the corpus of a training.

    Args:
        config: Its data section.
        data_hash: The hash of its tokens.

    Raises:
        CorpusError: The data cannot be read, or are not those of the training any more.
    """
    corpus = load(config)
    if corpus.data_hash != data_hash:
        raise CorpusError(
            f'the data of source "{config.source}"{f" at {config.path}" if config.path else ""} have changed since '
            "the training: their held-out part is another one, and may have been trained on"
        )
    return corpus
