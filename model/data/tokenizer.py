"""Tokenizers: a byte-level BPE trained on the corpus, or one from a file or the hub."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Encoding, Tokenizer, decoders, models, pre_tokenizers, trainers

from model.data.errors import CorpusError
from model.data.hub.shards import download_tokenizer

END_OF_TEXT = "<|endoftext|>"
"""The end-of-text token of tokenizers that are trained here."""
_END_NAMES = (
    END_OF_TEXT,
    "<|end_of_text|>",
    "</s>",
    "<eos>",
    "<|im_end|>",
    "<｜end▁of▁sentence｜>",
    "<|end_of_sentence|>",
    "<end_of_text>",
    "<|endofdocument|>",
    "<|eos|>",
    "[EOS]",
    "<EOS>",
    "<|eod|>",
    "<eod>",
    "[EOD]",
    "<EOD>",
    "<|eot_id|>",
    "<|eot|>",
    "<EOT>",
    "<end_of_turn>",
    "<|end|>",
    "<|return|>",
    "[SEP]",
)
"""Names under which tokenizers have it, those first that end a text and not a turn or a sentence."""
_MIN_VOCAB_SIZE = 257
"""All bytes and the end-of-text token."""
_MOST_TOKENS = 10_000_000
"""Larger ids than this are taken for damage: the largest published vocabularies have about a million tokens."""
_BATCH_DOCUMENTS = 64
"""Documents that are encoded at once, in parallel."""


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
    require_room_for_bytes(vocab_size)
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
    tokenizer.encode_special_tokens = True  # a text that spells the end-of-text token out does not end there
    return tokenizer


def require_room_for_bytes(vocab_size: int) -> None:
    """Check that a vocabulary holds all bytes.

    Raises:
        CorpusError: It does not.
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise CorpusError(
            f"data.vocab_size = {vocab_size} cannot hold all bytes; use {_MIN_VOCAB_SIZE} or more", "data.vocab_size"
        )


def load_tokenizer(name: str) -> Tokenizer:
    """Load a tokenizer, without what its file says of batches (truncation, padding, marks around).

    Args:
        name: A tokenizer.json, the folder that it is in, or a tokenizer's name on the hub.

    Returns:
        The tokenizer, as the `tokenizers` library has it.

    Raises:
        CorpusError: There is none, or it cannot be read.
    """
    try:
        # Of the hub the file that was published: transformers would rebuild another tokenizer.
        file = tokenizer_file(name) or download_tokenizer(name)
        tokenizer = Tokenizer.from_file(str(file))
    except CorpusError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise CorpusError(
            f'cannot load data.tokenizer = "{name}": {type(error).__name__}: {error}; give a tokenizer.json, '
            'a hub name that can be reached or is cached (HF_HOME), or "" to train one on the corpus',
            "data.tokenizer",
        ) from error

    _require_size(name, tokenizer)
    return for_plain_text(tokenizer)


def tokenizer_file(name: str) -> Path | None:
    """Return the local tokenizer.json that a name means, None if it means one of the hub, or none.

    Args:
        name: As for `load_tokenizer`.
    """
    path = Path(name).expanduser()
    file = path / "tokenizer.json" if path.is_dir() else path
    return file if name and file.is_file() else None


def _require_size(name: str, tokenizer: Tokenizer) -> None:
    num_tokens = tokenizer.get_vocab_size(with_added_tokens=True)
    if not num_tokens:
        raise CorpusError(f'data.tokenizer = "{name}" has no tokens; give another one', "data.tokenizer")
    if (largest := vocabulary_size(tokenizer) - 1) >= _MOST_TOKENS:
        raise CorpusError(
            f'data.tokenizer = "{name}" has a token of id {largest}, but {num_tokens} tokens: the file is damaged, or '
            "its ids have to be numbered anew",
            "data.tokenizer",
        )


def for_plain_text(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer for texts as a training reads them, which is also how users of its weights have to.

    Nothing is cut, padded or put around a text, and marks that a text spells out are text. Where the file has no
    decoder it gets the one that belongs to its vocabulary.

    Args:
        tokenizer: As it was read; it is not changed.
    """
    content: dict[str, Any] = json.loads(tokenizer.to_str())
    content |= {"truncation": None, "padding": None, "post_processor": None}
    # Dropout of merges would make other tokens of the same text each time.
    content["model"] |= {"dropout": None} if "dropout" in content["model"] else {}
    if content.get("decoder") is None:
        content["decoder"] = _decoder_of(content)

    plain = Tokenizer.from_str(json.dumps(content))
    plain.encode_special_tokens = True
    return plain


def _decoder_of(content: Mapping[str, Any]) -> Any:
    """Return a decoder for a tokenizer that has none, as its file would have it; None if none is known."""
    kinds = component_types(content, "pre_tokenizer", "normalizer")
    if "ByteLevel" in kinds:
        return {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    if "Metaspace" in kinds:
        return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True}
    if content["model"].get("type") == "WordPiece":
        prefix = content["model"].get("continuing_subword_prefix", "##")
        return {"type": "WordPiece", "prefix": prefix, "cleanup": False}
    return None


def component_types(content: Mapping[str, Any], *names: str) -> set[str]:
    """Return the types of some parts of a tokenizer's file, those within sequences included.

    Args:
        content: The file.
        names: "normalizer", "pre_tokenizer" or "decoder".
    """
    types = set()
    parts = [content.get(name) for name in names]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            types.add(str(part.get("type")))
            for members in part.values():
                parts += members if isinstance(members, list) else []
    return types


def encode(tokenizer: Tokenizer, documents: Iterable[str]) -> Iterator[tuple[str, list[int]]]:
    """Encode documents many at a time, and yield each with its token ids.

    Args:
        tokenizer: What `for_plain_text` returns.
        documents: Texts.

    Raises:
        CorpusError: The tokenizer cannot encode one.
    """
    rest = iter(documents)
    while batch := list(islice(rest, _BATCH_DOCUMENTS)):
        yield from zip(batch, encode_batch(tokenizer, batch), strict=True)


def encode_batch(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Encode texts in parallel, and return the token ids of each; see `encode`."""
    try:
        found: list[Encoding] = tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
    except Exception as error:  # noqa: BLE001 - the library raises nothing more special for a vocabulary with a gap
        raise CorpusError(
            f"the tokenizer cannot encode the text: {error}; choose another data.tokenizer", "data.tokenizer"
        ) from None
    return [encoding.ids for encoding in found]


def vocabulary_size(tokenizer: Tokenizer) -> int:
    """Return the largest token id plus one."""
    return max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1


def end_of_text_id(tokenizer: Tokenizer, eos_id: int | None = None, name: str = "") -> int:
    """Return the id of the token that ends a document.

    Args:
        tokenizer: The tokenizer.
        eos_id: `data.eos_id`; None to find it.
        name: `data.tokenizer`, beside which its own configuration may lie.

    Raises:
        CorpusError: The id that was given is not the tokenizer's, or it has none of the usual names.
    """
    if eos_id is not None:
        if tokenizer.id_to_token(eos_id) is None:
            raise CorpusError(
                f"data.eos_id = {eos_id}, but the tokenizer has no such id; its largest is "
                f"{vocabulary_size(tokenizer) - 1}",
                "data.eos_id",
            )
        return eos_id

    for end_name in (*_names_beside(name), *_END_NAMES):
        token_id = tokenizer.token_to_id(end_name)
        if token_id is not None:
            return int(token_id)

    specials = [token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special]
    raise CorpusError(
        f"the tokenizer has no end-of-text token; looked for {', '.join(_END_NAMES[:5])} and the like, its special "
        f"tokens are {', '.join(specials[:10]) or 'none'}; set data.eos_id to the id that ends a text, or choose "
        "another data.tokenizer",
        "data.tokenizer",
    )


def _names_beside(name: str) -> list[str]:
    """Return the name of the end-of-text token in the tokenizer_config.json beside a tokenizer.json; else nothing."""
    path = tokenizer_file(name)
    if path is None:
        return []
    try:
        content = json.loads(path.with_name("tokenizer_config.json").read_text(encoding="utf-8"))
        token = content.get("eos_token")
    except (OSError, ValueError, AttributeError):
        return []

    if isinstance(token, Mapping):
        token = token.get("content")
    return [token] if isinstance(token, str) else []
