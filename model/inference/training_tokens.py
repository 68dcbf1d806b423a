"""The tokens of a training, found again for its model without following what the model's folder says."""

import atexit
import shutil
import tempfile
from pathlib import Path

from model.config import DataConfig
from model.data.corpus import Corpus, load, load_cached
from model.data.errors import CorpusError


def training_data(
    config: DataConfig, data_hash: str, padded_vocab: int, place: Path, tokenizer_path: Path | None = None
) -> Corpus:
    """Return the tokens of a training, from a cache of tokens; text that is embedded is tokenised again.

    The settings of a model from elsewhere may name any path or data set. None of them is read here, no data set is
    fetched, and no cache is made: what counts is that tokens of that very hash are in a cache.

    Args:
        config: The training's data section.
        data_hash: The hash of the training's tokens.
        padded_vocab: Tokens of the model's vocabulary, padding included.
        place: Where the weights are; the cache may lie beside one of the folders around them.
        tokenizer_path: The model's tokenizer, where it lies beside the weights.

    Raises:
        CorpusError: The tokens are not there.
    """
    usual = DataConfig().cache_dir
    around = [folder / Path(usual).name for folder in place.absolute().parents]
    for cache in dict.fromkeys((Path(config.cache_dir), Path(usual), *around)):
        corpus = load_cached(config, cache, data_hash)
        if corpus is not None:
            return corpus

    if config.source in ("sotu", "stdlib") and (tokenizer_path or _trains_own_tokenizer(config, padded_vocab)):
        corpus = _tokenised_again(config, tokenizer_path)
        if corpus.data_hash == data_hash:
            return corpus

    raise CorpusError(
        f"the tokens of its training are in no cache any more (looked in {config.cache_dir}, {usual} and around the "
        "weights), or its data have changed"
    )


def _trains_own_tokenizer(config: DataConfig, padded_vocab: int) -> bool:
    return not config.tokenizer and config.vocab_size <= padded_vocab


def _tokenised_again(config: DataConfig, tokenizer_path: Path | None) -> Corpus:
    """Return an embedded corpus, tokenised in a folder that is gone at the end of this process."""
    folder = tempfile.mkdtemp(prefix="corpus-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    changes = {"cache_dir": folder}
    if tokenizer_path is not None:
        changes["tokenizer"] = str(tokenizer_path.absolute())
    return load(config.model_copy(update=changes))
