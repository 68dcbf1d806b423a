"""A trained model measured on a text: the training's own held-out part, or any other.

Shape suffixes: B windows, T seq_len, D d_model.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.config import DataConfig, SystemConfig
from model.data.sources import CorpusError, find_files, open_documents
from model.data.splits import Ids, check_ids, open_ids
from model.data.tokenizer import count_token_bytes, vocabulary_size
from model.evaluate import Evaluation, evaluate
from model.inference.weights_reader import Trained, read_weights, training_data
from model.loss import count_losses
from model.ops import cpu
from model.ops.precision import choose_device, choose_dtype
from model.transformer import Transformer
from model.weights import MasterWeights

_SUFFIXES = {".jsonl": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".bin": "tokens", ".npy": "tokens"}


@dataclass(frozen=True)
class _Text:
    """Token ids to predict, from the second one on, and the bytes of text that they stand for (None: not known)."""

    what: str
    ids: Ids
    num_bytes: float | None


def evaluate_weights(path: Path, data: str = "", num_tokens: int = 0) -> dict[str, Any]:
    """Measure a trained model on a text.

    Args:
        path: An export folder, a run's folder or a checkpoint.
        data: A file, folder or glob of text, jsonl, parquet or token ids (.bin, .npy); "" for what the training
            held out, on the very tokens of its own evaluations.
        num_tokens: Tokens to predict at most; 0 for all, or for as many as the training's evaluations.

    Returns:
        weights, text, tokens, loss (nats per token), perplexity, accuracy (0 to 1) and, where the bytes of the text
        are known, bits_per_byte; if the same tokens were measured at the end of the training, loss_in_training.

    Raises:
        FileNotFoundError: Nothing trained is there.
        ValueError: It cannot be read, or the text cannot be used.
    """
    trained = read_weights(path)
    measured = _held_out(trained, num_tokens) if not data else _own_text(trained, data, num_tokens)
    return {"weights": trained.where, **measured}


class _Measure:
    """Scores windows with the very code and number format of the training's evaluations."""

    def __init__(self, trained: Trained) -> None:
        config = trained.config
        self.device = choose_device(SystemConfig())
        # Weights of a GPU's training are measured in fp32 on a CPU, where half precision is slow.
        moved = self.device.type == "cpu" and trained.device != "cpu"
        system = config.system.model_copy(update={"dtype": "auto"}) if moved else config.system
        dtype = choose_dtype(system, self.device)
        with self.device:
            self._model = Transformer(config.model, trained.vocab_size, system.flash_attention).eval()
        masters = MasterWeights(self._model, dtype)
        with torch.no_grad():
            for name, weight in masters.weights.items():
                weight.copy_(trained.weights[name])
        masters.publish()
        self._at_a_time = config.pass_sequences

    @torch.no_grad()
    def _score(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD, _ = self._model(tokens_BT)
        return count_losses(x_BTD.flatten(0, 1), self._model.embed_tokens.weight, targets_BT.flatten())

    def windows(self, ids: Ids, starts: npt.NDArray[np.int64], seq_len: int) -> Evaluation:
        """Return the mean over windows of `seq_len` tokens."""
        with cpu.fast_products(self.device):
            return evaluate(self._score, ids, starts, seq_len, self._at_a_time, self.device)

    def all_of(self, ids: Ids, seq_len: int) -> Evaluation:
        """Return the mean over every token but the first; the last window may be shorter."""
        full, rest = divmod(len(ids) - 1, seq_len)
        parts = [self.windows(ids, np.arange(full) * seq_len, seq_len)] if full else []
        parts += [self.windows(ids, np.array([full * seq_len]), rest)] if rest else []
        total = sum(part.num_tokens for part in parts)
        loss = sum(part.val_loss * part.num_tokens for part in parts) / total
        return Evaluation(loss, sum(part.val_accuracy * part.num_tokens for part in parts) / total, total)


def _held_out(trained: Trained, num_tokens: int) -> dict[str, Any]:
    config = trained.config
    if not trained.data_hash:
        raise CorpusError(f"{trained.where} does not say what it was trained on; give a text to measure it on")
    try:
        corpus = training_data(config.data, trained.data_hash)
    except CorpusError as error:
        raise CorpusError(f"{error}; give another text to measure on") from None
    seq_len = config.model.seq_len
    starts, _ = corpus.eval_starts(num_tokens or config.data.eval_tokens, seq_len)
    found = _Measure(trained).windows(corpus.val_ids, starts, seq_len)
    bytes_per_token = corpus.bytes_per_token(starts, seq_len)
    num_bytes = bytes_per_token * found.num_tokens if bytes_per_token else None
    before = trained.evaluation
    same = found.num_tokens == before.get("tokens")
    return _in_words("held out of the training text", found, num_bytes) | (
        {"loss_in_training": before["loss"]} if same else {}
    )


def _own_text(trained: Trained, data: str, num_tokens: int) -> dict[str, Any]:
    try:
        files = find_files(data)
    except CorpusError:
        raise CorpusError(f'no file at "{data}" to measure on; give a file, a folder with files, or a glob') from None
    kinds = {_SUFFIXES.get(file.suffix, "text") for file in files}
    if len(kinds) > 1:
        raise CorpusError(f"{data} holds files of several kinds ({', '.join(sorted(kinds))}); give those of one kind")
    (kind,) = kinds
    read = _token_ids if kind == "tokens" else _documents
    source = trained.config.data.model_copy(update={"source": kind, "path": data, "max_tokens": 0})
    text = read(trained, source, files, num_tokens)
    if len(text.ids) < 2:
        raise CorpusError(f"{data} holds no text to predict")
    found = _Measure(trained).all_of(text.ids, trained.config.model.seq_len)
    return _in_words(text.what, found, text.num_bytes)


def _documents(trained: Trained, source: DataConfig, files: list[Path], num_tokens: int) -> _Text:
    """Return documents with an end-of-text token around each, and their real bytes."""
    if trained.tokenizer_path is None:
        raise CorpusError(f"{trained.where} has no tokenizer: measure it on a file of token ids (.bin or .npy)")
    tokenizer = Tokenizer.from_file(str(trained.tokenizer_path))
    token_bytes = count_token_bytes(tokenizer)
    eos_id = trained.eos_id
    pieces, predicted, num_bytes = [np.array([eos_id], dtype=np.uint32)], 0, 0.0
    for text in open_documents(source, cut=False).read():
        if not text.strip():  # left out of a training as well
            continue
        ids = np.array([*tokenizer.encode(text, add_special_tokens=False).ids, eos_id], dtype=np.uint32)
        kept = ids[: num_tokens - predicted] if num_tokens else ids
        spelled = int(token_bytes[ids].sum())
        # Of a document cut short, the bytes that its tokens spell, in proportion where these differ from the text.
        num_bytes += len(text.encode()) * (int(token_bytes[kept].sum()) / spelled if spelled else 1.0)
        pieces.append(kept)
        predicted += len(kept)
        if num_tokens and predicted >= num_tokens:
            break
    return _Text(source.path, np.concatenate(pieces), num_bytes)


def _token_ids(trained: Trained, source: DataConfig, files: list[Path], num_tokens: int) -> _Text:
    tokenizer = Tokenizer.from_file(str(trained.tokenizer_path)) if trained.tokenizer_path else None
    vocab_size = vocabulary_size(tokenizer) if tokenizer else trained.vocab_size
    parts = [open_ids(file, source.token_dtype) for file in files]
    for file, ids in zip(files, parts, strict=True):
        check_ids(file, ids, vocab_size)
    ids = np.concatenate(parts)[: num_tokens + 1 if num_tokens else None]
    num_bytes: float | None = None
    if source.bytes_per_token:
        num_bytes = source.bytes_per_token * (len(ids) - 1)
    elif tokenizer is not None:
        num_bytes = float(count_token_bytes(tokenizer)[ids[1:]].sum())
    return _Text(source.path, ids, num_bytes)


def _in_words(what: str, found: Evaluation, num_bytes: float | None) -> dict[str, Any]:
    measured = {
        "text": what,
        "tokens": found.num_tokens,
        "loss": found.val_loss,
        "perplexity": found.perplexity,
        "accuracy": found.val_accuracy,
    }
    if not num_bytes:
        return measured
    bits = found.val_loss * found.num_tokens / math.log(2)
    return measured | {"bytes": round(num_bytes), "bits_per_byte": bits / num_bytes}
