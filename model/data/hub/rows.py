"""The texts of a dataset's shards, from any row on; of Parquet only the column of the text is fetched."""

import io
import lzma
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from model.config import DataConfig
from model.data.hub.errors import not_there
from model.data.hub.remote_file import RemoteFile
from model.data.hub.shards import Shards
from model.data.progress import Hears
from model.data.rows import as_text, holds_text, mended, parse_json

_BATCH_BYTES = 4 * 2**20
"""Text of one batch, about: enough for the tokenizer to keep every core busy."""
_PARQUET_ROWS = 1000
"""Rows that are decoded at once."""
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4"}
"""Names of compressions for pyarrow, by the end of a file's name."""


class Place(NamedTuple):
    """A row of a dataset: the number of its shard, and its own number in it."""

    shard: int = 0
    row: int = 0


@dataclass(frozen=True)
class Batch:
    """Some texts in their order.

    Args:
        texts: Those of rows that have one.
        nulls: Number of rows that have none.
        next: The row that follows.
    """

    texts: list[str]
    nulls: int
    next: Place


class _Row(NamedTuple):
    text: str | None
    next: Place


def read_batches(shards: Shards, config: DataConfig, start: Place, heard: Hears) -> Iterator[Batch]:
    """Read texts in batches of a few megabytes.

    Args:
        shards: The files.
        config: Says which field is the text.
        start: The first row to read.
        heard: Hears of every byte.

    Yields:
        Batches; the last one of a shard may be small.

    Raises:
        HubError: The field holds no text.
    """
    for number in range(start.shard, len(shards.files)):
        first_row = start.row if number == start.shard else 0
        texts: list[str] = []
        nulls = size_bytes = 0

        for row in _rows(shards, number, first_row, config, heard):
            if row.text is None:
                nulls += 1
            elif row.text.strip():
                texts.append(mended(row.text))
                size_bytes += len(row.text)

            if size_bytes >= _BATCH_BYTES:
                yield Batch(texts, nulls, row.next)
                texts, nulls, size_bytes = [], 0, 0

        yield Batch(texts, nulls, Place(number + 1, 0))


def _rows(shards: Shards, number: int, first_row: int, config: DataConfig, heard: Hears) -> Iterator[_Row]:
    address = shards.files[number]
    if address.endswith(".zip"):
        texts = _by_library(shards, address, first_row, config)
    elif shards.kind == "parquet":
        texts = _parquet(address, first_row, config, heard)
    elif shards.kind == "json" and not shards.options.get("field"):
        texts = _json_lines(shards, address, first_row, config, heard)
    else:
        texts = _by_library(shards, address, first_row, config)

    for row, text in enumerate(texts, first_row):
        yield _Row(text, Place(number, row + 1))


def _parquet(address: str, first_row: int, config: DataConfig, heard: Hears) -> Iterator[str | None]:
    import pyarrow.parquet as pq

    with closing(RemoteFile(address, heard)) as source:
        table = pq.ParquetFile(source, pre_buffer=False)
        _check_column(table.schema_arrow, config, address)

        row = 0
        for group in range(table.num_row_groups):
            num_rows = table.metadata.row_group(group).num_rows
            skipped = min(num_rows, max(0, first_row - row))
            row += num_rows
            if skipped == num_rows:
                continue

            batches = table.iter_batches(_PARQUET_ROWS, [group], [config.text_field])
            for batch in batches:
                texts = batch.column(0).slice(skipped)
                skipped -= len(batch) - len(texts)
                yield from map(as_text, texts.to_pylist())


def _check_column(schema: Any, config: DataConfig, address: str) -> None:
    """Raise HubError unless the text's column is there and holds text."""
    names = [column.name for column in schema if holds_text(column.type)]
    if config.text_field not in names:
        raise _no_text(config, names, address)


def _no_text(config: DataConfig, names: list[str], address: str, row: int | None = None) -> Exception:
    where = address if row is None else f"row {row + 1} of {address}"
    return not_there(
        f'no text in data.text_field = "{config.text_field}" of {where}; '
        f"fields that hold text: {', '.join(names) or 'none'}",
        "data.text_field",
    )


def _json_lines(shards: Shards, address: str, first_row: int, config: DataConfig, heard: Hears) -> Iterator[str | None]:
    with closing(RemoteFile(address, heard)) as source:
        lines = _decompressed(source, address)
        for number, line in enumerate(line for line in lines if line.strip()):
            if not number:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not number and line.lstrip().startswith(b"["):
                # One list of all rows has no lines.
                yield from _by_library(shards, address, first_row, config)
                return
            if number >= first_row or not number:
                text = _text_of(_parsed(line, address, number), config, address, number)
                if number >= first_row:
                    yield text


def _decompressed(source: RemoteFile, address: str) -> io.BufferedIOBase:
    import pyarrow as pa

    end = address[address.rfind(".") :]
    if end == ".xz":
        return cast(io.BufferedIOBase, lzma.open(source))
    if end not in _CODECS:
        return io.BufferedReader(source, 2**20)

    stream = pa.CompressedInputStream(pa.PythonFile(source, "r"), _CODECS[end])
    return io.BufferedReader(cast(io.RawIOBase, stream), 2**20)


def _parsed(line: bytes, address: str, number: int) -> Mapping[str, Any]:
    try:
        row = parse_json(line)
    except (ValueError, RecursionError) as error:
        raise not_there(f"row {number + 1} of {address} is not JSON: {error}", "data.name") from None
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise not_there(f"row {number + 1} of {address} is no JSON object with fields, but {kind}", "data.name")
    return row


def _text_of(row: Mapping[str, Any], config: DataConfig, address: str, number: int) -> str | None:
    """Return a row's text, None where it has none; raise HubError where the field is something else."""
    text = row.get(config.text_field)
    is_missing = not number and config.text_field not in row
    if is_missing or not isinstance(text, str | None):
        raise _no_text(config, [name for name, value in row.items() if isinstance(value, str)], address, number)
    return text


def _by_library(shards: Shards, address: str, first_row: int, config: DataConfig) -> Iterator[str | None]:
    """Read any other kind of file as the library does."""
    import datasets

    rows: Any
    if shards.kind == "cache":
        rows = datasets.load_dataset(address, config.subset or None, split=config.split)
        rows = rows.skip(first_row)
    else:
        options = dict(shards.options)
        if shards.kind == "text":
            # Files are documents; a single one is cut at blank lines, so that some of it can be held out.
            options |= {"sample_by": "document" if len(shards.files) > 1 else "paragraph"}
        rows = datasets.load_dataset(
            shards.kind, data_files={"train": [address]}, split="train", streaming=True, **options
        ).skip(first_row)

    for number, row in enumerate(rows, first_row):
        yield _text_of(row, config, address, number)
