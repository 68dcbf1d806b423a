"""From batches of texts to pieces: as token ids, or as they are where a tokenizer is yet to be trained."""

from typing import Any, NamedTuple

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


class _Tokenised(NamedTuple):
    """A batch as token ids, with a row for each document and the row of the dataset that follows."""

    ids: list[np.ndarray[Any, Any]]
    rows: list[DocumentRow]
    nulls: int
    next: Place


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
        self._taken: list[_Tokenised] = []

    def take(self, batch: Batch) -> int:
        """Take a batch, as a whole even where Ctrl-C comes meanwhile, and return how many tokens were made of it."""
        left = self._left
        encoded = encode_batch(self._tokenizer, batch.texts)

        all_ids: list[np.ndarray[Any, Any]] = []
        rows: list[DocumentRow] = []
        for text, text_ids in zip(batch.texts, encoded, strict=True):
            if not left:
                break
            ids = np.array([*text_ids, self._eos_id], dtype=self._dtype)
            kept = ids[:left]
            all_ids.append(kept)
            left -= len(kept)

            data = text.encode()
            counted = self._measure(data, ids, len(kept))
            rows.append((hash_document(data), len(data), len(kept), self.end_mark in text, counted))

        gained = self._left - left
        # Half of it with the row before it, or twice the whole, would double documents at the next attempt.
        self._taken.append(_Tokenised(all_ids, rows, batch.nulls, batch.next))
        self._left = left
        return gained

    def keep(self) -> None:
        """Keep what was taken as a piece."""
        taken, self._taken = self._taken, []
        rows = [row for part in taken for row in part.rows]
        nulls = sum(part.nulls for part in taken)
        if not rows and not nulls:
            return

        all_ids = [ids for part in taken for ids in part.ids]
        joined = np.concatenate(all_ids) if all_ids else np.empty(0, self._dtype)
        self._pieces.add_ids(joined, document_table(rows), nulls, taken[-1].next)


class TextWriter:
    """Keeps batches as they are.

    Args:
        pieces: Where they are kept.
    """

    piece_amount = _PIECE_TEXT_BYTES

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces
        self._taken: list[Batch] = []

    def take(self, batch: Batch) -> int:
        """Take a batch, and return its bytes of text."""
        self._taken.append(batch)
        return sum(len(text.encode()) for text in batch.texts)

    def keep(self) -> None:
        """Keep what was taken as a piece."""
        taken, self._taken = self._taken, []
        texts = [text for batch in taken for text in batch.texts]
        nulls = sum(batch.nulls for batch in taken)
        if texts or nulls:
            self._pieces.add_texts(texts, nulls, taken[-1].next)
