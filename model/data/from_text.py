"""Documents to token ids on disk, with whole documents held out for validation."""

from collections.abc import Iterator
from itertools import compress
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data.errors import CorpusError
from model.data.sources import BYTES_PER_TOKEN_BOUND, Documents
from model.data.splits import HeldOut, choose_or_cut, choose_validation, piece_length
from model.data.text_files import cut
from model.data.token_bytes import ByteCount, ByteMeasure, count_token_bytes
from model.data.tokenizer import encode, end_of_text_id, load_tokenizer, train_bpe, vocabulary_size

Meta = dict[str, Any]
"""The content of a cache folder's meta.json."""


def build_from_text(config: DataConfig, documents: Documents, folder: Path) -> Meta:
    """Tokenise documents into a folder, and return what meta.json says of them.

    Args:
        config: Tokenizer, split and limits.
        documents: What to tokenise.
        folder: Where train.bin, val.bin, tokenizer.json and token_bytes.npy go.

    Raises:
        CorpusError: The documents cannot be read, divided or encoded.
    """
    used = _UsedDocuments(config, documents)
    held_out, notices = choose_or_cut(used.choose, used.cut_all, config.val_frac)
    is_val = held_out.is_val
    is_train = [not held_out for held_out in is_val]

    tokenizer = (
        load_tokenizer(config.tokenizer) if config.tokenizer else train_bpe(used.read(is_train), config.vocab_size)
    )
    save_tokenizer(tokenizer, folder)
    vocab_size = vocabulary_size(tokenizer)
    ids = _IdsWriter(tokenizer, end_of_text_id(tokenizer, config.eos_id, config.tokenizer))

    train_limit, val_limit = _limits(config)
    num_tokens, _ = ids.write(folder / "train.bin", used.read(is_train), train_limit)
    num_val_tokens, counted = ids.write(folder / "val.bin", used.read(is_val), val_limit)

    notices += [ids.notice_of_end_marks(), counted.notice]
    if config.max_tokens and num_tokens < 0.95 * train_limit:
        notices.append(lack_of_text(config, num_tokens + num_val_tokens))
    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": ids.dtype,
        "has_tokenizer": True,
        "vocab_size": vocab_size,
        "eos_id": ids.eos_id,
        "documents": [sum(is_train), sum(is_val)],
        "bytes_factor": counted.factor,
        "notices": [notice for notice in notices if notice],
    }


def lack_of_text(config: DataConfig, num_tokens: int) -> str:
    """Return what the user should know of a text that has fewer tokens than were asked for.

    Args:
        config: Says how many.
        num_tokens: Those that it has.
    """
    return (
        f"the text has {num_tokens:,} tokens, fewer than data.max_tokens = {config.max_tokens:,}: all of them are used"
    )


def notice_of_end_marks(num_documents: int, mark: str) -> str:
    """Return what the user should know of texts that spell the end-of-text token out; "" if none does.

    Args:
        num_documents: How many do.
        mark: The token.
    """
    if not num_documents:
        return ""
    return f"{num_documents:,} documents spell {mark} out: it is text there, and ends nothing"


def require_spelling(counted: ByteCount) -> None:
    """Check that a tokenizer has made something of a text.

    Args:
        counted: What was counted of it.

    Raises:
        CorpusError: It has not.
    """
    if not counted.spelled_bytes:
        raise CorpusError("the tokenizer makes no tokens of the text; choose another data.tokenizer", "data.tokenizer")


def _limits(config: DataConfig) -> tuple[int, int]:
    """Return how many tokens to train on and to hold out, at most; 0 for all of them."""
    if not config.max_tokens:
        return 0, 0
    val_limit = max(1, int(config.max_tokens * config.val_frac))
    return max(1, config.max_tokens - val_limit), val_limit


def save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Write a tokenizer and the bytes of its tokens into a cache folder."""
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_bytes.npy", count_token_bytes(tokenizer))


class _UsedDocuments:
    """The documents that are not blank, up to a bound on the text that `max_tokens` can need.

    Args:
        config: Says how many tokens are used.
        documents: All documents.
    """

    def __init__(self, config: DataConfig, documents: Documents) -> None:
        self._config = config
        self._documents = documents
        self._piece_chars = 0
        self._num_chars = 0

    def choose(self) -> HeldOut:
        """Choose what to hold out of the documents, or of their pieces."""
        return choose_validation(self._read(), self._config.val_frac)

    def cut_all(self) -> str:
        """Cut long documents from now on, and return a sentence that says so."""
        self._piece_chars = piece_length(self._num_chars, self._config.val_frac)
        return (
            f"documents of more than {self._piece_chars:,} characters are cut, at blank lines where there are any, "
            f"so that {self._config.val_frac:.0%} can be held out"
        )

    def read(self, chosen: list[bool]) -> Iterator[str]:
        """Yield some of the documents.

        Args:
            chosen: Which of them.
        """
        return compress(self._read(), chosen)

    def _read(self) -> Iterator[str]:
        num_bytes = 0
        self._num_chars = 0

        for document in self._documents.read():
            pieces = cut(document, self._piece_chars) if self._piece_chars else (document,)
            for text in pieces:
                if not text.strip():
                    continue
                yield text
                self._num_chars += len(text)
                num_bytes += len(text.encode())

            if self._config.max_tokens and num_bytes >= self._config.max_tokens * BYTES_PER_TOKEN_BOUND:
                return


class _IdsWriter:
    """Writes each document's ids and an end-of-text id.

    Args:
        tokenizer: What encodes the documents.
        eos_id: The end-of-text id.
    """

    def __init__(self, tokenizer: Tokenizer, eos_id: int) -> None:
        self._tokenizer = tokenizer
        self.eos_id = eos_id
        self.dtype = "uint16" if vocabulary_size(tokenizer) <= 2**16 else "uint32"
        self._end_mark = tokenizer.id_to_token(eos_id)
        self._num_with_mark = 0
        self._measure = ByteMeasure(tokenizer)

    def notice_of_end_marks(self) -> str:
        """Return what the user should know of texts that spell the end-of-text token out; "" if none did."""
        return notice_of_end_marks(self._num_with_mark, self._end_mark)

    def write(self, path: Path, documents: Iterator[str], limit: int) -> tuple[int, ByteCount]:
        """Write documents to a file.

        Args:
            path: The file.
            documents: Texts.
            limit: Most ids to write; 0 for all.

        Returns:
            How many ids were written, and the bytes that they stand for.

        Raises:
            CorpusError: The tokenizer cannot encode the documents.
        """
        num_written = 0
        counted = ByteCount()
        with path.open("wb") as file:
            for text, text_ids in encode(self._tokenizer, documents):
                ids = np.array([*text_ids, self.eos_id], dtype=self.dtype)
                num_kept = min(len(ids), limit - num_written) if limit else len(ids)
                file.write(ids[:num_kept].tobytes())
                num_written += num_kept
                self._num_with_mark += self._end_mark in text
                counted.add(self._measure(text.encode(), ids, num_kept))

                if limit and num_written >= limit:
                    break

        if num_written:
            require_spelling(counted)
        return num_written, counted
