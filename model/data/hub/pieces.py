"""What is kept of a text that is being fetched: pieces of a few megabytes, each whole or not there.

A piece holds the token ids of some documents and what is needed to choose those to hold out; or, where a tokenizer is
yet to be trained, their texts, compressed. Pieces are removed once the corpus is built from them.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model.data.hub.rows import Place
from model.data.hub.shards import Shards
from model.data.token_bytes import DocumentBytes

_ABANDONED_S = 14 * 86400
"""Age in seconds at which pieces of a corpus that nobody has gone on with are removed."""
_DOCUMENT = np.dtype(
    [
        ("hash", "<u8"),
        ("text_bytes", "<u8"),
        ("tokens", "<u8"),
        ("has_mark", "?"),
        ("counted", "<f8", len(DocumentBytes._fields)),
    ]
)
"""What is kept of each document: its hash and size, its tokens, whether it spells the end-of-text token out, and what
was counted of its bytes."""
DocumentRow = tuple[int, int, int, bool, DocumentBytes]
"""The same as values."""


@dataclass(frozen=True)
class Piece:
    """What is known of one piece.

    Args:
        next: The row that follows its last.
        nulls: Rows without text among its rows.
        amount: Tokens, or bytes of text.
        size_bytes: Of its file.
    """

    next: Place
    nulls: int
    amount: int
    size_bytes: int


class Pieces:
    """The pieces of one corpus, in a folder of its own.

    Args:
        folder: That folder, which is made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(folder)

        self.pieces: list[Piece] = []
        while (piece := self._read(len(self.pieces))) is not None:
            self.pieces.append(piece)
        self._remove_strays()
        self.kept_s = time.monotonic()

    @property
    def next(self) -> Place:
        """The first row that is in no piece."""
        return self.pieces[-1].next if self.pieces else Place()

    @property
    def amount(self) -> int:
        """Tokens, or bytes of text, of all pieces."""
        return sum(piece.amount for piece in self.pieces)

    @property
    def nulls(self) -> int:
        """Rows without text among the rows of all pieces."""
        return sum(piece.nulls for piece in self.pieces)

    # --- the shards, which stay those of the first attempt ---

    def stored_shards(self) -> Shards | None:
        """Return the shards that the pieces are of, None before there are any."""
        try:
            stored = json.loads((self.folder / "shards.json").read_text(encoding="utf-8"))
            return Shards(stored["kind"], tuple(stored["files"]), stored["options"])
        except (OSError, ValueError, KeyError, TypeError):
            if self.pieces:
                self.clear()
            return None

    def store_shards(self, shards: Shards) -> None:
        """Keep the shards: a later attempt goes on with the same commit."""
        _write(self.folder / "shards.json", json.dumps(asdict(shards), default=str).encode())

    def clear(self) -> None:
        """Remove every piece."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.pieces = []

    # --- token ids ---

    def add_ids(
        self, ids: npt.NDArray[np.unsignedinteger], documents: npt.NDArray[np.void], nulls: int, following: Place
    ) -> None:
        """Keep documents as token ids.

        Args:
            ids: Those of all documents, one after the other.
            documents: A row of `_DOCUMENT` for each.
            nulls: Rows without text among them.
            following: The row that follows.
        """
        _write(self._path(".docs"), documents.tobytes())
        _write(self._path(".data"), ids.tobytes())
        self._add(Piece(following, nulls, len(ids), ids.nbytes))

    def documents(self) -> npt.NDArray[np.void]:
        """Return a row of `_DOCUMENT` for each document of all pieces."""
        parts = [np.fromfile(self._path(".docs", number), _DOCUMENT) for number in range(len(self.pieces))]
        return np.concatenate(parts) if parts else np.empty(0, _DOCUMENT)

    def write_split(self, path: Path, dtype: str, chosen: npt.NDArray[np.bool_]) -> None:
        """Write the ids of some documents into one file.

        Args:
            path: The file.
            dtype: Of the ids.
            chosen: Whether each document is one of them.
        """
        done = 0
        with path.open("wb") as file:
            for number in range(len(self.pieces)):
                lengths = np.fromfile(self._path(".docs", number), _DOCUMENT)["tokens"]
                is_chosen = np.repeat(chosen[done : done + len(lengths)], lengths.astype(np.int64))
                ids = np.fromfile(self._path(".data", number), dtype)
                file.write(ids[is_chosen].tobytes())
                done += len(lengths)

    # --- texts ---

    def add_texts(self, texts: Sequence[str], nulls: int, following: Place) -> None:
        """Keep documents as compressed text; arguments as of `add_ids`."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({"text": pa.array(texts, pa.large_string())})
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer, compression="zstd")
        data = buffer.getvalue().to_pybytes()

        _write(self._path(".data"), data)
        size_bytes = sum(len(text.encode()) for text in texts)
        self._add(Piece(following, nulls, size_bytes, len(data)))

    def texts(self) -> Iterator[str]:
        """Yield the texts of all pieces."""
        import pyarrow.parquet as pq

        for number in range(len(self.pieces)):
            yield from pq.read_table(self._path(".data", number))["text"].to_pylist()

    # --- files ---

    def _path(self, suffix: str, number: int | None = None) -> Path:
        return self.folder / f"{len(self.pieces) if number is None else number:06d}{suffix}"

    def _add(self, piece: Piece) -> None:
        # Written last: a piece without it is not there.
        _write(self._path(".json"), json.dumps(asdict(piece)).encode())
        self.pieces.append(piece)
        self.kept_s = time.monotonic()

    def _read(self, number: int) -> Piece | None:
        try:
            stored: dict[str, Any] = json.loads(self._path(".json", number).read_text(encoding="utf-8"))
            piece = Piece(**stored | {"next": Place(*stored["next"])})
            is_whole = self._path(".data", number).stat().st_size == piece.size_bytes
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return piece if is_whole else None

    def _remove_strays(self) -> None:
        """Remove what an attempt that was killed has left beyond the last whole piece."""
        for path in self.folder.iterdir():
            is_piece = path.stem.isdigit() and int(path.stem) < len(self.pieces)
            if path.suffix == ".partial" or (path.stem.isdigit() and not is_piece):
                path.unlink(missing_ok=True)


def document_table(rows: Sequence[DocumentRow]) -> npt.NDArray[np.void]:
    """Return rows as `Pieces.add_ids` takes them."""
    return np.array(rows, dtype=_DOCUMENT)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove pieces of other corpora that were begun long ago and not gone on with, and texts of earlier versions."""
    now_s = time.time()
    for other in folder.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may remove it as well
            if other == folder or now_s - other.stat().st_mtime < _ABANDONED_S:
                continue
            if other.is_dir():
                shutil.rmtree(other)
            else:
                other.unlink()
