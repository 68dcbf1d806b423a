"""Token ids on disk: opening and hashing; and choosing what to hold out."""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.errors import CorpusError

Ids = npt.NDArray[np.unsignedinteger]

MOST_OFF = 2.0
"""The share that is held out may be this many times smaller or larger than what was asked for."""
_PIECES = 4
"""A document that has to be cut is cut into pieces of what is to be held out, divided by this."""
_MIN_PIECE = 500
"""Fewest characters, or token ids, of such a piece."""


@dataclass(frozen=True)
class HeldOut:
    """Which documents are held out.

    Args:
        is_val: Whether each document is.
        frac: Their share of all bytes, 0 to 1.
        num_bytes: Bytes of all documents.
    """

    is_val: list[bool]
    frac: float
    num_bytes: int

    def is_near(self, val_frac: float) -> bool:
        """Return whether the share is about what was asked for."""
        return val_frac / MOST_OFF <= self.frac <= val_frac * MOST_OFF


def choose_validation(documents: Iterable[str | bytes], val_frac: float) -> HeldOut:
    """Choose the documents to hold out: those of lowest hash, until they are `val_frac` of all bytes.

    Equal documents stay together, and the order of the documents does not matter. One with which far too much would be
    held out is passed over.

    Args:
        documents: Texts, or their token ids as bytes.
        val_frac: Share to hold out, between 0 and 1.

    Returns:
        What to hold out; at least one document is and one is not.

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


def choose_by_hash(hashes: Sequence[int], sizes: Sequence[int], val_frac: float) -> HeldOut:
    """Choose as `choose_validation` does, where the documents' hashes and sizes in bytes are known."""
    # Groups of equal documents, in the order of their hashes.
    groups, group_of = np.unique(np.asarray(hashes, dtype=np.uint64), return_inverse=True)
    if len(groups) < 2:
        raise CorpusError(
            f"the corpus has {len(groups)} different documents; at least 2 are needed, "
            "one to train on and one to hold out: use more text",
            "data.path",
        )

    group_bytes = np.bincount(group_of, weights=sizes)
    is_val_group = _choose_groups(group_bytes, val_frac)
    frac = float(group_bytes[is_val_group].sum() / group_bytes.sum())
    return HeldOut(is_val_group[group_of].tolist(), frac, sum(sizes))


def _choose_groups(group_bytes: npt.NDArray[np.float64], val_frac: float) -> npt.NDArray[np.bool_]:
    """Return which of at least two groups to hold out, given their sizes in the order in which they are taken."""
    target_bytes = val_frac * group_bytes.sum()
    is_val = np.zeros(len(group_bytes), dtype=np.bool_)

    last = min(int(np.searchsorted(np.cumsum(group_bytes), target_bytes)), len(group_bytes) - 2)
    is_val[: last + 1] = True
    if group_bytes[is_val].sum() <= target_bytes * MOST_OFF:
        return is_val

    is_val[:] = False
    held_bytes = 0.0
    for group, num_bytes in enumerate(group_bytes):
        if held_bytes + num_bytes <= target_bytes * MOST_OFF:
            is_val[group] = True
            held_bytes += num_bytes
        if held_bytes >= target_bytes:
            break

    if not is_val.any():
        is_val[np.argmin(group_bytes)] = True
    if is_val.all():
        is_val[-1] = False
    return is_val


def piece_length(length: int, val_frac: float) -> int:
    """Return into how long pieces documents are cut where whole ones cannot be divided well.

    Args:
        length: Characters, or token ids, of all documents.
        val_frac: Share to hold out, between 0 and 1.
    """
    return max(_MIN_PIECE, int(length * val_frac / _PIECES))


def off_notice(held_out: HeldOut, val_frac: float) -> str:
    """Return what the user should know of a share that is not what was asked for; "" if it is about that."""
    if held_out.is_near(val_frac):
        return ""
    return (
        f"{held_out.frac:.1%} of the text are held out where data.val_frac asks for {val_frac:.1%}: there is too "
        "little text, or too few documents, to divide it better"
    )


def split_ids(ids: Ids, val_frac: float, eos_id: int | None) -> tuple[list[Ids], list[str]]:
    """Hold out whole documents, or the tail where documents cannot be told apart.

    Args:
        ids: Token ids of all documents.
        val_frac: Share to hold out, between 0 and 1.
        eos_id: Token that ends a document; None if there is none.

    Returns:
        The ids to train on and those held out, and notices.

    Raises:
        CorpusError: There are fewer than two different documents.
    """
    if eos_id is None or not (ends := np.flatnonzero(ids == eos_id) + 1).size:
        cut = len(ids) - max(1, int(len(ids) * val_frac))
        return [ids[:cut], ids[cut:]], []

    documents = [piece for piece in np.split(ids, ends) if len(piece)]
    num_pieces = piece_length(len(ids), val_frac)

    def choose() -> HeldOut:
        return choose_validation((piece.tobytes() for piece in documents), val_frac)

    def cut_all() -> str:
        nonlocal documents
        starts = [(document, range(0, len(document), num_pieces)) for document in documents]
        documents = [document[start : start + num_pieces] for document, each in starts for start in each]
        return f"documents of more than {num_pieces:,} token ids are cut, so that {val_frac:.0%} can be held out"

    held_out, notices = choose_or_cut(choose, cut_all, val_frac)
    is_train = [not is_val for is_val in held_out.is_val]
    return [np.concatenate(list(compress(documents, chosen))) for chosen in (is_train, held_out.is_val)], notices


def choose_or_cut(
    choose: Callable[[], HeldOut], cut_all: Callable[[], str], val_frac: float
) -> tuple[HeldOut, list[str]]:
    """Hold out whole documents, or pieces of them where that comes nowhere near the share that was asked for.

    Args:
        choose: Chooses among the documents as they are.
        cut_all: Cuts the documents, and returns a sentence that says so.
        val_frac: Share to hold out, between 0 and 1.

    Returns:
        What to hold out, and notices.

    Raises:
        CorpusError: There are fewer than two different documents, however they are cut.
    """
    try:
        held_out = choose()
        if held_out.is_near(val_frac):
            return held_out, []
        num_whole = len(held_out.is_val)
    except CorpusError:
        num_whole = -1

    words = cut_all()
    held_out = choose()
    notices = [off_notice(held_out, val_frac)]
    if len(held_out.is_val) != num_whole:
        notices.insert(0, words)
    return held_out, [notice for notice in notices if notice]


def open_ids(path: Path, dtype: str) -> Ids:
    """Map a file of nothing but token ids into memory.

    Args:
        path: The file.
        dtype: "uint16" or "uint32".

    Returns:
        The ids, one dimension, read-only and not loaded.
    """
    return np.memmap(path, dtype=dtype, mode="r")


def hash_ids(splits: Sequence[Ids]) -> str:
    """Return one hash of all splits' tokens, whatever their number format: 64 hexadecimal digits."""
    digest = hashlib.sha256()

    for ids in splits:
        digest.update(f"{len(ids)} ".encode())
        digest.update(np.ascontiguousarray(ids).astype("<u4", copy=False).data)

    return digest.hexdigest()
