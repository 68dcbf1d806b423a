"""From text to memory-mapped token ids, once per configuration, with whole documents held out for validation."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data.batches import num_windows
from model.data.hub import corpus as hub_corpus
from model.data.progress import Preparation, Say, locked
from model.data.sources import BYTES_PER_TOKEN_BOUND, CorpusError, Documents, file_identity, find_files, open_documents
from model.data.splits import Ids, check_ids, choose_validation, hash_ids, open_ids, split_ids
from model.data.tokenizer import count_token_bytes, end_of_text_id, load_tokenizer, train_bpe, vocabulary_size

_Meta = dict[str, Any]
"""The content of a cache folder's meta.json."""

_CACHE_VERSION = 2
"""Part of every cache's name; a change of what a cache holds must raise it."""
_ENCODE_DOCUMENTS = 64
"""Documents that the tokenizer encodes at once, in parallel."""
_NOT_IN_KEY = {"train_tokens", "eval_tokens", "num_evals", "cache_dir", "bytes_per_token"}
"""Settings that change nothing of what a cache holds."""
_verified: set[Path] = set()
"""Cache folders whose files this process has hashed."""


@dataclass(frozen=True)
class Corpus:
    """Token ids of both splits and what is known about them.

    Args:
        train_ids: Token ids to train on, memory-mapped.
        val_ids: Token ids that are held out, memory-mapped.
        tokenizer_path: A tokenizer.json; None if the data are token ids without a tokenizer.
        token_bytes: Bytes of text of each token id; None without a tokenizer.
        vocab_size: Tokens of the tokenizer.
        eos_id: End-of-text token.
        data_hash: Hash of the tokens of both splits.
        train_documents: Number of documents to train on.
        val_documents: Number of documents that are held out.
        notices: What the user should know about the data.
        known_bytes_per_token: Bytes of text per token as the configuration gives them; 0 if it does not.
    """

    train_ids: Ids
    val_ids: Ids
    tokenizer_path: Path | None
    token_bytes: npt.NDArray[np.uint16] | None
    vocab_size: int
    eos_id: int | None
    data_hash: str
    train_documents: int
    val_documents: int
    notices: tuple[str, ...] = ()
    known_bytes_per_token: float = 0.0

    def eval_starts(self, eval_tokens: int, seq_len: int) -> tuple[npt.NDArray[np.int64], str]:
        """Choose the held-out windows to score, spread evenly over the validation split.

        Args:
            eval_tokens: Tokens to score; rounded down to whole windows, at least one.
            seq_len: Tokens per window.

        Returns:
            Positions of the windows' first tokens, and a notice if there are too few of them, else "".

        Raises:
            CorpusError: A split does not fill one window.
        """
        for split, ids in (("training", self.train_ids), ("validation", self.val_ids)):
            if len(ids) <= seq_len:
                raise CorpusError(
                    f"the {split} split has {len(ids)} tokens, not enough for one window of "
                    f"seq_len = {seq_len} and its last target; use more text, a shorter model.seq_len "
                    "or another data.val_frac"
                )

        available = num_windows(len(self.val_ids), seq_len)
        wanted = eval_tokens // seq_len
        notice = ""
        if wanted > available:
            notice = f"data.eval_tokens = {eval_tokens}, but validation has {available * seq_len} to score"

        chosen = max(1, min(wanted, available))
        windows = np.arange(chosen) * available // chosen
        return windows * seq_len, notice

    def bytes_per_token(self, starts: npt.NDArray[np.int64], seq_len: int) -> float | None:
        """Return the mean bytes of text per token predicted in these windows; None without a tokenizer.

        Args:
            starts: Positions of the windows' first tokens.
            seq_len: Tokens per window.
        """
        if self.known_bytes_per_token:
            return self.known_bytes_per_token
        if self.token_bytes is None:
            return None

        targets = self.val_ids[starts[:, None] + np.arange(1, seq_len + 1)]
        return float(self.token_bytes[targets].mean())


def load(config: DataConfig, say: Say | None = None) -> Corpus:
    """Return the corpus, tokenised now or by an earlier run; several processes may call this at once.

    Args:
        config: Source, tokenizer, split and cache folder.
        say: Takes sentences that say how far a long preparation is; None prints them.

    Raises:
        CorpusError: The data cannot be used; the message names the ways out.
    """
    documents = _token_files(config) if config.source == "tokens" else open_documents(config)
    folder = Path(config.cache_dir) / _cache_key(config, documents.identity)

    meta = _read_meta(folder)
    if meta is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        heard = Preparation(say)
        try:
            with locked(folder.with_suffix(".lock"), heard):
                # Another process may have built it meanwhile.
                meta = _read_meta(folder) or _build(config, documents, folder, heard)
        finally:
            heard.close()

    return Corpus(
        train_ids=open_ids(folder / meta["train"], meta["dtype"]),
        val_ids=open_ids(folder / meta["val"], meta["dtype"]),
        tokenizer_path=folder / "tokenizer.json" if meta["has_tokenizer"] else None,
        token_bytes=np.load(folder / "token_bytes.npy") if meta["has_tokenizer"] else None,
        vocab_size=meta["vocab_size"],
        eos_id=meta["eos_id"],
        data_hash=meta["data_hash"],
        train_documents=meta["documents"][0],
        val_documents=meta["documents"][1],
        notices=tuple(meta["notices"]),
        known_bytes_per_token=config.bytes_per_token,
    )


def _cache_key(config: DataConfig, identity: tuple[str, ...]) -> str:
    fields = config.model_dump(mode="json", exclude=_NOT_IN_KEY)
    if config.split == "train":
        del fields["split"]  # caches of before that setting have none

    tokenizer = Path(config.tokenizer).expanduser()
    if config.tokenizer and tokenizer.is_file():
        identity += file_identity([tokenizer])

    text = json.dumps([_CACHE_VERSION, fields, identity], sort_keys=True)
    return f"{config.source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read_meta(folder: Path) -> _Meta | None:
    """Return what `_build` wrote, or None when it is absent or damaged."""
    try:
        meta: _Meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, (size_bytes, digest) in meta["files"].items():
            if (folder / name).stat().st_size != size_bytes:
                return None
            if folder.resolve() not in _verified and _digest(folder / name) != digest:
                return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None  # whatever is wrong with a cache, building it again helps

    _verified.add(folder.resolve())  # hashing gigabytes once per process is enough
    return meta


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _build(config: DataConfig, documents: Documents, folder: Path, heard: Preparation) -> _Meta:
    """Write ids, tokenizer and meta.json beside `folder`, then rename, so that nobody sees a half-written cache."""
    for stray in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stray, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir()

    try:
        if config.source == "tokens":
            meta = _build_from_tokens(config, temporary)
        elif config.source == "hub":
            with hub_corpus.faults_in_words(config):
                meta = _build_from_hub(config, documents, folder.name, temporary, heard)
        else:
            meta = _build_from_text(config, documents, temporary)

        splits = [open_ids(temporary / meta[split], meta["dtype"]) for split in ("train", "val")]
        files = {path.name: (path.stat().st_size, _digest(path)) for path in sorted(temporary.iterdir())}
        notices = [*documents.notices, *meta.pop("notices", ())]
        meta |= {"data_hash": hash_ids(splits), "notices": notices, "files": files}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        if config.source == "hub":
            hub_corpus.remove_pieces(config, folder.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

    return meta


def _build_from_text(config: DataConfig, documents: Documents, folder: Path) -> _Meta:
    """Tokenise documents into a folder, and return what meta.json says of them."""
    is_val = choose_validation(_used_documents(config, documents), config.val_frac)
    is_train = [not held_out for held_out in is_val]

    def split(chosen: list[bool]) -> Iterator[str]:
        return compress(_used_documents(config, documents), chosen)

    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else train_bpe(split(is_train), config.vocab_size)
    _save_tokenizer(tokenizer, folder)
    vocab_size = vocabulary_size(tokenizer)
    eos_id = end_of_text_id(tokenizer)
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"

    val_limit = int(config.max_tokens * config.val_frac)
    _write_ids(folder / "train.bin", tokenizer, split(is_train), eos_id, dtype, config.max_tokens - val_limit)
    _write_ids(folder / "val.bin", tokenizer, split(is_val), eos_id, dtype, val_limit)

    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": dtype,
        "has_tokenizer": True,
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "documents": [sum(is_train), sum(is_val)],
    }


def _build_from_hub(config: DataConfig, documents: Documents, key: str, folder: Path, heard: Preparation) -> _Meta:
    """Fetch a dataset of the hub and tokenise it into a folder; return what meta.json says of it."""
    if config.tokenizer:
        # Whatever is wrong with the tokenizer is said before anything is fetched.
        tokenizer = load_tokenizer(config.tokenizer)
        _save_tokenizer(tokenizer, folder)
        return hub_corpus.write_corpus(config, key, tokenizer, folder, heard)

    # One is trained on the text, all of which has to be there first.
    read, notices = hub_corpus.fetch_texts(config, key, heard)
    heard.note(f"training a tokenizer of {config.vocab_size:,} tokens, and tokenising")
    meta = _build_from_text(config, Documents(read, documents.identity), folder)

    size_bytes = sum((folder / meta[split]).stat().st_size for split in ("train", "val"))
    num_tokens = size_bytes // np.dtype(meta["dtype"]).itemsize
    return meta | {"notices": [*notices, *hub_corpus.lack_of_text(config, num_tokens)]}


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    tokenizer.save(str(folder / "tokenizer.json"))
    np.save(folder / "token_bytes.npy", count_token_bytes(tokenizer))


def _used_documents(config: DataConfig, documents: Documents) -> Iterator[str]:
    """Yield the documents that are not blank, up to a bound on the text that `max_tokens` can need."""
    num_bytes = 0
    for text in documents.read():
        if not text.strip():
            continue

        yield text
        num_bytes += len(text.encode())
        if config.max_tokens and num_bytes >= config.max_tokens * BYTES_PER_TOKEN_BOUND:
            return


def _write_ids(path: Path, tokenizer: Tokenizer, documents: Iterator[str], eos_id: int, dtype: str, limit: int) -> None:
    """Write each document's ids and an end-of-text id, at most `limit` of them (0: all)."""
    num_written = 0
    with path.open("wb") as file:
        while batch := list(islice(documents, _ENCODE_DOCUMENTS)):
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                ids = np.array([*encoding.ids, eos_id], dtype=dtype)
                ids = ids[: limit - num_written] if limit else ids
                file.write(ids.tobytes())
                num_written += len(ids)

            if limit and num_written >= limit:
                return


def _token_files(config: DataConfig) -> Documents:
    """Return what identifies the files of token ids; they hold no documents to read."""
    files = _token_paths(config)
    if len(files) != 1 + bool(config.val_path):
        raise CorpusError(f'data.path = "{config.path}" must name one file of token ids, not {len(files)}')

    notices: tuple[str, ...] = ()
    if not config.val_path and config.eos_id is None and not config.tokenizer:
        notices = (f"no data.val_path and no data.eos_id: the last {config.val_frac:.0%} of the tokens are held out",)
    return Documents(lambda: iter(()), file_identity(files), notices)


def _token_paths(config: DataConfig) -> list[Path]:
    """Return the files of token ids: one to train on and, if there is one, one that is held out."""
    paths = find_files(config.path)
    if config.val_path:
        paths += find_files(config.val_path)
    return paths


def _build_from_tokens(config: DataConfig, folder: Path) -> _Meta:
    """Copy files of token ids into a folder, split, and return what meta.json says of them."""
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    eos_id = config.eos_id
    if tokenizer is not None:
        _save_tokenizer(tokenizer, folder)
        eos_id = end_of_text_id(tokenizer) if eos_id is None else eos_id
    vocab_size = vocabulary_size(tokenizer) if tokenizer is not None else config.vocab_size

    files = _token_paths(config)
    splits = [open_ids(path, config.token_dtype) for path in files]
    if config.max_tokens:
        splits[0] = splits[0][: config.max_tokens]
    for path, ids in zip(files, splits, strict=True):
        check_ids(path, ids, vocab_size)

    if len(splits) == 1:
        splits = split_ids(splits[0], config.val_frac, eos_id)
    for name, ids in zip(("train.bin", "val.bin"), splits, strict=True):
        np.ascontiguousarray(ids).tofile(folder / name)

    num_documents = [1, 1]
    if eos_id is not None:
        num_documents = [int(np.count_nonzero(ids == eos_id)) for ids in splits]

    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": splits[0].dtype.name,
        "has_tokenizer": bool(tokenizer),
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "documents": num_documents,
    }
