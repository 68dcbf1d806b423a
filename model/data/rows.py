"""The text of each row of local JSON lines or Parquet files; no column but that one is looked at."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from model.data.errors import CorpusError
from model.data.files import opened, place

_BATCH_ROWS = 256
"""Rows of a Parquet file that are read at once."""


class Rows:
    """Rows of files, each a text under one field.

    Args:
        kind: "jsonl" or "parquet".
        files: The files, in order.
        field: The field, or column, that holds the text.
    """

    def __init__(self, kind: str, files: list[Path], field: str) -> None:
        self._read_file = _json_rows if kind == "jsonl" else _parquet_rows
        self._files = files
        self._field = field
        self._num_empty = 0
        self._num_mended = 0
        self._first_empty = ""

    def read(self) -> Iterator[str]:
        """Yield the texts.

        Raises:
            CorpusError: A file cannot be read, or a row has no text; the message names file and row.
        """
        self._num_empty = 0
        self._num_mended = 0

        for file in self._files:
            for number, value in self._read_file(file, self._field):
                if value is None:
                    self._first_empty = self._first_empty or place(file, number)
                    self._num_empty += 1
                elif isinstance(value, str):
                    yield self._counted(value)
                else:
                    raise CorpusError(
                        f'{place(file, number)}: data.text_field = "{self._field}" is {_kind(value)} in this '
                        "row, not a text; mend the row or leave it out",
                        "data.text_field",
                    )

    def notices(self) -> tuple[str, ...]:
        """Return what the user should know of the rows that were read last."""
        notices = []
        if self._num_empty:
            notices.append(
                f'{self._num_empty:,} rows have null in data.text_field = "{self._field}" and are left out, '
                f"the first is {self._first_empty}"
            )
        if self._num_mended:
            notices.append(f"{self._num_mended:,} texts hold halves of characters, which became U+FFFD")
        return tuple(notices)

    def _counted(self, text: str) -> str:
        whole = mended(text)
        self._num_mended += whole != text.removeprefix("\ufeff")
        return whole


def mended(text: str) -> str:
    """Return a text without a byte order mark and with U+FFFD for lone surrogates, which no file can hold."""
    text = text.removeprefix("\ufeff")
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _json_rows(file: Path, field: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each row and what it has in a field; of a file with one array, its elements."""
    with opened(file) as lines:
        is_first = True
        for number, line in enumerate(lines, start=1):
            if is_first:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue

            if is_first and line.lstrip().startswith(b"["):
                array = _parsed(line + lines.read(), file, number)
                yield from ((row, _json_field(value, field, file, row)) for row, value in enumerate(array, start=1))
                return
            is_first = False
            yield number, _json_field(_parsed(line, file, number), field, file, number)


def parse_json(data: bytes) -> Any:
    """Return the value that a line holds.

    Raises:
        ValueError: It is not UTF-8, or not JSON.
        RecursionError: It is nested too deep.
    """
    # Whole numbers of any length: Python's own have a limit, and no column of numbers is needed here.
    return json.loads(data.decode("utf-8"), parse_int=float)


def _parsed(data: bytes, file: Path, number: int) -> Any:
    try:
        return parse_json(data)
    except (ValueError, RecursionError) as error:  # among ValueErrors: not UTF-8, not JSON, a number too long
        hint = 'check data.source, or join each object into one line ("JSON lines")'
        raise CorpusError(f"{place(file, number)}: cannot be read as jsonl: {error}; {hint}", "data.path") from None


def _json_field(row: Any, field: str, file: Path, number: int) -> Any:
    if not isinstance(row, dict):
        raise CorpusError(
            f"{place(file, number)}: the row is {_kind(row)}, not an object with fields; write rows such as "
            f'{{"{field}": "..."}}',
            "data.path",
        )
    if field not in row:
        raise _no_field(file, number, field, [name for name, value in row.items() if isinstance(value, str)])
    return row[field]


def _kind(value: Any) -> str:
    """Return what a value is called in a JSON file."""
    names = {
        bool: "true or false",
        float: "a number",
        int: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "null" if value is None else f"a {type(value).__name__}")


def _no_field(file: Path, number: int, field: str, known: list[str]) -> CorpusError:
    return CorpusError(
        f'{place(file, number)}: no data.text_field = "{field}"; text fields of this row: '
        f"{', '.join(known) or 'none'}; name one of them, or mend the row",
        "data.text_field",
    )


def _parquet_rows(file: Path, field: str) -> Iterator[tuple[int, Any]]:
    """Yield the number of each row and what it has in a column; the other columns are not read."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    number = 0
    try:
        # By the file itself: its name is no URL and no pattern.
        with file.open("rb") as stream, ParquetFile(stream) as table:
            _check_column(table.schema_arrow, file, field)
            for batch in table.iter_batches(batch_size=_BATCH_ROWS, columns=[field]):
                for value in batch.column(0):
                    yield number + 1, as_text(value.as_py())
                    number += 1
    except CorpusError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:  # UnicodeDecodeError is a ValueError
        raise CorpusError(
            f"{place(file, number + 1)}: cannot be read as parquet: {error}; check data.source and the file",
            "data.path",
        ) from None


def holds_text(kind: Any) -> bool:
    """Return whether a column of a Parquet file, by its type, may hold texts."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "null")
    return str(kind) in names


def _check_column(schema: Any, file: Path, field: str) -> None:
    """Check that a Parquet file has one column of a name, and that it holds texts."""
    found = [column for column in schema if column.name == field]
    if len(found) == 1 and holds_text(found[0].type):
        return

    texts = [column.name for column in schema if holds_text(column.type)]
    if not found:
        raise _no_field(file, 1, field, texts)
    what = f"is {found[0].type}, not text" if len(found) == 1 else "is there more than once"
    raise CorpusError(
        f'{file}: the column data.text_field = "{field}" {what}; columns of text: {", ".join(texts) or "none"}',
        "data.text_field",
    )


def as_text(value: Any) -> Any:
    """Return bytes as the text that they spell, and all else as it is."""
    return value.decode("utf-8") if isinstance(value, bytes) else value
