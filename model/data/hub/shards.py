"""What the hub has: the shards of a dataset, a tokenizer's file; each looked for before anything is fetched."""

import dataclasses
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.config import DataConfig
from model.data.hub.errors import HubError, explain, not_there
from model.data.progress import Preparation

_LIBRARIES = "huggingface_hub"
"""The logger of what the hub's library has to say, its retries above all."""
_OF_THE_BUILDER = {"name", "version", "data_dir", "data_files", "description"}
"""Options of a dataset's builder that do not say how a file is to be read."""


@dataclass(frozen=True)
class Shards:
    """Files of one split of a dataset, in order.

    Args:
        kind: The module of `datasets` that reads them: "parquet", "json", "text", "csv" ...
        files: Their addresses: hf://datasets/NAME@COMMIT/PATH, or local paths.
        options: How that module is to read them, as the dataset's card says.
    """

    kind: str
    files: tuple[str, ...]
    options: Mapping[str, Any] = field(default_factory=dict)


def find_shards(config: DataConfig) -> Shards:
    """Find the files of a dataset's subset and split.

    Args:
        config: Says which.

    Returns:
        The files, of one commit; those in the local cache when HF_HUB_OFFLINE is set.

    Raises:
        HubError: There are none, or the hub does not show them.
    """
    from huggingface_hub import HfApi, constants

    # A folder of the hub's layout can be named as well.
    is_local = Path(config.name).is_dir()
    try:
        if is_local:
            return _shards_at(config, config.name, None)
        if constants.HF_HUB_OFFLINE:
            return _shards_offline(config)

        # Asked first, since its answers say what is wrong, and one commit is what the whole text is read from.
        commit = HfApi().dataset_info(config.name).sha
        return _shards_at(config, config.name, commit)
    except Exception as error:  # each layer of the libraries has its own kinds
        raise explain(error, config.name) from error


def _shards_offline(config: DataConfig) -> Shards:
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(config.name, repo_type="dataset", local_files_only=True)
    except errors.LocalEntryNotFoundError as error:
        # A part of a dataset, as `hf download --include` leaves it, is as good as what was asked for.
        folder = getattr(error, "snapshot_path", "")
    if folder:
        return _shards_at(config, folder, None)

    # What `datasets` itself has prepared and kept is read by its own way.
    import datasets

    datasets.load_dataset_builder(config.name, config.subset or None)
    return Shards("cache", (config.name,))


def _shards_at(config: DataConfig, place: str, commit: str | None) -> Shards:
    import datasets

    try:
        builder = datasets.load_dataset_builder(place, config.subset or None, revision=commit)
    except ValueError as error:
        raise _no_subset(config, place, commit) or error from error

    by_split = {str(split): files for split, files in (builder.config.data_files or {}).items()}
    if config.split not in by_split:
        raise not_there(
            f'dataset "{config.name}" has no split data.split = "{config.split}"; '
            f"its splits: {', '.join(sorted(by_split)) or 'none'}",
            "data.split",
        )

    kind = type(builder).__module__.rsplit(".", 1)[-1]
    return Shards(kind, tuple(map(str, by_split[config.split])), _reading_options(builder.config))


def _no_subset(config: DataConfig, place: str, commit: str | None) -> HubError | None:
    """Return what to say if the subset is not among those there are; None if it is."""
    import datasets

    names = datasets.get_dataset_config_names(place, revision=commit)
    if config.subset in names:
        return None

    there_are = f"its subsets: {', '.join(names)}"
    if not config.subset:
        several = f'dataset "{config.name}" has several subsets; set data.subset to one of them; {there_are}'
        return not_there(several, "data.subset")
    missing = f'dataset "{config.name}" has no subset data.subset = "{config.subset}"; {there_are}'
    return not_there(missing, "data.subset")


def _reading_options(config: Any) -> dict[str, Any]:
    """Return the options of a builder's configuration that differ from the defaults and say how to read a file."""
    options = {}
    for option in dataclasses.fields(config):
        value = getattr(config, option.name)
        if option.name not in _OF_THE_BUILDER and value != option.default:
            options[option.name] = value
    return options


def download_tokenizer(name: str) -> Path:
    """Fetch the tokenizer that a model's repository publishes.

    Args:
        name: The repository's name.

    Returns:
        Its tokenizer.json in the hub's cache.

    Raises:
        HubError: It has none, or cannot be reached.
    """
    from huggingface_hub import errors, hf_hub_download

    try:
        with _library_speaks_to(logging.NullHandler()):  # where it gives up, the error says all of it
            return Path(hf_hub_download(name, "tokenizer.json"))
    except errors.RemoteEntryNotFoundError:
        raise not_there(
            f'data.tokenizer = "{name}": the repository has no tokenizer.json; save it as one '
            f'(transformers.AutoTokenizer.from_pretrained("{name}").save_pretrained("FOLDER")) and name the folder',
            "data.tokenizer",
        ) from None
    except errors.HFValidationError:
        raise not_there(
            f'data.tokenizer = "{name}" is neither a file, nor a folder, nor a name on the hub such as "org/name"',
            "data.tokenizer",
        ) from None
    except Exception as error:  # no network, no such repository, a gated one
        raise explain(error, name, "model") from error


@contextmanager
def retries_heard(preparation: Preparation) -> Iterator[None]:
    """Pass on what the hub's library warns of, its retries above all, while the block runs.

    Args:
        preparation: Says it.
    """

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines = record.getMessage().strip().splitlines() or [record.levelname]
            # Without what signs an address.
            preparation.held_up(re.sub(r"\?\S*", "", lines[0])[:200])

    with _library_speaks_to(Ear(logging.WARNING)):
        yield


@contextmanager
def _library_speaks_to(handler: logging.Handler) -> Iterator[None]:
    """Let what the hub's library logs go to a handler, and not to stderr, while the block runs."""
    logger = logging.getLogger(_LIBRARIES)
    before = logger.handlers
    logger.handlers = [handler]
    try:
        yield
    finally:
        logger.handlers = before
