"""The loss of a trained model on a text: the part that its training held out, or any other text.

Shape suffixes: B windows, T seq_len, D d_model.
"""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from model.config import DataConfig, SystemConfig
from model.data.errors import CorpusError
from model.data.files import find_files
from model.data.sources import kind_of, open_documents
from model.data.splits import Ids
from model.data.token_bytes import ByteCount, ByteMeasure, count_token_bytes, spells_spaces
from model.data.token_files import open_token_file
from model.data.tokenizer import encode, vocabulary_size
from model.inference.training_tokens import training_data
from model.inference.weights_reader import Trained, open_tokenizer, read_weights
from model.loss import count_losses
from model.ops import cpu
from model.ops.precision import choose_device, choose_dtype
from model.training.evaluate import Evaluation, evaluate
from model.transformer import Transformer, padded_vocab_size
from model.weights import MasterWeights

_MAX_PASS_TOKENS = 2**19
"""Most tokens of a pass, whatever the model's settings say of the training's."""


@dataclass(frozen=True)
class _Text:
    """A text to measure on.

    Args:
        what: Its name, for people.
        ids: Token ids; those from the second one on are predicted.
        num_bytes: Bytes of text that the predicted ids stand for; None if not known.
    """

    what: str
    ids: Ids
    num_bytes: float | None


def evaluate_weights(path: Path, data: str = "", num_tokens: int = 0) -> dict[str, Any]:
    """Measure a trained model on a text.

    Args:
        path: An export folder, a run's folder or a checkpoint.
        data: A file, folder or glob of text, jsonl, parquet or token ids (.bin, .npy), which its suffix tells in either
            case and behind a suffix of compression; "" for what the training held out, on the very tokens of its own
            evaluations.
        num_tokens: Tokens to predict at most; 0 for all, or for as many as the training's evaluations.

    Returns:
        "weights", "text", "tokens", "loss" (nats per token), "perplexity" and "accuracy" (0 to 1); "bytes" and
        "bits_per_byte" where the bytes of the text are known; and "loss_in_training" where the training measured the
        same tokens at its end.

    Raises:
        FileNotFoundError: There is no trained model at the path.
        ValueError: It cannot be read, or the text cannot be used.
    """
    trained = read_weights(path)
    results = _evaluate_on_data(trained, data, num_tokens) if data else _evaluate_on_held_out(trained, num_tokens)
    return {"weights": trained.where, **results}


class _Evaluator:
    """Scores windows by the same code and in the same number format as the training's evaluations."""

    def __init__(self, trained: Trained) -> None:
        config = trained.config
        system = config.system
        self.device = choose_device(SystemConfig())
        # A CPU is slow in half precision: weights that a GPU has trained are measured in fp32 there.
        if self.device.type == "cpu" and trained.device != "cpu":
            system = system.model_copy(update={"dtype": "auto"})
        dtype = choose_dtype(system, self.device)

        with self.device:
            shape = config.model, trained.vocab_size, system.flash_attention, trained.normalises
            self._model = Transformer(*shape).eval()
        masters = MasterWeights(self._model, dtype)
        with torch.no_grad():
            for name, weight in masters.weights.items():
                weight.copy_(trained.weights[name])
        masters.publish()
        self._windows_per_batch = min(config.pass_sequences, max(1, _MAX_PASS_TOKENS // config.model.seq_len))

    @torch.no_grad()
    def _score(self, tokens_BT: Tensor, targets_BT: Tensor) -> tuple[Tensor, Tensor]:
        x_BTD, _ = self._model(tokens_BT)
        return count_losses(x_BTD.flatten(0, 1), self._model.embed_tokens.weight, targets_BT.flatten())

    def windows(self, ids: Ids, starts: npt.NDArray[np.int64], seq_len: int) -> Evaluation:
        """Return the mean over windows.

        Args:
            ids: Token ids.
            starts: Positions of the windows' first tokens.
            seq_len: Tokens per window.
        """
        with cpu.fast_products(self.device):
            return evaluate(self._score, ids, starts, seq_len, self._windows_per_batch, self.device)

    def whole(self, ids: Ids, seq_len: int) -> Evaluation:
        """Return the mean over every token but the first; the last window may be shorter than `seq_len`."""
        num_full, rest = divmod(len(ids) - 1, seq_len)
        parts = []
        if num_full:
            parts.append(self.windows(ids, np.arange(num_full) * seq_len, seq_len))
        if rest:
            parts.append(self.windows(ids, np.array([num_full * seq_len]), rest))

        num_tokens = sum(part.num_tokens for part in parts)
        loss = sum(part.val_loss * part.num_tokens for part in parts) / num_tokens
        accuracy = sum(part.val_accuracy * part.num_tokens for part in parts) / num_tokens
        return Evaluation(loss, accuracy, num_tokens)


def _evaluate_on_held_out(trained: Trained, num_tokens: int) -> dict[str, Any]:
    config = trained.config
    if not trained.data_hash:
        raise CorpusError(f"{trained.where} does not say what it was trained on; give a text to measure it on")

    try:
        padded_vocab = padded_vocab_size(trained.vocab_size)
        corpus = training_data(config.data, trained.data_hash, padded_vocab, trained.path, trained.tokenizer_path)
    except CorpusError as error:
        raise CorpusError(f"{error}; give another text to measure on (--data)") from None
    if corpus.vocab_size > padded_vocab:
        raise CorpusError(f"the tokens of its training have a vocabulary of {corpus.vocab_size}, the weights another")

    seq_len = config.model.seq_len
    starts, _ = corpus.eval_starts(num_tokens or config.data.eval_tokens, seq_len)
    evaluation = _Evaluator(trained).windows(corpus.val_ids, starts, seq_len)
    bytes_per_token = corpus.bytes_per_token(starts, seq_len)
    num_bytes = None
    if bytes_per_token:
        num_bytes = bytes_per_token * evaluation.num_tokens

    results = _results("held out of the training text", evaluation, num_bytes)
    if trained.evaluation.get("tokens") == evaluation.num_tokens:
        results["loss_in_training"] = trained.evaluation["loss"]
    return results


def _evaluate_on_data(trained: Trained, data: str, num_tokens: int) -> dict[str, Any]:
    try:
        files = find_files(data)
    except CorpusError:
        raise CorpusError(f'no file at "{data}" to measure on; give a file, a folder with files, or a glob') from None

    kinds = {kind_of(file) for file in files}
    if len(kinds) > 1:
        raise CorpusError(f"{data} holds files of several kinds ({', '.join(sorted(kinds))}); give files of one kind")
    (kind,) = kinds

    source = trained.config.data.model_copy(update={"source": kind, "path": data, "max_tokens": 0})
    if kind == "tokens":
        text = _read_token_ids(trained, source, files, num_tokens)
    else:
        text = _read_documents(trained, source, num_tokens)
    if len(text.ids) < 2:
        raise CorpusError(f"{data} holds no text to predict; give a text of at least one token")

    evaluation = _Evaluator(trained).whole(text.ids, trained.config.model.seq_len)
    return _results(text.what, evaluation, text.num_bytes)


def _read_documents(trained: Trained, source: DataConfig, num_tokens: int) -> _Text:
    """Return documents with an end-of-text token around each, and their real bytes."""
    if trained.tokenizer_path is None:
        raise CorpusError(f"{trained.where} has no tokenizer: measure it on a file of token ids (.bin or .npy)")
    tokenizer = open_tokenizer(trained)
    measure = ByteMeasure(tokenizer)
    counted = ByteCount()
    eos_id = trained.eos_id

    pieces = [np.array([eos_id], dtype=np.uint32)]
    num_predicted = 0
    # Blank documents are left out of a training as well.
    documents = (text for text in open_documents(source, cut=False).read() if text.strip())
    for text, text_ids in encode(tokenizer, documents):
        ids = np.array([*text_ids, eos_id], dtype=np.uint32)
        num_kept = min(len(ids), num_tokens - num_predicted) if num_tokens else len(ids)
        pieces.append(ids[:num_kept])
        num_predicted += num_kept

        # The real bytes: what tokens spell may differ from the text, since a tokenizer may normalise it.
        counted.add(measure(text.encode(), ids, num_kept))
        if num_tokens and num_predicted >= num_tokens:
            break

    num_bytes = None if counted.notice else counted.kept_bytes
    return _Text(source.path, np.concatenate(pieces), num_bytes)


def _read_token_ids(trained: Trained, source: DataConfig, files: list[Path], num_tokens: int) -> _Text:
    tokenizer = open_tokenizer(trained) if trained.tokenizer_path else None
    vocab_size = vocabulary_size(tokenizer) if tokenizer else trained.vocab_size

    parts = [_open_in_either_width(file, source.token_dtype, vocab_size) for file in files]
    ids = np.concatenate(parts)[: num_tokens + 1 if num_tokens else None]
    num_bytes: float | None = None
    if source.bytes_per_token:
        num_bytes = source.bytes_per_token * (len(ids) - 1)
    elif tokenizer is not None and spells_spaces(tokenizer):
        num_bytes = float(count_token_bytes(tokenizer)[ids[1:]].sum())
    return _Text(source.path, ids, num_bytes)


def _open_in_either_width(file: Path, dtype: str, vocab_size: int) -> Ids:
    """Map a file of token ids, as wide as those of the training or, where that cannot be, as the others."""
    try:
        return open_token_file(file, dtype, vocab_size)
    except CorpusError:
        (other,) = {"uint16", "uint32"} - {dtype}
        with contextlib.suppress(CorpusError):
            return open_token_file(file, other, vocab_size)
        raise


def _results(what: str, evaluation: Evaluation, num_bytes: float | None) -> dict[str, Any]:
    """Return what `evaluate_weights` says of an evaluation."""
    results: dict[str, Any] = {
        "text": what,
        "tokens": evaluation.num_tokens,
        "loss": evaluation.val_loss,
        "perplexity": evaluation.perplexity,
        "accuracy": evaluation.val_accuracy,
    }
    if num_bytes:
        bits = evaluation.val_loss * evaluation.num_tokens / math.log(2)
        results["bytes"] = round(num_bytes)
        results["bits_per_byte"] = bits / num_bytes
    return results
