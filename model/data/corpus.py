"""From text to memory-mapped token ids, once per configuration, with whole documents held out for validation."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from model.config import DataConfig
from model.data.batches import num_windows
from model.data.errors import CorpusError, is_full_disk
from model.data.files import file_identity
from model.data.from_text import Meta, build_from_text
from model.data.from_tokens import build_from_tokens, token_files
from model.data.hub import corpus as hub_corpus
from model.data.progress import Preparation, Say, locked
from model.data.sources import Documents, open_documents
from model.data.splits import Ids, hash_ids, open_ids
from model.data.tokenizer import end_of_text_id, load_tokenizer, require_room_for_bytes, tokenizer_file

_CACHE_VERSION = 3
"""Part of every cache's name; a change of what a cache holds must raise it."""
_NOT_IN_KEY = {"train_tokens", "eval_tokens", "num_evals", "cache_dir", "bytes_per_token", "expected_hash"}
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
        bytes_factor: Bytes of text for each byte that held-out tokens spell: 1 where tokens tell the whole text, 0
            where it is not known.
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
    bytes_factor: float = 1.0

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
                    "or another data.val_frac",
                    "model.seq_len",
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
        if self.token_bytes is None or not self.bytes_factor:
            return None

        targets = self.val_ids[starts[:, None] + np.arange(1, seq_len + 1)]
        return float(self.token_bytes[targets].mean()) * self.bytes_factor


def load(config: DataConfig, say: Say | None = None) -> Corpus:
    """Return the corpus, tokenised now or by an earlier run; several processes may call this at once.

    Args:
        config: Source, tokenizer, split and cache folder.
        say: Takes sentences that say how far a long preparation is; None prints them.

    Raises:
        CorpusError: The data cannot be used; the message names the ways out.
    """
    documents = token_files(config) if config.source == "tokens" else open_documents(config)
    folder = Path(config.cache_dir) / _cache_key(config, documents.identity)

    meta = _read_meta(folder)
    if meta is None:
        _check_settings(config)
        _make_cache_dir(config.cache_dir)
        heard = Preparation(say)
        try:
            with locked(folder.with_suffix(".lock"), heard):
                # Another process may have built it meanwhile.
                meta = _read_meta(folder) or _build(config, documents, folder, heard)
        except Exception as error:
            if not is_full_disk(error):
                raise
            raise CorpusError(
                f'data.cache_dir = "{config.cache_dir}": no space left on its disk for the tokenised text; what was '
                "fetched is kept: free some space and run again, or name another folder",
                "data.cache_dir",
                3,
            ) from error
        finally:
            heard.close()

    if config.expected_hash not in ("", meta["data_hash"]):
        raise CorpusError(
            f"the data have changed: their hash is {meta['data_hash'][:12]}, and {config.expected_hash[:12]} is "
            "expected (data.expected_hash); put them back, or begin a study of another name",
            "data.path",
        )
    return _open_cache(config, folder, meta)


def load_cached(config: DataConfig, cache: Path, data_hash: str) -> Corpus | None:
    """Return a corpus that was tokenised before, found by the hash of its tokens; nothing else is read or made.

    Args:
        config: The training's data section, of which no path is followed.
        cache: The folder of the caches.
        data_hash: Hash of the tokens of both splits.

    Returns:
        The corpus, or None where no sound cache holds these tokens.
    """
    for path in sorted(cache.glob(f"{config.source}-*/meta.json")):
        try:
            says = json.loads(path.read_text(encoding="utf-8"))
            is_wanted = says["data_hash"] == data_hash and {says["train"], says["val"]} <= says["files"].keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            continue

        meta = _read_meta(path.parent) if is_wanted else None
        if meta is not None:
            return _open_cache(config, path.parent, meta)

    return None


def _open_cache(config: DataConfig, folder: Path, meta: Meta) -> Corpus:
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
        bytes_factor=meta.get("bytes_factor", 1.0),
    )


def _check_settings(config: DataConfig) -> None:
    """Check what can be checked before a long text is read, or fetched.

    Raises:
        CorpusError: A setting cannot be used.
    """
    if config.source == "tokens":
        return
    if config.tokenizer:
        end_of_text_id(load_tokenizer(config.tokenizer), config.eos_id, config.tokenizer)
        return

    require_room_for_bytes(config.vocab_size)
    if config.eos_id not in (None, 0):
        raise CorpusError(
            f"data.eos_id = {config.eos_id}, but a tokenizer that is trained on the text ends texts with id 0; "
            "leave it out, or set data.tokenizer",
            "data.eos_id",
        )


def _make_cache_dir(path: str) -> None:
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise CorpusError(f'data.cache_dir = "{path}" cannot be made: {reason}', "data.cache_dir", 3) from None


def _cache_key(config: DataConfig, identity: tuple[str, ...]) -> str:
    fields = config.model_dump(mode="json", exclude=_NOT_IN_KEY)
    tokenizer = tokenizer_file(config.tokenizer)
    if tokenizer is not None:
        beside = tokenizer.with_name("tokenizer_config.json")
        identity += file_identity([file for file in (tokenizer, beside) if file.is_file()])

    text = json.dumps([_CACHE_VERSION, fields, identity], sort_keys=True)
    return f"{config.source}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _read_meta(folder: Path) -> Meta | None:
    """Return what `_build` wrote, or None when it is absent or damaged."""
    try:
        meta: Meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        for name, (size_bytes, digest) in meta["files"].items():
            is_ours = Path(name).name == name and (folder / name).is_file()
            if not is_ours or (folder / name).stat().st_size != size_bytes:
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


def _build(config: DataConfig, documents: Documents, folder: Path, heard: Preparation) -> Meta:
    """Write ids, tokenizer and meta.json beside `folder`, then rename, so that nobody sees a half-written cache."""
    for stray in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(stray, ignore_errors=True)
    temporary = folder.parent / f".{folder.name}.{os.getpid()}"
    temporary.mkdir()

    try:
        if config.source == "tokens":
            meta = build_from_tokens(config, temporary)
        elif config.source == "hub":
            meta = hub_corpus.build_from_hub(config, documents, folder.name, temporary, heard)
        else:
            meta = build_from_text(config, documents, temporary)

        splits = [open_ids(temporary / meta[split], meta["dtype"]) for split in ("train", "val")]
        files = {path.name: (path.stat().st_size, _digest(path)) for path in sorted(temporary.iterdir())}
        notices = [*documents.notices, *documents.notices_of_reading(), *meta["notices"]]
        meta |= {"data_hash": hash_ids(splits), "notices": notices, "files": files}
        (temporary / "meta.json").write_text(json.dumps(meta, indent=1), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
        if config.source == "hub":
            hub_corpus.remove_pieces(config, folder.name)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

    return meta
