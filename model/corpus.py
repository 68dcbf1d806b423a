"""Text to memory-mapped token ids, once per configuration, with whole documents held out for validation."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from filelock import FileLock
from tokenizers import Tokenizer

from model.config import DataConfig
from model.sources import BYTES_PER_TOKEN_BOUND, CorpusError, Documents, file_identity, find_files, open_documents
from model.tokenizer import end_of_text_id, load_tokenizer, train_bpe, vocabulary_size

Ids = npt.NDArray[np.unsignedinteger]

CACHE_VERSION = 1
ENCODE_BATCH = 64
"""Documents the tokenizer encodes at once, in parallel."""
_NOT_IN_KEY = {"eval_tokens", "num_evals", "cache_dir", "bytes_per_token"}
_verified: set[Path] = set()


@dataclass(frozen=True)
class Corpus:
    """Token ids of both splits and what is known about them."""

    train_ids: Ids
    val_ids: Ids
    tokenizer_path: Path | None
    vocab_size: int
    eos_id: int | None
    data_hash: str
    train_documents: int
    val_documents: int
    notices: tuple[str, ...] = ()
    known_bytes_per_token: float = 0.0

    def eval_ids(self, eval_tokens: int, seq_len: int) -> tuple[Ids, str]:
        """Return the held-out ids to score, whole windows of `seq_len` and one target more, and a notice or "".

        Raises:
            CorpusError: A split does not fill one window.
        """
        for split, ids in (("training", self.train_ids), ("validation", self.val_ids)):
            if len(ids) <= seq_len:
                raise CorpusError(
                    f"the {split} split has {len(ids)} tokens, not enough for one window of seq_len = {seq_len} and "
                    "its last target; use more text, a shorter model.seq_len or another data.val_frac"
                )
        windows = min(eval_tokens, len(self.val_ids) - 1) // seq_len
        used = max(1, windows) * seq_len
        notice = "" if len(self.val_ids) > eval_tokens else (
            f"data.eval_tokens = {eval_tokens} but the validation split has {len(self.val_ids)}; scoring {used}"
        )
        return self.val_ids[: used + 1], notice

    def bytes_per_token(self, ids: Ids) -> float | None:
        """Return bytes of text per predicted token of `ids` (all but the first), None without a tokenizer."""
        if self.known_bytes_per_token:
            return self.known_bytes_per_token
        if self.tokenizer_path is None:
            return None
        text = Tokenizer.from_file(str(self.tokenizer_path)).decode(ids[1:].tolist(), skip_special_tokens=True)
        return len(text.encode("utf-8", errors="replace")) / (len(ids) - 1)


def load(config: DataConfig) -> Corpus:
    """Return the corpus, tokenised now or by an earlier run; many processes may ask at once.

    Args:
        config: Source, tokenizer, split and cache folder.

    Returns:
        Memory-mapped ids of both splits.

    Raises:
        CorpusError: The data cannot be used; the message names the ways out.
    """
    documents = _token_files(config) if config.source == "tokens" else open_documents(config)
    key = _cache_key(config, documents.identity)
    folder = Path(config.cache_dir) / key
    meta = _read_meta(folder)
    if meta is None:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            meta = _read_meta(folder) or _build(config, documents, folder)
    return Corpus(
        train_ids=_open_ids(folder / meta["train"], meta["dtype"]),
        val_ids=_open_ids(folder / meta["val"], meta["dtype"]),
        tokenizer_path=folder / "tokenizer.json" if meta["has_tokenizer"] else None,
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
    tokenizer = Path(config.tokenizer).expanduser()
    if config.tokenizer and tokenizer.is_file():
        identity += file_identity([tokenizer])
    text = json.dumps([CACHE_VERSION, fields, identity], sort_keys=True)
    return f"{config.source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read_meta(folder: Path) -> dict | None:
    """Return what `_build` wrote, or None when it is absent or damaged."""
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        splits = [_open_ids(folder / meta[split], meta["dtype"]) for split in ("train", "val")]
        if [len(ids) for ids in splits] != meta["tokens"]:
            return None
        if meta["has_tokenizer"]:
            Tokenizer.from_file(str(folder / "tokenizer.json"))
        if folder not in _verified and _hash(splits) != meta["data_hash"]:
            return None
    except Exception:  # whatever is wrong with a cache, the cure is to build it again
        return None
    _verified.add(folder)  # hashing gigabytes once per process is enough
    return meta


def _build(config: DataConfig, documents: Documents, folder: Path) -> dict:
    """Write ids, tokenizer and meta.json beside `folder`, then rename: a half-written cache is never seen."""
    for stray in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stray, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir()
    try:
        build = _build_tokens if config.source == "tokens" else _build_text
        meta = build(config, documents, temporary)
        splits = [_open_ids(temporary / meta[split], meta["dtype"]) for split in ("train", "val")]
        meta |= {"tokens": [len(ids) for ids in splits], "data_hash": _hash(splits), "notices": documents.notices}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return meta


def _build_text(config: DataConfig, documents: Documents, folder: Path) -> dict:
    is_val = _choose_validation(_kept(config, documents), config.val_frac)
    is_train = [not held_out for held_out in is_val]

    def split(chosen: list[bool]) -> Iterator[str]:
        return compress(_kept(config, documents), chosen)

    if config.tokenizer:
        tokenizer = load_tokenizer(config.tokenizer)
    else:
        tokenizer = train_bpe(split(is_train), config.vocab_size)
    tokenizer.save(str(folder / "tokenizer.json"))
    vocab_size, eos_id = vocabulary_size(tokenizer), end_of_text_id(tokenizer)
    dtype = "uint16" if vocab_size <= 2**16 else "uint32"
    val_limit = int(config.max_tokens * config.val_frac)
    _write_ids(folder / "train.bin", tokenizer, split(is_train), eos_id, dtype, config.max_tokens - val_limit)
    _write_ids(folder / "val.bin", tokenizer, split(is_val), eos_id, dtype, val_limit)
    return {
        "train": "train.bin", "val": "val.bin", "dtype": dtype, "has_tokenizer": True,
        "vocab_size": vocab_size, "eos_id": eos_id, "documents": [sum(is_train), sum(is_val)],
    }


def _kept(config: DataConfig, documents: Documents) -> Iterator[str]:
    """Yield the documents that are not blank, up to a bound on the text that `max_tokens` can need."""
    num_bytes = 0
    for text in documents.read():
        if not text.strip():
            continue
        yield text
        num_bytes += len(text)
        if config.max_tokens and num_bytes >= config.max_tokens * BYTES_PER_TOKEN_BOUND:
            return


def _choose_validation(documents: Iterable[str | bytes], val_frac: float) -> list[bool]:
    """Mark the documents of lowest hash until they make up `val_frac` of the size; equal ones stay together."""
    hashes, sizes = [], []
    for document in documents:
        data = document.encode() if isinstance(document, str) else document
        hashes.append(int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little"))
        sizes.append(len(data))
    if len(set(hashes)) < 2:
        raise CorpusError(
            f"the corpus has {len(set(hashes))} different documents; at least 2 are needed, "
            "one to train on and one to hold out: use more text"
        )
    order = np.argsort(np.asarray(hashes, dtype=np.uint64))
    filled = np.searchsorted(np.cumsum(np.asarray(sizes)[order]), val_frac * sum(sizes))
    threshold = hashes[order[min(int(filled), len(order) - 1)]]
    if threshold == max(hashes):  # leave at least one document to train on
        threshold = max(value for value in hashes if value < threshold)
    return [value <= threshold for value in hashes]


def _write_ids(
    path: Path, tokenizer: Tokenizer, documents: Iterator[str], eos_id: int, dtype: str, limit: int
) -> None:
    """Write each document's ids and an end-of-text id, at most `limit` of them (0: all)."""
    written = 0
    with path.open("wb") as file:
        while batch := list(islice(documents, ENCODE_BATCH)):
            for encoding in tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                ids = np.array([*encoding.ids, eos_id], dtype=dtype)
                ids = ids[: limit - written] if limit else ids
                file.write(ids.tobytes())
                written += len(ids)
            if limit and written >= limit:
                return


def _token_files(config: DataConfig) -> Documents:
    files = [path for each in (config.path, config.val_path) if each for path in find_files(each)]
    if len(files) != 1 + bool(config.val_path):
        raise CorpusError(f'data.path = "{config.path}" must name one file of token ids, not {len(files)}')
    notice = () if config.val_path or config.eos_id is not None or config.tokenizer else (
        f"no data.val_path and no data.eos_id: the last {config.val_frac:.0%} of the tokens are held out",
    )
    return Documents(lambda: iter(()), file_identity(files), notice)


def _build_tokens(config: DataConfig, documents: Documents, folder: Path) -> dict:
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    eos_id = config.eos_id
    if tokenizer is not None:
        tokenizer.save(str(folder / "tokenizer.json"))
        eos_id = end_of_text_id(tokenizer) if eos_id is None else eos_id
    vocab_size = vocabulary_size(tokenizer) if tokenizer is not None else config.vocab_size
    files = [path for each in (config.path, config.val_path) if each for path in find_files(each)]
    splits = [_open_ids(path, config.token_dtype) for path in files]
    if config.max_tokens:
        splits[0] = splits[0][: config.max_tokens]
    for path, ids in zip(files, splits, strict=True):
        _check_ids(path, ids, vocab_size)
    if len(splits) == 1:
        splits = _split_ids(splits[0], config.val_frac, eos_id)
    for name, ids in zip(("train.bin", "val.bin"), splits, strict=True):
        np.ascontiguousarray(ids).tofile(folder / name)
    ends = [1 if eos_id is None else int(np.count_nonzero(ids == eos_id)) for ids in splits]
    return {
        "train": "train.bin", "val": "val.bin", "dtype": splits[0].dtype.name, "has_tokenizer": bool(tokenizer),
        "vocab_size": vocab_size, "eos_id": eos_id, "documents": ends,
    }


def _check_ids(path: Path, ids: Ids, vocab_size: int) -> None:
    largest = int(ids.max()) if len(ids) else 0
    if largest >= vocab_size:
        where = int(np.argmax(ids >= vocab_size))
        raise CorpusError(
            f"{path} holds token id {ids[where]} at position {where}, but the vocabulary has {vocab_size} tokens; "
            "set data.tokenizer or data.vocab_size to what made the file, or check data.token_dtype"
        )


def _split_ids(ids: Ids, val_frac: float, eos_id: int | None) -> list[Ids]:
    """Hold out whole documents by hash, or the tail when documents cannot be told apart."""
    if eos_id is None:
        cut = len(ids) - int(len(ids) * val_frac)
        return [ids[:cut], ids[cut:]]
    ends = np.flatnonzero(ids == eos_id) + 1
    documents = [piece for piece in np.split(ids, ends) if len(piece)]
    is_val = _choose_validation((piece.tobytes() for piece in documents), val_frac)
    train = [piece for piece, held_out in zip(documents, is_val, strict=True) if not held_out]
    return [np.concatenate(train), np.concatenate(list(compress(documents, is_val)))]


def _open_ids(path: Path, dtype: str) -> Ids:
    if path.stat().st_size == 0:
        raise CorpusError(f"{path} is empty; give a file of token ids")
    if path.suffix != ".npy" and path.stat().st_size % np.dtype(dtype).itemsize:
        raise CorpusError(f"{path} has {path.stat().st_size} bytes, not whole {dtype} ids; check data.token_dtype")
    ids = np.load(path, mmap_mode="r") if path.suffix == ".npy" else np.memmap(path, dtype=dtype, mode="r")
    if ids.ndim != 1 or ids.dtype.name not in ("uint16", "uint32"):
        raise CorpusError(f"{path} holds {ids.dtype} of shape {ids.shape}; token ids are flat uint16 or uint32")
    return ids


def _hash(splits: list[Ids]) -> str:
    digest = hashlib.sha256()
    for ids in splits:
        digest.update(f"{len(ids)} ".encode())
        digest.update(np.ascontiguousarray(ids).astype("<u4", copy=False).data)
    return digest.hexdigest()
