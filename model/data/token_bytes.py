"""The bytes of text that tokens stand for, which a loss per byte divides by."""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, pre_tokenizers

from model.data.tokenizer import component_types, vocabulary_size

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How vocabularies with byte fallback write a byte."""
_LOST_FRAC = 0.001
"""Share of a text's bytes that a tokenizer may lose, spaces aside, before bits per byte are not told."""


def count_token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """Return the bytes of text that each token id stands for, [vocabulary]; special tokens have none.

    A byte-level vocabulary spells each byte as one character. One with byte fallback writes single bytes as "<0x0A>".
    Others mark spaces with "\u2581", the inside of a word with a prefix such as "##", or its end with a suffix.
    """
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    added = tokenizer.get_added_tokens_decoder()
    length_of = _TokenLengths(content)

    lengths = np.zeros(vocabulary_size(tokenizer), dtype=np.uint16)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id not in added:
            lengths[token_id] = length_of(token)
        elif not added[token_id].special:
            lengths[token_id] = len(token.encode())  # added tokens are spelled as the text is
    return lengths


class _TokenLengths:
    """Counts the bytes of a token of the vocabulary.

    Args:
        content: The tokenizer's file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        model = content["model"]
        types = component_types(content, "normalizer", "pre_tokenizer", "decoder")

        self._byte_letters = set(pre_tokenizers.ByteLevel.alphabet()) if "ByteLevel" in types else set()
        self._has_byte_tokens = bool(model.get("byte_fallback")) or "ByteFallback" in types
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""

    def __call__(self, token: str) -> int:
        if self._byte_letters:
            return sum(1 if letter in self._byte_letters else len(letter.encode()) for letter in token)
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token):
            return 1

        if self._prefix:
            token = token.removeprefix(self._prefix)
        if self._suffix and token.endswith(self._suffix):
            token = token.removesuffix(self._suffix) + " "
        return len(token.replace("\u2581", " ").encode())


def spells_spaces(tokenizer: Tokenizer) -> bool:
    """Return whether tokens alone tell all bytes of a text: where spaces fall out between words they do not."""
    content = json.loads(tokenizer.to_str())
    types = component_types(content, "normalizer", "pre_tokenizer", "decoder")
    return "ByteLevel" in types or "Metaspace" in types or "\u2581" in tokenizer.get_vocab()


def unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id that stands for what a vocabulary does not have; None if there is none."""
    model = json.loads(tokenizer.to_str())["model"]
    token_id = model.get("unk_id")
    if token_id is None and model.get("unk_token") is not None:
        token_id = tokenizer.token_to_id(model["unk_token"])
    return token_id if isinstance(token_id, int) else None


class ByteCount:
    """How many bytes a text has and how many of them its tokens spell, summed over documents.

    Args:
        tokenizer: What encoded them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = count_token_bytes(tokenizer)
        self._unknown_id = unknown_id(tokenizer)
        self._text_bytes = 0
        self._space_bytes = 0
        self._all_spelled_bytes = 0
        self._num_tokens = 0
        self._num_unknown = 0
        self.spelled_bytes = 0
        self.kept_bytes = 0.0

    def add(self, text: str, ids: npt.NDArray[np.unsignedinteger], num_kept: int) -> None:
        """Count a document.

        Args:
            text: The document.
            ids: All of its token ids.
            num_kept: How many of them, from the first one on, are kept.
        """
        text_bytes = len(text.encode())
        spelled_bytes = int(self._token_bytes[ids].sum())
        kept_spelled_bytes = int(self._token_bytes[ids[:num_kept]].sum())
        kept_frac = kept_spelled_bytes / spelled_bytes if spelled_bytes else 1.0

        self._text_bytes += text_bytes
        self._space_bytes += text_bytes - sum(map(len, text.encode().split()))
        self._num_tokens += len(ids)
        if self._unknown_id is not None:
            self._num_unknown += int(np.count_nonzero(ids == self._unknown_id))

        self.spelled_bytes += kept_spelled_bytes
        self.kept_bytes += text_bytes * kept_frac
        self._all_spelled_bytes += spelled_bytes

    @property
    def factor(self) -> float:
        """Bytes of text for each byte that the tokens spell, a normaliser and spaces considered; 0 if not known."""
        if self.notice or not self.spelled_bytes:
            return 0.0
        return self.kept_bytes / self.spelled_bytes

    @property
    def notice(self) -> str:
        """Why there are no bits per byte; "" if there are."""
        if self._num_unknown:
            return (
                f"{self._num_unknown:,} of {self._num_tokens:,} held-out tokens are unknown to the tokenizer: bits per "
                "byte are not told, and losses are of less than the text"
            )
        lost_bytes = self._text_bytes - self._space_bytes - self._all_spelled_bytes
        if lost_bytes > _LOST_FRAC * self._text_bytes:
            return (
                f"the tokenizer leaves out {lost_bytes:,} of {self._text_bytes:,} held-out bytes: bits per byte are "
                "not told, and losses are of less than the text"
            )
        return ""
