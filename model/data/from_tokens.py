"""Files of token ids to the ids of both splits on disk."""

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from model.config import DataConfig
from model.data.errors import CorpusError
from model.data.files import file_identity, find_files
from model.data.from_text import Meta, save_tokenizer
from model.data.sources import Documents
from model.data.splits import Ids, split_ids
from model.data.token_bytes import spells_spaces
from model.data.token_files import open_token_file
from model.data.tokenizer import end_of_text_id, load_tokenizer, vocabulary_size


def token_files(config: DataConfig) -> Documents:
    """Return what identifies the files of token ids; they hold no documents to read.

    Args:
        config: Names one file, or one to train on and one that is held out.

    Raises:
        CorpusError: There is none, there are more, or both are the same.
    """
    files = _token_paths(config)
    if len(files) != 1 + bool(config.val_path):
        raise CorpusError(f'data.path = "{config.path}" must name one file of token ids, not {len(files)}', "data.path")
    if config.val_path and files[0].samefile(files[1]):
        raise CorpusError(
            f'data.val_path = "{config.val_path}" is the file that is trained on; give another one, or leave it out '
            "(data.val_frac then holds out a part)",
            "data.val_path",
        )

    notices: tuple[str, ...] = ()
    if not config.val_path and config.eos_id is None and not config.tokenizer:
        notices = (f"no data.val_path and no data.eos_id: the last {config.val_frac:.0%} of the tokens are held out",)
    return Documents(lambda: iter(()), file_identity(files), notices)


def _token_paths(config: DataConfig) -> list[Path]:
    """Return the files of token ids: one to train on and, if there is one, one that is held out."""
    paths = find_files(config.path)
    if config.val_path:
        paths += find_files(config.val_path, "data.val_path")
    return paths


def build_from_tokens(config: DataConfig, folder: Path) -> Meta:
    """Copy files of token ids into a folder, split, and return what meta.json says of them.

    Args:
        config: The files, their number format, tokenizer and split.
        folder: Where train.bin, val.bin and, with a tokenizer, its files go.

    Raises:
        CorpusError: A file holds something else, or cannot be divided.
    """
    tokenizer = load_tokenizer(config.tokenizer) if config.tokenizer else None
    vocab_size = vocabulary_size(tokenizer) if tokenizer is not None else config.vocab_size
    eos_id = _end_of_tokens(config, tokenizer, vocab_size)
    if tokenizer is not None:
        save_tokenizer(tokenizer, folder)

    splits = [open_token_file(path, config.token_dtype, vocab_size) for path in _token_paths(config)]
    if config.max_tokens:
        splits[0] = splits[0][: config.max_tokens]
    notices: list[str] = []
    if len(splits) == 1:
        splits, notices = _divided(splits[0], config, eos_id)

    dtype = max((ids.dtype.name for ids in splits), key=lambda name: np.dtype(name).itemsize)
    for name, ids in zip(("train.bin", "val.bin"), splits, strict=True):
        np.ascontiguousarray(ids).astype(np.dtype(dtype).newbyteorder("<"), copy=False).tofile(folder / name)

    num_documents = [1, 1]
    if eos_id is not None:
        num_documents = [max(1, int(np.count_nonzero(ids == eos_id))) for ids in splits]

    return {
        "train": "train.bin",
        "val": "val.bin",
        "dtype": dtype,
        "has_tokenizer": bool(tokenizer),
        "vocab_size": vocab_size,
        "eos_id": eos_id,
        "documents": num_documents,
        "bytes_factor": float(tokenizer is not None and spells_spaces(tokenizer)),
        "notices": notices,
    }


def _end_of_tokens(config: DataConfig, tokenizer: Tokenizer | None, vocab_size: int) -> int | None:
    """Return the id that ends a document in a file of token ids; None if it is not known."""
    if tokenizer is not None:
        return end_of_text_id(tokenizer, config.eos_id, config.tokenizer)
    if config.eos_id is not None and config.eos_id >= vocab_size:
        raise CorpusError(
            f"data.eos_id = {config.eos_id} lies outside of the vocabulary of data.vocab_size = {vocab_size} tokens; "
            "change one of them",
            "data.eos_id",
        )
    return config.eos_id


def _divided(ids: Ids, config: DataConfig, eos_id: int | None) -> tuple[list[Ids], list[str]]:
    """Divide token ids into those to train on and those held out, and return notices beside them."""
    splits, notices = split_ids(ids, config.val_frac, eos_id)
    if eos_id is not None and not any((split == eos_id).any() for split in splits):
        if config.eos_id is not None:
            raise CorpusError(
                f"{config.path} does not hold data.eos_id = {eos_id} once: name the id that ends its documents, or "
                "leave it out (the end of the file is then held out)",
                "data.eos_id",
            )
        notices = [f"no document ends with id {eos_id}: the last {config.val_frac:.0%} of the tokens are held out"]
    return splits, notices
