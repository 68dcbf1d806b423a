"""Token ids on disk: opening, checking, hashing, and choosing the documents to hold out."""

import hashlib
from collections.abc import Iterable
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.sources import CorpusError

Ids = npt.NDArray[np.unsignedinteger]


def choose_validation(documents: Iterable[str | bytes], val_frac: float) -> list[bool]:
    """Mark documents of lowest hash until they are `val_frac` of the size; equal ones stay together.

    Raises:
        CorpusError: There are fewer than two different documents.
    """
    hashes, sizes = [], []
    for document in documents:
        data = document.encode() if isinstance(document, str) else document
        hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
        sizes.append(len(data))
    if len(set(hashes)) < 2:
        raise CorpusError(
            f"the corpus has {len(set(hashes))} different documents; at least 2 are needed, "
            "one to train on and one to hold out: use more text"
        )
    order = np.argsort(np.asarray(hashes, dtype=np.uint64))
    filled = np.searchsorted(np.cumsum(np.asarray(sizes)[order]), val_frac * sum(sizes))
    threshold = hashes[order[min(int(filled), len(order) - 1)]]
    if threshold == max(hashes):  # leave at least one document to train on
        threshold = max(value for value in hashes if value < threshold)
    return [value <= threshold for value in hashes]


def check_ids(path: Path, ids: Ids, vocab_size: int) -> None:
    """Raise CorpusError if a token id lies outside the vocabulary."""
    largest = int(ids.max()) if len(ids) else 0
    if largest >= vocab_size:
        where = int(np.argmax(ids >= vocab_size))
        raise CorpusError(
            f"{path} holds token id {ids[where]} at position {where}, but the vocabulary has "
            f"{vocab_size} tokens; set data.tokenizer or data.vocab_size to what made the file, "
            "or check data.token_dtype"
        )


def split_ids(ids: Ids, val_frac: float, eos_id: int | None) -> list[Ids]:
    """Hold out whole documents by hash, or the tail when documents cannot be told apart."""
    if eos_id is None:
        cut = len(ids) - max(1, int(len(ids) * val_frac))
        return [ids[:cut], ids[cut:]]
    ends = np.flatnonzero(ids == eos_id) + 1
    documents = [piece for piece in np.split(ids, ends) if len(piece)]
    is_val = choose_validation((piece.tobytes() for piece in documents), val_frac)
    train = [piece for piece, held_out in zip(documents, is_val, strict=True) if not held_out]
    return [np.concatenate(train), np.concatenate(list(compress(documents, is_val)))]


def open_ids(path: Path, dtype: str) -> Ids:
    """Map a file of token ids: .npy, or flat ids of `dtype`.

    Raises:
        CorpusError: It is empty, or does not hold flat uint16 or uint32 ids.
    """
    if path.stat().st_size == 0:
        raise CorpusError(f"{path} is empty; give a file of token ids")
    if path.suffix != ".npy" and path.stat().st_size % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path} has {path.stat().st_size} bytes, not whole {dtype} ids; check data.token_dtype")
    ids = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, dtype=dtype, mode="r")
    if ids.ndim != 1 or ids.dtype.name not in ("uint16", "uint32"):
        raise CorpusError(f"{path} holds {ids.dtype} of shape {ids.shape}; token ids are flat uint16 or uint32")
    return ids


def hash_ids(splits: list[Ids]) -> str:
    """Return one hash of all splits' tokens, whatever their number format."""
    digest = hashlib.sha256()
    for ids in splits:
        digest.update(f"{len(ids)} ".encode())
        digest.update(np.ascontiguousarray(ids).astype("<u4", copy=False).data)
    return digest.hexdigest()
