"""Tokenizers: a byte-level BPE trained on the corpus, or one from a file or the hub."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from model.data.hub.shards import download_tokenizer
from model.data.sources import CorpusError

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of tokenizers that are trained here."""
_END_NAMES = (END_OF_TEXT, "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>")
_MIN_VOCAB_SIZE = 257
"""All bytes and the end-of-text token."""


def train_bpe(documents: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE.

    Args:
        documents: Training documents.
        vocab_size: Number of tokens, bytes and the end-of-text token (id 0) included, at least 257.

    Returns:
        A tokenizer; that of a small corpus may have fewer tokens.

    Raises:
        CorpusError: `vocab_size` does not hold all bytes.

    Source: Sennrich et al. 2016, arXiv 1508.07909; on bytes, Radford et al. 2019, GPT-2, section 2.2.
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise CorpusError(f"data.vocab_size = {vocab_size} cannot hold all bytes; use {_MIN_VOCAB_SIZE} or more")

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()

    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer.

    Args:
        name: A tokenizer.json, the folder that it is in, or a tokenizer's name on the hub.

    Returns:
        The tokenizer, as the `tokenizers` library has it.

    Raises:
        CorpusError: There is none, or it cannot be read.
    """
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path

    try:
        if file.is_file():
            return Tokenizer.from_file(str(file))
        return Tokenizer.from_file(str(download_tokenizer(name)))
    except CorpusError:
        raise
    except Exception as error:  # tokenizers raises plain Exception, and the hub many kinds
        raise CorpusError(
            f'cannot load data.tokenizer = "{name}": {type(error).__name__}: {error}; give a tokenizer.json, '
            'a hub name that can be reached or is cached (HF_HOME), or "" to train one on the corpus'
        ) from error


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return the largest token id plus one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values()) + 1


def count_token_bytes(tokenizer: Tokenizer) -> npt.NDArray[np.uint16]:
    """Return the bytes of text that each token id stands for, [vocabulary]; special tokens have none.

    A byte-level vocabulary spells each byte as one character, so that its count is exact. Others are assumed to mark
    spaces with "\u2581" and to spell single bytes as "<0x0A>".
    """
    is_byte_level = json.loads(tokenizer.to_str())["decoder"]["type"] == "ByteLevel"
    special_ids = {token_id for token_id, token in tokenizer.get_added_tokens_decoder().items() if token.special}

    lengths = np.zeros(vocabulary_size(tokenizer), dtype=np.uint16)
    for token, token_id in tokenizer.get_vocab(with_added_tokens=True).items():
        if token_id in special_ids:
            continue

        if is_byte_level:
            lengths[token_id] = len(token)
        elif token.startswith("<0x") and token.endswith(">"):
            lengths[token_id] = 1
        else:
            lengths[token_id] = len(token.replace("\u2581", " ").encode())

    return lengths


def end_of_text_id(tokenizer: Tokenizer) -> int:
    """Return the id of the token that ends a document.

    Raises:
        CorpusError: The tokenizer has none of the usual names.
    """
    for name in _END_NAMES:
        token_id = tokenizer.token_to_id(name)
        if token_id is not None:
            return int(token_id)

    raise CorpusError(
        f"the tokenizer has no end-of-text token; looked for {', '.join(_END_NAMES)}; "
        "choose another data.tokenizer, or add one of these tokens to it"
    )
