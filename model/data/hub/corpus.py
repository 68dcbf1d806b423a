"""A dataset of the hub as a corpus: shards are fetched while what has come is tokenised, and what is done is kept."""

import glob
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data.errors import CorpusError
from model.data.from_text import (
    Meta,
    build_from_text,
    lack_of_text,
    notice_of_end_marks,
    require_spelling,
    save_tokenizer,
)
from model.data.hub.errors import HubError, explain, is_gone, not_there
from model.data.hub.pieces import Pieces
from model.data.hub.reader import Reader
from model.data.hub.rows import Batch
from model.data.hub.shards import find_shards, retries_heard
from model.data.hub.writers import IdsWriter, TextWriter
from model.data.progress import Preparation
from model.data.sources import BYTES_PER_TOKEN_BOUND, Documents
from model.data.splits import choose_by_hash, off_notice
from model.data.token_bytes import ByteCount
from model.data.tokenizer import end_of_text_id, load_tokenizer, vocabulary_size

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


def build_from_hub(config: DataConfig, documents: Documents, key: str, folder: Path, heard: Preparation) -> Meta:
    """Fetch a dataset, tokenise it into a folder, and return what meta.json says of it.

    Args:
        config: Says which dataset, and how many tokens of it.
        documents: What identifies it.
        key: The name of the corpus' cache.
        folder: Where train.bin, val.bin, tokenizer.json and token_bytes.npy go.
        heard: Hears how far it is.

    Raises:
        CorpusError: The dataset cannot be read or divided; what was done is kept for the next attempt.
    """
    try:
        if config.tokenizer:
            return _write_corpus(config, key, folder, heard)

        # One is trained on the text, all of which has to be there first.
        pieces = _fetch_texts(config, key, heard)
        heard.note(f"training a tokenizer of {config.vocab_size:,} tokens, and tokenising")
        meta = build_from_text(config, Documents(pieces.texts, documents.identity), folder)
        return meta | {"notices": [*_notices_of_nulls(config, pieces), *meta["notices"]]}
    except OSError as error:  # of the disk, which is mostly that it is full
        raise explain(error, config.name) from error


def _write_corpus(config: DataConfig, key: str, folder: Path, heard: Preparation) -> Meta:
    """Fetch and tokenise a dataset, and write both splits."""
    tokenizer = load_tokenizer(config.tokenizer)
    save_tokenizer(tokenizer, folder)
    vocab_size = vocabulary_size(tokenizer)
    eos_id = end_of_text_id(tokenizer, config.eos_id, config.tokenizer)
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"

    pieces = _pieces_of(config, key, tokenizer)
    bytes_per_id = np.dtype(dtype).itemsize
    # Pieces and the corpus are there side by side for a moment.
    _require_disk(config, 2 * config.max_tokens * bytes_per_id - pieces.amount * bytes_per_id)

    writer = IdsWriter(pieces, tokenizer, eos_id, dtype, config.max_tokens)
    _collect(config, pieces, "tokens", config.max_tokens, writer, heard)

    heard.note(f"writing {pieces.amount:,} tokens")
    documents = pieces.documents()
    held_out = choose_by_hash(documents["hash"].tolist(), documents["text_bytes"].tolist(), config.val_frac)
    is_val = np.array(held_out.is_val, dtype=bool)
    pieces.write_split(folder / "train.bin", dtype, ~is_val)
    pieces.write_split(folder / "val.bin", dtype, is_val)

    counted = ByteCount()
    counted.add(documents["counted"][is_val].sum(axis=0).tolist())
    require_spelling(counted)
    notices = [
        *_notices_of_nulls(config, pieces),
        off_notice(held_out, config.val_frac),
        notice_of_end_marks(int(documents["has_mark"].sum()), writer.end_mark),
        counted.notice,
    ]
    if pieces.amount < config.max_tokens:
        notices.append(lack_of_text(config, pieces.amount))
    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": dtype,
        "has_tokenizer": True,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "documents": [int((~is_val).sum()), int(is_val.sum())],
        "bytes_factor": counted.factor,
        "notices": [notice for notice in notices if notice],
    }


def _pieces_of(config: DataConfig, key: str, tokenizer: Tokenizer) -> Pieces:
    """Return what an earlier attempt has left, unless it was made by another tokenizer of the same name."""
    pieces = Pieces(pieces_folder(config, key))
    spelling = tokenizer.to_str()
    begun = pieces.folder / "tokenizer.json"
    if pieces.pieces and (not begun.is_file() or begun.read_text(encoding="utf-8") != spelling):
        # It was published anew meanwhile, and ids of two tokenizers must not meet in one corpus.
        pieces.clear()
    begun.write_text(spelling, encoding="utf-8")
    return pieces


def _fetch_texts(config: DataConfig, key: str, heard: Preparation) -> Pieces:
    """Fetch as much text as `max_tokens` can need, so that a tokenizer can be trained on it."""
    pieces = Pieces(pieces_folder(config, key))
    wanted_bytes = config.max_tokens * BYTES_PER_TOKEN_BOUND
    _require_disk(config, int((wanted_bytes - pieces.amount) / _TEXT_COMPRESSION) + 4 * config.max_tokens)

    _collect(config, pieces, "bytes of text", wanted_bytes, TextWriter(pieces), heard)
    return pieces


def remove_pieces(config: DataConfig, key: str) -> None:
    """Remove what was kept while a corpus was built, and the text that an earlier version kept for ever."""
    folder = pieces_folder(config, key)
    shutil.rmtree(folder, ignore_errors=True)

    parts = (config.name, config.subset, config.text_field, str(config.max_tokens))
    spool = folder.parent / ("-".join(parts).replace("/", "_") + ".jsonl")
    for left in (spool, *folder.parent.glob(f"{glob.escape(spool.stem)}.*.partial")):
        left.unlink(missing_ok=True)


def _notices_of_nulls(config: DataConfig, pieces: Pieces) -> list[str]:
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
    except CorpusError:
        raise
    except Exception as error:  # each layer of the libraries has its own kinds
        if is_gone(error):
            pieces.clear()
        raise explain(error, config.name) from error

    if not pieces.amount:
        nowhere = f'dataset "{config.name}": no row has text in data.text_field = "{config.text_field}"'
        raise not_there(nowhere, "data.text_field")


def _keep_batches(
    batches: Iterator[Batch], pieces: Pieces, wanted: int, writer: IdsWriter | TextWriter, heard: Preparation
) -> None:
    there = pieces.amount
    try:
        for batch in batches:
            gained = writer.take(batch)
            there += gained
            heard.prepared(gained)

            is_late = time.monotonic() - pieces.kept_s > _PIECE_S
            if is_late or there - pieces.amount >= writer.piece_amount:
                writer.keep()
            if there >= wanted:
                break
    finally:
        writer.keep()
