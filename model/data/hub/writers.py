"""From batches of texts to pieces: as token ids, or as they are where a tokenizer is yet to be trained."""

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model.data.hub.pieces import DocumentRow, Pieces, document_table
from model.data.hub.rows import Batch, Place
from model.data.splits import hash_document
from model.data.token_bytes import ByteMeasure
from model.data.tokenizer import encode_batch

_PIECE_TOKENS = 2**21
"""Tokens of a piece, about: a few seconds of tokenising, which is what a kill costs."""
_PIECE_TEXT_BYTES = 2**25
"""Bytes of text of a piece, about, where no tokenizer is there yet."""


class IdsWriter:
    """Tokenises batches and keeps the ids, a piece at a time.

    Args:
        pieces: Where they are kept.
        tokenizer: Makes them.
        eos_id: Ends each document.
        dtype: Of the ids.
        max_tokens: Ids of all pieces, at most.
    """

    piece_amount = _PIECE_TOKENS

    def __init__(self, pieces: Pieces, tokenizer: Tokenizer, eos_id: int, dtype: str, max_tokens: int) -> None:
        self._pieces = pieces
        self._tokenizer = tokenizer
        self._measure = ByteMeasure(tokenizer)
        self.end_mark = tokenizer.id_to_token(eos_id) or ""
        self._eos_id = eos_id
        self._dtype = dtype
        self._left = max_tokens - pieces.amount
        self._clear()

    def take(self, batch: Batch) -> int:
        """Take a batch, and return how many tokens were made of it."""
        before = self._left
        encoded = encode_batch(self._tokenizer, batch.texts)

        for text, text_ids in zip(batch.texts, encoded, strict=True):
            if not self._left:
                break
            ids = np.array([*text_ids, self._eos_id], dtype=self._dtype)
            kept = ids[: self._left]
            self._ids.append(kept)
            self._left -= len(kept)

            data = text.encode()
            counted = self._measure(data, ids, len(kept))
            self._rows.append((hash_document(data), len(data), len(kept), self.end_mark in text, counted))

        self._nulls += batch.nulls
        return before - self._left

    def keep(self, following: Place) -> None:
        """Keep what was taken as a piece."""
        if self._rows or self._nulls:
            ids = np.concatenate(self._ids) if self._ids else np.empty(0, self._dtype)
            self._pieces.add_ids(ids, document_table(self._rows), self._nulls, following)
        self._clear()

    def _clear(self) -> None:
        self._ids: list[np.ndarray[Any, Any]] = []
        self._rows: list[DocumentRow] = []
        self._nulls = 0


class TextWriter:
    """Keeps batches as they are.

    Args:
        pieces: Where they are kept.
    """

    piece_amount = _PIECE_TEXT_BYTES

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._texts: list[str] = []
        self._nulls = 0

    def take(self, batch: Batch) -> int:
        """Take a batch, and return its bytes of text."""
        self._texts += batch.texts
        self._nulls += batch.nulls
        return sum(len(text.encode()) for text in batch.texts)

    def keep(self, following: Place) -> None:
        """Keep what was taken as a piece."""
        if self._texts or self._nulls:
            self._pieces.add_texts(self._texts, self._nulls, following)
        self._texts, self._nulls = [], 0
