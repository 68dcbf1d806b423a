"""The bytes of text that tokens stand for, which a loss per byte divides by."""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model.data.tokenizer import component_types, vocabulary_size

_BYTE_TOKEN = re.compile(r"<0x[0-9A-Fa-f]{2}>")
"""How vocabularies with byte fallback write a byte."""
_LOST_FRAC = 0.001
"""Share of a text's bytes that a tokenizer may lose, spaces aside, before bits per byte are not told."""


def count_token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """Return the bytes of text that each token id stands for, [vocabulary]; special tokens have none.

    A byte-level vocabulary spells each byte as one character. One with byte fallback writes single bytes as "<0x0A>".
    Others mark spaces with "\\u2581", the inside of a word with a prefix such as "##", or its end with a suffix.
    """
    return _count(tokenizer, len)


def _count(tokenizer: Tokenizer, measure: Callable[[bytes], int]) -> npt.NDArray[np.uint16]:
    """Return a measure of what each token id spells, [vocabulary]; 0 for special tokens."""
    spelled_by = _Spelling(json.loads(tokenizer.to_str()))
    added = tokenizer.get_added_tokens_decoder()

    counts = np.zeros(vocabulary_size(tokenizer), dtype=np.uint16)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id not in added:
            counts[token_id] = measure(spelled_by(token))
        elif not added[token_id].special:
            counts[token_id] = measure(token.encode())  # added tokens are spelled as the text is
    return counts


def _count_spaces(text: bytes) -> int:
    """Return how many bytes of a text are white space."""
    return len(text) - sum(map(len, text.split()))


def _byte_letters() -> dict[str, int]:
    """Return the byte that each letter of a byte-level vocabulary stands for.

    Source: Radford et al. 2019, GPT-2, bytes_to_unicode: printable bytes are themselves, others follow from 256 on.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}


class _Spelling:
    """Spells a token of the vocabulary as bytes of text.

    Args:
        content: The tokenizer's file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        model = content["model"]
        types = component_types(content, "normalizer", "pre_tokenizer", "decoder")

        self._byte_letters = _byte_letters() if "ByteLevel" in types else {}
        self._has_byte_tokens = bool(model.get("byte_fallback")) or "ByteFallback" in types
        self._prefix = model.get("continuing_subword_prefix") or ""
        self._suffix = model.get("end_of_word_suffix") or ""

    def __call__(self, token: str) -> bytes:
        if self._byte_letters:
            letters = self._byte_letters
            return b"".join(bytes([letters[c]]) if c in letters else c.encode() for c in token)
        if self._has_byte_tokens and _BYTE_TOKEN.fullmatch(token):
            return bytes([int(token[3:5], 16)])

        if self._prefix:
            token = token.removeprefix(self._prefix)
        if self._suffix and token.endswith(self._suffix):
            token = token.removesuffix(self._suffix) + " "
        return token.replace("\u2581", " ").encode()


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


class DocumentBytes(NamedTuple):
    """What is counted of a document: its tokens, and how many bytes it has and its tokens spell.

    Args:
        tokens: Its tokens.
        unknown: Those of them that stand for what the vocabulary does not have.
        solid_bytes: Its bytes, white space aside: that may fall out between words.
        solid_spelled_bytes: The same of what all of its tokens spell.
        spelled_bytes: What those of its tokens spell that are kept.
        kept_bytes: The share of its bytes that those stand for.
    """

    tokens: float
    unknown: float
    solid_bytes: float
    solid_spelled_bytes: float
    spelled_bytes: float
    kept_bytes: float


class ByteMeasure:
    """Measures documents one by one.

    Args:
        tokenizer: What encoded them.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = count_token_bytes(tokenizer)
        self._token_spaces = _count(tokenizer, _count_spaces)
        self._unknown_id = unknown_id(tokenizer)

    def __call__(self, data: bytes, ids: npt.NDArray[np.unsignedinteger], num_kept: int) -> DocumentBytes:
        """Measure a document.

        Args:
            data: The document, as UTF-8.
            ids: All of its token ids.
            num_kept: How many of them, from the first one on, are kept.
        """
        token_bytes = self._token_bytes[ids]
        spelled_bytes = int(token_bytes.sum())
        kept_spelled_bytes = int(token_bytes[:num_kept].sum())
        kept_frac = kept_spelled_bytes / spelled_bytes if spelled_bytes else 1.0

        num_unknown = 0
        if self._unknown_id is not None:
            num_unknown = int(np.count_nonzero(ids == self._unknown_id))
        return DocumentBytes(
            tokens=len(ids),
            unknown=num_unknown,
            solid_bytes=len(data) - _count_spaces(data),
            solid_spelled_bytes=spelled_bytes - int(self._token_spaces[ids].sum()),
            spelled_bytes=kept_spelled_bytes,
            kept_bytes=len(data) * kept_frac,
        )


class ByteCount:
    """How many bytes texts have and how many of them their tokens spell, summed over documents."""

    def __init__(self) -> None:
        self._sum = DocumentBytes(0, 0, 0, 0, 0, 0)

    def add(self, counted: Iterable[float]) -> None:
        """Add what was counted of a document, or of several: the fields of a `DocumentBytes`."""
        self._sum = DocumentBytes(*(before + more for before, more in zip(self._sum, counted, strict=True)))

    @property
    def spelled_bytes(self) -> float:
        """Bytes that the kept tokens spell."""
        return self._sum.spelled_bytes

    @property
    def kept_bytes(self) -> float:
        """Bytes of text that the kept tokens stand for."""
        return self._sum.kept_bytes

    @property
    def factor(self) -> float:
        """Bytes of text for each byte that the tokens spell, a normaliser and spaces considered; 0 if not known."""
        if self.notice or not self.spelled_bytes:
            return 0.0
        return self.kept_bytes / self.spelled_bytes

    @property
    def notice(self) -> str:
        """Why there are no bits per byte; "" if there are."""
        total = self._sum
        if total.unknown:
            return (
                f"{total.unknown:,.0f} of {total.tokens:,.0f} held-out tokens are unknown to the tokenizer: bits per "
                "byte are not told, and losses are of less than the text"
            )
        lost_bytes = total.solid_bytes - total.solid_spelled_bytes
        if lost_bytes > _LOST_FRAC * total.solid_bytes:
            return (
                f"the tokenizer leaves out {lost_bytes:,.0f} of {total.solid_bytes:,.0f} held-out bytes: bits per byte "
                "are not told, and losses are of less than the text"
            )
        return ""
