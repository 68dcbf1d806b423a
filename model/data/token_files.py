"""Files of token ids that others have written: what they hold is looked at before it is believed."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.data.errors import CorpusError
from model.data.splits import Ids

_NPY_MAGIC = b"\x93NUMPY"
_OTHER_FORMATS = {
    b"PK\x03\x04": "a zip archive, as .npz and .pt files are",
    b"\x1f\x8b": "compressed with gzip",
    b"\x28\xb5\x2f\xfd": "compressed with zstandard",
    b"BZh": "compressed with bzip2",
    b"\xfd7zXZ": "compressed with xz",
    b"PAR1": "Parquet",
    b"ARROW1": "Arrow",
    b"\x80\x02c": "a pickle",
    b"\x80\x04\x95": "a pickle",
    b"\x80\x05\x95": "a pickle",
    b"MMIDIDX\0": "the index of a Megatron data set, whose ids are in the .bin file",
    b"\x89HDF\r\n": "HDF5",
}
"""First bytes of files that hold something else than bare ids."""
_LLM_C_MAGICS = (20240520, 20240801)
"""First number of the 256 (int32) that llm.c puts before its ids."""
_LOOKED_AT_BYTES = 65536
"""Beginning of a file that is looked at as if it were a text."""
_FEWEST_IDS = 32
"""Fewer ids than this show no pattern."""


def open_token_file(path: Path, dtype: str, vocab_size: int) -> Ids:
    """Map a file of token ids into memory, and look at what it holds.

    Args:
        path: A .npy file, known by its first bytes, or a file of nothing but ids of `dtype`.
        dtype: "uint16" or "uint32"; a .npy file has its own.
        vocab_size: Tokens of the vocabulary.

    Returns:
        The ids, one dimension, read-only and not loaded.

    Raises:
        CorpusError: It holds something else, ids of another width or byte order, or ids outside of the vocabulary.
    """
    try:
        ids = _mapped(path, dtype)
    except OSError as error:
        raise CorpusError(f"{path} cannot be read: {error.strerror or error}", "data.path") from None

    check_width(path, ids, vocab_size)
    check_ids(path, ids, vocab_size)
    return ids


def _mapped(path: Path, dtype: str) -> Ids:
    size_bytes = path.stat().st_size
    if size_bytes == 0:
        raise CorpusError(f"{path} is empty; give a file of token ids", "data.path")

    with path.open("rb") as file:
        start = file.read(_LOOKED_AT_BYTES)
    if start.startswith(_NPY_MAGIC):
        return _mapped_npy(path)

    _check_format(path, start)
    if size_bytes % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path} has {size_bytes} bytes, not whole {dtype} ids; check data.token_dtype", "data.path")
    return np.memmap(path, dtype=np.dtype(dtype).newbyteorder("<"), mode="r")


def _mapped_npy(path: Path) -> Ids:
    try:
        ids = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, MemoryError, OverflowError, SyntaxError, TypeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CorpusError(
            f"{path} is damaged, or no .npy file of numbers: {reason}; write it again", "data.path"
        ) from None

    if ids.ndim != 1 or ids.dtype.name not in ("uint16", "uint32"):
        raise CorpusError(
            f"{path} holds {ids.dtype} of shape {ids.shape}; token ids are flat uint16 or uint32: "
            'save ids.ravel().astype("uint32")',
            "data.path",
        )
    if not len(ids):
        raise CorpusError(f"{path} is empty; give a file of token ids", "data.path")
    return ids


def _check_format(path: Path, start: bytes) -> None:
    """Check that a file does not begin as one of another format does, or as a text."""
    for magic, name in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise CorpusError(f"{path} is {name}; give bare token ids (.bin) or a .npy file", "data.path")

    if len(start) >= 4 and int.from_bytes(start[:4], "little") in _LLM_C_MAGICS:
        raise CorpusError(
            f"{path} has the header of llm.c: 1024 bytes before the ids; write the ids without it "
            f"(tail -c +1025 {path.name} > ids.bin)",
            "data.path",
        )
    if _is_text(start):
        raise CorpusError(f'{path} is text, not token ids; set data.source = "text", "jsonl" or another', "data.source")


def _is_text(start: bytes) -> bool:
    """Return whether the beginning of a file is UTF-8 without control characters: no ids look like that for long."""
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 4:  # the last character may be cut
            return False
        text = start[: error.start].decode("utf-8")
    return len(text) >= _FEWEST_IDS and all(character.isprintable() or character.isspace() for character in text)


def check_width(path: Path, ids: Ids, vocab_size: int) -> None:
    """Check that ids were not written as wider numbers than they are read as.

    Every second one is then the upper half of a number: 0 wherever a vocabulary has at most 65,536 tokens.

    Args:
        path: The ids' file, for the message.
        ids: Token ids.
        vocab_size: Tokens of the vocabulary.

    Raises:
        CorpusError: They were.
    """
    if len(ids) < _FEWEST_IDS:
        return

    halves = (ids[0::2], ids[1::2])
    for upper, lower in (halves, halves[::-1]):
        largest = vocab_size >> 16 if ids.dtype.itemsize == 2 else 0
        if int(upper.max()) <= largest < int(lower.max()):
            bits = ids.dtype.itemsize * 8
            raise CorpusError(
                f"{path} was not written as {ids.dtype.name}: every second id is {_range(largest)}, as in numbers of "
                f'{2 * bits} bits; set data.token_dtype = "uint32" where they have 32, or write the ids as '
                f"{ids.dtype.name}",
                "data.token_dtype",
            )


def _range(largest: int) -> str:
    return "0" if largest == 0 else f"0 to {largest}"


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
    if largest < vocab_size:
        return

    where = int(np.argmax(ids >= vocab_size))
    way_out = "set data.tokenizer or data.vocab_size to what made the file, or check data.token_dtype"
    if reading := _reading_that_fits(ids, vocab_size):
        way_out = f"they fit when they are read as {reading}"
    raise CorpusError(
        f"{path} holds token id {ids[where]} at position {where}, but the vocabulary has {vocab_size} tokens; "
        f"{way_out}",
        "data.path",
    )


def _reading_that_fits(ids: Ids, vocab_size: int) -> str:
    """Return how ids have to be read to lie in the vocabulary, and the way to it; "" if none is known."""
    other_order: npt.NDArray[np.unsignedinteger] = np.asarray(ids).byteswap()
    if int(other_order.max()) < vocab_size:
        return 'big-endian numbers: write them with ids.astype("<u2") or "<u4"'

    raw = np.ascontiguousarray(ids).view(np.uint8)
    for name, dtype, way in (
        ("uint16", "<u2", 'set data.token_dtype = "uint16"'),
        ("uint32", "<u4", 'set data.token_dtype = "uint32"'),
        ("big-endian uint16", ">u2", 'write them with ids.astype("<u2")'),
        ("big-endian uint32", ">u4", 'write them with ids.astype("<u4")'),
    ):
        if len(raw) % np.dtype(dtype).itemsize == 0 and int(raw.view(dtype).max()) < vocab_size:
            return f"{name}: {way}"
    return ""
