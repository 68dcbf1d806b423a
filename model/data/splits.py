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
    """Choose the documents to hold out: those of lowest hash, until they are `val_frac` of all bytes.

    Equal documents stay together, and the order of the documents does not matter.

    Args:
        documents: Texts, or their token ids as bytes.
        val_frac: Share to hold out, between 0 and 1.

    Returns:
        Whether to hold out each document; at least one is held out and one is not.

    Raises:
        CorpusError: There are fewer than two different documents.
    """
    hashes = []
    sizes = []
    for document in documents:
        data = document.encode() if isinstance(document, str) else document
        hashes.append(hash_document(data))
        sizes.append(len(data))

    return choose_by_hash(hashes, sizes, val_frac)


def hash_document(data: bytes) -> int:
    """Return the hash by which a document is held out or not, 64 bits."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def choose_by_hash(hashes: list[int], sizes: list[int], val_frac: float) -> list[bool]:
    """Choose as `choose_validation` does, where the documents' hashes and sizes in bytes are known."""
    num_different = len(set(hashes))
    if num_different < 2:
        raise CorpusError(
            f"the corpus has {num_different} different documents; at least 2 are needed, "
            "one to train on and one to hold out: use more text"
        )

    order = np.argsort(np.asarray(hashes, dtype=np.uint64))
    sizes_so_far = np.cumsum(np.asarray(sizes)[order])
    last_held_out = int(np.searchsorted(sizes_so_far, val_frac * sum(sizes)))
    threshold = hashes[order[min(last_held_out, len(order) - 1)]]

    if threshold == max(hashes):  # leave at least one document to train on
        threshold = max(value for value in hashes if value < threshold)
    return [value <= threshold for value in hashes]


def check_ids(path: Path, ids: Ids, vocab_size: int) -> None:
    """Check that every token id lies in the vocabulary.

    Args:
        path: The ids' file, for the message.
        ids: Token ids.
        vocab_size: Tokens of the vocabulary.

    Raises:
        CorpusError: An id does not.
    """
    largest = int(ids.max()) if len(ids) else 0
    if largest >= vocab_size:
        where = int(np.argmax(ids >= vocab_size))
        raise CorpusError(
            f"{path} holds token id {ids[where]} at position {where}, but the vocabulary has "
            f"{vocab_size} tokens; set data.tokenizer or data.vocab_size to what made the file, "
            "or check data.token_dtype"
        )


def split_ids(ids: Ids, val_frac: float, eos_id: int | None) -> list[Ids]:
    """Hold out whole documents, or the tail where documents cannot be told apart.

    Args:
        ids: Token ids of all documents.
        val_frac: Share to hold out, between 0 and 1.
        eos_id: Token that ends a document; None if there is none.

    Returns:
        The ids to train on and those held out.

    Raises:
        CorpusError: There are fewer than two different documents.
    """
    if eos_id is None:
        cut = len(ids) - max(1, int(len(ids) * val_frac))
        return [ids[:cut], ids[cut:]]

    ends = np.flatnonzero(ids == eos_id) + 1
    documents = [piece for piece in np.split(ids, ends) if len(piece)]
    is_val = choose_validation((piece.tobytes() for piece in documents), val_frac)
    is_train = [not held_out for held_out in is_val]
    train = list(compress(documents, is_train))
    val = list(compress(documents, is_val))
    return [np.concatenate(train), np.concatenate(val)]


def open_ids(path: Path, dtype: str) -> Ids:
    """Map a file of token ids into memory.

    Args:
        path: A .npy file, or a file of nothing but ids of `dtype`.
        dtype: "uint16" or "uint32"; a .npy file has its own.

    Returns:
        The ids, one dimension, read-only and not loaded.

    Raises:
        CorpusError: It is empty, or does not hold flat uint16 or uint32 ids.
    """
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise CorpusError(f"{path} is empty; give a file of token ids")

    is_npy = path.suffix == ".npy"
    if not is_npy and size_bytes % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path} has {size_bytes} bytes, not whole {dtype} ids; check data.token_dtype")

    ids = np.load(path, mmap_mode="r") if is_npy else np.memmap(path, dtype=dtype, mode="r")
    if ids.ndim != 1 or ids.dtype.name not in ("uint16", "uint32"):
        raise CorpusError(f"{path} holds {ids.dtype} of shape {ids.shape}; token ids are flat uint16 or uint32")
    return ids


def hash_ids(splits: list[Ids]) -> str:
    """Return one hash of all splits' tokens, whatever their number format: 64 hexadecimal digits."""
    digest = hashlib.sha256()

    for ids in splits:
        digest.update(f"{len(ids)} ".encode())
        digest.update(np.ascontiguousarray(ids).astype("<u4", copy=False).data)

    return digest.hexdigest()
