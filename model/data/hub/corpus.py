"""A dataset of the hub as a corpus: shards are fetched while what has come is tokenised, and what is done is kept."""

import glob
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data.hub.errors import HubError, explain, is_gone, not_there
from model.data.hub.pieces import Pieces
from model.data.hub.reader import Reader
from model.data.hub.rows import Batch
from model.data.hub.shards import find_shards, retries_heard
from model.data.hub.writers import IdsWriter, TextWriter
from model.data.progress import Preparation
from model.data.sources import BYTES_PER_TOKEN_BOUND
from model.data.splits import choose_by_hash
from model.data.tokenizer import end_of_text_id, vocabulary_size

_PIECE_S = 20.0
"""Seconds after which a piece is kept that a slow link has not filled."""
_SPARE_BYTES = 64 * 10**6
"""Disk to leave free."""
_TEXT_COMPRESSION = 2.0
"""Compressed text is smaller by this factor, at least; English is by 2.3 and more."""


def pieces_folder(config: DataConfig, key: str) -> Path:
    """Return where the pieces of a corpus are kept until it is built.

    Args:
        config: Says where caches are.
        key: The name of the corpus' cache.
    """
    return Path(config.cache_dir) / "hub" / key


@contextmanager
def faults_in_words(config: DataConfig) -> Iterator[None]:
    """Turn what the disk raises while the block runs, which is mostly that it is full, into a `HubError`."""
    try:
        yield
    except OSError as error:
        raise explain(error, config.name) from error


def write_corpus(
    config: DataConfig, key: str, tokenizer: Tokenizer, folder: Path, heard: Preparation
) -> dict[str, Any]:
    """Fetch and tokenise a dataset, and write both splits.

    Args:
        config: Says which dataset, and how many tokens of it.
        key: The name of the corpus' cache.
        tokenizer: Makes the ids.
        folder: Where to write train.bin and val.bin.
        heard: Hears how far it is.

    Returns:
        What the corpus' meta.json says of them, and notices.

    Raises:
        HubError: The dataset cannot be read; what was done is kept for the next attempt.
    """
    vocab_size = vocabulary_size(tokenizer)
    eos_id = end_of_text_id(tokenizer) if config.eos_id is None else config.eos_id
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"

    pieces = Pieces(pieces_folder(config, key))
    # Ids of two tokenizers must not meet in one corpus: it may have been published anew meanwhile.
    spelling = tokenizer.to_str()
    begun = pieces.folder / "tokenizer.json"
    if pieces.pieces and (not begun.is_file() or begun.read_text(encoding="utf-8") != spelling):
        pieces.clear()
    begun.write_text(spelling, encoding="utf-8")

    bytes_per_id = np.dtype(dtype).itemsize
    # Pieces and the corpus are there side by side for a moment.
    _require_disk(config, 2 * config.max_tokens * bytes_per_id - pieces.amount * bytes_per_id)

    writer = IdsWriter(pieces, tokenizer, eos_id, dtype, config.max_tokens)
    _collect(config, pieces, "tokens", config.max_tokens, writer, heard)

    heard.note(f"writing {pieces.amount:,} tokens")
    documents = pieces.documents()
    is_val = np.array(
        choose_by_hash(documents["hash"].tolist(), documents["text_bytes"].tolist(), config.val_frac), dtype=bool
    )
    pieces.write_split(folder / "train.bin", dtype, ~is_val)
    pieces.write_split(folder / "val.bin", dtype, is_val)

    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": dtype,
        "has_tokenizer": True,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "documents": [int((~is_val).sum()), int(is_val.sum())],
        "notices": [*_notices(config, pieces), *lack_of_text(config, pieces.amount)],
    }


def fetch_texts(config: DataConfig, key: str, heard: Preparation) -> tuple[Callable[[], Iterator[str]], list[str]]:
    """Fetch as much text as `max_tokens` can need, so that a tokenizer can be trained on it.

    Args:
        config: Says which dataset.
        key: The name of the corpus' cache.
        heard: Hears how far it is.

    Returns:
        What yields the texts from the first one on, and notices.

    Raises:
        HubError: The dataset cannot be read; what was done is kept for the next attempt.
    """
    pieces = Pieces(pieces_folder(config, key))
    wanted_bytes = config.max_tokens * BYTES_PER_TOKEN_BOUND
    _require_disk(config, int((wanted_bytes - pieces.amount) / _TEXT_COMPRESSION) + 4 * config.max_tokens)

    _collect(config, pieces, "bytes of text", wanted_bytes, TextWriter(pieces), heard)
    return pieces.texts, _notices(config, pieces)


def remove_pieces(config: DataConfig, key: str) -> None:
    """Remove what was kept while a corpus was built, and the text that an earlier version kept for ever."""
    folder = pieces_folder(config, key)
    shutil.rmtree(folder, ignore_errors=True)

    parts = (config.name, config.subset, config.text_field, str(config.max_tokens))
    spool = folder.parent / ("-".join(parts).replace("/", "_") + ".jsonl")
    for left in (spool, *folder.parent.glob(f"{glob.escape(spool.stem)}.*.partial")):
        left.unlink(missing_ok=True)


def lack_of_text(config: DataConfig, num_tokens: int) -> list[str]:
    """Return a notice if a dataset had fewer tokens than were asked for, else nothing.

    Args:
        config: Says how many.
        num_tokens: Those that it had.
    """
    if num_tokens >= config.max_tokens:
        return []
    return [
        f'dataset "{config.name}" has {num_tokens:,} tokens, fewer than data.max_tokens = {config.max_tokens:,}: '
        "all of them are used"
    ]


def _notices(config: DataConfig, pieces: Pieces) -> list[str]:
    if not pieces.nulls:
        return []
    return [f'{pieces.nulls:,} rows of "{config.name}" have no text (null) and were left out']


def _require_disk(config: DataConfig, needed_bytes: int) -> None:
    """Raise HubError unless the disk of the cache has room."""
    place = Path(config.cache_dir)
    place.mkdir(parents=True, exist_ok=True)
    free_bytes = shutil.disk_usage(place).free

    needed_bytes = max(0, needed_bytes) + _SPARE_BYTES
    if free_bytes < needed_bytes:
        raise HubError(
            f"data.max_tokens = {config.max_tokens:,} needs {needed_bytes / 1e6:,.0f} MB of disk in {place} while "
            f"it is prepared, and {free_bytes / 1e6:,.0f} MB are free: make room, ask for fewer tokens, or put "
            "data.cache_dir on another disk; what is done is kept"
        )


def _collect(
    config: DataConfig, pieces: Pieces, unit: str, wanted: int, writer: IdsWriter | TextWriter, heard: Preparation
) -> None:
    """Fetch batches until there is as much as is wanted, or no more; a later attempt goes on where this one ends."""
    if pieces.amount >= wanted:
        return

    try:
        with retries_heard(heard):
            shards = pieces.stored_shards()
            if shards is None:
                heard.note(f'looking for the files of "{config.name}" on the hub')
                shards = find_shards(config)
                pieces.store_shards(shards)

            heard.begin(f'fetching "{config.name}"', wanted, unit, pieces.amount)
            with Reader(shards, config, pieces.next, heard) as batches:
                _keep_batches(batches, pieces, wanted, writer, heard)
    except HubError:
        raise
    except Exception as error:  # each layer of the libraries has its own kinds
        if is_gone(error):
            pieces.clear()
        raise explain(error, config.name) from error

    if not pieces.amount:
        raise not_there(f'dataset "{config.name}": no row has text in data.text_field = "{config.text_field}"')


def _keep_batches(
    batches: Iterator[Batch], pieces: Pieces, wanted: int, writer: IdsWriter | TextWriter, heard: Preparation
) -> None:
    there = pieces.amount
    following = pieces.next
    try:
        for batch in batches:
            gained = writer.take(batch)
            there += gained
            following = batch.next
            heard.prepared(gained)

            is_late = time.monotonic() - pieces.kept_s > _PIECE_S
            if is_late or there - pieces.amount >= writer.piece_amount:
                writer.keep(following)
            if there >= wanted:
                break
    finally:
        writer.keep(following)
