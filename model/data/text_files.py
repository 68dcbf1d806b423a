"""Text files as documents: decoded, and cut where documents are needed that the files do not mark."""

import re
from collections.abc import Iterator
from pathlib import Path

from model.data.errors import CorpusError
from model.data.files import opened

_DOCUMENT_CHARS = 4000
"""A single text file is cut at blank lines into documents of about this many characters."""
_SEPARATOR = re.compile(r"^[ \t]*<\|endoftext\|>[ \t]*\r?\n?", re.MULTILINE)
"""A line that marks the end of a text, as collections of stories have it."""
_OTHER_ENCODINGS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
"""Byte order marks of encodings that are not read, the longer ones first."""


class TextFiles:
    """Text files, of which each is a document, or several if lines of <|endoftext|> separate them.

    Args:
        files: The files, in order.
        cut: Whether to cut a single file without such lines at blank lines.
    """

    def __init__(self, files: list[Path], cut: bool) -> None:
        self._files = files
        self._cuts = cut and len(files) == 1
        self._num_separators = 0

    def read(self) -> Iterator[str]:
        """Yield the documents.

        Raises:
            CorpusError: A file is no UTF-8 text.
        """
        self._num_separators = 0
        for file in self._files:
            text = read_text(file)
            parts = _SEPARATOR.split(text)
            self._num_separators += len(parts) - 1

            if len(parts) == 1 and self._cuts:
                yield from _cut_at_blank_lines(text)
            else:
                yield from parts

    def notices(self) -> tuple[str, ...]:
        """Return what the user should know of the files as they were read last."""
        if self._num_separators:
            return (f"{self._num_separators:,} lines of <|endoftext|> separate documents",)
        if self._cuts:
            name = self._files[0].name
            return (f"{name} is cut at blank lines into documents of about {_DOCUMENT_CHARS} characters",)
        return ()


def read_text(file: Path) -> str:
    """Return a file's text, without a byte order mark.

    Raises:
        CorpusError: It cannot be read, is no UTF-8, or holds zero bytes.
    """
    with opened(file) as stream:
        data = stream.read()

    hint = "convert it, or leave it out with a glob such as 'folder/*.txt'"
    for mark, encoding in _OTHER_ENCODINGS.items():
        if data.startswith(mark):
            raise CorpusError(f"{file} is {encoding}, not UTF-8 text; {hint}", "data.path")

    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec leaves the byte order mark out of its count.
        start = error.start + (len(data) - len(error.object))
        line = data.count(b"\n", 0, start) + 1
        raise CorpusError(
            f"{file}:{line}: {file.name} is not UTF-8 text (byte {data[start]:#04x} at {start}); {hint}", "data.path"
        ) from None

    if "\0" in text:
        raise CorpusError(
            f"{file} is binary: it holds zero bytes; leave it out with a glob such as 'folder/*.txt'", "data.path"
        )
    return text


def _cut_at_blank_lines(text: str) -> Iterator[str]:
    """Join paragraphs into documents; those of a small file are shorter, so that there are about 20."""
    target_chars = min(_DOCUMENT_CHARS, len(text) // 20)
    document = ""

    for paragraph in re.split(r"\n[ \t\r]*\n\s*", text):
        if document:
            document += "\n\n"
        document += paragraph
        if len(document) >= target_chars:
            yield document
            document = ""

    if document:
        yield document


def cut(text: str, num_chars: int) -> Iterator[str]:
    """Cut a text behind blank lines, or else line ends, or else spaces, or else anywhere; nothing is lost.

    Args:
        text: A text.
        num_chars: Most characters of a piece; one is at least half as long, except the last.
    """
    start = 0
    while len(text) - start > num_chars:
        half = start + num_chars // 2
        end = start + num_chars
        for separator in ("\n\n", "\n", " "):
            found = text.rfind(separator, half, end)
            if found >= 0:
                end = found + len(separator)
                break
        yield text[start:end]
        start = end
    yield text[start:]
