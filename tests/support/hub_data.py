"""Texts for a hub of our own, in files of all kinds."""

from __future__ import annotations

import io
import json
import random

import pyarrow as pa
import pyarrow.parquet as pq

WORDS = ("the", "state", "of", "our", "union", "is", "strong", "and", "so", "are", "its", "people", "today", "as")
SHARDS, ROWS, ROWS_OF_A_GROUP, OTHER_BYTES = 4, 120, 30, 3000
NULL_ROW = 7


def document(number: int) -> str:
    """A text of its own for each number."""
    choose = random.Random(number)
    return f"Document {number}: " + " ".join(choose.choice(WORDS) + str(choose.randrange(1000)) for _ in range(150))


def parquet(first: int) -> bytes:
    """A shard whose text is the smallest part of it, and that has one row without."""
    texts = [document(first + row) for row in range(ROWS)]
    others = [random.Random(row).randbytes(OTHER_BYTES) for row in range(ROWS)]
    table = pa.table({"text": [None if row == NULL_ROW else text for row, text in enumerate(texts)], "other": others})
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=ROWS_OF_A_GROUP)
    return file.getvalue()


def json_lines(texts: list[str]) -> bytes:
    """Rows whose other field changes its type, as it does on the hub."""
    return b"".join(json.dumps({"text": text, "n": [n, "n"][n > 5]}).encode() + b"\n" for n, text in enumerate(texts))


def zstd(content: bytes) -> bytes:
    """Content as a .zst file."""
    buffer = pa.BufferOutputStream()
    with pa.CompressedOutputStream(buffer, "zstd") as stream:
        stream.write(content)
    return bytes(buffer.getvalue())
